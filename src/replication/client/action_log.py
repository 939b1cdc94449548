"""What an executor has begun and ended: an append-only file, synced before each next step.

One JSON object a line. A line that was cut off by a crash is dropped; a damaged one in the middle is an
error, since what it said is not known any more. When the log is opened, it is written anew without what is
over: a success that the record holds.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from replication.client.model import ExecutionOutcome
from replication.errors import OperatorError, StorageError

__all__ = ["ActionLog", "ActionLogError", "Attempt"]


class ActionLogError(OperatorError):
    """The log of an executor cannot be used: it is damaged, or another executor has it."""

    reason: ClassVar[str] = "ACTION_LOG_REFUSED"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt on one decision. `ended_ms` is 0 while it is under way, or when a crash ended it."""

    outcome: ExecutionOutcome = ExecutionOutcome.FAILED
    detail: str = ""
    ended_ms: int = 0
    is_delivered: bool = False

    @property
    def is_undelivered(self) -> bool:
        """Whether its receipt has yet to reach the record."""
        return self.ended_ms > 0 and not self.is_delivered

    @property
    def is_over(self) -> bool:
        """Whether the record holds its success, so that nobody will ask again."""
        return self.is_delivered and self.outcome is ExecutionOutcome.SUCCEEDED


class ActionLog:
    """The attempts on each decision, by the hex digest of its proposal. Use as a context manager."""

    def __init__(self, path: Path, lock: int, state: _State) -> None:
        self._path = path
        self._lock = lock
        self._attempts = state.attempts
        self._newest = state.newest
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the log, or make it.

        Raises ActionLogError when it is damaged or in use, StorageError when the disk refuses.
        """
        lock = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file of its own: the log itself is replaced.
            lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = _replay(path, path.read_bytes() if path.exists() else b"")
            _rewrite(path, state)
            return cls(path, lock, state)
        except BaseException as error:
            if lock >= 0:
                os.close(lock)
            if isinstance(error, BlockingIOError):
                raise ActionLogError(
                    f"{path} is in use by another executor. Give each a file of its own."
                ) from error
            if isinstance(error, OSError):
                raise StorageError(f"{path} cannot be opened: {error.strerror}. Check the folder.") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        os.close(self._lock)

    def attempts(self, digest: str) -> tuple[Attempt, ...]:
        """The attempts on a decision, oldest first. The last may be one that a crash ended: it does not
        count."""
        found = self._attempts.get(digest, [])
        return tuple(attempt for attempt in found if attempt.ended_ms)

    def newest(self, target: str) -> int:
        """Place in the record of the newest decision about a target that `begin` was told of; -1 for none."""
        return self._newest.get(target, -1)

    def begin(self, digest: str, target: str = "", place: int = -1) -> None:
        """An attempt begins. `place` is where the record has the decision, if a later one about `target`
        overtakes it, else -1."""
        if place > self.newest(target):
            self._append({"target": target, "state": "newest", "place": place})
            self._newest[target] = place
        self._append({"digest": digest, "state": "begun"})
        self._attempts.setdefault(digest, []).append(Attempt())

    def end(self, digest: str, outcome: ExecutionOutcome, detail: str, ended_ms: int) -> Attempt:
        """The attempt ended."""
        attempt = Attempt(outcome, detail, ended_ms)
        self._append(_ended(digest, attempt))
        self._attempts[digest][-1] = attempt
        return attempt

    def delivered(self, digest: str) -> None:
        """The record has the receipt of the last attempt."""
        self._append({"digest": digest, "state": "delivered"})
        self._attempts[digest][-1] = replace(self._attempts[digest][-1], is_delivered=True)
        if self._attempts[digest][-1].is_over:
            del self._attempts[digest]

    def again(self, digest: str) -> None:
        """The attempts on a decision no longer count: somebody wants it tried again."""
        self._append({"digest": digest, "state": "again"})
        self._attempts.pop(digest, None)

    def _append(self, line: dict[str, Any]) -> None:
        data = _encoded(line)
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(0, "short write")
            os.fsync(self._descriptor)
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be written: {error.strerror}. Check the disk."
            ) from error


@dataclass(frozen=True, slots=True)
class _State:
    """What the lines of a file come to."""

    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)


def _rewrite(path: Path, state: _State) -> None:
    """Make the file anew, with what is not over: whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    lines: list[dict[str, Any]] = [
        {"target": target, "state": "newest", "place": place} for target, place in state.newest.items()
    ]
    for digest, found in state.attempts.items():
        for attempt in found:
            lines.append({"digest": digest, "state": "begun"})
            if attempt.ended_ms:
                lines.append(_ended(digest, attempt))
            if attempt.is_delivered:
                lines.append({"digest": digest, "state": "delivered"})
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.writelines(map(_encoded, lines))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _ended(digest: str, attempt: Attempt) -> dict[str, Any]:
    return {
        "digest": digest,
        "state": "ended",
        "outcome": attempt.outcome.value,
        "detail": attempt.detail,
        "ended_ms": attempt.ended_ms,
    }


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n"


def _replay(path: Path, data: bytes) -> _State:
    whole = data.rpartition(b"\n")[0]  # what is behind the last line feed was cut off by a crash
    state = _State()
    for number, line in enumerate(_lines(whole), 1):
        try:
            _apply(state, json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ActionLogError(
                f"{path}, line {number}, is damaged. Check the disk; what was done may be done again if you "
                "move the file away."
            ) from error
    return state


def _lines(whole: bytes) -> Iterable[bytes]:
    return whole.split(b"\n") if whole else ()


def _apply(known: _State, line: dict[str, Any]) -> None:
    state, attempts = line["state"], known.attempts
    if state == "newest":
        known.newest[str(line["target"])] = int(line["place"])
        return
    digest = line["digest"]
    if state == "begun":
        attempts.setdefault(digest, []).append(Attempt())
    elif state == "ended":
        outcome = ExecutionOutcome(line["outcome"])
        attempts[digest][-1] = Attempt(outcome, str(line["detail"]), int(line["ended_ms"]))
    elif state == "delivered":
        attempts[digest][-1] = replace(attempts[digest][-1], is_delivered=True)
        if attempts[digest][-1].is_over:
            del attempts[digest]
    elif state == "again":
        attempts.pop(digest, None)
    else:
        raise ValueError(f"unknown state {state!r}")
