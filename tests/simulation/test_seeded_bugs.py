"""Each guard of the ordering protocol is removed once, and the simulator must notice."""

from __future__ import annotations

import pytest

from replication.faults.seeded_bugs import BUGS, hunt_by_name
from replication.faults.simulation.families import FAMILIES
from replication.faults.simulation.world import run


@pytest.mark.parametrize("name", [bug.name for bug in BUGS])
def test_a_removed_guard_is_noticed(name: str) -> None:
    caught = hunt_by_name(name)[1]
    assert caught is not None, "the bug stays unnoticed"
    print(f"{name}: {caught.rule} after {caught.scenarios} scenarios, {caught.seconds:.2f} s")


def test_there_are_enough_of_them() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25


@pytest.mark.parametrize("family", sorted({bug.family for bug in BUGS} - {"twins"}))
def test_without_a_bug_its_family_passes(family: str) -> None:
    """What catches a bug must not be caught itself: the same scenarios, nothing removed."""
    failures = [
        (seed, result.violations[0]) for seed in range(25) if (result := run(FAMILIES[family](seed))).failed
    ]
    assert failures == []
