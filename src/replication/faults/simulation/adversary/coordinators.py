"""Faulty coordinators: two blocks for one height, certificates for the chosen few, the floor that suits
them, blocks that lie about their outcome or their time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from replication.faults.simulation.adversary.base import Attack, Attacker, Outgoing
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    Message,
    NewViewMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.statements import NewView
from replication.ordering.timeouts import TimeoutCertificate

__all__ = ["COORDINATORS"]


class Equivocate(Attack):
    """Another block for half of the members, just as valid."""

    name = "equivocate"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, BlockProposal) or self._is_on_first_side(to):
            return ((to, message),)
        header = message.block.header
        other = self.host.new_block(message.block.commands, time_ms=header.time_ms + 1)
        if other is None or other.height != header.height:
            return ((to, message),)
        statement = self.sign(self.host.propose_key(other, message.statement.key.view))
        self.host.world.cabal.blocks[other.hash] = other
        self.fire()
        changed = (to, BlockProposal(statement, other, message.parent_certificate))
        return ((to, message), changed) if self.rng.random() < 0.2 else (changed,)

    def _is_on_first_side(self, to: str) -> bool:
        return (self.host.world.names.index(to) + self.host.world.scenario.seed) % 2 == 0


class Certificates(Attack):
    """Puts certificates together from all that is known, and gives them to whom it likes."""

    name = "certificates"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if isinstance(message, CertificateMessage) and self.rng.random() < 0.5:
            self.fire("withheld")
            return ()
        return ((to, message),)

    def incoming(self, sender: str, message: Message) -> bool:
        if isinstance(message, BodyRequest):
            body = self.host.world.cabal.blocks.get(message.block_hash)
            if body is not None and self.rng.random() < 0.7:
                self.send(sender, BodyMessage(body))
        if isinstance(message, Acknowledgement) and self.rng.random() < 0.3:
            self._spread()
        return True

    def act(self) -> None:
        self._spread()

    def _spread(self) -> None:
        replica, cabal = self.host.replica, self.host.world.cabal
        if replica is None:
            return
        for height in (replica.height, replica.height + 1):
            for key in cabal.open_keys(replica.members.epoch, height)[-6:]:
                certificate = cabal.assemble(key, replica.members)
                if certificate is not None:
                    self.fire()
                    self.send_all(self.some(), CertificateMessage(certificate))


class ChooseFloor(Attack):
    """Opens its view by whichever timeout certificate reports the least, and proposes anew on top of it."""

    name = "choose-floor"

    def incoming(self, sender: str, message: Message) -> bool:
        if isinstance(message, TimeoutMessage) and self.rng.random() < 0.5:
            self.act()
        return True

    def act(self) -> None:
        host, replica = self.host, self.host.replica
        if replica is None:
            return
        for view in range(max(1, replica.view - 1), replica.view + 3):
            if replica.members.ids[view % replica.members.n] == host.member:
                self._open(view)

    def _open(self, view: int) -> None:
        host, replica, cabal = self.host, self.host.replica, self.host.world.cabal
        if replica is None:
            return
        members = replica.members
        closing = cabal.lowest_closing(members.epoch, view - 1, members)
        if closing is None:
            return
        self.fire()
        opening = self._opening(view, closing)
        targets = self.some()
        self.send_all(targets, NewViewMessage(opening, closing))
        if self.rng.random() < 0.3:
            self.send_all(self.some(), TimeoutCertificateMessage(closing))
        commands = [host.application.view_command(opening)]
        if self.rng.random() < 0.3:
            commands.append(host.world.kit.workload(host.application, host.member, self.rng, host.local_ms()))
        block = self._locked(closing) if self.rng.random() < 0.3 else host.new_block(tuple(commands))
        self._propose(block, view, targets, replica.latest_certificate)
        if self.rng.random() < 0.3:
            older, parent = host.older_block(tuple(commands))
            self._propose(older, view, self.some(), parent)

    def _propose(
        self, block: Block | None, view: int, targets: list[str], parent: Certificate | None
    ) -> None:
        if block is None:
            return
        self.host.world.cabal.blocks[block.hash] = block
        statement = self.sign(self.host.propose_key(block, view))
        self.send_all(targets, BlockProposal(statement, block, parent))

    def _opening(self, view: int, closing: TimeoutCertificate) -> NewView:
        host = self.host
        cluster_id = host.world.kit.cluster_id
        opening = NewView(closing.epoch, view, closing.digest(cluster_id), host.member)
        return replace(opening, signature=host.key.sign(opening.sign_bytes(cluster_id)))

    def _locked(self, closing: TimeoutCertificate) -> Block | None:
        block_hash = closing.floor.block_hash
        return None if block_hash is None else self.host.world.cabal.blocks.get(block_hash)


class BadBlock(Attack):
    """Blocks that lie: another audit head, size, root, parent, height, epoch or set of commands."""

    name = "bad-block"

    def __init__(self, host: Attacker) -> None:
        super().__init__(host)
        self._made: dict[bytes, Block] = {}

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, BlockProposal) or self.rng.random() < 0.1:
            return ((to, message),)
        block = self._made.get(message.block.hash)
        if block is None:  # everyone gets the same lie, or it would never be believed
            block = self._spoiled(message.block) if self.rng.random() < 0.6 else message.block
            self._made[message.block.hash] = block
            self.host.world.cabal.blocks[block.hash] = block
        if block is message.block:
            return ((to, message),)
        self.fire()
        key = replace(message.statement.key, height=block.height, block_hash=block.hash)
        return ((to, BlockProposal(self.sign(key), block, message.parent_certificate)),)

    def _spoiled(self, block: Block) -> Block:
        header, rng = block.header, self.rng
        changes: tuple[BlockHeader, ...] = (
            replace(header, audit_head=rng.randbytes(32)),
            replace(header, audit_size=header.audit_size + rng.choice((-1, 1))),
            replace(header, entries_root=rng.randbytes(32)),
            replace(header, commands_root=rng.randbytes(32)),
            replace(header, parent=rng.randbytes(32)),
            replace(header, height=header.height + 1),
            replace(header, epoch=header.epoch + 1),
            replace(header, cluster_id=rng.randbytes(32)),
        )
        choice = rng.randrange(len(changes) + 3)
        if choice < len(changes):
            return Block(changes[choice], block.commands)
        if choice == len(changes):
            return Block(header, block.commands[:-1])
        invalid = (*block.commands, b"note|m0|forged" + rng.randbytes(64))
        repeated = block.commands * 2 if block.commands else invalid
        made = self.host.new_block(repeated if choice == len(changes) + 1 else (), time_ms=header.time_ms)
        return made or Block(header, invalid)


class BadTime(Attack):
    """Blocks from the future or the past."""

    name = "bad-time"

    def __init__(self, host: Attacker) -> None:
        super().__init__(host)
        self._made: dict[bytes, Block | None] = {}

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, BlockProposal):
            return ((to, message),)
        original = message.block
        if original.hash not in self._made:
            self._made[original.hash] = self._displaced(original) if self.rng.random() < 0.6 else None
        block = self._made[original.hash]
        if block is None:
            return ((to, message),)
        self.fire()
        statement = self.sign(replace(message.statement.key, block_hash=block.hash))
        return ((to, BlockProposal(statement, block, message.parent_certificate)),)

    def _displaced(self, block: Block) -> Block | None:
        replica = self.host.replica
        if replica is None or replica.height + 1 != block.height:
            return None
        time_ms, ahead = block.header.time_ms, self.host.world.settings.clock_ahead_ms
        parent_ms = replica.head.time_ms
        wrong = self.rng.choice(
            (time_ms + ahead + 4_000, time_ms + 50 * ahead, parent_ms, parent_ms - 1_000, 0)
        )
        made = self.host.new_block(block.commands, time_ms=max(0, wrong))
        if made is not None:
            self.host.world.cabal.blocks[made.hash] = made
        return made


COORDINATORS: tuple[type[Attack], ...] = (Equivocate, Certificates, ChooseFloor, BadBlock, BadTime)
