"""The check of a record: every hash and link recomputed, every projection made again and compared.

It goes in steps, each bounded, so that a node can check its record while it works. Between steps the record
may grow: a step first takes in what is new.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from replication.consensus.model import AuditEntry
from replication.errors import PeerError, ReplicationError
from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet
from replication.identity.merkle import merkle_root
from replication.ordering.blocks import ZERO_HASH, Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate, check_certificate
from replication.ordering.statements import Phase

from .execution import BlockExecution, genesis_execution
from .history import Totals, advance
from .projections import Projection
from .rows import BLOCK_COLUMNS, ENTRY_COLUMNS, RowDamagedError, read_block, read_entry, stored_hash
from .schema import READ_ERRORS, RecordDamagedError, begin_projections, damaged, unreadable
from .statistics import Statistics

__all__ = ["Auditor", "genesis_block"]

_STEP_ENTRIES: Final = 400
"""Entries that a step takes in, give or take a block: some ten milliseconds."""
_STEP_PROPOSALS: Final = 400
"""Proposals whose rows a step compares."""


def genesis_block(genesis: Genesis, execution: BlockExecution | None = None) -> Block:
    """Block 0, which no certificate proves: all nodes make it from the genesis file. `execution` is what it
    does, if that was worked out."""
    execution = execution or genesis_execution(genesis)
    header = BlockHeader(
        cluster_id=genesis.cluster_id,
        epoch=genesis.members.epoch,
        height=0,
        parent=ZERO_HASH,
        time_ms=genesis.created_ms,
        commands_root=commands_root(()),
        entries_root=execution.entries_root,
        audit_size=execution.audit_size,
        audit_head=execution.audit_head,
    )
    return Block(header, ())


class Auditor:
    """One pass over a record. When `step` gave True, `totals`, `head` and `statistics` say where it stands.

    Time is linear in the record; memory is not: the replayed projections are in a temporary file. With
    `signatures`, every commit certificate is verified, else only that of the last block, which covers all
    content below it through the hashes (not the signatures of other certificates; those have a checksum).
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, genesis: Genesis, *, signatures: bool = False
    ) -> None:
        first = genesis_execution(genesis)
        self.totals: Totals = first.totals
        self.head: tuple[Block, Certificate | None] = (genesis_block(genesis, first), None)
        self.statistics = Statistics()
        self._connection = connection
        self._path = path
        self._genesis = genesis
        self._first_entries = list(first.entries)
        self._signatures = signatures
        self._scratch = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._stored = Projection(connection)
        self._replayed = Projection(self._scratch)
        self._next: Callable[[], bool] = self._begin
        self._compared = 0
        self._members = genesis.members

    def step(self) -> bool:
        """Check a little more; True when all was checked. Raises RecordDamagedError that says where, and
        RecordError when the disk refuses."""
        try:
            return self._next()
        except RowDamagedError as error:
            raise self._damage(str(error)) from error
        except READ_ERRORS as error:
            raise unreadable(self._path, error) from error

    def close(self) -> None:
        """Remove the temporary file."""
        self._scratch.close()

    def _begin(self) -> bool:
        """The pages of the file, and that its indexes lead where its tables say."""
        problems = [row[0] for row in self._connection.execute("PRAGMA integrity_check(1)")]
        if problems != ["ok"]:
            raise self._damage(" ".join(str(problems[0]).split())[:200])
        begin_projections(self._scratch)
        block, certificate = self._block_at(0)
        if block != self.head[0] or certificate is not None:
            raise self._damage("its first block is not that of the genesis file")
        if self._entries_of(block, 0, "") != self._first_entries:
            raise self._damage("its first entry is not that of the genesis file")
        self._next = self._advance
        return False

    def _advance(self) -> bool:
        if self._take_in():
            self._check_end()
            self._next = self._compare
        return False

    def _compare(self) -> bool:
        """Compare the rows of some proposals. Only a record and a replay of equal height can be compared."""
        while not self._take_in():
            pass
        first, last = self._compared + 1, self._compared + _STEP_PROPOSALS
        stored, replayed = self._stored.rows(first, last), self._replayed.rows(first, last)
        if stored != replayed:
            wrong = next(row for row in [*replayed, *stored] if row not in stored or row not in replayed)
            raise self._damage(f"row {wrong[:2]} is not what the entries say")
        self._compared = last
        if last < self.totals.proposals:
            return False
        self._check_end()
        return True

    def _take_in(self) -> bool:
        """Check the next blocks; True when there are no more."""
        goal = self.totals.audit_size + _STEP_ENTRIES
        query = f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE height > ? ORDER BY height"  # noqa: S608
        with closing(self._connection.execute(query, (self.totals.height,))) as rows:
            for row in rows:
                self._check_block(*read_block(row))
                if self.totals.audit_size >= goal:
                    return False
        return True

    def _check_block(self, block: Block, certificate: Certificate | None) -> None:
        header, before = block.header, self.totals
        previous = self.head[0].header
        if header.height != previous.height + 1 or header.parent != previous.hash:
            raise self._damage(f"block {header.height} does not follow block {previous.height}")
        if header.commands_root != commands_root(block.commands):
            raise self._damage(f"block {header.height} does not hold the commands that its header names")
        self._check_certificate(block, certificate, whole=self._signatures)
        entries = self._entries_of(block, before.audit_size, before.audit_head.hex())
        try:
            after = advance(before, block.height, header.time_ms, entries, self._genesis.nonce)
            self._replayed.apply(entries, header.time_ms, before.members.epoch)
            self.statistics.apply(entries)
        except (ReplicationError, KeyError, ValueError, TypeError, AttributeError, sqlite3.Error) as error:
            raise self._damage(
                f"the entries of block {header.height} make no sense: {error!s:.200}"
            ) from error
        root = merkle_root([bytes.fromhex(entry.hash) for entry in entries])
        claimed = (header.audit_size, header.audit_head, header.entries_root)
        if claimed != (after.audit_size, after.audit_head, root):
            raise self._damage(f"the entries of block {header.height} are not those that its header names")
        if after.members.epoch != before.members.epoch:
            self._replayed.change_members(before.members, after.members)
        self._members = before.members
        self.totals, self.head = after, (block, certificate)

    def _check_certificate(self, block: Block, certificate: Certificate | None, *, whole: bool) -> None:
        header, members = block.header, self.totals.members
        if header.cluster_id != self._genesis.cluster_id or header.epoch != members.epoch:
            raise self._damage(f"block {header.height} is of another cluster or epoch")
        if certificate is None:
            raise self._damage(f"block {header.height} has no certificate")
        key = certificate.key
        wanted = (Phase.COMMIT, header.epoch, header.height, header.hash)
        if (key.phase, key.epoch, key.height, key.block_hash) != wanted:
            raise self._damage(f"the certificate of block {header.height} is that of another block")
        if whole:
            self._verify(certificate, members)

    def _check_end(self) -> None:
        """Nothing is behind the last block, and its certificate, which covers everything below it, holds."""
        block, certificate = self.head
        if certificate is not None:
            self._verify(certificate, self._members)
        extra = self._connection.execute(
            "SELECT sequence, height FROM entries WHERE sequence < 0 OR sequence >= ? "
            "OR height < 0 OR height > ? LIMIT 1",
            (self.totals.audit_size, block.height),
        ).fetchone()
        if extra is not None:
            raise self._damage(f"entry {extra[0]} belongs to block {extra[1]}, which is not there")
        if (row := self._stored.outside(self.totals.proposals)) is not None:
            raise self._damage(f"row {row} is about a proposal that is not there")

    def _entries_of(self, block: Block, size: int, head: str) -> list[AuditEntry]:
        """The entries of a block, which follow a chain of this size and head."""
        query = f"SELECT {ENTRY_COLUMNS} FROM entries WHERE height = ? ORDER BY sequence"  # noqa: S608
        entries = []
        for row in self._connection.execute(query, (block.height,)):
            if stored_hash(row, block.header.time_ms) != row[-2]:
                raise self._damage(f"entry {row[0]}, block {block.height}, is not the one that was written")
            entry = read_entry(row, block.header.time_ms)
            if entry.sequence != size or entry.prev_hash != head:
                raise self._damage(
                    f"entry {entry.sequence}, block {block.height}, does not follow the one before"
                )
            entries.append(entry)
            size, head = size + 1, entry.hash
        return entries

    def _block_at(self, height: int) -> tuple[Block, Certificate | None]:
        query = f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE height <= ? ORDER BY height LIMIT 1"  # noqa: S608
        row: tuple[Any, ...] | None = self._connection.execute(query, (height,)).fetchone()
        if row is None:
            raise self._damage("it holds no block, not even the first")
        return read_block(row)

    def _verify(self, certificate: Certificate, members: MemberSet) -> None:
        try:
            check_certificate(certificate, Phase.COMMIT, self._genesis.cluster_id, members)
        except PeerError as error:
            raise self._damage(f"block {certificate.key.height} is not proven: {error}") from error

    def _damage(self, problem: object) -> RecordDamagedError:
        return damaged(self._path, problem)
