"""Commands that wait to be ordered, bounded for each author."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from replication.errors import CallerError
from replication.ordering.application import CheckedCommand, command_digest
from replication.ordering.limits import (
    MAX_PENDING_BYTES_PER_MEMBER,
    MAX_PENDING_PER_MEMBER,
    PENDING_LIFETIME_MS,
)

__all__ = ["CommandPool", "Pending", "PoolFullError"]


_SHOWN_AT_ONCE: Final = 512
"""Overdue commands that go out together; the others follow, and what else is to be sent gets its turn."""


class PoolFullError(CallerError):
    """An author has too many uncommitted commands."""

    reason: ClassVar[str] = "TOO_MANY_PENDING"


@dataclass(slots=True)
class Pending:
    """A waiting command.

    `own`: it is this member's, who keeps it until it is committed. `sent_ms`: when it was last sent to the
    coordinator. `shown_ms`: when it was shown to all members because it is overdue; None in a new view.
    """

    command: bytes
    checked: CheckedCommand
    own: bool
    added_ms: int
    sent_ms: int
    shown_ms: int | None = None


class CommandPool:
    """Waiting commands by digest, in order of arrival.

    The coordinator is *held to* some of them: one's own, and those that another member showed as overdue.
    For each the pool knows since when, so that a coordinator always has its full time.
    """

    def __init__(self) -> None:
        self._pending: dict[bytes, Pending] = {}
        self._load: dict[str, tuple[int, int]] = {}
        self._held: dict[bytes, int] = {}  # digest -> since when, the longest first

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, command: bytes, checked: CheckedCommand, now_ms: int, *, own: bool = False) -> bool:
        """Take in a checked command; False when it is already here. Raises PoolFullError."""
        known = self._pending.get(checked.digest)
        if known is not None:
            known.own = known.own or own
            if own:
                self.hold(checked.digest, now_ms)
            return False
        count, size = self._load.get(checked.author, (0, 0))
        if count >= MAX_PENDING_PER_MEMBER or size + len(command) > MAX_PENDING_BYTES_PER_MEMBER:
            raise PoolFullError(
                f"{checked.author} has {count} commands ({size} bytes) waiting to be ordered; "
                f"the limits are {MAX_PENDING_PER_MEMBER} and {MAX_PENDING_BYTES_PER_MEMBER}. Try later."
            )
        self._load[checked.author] = (count + 1, size + len(command))
        self._pending[checked.digest] = Pending(command, checked, own, now_ms, now_ms)
        if own:
            self.hold(checked.digest, now_ms)
        return True

    def discard(self, digests: Iterable[bytes]) -> None:
        """Forget commands that were committed or became void."""
        for digest in digests:
            entry = self._pending.pop(digest, None)
            if entry is None:
                continue
            self._held.pop(digest, None)
            count, size = self._load[entry.checked.author]
            if count == 1:
                del self._load[entry.checked.author]
            else:
                self._load[entry.checked.author] = (count - 1, size - len(entry.command))

    def clear(self) -> None:
        """Forget everything: the epoch that the commands are for is over."""
        self._pending.clear()
        self._load.clear()
        self._held.clear()

    def new_view(self, now_ms: int) -> list[bytes]:
        """One's own commands, to be sent to a new coordinator, who starts with a clean slate."""
        own = []
        for entry in self._pending.values():
            entry.shown_ms = None
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

    def hold(self, digest: bytes, now_ms: int) -> bool:
        """Hold the coordinator to a waiting command from now on; False if it is held to it already."""
        if digest in self._held or digest not in self._pending:
            return False
        self._held[digest] = now_ms
        return True

    def excuse(self, commands: Iterable[bytes], now_ms: int) -> None:
        """The coordinator cannot have ordered these (a vote on a proposal that nobody has): the time for
        which it is held to them begins anew."""
        for command in commands:
            digest = command_digest(command)
            if self._held.pop(digest, None) is not None:
                self._held[digest] = now_ms

    def held(self) -> list[bytes]:
        """The commands that the coordinator is held to."""
        return [self._pending[digest].command for digest in self._held]

    def held_since(self) -> int | None:
        """Since when the coordinator is held to the command for which that is the longest."""
        return next(iter(self._held.values()), None)

    def due(self, now_ms: int, repeat_ms: int) -> list[bytes]:
        """One's own commands that were last sent at least `repeat_ms` ago; they count as sent now."""
        due = []
        for entry in self._pending.values():
            if entry.own and now_ms - entry.sent_ms >= repeat_ms:
                entry.sent_ms = now_ms
                due.append(entry.command)
        return due

    def overdue(self, now_ms: int, late_ms: int) -> list[bytes]:
        """What to show to all members: what arrived at least `late_ms` ago, if the coordinator has been held
        to some of it for that long. One's own is shown again after twice that time: messages get lost.

        Others' commands go along, since one's own may depend on them (a vote on its proposal).
        """
        late: list[Pending] = []
        is_time = False
        for digest, entry in self._pending.items():
            if now_ms - entry.added_ms < late_ms:
                break
            shown_ms = entry.shown_ms
            if shown_ms is None or (entry.own and now_ms - shown_ms >= 2 * late_ms):
                late.append(entry)
                is_time = is_time or now_ms - self._held.get(digest, now_ms) >= late_ms
        if not is_time:
            return []
        for entry in late[:_SHOWN_AT_ONCE]:
            entry.shown_ms = now_ms
        return [entry.command for entry in late[:_SHOWN_AT_ONCE]]
