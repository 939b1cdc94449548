"""Commands that wait to be ordered, bounded for each author."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


@dataclass(slots=True)
class Pending:
    """A waiting command.

    `own`: it is this member's, who keeps it until it is committed. `sent_ms`: when it was last sent to the
    coordinator. `shown`: it was shown to all members because it is overdue. `held`: the coordinator is held
    to it, since it is one's own or another member showed it as overdue.
    """

    command: bytes
    checked: CheckedCommand
    own: bool
    added_ms: int
    sent_ms: int
    held: bool
    shown: bool = False


class CommandPool:
    """Waiting commands by digest, in order of arrival."""

    def __init__(self) -> None:
        self._pending: dict[bytes, Pending] = {}
        self._load: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._pending

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._pending.values())

    def get(self, digest: bytes) -> Pending | None:
        """The waiting command with this digest."""
        return self._pending.get(digest)

    def add(self, command: bytes, checked: CheckedCommand, now_ms: int, *, own: bool = False) -> bool:
        """Take in a checked command; False when it is already here. Raises PoolFullError."""
        known = self._pending.get(checked.digest)
        if known is not None:
            known.own = known.own or own
            known.held = known.held or own
            return False
        count, size = self._load.get(checked.author, (0, 0))
        if count >= MAX_PENDING_PER_MEMBER or size + len(command) > MAX_PENDING_BYTES_PER_MEMBER:
            raise PoolFullError(
                f"{checked.author} has {count} commands ({size} bytes) waiting to be ordered; "
                f"the limits are {MAX_PENDING_PER_MEMBER} and {MAX_PENDING_BYTES_PER_MEMBER}. Try later."
            )
        self._load[checked.author] = (count + 1, size + len(command))
        self._pending[checked.digest] = Pending(command, checked, own, now_ms, now_ms, held=own)
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

    def clear(self) -> None:
        """Forget everything: the epoch that the commands are for is over."""
        self._pending.clear()
        self._load.clear()

    def new_view(self, now_ms: int) -> list[bytes]:
        """One's own commands, to be sent to a new coordinator, who starts with a clean slate."""
        own = []
        for entry in self._pending.values():
            entry.shown = False
            if entry.own:
                entry.sent_ms = now_ms
                own.append(entry.command)
        return own

    def expire(self, now_ms: int) -> None:
        """Drop commands of others that have waited too long; one's own are kept until they are committed."""
        late = []
        for digest, entry in self._pending.items():
            if now_ms - entry.added_ms < PENDING_LIFETIME_MS:
                break
            if not entry.own:
                late.append(digest)
        self.discard(late)

    def commands(self) -> list[bytes]:
        """All waiting commands, oldest first."""
        return [entry.command for entry in self._pending.values()]

    def oldest_ms(self) -> int | None:
        """When the oldest waiting command arrived."""
        return next((entry.added_ms for entry in self._pending.values()), None)

    def held_since(self) -> int | None:
        """When the oldest command arrived that the coordinator is held to."""
        return next((entry.added_ms for entry in self._pending.values() if entry.held), None)

    def due(self, now_ms: int, repeat_ms: int) -> list[bytes]:
        """One's own commands that were last sent at least `repeat_ms` ago; they count as sent now."""
        due = []
        for entry in self._pending.values():
            if entry.own and now_ms - entry.sent_ms >= repeat_ms:
                entry.sent_ms = now_ms
                due.append(entry.command)
        return due

    def overdue(self, added_before_ms: int) -> list[bytes]:
        """What to show to all members: everything that arrived by then, once, if the coordinator is held to
        some.

        Others' commands go along, since one's own may depend on them (a vote on its proposal).
        """
        late = [entry for entry in self._pending.values() if entry.added_ms <= added_before_ms]
        if not any(entry.held and not entry.shown for entry in late):
            return []
        fresh = [entry for entry in late if not entry.shown]
        for entry in fresh:
            entry.shown = True
        return [entry.command for entry in fresh]
