"""A record that somebody or something changed: found when it is opened, with the place, or without effect.

Every byte that is in use is flipped, the file is cut everywhere, and rows are edited by somebody who knows
the format and makes all hashes anew (without the members' keys). The numbers of cases are printed.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import fill, parts, record_of, small

from replication.consensus.canonical import canonical_json
from replication.consensus.chain import make_entry
from replication.identity.merkle import merkle_root
from replication.ledger.audit import Auditor
from replication.ledger.history import entry_timestamp
from replication.ledger.rows import read_entry
from replication.ledger.serial import (
    parse_block,
    parse_certificate,
    serialize_block,
    serialize_certificate,
)
from replication.ledger.store import RecordDamagedError, Store

SHARES = 4
PAGE = 4096


@dataclass(frozen=True)
class Record:
    """A record file, and what is in it."""

    cluster: LedgerCluster
    content: bytes
    whole: tuple[object, ...]


def make(cluster: LedgerCluster, folder: Path) -> Record:
    path = folder / "made.db"
    store = Store.create_or_open(path, cluster.genesis)
    fill(store, parts(cluster))
    whole = record_of(store)
    store.close()
    content = path.read_bytes()
    path.unlink()
    return Record(cluster, content, whole)


def smallest() -> LedgerCluster:
    """Nine entries; one proposal is executed, another open."""
    cluster = LedgerCluster(4)
    proposal = cluster.propose(evidence={"k": 1})
    cluster.decide(proposal)
    cluster.block(cluster.receipt("node-2", proposal))
    cluster.block(cluster.propose(expiry_ms=500_000))
    return cluster


@lru_cache(maxsize=1)
def long_cluster() -> LedgerCluster:
    """Two hundred entries."""
    cluster = LedgerCluster(4)
    while cluster.executions[-1].audit_size < 200:
        cluster.decide(cluster.propose(cluster.ids[len(cluster.executions) % 4]))
    return cluster


class Judge:
    """Opens one damaged file after the other, and counts what comes of it."""

    def __init__(self, record: Record, path: Path) -> None:
        self.record = record
        self.path = path
        self.counts: Counter[str] = Counter()

    def judge(self, content: bytes, what: str) -> str:
        """Fails when the record opens and is another one; any error but that for damage comes through."""
        for left in self.path.parent.iterdir():
            if left.name.startswith(self.path.name):
                left.unlink()
        self.path.write_bytes(content)
        try:
            store = Store.create_or_open(self.path, self.record.cluster.genesis)
        except RecordDamagedError as error:
            result = "found" if str(self.path) in str(error) else f"found without its place: {error}"
        else:
            try:
                assert record_of(store) == self.record.whole, what
            finally:
                store.close()
            result = "harmless"
        self.counts[result] += 1
        return result

    def report(self, what: str) -> None:
        print(
            f"{what}: {self.counts.total()} cases, " + ", ".join(f"{n} {k}" for k, n in self.counts.items())
        )


def used(content: bytes) -> list[int]:
    """Bytes in use, those next to them included; the rest is empty room in pages."""
    return [at for at in range(len(content)) if any(content[max(0, at - 4) : at + 5])]


def flip(judge: Judge, positions: list[int], random: Random) -> None:
    for position in positions:
        damaged = bytearray(judge.record.content)
        damaged[position] ^= 1 << random.randrange(8)
        judge.judge(bytes(damaged), f"byte {position} became {damaged[position]}")


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_every_byte_in_use_flipped(tmp_path: Path, share: int) -> None:
    judge = Judge(make(smallest(), tmp_path), tmp_path / "ledger.db")
    positions = used(judge.record.content)
    flip(judge, positions[share::SHARES], Random(share))
    judge.report("flipped bytes")
    assert judge.counts.total() > 2000
    assert judge.counts["found"] > 0.9 * judge.counts.total()


def test_every_bit_of_the_file_header(tmp_path: Path) -> None:
    judge = Judge(make(smallest(), tmp_path), tmp_path / "ledger.db")
    for bit in range(800):
        damaged = bytearray(judge.record.content)
        damaged[bit // 8] ^= 1 << bit % 8
        judge.judge(bytes(damaged), f"bit {bit} of the header")
    judge.report("flipped bits")


@pytest.mark.parametrize("cluster", [smallest, pytest.param(long_cluster, marks=pytest.mark.slow)])
def test_every_truncation(tmp_path: Path, cluster: Callable[[], LedgerCluster]) -> None:
    """At each page, and at other lengths; only what is behind the last page is nothing."""
    judge = Judge(make(cluster(), tmp_path), tmp_path / "ledger.db")
    size, random = len(judge.record.content), Random(1)
    lengths = {*range(0, size, PAGE), *range(1, size, 1013), *(random.randrange(size) for _ in range(50))}
    lengths |= {at + off for at in range(PAGE, size, PAGE) for off in (-1, 1)} | {size - 1}
    for length in sorted(lengths):
        assert judge.judge(judge.record.content[:length], f"cut to {length} bytes") == "found"
    judge.judge(judge.record.content + bytes(PAGE), "a page too many")
    judge.report("truncations")


def test_pages_exchanged_repeated_or_lost(tmp_path: Path) -> None:
    judge = Judge(make(smallest(), tmp_path), tmp_path / "ledger.db")
    content = judge.record.content
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    for one in range(len(pages)):
        for other in range(len(pages)):
            if pages[one] != pages[other]:
                changed = [*pages]
                changed[one] = pages[other]
                judge.judge(b"".join(changed), f"page {other} in the place of page {one}")
        judge.judge(b"".join([*pages[:one], bytes(PAGE), *pages[one + 1 :]]), f"page {one} lost")
    judge.report("pages")
    assert judge.counts["found"] > 0.9 * judge.counts.total()


# ------------------------------------------------------------------------------------------------- rows


TABLES = ("meta", "blocks", "entries", "proposals", "votes")


JOURNALS = slice(18, 20)
"""Bytes of the file header: 1, 1 is for a rollback journal, 2, 2 for a write-ahead log."""


@contextmanager
def opened(content: bytes) -> Iterator[sqlite3.Connection]:
    """The record in memory, where no log can be; for whoever edits the file without the program."""
    plain = bytearray(content)
    plain[JOURNALS] = b"\x01\x01"
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(bytes(plain))
        yield connection


def edited(content: bytes, *statements: tuple[str, tuple[Any, ...]]) -> bytes:
    """The record after some statements, as a file again. Raises IntegrityError if SQLite refuses one."""
    with opened(content) as connection:
        with connection:
            for statement, values in statements:
                connection.execute(statement, values)
        changed = bytearray(connection.serialize())
    changed[JOURNALS] = b"\x02\x02"
    return bytes(changed)


def rows(content: bytes, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    with opened(content) as connection:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
        return [column[0] for column in cursor.description], cursor.fetchall()


def other_values(value: Any) -> list[Any]:
    """Values of any type in the place of one: SQLite keeps what it gets."""
    if isinstance(value, int):
        return [value + 1, -1, 2**62, str(value), "x", b"\x00", 1.5]
    if isinstance(value, str):
        return [value + "x", value[:-1], value.upper(), "", "\x00", 0, value.encode()]
    if isinstance(value, bytes):
        return [value[:-1], value + b"\x00", bytes(len(value)), b"", 0, "text"]
    return [0, "", b"x", "node-1"]


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_value_of_every_row_edited(tmp_path: Path, table: str) -> None:
    """By another program, as an attacker with access to the file would. No checksum is made anew."""
    judge = Judge(make(smallest(), tmp_path), tmp_path / "ledger.db")
    columns, found = rows(judge.record.content, table)
    keys = " AND ".join(f"{column} IS ?" for column in columns)
    for row in found:
        for column, value in zip(columns, row, strict=True):
            for other in [*other_values(value), None]:
                if other == value and type(other) is type(value):
                    continue
                update = f"UPDATE {table} SET {column} = ? WHERE {keys}", (other, *row)
                try:
                    content = edited(judge.record.content, update)
                except sqlite3.IntegrityError:
                    judge.counts["refused by SQLite"] += 1
                    continue
                if rows(content, table)[1] != found:
                    result = judge.judge(content, f"{table}.{column} of {row[0]} is {other!r}")
                    # Nothing is read as nothing, however it is written.
                    assert result == "found" or (value is None and not other), (column, row[0], other)
    judge.report(f"edits of {table}")
    assert judge.counts["found"] >= len(columns)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_deleted_or_exchanged(tmp_path: Path, table: str) -> None:
    judge = Judge(make(small(), tmp_path), tmp_path / "ledger.db")
    columns, found = rows(judge.record.content, table)
    keys = " AND ".join(f"{column} IS ?" for column in columns)
    for row in found:
        content = edited(judge.record.content, (f"DELETE FROM {table} WHERE {keys}", row))
        assert judge.judge(content, f"{table}: {row[0]} deleted") == "found"
    marks = ", ".join("?" * len(columns))
    fixed = 2 if table == "votes" else 1
    for one, two in itertools.pairwise(found):
        delete = f"DELETE FROM {table} WHERE {keys}"
        insert = f"INSERT INTO {table} VALUES ({marks})"
        exchanged = (*one[:fixed], *two[fixed:]), (*two[:fixed], *one[fixed:])
        if set(exchanged) == {one, two}:
            continue
        statements = (delete, one), (delete, two), (insert, exchanged[0]), (insert, exchanged[1])
        content = edited(judge.record.content, *statements)
        assert judge.judge(content, f"{table}: {one[0]} and {two[0]} exchanged") == "found"
    judge.report(f"rows of {table}")


# ---------------------------------------------------------------------- an attacker who makes hashes anew


def forged(content: bytes, path: Path, edit: Callable[[int, dict[str, Any]], dict[str, Any] | None]) -> None:
    """Write the record with entries edited, and with every hash, root, link and checksum made anew. `edit`
    gets each entry's sequence and data, and returns its data, or None to leave the entry out. What cannot be
    made anew are the members' signatures; the certificates name the new blocks all the same."""
    path.write_bytes(content)
    connection = sqlite3.connect(path)
    with connection:
        blocks = connection.execute(
            "SELECT height, block, certificate FROM blocks ORDER BY height"
        ).fetchall()
        stored = connection.execute(
            "SELECT sequence, event_type, proposal_id, actor_id, data, prev_hash, entries.hash, height, "
            "time_ms FROM entries JOIN blocks USING (height) ORDER BY sequence"
        ).fetchall()
        connection.execute("DELETE FROM entries")
        size, head, parent = 0, "", bytes(32)
        for height, raw, proof in blocks:
            block, hashes = parse_block(raw), []
            for row in (row for row in stored if row[7] == height):
                entry = read_entry(row[:8], row[8])
                data = edit(entry.sequence, dict(entry.data))
                if data is None:
                    continue
                new = make_entry(
                    size,
                    entry.event_type,
                    entry.proposal_id or "",
                    entry.actor_id or "",
                    data,
                    entry_timestamp(row[8]),
                    head,
                )
                values = (size, height, new.event_type, row[2], row[3], canonical_json(data).decode())
                connection.execute(
                    "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, head, new.hash)
                )
                size, head = size + 1, new.hash
                hashes.append(bytes.fromhex(new.hash))
            header = replace(
                block.header,
                parent=parent,
                audit_size=size,
                audit_head=bytes.fromhex(head),
                entries_root=merkle_root(hashes),
            )
            block, parent = replace(block, header=header), header.hash
            if proof is not None:
                certificate = parse_certificate(proof)
                key = replace(certificate.key, block_hash=header.hash)
                proof = serialize_certificate(replace(certificate, key=key))
            connection.execute(
                "UPDATE blocks SET hash = ?, block = ?, certificate = ?, checksum = ? WHERE height = ?",
                (
                    header.hash,
                    serialize_block(block),
                    proof,
                    sha256(header.hash + (proof or b"")).digest(),
                    height,
                ),
            )
    connection.close()


def test_the_forger_changes_nothing_when_there_is_nothing_to_change(tmp_path: Path) -> None:
    """The forgeries below are not found for a slip of the forger."""
    record = make(small(), tmp_path)
    path = tmp_path / "ledger.db"
    forged(record.content, path, lambda sequence, data: data)
    store = Store.create_or_open(path, record.cluster.genesis)
    assert record_of(store) == record.whole
    store.close()


def test_no_forgery_passes_though_all_hashes_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry edited, each left out. The commit certificate of the last block is what cannot be made."""
    record = make(small(), tmp_path)
    path = tmp_path / "ledger.db"
    count = 0
    for target in range(record.cluster.executions[-1].audit_size):
        for leave_out in (False, True) if target else (False,):

            def edit(
                sequence: int, data: dict[str, Any], target: int = target, leave_out: bool = leave_out
            ) -> dict[str, Any] | None:
                if sequence != target:
                    return data
                return None if leave_out else {**data, "forged": True}

            forged(record.content, path, edit)
            with pytest.raises(RecordDamagedError, match=r"block \d+|first (block|entry)|row "):
                Store.create_or_open(path, record.cluster.genesis)
            count += 1
    print(f"forgeries: {count} cases, all found")
    # The certificate is what finds an edit that breaks nothing else: without its check it would pass.
    monkeypatch.setattr(Auditor, "_verify", lambda *arguments: None)
    forged(
        record.content,
        path,
        lambda sequence, data: {**data, "forged": True} if sequence == 3 else data,
    )
    Store.create_or_open(path, record.cluster.genesis).close()
