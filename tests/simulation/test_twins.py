"""Twins (Bano and others, 2022): one member runs as two processes with one key, under every pattern of
partitions.

Four members, one of them a twin, at most two partition blocks, three rounds: every canonical scenario, which
is every scenario but for renamings that change nothing.
"""

from __future__ import annotations

import time

import pytest

from replication.faults.simulation.families import FAMILIES
from replication.faults.simulation.runner import spread
from replication.faults.simulation.twins import CANONICAL, Round, TwinsReport, jobs, run_prefix, run_rounds
from replication.faults.simulation.world import run


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
    assert total.scenarios == CANONICAL
    assert total.commits > total.scenarios, "scenarios in which nothing is committed show little"


def test_two_twins_of_four_fork() -> None:
    """The positive control: with more than f twins each partition block has a quorum of its own."""
    halves = Round(coordinator=0, with_first=frozenset({0, 1, 2}))
    failures, trace = run_rounds([halves, halves], twins=1)
    assert failures == [], trace
    failures, trace = run_rounds([halves, halves], twins=2)
    assert len(failures) == 1, trace
    assert "agreement" in failures[0]


def test_more_than_f_liars_fork() -> None:
    """The same with adversaries of the random scenarios: they must fork in a fair share of them."""
    rules = [
        result.violations[0].rule for seed in range(40) if (result := run(FAMILIES["beyond"](seed))).failed
    ]
    print(f"{len(rules)} of 40 scenarios failed")
    assert rules.count("agreement") >= 4
