"""Messages in a few words, for traces."""

from __future__ import annotations

from replication.ordering.application import command_digest
from replication.ordering.certificates import Certificate
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.statements import StatementKey, Timeout

__all__ = ["describe", "describe_certificate", "describe_key", "describe_timeout"]


def describe_key(key: StatementKey) -> str:
    """What a statement is about."""
    return f"{key.phase.name} e{key.epoch} v{key.view} h{key.height} {key.block_hash[:4].hex()}"


def describe_certificate(certificate: Certificate | None) -> str:
    """Its key and how many signed."""
    if certificate is None:
        return "-"
    return f"[{describe_key(certificate.key)} x{len(certificate.signatures)}]"


def describe_timeout(timeout: Timeout) -> str:
    """View and report."""
    lock = "-" if timeout.lock is None else f"v{timeout.lock.view} {timeout.lock.block_hash[:4].hex()}"
    where = f"e{timeout.epoch} v{timeout.view} c{timeout.committed_height}"
    return f"TIMEOUT {where} lock {lock} of {timeout.signer}"


def describe(message: Message) -> str:
    """One line for any message."""
    match message:
        case Acknowledgement():
            return f"ack {describe_key(message.statement.key)}"
        case Heartbeat():
            latest = message.latest
            seen = "-" if latest is None else f"{latest.key.phase.name} h{latest.key.height}"
            return f"beat e{message.epoch} v{message.view} h{message.height} {seen}"
        case BlockProposal():
            return (
                f"block {describe_key(message.statement.key)} t{message.block.header.time_ms} "
                f"{len(message.block.commands)} commands, "
                f"parent {describe_certificate(message.parent_certificate)}"
            )
        case CertificateMessage():
            return f"certificate {describe_certificate(message.certificate)}"
        case CommandMessage():
            overdue = " overdue" if message.overdue else ""
            return f"command {command_digest(message.command)[:4].hex()}{overdue} {message.command[:8]!r}"
        case SuspectMessage():
            return f"suspect e{message.suspect.epoch} v{message.suspect.view} of {message.suspect.signer}"
        case TimeoutMessage():
            return describe_timeout(message.report.timeout)
        case TimeoutCertificateMessage():
            return f"TC [{'; '.join(describe_timeout(item) for item in message.certificate.timeouts)}]"
        case NewViewMessage():
            statement = message.statement
            floor = message.certificate.floor if message.certificate.timeouts else None
            block = "-" if floor is None or floor.block_hash is None else floor.block_hash[:4].hex()
            height = "-" if floor is None else floor.height
            return f"newview e{statement.epoch} v{statement.view} floor h{height} {block}"
        case Witness():
            timeout = "-" if message.timeout is None else describe_timeout(message.timeout)
            return f"witness {[describe_key(item.key) for item in message.statements]} {timeout}"
        case BodyRequest():
            return f"body? {message.block_hash[:4].hex()}"
        case BodyMessage():
            return f"body {message.block.hash[:4].hex()} h{message.block.height}"
