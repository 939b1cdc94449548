"""A faulty member: the real replica, with attacks between it and the network."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from replication.faults.simulation.host import Host
from replication.ordering.blocks import Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate
from replication.ordering.messages import Message
from replication.ordering.signing import Signer
from replication.ordering.statements import Phase, Statement, StatementKey

if TYPE_CHECKING:
    from replication.faults.simulation.world import World

__all__ = ["Attack", "Attacker", "FaultyHost", "Outgoing"]

Outgoing = tuple[str, Message]
MIN_ACT_US = 15_000
MAX_ACT_US = 250_000
WINDOW_US = 20_000
LINE_PER_WINDOW = 40
"""What an attacker may send of its own in a window (three to each member in large clusters): an answer to
each answer would otherwise fill the simulation with nothing else."""


class Attack:
    """One way to misbehave. Attacks are chained: what one lets out, the next sees."""

    name: ClassVar[str]

    def __init__(self, host: Attacker) -> None:
        self.host = host
        self.rng = random.Random(f"{self.name}/{host.world.scenario.seed}/{host.endpoint}")

    # Hooks.

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        """What goes out instead of a message of the replica."""
        return ((to, message),)

    def incoming(self, sender: str, message: Message) -> bool:
        """See a message; False keeps it from the replica."""
        return True

    def act(self) -> None:
        """Do something unasked, every now and then."""

    def serve(self, page: list[tuple[Block, Certificate]]) -> list[tuple[Block, Certificate]]:
        """What is given to a peer that fetches."""
        return page

    # Tools.

    def fire(self, what: str = "") -> None:
        """Count that the attack took place."""
        self.host.engine.fired[f"attack: {self.name}{what and ': ' + what}"] += 1

    def others(self) -> list[str]:
        """The other members of the epoch that this one lives in."""
        replica = self.host.replica
        return [] if replica is None else [name for name in replica.members.ids if name != self.host.member]

    def some(self) -> list[str]:
        """A random part of the others, at least one if there are any."""
        others = self.others()
        return self.rng.sample(others, self.rng.randint(1, len(others))) if others else []

    def send(self, to: str, message: Message) -> None:
        """Send past the other attacks, as far as the member's line goes."""
        if self.host.has_room():
            self.host.world.send(self.host, to, message)

    def send_all(self, targets: Iterable[str], message: Message) -> None:
        """Send to several members."""
        for name in targets:
            self.send(name, message)

    def sign(self, key: StatementKey) -> Statement:
        """A statement under this member's real key."""
        return self.host.world.cabal.sign(self.host.member, key)


if TYPE_CHECKING:
    _LikeAHost = Host
else:
    _LikeAHost = object  # the member of a real cluster has a host's attributes, and none of its machinery


class Attacker(_LikeAHost):
    """What attacks need of the member that they are in: in a simulation (`FaultyHost`), or in the process of
    a real node.

    Beside these, attacks use `replica`, `application`, `key`, `member`, `endpoint`, `engine`, `world` and
    `local_ms()` as a simulated host has them.
    """

    attacks: list[Attack]
    _window = -1
    _sent = 0

    def has_room(self) -> bool:
        """Whether an attack may send one more message now; if so, it counts as sent."""
        window = self.engine.now_us // WINDOW_US
        if window != self._window:
            self._window, self._sent = window, 0
        self._sent += 1
        return self._sent <= max(LINE_PER_WINDOW, 3 * len(self.world.names))

    def going_out(self, to: str, message: Message) -> list[Outgoing]:
        """What goes out instead of a message of the replica, after all attacks have seen it."""
        going: list[Outgoing] = [(to, message)]
        for attack in self.attacks:
            going = [item for target, sent in going for item in attack.outgoing(target, sent)]
        return going

    def new_block(self, commands: tuple[bytes, ...], *, time_ms: int | None = None) -> Block | None:
        """A block that is valid on top of what this member has committed, signed by nobody yet."""
        replica = self.replica
        return None if replica is None else self.block_on(self.application, replica.head, commands, time_ms)

    def older_block(self, commands: tuple[bytes, ...]) -> tuple[Block | None, Certificate | None]:
        """Another block for the height that was committed last, and the certificate of its parent; nothing
        where that takes a past that is not at hand."""
        return None, None

    def block_on(
        self, application: Any, head: BlockHeader, commands: tuple[bytes, ...], time_ms: int | None
    ) -> Block | None:
        """A valid block on top of a state; None if these commands make none."""
        at_ms = max(self.local_ms(), head.time_ms + 1) if time_ms is None else time_ms
        try:
            execution = application.execute(head.height + 1, at_ms, commands)
        except Exception:  # its own invalid commands
            return None
        header = BlockHeader(
            cluster_id=self.world.kit.cluster_id,
            epoch=application.members.epoch,
            height=head.height + 1,
            parent=head.hash,
            time_ms=at_ms,
            commands_root=commands_root(commands),
            entries_root=execution.entries_root,
            audit_size=execution.audit_size,
            audit_head=execution.audit_head,
        )
        return Block(header, commands)

    def propose_key(self, block: Block, view: int) -> StatementKey:
        """The key of a PROPOSE for a block."""
        return StatementKey(Phase.PROPOSE, block.header.epoch, view, block.height, block.hash)


class FaultyHost(Attacker, Host):
    """A member that does not keep to the protocol, or whose disk does not keep what it was given."""

    is_faulty = True

    def __init__(
        self, world: World, member: str, endpoint: str, key: Signer, position: int, attacks: tuple[str, ...]
    ) -> None:
        from replication.faults.simulation.adversary.registry import make_attacks

        super().__init__(world, member, endpoint, key, position)
        self.attacks = make_attacks(self, attacks)
        self._is_acting = False

    def _watch_disk(self) -> None:
        """Nobody watches what a faulty member promises."""

    def boot(self) -> None:
        """Start, shameless: a faulty member does not fall silent when its lies are found out."""
        super().boot()
        if self.replica is not None and not any(
            attack.name in ("amnesia", "rollback") for attack in self.attacks
        ):
            for target, name in ((self.replica._signer, "mute"), (self.replica, "_check_incarnation")):
                setattr(target, name, _ignore)
        if not self._is_acting:
            self._is_acting = True
            self.engine.after(self.rng.randint(MIN_ACT_US, MAX_ACT_US), self._act)

    def receive(self, sender: str, message: Message) -> None:
        """Everything that is received is shared with the other faulty members."""
        self.world.cabal.observe(sender, message)
        if all(attack.incoming(sender, message) for attack in self.attacks):
            super().receive(sender, message)

    def serve(self, from_height: int) -> list[tuple[Block, Certificate]] | None:
        """Blocks, or what the attacks make of them."""
        page = super().serve(from_height)
        if page is None:
            return None
        for attack in self.attacks:
            page = attack.serve(page)
        return page

    def older_block(self, commands: tuple[bytes, ...]) -> tuple[Block | None, Certificate | None]:
        """Another block for the height that was committed last, and the certificate of its parent."""
        if not self.disk.blocks:
            return None, None
        application, head, certificate, _ = self.world.kit.restore(self.disk.blocks[:-1])
        return self.block_on(application, head, commands, None), certificate

    def _send(self, to: str, message: Message) -> None:
        for target, sent in self.going_out(to, message):
            self.world.send(self, target, sent)

    def _act(self) -> None:
        if not self.down and self.engine.now_us >= self.paused_until_us:
            for attack in self.attacks:
                attack.act()
        self.engine.after(self.rng.randint(MIN_ACT_US, MAX_ACT_US), self._act)


def _ignore(*_reason: object) -> None:
    """Instead of what makes a replica fall silent."""
