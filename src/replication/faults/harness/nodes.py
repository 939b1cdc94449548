"""One node process under test: started, stopped, killed, paused, watched.

Several faults may hit one node at a time. Each that needs it down takes a `hold`; it is started again when
the last hold is gone. A process that ends without a hold, and without anybody having said that it `may_end`,
has failed by itself: the run fails with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from replication.faults.harness.inside import InsideFolder
from replication.node.home import NodeHome
from replication.node.local.processes import log_tail, spawn_node

__all__ = ["NodeExit", "NodeUnderTest"]

POLL_SECONDS: Final = 0.02
STOP_SECONDS: Final = 10.0

UP_WORDS: Final = " is up at "
"""What a node logs when it serves."""


@dataclass(frozen=True, slots=True)
class NodeExit:
    """The end of one process of a node. `code` is negative for a signal; `words` is the end of its log;
    `was_up` says whether it had come to serve."""

    member: str
    at: float
    code: int
    expected: bool
    words: str
    was_up: bool = True

    @property
    def is_orderly(self) -> bool:
        """Whether it stopped as a node does that is asked to; one that was still starting may just die."""
        return self.code == 0 or (self.code == -signals.SIGTERM and not self.was_up)


class NodeUnderTest:
    """The node of one home. `command` is what runs it; `report` is told of every end. `pace` is that of the
    site."""

    def __init__(
        self, member: str, home: Path, command: Sequence[str] | None, report: Callable[[NodeExit], None]
    ) -> None:
        self.member = member
        self.home = NodeHome(home)
        self.inside: InsideFolder | None = None
        self.exits: list[NodeExit] = []
        self.starts = 0
        self._log_at_start = 0
        self.paused = False
        self.pace = 1.0
        self._command = command
        self._report = report
        self._child: subprocess.Popen[bytes] | None = None
        self._holds: set[str] = set()
        self._may_end: set[str] = set()
        self._pauses: set[str] = set()

    @property
    def pid(self) -> int | None:
        """The pid of the running process, None when there is none."""
        return None if self._child is None or self._child.poll() is not None else self._child.pid

    @property
    def is_held(self) -> bool:
        """Whether somebody keeps it down."""
        return bool(self._holds)

    @property
    def may_be_down(self) -> bool:
        """Whether it is down, or allowed to go down, by somebody's will."""
        return bool(self._holds or self._may_end)

    def start(self) -> None:
        """Start it unless it runs or is held."""
        self.notice_end()
        if self._child is None and not self._holds:
            self._log_at_start = self.log_size()
            self._child = spawn_node(self.home.path, self._command)
            self.paused = False
            self._pauses.clear()
            self.starts += 1

    def notice_end(self) -> NodeExit | None:
        """Take note if the process has ended since the last look."""
        if self._child is None or (code := self._child.poll()) is None:
            return None
        self._child = None
        ended = NodeExit(
            self.member,
            time.monotonic(),
            code,
            self.may_be_down,
            log_tail(self.home.path, 4),
            was_up=UP_WORDS in self.log_since(self._log_at_start),
        )
        self.exits.append(ended)
        self._report(ended)
        return ended

    def allow_end(self, who: str) -> None:
        """From now on the process may end by itself, for the sake of `who`."""
        self._may_end.add(who)

    def forbid_end(self, who: str) -> None:
        """Take back what `allow_end` said."""
        self.notice_end()
        self._may_end.discard(who)

    async def hold(self, who: str, number: signals.Signals = signals.SIGKILL) -> int | None:
        """Keep it down for `who`: signal the process, wait until it is gone, return its pid (None if none
        ran).

        """
        self.notice_end()  # an end before this moment was nobody's will
        self._holds.add(who)
        pid = self.pid
        if pid is None:
            self.notice_end()
            return None
        self.signal(number)
        if number is not signals.SIGKILL:
            self.signal(signals.SIGCONT)
        await self._wait_gone(number)
        return pid

    def hold_now(self, who: str) -> None:
        """Keep down for `who` a node that has ended already."""
        self._holds.add(who)

    def release(self, who: str) -> None:
        """`who` no longer keeps it down; start it if nobody else does."""
        self._holds.discard(who)
        self.start()

    def pause(self, who: str) -> bool:
        """SIGSTOP for the sake of `who`; whether there was a process to stop."""
        if self.pid is None:
            return False
        self._pauses.add(who)
        self.paused = True
        self.signal(signals.SIGSTOP)
        return True

    def resume(self, who: str) -> None:
        """SIGCONT, unless another one wants it stopped."""
        self._pauses.discard(who)
        if not self._pauses and self.paused:
            self.paused = False
            self.signal(signals.SIGCONT)

    def signal(self, number: signals.Signals) -> None:
        """Send a signal to the process, which is a child of ours, so that its pid cannot have become
        another's.

        """
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, number)

    def state_letter(self) -> str:
        """The state of the process as the kernel has it (R, S, T, ...), empty when there is none."""
        pid = self.pid
        if pid is None:
            return ""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text.rpartition(")")[2].split()[0]

    def memory_kib(self) -> int | None:
        """Resident memory of the process in KiB, None when there is none."""
        pid = self.pid
        try:
            words = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        except OSError:
            return None
        return int(words[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)

    def log_size(self) -> int:
        """How long the node's log is now, in bytes."""
        log = self.home.log
        return log.stat().st_size if log.exists() else 0

    def log_since(self, size: int) -> str:
        """What was added to the node's log since it was so long."""
        if not self.home.log.exists():
            return ""
        with self.home.log.open("rb") as file:
            file.seek(size)
            return file.read().decode("utf-8", "replace")

    async def wait_end(self, seconds: float) -> NodeExit | None:
        """Wait until the process has ended by itself; None if it goes on."""
        before = len(self.exits)
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            self.notice_end()
            if len(self.exits) > before or self._child is None:
                return self.exits[-1] if self.exits else None
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def stop(self) -> None:
        """End it in good order, by force if it takes too long. For the end of a run."""
        await self.hold("end of the run", signals.SIGTERM)

    def kill_now(self) -> None:
        """SIGKILL, and wait. For the way out after an error; blocks for a moment."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait(STOP_SECONDS * self.pace)

    async def _wait_gone(self, number: signals.Signals) -> None:
        give_up = time.monotonic() + STOP_SECONDS * self.pace
        while self._child is not None:
            if self.notice_end() is not None:
                return
            if time.monotonic() > give_up and number is not signals.SIGKILL:
                number = signals.SIGKILL
                self.signal(number)
            await asyncio.sleep(POLL_SECONDS)
