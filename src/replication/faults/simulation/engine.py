"""The heart of a simulation: one clock, one heap of events, one trace. No threads, no real time, no I/O."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

__all__ = ["Engine", "Trace", "Violation"]


@dataclass(frozen=True)
class Violation:
    """A property that does not hold. `rule` is its stable short name."""

    rule: str
    detail: str
    time_us: int

    def __str__(self) -> str:
        return f"{self.rule} at {self.time_us / 1000:.3f} ms: {self.detail}"


class Trace:
    """What happened, as a running hash, and as text when somebody wants to read it."""

    def __init__(self, *, readable: bool = False) -> None:
        self.lines: list[str] = []
        self.readable = readable
        self._hash = sha256()

    def note(self, line: str) -> None:
        """Take in one event."""
        self._hash.update(line.encode() + b"\n")
        if self.readable:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Hash over all events so far."""
        return self._hash.hexdigest()


@dataclass
class Engine:
    """Virtual time in microseconds, and what happens when.

    `fired` counts every fault that really took place; `violations` stop the run.
    """

    trace: Trace
    now_us: int = 0
    events: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    _heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    _sequence: int = 0

    def after(self, delay_us: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call something `delay_us` from now. Events of one instant keep the order in which they were
        planned."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_us + max(0, delay_us), self._sequence, call, arguments))

    def violate(self, rule: str, detail: str) -> None:
        """Report a broken property."""
        self.trace.note(f"VIOLATION {rule}: {detail}")
        self.violations.append(Violation(rule, detail, self.now_us))

    def run(self, until_us: int, *, max_events: int, stop: Callable[[], bool] | None = None) -> bool:
        """Run until a time, an event budget, a violation, or until `stop` says so (asked after each event).

        Returns False when the event budget ran out.
        """
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            if self.events >= max_events:
                return False
            self.now_us, _, call, arguments = heapq.heappop(heap)
            self.events += 1
            call(*arguments)
            if self.violations or (stop is not None and stop()):
                return True
        self.now_us = max(self.now_us, until_us)
        return True
