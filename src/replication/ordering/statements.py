"""Statements: what a member signs about blocks and views."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replication.identity import keys
from replication.identity.members import MemberSet
from replication.identity.signbytes import (
    ZERO_DIGEST,
    newview_bytes,
    statement_bytes,
    suspect_bytes,
    timeout_bytes,
)

__all__ = [
    "Evidence",
    "Lock",
    "NewView",
    "Phase",
    "Signed",
    "Statement",
    "StatementKey",
    "Suspect",
    "Timeout",
    "is_signed_by_member",
]


class Phase(Enum):
    """What a statement about a block says; each phase has a signature tag of its own."""

    PROPOSE = "propose"
    PREPARE = "prepare"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class StatementKey:
    """Everything a statement is about. Signatures are only ever added up over equal keys."""

    phase: Phase
    epoch: int
    view: int
    height: int
    block_hash: bytes

    @property
    def position(self) -> tuple[int, int]:
        """(view, height): a correct member signs each phase in strictly increasing positions."""
        return (self.view, self.height)

    def sign_bytes(self, cluster_id: bytes, signer: str) -> bytes:
        """The bytes that `signer` signs for this statement in this cluster."""
        return statement_bytes(
            self.phase.value,
            cluster_id,
            self.epoch,
            view=self.view,
            height=self.height,
            block_hash=self.block_hash,
            signer=signer,
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """A key, signed by one member."""

    key: StatementKey
    signer: str
    signature: bytes

    @property
    def epoch(self) -> int:
        return self.key.epoch

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return self.key.sign_bytes(cluster_id, self.signer)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A complaint about the coordinator of `view`. It binds its signer to nothing."""

    epoch: int
    view: int
    signer: str
    signature: bytes = b""

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return suspect_bytes(cluster_id, self.epoch, view=self.view, signer=self.signer)


@dataclass(frozen=True, slots=True, order=True)
class Lock:
    """The prepare certificate a member is locked on, in short: its view and block."""

    view: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Timeout:
    """The signer is done with `view`; it has committed up to `committed_height`, and holds `lock` above
    it."""

    epoch: int
    view: int
    committed_height: int
    lock: Lock | None
    signer: str
    signature: bytes = b""

    @property
    def report(self) -> tuple[int, int]:
        """(committed height, view of the lock or -1): the higher, the more its signer has promised."""
        return (self.committed_height, -1 if self.lock is None else self.lock.view)

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return timeout_bytes(
            cluster_id,
            self.epoch,
            view=self.view,
            committed_height=self.committed_height,
            has_lock=self.lock is not None,
            lock_view=0 if self.lock is None else self.lock.view,
            lock_hash=ZERO_DIGEST if self.lock is None else self.lock.block_hash,
            signer=self.signer,
        )


@dataclass(frozen=True, slots=True)
class NewView:
    """The coordinator of `view` takes over, by the timeout certificate with this digest."""

    epoch: int
    view: int
    tc_digest: bytes
    signer: str
    signature: bytes = b""

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return newview_bytes(
            cluster_id, self.epoch, view=self.view, tc_digest=self.tc_digest, signer=self.signer
        )


Signed = Statement | Timeout
"""The statements that can contradict each other."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two statements of one member in one epoch of which a correct member signs at most one."""

    first: Signed
    second: Signed

    @property
    def accused(self) -> str:
        return self.first.signer


def is_signed_by_member(
    item: Statement | Suspect | Timeout | NewView, cluster_id: bytes, members: MemberSet
) -> bool:
    """Whether the signer is a member of this epoch and the signature is its own over exactly this content."""
    member = members.get(item.signer)
    if member is None or item.epoch != members.epoch:
        return False
    return keys.verify(member.public_key, item.signature, item.sign_bytes(cluster_id))
