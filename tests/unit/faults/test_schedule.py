"""Schedules: the same seed gives the same faults, within the bounds that the scenario sets."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from replication.faults.harness.reading import parse_scenario
from replication.faults.harness.schedule import draw_for, make_schedule, planned_from
from replication.faults.harness.selectors import SELECTORS, resolve_targets

MEMBERS = ("node-1", "node-2", "node-3", "node-4", "node-5", "node-6", "node-7")
TEXT = """
name = "random"
group = "process"
summary = "x"
[workload]
seconds = 30
[[faults]]
kind = "start-twice"
at_seconds = 4
[[faults]]
kind = "kill"
at_seconds = 1
[random]
from_seconds = 2
every_seconds = [0.2, 0.6]
for_seconds = [0.5, 1.5]
at_once = 2
[[random.faults]]
kind = "kill"
[[random.faults]]
kind = "silent"
messages = ["heartbeat", "command"]
"""
SCENARIO = parse_scenario(TEXT, "file")


@given(st.integers(0, 2**32))
def test_the_seed_decides_everything(seed: int) -> None:
    first, second = make_schedule(SCENARIO, seed), make_schedule(SCENARIO, seed)
    assert first == second
    assert [planned.number for planned in first] == list(range(1, len(first) + 1))
    assert [planned.start_ms for planned in first] == sorted(planned.start_ms for planned in first)


@given(st.integers(0, 2**32))
def test_random_faults_stay_within_their_bounds(seed: int) -> None:
    drawn = [
        planned
        for planned in make_schedule(SCENARIO, seed)
        if planned.start_ms >= 2_000 and planned.kind != "start-twice"
    ]
    assert len(drawn) > 5
    for planned in drawn:
        assert planned.end_ms is not None
        assert 500 <= planned.end_ms - planned.start_ms <= 1_501
        assert planned.end_ms <= 30_000
        at_once = [other for other in drawn if other.start_ms < planned.start_ms < (other.end_ms or 0)]
        assert len(at_once) < 2


def test_other_seeds_give_other_schedules() -> None:
    assert len({repr(make_schedule(SCENARIO, seed)) for seed in range(20)}) == 20


def test_instant_and_open_ended_faults() -> None:
    kinds = {
        planned.kind: planned for planned in make_schedule(SCENARIO, 1) if planned.start_ms in (1_000, 4_000)
    }
    assert kinds["start-twice"].end_ms == 4_000
    assert kinds["kill"].end_ms is None


@given(st.integers(0, 2**32))
def test_a_schedule_survives_being_written_down(seed: int) -> None:
    for planned in make_schedule(SCENARIO, seed):
        assert planned_from(json.loads(json.dumps(planned.as_document()))) == planned


@given(st.sampled_from(sorted(SELECTORS)), st.integers(1, 7), st.integers(0, 6), st.integers())
def test_selectors_choose_members(selector: str, nodes: int, coordinator: int, seed: int) -> None:
    members = MEMBERS[:nodes]
    chosen = resolve_targets([selector], members, members[coordinator % nodes], random.Random(seed))
    assert chosen
    assert list(chosen) == [member for member in members if member in chosen]
    faulty = max((nodes - 1) // 3, 1)
    if selector.startswith("minority"):
        assert len(chosen) == faulty
    if "coordinator" in selector and selector != "next-coordinator":
        assert members[coordinator % nodes] in chosen
    if selector == "follower" and nodes > 1:
        assert members[coordinator % nodes] not in chosen


def test_the_next_coordinator_is_the_next_in_order() -> None:
    draw = random.Random(1)
    assert resolve_targets(["next-coordinator"], MEMBERS[:4], "node-4", draw) == ("node-1",)
    assert resolve_targets(["all"], MEMBERS[:4], "node-4", draw) == MEMBERS[:4]
    assert resolve_targets(["node-3", "node-1", "node-3"], MEMBERS[:4], "node-4", draw) == (
        "node-1",
        "node-3",
    )


def test_what_is_drawn_for_a_fault_depends_on_seed_and_number_only() -> None:
    first, second, *_ = make_schedule(SCENARIO, 1)
    assert draw_for(first, 1).random() == draw_for(first, 1).random()
    assert draw_for(first, 1).random() != draw_for(second, 1).random()
    assert draw_for(first, 1).random() != draw_for(first, 2).random()
