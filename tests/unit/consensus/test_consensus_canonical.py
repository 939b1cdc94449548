"""Canonical JSON: known bytes, and everything that has none."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict
from typing import Any

import pytest

from replication.consensus.canonical import (
    MAX_DEPTH,
    MAX_EVIDENCE_DEPTH,
    canonical_json,
    copy_evidence,
    is_text,
)
from replication.consensus.errors import CanonicalJSONError, InvalidEvidenceError


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (-(2**53) + 1, "-9007199254740991"),
        (2**53 - 1, "9007199254740991"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (0.0001, "0.0001"),
        (0.00001, "0.00001"),
        (1e-7, "1e-7"),
        (1e16, "10000000000000000"),
        (1e21, "1e+21"),
        (333333333.33333329, "333333333.3333333"),
        ("é\u20ac\U0001f600", '"é\u20ac\U0001f600"'),
        ('"\\\b\f\n\r\t\x00\x1f\x7f/', '"\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001f\x7f/"'),
        ([], "[]"),
        ((1, (2,)), "[1,[2]]"),
        ({}, "{}"),
        ({"b": 1, "a": {"d": None, "c": [1.5]}}, '{"a":{"c":[1.5],"d":null},"b":1}'),
        ({"\ufb33": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ufb33":1}'),
        (OrderedDict(b=1, a=2), '{"a":2,"b":1}'),
        ({Colour.RED: Colour.RED, "level": Level.HIGH}, '{"level":3,"red":"red"}'),
    ],
)
def test_known_bytes(value: object, text: str) -> None:
    assert canonical_json(value) == text.encode()


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value, 1.0]}])
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        2**53,
        -(2**53),
        pytest.param(10**5000, id="huge"),
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {None: 2},
        {True: 2},
        b"bytes",
        {1, 2},
        object(),
        complex(1, 2),
    ],
)
def test_what_has_no_canonical_form(value: object, wrap: Any) -> None:
    with pytest.raises(CanonicalJSONError):
        canonical_json(wrap(value))


def _nested(depth: int, kind: type) -> Any:
    value: Any = 1.0 if depth % 2 else "leaf"
    for _ in range(depth):
        value = {"k": value} if kind is dict else kind([value])
    return value


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_the_depth_is_bounded(kind: type) -> None:
    for depth in (MAX_DEPTH - 1, MAX_DEPTH):
        assert canonical_json(_nested(depth, kind))
    for depth in (MAX_DEPTH + 1, MAX_DEPTH + 2, 100_000):
        with pytest.raises(CanonicalJSONError, match="deep"):
            canonical_json(_nested(depth, kind))


def test_a_container_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(CanonicalJSONError, match="holds itself"):
        canonical_json(loop)


def test_is_text() -> None:
    assert is_text("é\U0001f600")
    assert is_text("")
    assert not is_text("\ud800")
    assert not is_text(b"x")
    assert not is_text(None)


def test_the_copy_of_evidence_is_deep_and_plain() -> None:
    inner = {"tuple": (1, 2.5), "colour": Colour.RED, "level": Level.HIGH, "flag": True, "none": None}
    evidence = {"list": [inner], Colour.RED: 1e20}
    copy = copy_evidence(evidence)
    assert copy == {
        "list": [{"tuple": [1, 2.5], "colour": "red", "level": 3, "flag": True, "none": None}],
        "red": 1e20,
    }
    assert canonical_json(copy) == canonical_json(evidence)
    assert copy["list"][0] is not inner
    assert type(copy["list"][0]["colour"]) is str
    assert type(copy["list"][0]["level"]) is int
    assert copy["list"][0]["flag"] is True
    assert {type(key) for key in copy} == {str}
    assert json.loads(canonical_json(copy))


@pytest.mark.parametrize("value", [[1], "text", 5, b"x", {"a": float("nan")}, {"a": {1: 2}}, {"a": {1, 2}}])
def test_evidence_that_is_no_json_object(value: object) -> None:
    with pytest.raises(InvalidEvidenceError, match="evidence must be a JSON object"):
        copy_evidence(value)


@pytest.mark.parametrize("kind", [dict, list])
def test_evidence_has_a_smaller_depth_than_the_records_around_it(kind: type) -> None:
    fits = {"k": _nested(MAX_EVIDENCE_DEPTH - 1, kind)}
    assert copy_evidence(fits) == fits
    with pytest.raises(InvalidEvidenceError, match="deep"):
        copy_evidence({"k": _nested(MAX_EVIDENCE_DEPTH, kind)})
