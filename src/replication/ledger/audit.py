"""The check of a whole record file: every hash and link recomputed, every projection made again and
compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replication.consensus.chain import entry_hash
from replication.consensus.errors import CanonicalJSONError
from replication.consensus.model import AuditEntry
from replication.errors import PeerError, ReplicationError
from replication.identity.genesis import Genesis
from replication.identity.merkle import merkle_root
from replication.ordering.blocks import ZERO_HASH, Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate, check_certificate
from replication.ordering.statements import Phase

from .execution import genesis_execution
from .history import Totals, advance, genesis_totals
from .projections import PROJECTED_TABLES, Projection
from .rows import BLOCK_COLUMNS, ENTRY_COLUMNS, RowDamagedError, read_block, read_entry
from .schema import RecordDamagedError, create_tables
from .statistics import Statistics

__all__ = ["Auditor", "genesis_block"]


def genesis_block(genesis: Genesis) -> Block:
    """Block 0, which no certificate proves: all nodes make it from the genesis file."""
    execution = genesis_execution(genesis)
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
    """One pass over a file. After `run`, `totals`, `head` and `statistics` say where the record stands.

    Time is linear in the record; memory is not, except for what the projections take in a temporary file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, genesis: Genesis) -> None:
        self._connection = connection
        self._path = path
        self._genesis = genesis
        self._replay = Projection(connection, "replay")
        self.totals: Totals = genesis_totals(genesis)
        self.head: tuple[Block, Certificate | None] = (genesis_block(genesis), None)
        self.statistics = Statistics()

    def run(self) -> None:
        """Check everything. Raises RecordDamagedError that says where the record breaks."""
        self._connection.execute("ATTACH DATABASE '' AS replay")
        try:
            create_tables(self._connection, "replay", whole=False)
            self._connection.execute("BEGIN")
            try:
                self._check_chain()
            except RowDamagedError as error:
                raise self._damage(str(error)) from error
            self._compare_projections()
            self._connection.execute("ROLLBACK")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._connection.execute("DETACH DATABASE replay")

    def _check_chain(self) -> None:
        entries = self._entries()
        upcoming = next(entries, None)
        previous: BlockHeader | None = None
        for row in self._connection.execute(f"SELECT {BLOCK_COLUMNS} FROM blocks ORDER BY height"):  # noqa: S608
            block, certificate = read_block(row)
            own: list[AuditEntry] = []
            while upcoming is not None and upcoming[-2] == block.height:
                own.append(self._checked_entry(upcoming, block, own))
                upcoming = next(entries, None)
            self._check_block(block, certificate, previous, own)
            previous = block.header
            self.head = (block, certificate)
        if previous is None:
            raise self._damage("it holds no block, not even the first")
        if upcoming is not None:
            raise self._damage(f"entry {upcoming[0]} belongs to block {upcoming[-2]}, which is not there")
        self._check_head()

    def _entries(self) -> Iterator[tuple[Any, ...]]:
        query = f"SELECT {ENTRY_COLUMNS}, 0 FROM entries ORDER BY sequence"  # noqa: S608
        return iter(self._connection.execute(query))

    def _checked_entry(self, row: tuple[Any, ...], block: Block, own: Sequence[AuditEntry]) -> AuditEntry:
        entry = read_entry(row[:-1], block.header.time_ms)
        expected = self._size_before(block) + len(own)
        before = own[-1].hash if own else self._head_before(block)
        if entry.sequence != expected or entry.prev_hash != before:
            raise self._damage(
                f"entry {entry.sequence}, block {block.height}, does not follow the one before"
            )
        try:
            actual = entry_hash(
                entry.sequence,
                entry.event_type,
                entry.proposal_id,
                entry.actor_id,
                entry.data,
                entry.timestamp,
                entry.prev_hash,
            )
        except CanonicalJSONError as error:
            raise self._damage(f"entry {entry.sequence} has no hash: {error}") from error
        if actual != entry.hash:
            raise self._damage(
                f"entry {entry.sequence}, block {block.height}, is not the one that was written"
            )
        return entry

    def _size_before(self, block: Block) -> int:
        return 0 if block.height == 0 else self.totals.audit_size

    def _head_before(self, block: Block) -> str:
        return "" if block.height == 0 else self.totals.audit_head.hex()

    def _check_block(
        self,
        block: Block,
        certificate: Certificate | None,
        previous: BlockHeader | None,
        entries: Sequence[AuditEntry],
    ) -> None:
        header = block.header
        if previous is None:
            if block != genesis_block(self._genesis) or certificate is not None or len(entries) != 1:
                raise self._damage("its first block is not that of the genesis file")
            return
        if header.height != previous.height + 1 or header.parent != previous.hash:
            raise self._damage(f"block {header.height} does not follow block {previous.height}")
        if header.commands_root != commands_root(block.commands):
            raise self._damage(f"block {header.height} does not hold the commands that its header names")
        self._check_link(block, certificate)
        epoch = self.totals.members.epoch
        before = self.totals.members
        try:
            self.totals = advance(self.totals, block.height, header.time_ms, entries, self._genesis.nonce)
            self._replay.apply(entries, header.time_ms, epoch)
        except (ReplicationError, KeyError, ValueError, TypeError) as error:
            raise self._damage(
                f"the entries of block {header.height} make no sense: {error!s:.200}"
            ) from error
        if self.totals.members.epoch != epoch:
            self._replay.change_members(before, self.totals.members)
        self.statistics.apply(entries)
        root = merkle_root([bytes.fromhex(entry.hash) for entry in entries])
        claimed = (header.audit_size, header.audit_head, header.entries_root)
        if claimed != (self.totals.audit_size, self.totals.audit_head, root):
            raise self._damage(f"the entries of block {header.height} are not those that its header names")

    def _check_link(self, block: Block, certificate: Certificate | None) -> None:
        header = block.header
        if header.cluster_id != self._genesis.cluster_id or header.epoch != self.totals.members.epoch:
            raise self._damage(f"block {header.height} is of another cluster or epoch")
        key = None if certificate is None else certificate.key
        if key is None or (key.phase, key.epoch, key.height, key.block_hash) != (
            Phase.COMMIT,
            header.epoch,
            header.height,
            header.hash,
        ):
            raise self._damage(
                f"the certificate of block {header.height} is missing, or is that of another block"
            )
        self._last_members = self.totals.members

    def _check_head(self) -> None:
        """The signatures over the last block cover everything below it."""
        _, certificate = self.head
        if certificate is None:
            return
        try:
            check_certificate(certificate, Phase.COMMIT, self._genesis.cluster_id, self._last_members)
        except PeerError as error:
            raise self._damage(f"the last block is not proven: {error}") from error

    def _compare_projections(self) -> None:
        for table in PROJECTED_TABLES:
            for one, other in (("main", "replay"), ("replay", "main")):
                query = f"SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {other}.{table} LIMIT 1"  # noqa: S608
                found = self._connection.execute(query).fetchone()
                if found is not None:
                    raise self._damage(
                        f"a row of its table {table} ({found[:2]}) is not what the entries say"
                    )

    def _damage(self, problem: str) -> RecordDamagedError:
        return RecordDamagedError(
            f"{self._path} is damaged: {problem}. Move the data folder away and start the node again: it "
            "fetches the record from the others and asks to be let back in."
        )
