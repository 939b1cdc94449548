"""TOML of strangers: what is nested too deeply is refused before the parser uses up the stack."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.node.toml_text import MAX_DEPTH, TomlError, parse_toml


def arrays(depth: int, inner: str = "") -> str:
    return "[" * depth + inner + "]" * depth


@pytest.mark.parametrize(
    "text",
    [
        "a = " + arrays(MAX_DEPTH),
        "a = " + "{b = " * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
        ".".join(["a"] * MAX_DEPTH) + " = 1",
        f'a = "{"[" * 100}"',
        f"a = '{'[' * 100}'",
        f'a = """{"[" * 100}"""""\nb = 1',
        f"a = '''{'[' * 100}\n'''",
        f"a = 1 # {'[' * 100}",
        'a = "\\"[[" # "\n' + "b = [[]]\n",
        "[t]\na = []\n[[u]]\n" * 1,
    ],
)
def test_what_is_flat_enough(text: str) -> None:
    assert parse_toml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + arrays(MAX_DEPTH + 1),
        "a = " + "{b = " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
        ".".join(["a"] * (MAX_DEPTH + 2)) + " = 1",
        "[" + ".".join(["a"] * 5_000) + "]",
        "a = " + arrays(20, "{b = " + arrays(20) + "}"),
        "a = " + '["]", ' * 100 + "]" * 100,
        "a = " + "[']', " * 100 + "]" * 100,
        "a = " + '["""]"""", ' * 100 + "]" * 100,
        "a = " + "[# ]\n" * 100 + "]" * 100,
        "a = " + "[" * 100_000,
    ],
)
def test_what_is_nested_too_deeply(text: str) -> None:
    with pytest.raises(TomlError, match="nested too deeply"):
        parse_toml(text)


def test_it_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomllib.loads", lambda _text: pytest.fail("it is parsed"))
    with pytest.raises(TomlError, match="nested too deeply"):
        parse_toml("a = " + arrays(1_000))


@given(st.text(st.sampled_from("\"'[]{}#\\\na=., "), max_size=60))
def test_any_text_gives_a_table_or_the_one_error(text: str) -> None:
    with contextlib.suppress(TomlError):
        assert isinstance(parse_toml(text), dict)


def test_open_strings_cost_one_look_at_each_character() -> None:
    """Quadratic, this would take hours."""
    for piece in ('"""\\', "'''a''", '"a\\', "'a", '"""a""'):
        with pytest.raises(TomlError):
            parse_toml("a = " + piece * 60_000)
