"""The time of a node: the wall clock, made fit for timers.

Block time has to be close to real time, so the replica runs on the wall clock. But a wall clock may be set
back, and a timer that then waited for the old hour to come again would freeze the node. So this clock never
goes
back: while the host's clock is behind it, it goes on at half speed until the host has caught up.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["NodeClock"]


class NodeClock:
    """Milliseconds since the Unix epoch, never going slower than half speed.

    `wall_ns` and `steady_ns` are the host's wall clock and a clock that only counts, both in nanoseconds.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        steady_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._steady_ns = steady_ns
        self._now_ns = wall_ns()
        self._read_ns = steady_ns()

    def __call__(self) -> int:
        """The time now, in milliseconds."""
        wall, steady = self._wall_ns(), self._steady_ns()
        elapsed, self._read_ns = steady - self._read_ns, steady
        self._now_ns = max(wall, self._now_ns + elapsed // 2)
        return self._now_ns // 1_000_000
