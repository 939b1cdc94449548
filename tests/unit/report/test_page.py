"""The page of a report: all of it, nothing but it, and nothing runs in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from tests.support.html_page import Page
from tests.support.record_factory import START_MS, RecordFactory, rich_record
from tests.unit.report.test_story import story_of

from replication.client.diagnosis import Finding
from replication.client.model import ClusterStatus, Counters, MemberState, Missing
from replication.client.survey import ClusterPicture
from replication.report import page as module
from replication.report.page import Live, Subject, render
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
        "No coordinator was replaced in these entries.",
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


def member(name: str, *, reachable: bool) -> MemberState:
    return MemberState(name, f"{name}:1", reachable, 9, 12, "ef" * 32, 1, 0)


def test_how_the_nodes_are() -> None:
    states = tuple(
        member(name, reachable=name != "node-4") for name in ("node-1", "node-2", "node-3", "node-4")
    )
    counters = Counters(0, 0, 0.0, 0, 0)
    status = ClusterStatus(b"", "west", 2, 5, "node-1", 4, 1, 3, 3, "node-1", states, 0, counters, "1")
    picture = ClusterPicture(status, states, frozenset({"node-1", "node-2"}), {"node-2": "its disk is new"})
    finding = Finding("critical", "cluster", f"it cannot decide {EVIL}", "Bring them back.")
    page = Page(render(replace(subject_of(rich_record(4)), live=Live(picture, [finding]))))
    for words in (
        "CANNOT DECIDE",
        "Epoch 2, view 5; 3 of 4 members are needed",
        "node-1 (coordinator)ANSWERS",
        "node-2SIGNS NOTHING: ITS DISK IS NEW",
        "node-3HEARD BY OTHERS ONLY",
        "node-4SILENT",
        "CRITICALcluster",
    ):
        assert words in page.text, words
    assert "script" not in page.tags
    well = Live(replace(picture, muted={}), [])
    page = Page(render(replace(subject_of(rich_record(4)), live=well)))
    assert "CAN DECIDE" in page.text
    assert "Nothing is wrong with the nodes that answered." in page.text


def test_a_long_list_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = Page(render(subject_of(rich_record(4)))).tags.count("details")
    monkeypatch.setattr(module, "FOLDED_ROWS", 1)
    page = Page(render(subject_of(rich_record(4))))
    assert page.tags.count("details") == tags + 1
    assert "Each of them: 2" in page.text


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
)


def test_a_browser_shows_it_and_runs_and_loads_nothing(
    tmp_path: Path, not_run: Callable[[str], NoReturn]
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        not_run(f"none of {', '.join(BROWSERS)} is installed")
    factory = RecordFactory(4)
    factory.block()
    factory.propose("node-1", "<script>console.error('it ran')</script>", "<img src='http://127.0.0.1:9/x'>")
    made = render(replace(subject_of(factory), source=EVIL))
    file = tmp_path / "page.html"

    def opened(text: str) -> tuple[Page, str]:
        file.write_text(text, encoding="utf-8")
        command = [browser, *QUIET, f"--user-data-dir={tmp_path}/browser", "--dump-dom", file.as_uri()]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return Page(run.stdout), run.stderr

    shown, said = opened(made)
    page = Page(made)
    assert shown.tags.count("table") == page.tags.count("table") > 2
    assert {"script", "img"}.isdisjoint(shown.tags)
    assert "CONSOLE" not in said, said
    # That this would be noticed: a script that did get in does not run, and the browser says so.
    _, said = opened(made.replace("</body>", "<script>console.error('it ran')</script></body>"))
    assert "Content Security Policy" in said
    assert "it ran" not in said.replace("console.error('it ran')", "")
