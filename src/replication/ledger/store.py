"""The store of one node's record: blocks with their certificates, the audit chain, and what follows from
them.

A block is appended in one transaction, durable when `append` returns. When the file is opened, everything in
it is checked: the pages and indexes of the file, each header and its link, each entry's hash and its link,
the roots and heads that the headers claim, and that the projections (proposals, votes) are what the entries
amount to. The head block's commit certificate is verified as well: its signatures cover, through the hashes,
every block and entry below. So an edit, a deletion, a reorder or a truncation in the middle is found here.
`verification` checks the same, and the signatures of all certificates, while the node works.

A record that was rolled back as a whole (yesterday's file, a lost write-ahead log) is a valid, shorter one.
That shows against `JournalState.committed_height`, and against the other members, who have the rest.

A failed write stops the store for good: what is on disk after it is not known.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from replication.consensus.model import AuditEntry
from replication.errors import InvariantError
from replication.identity.genesis import Genesis
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.statements import Phase

from .audit import Auditor, genesis_block
from .execution import genesis_execution
from .files import Files
from .history import (
    FinishedProposal,
    OpenProposal,
    RecordedVote,
    Totals,
    advance,
    read_finished,
    read_open,
    read_receipt,
    read_vote,
)
from .projections import Projection
from .reading import RecordReading
from .rows import BLOCK_COLUMNS, ENTRY_COLUMNS, block_row, entry_row, read_block, read_entry
from .schema import READ_ERRORS, RecordDamagedError, RecordError, connect, create_file, unreadable
from .statistics import Statistics

__all__ = ["RecordDamagedError", "RecordError", "Store", "StoreCounters", "Verification"]

_T = TypeVar("_T")

_APPEND_BLOCK = f"INSERT INTO blocks ({BLOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
_APPEND_ENTRY = (
    "INSERT INTO entries (sequence, height, event_type, proposal_id, actor_id, data, prev_hash, hash) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(slots=True)
class StoreCounters:
    """Work done since the store was opened. `fsyncs` counts commits; a checkpoint now and then adds two."""

    fsyncs: int = 0


class Store(RecordReading):
    """The record of one node. Implements `history.History`. For one thread at a time."""

    _totals: Totals
    _head: tuple[Block, Certificate | None]
    _statistics: Statistics

    def __init__(self, connection: sqlite3.Connection, path: Path, genesis: Genesis) -> None:
        """For `create_or_open`, which calls `_restore`."""
        self.counters = StoreCounters()
        self.genesis = genesis
        self._connection = connection
        self._path = path
        self._projection = Projection(connection)
        self._failed = ""

    @classmethod
    def create_or_open(cls, path: Path, genesis: Genesis, *, files: Files | None = None) -> Store:
        """Open the record at `path`, or begin one with the genesis block. `files` is for tests.

        Raises:
            RecordDamagedError: what is there is not what was written; the message says where.
            RecordError: the disk refuses, or does not hold the settings that durability needs.
        """
        if not os.path.lexists(path):
            create_file(path, lambda connection: _begin(connection, genesis), files)
        connection = connect(path)
        store = cls(connection, path, genesis)
        try:
            store._restore()
        except BaseException:
            connection.close()
            raise
        return store

    def close(self) -> None:
        """Let go of the file."""
        self._failed = self._failed or "it is closed"
        self._connection.close()

    # Writing.

    def append(self, block: Block, certificate: Certificate, entries: Sequence[AuditEntry]) -> None:
        """Append the next block and what it did; durable on return.

        Raises RecordError when the disk refuses (then and ever after), InvariantError, with nothing written,
        for a block that does not follow, or that is not what the certificate and the entries are about.
        """
        before = self._totals
        after = advance(before, block.height, block.header.time_ms, entries, self.genesis.nonce)
        self._require_next(block, certificate, after)
        with self._transaction():
            _insert(self._connection, block, certificate, entries)
            self._projection.apply(entries, block.header.time_ms, before.members.epoch)
            if after.members.epoch != before.members.epoch:
                self._projection.change_members(before.members, after.members)
        self._totals, self._head = after, (block, certificate)
        self._statistics.apply(entries)

    def _require_next(self, block: Block, certificate: Certificate, after: Totals) -> None:
        header, head, key = block.header, self._head[0], certificate.key
        if (header.height, header.parent) != (head.height + 1, head.hash):
            raise InvariantError(f"block {header.height} does not follow block {head.height} of {self._path}")
        if (key.phase, key.epoch, key.height, key.block_hash) != (
            *(Phase.COMMIT, self._totals.members.epoch, header.height),
            block.hash,
        ):
            raise InvariantError(f"block {header.height} comes with a certificate that does not prove it")
        if (header.audit_size, header.audit_head) != (after.audit_size, after.audit_head):
            raise InvariantError(f"block {header.height} comes with entries that its header does not name")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._require_usable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed = str(error)
            raise RecordError(
                f"{self._path} could not be written: {error}. The node stops; check the disk and its space, "
                "then start it again."
            ) from error
        except BaseException as error:
            self._failed = f"a write broke off: {error!s:.200}"
            raise
        self.counters.fsyncs += 1

    def _require_usable(self) -> None:
        if self._failed:
            raise RecordError(f"{self._path} is not usable any more: {self._failed}. Restart the node.")

    # Checking.

    def _restore(self) -> None:
        """Check the whole file, and take up where it ends."""
        found = self.ask("SELECT value FROM meta WHERE key = 'cluster_id'")
        if not found or found[0][0] != self.genesis.cluster_id:
            raise RecordDamagedError(
                f"{self._path} is the record of another cluster than the genesis file names. Put the right "
                "file there."
            )
        with closing(Auditor(self._connection, self._path, self.genesis)) as auditor:
            while not auditor.step():
                pass
        self._totals, self._head, self._statistics = auditor.totals, auditor.head, auditor.statistics

    def verification(self) -> Verification:
        """A check of the whole record as it is on disk, every signature included, in small steps."""
        return Verification(self, self._connection)

    def verify(self) -> str:
        """Check the whole record now: what is wrong and where, empty when it is whole."""
        with closing(self.verification()) as check:
            while (problem := check.step()) is None:
                pass
        return problem

    # What the application asks (`history.History`).

    def finished(self, digest: bytes) -> FinishedProposal | None:
        """See `History`."""
        return self._finished("digest = ?", digest)

    def finished_by_id(self, proposal_id: str) -> FinishedProposal | None:
        """See `History`."""
        return self._finished("id = ?", proposal_id)

    def request(self, proposer: str, request_id: str) -> bytes | None:
        """See `History`."""
        found = self.ask(
            "SELECT digest FROM proposals WHERE proposer = ? AND request_id = ?", proposer, request_id
        )
        return found[0][0] if found else None

    def vote(self, digest: bytes, voter: str) -> RecordedVote | None:
        """See `History`."""
        found = self.ask(
            "SELECT votes.sequence FROM votes JOIN proposals ON number = proposal "
            "WHERE digest = ? AND voter = ?",
            digest,
            voter,
        )
        return read_vote(self.entry(found[0][0]), self.genesis.cluster_id) if found else None

    def open_proposals(self) -> Sequence[OpenProposal]:
        """See `History`."""
        rows = self.ask(
            "SELECT number, sequence, proposed_ms FROM proposals WHERE status = 'open' ORDER BY number"
        )
        return [self._open(number, sequence, proposed_ms) for number, sequence, proposed_ms in rows]

    def totals(self) -> Totals:
        """See `History`."""
        return self._totals

    @property
    def height(self) -> int:
        """Height of the last block. Below `JournalState.committed_height`, blocks were lost."""
        return self._totals.height

    @property
    def path(self) -> Path:
        """Where the record is."""
        return self._path

    def _finished(self, condition: str, value: object) -> FinishedProposal | None:
        found = self.ask(
            "SELECT number, sequence, proposed_ms, tally_sequence, decided_epoch, status FROM proposals "  # noqa: S608
            f"WHERE {condition} AND status <> 'open'",
            value,
        )
        if not found:
            return None
        _, sequence, proposed_ms, tally_sequence, epoch, status = found[0]
        proposal = read_open(self.entry(sequence), proposed_ms)
        receipts = tuple(
            read_receipt(entry, self.genesis.cluster_id) for entry in self.entries_of(proposal.id, "execute")
        )
        finished = read_finished(proposal, self.entry(tally_sequence), epoch)
        changes: dict[str, Any] = {"status": type(finished.status)(status), "receipts": receipts}
        return FinishedProposal(**{**vars(finished), **changes})

    def _open(self, number: int, sequence: int, proposed_ms: int) -> OpenProposal:
        proposal = read_open(self.entry(sequence), proposed_ms)
        votes = self.ask(
            "SELECT sequence FROM votes WHERE proposal = ? AND counts = 1 ORDER BY first_sequence", number
        )
        recorded = tuple(read_vote(self.entry(row[0]), self.genesis.cluster_id) for row in votes)
        return OpenProposal(**{**vars(proposal), "votes": recorded})

    # Blocks and entries.

    def head(self) -> tuple[BlockHeader, Certificate | None]:
        """The last block's header and its certificate, None for genesis."""
        return self._head[0].header, self._head[1]

    def blocks(self, from_height: int, max_bytes: int) -> list[tuple[Block, Certificate]]:
        """Committed blocks from a height on (genesis is not given): at least one if there is one, then as
        many as fit into `max_bytes`."""
        page: list[tuple[Block, Certificate]] = []
        size = 0
        query = f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE height >= ? ORDER BY height"  # noqa: S608
        for row in self.stream(query, max(from_height, 1)):
            size += len(row[3]) + len(row[4] or b"")
            if page and size > max_bytes:
                break
            block, certificate = read_block(row)
            if certificate is not None:
                page.append((block, certificate))
        return page

    def block(self, height: int) -> tuple[Block, Certificate | None]:
        """One block. Raises RecordDamagedError if it is not there."""
        found = self.ask(f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE height = ?", height)  # noqa: S608
        if not found:
            raise RecordDamagedError(f"block {height} is missing in {self._path}")
        return read_block(found[0])

    def entry(self, sequence: int) -> AuditEntry:
        """One entry. Raises RecordDamagedError if it is not there."""
        found = self.query_entries("WHERE entries.sequence = ?", sequence)
        if not found:
            raise RecordDamagedError(f"entry {sequence} is missing in {self._path}")
        return found[0][0]

    def entries_of(self, proposal_id: str, event_type: str) -> list[AuditEntry]:
        """Entries of one type about a proposal, in order."""
        found = self.query_entries(
            "WHERE entries.proposal_id = ? AND entries.event_type = ? ORDER BY entries.sequence",
            proposal_id,
            event_type,
        )
        return [entry for entry, _ in found]

    def query_entries(self, condition: str, *values: object) -> list[tuple[AuditEntry, int]]:
        """Entries with the height of their block. `condition` is code, never input."""
        rows = self.ask(
            f"SELECT {ENTRY_COLUMNS}, blocks.time_ms FROM entries JOIN blocks USING (height) {condition}",  # noqa: S608
            *values,
        )
        return [(read_entry(row[:-1], row[-1]), row[-2]) for row in rows]

    @property
    def statistics(self) -> Statistics:
        """Counts of proposals and agreement among voters."""
        return self._statistics

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self._guarded(lambda: self._connection.execute(query, values).fetchall())

    def stream(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Rows of a query, one by one."""
        cursor = self._guarded(lambda: self._connection.execute(query, values))
        while (row := self._guarded(cursor.fetchone)) is not None:
            yield row

    def _guarded(self, work: Callable[[], _T]) -> _T:
        self._require_usable()
        try:
            return work()
        except READ_ERRORS as error:
            self._failed = str(error)
            raise unreadable(self._path, error) from error


class Verification:
    """A check of a record in steps, between which the record may be read and grow. Close it when done."""

    def __init__(self, store: Store, connection: sqlite3.Connection) -> None:
        self._store = store
        self._auditor = Auditor(connection, store.path, store.genesis, signatures=True)

    def step(self) -> str | None:
        """Check a little more: None while there is more to do, then what is wrong and where, "" for nothing.

        Takes some ten milliseconds (the first step reads all pages of the file). Raises RecordError for a
        store that is not usable.
        """
        self._store._require_usable()
        try:
            if not self._auditor.step():
                return None
        except RecordDamagedError as error:
            return str(error)
        found, own = self._auditor.totals, self._store.totals()
        if found != own:
            return f"{self._store.path} ends at block {found.height}, but this node is at {own.height}"
        return ""

    def close(self) -> None:
        """Forget what was found."""
        self._auditor.close()


def _begin(connection: sqlite3.Connection, genesis: Genesis) -> None:
    """The first rows of a new record: the cluster, and block 0."""
    connection.execute("BEGIN")
    connection.execute("INSERT INTO meta VALUES ('cluster_id', ?)", (genesis.cluster_id,))
    execution = genesis_execution(genesis)
    _insert(connection, genesis_block(genesis, execution), None, execution.entries)
    connection.execute("COMMIT")


def _insert(
    connection: sqlite3.Connection,
    block: Block,
    certificate: Certificate | None,
    entries: Sequence[AuditEntry],
) -> None:
    connection.execute(_APPEND_BLOCK, block_row(block, certificate))
    connection.executemany(_APPEND_ENTRY, [entry_row(entry, block.height) for entry in entries])
