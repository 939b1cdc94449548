"""The frame of pages: what strangers wrote is text, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.html_page import Page

from replication.errors import OperatorError
from replication.report.html import (
    Markup,
    bullets,
    document,
    facts,
    join,
    milliseconds,
    moment,
    number,
    save,
    table,
    text,
    verdict,
)

EVIL = """<script src="x">alert('1')</script><img src=x onerror=alert(2)>" onload="&amp;"""
FRAME = ["html", "head", "meta", "meta", "meta", "title", "style", "body"]


@given(st.text())
def test_any_text_is_shown_and_makes_no_element(words: str) -> None:
    page = Page(document(words, [text(words), table(["a"], [[words]], words), bullets([words], words)]))
    shown = ["div", "table", "caption", "thead", "tr", "th", "tbody", "tr", "td", "ul", "li"]
    assert page.tags in (FRAME + shown, [*FRAME, *(tag for tag in shown if tag != "caption" or words)])
    assert page.loads == []


def test_hostile_text_everywhere() -> None:
    parts = [facts({EVIL: EVIL}), verdict(EVIL, EVIL), join([EVIL, EVIL], EVIL), table([EVIL], [[EVIL]])]
    page = document(EVIL, parts)
    assert {"script", "img"}.isdisjoint(Page(page).tags)
    assert page.count("&lt;script") == 9
    assert 'onload="' not in page


def test_what_was_made_here_is_left_as_it_is() -> None:
    inner = text("<b>")
    assert inner == "&lt;b&gt;"
    assert (text(inner), join([Markup("<b>"), "<"])) == (inner, "<b>&lt;")


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x7f", "\u202e", "\ud800", "\u2066"])
def test_characters_that_turn_or_hide_text_are_replaced(char: str) -> None:
    assert text(f"a{char}b") == "a\ufffdb"
    document(char, []).encode("utf-8")


def test_nothing_is_a_dash_and_numbers_have_their_thousands_apart() -> None:
    assert (text(None), number(None), number(1234567), number("x")) == ("-", "-", "1,234,567", "x")
    assert bullets([]) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (0, "0 ms"),
        (999.4, "999 ms"),
        (1000, "1.00 s"),
        (119_999, "120.00 s"),
        (150_000, "2.5 min"),
    ],
)
def test_durations(value: float | None, shown: str | None) -> None:
    assert milliseconds(value) == shown


@pytest.mark.parametrize(
    ("at_ms", "shown"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (2**63 - 1, "9223372036854775808 ms"),
        (-(10**18), "-1000000000000000000 ms"),
    ],
)
def test_moments_that_no_calendar_has(at_ms: int, shown: str) -> None:
    assert moment(at_ms) == shown


def test_numbers_stand_at_the_right() -> None:
    made = table([">count", "name"], [[1, "a"]])
    assert '<th scope="col" class="number">count</th><th scope="col">name</th>' in made
    assert '<td class="number">1</td><td>a</td>' in made
    with pytest.raises(ValueError, match="zip"):
        table(["one"], [["a", "b"]])


def test_the_browser_is_told_to_run_and_fetch_nothing() -> None:
    page = document("t", [])
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    save(tmp_path / "new" / "page.html", "x")
    with pytest.raises(OperatorError, match="could not be written"):
        save(tmp_path / "new", "x")
