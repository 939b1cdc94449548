"""What members send each other. The caller encodes them; the transport authenticates the sender's name."""

from __future__ import annotations

from dataclasses import dataclass

from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.statements import NewView, Statement, Suspect, Timeout
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport

__all__ = [
    "Acknowledgement",
    "BlockProposal",
    "BodyMessage",
    "BodyRequest",
    "CertificateMessage",
    "CommandMessage",
    "Heartbeat",
    "Message",
    "NewViewMessage",
    "SuspectMessage",
    "TimeoutCertificateMessage",
    "TimeoutMessage",
    "Witness",
]


@dataclass(frozen=True)
class BlockProposal:
    """The coordinator's block for the next height, with the proof that its parent is final."""

    statement: Statement
    block: Block
    parent_certificate: Certificate | None


@dataclass(frozen=True)
class Acknowledgement:
    """A PREPARE or COMMIT, sent to the coordinator."""

    statement: Statement


@dataclass(frozen=True)
class CertificateMessage:
    """A prepare certificate (lock on it) or a commit certificate (the block is final)."""

    certificate: Certificate


@dataclass(frozen=True)
class CommandMessage:
    """A command that its sender wants ordered. `overdue`: the coordinator has had it and did not order it."""

    command: bytes
    overdue: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """How far the sender is. `latest` is its newest commit certificate, None at height 0."""

    epoch: int
    view: int
    height: int
    audit_size: int
    audit_head: bytes
    latest: Certificate | None


@dataclass(frozen=True)
class SuspectMessage:
    """A complaint about the coordinator."""

    suspect: Suspect


@dataclass(frozen=True)
class TimeoutMessage:
    """A member gives up a view."""

    report: TimeoutReport


@dataclass(frozen=True)
class TimeoutCertificateMessage:
    """A view is over."""

    certificate: TimeoutCertificate


@dataclass(frozen=True)
class NewViewMessage:
    """The coordinator opens its view by this certificate."""

    statement: NewView
    certificate: TimeoutCertificate


@dataclass(frozen=True)
class Witness:
    """The newest statements of the receiver that the sender knows. Empty: it knows none.

    Said once to a connection. A receiver that is epochs behind may not know the sender as a member yet; it
    keeps what it was told, and counts it when the sender is one."""

    statements: tuple[Statement, ...] = ()
    timeout: Timeout | None = None


@dataclass(frozen=True)
class BodyRequest:
    """Asks for the body of a block that is locked and not committed yet."""

    block_hash: bytes


@dataclass(frozen=True)
class BodyMessage:
    """The body that was asked for."""

    block: Block


Message = (
    BlockProposal
    | Acknowledgement
    | CertificateMessage
    | CommandMessage
    | Heartbeat
    | SuspectMessage
    | TimeoutMessage
    | TimeoutCertificateMessage
    | NewViewMessage
    | Witness
    | BodyRequest
    | BodyMessage
)
