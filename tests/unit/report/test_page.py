"""The page of a report: all of it, nothing but it, and nothing runs in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.html_page import Page
from tests.support.record_factory import START_MS, RecordFactory, rich_record
from tests.unit.report.test_story import story_of

from replication.client.model import Missing
from replication.report import page as module
from replication.report.page import Subject, render
from replication.report.story import tell

EVIL = "<script>alert(1)</script>"


def subject_of(factory: RecordFactory, last: int = 10_000) -> Subject:
    return Subject(
        "west", "ab" * 32, START_MS + 99_000, "From a test.", story_of(factory, last), head="cd" * 32
    )


def test_it_shows_what_is_in_the_story() -> None:
    made = render(subject_of(rich_record(4)))
    page = Page(made)
    for words in (
        "Agent Consensus: west",
        "2025-06-15",
        "From a test.",
        "cdcdcdcdcdcdcdcd",
        "Not confirmed",
        "node-2: failed",
        "Each of them: 11 finished proposals",
        "NO QUORUM",
        "not asked",
        "71%",
        "No coordinator was replaced.",
        "The members are those of the genesis file.",
        "Nobody is on record",
    ):
        assert words in page.text, words
    assert page.tags.count("svg") == 1
    assert page.loads == []
    assert "script" not in page.tags


def test_an_empty_record() -> None:
    page = Page(render(Subject("", "ab" * 32, START_MS, "", tell([]))))
    assert "No proposals." in page.text
    assert "svg" not in page.tags


def test_the_text_of_strangers_is_text() -> None:
    factory = RecordFactory(4)
    factory.block()
    proposal = factory.propose("node-1", EVIL, EVIL)
    for voter in factory.ids:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    factory.block()
    factory.execute(proposal, "node-2", "failed", detail=EVIL)
    open_one = factory.propose("node-1", EVIL, EVIL)
    lacking = {open_one: (Missing("group <i>", 1, (EVIL,)), Missing("quorum", 2, ("node-1",)))}
    made = render(replace(subject_of(factory), name=EVIL, source=EVIL, missing=lacking))
    assert {"script", "i"}.isdisjoint(Page(made).tags)
    assert "group <i>: 1 of" in Page(made).text
    assert "nobody can fulfil it any more" in made
    assert made.count("&lt;script&gt;") > 8


def test_only_the_newest_are_listed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    text = Page(render(subject_of(rich_record(4)))).text
    assert "The newest 3 of 11 finished proposals" in text
    assert "prop-0010" in text
    assert "prop-0005" not in text
