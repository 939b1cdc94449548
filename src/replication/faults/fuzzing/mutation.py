"""What is done to valid inputs: edits of bytes, of protobuf messages field by field, and of JSON trees."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from replication.consensus.canonical import canonical_json

__all__ = ["edit_bytes", "edit_json", "edit_lines", "edit_message", "noise"]

MAX_INPUT_BYTES: Final = 5 * 1024 * 1024
"""A little over the largest message that a node takes: what is larger never reaches a decoder."""

MAX_COPIES_BYTES: Final = 256 * 1024
"""What copies of one part may take, so that an edit of copies of copies stays within memory."""

_INTEGERS: Final = (
    0,
    1,
    2,
    3,
    4,
    5,
    127,
    128,
    255,
    256,
    65_535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53 - 1,
    2**53,
)
_LARGE: Final = (253_402_300_799_999, 253_402_300_800_000, 2**63 - 1, 2**63, 2**64 - 1)
_TOKENS: Final = (
    *(b"\x00", b"\xff", b"\x80", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"),
    *(b"{", b"}", b"[", b"]", b"[[", b"]]", b'"', b'"""', b"'", b",", b":", b"=", b"#", b"\\", b"\\u0000"),
    *(b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e999", b"-1", b"0.1", b"1E400", b"\\ud800", b"9" * 25),
    *(
        b"9" * 5_000,
        b"[" * 3_000,
        b'{"a":' * 2_000,
        b"a." * 2_000 + b"a = 1",
        b"1e-999",
        b"0x" + b"f" * 4_000,
    ),
    *(b"1979-05-27T07:32:00Z", b"07:32:00", b"9999-99-99", b"nan", b"inf", b"+inf", b"0o7", b"0b1", b"1_000"),
    *(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff\xff\xff\xff\x0f", b"\x0b", b"\x0c" * 200, b"\x7f"),
    *(b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----", b"..", b"/", b"%", b"node-1", b"0" * 64),
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e21, 1e300, 2**53, 2**63, -(2**63), 2**70, 10**400),
    *("", "a", "0" * 64, "0" * 128, "F" * 64, "ä", "\x00", "\ud800", "x" * 70_000, "1/2", "1/0", "9" * 30),
    *([], {}, [[]], [None], {"": None}, {"a": 1}, [1] * 300),
)
_WORDS: Final = (
    *(
        "",
        "a",
        ".",
        "..",
        "node-1",
        "node-5",
        "x" * 64,
        "x" * 65,
        "x" * 1_025,
        "é" * 600,
        "\x00",
        " ",
        "A.B_c-9",
    ),
    *(
        "{}",
        "[]",
        "{",
        '{"a":1e999}',
        '{"a":1,"a":2}',
        '{"a":NaN}',
        '{"a":"\\ud800"}',
        '{"b":1,"a":2}',
        "null",
    ),
    *(
        '{"a":' * 40 + "1" + "}" * 40,
        "[" * 5_000,
        '{"a":' + "9" * 5_000 + "}",
        "prop-0001",
        "prop-99999",
        "-1",
    ),
    *("1" * 20, "0", "00", "٣", "²", "1e3", "+1", "1.0", "9" * 5_000),
)
_NUMBERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def noise(rng: Random) -> bytes:
    """Random bytes, short mostly."""
    return rng.randbytes(rng.choice((0, 1, 2, 3, 8, 40, 200, 3_000)))


# ------------------------------------------------------------------------------------------------------ bytes


def edit_bytes(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """A few edits anywhere. `corpus` gives pieces of other inputs."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        text = rng.choice(_EDITS)(text, rng, corpus)
    return text[:MAX_INPUT_BYTES]


def _span(text: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randint(0, len(text))
    return start, min(len(text), start + rng.choice((1, 2, 4, 8, 32, 200)))


def _flip(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    if not text:
        return text
    changed, at = bytearray(text), rng.randrange(len(text))
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    start, _ = _span(text, rng)
    return (
        text[:start] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + text[start + 1 :]
    )


def _insert(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    start, _ = _span(text, rng)
    return text[:start] + rng.choice(_TOKENS) + text[start:]


def _replace(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    start, end = _span(text, rng)
    return text[:start] + rng.choice(_TOKENS) + text[end:]


def _delete(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    start, end = _span(text, rng)
    return text[:start] + text[end:]


def _double(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    start, end = _span(text, rng)
    return text[:end] + text[start:end] * rng.choice((1, 1, 1, 2, 100)) + text[end:]


def _cut(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    return text[: rng.randint(0, len(text))]


def _splice(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    other = rng.choice(corpus)
    return text[: rng.randint(0, len(text))] + other[rng.randint(0, len(other)) :]


def _number(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(_INTEGERS + _LARGE) & ((1 << 8 * size) - 1)
    start, _ = _span(text, rng)
    number = value.to_bytes(size, "little") if rng.random() < 0.5 else value.to_bytes(size, "big")
    return text[:start] + number + text[start + size :]


def _digit(text: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Another digit for a digit: numbers and hex stay well-formed."""
    for _ in range(20):
        if not text:
            return text
        at = rng.randrange(len(text))
        if text[at : at + 1].isdigit():
            return text[:at] + str(rng.randrange(10)).encode() + text[at + 1 :]
    return text


_Edit = Callable[[bytes, Random, Sequence[bytes]], bytes]
_EDITS: Final[tuple[_Edit, ...]] = (
    *(_flip, _flip, _set, _insert, _replace, _delete, _double, _cut, _splice, _number, _digit),
)


# --------------------------------------------------------------------------------------------------- protobuf


def edit_message(message: Message, rng: Random, donors: Sequence[Message]) -> bytes:
    """The serialisation after a few edits of fields; `message` is changed. `donors` give whole parts."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _edit_fields(message, rng, donors)
    text: bytes = message.SerializeToString()
    if rng.random() < 0.1:  # an unknown field, a field given twice, or a long number
        text += rng.choice((b"\xa2\x06\x03abc", b"\x08\x01", b"\xf8\x01\x80\x80\x01", text[:40]))
    return text[:MAX_INPUT_BYTES]


def _edit_fields(message: Message, rng: Random, donors: Sequence[Message]) -> None:
    field: FieldDescriptor = rng.choice(message.DESCRIPTOR.fields)  # type: ignore[assignment]  # a bare list
    if field.is_repeated:
        _edit_repeated(message, field, rng, donors)
    elif field.message_type is not None:
        part = getattr(message, field.name)
        choice = rng.random()
        if choice < 0.1:
            message.ClearField(field.name)
        elif choice < 0.2:
            part.SetInParent()
        elif choice < 0.3:
            _transplant(part, rng, donors)
        elif field.message_type.fields:
            _edit_fields(part, rng, donors)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), rng))


def _edit_repeated(message: Message, field: FieldDescriptor, rng: Random, donors: Sequence[Message]) -> None:
    items = getattr(message, field.name)
    choice = rng.random()
    if choice < 0.15:
        del items[:]
    elif choice < 0.3 and len(items):
        del items[rng.randrange(len(items))]
    elif choice < 0.5 and len(items):
        extra = items[rng.randrange(len(items))]
        wanted = rng.choice((1, 1, 2, 101, 1_025))
        items.extend([extra] * min(wanted, 1 + MAX_COPIES_BYTES // (1 + _size(extra))))
    elif field.message_type is None:
        items.append(_scalar(field, items[0] if len(items) else _empty(field), rng))
    elif len(items) and choice < 0.9:
        _edit_fields(items[rng.randrange(len(items))], rng, donors)
    else:
        _transplant(items.add(), rng, donors)


def _transplant(part: Message, rng: Random, donors: Sequence[Message]) -> None:
    """The content of a part of the same type somewhere in a donor, if one is found."""
    found = _find(rng.choice(donors), part.DESCRIPTOR.full_name, 6)
    if found is not None:
        part.CopyFrom(found)


def _find(message: Message, name: str, depth: int) -> Message | None:
    if message.DESCRIPTOR.full_name == name:
        return message
    for field, value in message.ListFields() if depth else ():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else (value,):
            found = _find(part, name, depth - 1)
            if found is not None:
                return found
    return None


def _size(item: Any) -> int:
    return (
        item.ByteSize()
        if isinstance(item, Message)
        else 1 + len(item)
        if isinstance(item, bytes | str)
        else 8
    )


def _empty(field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b""
    return "" if field.type == FieldDescriptor.TYPE_STRING else 0


def _scalar(field: FieldDescriptor, value: Any, rng: Random) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _edited_value(value, rng)
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_WORDS) if rng.random() < 0.7 else value + rng.choice(_WORDS)
    if field.cpp_type in _NUMBERS:
        low, high = _NUMBERS[field.cpp_type]
        wanted = rng.choice((value + 1, value - 1, *_INTEGERS, *_LARGE, -1))
        return min(max(wanted, low), high)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return not value
    return rng.choice((0.0, -1.0, 0.5, 1.5, float("nan"), float("inf"), 1e308))


def _edited_value(value: bytes, rng: Random) -> bytes:
    choice = rng.random()
    if choice < 0.4:
        return edit_bytes(value, rng, (value,))
    return rng.choice((b"", value[:-1], value + b"\x00", bytes(32), bytes(64), bytes(70_000), b"\xff" * 32))


# ------------------------------------------------------------------------------------------------------- JSON


def edit_json(text: bytes, rng: Random) -> bytes:
    """The text of a JSON document after a few edits of its tree, canonical if it can be."""
    tree: Any = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _edit_tree(tree, rng)
    end = b"\n" if text.endswith(b"\n") else b""
    if rng.random() < 0.9:
        try:
            return canonical_json(tree) + end
        except (ValueError, RecursionError):
            pass
    return json.dumps(tree, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    ) + rng.choice((end, b""))


def _edit_tree(tree: Any, rng: Random) -> Any:
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        choice = rng.random()
        if choice < 0.08:
            del tree[key]
        elif choice < 0.14:
            tree[rng.choice(("", "x", "id", key + "x", "\ud800", "weight"))] = tree[key]
        elif choice < 0.2:
            tree[key] = tree[rng.choice(list(tree))]
        else:
            tree[key] = _edit_tree(tree[key], rng)
        return tree
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        at = rng.randrange(len(tree))
        choice = rng.random()
        if choice < 0.15:
            del tree[at]
        elif choice < 0.3:
            tree.insert(rng.randint(0, len(tree)), tree[at])
        elif choice < 0.4:
            rng.shuffle(tree)
        else:
            tree[at] = _edit_tree(tree[at], rng)
        return tree
    return _edit_leaf(tree, rng)


def _edit_leaf(leaf: Any, rng: Random) -> Any:
    choice = rng.random()
    if choice < 0.4:
        return copy.deepcopy(rng.choice(_VALUES))  # edits must not change the list
    if isinstance(leaf, str) and leaf:
        at = rng.randrange(len(leaf))
        return leaf[:at] + rng.choice(("", "0", "a", "f", "A", "-", " ", leaf[at] * 2)) + leaf[at + 1 :]
    if isinstance(leaf, int | float) and not isinstance(leaf, bool):
        return rng.choice(
            (leaf + 1, leaf - 1, -leaf, float(leaf) if abs(leaf) < 2**60 else 0, str(leaf), *_LARGE)
        )
    return rng.choice((leaf, [leaf], {"a": leaf}))


def edit_lines(text: bytes, rng: Random) -> bytes:
    """A file of JSON lines with lines edited, left out, doubled or moved."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2))):
        at, choice = rng.randrange(len(lines)), rng.random()
        if choice < 0.6:
            lines[at] = edit_json(lines[at], rng)
        elif choice < 0.7 and len(lines) > 1:
            del lines[at]
        elif choice < 0.8:
            lines.insert(rng.randint(0, len(lines)), lines[at])
        elif choice < 0.9:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = lines[at].rstrip(b"\n") + rng.choice((b"", b"\r\n", b"\n\n", b" \n"))
        try:
            json.loads(lines[at % len(lines)])
        except (ValueError, RecursionError):
            break
    return b"".join(lines)
