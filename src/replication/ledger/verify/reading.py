"""Strict reading of untrusted JSON: one text for one meaning, and no foreign exception.

A text is accepted only when it is byte for byte the canonical JSON (RFC 8785) of what it says. So there are
no duplicate keys, no spare white space, no second spelling of a number or a letter, and every byte of a file
is bound to a value that somebody checks. `Fields` then takes an object apart: exactly the expected keys,
exactly the expected types (a bool is not an integer), exactly the legal ranges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from replication.consensus.canonical import canonical_json

from .errors import VerificationError

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_INTEGER",
    "MAX_LINE_BYTES",
    "MAX_TIME_MS",
    "Fields",
    "keys",
    "parse_document",
    "parse_object",
    "read_lines",
    "seconds",
]

# The longest legal line, a proposal with 64 KiB of evidence or a tally with 100 votes, fits many times.
MAX_LINE_BYTES = 1 << 20
# A decision certificate carries at most 100 vote entries with a reason of at most 1 KiB each.
MAX_CERTIFICATE_BYTES = 4 << 20
# The largest integer that every JSON reader keeps exactly (RFC 8785 section 3.2.2.3, RFC 7493 section 2.2).
MAX_INTEGER = 2**53 - 1
# The last millisecond of the year 9999: below it, seconds as a double tell any two milliseconds apart.
MAX_TIME_MS = 253_402_300_799_999

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def keys(names: str) -> frozenset[str]:
    """The keys of an object, given as names with spaces between them."""
    return frozenset(names.split())


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a binary file with their newlines, at most `MAX_LINE_BYTES` + 1 bytes of each."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line


def parse_document(text: bytes, limit: int) -> dict[str, object]:
    """Parse one canonical JSON object followed by exactly one newline; `limit` is in bytes."""
    if len(text) > limit:
        raise VerificationError(f"longer than {limit} bytes")
    if not text.endswith(b"\n"):
        raise VerificationError("does not end with a newline: the file was cut off or joined")
    return parse_object(text[:-1])


def parse_object(text: bytes) -> dict[str, object]:
    """Parse `text`, which must be the canonical JSON of an object and nothing else."""
    try:
        value: object = _decode(text.decode("utf-8"))
        canonical = canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"not readable as JSON: {_brief(error)}") from None
    if canonical != text:
        raise VerificationError("not in canonical form (RFC 8785), so not as it was written")
    if type(value) is not dict:
        raise VerificationError("not a JSON object")
    return value


def seconds(time_ms: int) -> int | float:
    """Return a block time as an entry's timestamp: an int when it is whole, else the nearest double."""
    return time_ms / 1000 if time_ms % 1000 else time_ms // 1000


class Fields:
    """An untrusted JSON object with exactly the keys `keys`; `path` names it in messages.

    Each method takes one member out, or raises `VerificationError` with its name and what it must be.
    """

    __slots__ = ("_path", "_values")

    def __init__(self, value: object, keys: frozenset[str], path: str = "") -> None:
        if type(value) is not dict:
            raise VerificationError(f"{path or 'value'} must be an object")
        if value.keys() != keys:
            _refuse_keys(value, keys, path)
        self._values: dict[str, object] = value
        self._path = f"{path}." if path else ""

    def has(self, key: str) -> bool:
        """Whether an optional key, one that the caller let in, is there."""
        return key in self._values

    def raw(self, key: str) -> object:
        """The value as it is, for a caller that compares or checks it itself."""
        return self._values[key]

    def name(self, key: str) -> str:
        """The member's full name for messages."""
        return self._path + key

    def integer(self, key: str, high: int = MAX_INTEGER, low: int = 0) -> int:
        """An integer in low..high."""
        value = self._values[key]
        if type(value) is not int or not low <= value <= high:
            self._refuse(key, f"must be an integer in {low}..{high}")
        return value

    def text(self, key: str) -> str:
        """A string."""
        value = self._values[key]
        if type(value) is not str:
            self._refuse(key, "must be a string")
        return value

    def choice(self, key: str, legal: tuple[str, ...]) -> str:
        """One of a few strings."""
        value = self.text(key)
        if value not in legal:
            self._refuse(key, f"must be one of {', '.join(legal)}")
        return value

    def digest(self, key: str) -> bytes:
        """32 bytes from lower-case hex."""
        return self._hex(key, self._values[key], _DIGEST)

    def signature(self, key: str) -> bytes:
        """64 bytes from lower-case hex."""
        return self._hex(key, self._values[key], _SIGNATURE)

    def array(self, key: str) -> list[object]:
        """A list."""
        value = self._values[key]
        if type(value) is not list:
            self._refuse(key, "must be an array")
        return value

    def digests(self, key: str) -> list[bytes]:
        """A list of 32-byte values from lower-case hex."""
        return [self._hex(f"{key}[{i}]", item, _DIGEST) for i, item in enumerate(self.array(key))]

    def mapping(self, key: str) -> dict[str, object]:
        """An object whose content is free (evidence)."""
        value = self._values[key]
        if type(value) is not dict:
            self._refuse(key, "must be an object")
        return value

    def inner(self, key: str, keys: frozenset[str]) -> Fields:
        """An object with exactly these keys."""
        return Fields(self._values[key], keys, self._path + key)

    def fixed(self, key: str, expected: object, why: str) -> None:
        """Exactly `expected`, of the same type; `why` says where the expectation comes from."""
        value = self._values[key]
        # Compared as text where there is something inside: to Python, [True] equals [1].
        if type(value) is not type(expected) or _comparable(value) != _comparable(expected):
            self._refuse(key, f"is {_show(value)}, but {why} {_show(expected)}")

    def _hex(self, key: str, value: object, pattern: re.Pattern[str]) -> bytes:
        if type(value) is not str or not pattern.fullmatch(value):
            self._refuse(key, f"must be {128 if pattern is _SIGNATURE else 64} lower-case hex digits")
        return bytes.fromhex(value)

    def _refuse(self, key: str, problem: str) -> NoReturn:
        raise VerificationError(f"{self._path}{key} {problem}")


def _refuse_keys(value: dict[str, object], keys: frozenset[str], path: str) -> NoReturn:
    of = f" of {path}" if path else ""
    if missing := sorted(keys - value.keys()):
        raise VerificationError(f"missing {', '.join(missing)}{of}")
    unknown = sorted(value.keys() - keys)
    raise VerificationError(f"unknown {', '.join(_show(key) for key in unknown)}{of}")


def _comparable(value: object) -> object:
    return canonical_json(value) if isinstance(value, dict | list) else value


def _number(text: str) -> int | float:
    """An integer; beyond those that a double keeps exactly, the double (in RFC 8785 numbers are doubles)."""
    value = int(text) if len(text) < 20 else float(text)
    return value if abs(value) <= MAX_INTEGER else float(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_int=_number, parse_constant=_refuse_constant).decode


def _brief(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__


def _show(value: object) -> str:
    """The value as JSON-like text, short enough for a message."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return text if len(text) <= 160 else f"{text[:157]}..."
