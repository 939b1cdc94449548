"""What a node keeps on disk, opened together: the record, and the journal of what it has signed.

The two fail in different ways. A record can be fetched again from the other members, so a missing one is
made anew, and one that is behind the journal catches up. What was signed is known to this disk alone: a
missing journal means that the member must not sign as the one it was. It starts over under a new
incarnation, observes, and asks to be let back in (see `ordering.core`). Damage is never repaired silently:
the node does not start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from replication.ledger.journal import JournalMissingError, JournalState, SignJournal
from replication.ledger.store import Store
from replication.node.home import OpenedHome
from replication.ordering.signing import SignState

__all__ = ["Storage", "open_storage"]

NONCE_SIZE = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Storage:
    """Open record and journal. `journal_state` is what the journal held when it was opened."""

    store: Store
    journal: SignJournal
    journal_state: JournalState


@contextmanager
def open_storage(opened: OpenedHome) -> Iterator[Storage]:
    """Open the record and the journal of a home; both are closed at the end.

    Raises:
        StorageError: the disk refuses, or one of the two is damaged (the message says which and where).
        OperatorError: the journal or the record is that of another member or cluster.
    """
    journal, state = _open_journal(opened)
    try:
        store = Store.create_or_open(opened.home.ledger, opened.genesis)
        try:
            height = store.totals().height
            if height < state.committed_height:
                _log.warning(
                    "%s ends at height %d, but this member has signed what rests on %d: blocks were lost, "
                    "or a backup was restored. They are fetched from the other members.",
                    opened.home.ledger,
                    height,
                    state.committed_height,
                )
            yield Storage(store, journal, state)
        finally:
            store.close()
    finally:
        journal.close()


def _open_journal(opened: OpenedHome) -> tuple[SignJournal, JournalState]:
    path, cluster_id, member = opened.home.sign_journal, opened.genesis.cluster_id, opened.member_id
    try:
        return SignJournal.open(path, cluster_id, member)
    except JournalMissingError as error:
        _log.warning("%s It starts as an observer now and asks to be let back in.", error)
        SignJournal.create(
            path, cluster_id, member, SignState(opened.genesis.members.epoch, os.urandom(NONCE_SIZE))
        ).close()
        return SignJournal.open(path, cluster_id, member)
