"""Pacing: whoever asks too often has to wait, and nobody else."""

from __future__ import annotations

from typing import Final

__all__ = ["Pacer"]

MAX_REMEMBERED: Final = 4096
"""Names that are kept; those that owe nothing are forgotten first. They come from certificates."""


class Pacer:
    """A rate for each name, after a burst (the generic cell rate algorithm, ITU-T I.371).

    Args:
        per_second: how many a second each name may have in the long run.
        burst: how many at once before it has to wait.
        longest_seconds: the longest wait; who would have to wait longer does not owe more either.
    """

    def __init__(self, per_second: float, burst: int, longest_seconds: float) -> None:
        self._interval = 1 / per_second
        self._credit = burst / per_second
        self._longest = longest_seconds
        self._due: dict[str, float] = {}

    def delay(self, name: str, now: float, count: int = 1) -> float:
        """Count some for `name`, at `now` in seconds of any steady clock; the seconds it has to wait."""
        earliest = now - self._credit
        due = min(max(self._due.get(name, earliest), earliest) + count * self._interval, now + self._longest)
        if name not in self._due and len(self._due) >= MAX_REMEMBERED:
            self._forget(now)
        self._due[name] = due
        return max(0.0, due - now)

    def _forget(self, now: float) -> None:
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
        while len(self._due) >= MAX_REMEMBERED:
            del self._due[next(iter(self._due))]
