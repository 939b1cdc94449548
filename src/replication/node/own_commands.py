"""Commands of one's own that are not committed yet, and who waits for their outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication.ordering.application import command_digest

if TYPE_CHECKING:
    from replication.ledger.application import Outcome

__all__ = ["OwnCommand", "OwnCommands"]

Waiter = tuple["asyncio.Future[Outcome]", int]


@dataclass(slots=True)
class OwnCommand:
    """A command that was given to the replica. `waiters` are futures and the time since which each waits."""

    command: bytes
    digest: bytes
    resign: Callable[[int], bytes] | None
    since_ms: int
    waiters: list[Waiter] = field(default_factory=list)

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

    def add(self, command: bytes, resign: Callable[[int], bytes] | None, now_ms: int) -> OwnCommand:
        """Begin to wait for a command."""
        entry = OwnCommand(command, command_digest(command), resign, now_ms)
        self._commands[entry.digest] = entry
        return entry

    def forget(self, digest: bytes) -> None:
        """Stop waiting for a command."""
        self._commands.pop(digest, None)

    def take_finished(self, outcomes: Mapping[bytes, Outcome]) -> list[tuple[OwnCommand, Outcome]]:
        """Remove and return the commands that a block ordered, with what came of them."""
        if not self._commands:
            return []
        found = [digest for digest in outcomes if digest in self._commands]
        return [(self._commands.pop(digest), outcomes[digest]) for digest in found]

    def older_than(self, added_before_ms: int) -> list[OwnCommand]:
        """Commands that have waited since then or longer."""
        return [entry for entry in self._commands.values() if entry.since_ms <= added_before_ms]

    def give_up_waiting(self, since_before_ms: int, error: Callable[[], Exception]) -> int:
        """Fail everyone who has waited since then or longer; the commands stay. Returns how many."""
        failed = 0
        for entry in self._commands.values():
            late = [waiter for waiter in entry.waiters if waiter[1] <= since_before_ms]
            for waiter in late:
                entry.waiters.remove(waiter)
                if not waiter[0].done():
                    waiter[0].set_exception(error())
                    failed += 1
        return failed

    def take_all(self) -> list[OwnCommand]:
        """Remove and return everything."""
        entries, self._commands = list(self._commands.values()), {}
        return entries

    def digests(self) -> Iterable[bytes]:
        """Of all waiting commands."""
        return self._commands.keys()
