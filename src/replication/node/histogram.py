"""Durations counted by bounds, cheaply enough for the work of ordering: an addition for each one.

What a monitoring system wants of them is made when it asks (`metrics`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

__all__ = ["DECISION_BOUNDS_US", "DURATION_BOUNDS_US", "Histogram"]

_SECOND: Final = 1_000_000

DURATION_BOUNDS_US: Final = (
    *(250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(_SECOND, 2_500_000, 5 * _SECOND, 10 * _SECOND, 30 * _SECOND),
)
"""For disks and calls, three a decade. From under what a sync costs on a fast disk, and a read from memory,
to where clients give up; the members suspect a coordinator after some hundred milliseconds, in the middle."""

DECISION_BOUNDS_US: Final = (
    *(5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, _SECOND, 2_500_000, 5 * _SECOND),
    *(15 * _SECOND, 60 * _SECOND, 300 * _SECOND, 900 * _SECOND, 3_600 * _SECOND, 14_400 * _SECOND),
)
"""For decisions: policies take milliseconds, and people up to hours."""


class Histogram:
    """Counts of durations up to and including each of `bounds_us`, and beyond the last; their sum."""

    __slots__ = ("_bounds_us", "_counts", "total_us")

    def __init__(self, bounds_us: tuple[int, ...] = DURATION_BOUNDS_US) -> None:
        self._bounds_us = bounds_us
        self._counts = [0] * (len(bounds_us) + 1)
        self.total_us = 0

    def add(self, duration_us: int) -> None:
        """One more, in whole microseconds."""
        self._counts[bisect_left(self._bounds_us, duration_us)] += 1
        self.total_us += duration_us

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """How many lasted no longer than each bound (in seconds, as text), and at last ``+Inf`` with all."""
        up_to = 0
        for bound_us, count in zip(self._bounds_us, self._counts, strict=False):
            up_to += count
            yield repr(bound_us / _SECOND), up_to
        yield "+Inf", up_to + self._counts[-1]
