"""Values of the ordering vocabulary as bytes on disk. A value has one serialisation; other bytes are refused.

The serialisation is the deterministic one of the protobuf message (fields in order, nothing unknown, nothing
twice), so that a changed byte either changes the value or makes the text illegal.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from replication.identity.members import MAX_MEMBERS
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.limits import MAX_BLOCK_BYTES, MAX_BLOCK_COMMANDS
from replication.ordering.signing import SignState
from replication.v1 import journal_pb2, log_pb2

from .codec import (
    MalformedError,
    block_from_pb,
    block_to_pb,
    certificate_from_pb,
    certificate_to_pb,
    digest_field,
    header_from_pb,
    header_to_pb,
    integer_field,
    optional_field,
    statement_from_pb,
    statement_to_pb,
    timeout_certificate_from_pb,
    timeout_certificate_to_pb,
    timeout_report_from_pb,
    timeout_report_to_pb,
)

__all__ = [
    "parse_block",
    "parse_certificate",
    "parse_header",
    "parse_sign_state",
    "serialize_block",
    "serialize_certificate",
    "serialize_header",
    "serialize_sign_state",
]

_OVERHEAD: Final = 16 * 1024
_MAX_BLOCK_TEXT: Final = MAX_BLOCK_BYTES + MAX_BLOCK_COMMANDS * 8 + _OVERHEAD
_MAX_CERTIFICATE_TEXT: Final = MAX_MEMBERS * 160 + _OVERHEAD
# A state holds at most 100 timeouts, five certificates and four statements.
_MAX_STATE_TEXT: Final = 10 * _MAX_CERTIFICATE_TEXT

_P = TypeVar("_P", bound=Message)


def _sign_state_to_pb(state: SignState) -> journal_pb2.SignState:
    return journal_pb2.SignState(
        epoch=state.epoch,
        nonce=state.nonce,
        propose=None if state.propose is None else statement_to_pb(state.propose),
        prepare=None if state.prepare is None else statement_to_pb(state.prepare),
        commit=None if state.commit is None else statement_to_pb(state.commit),
        lock=None if state.lock is None else certificate_to_pb(state.lock),
        timeout=None if state.timeout is None else timeout_report_to_pb(state.timeout),
        opened=None if state.opened is None else timeout_certificate_to_pb(state.opened),
    )


def _sign_state_from_pb(message: journal_pb2.SignState, name: str) -> SignState:
    if message.nonce:
        digest_field(message.nonce, f"{name}.nonce")
    return SignState(
        epoch=integer_field(message.epoch, f"{name}.epoch"),
        nonce=message.nonce,
        propose=optional_field(message, "propose", statement_from_pb, name),
        prepare=optional_field(message, "prepare", statement_from_pb, name),
        commit=optional_field(message, "commit", statement_from_pb, name),
        lock=optional_field(message, "lock", certificate_from_pb, name),
        timeout=optional_field(message, "timeout", timeout_report_from_pb, name),
        opened=optional_field(message, "opened", timeout_certificate_from_pb, name),
    )


def serialize_block(block: Block) -> bytes:
    """The one serialisation of a block."""
    return _serialize(block_to_pb(block))


def parse_block(text: bytes) -> Block:
    """A block from its serialisation. Raises `MalformedError`."""
    return block_from_pb(_parse(log_pb2.Block(), text, _MAX_BLOCK_TEXT, "block"))


def serialize_header(header: BlockHeader) -> bytes:
    """The one serialisation of a header."""
    return _serialize(header_to_pb(header))


def parse_header(text: bytes) -> BlockHeader:
    """A header from its serialisation. Raises `MalformedError`."""
    return header_from_pb(_parse(log_pb2.BlockHeader(), text, _OVERHEAD, "header"))


def serialize_certificate(certificate: Certificate) -> bytes:
    """The one serialisation of a certificate."""
    return _serialize(certificate_to_pb(certificate))


def parse_certificate(text: bytes) -> Certificate:
    """A certificate from its serialisation. Raises `MalformedError`."""
    return certificate_from_pb(_parse(log_pb2.Certificate(), text, _MAX_CERTIFICATE_TEXT, "certificate"))


def serialize_sign_state(state: SignState) -> bytes:
    """The one serialisation of a last-signed state."""
    return _serialize(_sign_state_to_pb(state))


def parse_sign_state(text: bytes) -> SignState:
    """A last-signed state from its serialisation. Raises `MalformedError`."""
    return _sign_state_from_pb(
        _parse(journal_pb2.SignState(), text, _MAX_STATE_TEXT, "sign state"), "sign state"
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _parse(message: _P, text: bytes, limit: int, name: str) -> _P:
    """Parse `text` into `message`; unknown fields, repeated scalars and other orders do not round-trip."""
    if len(text) > limit:
        raise MalformedError(f"a serialised {name} has at most {limit} bytes, not {len(text)}")
    try:
        message.ParseFromString(text)
        message.DiscardUnknownFields()  # they would be written back as they came
        again = message.SerializeToString(deterministic=True)
    except (DecodeError, ValueError) as error:
        raise MalformedError(f"not the serialisation of a {name}: {error}") from None
    if again != text:
        raise MalformedError(f"not the one serialisation of a {name}: it reads back as other bytes")
    return message
