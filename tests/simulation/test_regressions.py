"""Scenarios in which something was found, word for word: what a seed draws changes with the generator."""

from __future__ import annotations

import pytest

from replication.faults.simulation.scenario import (
    CrashFaults,
    Healing,
    Partition,
    Scenario,
)
from replication.faults.simulation.world import run

REGRESSIONS = {
    # A member's COMMIT completed the certificate of a block, both were to be written, and the process died
    # after the block and before the promise. Its record then knew more of it than its sign state did, and it
    # took its disk for a restored backup: with one more member away, the cluster stood still for good.
    "block-written-before-the-promise-it-rests-on": Scenario(
        seed=1546,
        members=4,
        real_signatures=True,
        partitions=(
            Partition(kind="ring", start_ms=253, end_ms=3253, blocked=((0, 2), (1, 3), (2, 0), (3, 1))),
        ),
        crashes=CrashFaults(chance=0.3, min_down_ms=5, max_down_ms=10),
        clock_offsets_ms=(0, 0, -490, 0),
        clock_drifts_ppm=(-20000, 100, -100, 0),
        sync_us=(0, 0),
        batch=1,
        commands=8,
        window_ms=300,
        heartbeat_ms=50,
        max_backoff=4,
        fault_ms=800,
        max_events=8000,
        healing=Healing(quorum=(2, 0, 3, 1), others="gone", decisions=10),
    ),
}


@pytest.mark.parametrize("name", sorted(REGRESSIONS))
def test_what_was_found_stays_mended(name: str) -> None:
    result = run(REGRESSIONS[name])
    assert result.violations == ()
    assert any(kind.startswith("crash") and count for kind, count in result.fired.items())
