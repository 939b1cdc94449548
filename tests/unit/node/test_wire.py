"""The envelope of messages between members: every kind there and back, and everything malformed refused."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import PeerError
from replication.ledger.codec import MalformedError
from replication.node import wire
from replication.ordering.blocks import Block, BlockHeader
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
from replication.ordering.statements import (
    Lock,
    NewView,
    Phase,
    Statement,
    StatementKey,
    Suspect,
    Timeout,
)
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport
from replication.v1.peer_service_pb2 import CommandOffer, Hello, PeerMessage
from replication.v1.peer_service_pb2 import Heartbeat as HeartbeatPb

SIGNATURE = bytes(range(64))


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def statement(phase: Phase = Phase.PREPARE) -> Statement:
    return Statement(StatementKey(phase, 1, 2, 3, digest(4)), "node-1", SIGNATURE)


def certificate(phase: Phase = Phase.COMMIT) -> Certificate:
    signatures = (("node-1", SIGNATURE), ("node-2", SIGNATURE[::-1]))
    return Certificate(StatementKey(phase, 1, 2, 3, digest(4)), signatures)


def block() -> Block:
    header = BlockHeader(digest(1), 1, 3, digest(2), 1_750_000_000_000, digest(3), digest(4), 9, digest(5))
    return Block(header, (b"one", b"two"))


def timeout(lock: Lock | None) -> Timeout:
    return Timeout(1, 2, 3, lock, "node-2", SIGNATURE)


TC = TimeoutCertificate(
    (timeout(None), timeout(Lock(1, digest(7)))), certificate(), certificate(Phase.PREPARE)
)

MESSAGES: tuple[Message, ...] = (
    BlockProposal(statement(Phase.PROPOSE), block(), certificate()),
    BlockProposal(statement(Phase.PROPOSE), block(), None),
    Acknowledgement(statement()),
    Acknowledgement(statement(Phase.COMMIT)),
    CertificateMessage(certificate(Phase.PREPARE)),
    CommandMessage(b"a command"),
    CommandMessage(b"a command", overdue=True),
    Heartbeat(1, 2, 3, 4, digest(5), certificate()),
    Heartbeat(0, 0, 0, 1, digest(5), None),
    SuspectMessage(Suspect(1, 2, "node-3", SIGNATURE)),
    TimeoutMessage(
        TimeoutReport(timeout(Lock(1, digest(7))), certificate(), certificate(Phase.PREPARE), statement())
    ),
    TimeoutMessage(TimeoutReport(timeout(None), None, None, None)),
    TimeoutCertificateMessage(TC),
    TimeoutCertificateMessage(TimeoutCertificate((timeout(None),), None, None)),
    NewViewMessage(NewView(1, 3, digest(8), "node-0", SIGNATURE), TC),
    Witness((statement(), statement(Phase.COMMIT)), timeout(None)),
    Witness(),
    BodyRequest(digest(6)),
    BodyMessage(block()),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    raw = wire.encode(message).SerializeToString()
    assert wire.decode(PeerMessage.FromString(raw)) == message


def test_every_kind_of_message_and_envelope_is_covered() -> None:
    assert {type(message) for message in MESSAGES} == set(typing.get_args(Message))
    used = {wire.encode(message).WhichOneof("body") for message in MESSAGES}
    assert used == {field.name for field in PeerMessage.DESCRIPTOR.fields} - {"hello"}


@pytest.mark.parametrize(
    ("envelope", "why"),
    [
        (PeerMessage(), "nothing"),
        (PeerMessage(hello=Hello(member_id="node-1")), "hello"),
        (PeerMessage(command=CommandOffer()), "1 to"),
        (PeerMessage(command=CommandOffer(command=bytes(256 * 1024 + 1))), "262145"),
        (PeerMessage(heartbeat=HeartbeatPb()), "audit_head"),
        (PeerMessage(heartbeat=HeartbeatPb(audit_head=digest(1), view=2**53)), "view"),
    ],
)
def test_what_is_no_message_is_refused_by_name(envelope: PeerMessage, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        wire.decode(envelope)


def test_a_witness_of_too_many_statements_is_refused() -> None:
    envelope = wire.encode(Witness((statement(),) * 4))
    with pytest.raises(MalformedError, match="at most 3"):
        wire.decode(envelope)


@pytest.mark.parametrize("field", ["statement", "block"])
def test_a_block_proposal_without_one_of_its_parts_is_refused(field: str) -> None:
    envelope = wire.encode(MESSAGES[0])
    envelope.block_proposal.ClearField(field)  # type: ignore[arg-type]  # the name varies
    with pytest.raises(MalformedError, match=field):
        wire.decode(envelope)


@pytest.mark.parametrize("field", ["change", "certificate"])
def test_an_opening_without_one_of_its_parts_is_refused(field: str) -> None:
    envelope = wire.encode(NewViewMessage(NewView(1, 3, digest(8), "node-0", SIGNATURE), TC))
    envelope.new_view.ClearField(field)  # type: ignore[arg-type]  # the name varies
    with pytest.raises(MalformedError, match=field):
        wire.decode(envelope)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_envelope_is_refused_or_means_what_it_says(message: Message, data: st.DataObject) -> None:
    """Whatever bytes arrive: a message that encodes back to the same content, or a PeerError."""
    raw = bytearray(wire.encode(message).SerializeToString())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    try:
        envelope = PeerMessage.FromString(bytes(raw))
    except Exception:  # not protobuf at all: the transport's to refuse
        return
    try:
        decoded = wire.decode(envelope)
    except PeerError:
        return
    assert wire.decode(wire.encode(decoded)) == decoded
