"""The codec in both directions: every value comes back, and bytes get a value or a refusal, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from tests.support import ordering_values as values

from replication.ledger import codec, serial
from replication.ledger.codec import MalformedError
from replication.v1 import log_pb2, peer_service_pb2

Convert = Callable[[Any], Any]

MESSAGES: dict[str, tuple[st.SearchStrategy[Any], Convert, Convert, type[Message]]] = {
    "statement": (values.statements, codec.statement_to_pb, codec.statement_from_pb, log_pb2.Statement),
    "certificate": (
        values.certificates,
        codec.certificate_to_pb,
        codec.certificate_from_pb,
        log_pb2.Certificate,
    ),
    "suspect": (values.suspects, codec.suspect_to_pb, codec.suspect_from_pb, peer_service_pb2.Suspect),
    "header": (values.headers, codec.header_to_pb, codec.header_from_pb, log_pb2.BlockHeader),
    "block": (values.blocks, codec.block_to_pb, codec.block_from_pb, log_pb2.Block),
    "timeout": (values.timeouts, codec.timeout_to_pb, codec.timeout_from_pb, log_pb2.Timeout),
    "timeout_certificate": (
        values.timeout_certificates,
        codec.timeout_certificate_to_pb,
        codec.timeout_certificate_from_pb,
        log_pb2.TimeoutCertificate,
    ),
    "timeout_report": (
        values.timeout_reports,
        codec.timeout_report_to_pb,
        codec.timeout_report_from_pb,
        peer_service_pb2.TimeoutReport,
    ),
    "new_view": (
        values.new_views,
        codec.new_view_to_pb,
        codec.new_view_from_pb,
        log_pb2.CoordinatorChange,
    ),
    "evidence": (values.evidence, codec.evidence_to_pb, codec.evidence_from_pb, log_pb2.Evidence),
}
TEXTS: dict[str, tuple[st.SearchStrategy[Any], Convert, Convert]] = {
    "block": (values.blocks, serial.serialize_block, serial.parse_block),
    "header": (values.headers, serial.serialize_header, serial.parse_header),
    "certificate": (values.certificates, serial.serialize_certificate, serial.parse_certificate),
    "sign_state": (values.sign_states, serial.serialize_sign_state, serial.parse_sign_state),
}

edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "double"]), st.integers(0), st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


def mangle(text: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Apply small edits somewhere in the text."""
    for kind, where, extra in changes:
        at = where % (len(text) + 1)
        if kind == "flip" and at < len(text):
            text = text[:at] + bytes([text[at] ^ (1 << (where % 8))]) + text[at + 1 :]
        elif kind == "cut":
            text = text[:at]
        elif kind == "insert":
            text = text[:at] + extra + text[at:]
        elif kind == "double":
            text = text + text[at:]
    return text


def decoded(kind: str, text: bytes) -> tuple[Any, bool]:
    """What a message of this kind decodes to, and whether it was accepted. Any other error fails the test."""
    _, _, from_pb, message_type = MESSAGES[kind]
    message = message_type()
    try:
        message.ParseFromString(text)
    except DecodeError:  # what gRPC would refuse before us
        return None, False
    try:
        return from_pb(message), True
    except MalformedError:
        return None, False


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_messages_come_back(kind: str, data: st.DataObject) -> None:
    strategy, to_pb, from_pb, message_type = MESSAGES[kind]
    value = data.draw(strategy)
    assert from_pb(to_pb(value)) == value
    received = message_type()
    received.ParseFromString(to_pb(value).SerializeToString())
    assert from_pb(received) == value


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data(), changes=edits)
def test_mangled_messages_are_refused_or_mean_what_they_say(
    kind: str, data: st.DataObject, changes: list[tuple[str, int, bytes]]
) -> None:
    strategy, to_pb, from_pb, _ = MESSAGES[kind]
    value, accepted = decoded(kind, mangle(to_pb(data.draw(strategy)).SerializeToString(), changes))
    if accepted:
        assert from_pb(to_pb(value)) == value


@pytest.mark.parametrize("kind", MESSAGES)
@given(text=st.binary(max_size=400))
def test_noise_gets_no_foreign_exception(kind: str, text: bytes) -> None:
    decoded(kind, text)


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
def test_texts_come_back(kind: str, data: st.DataObject) -> None:
    strategy, serialize, parse = TEXTS[kind]
    value = data.draw(strategy)
    assert parse(serialize(value)) == value


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data(), changes=edits)
def test_mangled_texts_never_stand_for_the_same_value(
    kind: str, data: st.DataObject, changes: list[tuple[str, int, bytes]]
) -> None:
    strategy, serialize, parse = TEXTS[kind]
    value = data.draw(strategy)
    text = serialize(value)
    mangled = mangle(text, changes)
    try:
        other = parse(mangled)
    except MalformedError:
        return
    assert serialize(other) == mangled
    assert (other == value) == (mangled == text)


@pytest.mark.parametrize("kind", TEXTS)
@given(text=st.binary(max_size=400))
def test_noise_on_disk_gets_no_foreign_exception(kind: str, text: bytes) -> None:
    with contextlib.suppress(MalformedError):
        TEXTS[kind][2](text)
