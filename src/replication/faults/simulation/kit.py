"""What a simulated cluster orders: the application, its commands, and how members react to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol

from replication.faults.simulation.signatures import FastKey, real_key
from replication.faults.simulation.toy import (
    Directory,
    ToyApplication,
    members_command,
    toy_command,
)
from replication.identity.members import Member, MemberSet
from replication.ordering.application import CommandError, command_digest
from replication.ordering.blocks import ZERO_HASH, Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock
from replication.ordering.signing import Signer
from replication.ordering.statements import Evidence, Phase, Statement, StatementKey

__all__ = ["Blocks", "Kit", "People", "RestoredState", "ToyKit", "forge_evidence", "make_people", "replay"]

Blocks = Sequence[tuple[Block, Certificate]]
RestoredState = tuple[Any, BlockHeader, Certificate | None, int]
"""Application, head, its certificate, and the height at which the epoch began."""


@dataclass(frozen=True)
class People:
    """Everyone who may be a member: names in order, keys by name, and the members of the first epoch."""

    cluster_id: bytes
    names: tuple[str, ...]
    keys: dict[str, Signer]
    genesis: MemberSet
    members: dict[str, Member]


def make_people(members: int, spares: int, *, real: bool) -> People:
    """The same people for the same numbers: keys do not depend on the seed."""
    names = tuple(f"m{position}" for position in range(members + spares))
    make = real_key if real else FastKey
    keys = {name: make(name.encode()) for name in names}
    everyone = {
        name: Member(name, key.public_key, 1, f"{name}.test:{7000 + position}")
        for position, (name, key) in enumerate(keys.items())
    }
    genesis = MemberSet(0, tuple(everyone[name] for name in names[:members]))
    cluster_id = sha256(f"cluster/{members}/{spares}/{real}".encode()).digest()
    return People(cluster_id, names, dict(keys), genesis, everyone)


class Kit(Protocol):
    """An application for simulations."""

    people: People
    cluster_id: bytes

    def restore(self, blocks: Blocks) -> RestoredState:
        """Application after these blocks, head, its certificate, and the height at which the epoch began."""
        ...

    def written(self, application: Any, applied: ApplyBlock[Any]) -> None:
        """A block that the application has committed is durable now."""
        ...

    def workload(self, application: Any, member: str, rng: random.Random, now_ms: int) -> bytes:
        """A client's command at one member."""
        ...

    def reaction(self, application: Any, member: str, command: bytes, now_ms: int) -> bytes | None:
        """What the member's voter does about a command it was shown."""
        ...

    def has_voted(self, application: Any, member: str, opened: bytes, own: Sequence[bytes]) -> bool:
        """Whether a member has voted on what this command opened: on record, or in commands of its own."""
        ...

    def change_members(self, application: Any, member: str, names: Sequence[str]) -> bytes | None:
        """A command that makes these the members."""
        ...

    def is_over(self, application: Any, command: bytes) -> bool:
        """Whether a command can take no effect any more."""
        ...

    def renewed(self, application: Any, member: str, key: Signer, command: bytes) -> bytes | None:
        """The command for a new epoch, signed again where it has to be."""
        ...

    def accused(self, application: Any) -> tuple[str, ...]:
        """Members that the record calls faulty."""
        ...

    def false_evidence(self, application: Any, member: str, victim: str, rng: random.Random) -> list[bytes]:
        """Commands of a faulty member that accuse a correct one."""
        ...


class ToyKit:
    """The toy application and its commands."""

    def __init__(self, people: People, window_ms: int) -> None:
        self.people = people
        self.cluster_id = people.cluster_id
        self.window_ms = window_ms
        self._operator = FastKey(b"operator") if _is_fast(people) else real_key(b"operator")
        self.directory = Directory(
            people.cluster_id, people.genesis, people.members, self._operator.public_key
        )
        self._count = 0

    def restore(self, blocks: Blocks) -> RestoredState:
        """Replay."""
        return replay(ToyApplication(self.directory), self, blocks)

    def written(self, application: ToyApplication, applied: ApplyBlock[Any]) -> None:
        """It looks nothing up."""

    def workload(self, application: ToyApplication, member: str, rng: random.Random, now_ms: int) -> bytes:
        """Mostly subjects to vote on, some notes."""
        self._count += 1
        if rng.random() < 0.3:
            return self._make(member, "note", str(self._count))
        return self._make(member, "open", f"{self.window_ms};{self._count}")

    def reaction(self, application: ToyApplication, member: str, command: bytes, now_ms: int) -> bytes | None:
        """Vote on what was opened."""
        if not command.startswith(b"open|"):
            return None
        return self._make(member, "vote", f"{command_digest(command).hex()};{member}")

    def has_voted(
        self, application: ToyApplication, member: str, opened: bytes, own: Sequence[bytes]
    ) -> bool:
        """Toy votes of one member are equal to the last byte, so that a second one is the first."""
        return False

    def change_members(self, application: ToyApplication, member: str, names: Sequence[str]) -> bytes | None:
        """With the operator's blessing."""
        sign = self.people.keys[member].sign
        return members_command(sign, self._operator.sign, self.cluster_id, member, names)

    def is_over(self, application: ToyApplication, command: bytes) -> bool:
        """Committed, void, or a vote whose subject is closed."""
        try:
            return command in application.select((command,), 0).void
        except CommandError:
            return True

    def renewed(self, application: ToyApplication, member: str, key: Signer, command: bytes) -> bytes | None:
        """Toy commands do not name their epoch."""
        return command if member in application.members else None

    def accused(self, application: ToyApplication) -> tuple[str, ...]:
        """As recorded."""
        return application.accused

    def false_evidence(
        self, application: ToyApplication, member: str, victim: str, rng: random.Random
    ) -> list[bytes]:
        """Two statements that contradict each other and are not the victim's."""
        return forge_evidence(application, self.people.keys[member], self.cluster_id, victim, rng)

    def _make(self, member: str, kind: str, payload: str) -> bytes:
        return toy_command(self.people.keys[member].sign, self.cluster_id, kind, member, payload)


def forge_evidence(
    application: Any, key: Signer, cluster_id: bytes, victim: str, rng: random.Random
) -> list[bytes]:
    """The command that accuses a victim with two statements that contradict each other: one is signed with
    another's `key`, one with nothing."""
    one = StatementKey(Phase.PREPARE, application.members.epoch, 0, 1, rng.randbytes(32))
    other = replace(one, block_hash=rng.randbytes(32))
    own = key.sign(one.sign_bytes(cluster_id, victim))
    forged = Evidence(Statement(one, victim, own), Statement(other, victim, rng.randbytes(64)))
    return [application.evidence_command(forged)]


def replay(application: Any, kit: Kit, blocks: Blocks) -> RestoredState:
    """Execute and commit blocks on a fresh application."""
    start = application.genesis_execution()
    head = BlockHeader(
        kit.cluster_id,
        0,
        0,
        ZERO_HASH,
        start.time_ms,
        commands_root(()),
        start.entries_root,
        start.audit_size,
        start.audit_head,
    )
    certificate: Certificate | None = None
    base = 0
    for block, proof in blocks:
        epoch = application.members.epoch
        execution = application.execute(block.height, block.header.time_ms, block.commands)
        application.commit(execution)
        kit.written(application, ApplyBlock(block, proof, execution))
        head, certificate = block.header, proof
        if application.members.epoch != epoch:
            base = block.height
    return application, head, certificate, base


def _is_fast(people: People) -> bool:
    return isinstance(next(iter(people.keys.values())), FastKey)
