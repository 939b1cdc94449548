"""Twins (Bano and others, 2022): one member runs as two processes with one key, under every pattern of
partitions.

Four members, one of them a twin, at most two partition blocks, three rounds: every canonical scenario, which
is every scenario but for renamings that change nothing.
"""

from __future__ import annotations

import time

import pytest

from replication.faults.simulation.runner import spread
from replication.faults.simulation.twins import TwinsReport, jobs, run_prefix

EXPECTED_SCENARIOS = 25_000
"""About 25,700; fewer would mean that some were left out."""


def _run(job: tuple[object, ...]) -> TwinsReport:
    return run_prefix(*job)  # type: ignore[arg-type]  # the two parts of a job


@pytest.mark.slow
def test_every_canonical_scenario() -> None:
    total = TwinsReport()
    began = time.perf_counter()
    with spread(_run, list(jobs()), 2) as reports:
        for report in reports:
            total.add(report)
    seconds = time.perf_counter() - began
    rate = total.scenarios / seconds
    print(f"{total.scenarios} scenarios in {seconds:.0f} s, {rate:.0f} a second, {total.commits} blocks")
    assert total.failures == []
    assert total.scenarios >= EXPECTED_SCENARIOS
    assert total.commits > total.scenarios, "scenarios in which nothing is committed show little"
