"""The expiry times of the open proposals, soonest first."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sized
from heapq import heapify, heappop, heappush
from typing import Protocol

__all__ = ["Deadlines"]


class _OpenProposals(Container[str], Sized, Protocol):
    """Which proposals are open, and how many."""


class Deadlines:
    """A heap of (time in seconds, number of the proposal, its id).

    A proposal that is decided is not searched for; it is dropped when its time comes, or when such leftovers
    are more than half of the heap. So the size, and with it the cost of an operation, follows the number of
    open proposals and not how many there have been.
    """

    __slots__ = ("_heap",)

    _SLACK = 16  # leftovers too few to be worth a clean-up

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, expires_at: float, number: int, proposal_id: str, open_proposals: _OpenProposals) -> None:
        """Add an open proposal; of equal times, the lower number expires first. Amortised O(log open)."""
        heappush(self._heap, (expires_at, number, proposal_id))
        if len(self._heap) > 2 * len(open_proposals) + self._SLACK:
            self._heap = [item for item in self._heap if item[2] in open_proposals]
            heapify(self._heap)

    def pop_past(self, now: float) -> Iterator[str]:
        """Remove and yield, soonest first, the ids whose time is past: `now` later than it, not equal."""
        while self._heap and now > self._heap[0][0]:
            yield heappop(self._heap)[2]
