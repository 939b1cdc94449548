"""Random scenarios: each seed draws a cluster, its faulty members, and a network, disks and clocks that
misbehave.

First safety is checked while the faults last; then a quorum is healed, and it must make progress. On every
change 5,000 seeds run; SIMULATION_SEEDS asks for more (`make soak`: 100,000), and SIMULATION_FROM for
others.
"""

from __future__ import annotations

import os

import pytest

from replication.faults.simulation.runner import run_seeds

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "5000"))
FIRST = int(os.environ.get("SIMULATION_FROM", "0"))
SHARE = 100


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FIRST, FIRST + SEEDS, SHARE))
def test_random_scenarios(start: int) -> None:
    summary = run_seeds(range(start, start + SHARE))
    print(
        f"seeds {start} to {start + SHARE - 1}: {summary.heights} blocks, {summary.view_changes} view changes"
    )
    assert summary.runs == SHARE
    assert summary.failures == [], "replay with: acp faults simulate --seed SEED"
    # A fault that never fires shows nothing.
    for kind in ("crash", "partition", "network"):
        assert any(name.startswith(kind) and count for name, count in summary.fired.items()), (
            kind,
            summary.fired,
        )
