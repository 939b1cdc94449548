"""Messages between members as `PeerMessage`s: the envelope around what `ledger.codec` encodes.

`decode` is strict: what comes out has the right shape, and whether it is true is for the replica to judge.
The first envelope of a stream, the `Hello`, belongs to the transport and is no message here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import DecodeError

from replication.ledger import codec
from replication.ledger.codec import MalformedError
from replication.ordering.limits import MAX_BLOCK_BYTES, MAX_BLOCK_COMMANDS, MAX_COMMAND_BYTES
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
from replication.ordering.statements import Phase
from replication.v1 import peer_service_pb2
from replication.v1.peer_service_pb2 import PeerMessage

__all__ = ["decode", "encode", "frames", "parse"]

_SMALL: Final = 1024
_MEMBERS: Final = 64 * 1024
"""A timeout certificate of a hundred members takes some 50 KiB, a certificate 15 KiB."""

_BLOCK: Final = MAX_BLOCK_BYTES + MAX_BLOCK_COMMANDS * 8 + _MEMBERS

MAX_FRAME_BYTES: Final[MappingProxyType[str, int]] = MappingProxyType(
    {
        "hello": _SMALL,
        "block_proposal": _BLOCK,
        "statement": _SMALL,
        "certificate": _MEMBERS,
        "command": MAX_COMMAND_BYTES + _SMALL,
        "heartbeat": _MEMBERS,
        "suspect": _SMALL,
        "timeout": _MEMBERS,
        "timeout_certificate": _MEMBERS,
        "new_view": 2 * _MEMBERS,
        "witness": 4 * _SMALL,
        "body_request": _SMALL,
        "block_body": _BLOCK,
    }
)
"""What an envelope of each kind may take. Checked before it is parsed: a message that is a list of a million
empty parts takes fifty times as much memory when it is parsed."""

_KIND_OF: Final = {field.number: field.name for field in PeerMessage.DESCRIPTOR.fields}

MAX_WITNESSED: Final = len(Phase)
"""A witness shows the newest statement of each phase."""


def frames(request: bytes) -> Iterator[bytes]:
    """The envelopes in a serialised ExchangeRequest, one after the other and not parsed.

    Raises:
        MalformedError: it holds anything else, or is cut off.
    """
    at = 0
    while at < len(request):
        tag, at = request[at], at + 1
        size, at = _varint(request, at)
        if tag != 0x0A or at + size > len(request):
            raise MalformedError("a request of a stream must be made of envelopes, and of whole ones")
        yield request[at : at + size]
        at += size


def parse(frame: bytes) -> PeerMessage:
    """An envelope from its bytes: one part, of a size that its kind may have.

    Raises:
        MalformedError: it has another shape, or is larger.
    """
    kind = _KIND_OF.get(frame[0] >> 3) if frame and frame[0] & 0x87 == 2 else None
    if kind is None:
        raise MalformedError("an envelope must begin with a part that is known")
    size, at = _varint(frame, 1)
    if at + size != len(frame):
        raise MalformedError(f"an envelope that holds a {kind} must hold nothing else")
    if size > MAX_FRAME_BYTES[kind]:
        raise MalformedError(f"a {kind} takes at most {MAX_FRAME_BYTES[kind]} bytes, not {size}")
    try:
        return PeerMessage.FromString(frame)
    except DecodeError as error:
        raise MalformedError(f"not a {kind}: {error}") from error


def _varint(text: bytes, at: int) -> tuple[int, int]:
    """A length, and the place behind it."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(text):
            break
        byte = text[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise MalformedError("a length is cut off, or too long")


def encode(message: Message) -> PeerMessage:
    """The envelope of a message."""
    return _ENCODERS[type(message)](message)


def decode(envelope: PeerMessage) -> Message:
    """The message in an envelope.

    Raises:
        MalformedError: it is empty, a Hello, or not of the shape that its kind has.
    """
    kind = envelope.WhichOneof("body")
    decoder = _DECODERS.get(kind or "")
    if decoder is None:
        raise MalformedError(f"an envelope that holds {kind or 'nothing'} is no message to a replica")
    return decoder(getattr(envelope, kind or ""))


def _encode_proposal(message: BlockProposal) -> PeerMessage:
    parent = message.parent_certificate
    body = peer_service_pb2.BlockProposal(
        statement=codec.statement_to_pb(message.statement),
        block=codec.block_to_pb(message.block),
        parent_certificate=None if parent is None else codec.certificate_to_pb(parent),
    )
    return PeerMessage(block_proposal=body)


def _decode_proposal(body: peer_service_pb2.BlockProposal) -> BlockProposal:
    codec.require_present(body, "statement", "block proposal")
    codec.require_present(body, "block", "block proposal")
    return BlockProposal(
        codec.statement_from_pb(body.statement),
        codec.block_from_pb(body.block),
        codec.optional_field(body, "parent_certificate", codec.certificate_from_pb, "block proposal"),
    )


def _encode_command(message: CommandMessage) -> PeerMessage:
    return PeerMessage(
        command=peer_service_pb2.CommandOffer(command=message.command, overdue=message.overdue)
    )


def _decode_command(body: peer_service_pb2.CommandOffer) -> CommandMessage:
    if not 0 < len(body.command) <= MAX_COMMAND_BYTES:
        raise MalformedError(f"a command must have 1 to {MAX_COMMAND_BYTES} bytes, not {len(body.command)}")
    return CommandMessage(body.command, body.overdue)


def _encode_heartbeat(message: Heartbeat) -> PeerMessage:
    body = peer_service_pb2.Heartbeat(
        epoch=message.epoch,
        view=message.view,
        height=message.height,
        audit_size=message.audit_size,
        audit_head=message.audit_head,
        latest=None if message.latest is None else codec.certificate_to_pb(message.latest),
    )
    return PeerMessage(heartbeat=body)


def _decode_heartbeat(body: peer_service_pb2.Heartbeat) -> Heartbeat:
    return Heartbeat(
        epoch=codec.integer_field(body.epoch, "heartbeat.epoch"),
        view=codec.integer_field(body.view, "heartbeat.view"),
        height=codec.integer_field(body.height, "heartbeat.height"),
        audit_size=codec.integer_field(body.audit_size, "heartbeat.audit_size"),
        audit_head=codec.digest_field(body.audit_head, "heartbeat.audit_head"),
        latest=codec.optional_field(body, "latest", codec.certificate_from_pb, "heartbeat"),
    )


def _encode_new_view(message: NewViewMessage) -> PeerMessage:
    body = peer_service_pb2.NewView(
        change=codec.new_view_to_pb(message.statement),
        certificate=codec.timeout_certificate_to_pb(message.certificate),
    )
    return PeerMessage(new_view=body)


def _decode_new_view(body: peer_service_pb2.NewView) -> NewViewMessage:
    codec.require_present(body, "change", "new view")
    codec.require_present(body, "certificate", "new view")
    return NewViewMessage(
        codec.new_view_from_pb(body.change), codec.timeout_certificate_from_pb(body.certificate)
    )


def _encode_witness(message: Witness) -> PeerMessage:
    body = peer_service_pb2.Witness(
        statements=[codec.statement_to_pb(statement) for statement in message.statements],
        timeout=None if message.timeout is None else codec.timeout_to_pb(message.timeout),
    )
    return PeerMessage(witness=body)


def _decode_witness(body: peer_service_pb2.Witness) -> Witness:
    if len(body.statements) > MAX_WITNESSED:
        raise MalformedError(
            f"a witness shows at most {MAX_WITNESSED} statements, not {len(body.statements)}"
        )
    return Witness(
        tuple(codec.statement_from_pb(statement, "witness.statements") for statement in body.statements),
        codec.optional_field(body, "timeout", codec.timeout_from_pb, "witness"),
    )


_ENCODERS: Final[MappingProxyType[type[Any], Callable[[Any], PeerMessage]]] = MappingProxyType(
    {
        BlockProposal: _encode_proposal,
        Acknowledgement: lambda item: PeerMessage(statement=codec.statement_to_pb(item.statement)),
        CertificateMessage: lambda item: PeerMessage(certificate=codec.certificate_to_pb(item.certificate)),
        CommandMessage: _encode_command,
        Heartbeat: _encode_heartbeat,
        SuspectMessage: lambda item: PeerMessage(suspect=codec.suspect_to_pb(item.suspect)),
        TimeoutMessage: lambda item: PeerMessage(timeout=codec.timeout_report_to_pb(item.report)),
        TimeoutCertificateMessage: lambda item: PeerMessage(
            timeout_certificate=codec.timeout_certificate_to_pb(item.certificate)
        ),
        NewViewMessage: _encode_new_view,
        Witness: _encode_witness,
        BodyRequest: lambda item: PeerMessage(
            body_request=peer_service_pb2.BodyRequest(block_hash=item.block_hash)
        ),
        BodyMessage: lambda item: PeerMessage(block_body=codec.block_to_pb(item.block)),
    }
)

_DECODERS: Final[MappingProxyType[str, Callable[[Any], Message]]] = MappingProxyType(
    {
        "block_proposal": _decode_proposal,
        "statement": lambda body: Acknowledgement(codec.statement_from_pb(body)),
        "certificate": lambda body: CertificateMessage(codec.certificate_from_pb(body)),
        "command": _decode_command,
        "heartbeat": _decode_heartbeat,
        "suspect": lambda body: SuspectMessage(codec.suspect_from_pb(body)),
        "timeout": lambda body: TimeoutMessage(codec.timeout_report_from_pb(body)),
        "timeout_certificate": lambda body: TimeoutCertificateMessage(
            codec.timeout_certificate_from_pb(body)
        ),
        "new_view": _decode_new_view,
        "witness": _decode_witness,
        "body_request": lambda body: BodyRequest(
            codec.digest_field(body.block_hash, "body_request.block_hash")
        ),
        "block_body": lambda body: BodyMessage(codec.block_from_pb(body)),
    }
)
