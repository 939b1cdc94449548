"""A member that attacks: the attacks of the simulator, in the process of a real node.

One object serves both: an attack sees what its member sends and receives, changes it, signs what it changed
with the member's real key, and sends more of its own. Here it stands between the node's driver and its links
to the others. Whatever a disk or a second process has to do with (`amnesia`, `rollback`, `twins`) is a fault
of its own in drills.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from replication.faults.harness.behaviour import Behaviour
from replication.faults.harness.inside import Armed, Control
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Whole, Words
from replication.faults.simulation.adversary.base import MAX_ACT_US, MIN_ACT_US, Attacker
from replication.faults.simulation.adversary.cabal import Cabal
from replication.faults.simulation.adversary.registry import BY_NAME, make_attacks
from replication.faults.simulation.voting_kit import VotingKit
from replication.ledger.commands import make_proposal
from replication.ordering.messages import CertificateMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from replication.ledger.application import VotingApplication
    from replication.node.driver import Driver
    from replication.node.peers import PeerLinks
    from replication.ordering.messages import Message

__all__ = ["BEHAVIOURS_HERE"]

ATTACKS: Final = tuple(name for name in BY_NAME if name not in ("twins", "amnesia", "rollback"))


class _Fired(Counter[str]):
    """Counts attacks, and has each written down for the drill."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def __setitem__(self, name: str, count: int) -> None:
        self._tell(name)
        super().__setitem__(name, count)


class _Engine:
    """The clock and timers of the node's event loop, as attacks ask for them."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.fired = _Fired(tell)
        self._loop = asyncio.get_running_loop()

    @property
    def now_us(self) -> int:
        """Microseconds of the loop's clock."""
        return round(self._loop.time() * 1_000_000)

    def after(self, delay_us: int, call: Callable[..., None], *arguments: object) -> None:
        """Call later."""
        self._loop.call_later(delay_us / 1_000_000, call, *arguments)


class _Kit:
    """What attacks make commands with: only the attacker's own key is at hand."""

    false_evidence = VotingKit.false_evidence

    def __init__(self, cluster_id: bytes, people: SimpleNamespace) -> None:
        self.cluster_id = cluster_id
        self.people: Any = people
        self._count = 0

    def workload(self, application: VotingApplication, member: str, rng: random.Random, now_ms: int) -> bytes:
        """One more proposal of this member."""
        self._count += 1
        return make_proposal(
            self.people.keys[member].sign,
            self.cluster_id,
            application.members.epoch,
            proposer=member,
            request_id=f"attack-{rng.randrange(2**32)}-{self._count}",
            action="restrict",
            target="agent-flood",
            evidence=b"{}",
            window_ms=2_000,
            expiry_ms=0,
            created_ms=now_ms,
        )


class _Attacking(Attacker):
    """The member of a running node, as its attacks know it."""

    def __init__(self, driver: Driver, control: Control, armed: Armed, send: Callable[..., None]) -> None:
        replica = driver._replica
        self.member = self.endpoint = driver._member
        self.replica = replica
        self.application = driver._application
        self.key = replica._key
        self._clock = driver._clock
        self._driver = driver
        self._tasks: set[asyncio.Future[None]] = set()
        self._next_us = 0
        self._armed, self._control = armed, control
        names = tuple(replica.members.ids)
        people = SimpleNamespace(keys={self.member: self.key}, names=names, genesis=replica.members)

        def deliver(_host: object, to: str, message: Message) -> None:
            send(driver._transport, to, message)

        world: Any = SimpleNamespace(
            names=names,
            kit=_Kit(replica._cluster_id, people),
            scenario=SimpleNamespace(seed=armed.settings["seed"]),
            settings=replica._settings,
            guilty={self.member},
            by_member=defaultdict(list),
            send=deliver,
        )
        world.cabal = Cabal(world)
        engine: Any = _Engine(lambda name: control.effect(armed, name))
        self.world, self.engine = world, engine
        self.rng = random.Random(f"attacking/{armed.settings['seed']}/{self.member}")
        self.attacks = make_attacks(self, tuple(armed.settings["attacks"]))
        # Shameless: it does not fall silent when its lies are found out.
        for owner, name in ((replica._signer, "mute"), (replica, "_check_incarnation")):
            setattr(owner, name, _ignore)
        self._act_later()

    @property
    def is_armed(self) -> bool:
        """Whether the drill still wants it."""
        armed = self._control.armed("attack")
        return armed is not None and armed.key == self._armed.key

    def local_ms(self) -> int:
        """The node's clock."""
        return self._clock()

    def submit(self, command: bytes) -> None:
        """Hand a command to the replica, as a client of this node would."""
        task = asyncio.ensure_future(self._submit(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _submit(self, command: bytes) -> None:
        try:
            await self._driver.submit(command)
        except Exception:  # what becomes of it is the cluster's concern
            return

    def _act_later(self) -> None:
        self.engine.after(self.rng.randint(MIN_ACT_US, MAX_ACT_US), self._act)

    def _act(self) -> None:
        if self.is_armed:
            self.act()
            self._act_later()

    def act(self) -> None:
        """Have all attacks do what they do by themselves."""
        for attack in self.attacks:
            attack.act()

    def certificate_came(self) -> None:
        """A certificate is here that the member has not processed. Some attacks can lie only about a block
        that is being voted on, which takes a few milliseconds: what happens now and then would miss it."""
        if self.engine.now_us >= self._next_us:
            self._next_us = self.engine.now_us + MAX_ACT_US
            self.act()


def _ignore(*_reason: object) -> None:
    """Instead of what makes a replica fall silent."""


def _install(control: Control) -> None:
    from replication.ledger.store import Store
    from replication.node.driver import Driver
    from replication.node.peers import PeerLinks

    start, receive, send, blocks = Driver.start, Driver.receive, PeerLinks.send, Store.blocks
    driver_of: list[Driver] = []
    attackers: dict[str, _Attacking] = {}

    def attacker() -> _Attacking | None:
        """Who attacks now, made when the drill arms it."""
        armed = control.armed("attack")
        if armed is None or not driver_of:
            return None
        found = attackers.get(armed.key)
        if found is None or not found.is_armed:
            found = attackers[armed.key] = _Attacking(driver_of[-1], control, armed, send)
        return found

    async def starting(self: Driver) -> None:
        driver_of.append(self)
        await start(self)

    async def receiving(self: Driver, sender: str, message: Message) -> None:
        found = attacker()
        if found is not None:
            found.world.cabal.observe(sender, message)
            if isinstance(message, CertificateMessage):
                found.certificate_came()
            if not all(attack.incoming(sender, message) for attack in found.attacks):
                return
        await receive(self, sender, message)

    def sending(self: PeerLinks, to: str | None, message: Message) -> None:
        found = attacker()
        if found is None:
            send(self, to, message)
            return
        receivers: Iterable[str] = [to] if to is not None else list(self._links)
        for receiver in receivers:
            for target, changed in found.going_out(receiver, message):
                send(self, target, changed)

    def serving(self: Store, from_height: int, max_bytes: int) -> Any:
        page = blocks(self, from_height, max_bytes)
        armed = control.armed("attack")
        found = None if armed is None else attackers.get(armed.key)
        for attack in () if found is None else found.attacks:
            page = attack.serve(page)
        return page

    Driver.start = starting  # type: ignore[method-assign]
    Driver.receive = receiving  # type: ignore[method-assign]
    PeerLinks.send = sending  # type: ignore[method-assign]
    Store.blocks = serving  # type: ignore[method-assign]


BEHAVIOURS_HERE: Final = (
    Behaviour(
        name="attack",
        group=Group.VOTER,
        summary="the node lies, in the ways that are named; what it changes it signs with its real key",
        settings={"attacks": Words(legal=ATTACKS), "seed": Whole(1, 0, 2**31)},
        install=_install,
        parts=lambda settings: [f"attack: {name}" for name in settings["attacks"]],
        lies=True,
    ),
)
