"""The bytes of a journal file: a heading, frames in a chain, and a seal behind the last one.

    heading   magic, salt, cluster id, member, check
    frame     magic, length, sequence, check of the frame before, digest of the body, check; then the body
    seal      magic, sequence, check of the frame before it, check

A frame is written with zeros where its seal will be, and made durable; then the seal is written over the
zeros, and not waited for. The next frame is written over the seal. So a seal says: *the frame before me was
durable*. That tells the two kinds of damage at the end of a file apart. A frame that is broken and has no
seal is the torn end of a write that nobody was told had succeeded, and is cut back. A frame that is broken in
front of a seal, or of another frame (which is only begun when the one before is durable), was acknowledged,
and its loss is damage: to carry on from an older state could sign a second statement where one was signed
before.

What this cannot tell: a file cut off at the end of an earlier frame is a whole, older journal (a restored
backup). The other members know what this one has signed since, and tell it when it starts.

A write is taken to leave the bytes around it alone (SQLite relies on the same, as "powersafe overwrite").

Checks are keyed with the heading's random salt, so that bytes inside a body, which a stranger may have
chosen, do not pass for a frame.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from replication.errors import StorageError

__all__ = [
    "HEADING_SIZE",
    "SEAL_SIZE",
    "Frame",
    "FrameError",
    "Heading",
    "Tail",
    "make_frame",
    "make_seal",
    "read_frames",
]

_HEADING: Final = struct.Struct(">8s16s32sB64s")
_FRAME: Final = struct.Struct(">4sIQ32s32s")
_SEAL: Final = struct.Struct(">4sQ32s")
_CHECK_SIZE: Final = 32
_MAGIC: Final = b"ACPSIGN1"
_FRAME_MAGIC: Final = b"\xacFrm"
_SEAL_MAGIC: Final = b"\xacSea"

HEADING_SIZE: Final = _HEADING.size + _CHECK_SIZE
FRAME_SIZE: Final = _FRAME.size + _CHECK_SIZE
SEAL_SIZE: Final = _SEAL.size + _CHECK_SIZE


class FrameError(StorageError):
    """The file is not what was written. The journal says which file, and what to do."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What a file begins with. `check` is where the chain of frames begins."""

    salt: bytes
    cluster_id: bytes
    member: str
    encoded: bytes

    @classmethod
    def make(cls, cluster_id: bytes, member: str) -> Heading:
        """A heading with a fresh salt."""
        salt = secrets.token_bytes(16)
        name = member.encode("ascii")
        fields = _HEADING.pack(_MAGIC, salt, cluster_id, len(name), name)
        return cls(salt, cluster_id, member, fields + sha256(fields).digest())

    @classmethod
    def read(cls, text: bytes) -> Heading:
        """The heading of a file's bytes. Raises `FrameError`."""
        fields, check = text[: _HEADING.size], text[_HEADING.size : HEADING_SIZE]
        if len(text) < HEADING_SIZE or fields[: len(_MAGIC)] != _MAGIC:
            raise FrameError("it does not begin as a sign journal does")
        if sha256(fields).digest() != check:
            raise FrameError("its heading is damaged")
        _, salt, cluster_id, length, name = _HEADING.unpack(fields)
        return cls(salt, cluster_id, name[:length].decode("ascii", "replace"), text[:HEADING_SIZE])

    @property
    def check(self) -> bytes:
        """What the first frame names as the check before it."""
        return self.encoded[_HEADING.size :]


@dataclass(frozen=True, slots=True)
class Frame:
    """One durable write. `end` is the offset behind its body, where its seal is."""

    sequence: int
    body: bytes
    check: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Tail:
    """What is behind the last whole frame: how many bytes, and whether they are its seal."""

    size: int
    is_sealed: bool


def make_frame(heading: Heading, sequence: int, before: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The bytes of a frame and its check; `before` is the check of the frame before, or of the heading."""
    fields = _FRAME.pack(_FRAME_MAGIC, len(body), sequence, before, sha256(body).digest())
    check = _check(heading.salt, fields)
    return fields + check + body, check


def make_seal(heading: Heading, sequence: int, check: bytes) -> bytes:
    """The seal of the frame with this sequence and check."""
    fields = _SEAL.pack(_SEAL_MAGIC, sequence, check)
    return fields + _check(heading.salt, fields)


def read_frames(heading: Heading, text: bytes) -> tuple[list[Frame], Tail]:
    """All frames of a file's bytes, and what is behind them.

    Raises `FrameError` when a frame that was acknowledged is not there any more, or none is.
    """
    frames: list[Frame] = []
    offset, before = HEADING_SIZE, heading.check
    while (frame := _frame_at(heading, text, offset, len(frames), before)) is not None:
        frames.append(frame)
        offset, before = frame.end, frame.check
    sequence = len(frames)
    if not frames:
        raise FrameError("its first write, which is made together with the file, is damaged or missing")
    seal = make_seal(heading, sequence - 1, before)
    is_sealed = text[offset : offset + SEAL_SIZE] == seal
    if (witness := _find_later(heading, text, offset, sequence)) is not None:
        raise FrameError(
            f"write {sequence}, at byte {offset}, is damaged; {witness} shows that it was acknowledged"
        )
    return frames, Tail(len(text) - offset, is_sealed)


def _frame_at(heading: Heading, text: bytes, offset: int, sequence: int, before: bytes) -> Frame | None:
    fields = text[offset : offset + _FRAME.size]
    check = text[offset + _FRAME.size : offset + FRAME_SIZE]
    if len(fields) < _FRAME.size or _check(heading.salt, fields) != check:
        return None
    magic, length, found, link, digest = _FRAME.unpack(fields)
    if magic != _FRAME_MAGIC or found != sequence or link != before:
        return None
    end = offset + FRAME_SIZE + length
    body = text[offset + FRAME_SIZE : end]
    if len(body) != length or sha256(body).digest() != digest:
        return None
    return Frame(sequence, body, check, end)


def _find_later(heading: Heading, text: bytes, offset: int, sequence: int) -> str | None:
    """Something behind `offset` that was only written once the frame `sequence` was durable, if there is."""
    for place in _places(text, _SEAL_MAGIC, offset):
        fields = text[place : place + _SEAL.size]
        check = text[place + _SEAL.size : place + SEAL_SIZE]
        if len(fields) == _SEAL.size and check == _check(heading.salt, fields):
            sealed = _SEAL.unpack(fields)[1]
            if sealed >= sequence:
                return f"the seal of write {sealed} at byte {place}"
    for place in _places(text, _FRAME_MAGIC, offset):
        fields = text[place : place + _FRAME.size]
        check = text[place + _FRAME.size : place + FRAME_SIZE]
        if len(fields) == _FRAME.size and check == _check(heading.salt, fields):
            found = _FRAME.unpack(fields)[2]
            if found > sequence:
                return f"write {found} at byte {place}"
    return None


def _places(text: bytes, magic: bytes, offset: int) -> Iterator[int]:
    place = text.find(magic, offset)
    while place >= 0:
        yield place
        place = text.find(magic, place + 1)


def _check(salt: bytes, fields: bytes) -> bytes:
    return sha256(salt + fields).digest()
