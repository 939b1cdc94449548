"""Statements: what a member signs about a block."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replication.identity import keys
from replication.identity.members import MemberSet
from replication.identity.signbytes import statement_bytes

__all__ = ["Phase", "Statement", "StatementKey", "is_signed_by_member"]


class Phase(Enum):
    """What a statement says; each phase has a signature tag of its own."""

    PROPOSE = "propose"
    PREPARE = "prepare"
    COMMIT = "commit"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Statement:
    """A key, signed by one member."""

    key: StatementKey
    signer: str
    signature: bytes


def is_signed_by_member(statement: Statement, cluster_id: bytes, members: MemberSet) -> bool:
    """Whether the signer is a member of this epoch and the signature is its own over exactly this key."""
    member = members.get(statement.signer)
    if member is None or statement.key.epoch != members.epoch:
        return False
    message = statement.key.sign_bytes(cluster_id, statement.signer)
    return keys.verify(member.public_key, statement.signature, message)
