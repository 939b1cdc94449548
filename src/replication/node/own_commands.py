"""Commands of one's own that are not committed yet, and who waits for their outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from replication.ledger.outcomes import Outcome

__all__ = ["OwnCommand", "OwnCommands"]

FIRST_LOOK_MS = 200
"""Several blocks take less; only what waits longer is looked at."""


@dataclass(slots=True)
class OwnCommand:
    """A command that was given to the replica.

    `resign` makes it anew for another epoch. `waiters` are futures, with the time since which each waits.
    `due_ms`: when to look whether it can still take effect. Times are milliseconds since the Unix epoch.
    """

    command: bytes
    digest: bytes
    resign: Callable[[int], bytes | None] | None
    since_ms: int
    waiters: list[tuple[asyncio.Future[Outcome], int]] = field(default_factory=list)
    due_ms: int = 0

    def finish(self, outcome: Outcome) -> None:
        """Tell everyone who waits."""
        for future, _ in self.waiters:
            if not future.done():
                future.set_result(outcome)
        self.waiters.clear()

    def fail(self, error: Exception) -> None:
        """Tell everyone who waits that no outcome will come."""
        for future, _ in self.waiters:
            if not future.done():
                future.set_exception(error)
        self.waiters.clear()


class OwnCommands:
    """By digest. Outcomes are only ever told by the driver, after what they rest on is durable."""

    def __init__(self) -> None:
        self._commands: dict[bytes, OwnCommand] = {}

    def __len__(self) -> int:
        return len(self._commands)

    def get(self, digest: bytes) -> OwnCommand | None:
        """The waiting command with this digest."""
        return self._commands.get(digest)

    def add(self, entry: OwnCommand) -> None:
        """Begin to wait for a command."""
        entry.due_ms = entry.due_ms or entry.since_ms + FIRST_LOOK_MS
        self._commands[entry.digest] = entry

    def forget(self, digest: bytes) -> None:
        """Stop waiting for a command."""
        self._commands.pop(digest, None)

    def take_finished(self, outcomes: Mapping[bytes, Outcome]) -> list[tuple[OwnCommand, Outcome]]:
        """Remove and return the commands that a block ordered, with what came of them."""
        if not self._commands:
            return []
        found = [digest for digest in outcomes if digest in self._commands]
        return [(self._commands.pop(digest), outcomes[digest]) for digest in found]

    def due(self, now_ms: int) -> list[OwnCommand]:
        """Commands to look at now."""
        return [entry for entry in self._commands.values() if entry.due_ms <= now_ms]

    def give_up_waiting(self, since_before_ms: int, error: Callable[[], Exception]) -> None:
        """Fail everyone who has waited since then or longer. The commands stay, and may be committed."""
        for entry in self._commands.values():
            late = [future for future, since_ms in entry.waiters if since_ms <= since_before_ms]
            if not late:
                continue
            entry.waiters = [waiter for waiter in entry.waiters if waiter[1] > since_before_ms]
            for future in late:
                if not future.done():
                    future.set_exception(error())

    def take_all(self) -> list[OwnCommand]:
        """Remove and return everything."""
        entries, self._commands = list(self._commands.values()), {}
        return entries
