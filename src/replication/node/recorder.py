"""Makes durable what the replica asks for, in the order in which it asks. Runs in the driver's worker thread.

The order is part of the safety argument. A body must be in the journal before the promise that rests on it;
a promise before the block whose certificate it completes; and a block must be in the store before a later
sign state says that its epoch is over. So a run of journal items is one append, and ends where a block goes
to the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from replication.ledger.application import BlockExecution
from replication.ledger.journal import JournalItem, SignJournal
from replication.ledger.store import Store
from replication.ordering.effects import ApplyBlock, Persist, SaveSignState

__all__ = ["Recorder", "newest_state_only"]


class Recorder:
    """Writes to the journal and the store. One thread at a time."""

    def __init__(self, store: Store, journal: SignJournal) -> None:
        self._store = store
        self._journal = journal

    @property
    def fsyncs(self) -> int:
        """How often the disk was waited for, by journal and store together."""
        return self._journal.counters.fsyncs + self._store.counters.fsyncs

    def write(self, items: Sequence[Persist[BlockExecution]], withdrawn: Sequence[bytes] = ()) -> None:
        """Make `items` durable, in order. The journal may forget the `withdrawn` commands (digests), in the
        same append as the first items or a later one; an item may bring one of them back.

        Raises StorageError when a write failed: what was to be sent must not be.
        """
        if withdrawn:
            self._journal.settle(0, withdrawn)
        run: list[JournalItem] = []
        for item in items:
            if isinstance(item, ApplyBlock):
                self._append(run)
                run = []
                self._store.append(item.block, item.certificate, item.execution.entries)
                self._journal.settle(item.block.height, ())
            else:
                run.append(item)
        self._append(run)

    def _append(self, run: list[JournalItem]) -> None:
        if run:
            self._journal.write(newest_state_only(run))


def newest_state_only(run: Sequence[JournalItem]) -> list[JournalItem]:
    """Leave out sign states that a later one of the same append replaces. Each stands after what it rests
    on, so the last does too."""
    last = max((index for index, item in enumerate(run) if isinstance(item, SaveSignState)), default=-1)
    return [item for index, item in enumerate(run) if index == last or not isinstance(item, SaveSignState)]
