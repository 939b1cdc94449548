"""Many simulations at once, on all cores that are wanted. Each seed is a run of its own, so that the order of
completion changes nothing."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from replication.faults.simulation.scenario import draw
from replication.faults.simulation.world import Result, run

__all__ = ["Summary", "run_seeds", "simulate", "spread"]

T_ = TypeVar("T_")
R_ = TypeVar("R_")


@dataclass
class Summary:
    """What many runs came to. `failures`: the seed, the rule and the detail of each failed run."""

    runs: int = 0
    events: int = 0
    heights: int = 0
    view_changes: int = 0
    longest_progress_ms: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Add the summary of other runs."""
        self.runs += other.runs
        self.events += other.events
        self.heights += other.heights
        self.view_changes += other.view_changes
        self.longest_progress_ms = max(self.longest_progress_ms, other.longest_progress_ms)
        self.fired.update(other.fired)
        self.failures += other.failures

    def as_document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "runs": self.runs,
            "events": self.events,
            "heights": self.heights,
            "view_changes": self.view_changes,
            "longest_progress_ms": self.longest_progress_ms,
            "fired": dict(sorted(self.fired.items())),
            "failures": [
                {"seed": seed, "rule": rule, "detail": detail} for seed, rule, detail in self.failures
            ],
        }


def run_seeds(seeds: Iterable[int], *, lowest: int = 1, highest: int = 31) -> Summary:
    """Run some seeds one after the other."""
    summary = Summary()
    for seed in seeds:
        _count(summary, run(draw(seed, lowest=lowest, highest=highest)))
    return summary


def _count(summary: Summary, result: Result) -> None:
    summary.runs += 1
    summary.events += result.events
    summary.heights += result.height
    summary.view_changes += result.views
    summary.longest_progress_ms = max(summary.longest_progress_ms, result.progress_ms)
    summary.fired.update(result.fired)
    if result.failed:
        first = result.violations[0]
        summary.failures.append((result.scenario.seed, first.rule, first.detail))


def simulate(
    seeds: Sequence[int], *, workers: int = 2, lowest: int = 1, highest: int = 31
) -> Iterator[Summary]:
    """Run seeds on several processes; a summary for each share of them as it is done."""
    share = max(1, min(50, len(seeds) // (4 * workers) or 1))
    jobs = [(list(seeds[start : start + share]), lowest, highest) for start in range(0, len(seeds), share)]
    with spread(_job, jobs, workers) as results:
        yield from results


def _job(job: tuple[list[int], int, int]) -> Summary:
    seeds, lowest, highest = job
    return run_seeds(seeds, lowest=lowest, highest=highest)


@contextmanager
def spread(call: Callable[[T_], R_], jobs: Sequence[T_], workers: int) -> Iterator[Iterator[R_]]:
    """The results of `call` for each job, from `workers` processes; in this process when that is one."""
    if workers <= 1:
        yield map(call, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap_unordered(call, jobs)
