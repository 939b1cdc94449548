"""The strict reader: one text for one meaning, and no foreign exception."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.record_factory import dumps

from replication.ledger.verify import MAX_LINE_BYTES, VerificationError, read_lines
from replication.ledger.verify.reading import MAX_INTEGER, Fields, keys, parse_document, parse_object, seconds

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
@example({"a": 9007199254740992.0, "b": -1e20, "c": 1e21, "d": 5e-324})
def test_canonical_texts_are_read(value: dict[str, object]) -> None:
    text = dumps(value)
    assert dumps(parse_object(text)) == text


@given(st.binary(max_size=60))
@example(b"{}")
@example(b"\xef\xbb\xbf{}")
@example(b'{"\\u0061":1}')
@example(b'{"a":-0}')
@example(b'{"a":1e2}')
@example(b'{"b":1,"a":1}')
@example(b'{"a":9007199254740992}')
@example(b'{"a":9007199254740993}')
@example(b'{"a":123456789012345680000}')
@example(b'{"a":' + b"9" * 5000 + b"}")
def test_all_else_is_refused_by_one_error(text: bytes) -> None:
    try:
        value = parse_object(text)
    except VerificationError:
        return
    assert dumps(value) == text


@pytest.mark.parametrize("text", [b"{}", b"{}\r\n", b"{}\n\n", b" {}\n", b"{} \n", b"\n", b"", b"{}{}\n"])
def test_a_document_ends_with_one_newline_and_has_nothing_else_around_it(text: bytes) -> None:
    assert parse_document(b"{}\n", 10) == {}
    with pytest.raises(VerificationError):
        parse_document(text, 10)


def test_a_document_has_a_limit() -> None:
    assert parse_document(b'{"a":1}\n', 8) == {"a": 1}
    with pytest.raises(VerificationError, match="longer than 7 bytes"):
        parse_document(b'{"a":1}\n', 7)


def test_lines_are_read_with_their_newlines_and_never_too_much_of_them() -> None:
    assert list(read_lines(io.BytesIO(b"a\nb\n\nc"))) == [b"a\n", b"b\n", b"\n", b"c"]
    sizes = [len(line) for line in read_lines(io.BytesIO(b"x" * (2 * MAX_LINE_BYTES)))]
    assert max(sizes) == MAX_LINE_BYTES + 1


@pytest.mark.parametrize(
    ("time_ms", "timestamp"), [(0, 0), (1000, 1), (1500, 1.5), (1_750_000_000_001, 1_750_000_000.001)]
)
def test_seconds(time_ms: int, timestamp: float) -> None:
    assert seconds(time_ms) == timestamp
    assert type(seconds(time_ms)) is type(timestamp)


def fields(value: object) -> Fields:
    return Fields({"a": value}, keys("a"), "outer")


@pytest.mark.parametrize("value", [True, False, 1.0, -1, 2**53, "1", None, [], {}])
def test_what_is_not_an_integer(value: object) -> None:
    assert fields(0).integer("a") == 0
    assert fields(MAX_INTEGER).integer("a") == MAX_INTEGER
    with pytest.raises(VerificationError, match=r"^outer.a must be an integer in 0\.\.9007199254740991"):
        fields(value).integer("a")


def test_integers_have_bounds() -> None:
    assert fields(2).integer("a", 2, low=2) == 2
    for wrong in (1, 3):
        with pytest.raises(VerificationError, match=r"outer.a must be an integer in 2\.\.2"):
            fields(wrong).integer("a", 2, low=2)


@pytest.mark.parametrize(
    "value", ["AB" * 32, "ab" * 31, "ab" * 33, "ab" * 32 + "\n", "\u0660" * 64, "", 1, None, "0x" + "0" * 62]
)
def test_what_is_not_a_digest(value: object) -> None:
    assert fields("ab" * 32).digest("a") == b"\xab" * 32
    with pytest.raises(VerificationError, match=r"outer\.a must be 64 lower-case hex digits"):
        fields(value).digest("a")
    with pytest.raises(VerificationError, match=r"outer.a\[1\] must be 64 lower-case hex digits"):
        fields(["00" * 32, value]).digests("a")


@pytest.mark.parametrize("value", ["ab" * 32, "AB" * 64, "ab" * 65, None])
def test_what_is_not_a_signature(value: object) -> None:
    assert fields("ab" * 64).signature("a") == b"\xab" * 64
    with pytest.raises(VerificationError, match=r"outer\.a must be 128 lower-case hex digits"):
        fields(value).signature("a")


def test_other_types() -> None:
    with pytest.raises(VerificationError, match=r"outer\.a must be a string"):
        fields(1).text("a")
    with pytest.raises(VerificationError, match=r"outer\.a must be one of x, y"):
        fields("z").choice("a", ("x", "y"))
    with pytest.raises(VerificationError, match=r"outer\.a must be an array"):
        fields({}).array("a")
    with pytest.raises(VerificationError, match=r"outer\.a must be an object"):
        fields([]).mapping("a")
    with pytest.raises(VerificationError, match=r"^outer\.a must be an object"):
        fields([]).inner("a", keys("b"))
    with pytest.raises(VerificationError, match="value must be an object"):
        Fields(None, keys("b"))


def test_keys_are_exactly_those_expected() -> None:
    assert fields({"b": 1}).inner("a", keys("b")).integer("b") == 1
    with pytest.raises(VerificationError, match=r"^missing b, c of outer\.a"):
        fields({"d": 1}).inner("a", keys("b c"))
    with pytest.raises(VerificationError, match=r'^unknown "c", "d" of outer\.a'):
        fields({"b": 1, "c": 2, "d": 3}).inner("a", keys("b"))
    with pytest.raises(VerificationError, match=r'^unknown "x{156}\.\.\.'):
        Fields({"x" * 5000: 1}, frozenset())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1), (1, True), (1.0, 1), ([True], [1]), ({"a": 0}, {"a": False}), (None, 0), ("", None)],
)
def test_equal_to_python_is_not_the_same(value: object, expected: object) -> None:
    fields(expected).fixed("a", expected, "it is")
    with pytest.raises(VerificationError, match=r"^outer\.a is .*, but it must be "):
        fields(value).fixed("a", expected, "it must be")
