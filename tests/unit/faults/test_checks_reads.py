"""Planted lies in what nodes showed to readers."""

from __future__ import annotations

from tests.support.drill_runs import DrillRun

from replication.faults.harness.checks import Verdict
from replication.faults.harness.checks.reads import check_reads


def test_a_head_that_is_not_on_the_chain_is_found() -> None:
    run = DrillRun()
    run.add("head", {}, {**run.head(5), "audit_head": "ab" * 32}, node="node-1")
    assert "which is not in the record" in check_reads(run.material()).violations[0]


def test_a_head_beyond_the_end_of_the_record_is_found() -> None:
    run = DrillRun()
    run.add("head", {}, {**run.head(5), "audit_size": 1_000}, node="node-1")
    assert check_reads(run.material()).verdict is Verdict.FAILED


def test_a_block_that_was_never_committed_is_found() -> None:
    run = DrillRun()
    run.add("head", {}, {**run.head(5), "block_hash": "cd" * 32}, node="node-1")
    assert "showed block cdcdcdcdcdcdcdcd at height 5" in check_reads(run.material()).violations[0]


def test_a_node_that_goes_back_is_found() -> None:
    run = DrillRun()
    run.add("head", {}, run.head(2), node="node-2")
    result = check_reads(run.material())
    assert result.violations[0].startswith("node-2 showed")


def test_a_node_whose_record_the_drill_took_away_may_go_back() -> None:
    run = DrillRun()
    run.add("head", {}, run.head(2), node="node-2")
    assert check_reads(run.material(robbed=frozenset({"node-2"}))).verdict is Verdict.PASSED


def test_another_node_may_be_behind() -> None:
    run = DrillRun()
    run.add("head", {}, run.head(2), node="node-4")
    assert check_reads(run.material()).verdict is Verdict.PASSED


def test_two_reads_at_the_same_time_may_overtake_each_other() -> None:
    run = DrillRun()
    newer = run.add("head", {}, run.head(5), node="node-3")
    older = run.add("head", {}, run.head(4), node="node-3")
    older.start_ms = newer.start_ms
    assert check_reads(run.material()).verdict is Verdict.PASSED


def test_a_decision_that_was_never_taken_is_found() -> None:
    run = DrillRun()
    shown = {**run.proposal_answer(0), "proposal_id": "prop-0099"}
    run.add("read", {"proposal_id": "prop-0099"}, shown, node="node-1")
    words = " ".join(check_reads(run.material()).violations)
    assert "was never decided" in words
    assert "digest that is not in the record" in words


def test_a_vote_that_is_not_in_the_record_is_found() -> None:
    run = DrillRun()
    shown = {**run.proposal_answer(1), "votes": {"node-4": "approve"}}
    run.add("read", {"proposal_id": "prop-0002"}, shown, node="node-1")
    assert "a vote of node-4 on prop-0002" in check_reads(run.material()).violations[0]


def test_receipts_that_are_not_in_the_record_are_found() -> None:
    run = DrillRun()
    run.add("read", {"proposal_id": "prop-0001"}, run.proposal_answer(0, receipts=2), node="node-1")
    assert "showed 2 receipts" in check_reads(run.material()).violations[0]


def test_a_decision_that_a_node_forgot_is_found() -> None:
    run = DrillRun()
    forgotten = {**run.proposal_answer(1), "decision": "pending"}
    run.add("read", {"proposal_id": "prop-0002"}, forgotten, node="node-2")
    assert "as undecided" in check_reads(run.material()).violations[0]


def test_a_node_may_show_a_proposal_as_undecided_before_it_learns_the_decision() -> None:
    run = DrillRun()
    early = {**run.proposal_answer(2), "decision": "pending", "votes": {}}
    run.add("read", {"proposal_id": "prop-0003"}, early, node="node-4")
    run.add("read", {"proposal_id": "prop-0003"}, run.proposal_answer(2), node="node-4")
    assert check_reads(run.material()).verdict is Verdict.PASSED
