"""Which fault comes when: the planned ones as they are, the random ones drawn from the seed before anything
starts.

The same scenario and seed give the same schedule. Selectors such as "coordinator" stay as they are: who that
is shows only when the time has come. What is drawn ("random", "minority") depends on the seed and the fault's
number alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from replication.faults.harness.catalogue import KINDS
from replication.faults.harness.fault import Planned
from replication.faults.harness.scenario import FaultSpec, Scenario

__all__ = ["draw_for", "make_schedule", "planned_from"]


def make_schedule(scenario: Scenario, seed: int) -> tuple[Planned, ...]:
    """All faults of a run in the order in which they begin."""
    items = [(spec, spec.at_seconds, spec.for_seconds, False) for spec in scenario.faults]
    items += [(*item, True) for item in _drawn(scenario, random.Random(f"schedule {seed}"))]
    items.sort(key=lambda item: item[1])
    return tuple(
        Planned(
            number=number,
            kind=spec.kind,
            targets=spec.targets,
            start_ms=_milliseconds(at),
            end_ms=_end(spec, at, lasts),
            permanent=spec.permanent,
            settings=spec.settings,
            until_replaced=spec.until_replaced,
            drawn=drawn,
        )
        for number, (spec, at, lasts, drawn) in enumerate(items, 1)
    )


def draw_for(planned: Planned, seed: int) -> random.Random:
    """The source of everything that is drawn for one fault while it runs."""
    return random.Random(f"fault {seed} {planned.number}")


def planned_from(document: Mapping[str, Any]) -> Planned:
    """A fault as `Planned.as_document` wrote it."""
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in document["settings"].items()
    }
    return Planned(
        number=document["number"],
        kind=document["kind"],
        targets=tuple(document["targets"]),
        start_ms=document["start_ms"],
        end_ms=document["end_ms"],
        permanent=document["permanent"],
        settings=settings,
        until_replaced=document["until_replaced"],
        drawn=document["drawn"],
    )


def _drawn(scenario: Scenario, draw: random.Random) -> list[tuple[FaultSpec, float, float | None]]:
    """The random faults: one after a pause, never more than `at_once` at a time."""
    plan = scenario.random
    if plan is None:
        return []
    items: list[tuple[FaultSpec, float, float | None]] = []
    ends = [0.0] * plan.at_once
    at = plan.from_seconds
    while True:
        slot = min(range(plan.at_once), key=ends.__getitem__)
        at = max(at, ends[slot])
        lasts = draw.uniform(*plan.for_seconds)
        spec = draw.choice(plan.choices)
        if at + lasts > scenario.workload.seconds:
            return items
        instant = KINDS[spec.kind].instant
        items.append((spec, at, None if instant else lasts))
        ends[slot] = at if instant else at + lasts
        at += draw.uniform(*plan.every_seconds)


def _end(spec: FaultSpec, at: float, lasts: float | None) -> int | None:
    if KINDS[spec.kind].instant:
        return _milliseconds(at)
    return None if lasts is None else _milliseconds(at + lasts)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
