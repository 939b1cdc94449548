"""Many inputs, one after the other or on several processes. What fails is kept as a file, with its seed.

Seeds are shared out among the targets in a fixed pattern, so that a range of seeds is a piece of work: it can
be divided, repeated, and gone on with where it was interrupted.
"""

from __future__ import annotations

import resource
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Final

from replication.faults.fuzzing.corpus import entries_of, input_of
from replication.faults.fuzzing.targets import TARGETS, Target
from replication.faults.simulation.runner import spread

__all__ = [
    "MAX_GROWTH_BYTES",
    "MAX_SECONDS",
    "Failure",
    "FuzzReport",
    "check_corpus",
    "judge",
    "run_range",
    "run_seed",
    "schedule",
]

MAX_SECONDS: Final = 2.0
"""CPU time that one input may take; the slowest, an export of many lines, takes some hundredths."""

MAX_GROWTH_BYTES: Final = 128 * 1024 * 1024
"""How much the process may grow over a share of inputs. 32 MiB of it are the cache of decoded commands."""

CHUNK: Final = 5_000
"""Seeds of one piece of work."""

CHUNKS_A_STEP: Final = 10
"""Pieces that a process is started for, and after which progress is noted."""


@dataclass(frozen=True)
class Failure:
    """An input that broke a rule. `kind` tells failures apart, `detail` is for people."""

    target: str
    seed: int
    kind: str
    detail: str
    text: bytes

    def save(self, folder: Path) -> Path:
        """Write the input to a file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{self.seed}.input"
        path.write_bytes(self.text)
        return path


@dataclass
class FuzzReport:
    """What a range of seeds came to. `cpu_seconds` of all processes; `failures`: the first of each kind."""

    executions: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0
    slowest_seconds: float = 0.0
    growth_bytes: int = 0
    failures: dict[tuple[str, str], Failure] = field(default_factory=dict)

    def add(self, other: FuzzReport) -> None:
        """Add the report of other seeds."""
        self.executions.update(other.executions)
        self.accepted.update(other.accepted)
        self.cpu_seconds += other.cpu_seconds
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.growth_bytes = max(self.growth_bytes, other.growth_bytes)
        for key, failure in other.failures.items():
            self.failures.setdefault(key, failure)

    def as_document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "executions": self.executions.total(),
            "targets": dict(sorted(self.executions.items())),
            "accepted": dict(sorted(self.accepted.items())),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "executions_per_cpu_second": round(self.executions.total() / max(self.cpu_seconds, 1e-3)),
            "slowest_seconds": round(self.slowest_seconds, 4),
            "growth_bytes": self.growth_bytes,
            "failures": [
                {"target": each.target, "seed": each.seed, "kind": each.kind, "detail": each.detail}
                for each in self.failures.values()
            ],
        }


@lru_cache(maxsize=1)
def schedule() -> tuple[str, ...]:
    """Names of targets, each as often as its share, well mixed: seed s is for the s-th, over and over."""
    names = [target.name for target in TARGETS.values() for _ in range(target.share)]
    Random("shares").shuffle(names)
    return tuple(names)


def judge(target: Target, text: bytes) -> tuple[bool, tuple[str, str] | None]:
    """Whether the target accepts the input, and the kind and the detail of what it did wrong, if it did."""
    began = time.thread_time()
    try:
        target.read(text)
        accepted = True
    except target.refusals:
        accepted = False
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {place.name}"
        return False, (kind, f"{type(error).__name__}: {str(error)[:200]}")
    seconds = time.thread_time() - began
    if seconds > MAX_SECONDS:
        return accepted, ("too slow", f"{seconds:.1f} s of CPU for {len(text)} bytes")
    return accepted, None


def run_seed(name: str, seed: int, report: FuzzReport) -> None:
    """One execution."""
    target, text = TARGETS[name], input_of(name, seed)
    began = time.thread_time()
    accepted, wrong = judge(target, text)
    report.slowest_seconds = max(report.slowest_seconds, time.thread_time() - began)
    report.executions[name] += 1
    report.accepted[name] += accepted
    if wrong is not None:
        report.failures.setdefault((name, wrong[0]), Failure(name, seed, *wrong, text))


def run_range(
    first: int, count: int, *, only: str | None = None, workers: int = 1
) -> Iterator[tuple[int, FuzzReport]]:
    """Run the seeds from `first` on; yields, piece by piece, the next seed to run and what has come of those
    before it since the last one. `only` gives all seeds to one target."""
    end = first + count
    step = CHUNK * CHUNKS_A_STEP * workers
    for start in range(first, end, step):
        stop = min(start + step, end)
        jobs = [(at, min(at + CHUNK, stop), only) for at in range(start, stop, CHUNK)]
        report = FuzzReport()
        with spread(_job, jobs, workers) as parts:
            for part in parts:
                report.add(part)
        yield stop, report


def _job(job: tuple[int, int, str | None]) -> FuzzReport:
    first, end, only = job
    names: Sequence[str] = schedule() if only is None else (only,)
    for name in set(names):
        entries_of(name)  # made once in a process; not to be counted as growth
    report, before = FuzzReport(), _peak_bytes()
    began = time.process_time()
    for seed in range(first, end):
        run_seed(names[seed % len(names)], seed, report)
    report.cpu_seconds = time.process_time() - began
    report.growth_bytes = _peak_bytes() - before
    if report.growth_bytes > MAX_GROWTH_BYTES:
        detail = f"the process grew by {report.growth_bytes >> 20} MiB over the seeds {first} to {end - 1}"
        report.failures[names[0], "memory"] = Failure(names[0], first, "memory", detail, b"")
    return report


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_corpus() -> None:
    """Every input of the corpus must be accepted by its target: else it tests little. Raises what it
    raises."""
    for target in TARGETS.values():
        for entry in entries_of(target.name):
            target.read(entry.prefix + entry.text)
