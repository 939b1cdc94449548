"""Planted failures of conduct: no progress, no recovery, false blame, processes that end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.drill_runs import DrillRun

from replication.faults.harness.checks import Record, Verdict
from replication.faults.harness.checks.conduct import (
    check_blame,
    check_processes,
    check_progress,
    check_views,
    decision_times,
)
from replication.faults.harness.scenario import Bounds


def with_entry(record: Record, event_type: str, data: dict[str, Any]) -> Record:
    entry = {**record.entries[-1], "event_type": event_type, "data": data}
    return replace(record, entries=(*record.entries, entry))


def test_too_few_decisions_after_the_healing_are_found() -> None:
    run = DrillRun()
    material = run.material(healed_ms=1_000.0, bounds=Bounds(decisions_after_healing=5, recover_seconds=2.0))
    assert "of 5 proposals made after the healing" in check_progress(material).violations[0]


def test_decisions_that_come_too_late_do_not_count() -> None:
    run = DrillRun()
    late = run.propose(3)
    late.end_ms = 60_000.0
    material = run.material(healed_ms=950.0, bounds=Bounds(decisions_after_healing=1, recover_seconds=2.0))
    assert "0 of 1 proposals" in check_progress(material).violations[0]


def test_nodes_that_never_agree_again_are_found() -> None:
    assert "did not come to one record" in check_progress(DrillRun().material(end_ms=None)).violations[0]


def test_a_stall_is_found_only_where_it_is_forbidden() -> None:
    run = DrillRun()
    for item in run.operations:
        item.start_ms += 8_000.0
        item.end_ms = (item.end_ms or 0.0) + 8_000.0
    bounds = Bounds(decisions_after_healing=0, recover_seconds=5.0)
    healed = {"healed_ms": 9_000.0, "end_ms": 9_500.0}
    assert check_progress(run.material(bounds=bounds, **healed)).verdict is Verdict.PASSED
    strict = replace(bounds, stall_seconds=4.0)
    assert "no decision for 8." in check_progress(run.material(bounds=strict, **healed)).violations[0]


def test_time_in_which_the_machine_stood_still_is_no_stall() -> None:
    run = DrillRun()
    for item in run.operations:
        item.start_ms += 8_000.0
        item.end_ms = (item.end_ms or 0.0) + 8_000.0
    bounds = Bounds(decisions_after_healing=0, recover_seconds=5.0, stall_seconds=6.0)
    times = {"bounds": bounds, "healed_ms": 9_000.0, "end_ms": 9_500.0}
    assert check_progress(run.material(**times)).verdict is Verdict.FAILED
    still = run.material(**times, lags=[(500.0, 2_000.0), (4_000.0, 6_000.0)])
    assert check_progress(still).verdict is Verdict.PASSED
    later = run.material(**times, lags=[(8_800.0, 12_000.0)])
    assert check_progress(later).verdict is Verdict.FAILED


def test_too_few_decisions_in_all_are_found() -> None:
    bounds = Bounds(decisions=50, decisions_after_healing=1, recover_seconds=5.0)
    assert "50 were expected" in check_progress(DrillRun().material(bounds=bounds)).violations[0]


def test_a_decision_counts_from_when_it_was_told_first() -> None:
    run = DrillRun()
    assert len(decision_times(run.material())) == 4
    assert decision_times(run.material())[0] == run.operations[0].end_ms


def test_view_changes_are_counted_in_the_record() -> None:
    run = DrillRun()
    record = with_entry(run.record, "coordinator", {"view": 1})
    one = run.material(records={"node-1": record}, bounds=Bounds(view_changes=(1, 1)))
    assert check_views(one).verdict is Verdict.PASSED
    none = run.material(bounds=Bounds(view_changes=(1, None)))
    assert "at least 1 had to be" in check_views(none).violations[0]
    many = run.material(records={"node-1": record}, bounds=Bounds(view_changes=(0, 0)))
    assert "at most 0 may be" in check_views(many).violations[0]


def test_an_accusation_of_an_innocent_member_is_found() -> None:
    run = DrillRun()
    record = with_entry(run.record, "evidence", {"accused": "node-3"})
    accused = run.material(records={"node-1": record})
    assert "accuses node-3" in check_blame(accused).violations[0]
    guilty = run.material(records={"node-1": record}, culprits=frozenset({"node-3"}))
    assert check_blame(guilty).verdict is Verdict.PASSED
    spared = replace(guilty, bounds=Bounds(innocent=True))
    assert check_blame(spared).verdict is Verdict.FAILED


def test_processes_that_end_by_themselves_and_unmet_faults_are_found() -> None:
    run = DrillRun()
    material = run.material(
        unexpected_ends=["node-1 ended by itself"], unmet=["node-2 started on a damaged record"]
    )
    assert check_processes(material).violations == (
        "node-1 ended by itself",
        "node-2 started on a damaged record",
    )
