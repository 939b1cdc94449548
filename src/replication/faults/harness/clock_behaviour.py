"""A host whose clock is wrong: `time.time` and `time.time_ns` of the process, changed from outside.

Only the wall clock. `time.monotonic`, the dates by which TLS judges certificates, and the kernel's own timers
stay right, as they do on a real host whose wall clock is set."""

from __future__ import annotations

import time
from typing import Final

from replication.faults.harness.behaviour import Behaviour
from replication.faults.harness.inside import Armed, Control
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Number

__all__ = ["BEHAVIOURS_HERE"]

_DAY: Final = 86_400.0


class _WrongClock:
    """The wall clock while the behaviour is armed, and the right one otherwise."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._right_ns = time.time_ns
        self._armed: Armed | None = None
        self._since_ns = 0

    def time_ns(self) -> int:
        """In place of `time.time_ns`."""
        now = self._right_ns()
        armed = self._control.armed("clock")
        if armed != self._armed:
            self._armed, self._since_ns = armed, time.monotonic_ns()
            if armed is not None:
                self._control.effect(armed, f"the clock is {armed.settings['jump_seconds']:+g} s off")
        if armed is None:
            return now
        elapsed = time.monotonic_ns() - self._since_ns
        off = armed.settings["jump_seconds"] * 1e9 + elapsed * (armed.settings["speed"] - 1.0)
        return now + int(off)

    def time(self) -> float:
        """In place of `time.time`."""
        return self.time_ns() / 1e9


def _install(control: Control) -> None:
    clock = _WrongClock(control)
    time.time_ns = clock.time_ns
    time.time = clock.time


BEHAVIOURS_HERE: Final = (
    Behaviour(
        name="clock",
        group=Group.PROCESS,
        summary="the host's clock jumps (and jumps back at the end), or runs at another speed",
        settings={"jump_seconds": Number(0.0, -_DAY, _DAY), "speed": Number(1.0, 0.0, 100.0)},
        install=_install,
    ),
)
