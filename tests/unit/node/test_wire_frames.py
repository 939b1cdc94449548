"""Envelopes as bytes: taken one by one, and judged by their size before they are parsed."""

from __future__ import annotations

import tracemalloc

import pytest

from replication.faults.fuzzing.record import material
from replication.ledger.codec import MalformedError
from replication.node import wire
from replication.node.peers import encode_frame
from replication.v1 import peer_service_pb2

NUMBERS = {field.name: field.number for field in peer_service_pb2.PeerMessage.DESCRIPTOR.fields}


def envelope(kind: str, body: bytes) -> bytes:
    """An envelope around any bytes."""
    size, head = len(body), bytearray([NUMBERS[kind] << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(head) + bytes([size]) + body


def test_every_message_comes_back_through_frames() -> None:
    messages = material().messages
    request = b"".join(encode_frame(wire.encode(message)) for message in messages)
    assert (
        request
        == peer_service_pb2.ExchangeRequest(
            messages=[wire.encode(message) for message in messages]
        ).SerializeToString()
    )
    assert tuple(wire.decode(wire.parse(frame)) for frame in wire.frames(request)) == messages
    assert list(wire.frames(b"")) == []


@pytest.mark.parametrize(
    "request_",
    [
        b"\x0a",
        b"\x0a\x05abc",
        b"\x12\x00",
        b"\x0a\xff\xff\xff\xff\xff\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x08\x01",
    ],
)
def test_what_is_not_made_of_whole_envelopes_is_refused(request_: bytes) -> None:
    with pytest.raises(MalformedError):
        list(wire.frames(request_))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\x08\x01",
        b"\xfa\x01\x00",
        envelope("statement", b"")[:1],
        envelope("statement", b"") + envelope("suspect", b""),
        envelope("statement", b"abc") + b"\x00",
        envelope("statement", b"\xff"),
    ],
)
def test_an_envelope_holds_one_part_of_a_known_kind(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.parse(frame)


@pytest.mark.parametrize("kind", list(NUMBERS))
def test_each_kind_has_a_size_that_is_checked_before_it_is_parsed(kind: str) -> None:
    assert wire.MAX_FRAME_BYTES.keys() == NUMBERS.keys()
    limit = wire.MAX_FRAME_BYTES[kind]
    bomb = envelope(kind, b"\x0a\x00" * (limit // 2 + 1))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="takes at most"):
            wire.parse(bomb)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()
