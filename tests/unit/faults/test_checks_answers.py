"""Planted lies in what clients were told: each is found, by the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.drill_runs import DrillRun, changed_record

from replication.faults.harness.checks import CHECKS, Material, Verdict, run_checks
from replication.faults.harness.checks.answers import (
    check_acknowledged,
    check_changed,
    check_doubled,
    check_phantoms,
)
from replication.faults.harness.checks.material import Record
from replication.faults.harness.history import Outcome

NOTHING = Record((), ())


def test_a_clean_run_passes_every_check() -> None:
    results = run_checks(DrillRun().material())
    assert [(result.name, result.verdict, result.violations) for result in results] == [
        (result.name, Verdict.PASSED, ()) for result in results
    ]
    assert len(results) == len(CHECKS)


@pytest.mark.parametrize("check", [check_acknowledged, check_changed, check_phantoms])
def test_a_check_that_sees_nothing_is_not_run(check: Callable[[Material], Any]) -> None:
    run = DrillRun()
    nothing = run.material(operations=[], records={"node-1": NOTHING})
    assert check(nothing).verdict is Verdict.NOT_RUN


def shorter(record: Record, sequence: int) -> Record:
    """The record without one entry."""
    return replace(record, entries=record.entries[:sequence] + record.entries[sequence + 1 :])


def place(record: Record, event_type: str, index: int = 0) -> int:
    """Where the entry of this type is."""
    return [number for number, entry in enumerate(record.entries) if entry["event_type"] == event_type][index]


@pytest.mark.parametrize("lost", ["propose", "tally", "execute"])
def test_an_acknowledged_write_that_one_node_lost_is_found(lost: str) -> None:
    run = DrillRun()
    record = shorter(run.record, place(run.record, lost))
    result = check_acknowledged(run.material(records=run.records_with("node-3", record)))
    assert result.verdict is Verdict.FAILED
    assert all("node-3 has not" in violation for violation in result.violations)


def test_an_acknowledged_vote_that_is_lost_is_found() -> None:
    run = DrillRun()
    answer = {"proposal_id": "prop-0001", "voter": "node-4", "value": "approve", "revision": 0}
    run.add("vote", {"proposal_id": "prop-0001", "value": "approve"}, answer, node="node-4")
    result = check_acknowledged(run.material())
    assert "vote of node-4 on prop-0001" in result.violations[0]


def test_another_decision_than_the_acknowledged_one_is_found() -> None:
    run = DrillRun()
    record = changed_record(run.record, place(run.record, "tally"), decision="rejected")
    material = run.material(records=dict.fromkeys(run.factory.ids, record))
    assert check_acknowledged(material).verdict is Verdict.FAILED
    assert check_changed(material).verdict is Verdict.FAILED


def test_a_proposal_that_nobody_made_is_found() -> None:
    run = DrillRun()
    run.operations = [item for item in run.operations if item.request.get("request_id") != "request-2"]
    assert "nobody asked for it" in check_phantoms(run.material()).violations[0]


def test_a_proposal_with_other_content_is_found() -> None:
    run = DrillRun()
    record = changed_record(run.record, place(run.record, "propose"), target="somebody-else")
    result = check_phantoms(run.material(records=dict.fromkeys(run.factory.ids, record)))
    assert "has target 'somebody-else'" in result.violations[0]


def test_a_proposal_that_was_refused_and_made_all_the_same_is_found() -> None:
    run = DrillRun()
    for item in run.operations:
        if item.request.get("request_id") == "request-1":
            item.outcome, item.answer = Outcome.REFUSED, {}
    assert "told that it was refused" in check_phantoms(run.material()).violations[0]


def test_a_refusal_is_fine_if_another_attempt_was_not_refused() -> None:
    run = DrillRun()
    run.add("propose", dict(run.operations[1].request), {}, outcome=Outcome.REFUSED)
    assert check_phantoms(run.material()).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("field", "value"),
    [("decision", "rejected"), ("digest", "00" * 32), ("action", "release"), ("target", "x")],
)
def test_two_answers_that_differ_are_found(field: str, value: str) -> None:
    run = DrillRun()
    run.propose(2, **{field: value})
    assert field in " ".join(check_changed(run.material()).violations)


def test_an_answer_with_a_vote_that_was_not_cast_so_is_found() -> None:
    run = DrillRun()
    run.propose(2, votes={"node-1": "reject"})
    assert "told that node-1 voted reject" in check_changed(run.material()).violations[0]


def test_an_undecided_answer_before_the_decision_is_no_contradiction() -> None:
    run = DrillRun()
    run.add(
        "read", {"proposal_id": "prop-0002"}, {**run.proposal_answer(1), "decision": "pending", "votes": {}}
    )
    assert check_changed(run.material()).verdict is Verdict.PASSED


def test_one_request_with_two_proposals_is_found() -> None:
    run = DrillRun()
    record = changed_record(run.record, place(run.record, "propose", 1), request_id="request-0")
    result = check_doubled(run.material(records={"node-1": record}))
    assert result.violations == ("request id request-0 made 2 proposals: prop-0001, prop-0002",)


def test_one_request_with_two_answers_is_found() -> None:
    run = DrillRun()
    run.add("propose", dict(run.operations[0].request), run.proposal_answer(3))
    assert "was answered with prop-0001, prop-0004" in check_doubled(run.material()).violations[0]


@pytest.mark.parametrize(
    ("event_type", "words"),
    [("vote", "vote of prop-0001 node-1 0"), ("tally", "tally of"), ("execute", "execution of")],
)
def test_what_happened_twice_is_found(event_type: str, words: str) -> None:
    run = DrillRun()
    entry = run.record.entries[place(run.record, event_type)]
    record = replace(run.record, entries=(*run.record.entries, entry))
    assert words in check_doubled(run.material(records={"node-1": record})).violations[0]
