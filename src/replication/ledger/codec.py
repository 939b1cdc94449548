"""The wire form of the ordering vocabulary: strict, total, and the same in both directions.

Every kind has two functions. `X_to_pb` makes the protobuf message of `log.proto` or `peer_service.proto`;
`X_from_pb` judges a message that came from outside and gives back the value, or raises `MalformedError`. What
comes out of a decoder has the right lengths, alphabets, ranges and counts, so that nothing behind it has to
ask again; signatures and membership are for those who know the members.

Integers end at 2**53 - 1 (`MAX_INTEGER`), times at the end of the year 9999: a record that is to be exported
as JSON cannot hold more, so nothing larger may get in. The same values as bytes on disk are in `serial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, TypeVar

from google.protobuf.message import Message

from replication.consensus.canonical import MAX_SAFE_INTEGER
from replication.errors import PeerError
from replication.identity.members import MAX_MEMBERS
from replication.identity.names import is_member_id
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.limits import MAX_BLOCK_BYTES, MAX_BLOCK_COMMANDS, MAX_COMMAND_BYTES
from replication.ordering.statements import (
    Evidence,
    Lock,
    NewView,
    Phase,
    Signed,
    Statement,
    StatementKey,
    Suspect,
    Timeout,
)
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport
from replication.v1 import log_pb2, peer_service_pb2

__all__ = [
    "MAX_INTEGER",
    "MAX_TIME_MS",
    "MalformedError",
    "block_from_pb",
    "block_to_pb",
    "certificate_from_pb",
    "certificate_to_pb",
    "digest_field",
    "evidence_from_pb",
    "evidence_to_pb",
    "header_from_pb",
    "header_to_pb",
    "integer_field",
    "member_field",
    "new_view_from_pb",
    "new_view_to_pb",
    "optional_field",
    "require_present",
    "signature_field",
    "statement_from_pb",
    "statement_to_pb",
    "suspect_from_pb",
    "suspect_to_pb",
    "timeout_certificate_from_pb",
    "timeout_certificate_to_pb",
    "timeout_from_pb",
    "timeout_report_from_pb",
    "timeout_report_to_pb",
    "timeout_to_pb",
]

MAX_INTEGER: Final = MAX_SAFE_INTEGER
MAX_TIME_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

HASH_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

_PHASES: Final = {
    Phase.PROPOSE: log_pb2.PHASE_PROPOSE,
    Phase.PREPARE: log_pb2.PHASE_PREPARE,
    Phase.COMMIT: log_pb2.PHASE_COMMIT,
}
_PHASE_OF: Final = {code: phase for phase, code in _PHASES.items()}

_P = TypeVar("_P", bound=Message)
_T = TypeVar("_T")


class MalformedError(PeerError):
    """A message does not have the shape that its kind has. Nothing was taken from it."""

    reason: ClassVar[str] = "MESSAGE_MALFORMED"


# ----------------------------------------------------------------------------------------------------- fields


def integer_field(value: int, name: str, high: int = MAX_INTEGER) -> int:
    """A number of the wire in 0..high. Raises `MalformedError`."""
    if not 0 <= value <= high:
        raise MalformedError(f"{name} must be in 0..{high}, not {value}")
    return value


def digest_field(value: bytes, name: str) -> bytes:
    """32 bytes. Raises `MalformedError`."""
    return _sized(value, name, HASH_SIZE)


def signature_field(value: bytes, name: str) -> bytes:
    """64 bytes. Raises `MalformedError`."""
    return _sized(value, name, SIGNATURE_SIZE)


def member_field(value: str, name: str) -> str:
    """A member's identifier. Raises `MalformedError`."""
    if not is_member_id(value):
        raise MalformedError(f"{name} must be a member's identifier, not {value!r:.80}")
    return value


def _sized(value: bytes, name: str, size: int) -> bytes:
    if len(value) != size:
        raise MalformedError(f"{name} must have {size} bytes, not {len(value)}")
    return value


def require_present(message: Message, field: str, name: str) -> None:
    """Refuse a message without this part. Raises `MalformedError`."""
    if not message.HasField(field):
        raise MalformedError(f"{name}.{field} is missing")


def optional_field(message: Message, field: str, convert: Callable[[_P, str], _T], name: str) -> _T | None:
    """A part that may be absent. Raises `MalformedError` for one that is there and wrong."""
    return convert(getattr(message, field), f"{name}.{field}") if message.HasField(field) else None


def _counted(items: Sequence[_P], name: str) -> Sequence[_P]:
    """One item a member: at least one, at most `MAX_MEMBERS`."""
    if not 1 <= len(items) <= MAX_MEMBERS:
        raise MalformedError(f"{name} must have 1 to {MAX_MEMBERS} items, not {len(items)}")
    return items


# -------------------------------------------------------------------------------- statements and certificates


def _key_from_pb(message: log_pb2.Statement | log_pb2.Certificate, name: str) -> StatementKey:
    phase = _PHASE_OF.get(message.phase)
    if phase is None:
        raise MalformedError(f"{name}.phase {message.phase} is not known")
    return StatementKey(
        phase,
        integer_field(message.epoch, f"{name}.epoch"),
        integer_field(message.view, f"{name}.view"),
        integer_field(message.height, f"{name}.height"),
        digest_field(message.block_hash, f"{name}.block_hash"),
    )


def statement_to_pb(statement: Statement) -> log_pb2.Statement:
    """A PROPOSE, PREPARE or COMMIT as a message."""
    key = statement.key
    return log_pb2.Statement(
        phase=_PHASES[key.phase],
        epoch=key.epoch,
        view=key.view,
        height=key.height,
        block_hash=key.block_hash,
        signer=statement.signer,
        signature=statement.signature,
    )


def statement_from_pb(message: log_pb2.Statement, name: str = "statement") -> Statement:
    """A PROPOSE, PREPARE or COMMIT from a message. Raises `MalformedError`."""
    return Statement(
        _key_from_pb(message, name),
        member_field(message.signer, f"{name}.signer"),
        signature_field(message.signature, f"{name}.signature"),
    )


def certificate_to_pb(certificate: Certificate) -> log_pb2.Certificate:
    """A prepare or commit certificate as a message."""
    key = certificate.key
    return log_pb2.Certificate(
        phase=_PHASES[key.phase],
        epoch=key.epoch,
        view=key.view,
        height=key.height,
        block_hash=key.block_hash,
        signatures=[
            log_pb2.MemberSignature(signer=signer, signature=signature)
            for signer, signature in certificate.signatures
        ],
    )


def certificate_from_pb(message: log_pb2.Certificate, name: str = "certificate") -> Certificate:
    """A prepare or commit certificate from a message. Raises `MalformedError`."""
    signatures = _counted(message.signatures, f"{name}.signatures")
    return Certificate(
        _key_from_pb(message, name),
        tuple(
            (
                member_field(item.signer, f"{name}.signatures.signer"),
                signature_field(item.signature, f"{name}.signatures.signature"),
            )
            for item in signatures
        ),
    )


def suspect_to_pb(suspect: Suspect) -> peer_service_pb2.Suspect:
    """A complaint as a message."""
    return peer_service_pb2.Suspect(
        epoch=suspect.epoch, view=suspect.view, signer=suspect.signer, signature=suspect.signature
    )


def suspect_from_pb(message: peer_service_pb2.Suspect, name: str = "suspect") -> Suspect:
    """A complaint from a message. Raises `MalformedError`."""
    return Suspect(
        integer_field(message.epoch, f"{name}.epoch"),
        integer_field(message.view, f"{name}.view"),
        member_field(message.signer, f"{name}.signer"),
        signature_field(message.signature, f"{name}.signature"),
    )


# ----------------------------------------------------------------------------------------------------- blocks


def header_to_pb(header: BlockHeader) -> log_pb2.BlockHeader:
    """A block header as a message."""
    return log_pb2.BlockHeader(
        cluster_id=header.cluster_id,
        epoch=header.epoch,
        height=header.height,
        parent=header.parent,
        time_ms=header.time_ms,
        commands_root=header.commands_root,
        entries_root=header.entries_root,
        audit_size=header.audit_size,
        audit_head=header.audit_head,
    )


def header_from_pb(message: log_pb2.BlockHeader, name: str = "header") -> BlockHeader:
    """A block header from a message. Raises `MalformedError`."""
    return BlockHeader(
        cluster_id=digest_field(message.cluster_id, f"{name}.cluster_id"),
        epoch=integer_field(message.epoch, f"{name}.epoch"),
        height=integer_field(message.height, f"{name}.height"),
        parent=digest_field(message.parent, f"{name}.parent"),
        time_ms=integer_field(message.time_ms, f"{name}.time_ms", MAX_TIME_MS),
        commands_root=digest_field(message.commands_root, f"{name}.commands_root"),
        entries_root=digest_field(message.entries_root, f"{name}.entries_root"),
        audit_size=integer_field(message.audit_size, f"{name}.audit_size"),
        audit_head=digest_field(message.audit_head, f"{name}.audit_head"),
    )


def block_to_pb(block: Block) -> log_pb2.Block:
    """A block as a message."""
    return log_pb2.Block(header=header_to_pb(block.header), commands=block.commands)


def block_from_pb(message: log_pb2.Block, name: str = "block") -> Block:
    """A block from a message, within the limits of a block. Raises `MalformedError`.

    Whether its commands are those of its header's root is for the replica to say.
    """
    count = len(message.commands)
    if count > MAX_BLOCK_COMMANDS:
        raise MalformedError(f"{name}.commands must have at most {MAX_BLOCK_COMMANDS} items, not {count}")
    total = 0
    for command in message.commands:
        if len(command) > MAX_COMMAND_BYTES:
            raise MalformedError(
                f"{name}.commands has one of {len(command)} bytes; {MAX_COMMAND_BYTES} are allowed"
            )
        total += len(command)
    if total > MAX_BLOCK_BYTES:
        raise MalformedError(f"{name}.commands have {total} bytes; {MAX_BLOCK_BYTES} are allowed")
    require_present(message, "header", name)
    return Block(header_from_pb(message.header, f"{name}.header"), tuple(message.commands))


# --------------------------------------------------------------------------------------------------- timeouts


def timeout_to_pb(timeout: Timeout) -> log_pb2.Timeout:
    """A TIMEOUT as a message."""
    lock = timeout.lock
    return log_pb2.Timeout(
        epoch=timeout.epoch,
        view=timeout.view,
        committed_height=timeout.committed_height,
        lock_view=None if lock is None else lock.view,
        lock_hash=None if lock is None else lock.block_hash,
        signer=timeout.signer,
        signature=timeout.signature,
    )


def timeout_from_pb(message: log_pb2.Timeout, name: str = "timeout") -> Timeout:
    """A TIMEOUT from a message. Raises `MalformedError`."""
    if message.HasField("lock_view") != message.HasField("lock_hash"):
        raise MalformedError(f"{name}: lock_view and lock_hash must be there together, or not at all")
    lock = None
    if message.HasField("lock_view"):
        lock = Lock(
            integer_field(message.lock_view, f"{name}.lock_view"),
            digest_field(message.lock_hash, f"{name}.lock_hash"),
        )
    return Timeout(
        integer_field(message.epoch, f"{name}.epoch"),
        integer_field(message.view, f"{name}.view"),
        integer_field(message.committed_height, f"{name}.committed_height"),
        lock,
        member_field(message.signer, f"{name}.signer"),
        signature_field(message.signature, f"{name}.signature"),
    )


def timeout_certificate_to_pb(certificate: TimeoutCertificate) -> log_pb2.TimeoutCertificate:
    """A timeout certificate as a message."""
    return log_pb2.TimeoutCertificate(
        timeouts=[timeout_to_pb(timeout) for timeout in certificate.timeouts],
        committed=None if certificate.committed is None else certificate_to_pb(certificate.committed),
        lock=None if certificate.lock is None else certificate_to_pb(certificate.lock),
    )


def timeout_certificate_from_pb(
    message: log_pb2.TimeoutCertificate, name: str = "timeout certificate"
) -> TimeoutCertificate:
    """A timeout certificate from a message. Raises `MalformedError`."""
    timeouts = _counted(message.timeouts, f"{name}.timeouts")
    return TimeoutCertificate(
        tuple(timeout_from_pb(item, f"{name}.timeouts") for item in timeouts),
        optional_field(message, "committed", certificate_from_pb, name),
        optional_field(message, "lock", certificate_from_pb, name),
    )


def timeout_report_to_pb(report: TimeoutReport) -> peer_service_pb2.TimeoutReport:
    """A TIMEOUT with its proofs as a message."""
    return peer_service_pb2.TimeoutReport(
        timeout=timeout_to_pb(report.timeout),
        committed=None if report.committed is None else certificate_to_pb(report.committed),
        lock=None if report.lock is None else certificate_to_pb(report.lock),
        seen=None if report.seen is None else statement_to_pb(report.seen),
    )


def timeout_report_from_pb(
    message: peer_service_pb2.TimeoutReport, name: str = "timeout report"
) -> TimeoutReport:
    """A TIMEOUT with its proofs from a message. Raises `MalformedError`."""
    require_present(message, "timeout", name)
    return TimeoutReport(
        timeout_from_pb(message.timeout, f"{name}.timeout"),
        optional_field(message, "committed", certificate_from_pb, name),
        optional_field(message, "lock", certificate_from_pb, name),
        optional_field(message, "seen", statement_from_pb, name),
    )


def new_view_to_pb(opening: NewView) -> log_pb2.CoordinatorChange:
    """A coordinator's signed opening of its view as a message (also the command that records it)."""
    return log_pb2.CoordinatorChange(
        epoch=opening.epoch,
        view=opening.view,
        coordinator=opening.signer,
        tc_digest=opening.tc_digest,
        signature=opening.signature,
    )


def new_view_from_pb(message: log_pb2.CoordinatorChange, name: str = "coordinator change") -> NewView:
    """A coordinator's signed opening of its view from a message. Raises `MalformedError`."""
    return NewView(
        integer_field(message.epoch, f"{name}.epoch"),
        integer_field(message.view, f"{name}.view"),
        digest_field(message.tc_digest, f"{name}.tc_digest"),
        member_field(message.coordinator, f"{name}.coordinator"),
        signature_field(message.signature, f"{name}.signature"),
    )


# --------------------------------------------------------------------------------------------------- evidence


def evidence_to_pb(evidence: Evidence) -> log_pb2.Evidence:
    """Two contradicting statements as a message."""
    return log_pb2.Evidence(first=_signed_to_pb(evidence.first), second=_signed_to_pb(evidence.second))


def evidence_from_pb(message: log_pb2.Evidence, name: str = "evidence") -> Evidence:
    """Two signed statements from a message; whether they contradict is not asked. Raises `MalformedError`."""
    return Evidence(
        _signed_from_pb(message.first, f"{name}.first"), _signed_from_pb(message.second, f"{name}.second")
    )


def _signed_to_pb(signed: Signed) -> log_pb2.SignedStatement:
    if isinstance(signed, Timeout):
        return log_pb2.SignedStatement(timeout=timeout_to_pb(signed))
    return log_pb2.SignedStatement(statement=statement_to_pb(signed))


def _signed_from_pb(message: log_pb2.SignedStatement, name: str) -> Signed:
    match message.WhichOneof("body"):
        case "statement":
            return statement_from_pb(message.statement, name)
        case "timeout":
            return timeout_from_pb(message.timeout, name)
        case _:
            raise MalformedError(f"{name} holds no statement")
