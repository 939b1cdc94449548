"""Planted contradictions among what a member signed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.drill_runs import DrillRun, changed_record, honest_statements, log_lines

from replication.faults.harness.checks import Verdict
from replication.faults.harness.checks.signatures import SignedStatement, check_signatures, parse_statement
from replication.identity import signbytes

OTHER = bytes([9]) * 32
ONE, TWO = bytes([1]) * 32, bytes([2]) * 32
LOCK: dict[str, Any] = {"has_lock": True, "lock_view": 0, "lock_hash": TWO}
NO_LOCK: dict[str, Any] = {"has_lock": False, "lock_view": 0, "lock_hash": bytes(32)}

CONTRADICTIONS: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = [
    ("two prepare", [("prepare", {"view": 1, "height": 2, "block_hash": OTHER})]),
    ("two commit", [("commit", {"view": 0, "height": 1, "block_hash": OTHER})]),
    ("two propose", [("propose", {"view": 1, "height": 2, "block_hash": OTHER})]),
    ("two newview", [("newview", {"view": 1, "tc_digest": OTHER})]),
    ("two timeout", [("timeout", {"view": 0, "committed_height": 2, **NO_LOCK})]),
    ("hides the lock", [("timeout", {"view": 1, "committed_height": 1, **NO_LOCK})]),
    ("reports less", [("timeout", {"view": 3, "committed_height": 0, **NO_LOCK})]),
    ("had given up", [("prepare", {"view": 0, "height": 3, "block_hash": OTHER})]),
    ("had given up", [("commit", {"view": 0, "height": 3, "block_hash": OTHER})]),
]


@pytest.mark.parametrize(("words", "more"), CONTRADICTIONS)
def test_a_contradiction_that_left_the_node_is_found(
    words: str, more: list[tuple[str, dict[str, Any]]]
) -> None:
    run = DrillRun()
    run.signed["node-2"] = log_lines(run.factory, "node-2", [*honest_statements(), *more])
    result = check_signatures(run.material())
    assert any(words in text and text.startswith("node-2") for text in result.violations)


@pytest.mark.parametrize(("words", "more"), CONTRADICTIONS)
def test_it_does_not_count_if_it_never_left(words: str, more: list[tuple[str, dict[str, Any]]]) -> None:
    run = DrillRun()
    unsent = log_lines(run.factory, "node-2", more, sent=False)
    run.signed["node-2"] = [*log_lines(run.factory, "node-2", honest_statements()), *unsent]
    assert check_signatures(run.material()).verdict is Verdict.PASSED, words


@pytest.mark.parametrize(("words", "more"), CONTRADICTIONS)
def test_it_does_not_count_in_another_epoch(words: str, more: list[tuple[str, dict[str, Any]]]) -> None:
    run = DrillRun()
    elsewhere = log_lines(run.factory, "node-2", more, epoch=8)
    run.signed["node-2"] = [*log_lines(run.factory, "node-2", honest_statements()), *elsewhere]
    assert check_signatures(run.material()).verdict is Verdict.PASSED, words


def test_a_member_that_was_made_to_contradict_itself_is_not_judged() -> None:
    run = DrillRun()
    run.signed["node-2"] = log_lines(run.factory, "node-2", [*honest_statements(), *CONTRADICTIONS[0][1]])
    assert check_signatures(run.material(culprits=frozenset({"node-2"}))).verdict is Verdict.PASSED


def test_the_same_statement_again_is_no_contradiction() -> None:
    run = DrillRun()
    run.signed["node-2"] = log_lines(run.factory, "node-2", [*honest_statements(), *honest_statements()[-3:]])
    assert check_signatures(run.material()).verdict is Verdict.PASSED


def test_a_statement_sent_again_after_a_time_out_is_no_contradiction() -> None:
    run = DrillRun()
    early = [*honest_statements()[:5], *honest_statements()[:4]]
    run.signed["node-2"] = log_lines(run.factory, "node-2", early)
    assert check_signatures(run.material()).verdict is Verdict.PASSED


def test_two_votes_on_one_proposal_in_two_records_are_found() -> None:
    run = DrillRun()
    place = next(index for index, entry in enumerate(run.record.entries) if entry["event_type"] == "vote")
    other = changed_record(run.record, place, value="reject")
    result = check_signatures(run.material(records=run.records_with("node-3", other)))
    assert any("two vote statements" in text for text in result.violations)


def test_without_logs_the_records_are_still_looked_at() -> None:
    result = check_signatures(DrillRun().material(signed=None))
    assert result.verdict is Verdict.PASSED
    assert "only what is in the records" in result.detail


def test_statements_are_read_as_they_are_laid_out() -> None:
    cluster = bytes(32)
    message = signbytes.statement_bytes(
        "commit", cluster, 5, view=3, height=9, block_hash=TWO, signer="node-1"
    )
    assert parse_statement(message) == SignedStatement("commit", 5, (3, 9, TWO.hex()))
    report = signbytes.timeout_bytes(cluster, 5, view=4, committed_height=8, signer="node-1", **LOCK)
    assert parse_statement(report) == SignedStatement("timeout", 5, (4, 8, True, 0, TWO.hex()))
    opened = signbytes.newview_bytes(cluster, 5, view=6, tc_digest=ONE, signer="node-1")
    assert parse_statement(opened) == SignedStatement("newview", 5, (6, ONE.hex()))
    assert parse_statement(signbytes.suspect_bytes(cluster, 5, view=6, signer="node-1")) is None


def test_what_is_no_statement_is_refused() -> None:
    with pytest.raises(ValueError, match="no signed statement"):
        parse_statement(b"\x0bhello world" + bytes(64))
    with pytest.raises(ValueError, match="no signed statement"):
        parse_statement(b"")
