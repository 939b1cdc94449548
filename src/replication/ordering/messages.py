"""What members send each other. The caller encodes them; the sender's name is authenticated by the transport."""

from __future__ import annotations

from dataclasses import dataclass

from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.statements import Statement

__all__ = ["Acknowledgement", "BlockProposal", "CertificateMessage", "CommandMessage", "Heartbeat", "Message"]


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
    """A command that its sender wants ordered."""

    command: bytes


@dataclass(frozen=True)
class Heartbeat:
    """How far the sender is. `latest` is its newest commit certificate, None at height 0."""

    view: int
    height: int
    audit_size: int
    audit_head: bytes
    latest: Certificate | None


Message = BlockProposal | Acknowledgement | CertificateMessage | CommandMessage | Heartbeat
