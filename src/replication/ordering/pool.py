"""Commands that wait to be ordered, bounded for each author."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from replication.errors import CallerError
from replication.ordering.application import CheckedCommand
from replication.ordering.limits import (
    MAX_PENDING_BYTES_PER_MEMBER,
    MAX_PENDING_PER_MEMBER,
    PENDING_LIFETIME_MS,
)

__all__ = ["CommandPool", "Pending", "PoolFullError"]


class PoolFullError(CallerError):
    """An author has too many uncommitted commands."""

    reason: ClassVar[str] = "TOO_MANY_PENDING"


@dataclass
class Pending:
    """A waiting command. `sent_ms` is when it was last sent to the coordinator."""

    command: bytes
    checked: CheckedCommand
    added_ms: int
    sent_ms: int


class CommandPool:
    """Waiting commands by digest, in order of arrival."""

    def __init__(self) -> None:
        self._pending: dict[bytes, Pending] = {}
        self._load: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._pending

    def add(self, command: bytes, checked: CheckedCommand, now_ms: int) -> bool:
        """Take in a checked command; False when it is already here. Raises PoolFullError."""
        if checked.digest in self._pending:
            return False
        count, size = self._load.get(checked.author, (0, 0))
        if count >= MAX_PENDING_PER_MEMBER or size + len(command) > MAX_PENDING_BYTES_PER_MEMBER:
            raise PoolFullError(
                f"{checked.author} has {count} commands ({size} bytes) waiting to be ordered; "
                f"the limits are {MAX_PENDING_PER_MEMBER} and {MAX_PENDING_BYTES_PER_MEMBER}. Try again later."
            )
        self._load[checked.author] = (count + 1, size + len(command))
        self._pending[checked.digest] = Pending(command, checked, now_ms, now_ms)
        return True

    def discard(self, digests: Iterable[bytes]) -> None:
        """Forget commands that were committed or became void."""
        for digest in digests:
            entry = self._pending.pop(digest, None)
            if entry is None:
                continue
            count, size = self._load[entry.checked.author]
            if count == 1:
                del self._load[entry.checked.author]
            else:
                self._load[entry.checked.author] = (count - 1, size - len(entry.command))

    def expire(self, now_ms: int, keep_author: str) -> None:
        """Drop commands of others that have waited too long; one's own are kept until they are committed."""
        late = []
        for digest, entry in self._pending.items():
            if now_ms - entry.added_ms < PENDING_LIFETIME_MS:
                break
            if entry.checked.author != keep_author:
                late.append(digest)
        self.discard(late)

    def commands(self) -> list[bytes]:
        """All waiting commands, oldest first."""
        return [entry.command for entry in self._pending.values()]

    def oldest_ms(self) -> int | None:
        """When the oldest waiting command arrived."""
        return next((entry.added_ms for entry in self._pending.values()), None)

    def due(self, author: str, now_ms: int, repeat_ms: int) -> list[bytes]:
        """Commands of `author` that were last sent at least `repeat_ms` ago; they count as sent now."""
        due = []
        for entry in self._pending.values():
            if entry.checked.author == author and now_ms - entry.sent_ms >= repeat_ms:
                entry.sent_ms = now_ms
                due.append(entry.command)
        return due
