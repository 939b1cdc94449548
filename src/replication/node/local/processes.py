"""Node processes of a local cluster: start them, find out whether they run, stop them by pid.

A pid in a file proves nothing, since pids are used again after a while. Before a process is signalled, its
command line in /proc has to name the node's home."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from replication.errors import OperatorError

__all__ = [
    "LOG_FILE",
    "LocalCluster",
    "is_node_of",
    "log_tail",
    "read_pid",
    "running_pid",
    "spawn_node",
    "stop_on_signal",
    "stop_pids",
]

PID_FILE: Final = "node.pid"
LOG_FILE: Final = "node.log"
STOP_SECONDS: Final = 10.0
"""A node that has not ended by then after SIGTERM is killed; its record survives that."""

_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 8


def read_pid(home: Path) -> int | None:
    """The pid in a home's node.pid; None when there is none or it is not a pid."""
    try:
        text = (home / PID_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() and 1 < int(text) < 2**31 else None


def is_node_of(pid: int, home: Path) -> bool:
    """Whether process `pid` is alive (no zombie) and was started as the node of `home`."""
    return _is_alive(pid) and _names(_command_line(pid), pid, home)


def _command_line(pid: int) -> bytes:
    """The command line of a process; empty when it is about to end, or is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _names(command_line: bytes, pid: int, home: Path) -> bool:
    """Whether a process with this command line was started as the node of `home`."""
    arguments = [os.fsdecode(word).removeprefix("--home=") for word in command_line.split(b"\0")[1:] if word]
    try:
        base = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        base = Path("/")
    wanted = home.resolve()
    return any(base.joinpath(item).resolve() == wanted for item in arguments)


def _is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended: a zombie has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def _has_ended(pid: int, home: Path) -> bool:
    """Whether the node is gone. One that is about to end has lost its command line already, and still
    counts."""
    if not _is_alive(pid):
        return True
    command_line = _command_line(pid)
    return bool(command_line) and not _names(command_line, pid, home)


def running_pid(home: Path) -> int | None:
    """The pid of the node that runs in `home`, None when none does."""
    pid = read_pid(home)
    return pid if pid is not None and is_node_of(pid, home) else None


def stop_pids(
    running: Mapping[Path, int],
    *,
    seconds: float = STOP_SECONDS,
    reap: Callable[[], object] = lambda: None,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """End the nodes of `running` (home to pid): SIGTERM, a wait, then SIGKILL for whoever is left.

    `reap` is called while waiting, for a parent that has to collect its children. Returns when all are gone.
    """
    for home, pid in running.items():
        _signal(home, pid, signal.SIGTERM)
    left = _wait_gone(running, seconds, reap)
    for home, pid in left.items():
        report(f"{home.name} (pid {pid}) did not stop within {seconds:g} s and is killed")
        _signal(home, pid, signal.SIGKILL)
    stuck = _wait_gone(left, seconds, reap)
    if stuck:
        names = ", ".join(f"{home.name} (pid {pid})" for home, pid in stuck.items())
        raise OperatorError(
            f"These nodes cannot be stopped: {names}. Look at them with ps; the disk may hang."
        )


@dataclass(slots=True)
class LocalCluster:
    """Nodes started as children of this process, one for each home.

    Use as a context manager to have them stopped.
    """

    homes: Sequence[Path]
    children: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    def start(self) -> list[Path]:
        """Start every node that does not run yet; return the homes of those that were started."""
        started = [home for home in self.homes if running_pid(home) is None]
        for home in started:
            self.children[home] = spawn_node(home)
        return started

    def pids(self) -> dict[Path, int]:
        """The pids of the children that are alive."""
        return {home: child.pid for home, child in self.children.items() if child.poll() is None}

    def ended(self) -> dict[Path, int]:
        """Exit codes of the children that have ended."""
        codes = {home: child.poll() for home, child in self.children.items()}
        return {home: code for home, code in codes.items() if code is not None}

    def stop(self, report: Callable[[str], None] = lambda text: None) -> None:
        """Stop all children and wait until they are gone."""
        stop_pids(self.pids(), reap=self._reap, report=report)
        for child in self.children.values():
            child.wait()  # it has ended, or is about to: its exit code is wanted

    def _reap(self) -> None:
        for child in self.children.values():
            child.poll()

    def require_alive(self) -> None:
        """Raise `OperatorError` with the end of its log if a node has ended."""
        for home, code in self.ended().items():
            raise OperatorError(
                f"{home.name} ended with exit code {code} while the cluster was starting. Its log "
                f"({home / LOG_FILE}) "
                f"ends with:\n{log_tail(home)}"
            )


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """While inside, SIGTERM raises `KeyboardInterrupt` like Ctrl-C does, once, so that nodes are stopped in
    good order.

    The event is set by either. A second signal is ignored: the nodes are being stopped already.
    """
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopped.is_set():
            return
        stopped.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_tail(home: Path, lines: int = _LOG_LINES) -> str:
    """The last lines of a node's log."""
    try:
        text = (home / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"  (no log: {error.strerror})"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (empty)"


def spawn_node(home: Path, command: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
    """Start the node of `home` as a child of this process; what it prints is added to its node.log.

    `command` runs something else in its place. It has to name the home, or it is never taken for the node.
    """
    own = (sys.executable, "-m", "replication.cli", "node", "--home", str(home.resolve()))
    try:
        with (home / LOG_FILE).open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches only us, and we stop the nodes in good
            # order.
            return subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
                command or own, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
    except OSError as error:
        raise OperatorError(f"{home.name} cannot be started: {error.strerror}. Check {home}.") from error


def _signal(home: Path, pid: int, number: signal.Signals) -> None:
    if is_node_of(pid, home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait_gone(running: Mapping[Path, int], seconds: float, reap: Callable[[], object]) -> dict[Path, int]:
    give_up = time.monotonic() + seconds
    left = dict(running)
    while True:
        reap()
        left = {home: pid for home, pid in left.items() if not _has_ended(pid, home)}
        if not left or time.monotonic() >= give_up:
            return left
        time.sleep(_POLL_SECONDS)
