"""Makes durable what the replica asks for, in the order in which it asks. Runs in the driver's worker thread.

The order is part of the safety argument. A block must be in the store before a later sign state says that
the lock on it is gone; a body must be in the journal before the promise that rests on it. So a run of
journal items is one append, and ends where a block goes to the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from replication.ordering.application import command_digest
from replication.ordering.effects import ApplyBlock, KeepCommand, SaveBody, SaveSignState

if TYPE_CHECKING:
    from replication.ledger.application import BlockExecution
    from replication.ledger.journal import SignJournal
    from replication.ledger.store import Store

    Item = SaveBody | SaveSignState | KeepCommand | ApplyBlock[BlockExecution]
    JournalItem = SaveBody | SaveSignState | KeepCommand

__all__ = ["Recorder", "newest_state_only"]


class Recorder:
    """Writes to the journal and the store. One thread at a time."""

    def __init__(self, store: Store, journal: SignJournal) -> None:
        self._store = store
        self._journal = journal
        self._kept: set[bytes] = set()

    def restore(self, kept: Sequence[bytes]) -> None:
        """The commands that the journal kept from the last run."""
        self._kept.update(command_digest(command) for command in kept)

    def write(self, items: Sequence[Item], withdrawn: Sequence[bytes] = ()) -> None:
        """Make `items` durable, in order; then the journal may forget the `withdrawn` commands (digests).

        Raises:
            StorageError: a write failed. What was to be sent must not be.
        """
        run: list[JournalItem] = []
        for item in items:
            if isinstance(item, ApplyBlock):
                self._append(run)
                run = []
                self._apply(item)
            else:
                run.append(item)
        self._append(run)
        dead = self._kept.intersection(withdrawn)
        if dead:
            self._kept -= dead
            self._journal.settle(0, tuple(dead))

    def _append(self, run: list[JournalItem]) -> None:
        if not run:
            return
        self._kept.update(command_digest(item.command) for item in run if isinstance(item, KeepCommand))
        self._journal.write(newest_state_only(run))

    def _apply(self, item: ApplyBlock[BlockExecution]) -> None:
        self._store.append(item.block, item.certificate, item.execution.entries)
        done = self._kept.intersection(item.execution.outcomes)
        self._kept -= done
        self._journal.settle(item.block.height, tuple(done))


def newest_state_only(run: Sequence[JournalItem]) -> list[JournalItem]:
    """Leave out sign states that a later one of the same append replaces. Each stands after what it rests
    on, so the last does too."""
    last = max((index for index, item in enumerate(run) if isinstance(item, SaveSignState)), default=-1)
    return [item for index, item in enumerate(run) if index == last or not isinstance(item, SaveSignState)]
