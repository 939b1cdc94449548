"""The codec's refusals, one by one. That values come back is shown in tests/property/test_ledger_codec.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replication.errors import PeerError
from replication.ledger import codec, serial
from replication.ledger.codec import MalformedError
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.limits import MAX_BLOCK_BYTES, MAX_BLOCK_COMMANDS, MAX_COMMAND_BYTES
from replication.ordering.signing import SignState
from replication.ordering.statements import Lock, Phase, Statement, StatementKey, Timeout
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport
from replication.v1 import log_pb2

HASH = bytes(range(32))
SIGNATURE = bytes(range(64))
KEY = StatementKey(Phase.COMMIT, 1, 2, 3, HASH)
STATEMENT = Statement(KEY, "node-1", SIGNATURE)
CERTIFICATE = Certificate(KEY, (("node-1", SIGNATURE), ("node-2", SIGNATURE)))
HEADER = BlockHeader(HASH, 1, 3, HASH, 1_750_000_000_000, HASH, HASH, 7, HASH)
TIMEOUT = Timeout(1, 2, 3, Lock(1, HASH), "node-1", SIGNATURE)


def changed(message: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"phase": 0}, r"statement\.phase 0 is not known"),
        ({"phase": 9}, r"statement\.phase 9 is not known"),
        ({"epoch": 2**53}, r"statement\.epoch must be in 0\.\.9007199254740991"),
        ({"view": 2**64 - 1}, r"statement\.view"),
        ({"height": 2**53}, r"statement\.height"),
        ({"block_hash": HASH[1:]}, r"statement\.block_hash must have 32 bytes, not 31"),
        ({"block_hash": b""}, r"statement\.block_hash"),
        ({"signer": ""}, r"statement\.signer must be a member's identifier"),
        ({"signer": ".."}, r"statement\.signer"),
        ({"signer": "nöde"}, r"statement\.signer"),
        ({"signer": "x" * 65}, r"statement\.signer"),
        ({"signature": SIGNATURE + b"x"}, r"statement\.signature must have 64 bytes, not 65"),
    ],
)
def test_each_field_of_a_statement(fields: dict[str, Any], problem: str) -> None:
    message = changed(codec.statement_to_pb(STATEMENT), **fields)
    with pytest.raises(MalformedError, match=problem) as caught:
        codec.statement_from_pb(message)
    assert isinstance(caught.value, PeerError)
    assert caught.value.reason == "MESSAGE_MALFORMED"


def test_largest_numbers_pass() -> None:
    key = StatementKey(Phase.PREPARE, 2**53 - 1, 2**53 - 1, 2**53 - 1, HASH)
    statement = Statement(key, "x" * 64, SIGNATURE)
    assert codec.statement_from_pb(codec.statement_to_pb(statement)) == statement


@pytest.mark.parametrize("count", [0, 101])
def test_certificates_have_one_signature_a_member(count: int) -> None:
    message = log_pb2.Certificate(
        phase=log_pb2.PHASE_COMMIT,
        block_hash=HASH,
        signatures=[log_pb2.MemberSignature(signer=f"m{i}", signature=SIGNATURE) for i in range(count)],
    )
    with pytest.raises(MalformedError, match=f"must have 1 to 100 items, not {count}"):
        codec.certificate_from_pb(message)


@pytest.mark.parametrize("count", [0, 101])
def test_timeout_certificates_have_one_timeout_a_member(count: int) -> None:
    message = log_pb2.TimeoutCertificate(timeouts=[codec.timeout_to_pb(TIMEOUT)] * count)
    with pytest.raises(MalformedError, match="timeouts must have 1 to 100 items"):
        codec.timeout_certificate_from_pb(message)


def test_counts_are_checked_before_anything_else() -> None:
    """A thousand bad signatures cost one comparison."""
    message = log_pb2.Certificate(signatures=[log_pb2.MemberSignature()] * 1000)
    with pytest.raises(MalformedError, match="items"):
        codec.certificate_from_pb(message)


def test_a_lock_is_whole_or_absent() -> None:
    for field in ("lock_view", "lock_hash"):
        message = codec.timeout_to_pb(TIMEOUT)
        message.ClearField(field)
        with pytest.raises(MalformedError, match="together, or not at all"):
            codec.timeout_from_pb(message)
    message = changed(codec.timeout_to_pb(TIMEOUT), lock_hash=b"")
    with pytest.raises(MalformedError, match="lock_hash must have 32"):
        codec.timeout_from_pb(message)


def test_a_lock_in_view_0_is_not_no_lock() -> None:
    timeout = Timeout(0, 0, 0, Lock(0, bytes(32)), "node-1", SIGNATURE)
    assert codec.timeout_from_pb(codec.timeout_to_pb(timeout)) == timeout


def test_a_report_without_its_timeout() -> None:
    message = codec.timeout_report_to_pb(TimeoutReport(TIMEOUT, CERTIFICATE, None))
    message.ClearField("timeout")
    with pytest.raises(MalformedError, match="timeout is missing"):
        codec.timeout_report_from_pb(message)


def test_evidence_needs_both_statements() -> None:
    with pytest.raises(MalformedError, match=r"evidence\.first holds no statement"):
        codec.evidence_from_pb(log_pb2.Evidence())
    message = log_pb2.Evidence(first=log_pb2.SignedStatement(timeout=codec.timeout_to_pb(TIMEOUT)))
    with pytest.raises(MalformedError, match=r"evidence\.second holds no statement"):
        codec.evidence_from_pb(message)


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        ([b""] * (MAX_BLOCK_COMMANDS + 1), "at most 4096 items"),
        ([bytes(MAX_COMMAND_BYTES + 1)], "has one of 262145 bytes"),
        ([bytes(MAX_COMMAND_BYTES)] * (MAX_BLOCK_BYTES // MAX_COMMAND_BYTES) + [b"x"], "have 2097153 bytes"),
    ],
)
def test_blocks_have_limits(commands: list[bytes], problem: str) -> None:
    message = log_pb2.Block(header=codec.header_to_pb(HEADER), commands=commands)
    with pytest.raises(MalformedError, match=problem):
        codec.block_from_pb(message)


def test_the_largest_block_passes_on_disk_too() -> None:
    full = [bytes(MAX_COMMAND_BYTES)] * (MAX_BLOCK_BYTES // MAX_COMMAND_BYTES)
    many = [bytes(MAX_BLOCK_BYTES // MAX_BLOCK_COMMANDS)] * MAX_BLOCK_COMMANDS
    for commands in (full, many):
        block = Block(HEADER, tuple(commands))
        assert serial.parse_block(serial.serialize_block(block)) == block


def test_the_largest_sign_state_passes() -> None:
    signer = "x" * 64
    largest = StatementKey(Phase.COMMIT, 2**53 - 1, 2**53 - 1, 2**53 - 1, HASH)
    certificate = Certificate(largest, ((signer, SIGNATURE),) * 100)
    timeout = Timeout(2**53 - 1, 2**53 - 1, 2**53 - 1, Lock(2**53 - 1, HASH), signer, SIGNATURE)
    statement = Statement(largest, signer, SIGNATURE)
    state = SignState(
        2**53 - 1,
        HASH,
        statement,
        statement,
        statement,
        certificate,
        TimeoutReport(timeout, certificate, certificate, statement),
        TimeoutCertificate((timeout,) * 100, certificate, certificate),
    )
    assert serial.parse_sign_state(serial.serialize_sign_state(state)) == state


def test_a_block_without_header() -> None:
    with pytest.raises(MalformedError, match=r"block\.header is missing"):
        codec.block_from_pb(log_pb2.Block(commands=[b"x"]))


def test_times_end_with_the_year_9999() -> None:
    message = changed(codec.header_to_pb(HEADER), time_ms=253_402_300_800_000)
    with pytest.raises(MalformedError, match="time_ms"):
        codec.header_from_pb(message)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (serial.parse_block, serial.serialize_block(Block(HEADER, (b"one", b"two")))),
        (serial.parse_header, serial.serialize_header(HEADER)),
        (serial.parse_certificate, serial.serialize_certificate(CERTIFICATE)),
        (serial.parse_sign_state, serial.serialize_sign_state(SignState(3, HASH, prepare=STATEMENT))),
    ],
)
def test_on_disk_there_is_one_text_for_a_value(parse: Callable[[bytes], Any], text: bytes) -> None:
    parse(text)
    unknown_field = b"\xba\x3e\x01x"
    others = (text + unknown_field, unknown_field + text, text[:-1], text + b"\x08\x01", bytes(10_000_000))
    for other in others:
        with pytest.raises(MalformedError):
            parse(other)
