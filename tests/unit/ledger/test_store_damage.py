"""A record that is not what was written: every kind of edit is found when the file is opened."""

from __future__ import annotations

import os
import shutil
import sqlite3
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, fill, parts, record_of, small, story

from replication.errors import StorageError
from replication.ledger.serial import serialize_certificate
from replication.ledger.store import RecordDamagedError, Store

Killed = tuple[Path, list[tuple[object, ...]]]
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"


@pytest.fixture(scope="module")
def cluster() -> LedgerCluster:
    return small()


@pytest.fixture(scope="module")
def blocks(cluster: LedgerCluster) -> list[Part]:
    return parts(cluster)


@pytest.fixture
def path(tmp_path: Path, cluster: LedgerCluster, blocks: list[Part]) -> Path:
    """A whole record, closed."""
    return make(tmp_path / "ledger.db", cluster, blocks)


def make(path: Path, cluster: LedgerCluster, blocks: list[Part]) -> Path:
    store = Store.create_or_open(path, cluster.genesis)
    fill(store, blocks)
    store.close()
    return path


def contents(path: Path, cluster: LedgerCluster) -> tuple[object, ...] | None:
    """Everything that the store at `path` says; None when it is refused."""
    try:
        store = Store.create_or_open(path, cluster.genesis)
    except StorageError:
        return None
    try:
        return record_of(store)
    finally:
        store.close()


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, f"changed nothing: {statement}"
    connection.close()


def swap(table: str, key: str, columns: str, one: int, other: int) -> list[str]:
    """Statements that exchange columns of two rows."""
    names = columns.split()
    put = ", ".join(f"{name} = (SELECT {name} FROM spare)" for name in names)
    take = ", ".join(f"{name} = (SELECT {name} FROM {table} WHERE {key} = {other})" for name in names)
    return [
        f"CREATE TEMP TABLE spare AS SELECT * FROM {table} WHERE {key} = {one}",
        f"UPDATE {table} SET {take} WHERE {key} = {one}",
        f"UPDATE {table} SET {put} WHERE {key} = {other}",
    ]


ENTRY = "event_type proposal_id actor_id data prev_hash hash"

EDITS: dict[str, tuple[list[str], str]] = {
    "entry data": (
        ["UPDATE entries SET data = replace(data, 'approve', 'abstain') WHERE sequence = 3"],
        "entry 3, block 1, is not the one",
    ),
    "entry data, said otherwise": (
        ["UPDATE entries SET data = replace(data, '\"value\":', '\"value\": ') WHERE sequence = 3"],
        "entry 3, block 1, is not the one",
    ),
    "entry data, no JSON": (["UPDATE entries SET data = '{' WHERE sequence = 3"], "entry 3"),
    "entry data, a number": (["UPDATE entries SET data = x'00ff' WHERE sequence = 3"], "entry 3"),
    "entry actor": (["UPDATE entries SET actor_id = 'node-4' WHERE sequence = 3"], "entry 3"),
    "entry type": (["UPDATE entries SET event_type = 'tally' WHERE sequence = 3"], "entry 3"),
    "entry without actor": (["UPDATE entries SET actor_id = NULL WHERE sequence = 3"], "entry 3"),
    "entry hash": (["UPDATE entries SET hash = upper(hash) WHERE sequence = 3"], "entry 3"),
    "entry link": (["UPDATE entries SET prev_hash = '' WHERE sequence = 3"], "entry 3"),
    "entry removed": (["DELETE FROM entries WHERE sequence = 3"], "entry 4, block 1, does not follow"),
    "last entry removed": (["DELETE FROM entries WHERE sequence = 40"], "entries of block 8 are not those"),
    "all entries of a block removed": (
        ["DELETE FROM entries WHERE height = 2"],
        "entries of block 2 are not those",
    ),
    "entry added": (
        [
            "INSERT INTO entries SELECT 41, 8, event_type, proposal_id, actor_id, data, prev_hash, hash "
            "FROM entries WHERE sequence = 40"
        ],
        "entry 41, block 8",
    ),
    "entry of a block that is not there": (
        [
            "INSERT INTO entries SELECT 41, 9, event_type, proposal_id, actor_id, data, prev_hash, hash "
            "FROM entries WHERE sequence = 40"
        ],
        "entry 41 belongs to block 9, which is not there",
    ),
    "entry before the first": (
        [
            "INSERT INTO entries SELECT -1, -1, event_type, proposal_id, actor_id, data, prev_hash, hash "
            "FROM entries WHERE sequence = 0"
        ],
        "entry -1 belongs to block -1",
    ),
    "entries swapped": (swap("entries", "sequence", ENTRY, 3, 4), "entry 3"),
    "entry in another block": (["UPDATE entries SET height = 2 WHERE sequence = 6"], "block 1 are not those"),
    "block removed": (["DELETE FROM blocks WHERE height = 4"], "block 5 does not follow block 3"),
    "last block removed": (["DELETE FROM blocks WHERE height = 8"], "belongs to block 8, which is not there"),
    "genesis removed": (
        ["DELETE FROM blocks WHERE height = 0", "DELETE FROM entries WHERE sequence = 0"],
        "holds no block, not even the first",
    ),
    "everything removed": (["DELETE FROM blocks", "DELETE FROM entries"], "holds no block"),
    "blocks swapped": (
        swap("blocks", "height", "time_ms hash block certificate checksum", 3, 4),
        "block 3 is not the one",
    ),
    "block time": (["UPDATE blocks SET time_ms = time_ms + 1 WHERE height = 3"], "block 3 is not the one"),
    "block hash": (["UPDATE blocks SET hash = zeroblob(32) WHERE height = 3"], "block 3 is not the one"),
    "block bytes": (
        ["UPDATE blocks SET block = CAST(block || x'00' AS BLOB) WHERE height = 3"],
        "block 3 cannot be read",
    ),
    "block with an unknown field": (
        ["UPDATE blocks SET block = CAST(block || x'ba3e0178' AS BLOB) WHERE height = 3"],
        "block 3 cannot be read",
    ),
    "block text": (["UPDATE blocks SET block = 'block' WHERE height = 3"], "block 3 cannot be read"),
    "block null": (["UPDATE blocks SET block = 17 WHERE height = 3"], "block 3 cannot be read"),
    "certificate removed": (["UPDATE blocks SET certificate = NULL WHERE height = 3"], "block 3"),
    "certificate of another block": (
        [
            "UPDATE blocks SET certificate = (SELECT certificate FROM blocks WHERE height = 4), "
            "checksum = (SELECT checksum FROM blocks WHERE height = 4) WHERE height = 3"
        ],
        "block 3",
    ),
    "certificate bytes": (
        [
            "UPDATE blocks SET certificate = "
            "CAST(substr(certificate, 1, length(certificate) - 1) || x'00' AS BLOB) WHERE height = 3"
        ],
        "block 3",
    ),
    "proposal decided otherwise": (
        ["UPDATE proposals SET decision = 'rejected' WHERE number = 1"],
        r"row \(1, 'prop-0001'\) is not what the entries say",
    ),
    "proposal executed": (["UPDATE proposals SET status = 'executed' WHERE number = 2"], "prop-0002"),
    "proposal open again": (["UPDATE proposals SET status = 'open' WHERE number = 2"], "prop-0002"),
    "proposal removed": (["DELETE FROM proposals WHERE number = 2"], "prop-0002"),
    "proposal added": (
        [
            "INSERT INTO proposals SELECT 8, 'prop-0008', zeroblob(32), proposer, 'r', status, decision, "
            "sequence, proposed_ms, decided_ms, tally_sequence, decided_epoch FROM proposals WHERE number = 1"
        ],
        r"row \(8,\) is about a proposal that is not there",
    ),
    "request id": (["UPDATE proposals SET request_id = 'other' WHERE number = 2"], "prop-0002"),
    "vote changed": (
        ["UPDATE votes SET value = 'reject' WHERE proposal = 1 AND voter = 'node-2'"],
        r"row \(1, 'node-2'\)",
    ),
    "vote points elsewhere": (
        ["UPDATE votes SET sequence = 2 WHERE proposal = 1 AND voter = 'node-2'"],
        "node-2",
    ),
    "vote does not count": (["UPDATE votes SET counts = 0 WHERE proposal = 7"], r"row \(7, 'node-3'\)"),
    "vote removed": (["DELETE FROM votes WHERE proposal = 7"], r"row \(7, 'node-3'\)"),
    "vote added": (["INSERT INTO votes VALUES (7, 'node-4', 'approve', 40, 40, 1)"], r"row \(7, 'node-4'\)"),
    "vote on nothing": (
        ["INSERT INTO votes VALUES (0, 'node-4', 'approve', 40, 40, 1)"],
        r"row \(0, 'node-4'\)",
    ),
    "cluster": (["UPDATE meta SET value = zeroblob(32)"], "another cluster"),
    "no cluster": (["DELETE FROM meta"], "another cluster"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_found_and_its_place_is_named(path: Path, cluster: LedgerCluster, name: str) -> None:
    statements, place = EDITS[name]
    edit(path, *statements)
    with pytest.raises(RecordDamagedError, match=place) as caught:
        Store.create_or_open(path, cluster.genesis)
    assert str(path) in str(caught.value)
    assert caught.value.reason == "RECORD_DAMAGED"


@pytest.mark.parametrize("name", [name for name in EDITS if "cluster" not in name])
def test_an_edit_is_found_by_a_node_that_runs(path: Path, cluster: LedgerCluster, name: str) -> None:
    store = Store.create_or_open(path, cluster.genesis)
    assert store.verify() == ""
    for statement in EDITS[name][0]:
        store._connection.execute(statement)
    assert store.verify() != ""
    assert store.verify() != "", "and it stays found"
    store.close()


def test_a_forged_certificate_below_the_head(path: Path, cluster: LedgerCluster, blocks: list[Part]) -> None:
    """With a right checksum. The head proves the content, so that the node may start; `verify` tells."""
    block, certificate, _ = blocks[2]
    signatures = tuple((signer, bytes(64)) for signer, _ in certificate.signatures)
    forged = serialize_certificate(type(certificate)(certificate.key, signatures))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "UPDATE blocks SET certificate = ?, checksum = ? WHERE height = 3",
            (forged, sha256(block.hash + forged).digest()),
        )
    connection.close()
    store = Store.create_or_open(path, cluster.genesis)
    assert "block 3 is not proven" in store.verify()
    store.close()


def test_a_forged_certificate_of_the_head(path: Path, cluster: LedgerCluster, blocks: list[Part]) -> None:

    block, certificate, _ = blocks[-1]
    for signatures in (certificate.signatures[:2], (*certificate.signatures[:2], ("node-4", bytes(64)))):
        forged = serialize_certificate(type(certificate)(certificate.key, signatures))
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(
                "UPDATE blocks SET certificate = ?, checksum = ? WHERE height = ?",
                (forged, sha256(block.hash + forged).digest(), block.height),
            )
        connection.close()
        with pytest.raises(RecordDamagedError, match="block 8 is not proven"):
            Store.create_or_open(path, cluster.genesis)


def test_an_index_that_hides_a_row(path: Path, cluster: LedgerCluster) -> None:
    """The tables are whole, so that a replay shows nothing; look-ups would miss the proposal all the same."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'proposal_id IS NOT NULL', 'proposal_id = 1') "
            "WHERE name = 'entries_of_proposal'"
        )
    connection.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("REINDEX entries_of_proposal")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'proposal_id = 1', 'proposal_id IS NOT NULL') "
            "WHERE name = 'entries_of_proposal'"
        )
    connection.close()
    with pytest.raises(RecordDamagedError, match="missing from index entries_of_proposal"):
        Store.create_or_open(path, cluster.genesis)


def test_a_record_that_grows_while_it_is_checked(tmp_path: Path) -> None:
    cluster = story()
    blocks = parts(cluster)
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    fill(store, blocks[:3])
    check = store.verification()
    for part in blocks[3:]:
        assert check.step() in (None, "")
        fill(store, [part])
    check.close()
    check = store.verification()
    while (problem := check.step()) is None:
        pass
    assert problem == ""
    check.close()
    store.close()


# --------------------------------------------------------------------- bytes flipped, files cut and exchanged


def flips(size: int, wanted: int, seed: int) -> list[tuple[int, int]]:
    """Positions and masks; all positions in a soak."""
    random = Random(seed)
    positions = range(size) if SOAK else sorted(random.sample(range(size), min(size, wanted)))
    return [(position, 1 << random.randrange(8)) for position in positions]


def test_flipped_bytes_of_the_file(path: Path, cluster: LedgerCluster) -> None:
    """Refused, or harmless (unused room in a page): never another record. Empty room is skipped."""
    original, whole = path.read_bytes(), contents(path, cluster)
    used = [at for at in range(0, len(original), 64) if any(original[at : at + 64])]
    refused = 0
    cases = flips(64 * len(used), 300, 3)
    for number, mask in cases:
        position = used[number // 64] + number % 64
        damaged = bytearray(original)
        damaged[position] ^= mask
        path.write_bytes(damaged)
        found = contents(path, cluster)
        assert found is None or found == whole, f"byte {position}, mask {mask}"
        refused += found is None
    assert refused > len(cases) // 2


def test_every_flipped_byte_of_rows(tmp_path: Path) -> None:
    """One block with its entries, in every byte of all its columns."""
    cluster = LedgerCluster(4)
    cluster.decide(cluster.propose(evidence={"k": 1}))
    path = make(tmp_path / "ledger.db", cluster, parts(cluster))
    original = path.read_bytes()
    block, certificate, entries = parts(cluster)[0]
    texts = [serialize_certificate(certificate), block.hash, entries[1].hash.encode(), b"prop-0001"]
    texts += [*block.commands, entries[0].data["signature"].encode()]
    refused = total = 0
    for text in texts:
        start = original.find(text)
        while start >= 0:
            for position in range(start, start + len(text), 1 if SOAK else 5):
                damaged = bytearray(original)
                damaged[position] ^= 0x04
                path.write_bytes(damaged)
                total += 1
                refused += contents(path, cluster) is None
            start = original.find(text, start + 1)
    assert total > 300
    assert refused == total


def test_every_truncation_of_the_file(path: Path, cluster: LedgerCluster) -> None:
    original, whole = path.read_bytes(), contents(path, cluster)
    for size in range(0, len(original), 256 if SOAK else 2048):
        path.write_bytes(original[:size])
        found = contents(path, cluster)
        assert found is None or found == whole, f"cut to {size} bytes"


@pytest.fixture
def running(tmp_path: Path, cluster: LedgerCluster, blocks: list[Part]) -> Killed:
    """File and log of a node killed after its last append, most of the record in the log; and what the record
    was after each block."""
    path = tmp_path / "running" / "ledger.db"
    path.parent.mkdir()
    store = Store.create_or_open(path, cluster.genesis)
    states = [record_of(store)]
    for block in blocks:
        fill(store, [block])
        states.append(record_of(store))
    copy = tmp_path / "killed" / "ledger.db"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    store.close()
    return copy, states


def state_with_log(running: Killed, cluster: LedgerCluster, log: bytes) -> int | None:
    """With another log, a record is refused, or is what it was after some block: after which."""
    path, states = running
    target = path.with_name("ledger.db-wal")
    kept = path.read_bytes(), target.read_bytes()
    target.write_bytes(log)
    try:
        found = contents(path, cluster)
    finally:
        path.write_bytes(kept[0])
        target.write_bytes(kept[1])
    return None if found is None else states.index(found)


def test_flipped_bytes_of_the_log(running: Killed, cluster: LedgerCluster) -> None:
    """SQLite drops what is behind the damage: a shorter record, as a restored backup is."""
    log = running[0].with_name("ledger.db-wal").read_bytes()
    heights = {
        state_with_log(running, cluster, log[:at] + bytes([log[at] ^ mask]) + log[at + 1 :])
        for at, mask in flips(len(log), 60, 5)
    }
    assert len(heights) > 4


def test_every_truncation_of_the_log(running: Killed, cluster: LedgerCluster) -> None:
    log = running[0].with_name("ledger.db-wal").read_bytes()
    cuts = range(0, len(log) + 1, 512 if SOAK else 4120)
    heights = [state_with_log(running, cluster, log[:cut]) for cut in cuts]
    told = [height for height in heights if height is not None]
    assert told == sorted(told)
    assert set(told) == set(range(8)) | {told[-1]}
    assert state_with_log(running, cluster, log) == 8


def test_a_log_that_was_removed(running: Killed, cluster: LedgerCluster) -> None:
    """The newest blocks are gone. What is left is an older record."""
    running[0].with_name("ledger.db-wal").unlink()
    assert contents(running[0], cluster) == running[1][0]


def test_yesterdays_file_is_a_valid_shorter_record(
    tmp_path: Path, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    """It cannot be told from a young one by itself. `Store.height` below the journal's `committed_height`
    tells, and so do the other members. The missing blocks fit on top."""
    path = make(tmp_path / "ledger.db", cluster, blocks[:4])
    yesterday = path.read_bytes()
    make(path, cluster, blocks[4:])
    path.write_bytes(yesterday)
    store = Store.create_or_open(path, cluster.genesis)
    assert store.height == 4
    fill(store, blocks[4:])
    assert store.totals() == cluster.history.totals()
    store.close()


def test_files_of_different_days_are_never_a_new_record(
    tmp_path: Path, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    """Mix and match: the file of one day with the log of another."""
    source = tmp_path / "source" / "ledger.db"
    source.parent.mkdir()
    store = Store.create_or_open(source, cluster.genesis)
    days, states = [], [record_of(store)]
    for number, block in enumerate(blocks):
        fill(store, [block])
        states.append(record_of(store))
        if number % 3 == 2:
            store.ask("PRAGMA wal_checkpoint(TRUNCATE)")
        days.append((source.read_bytes(), source.with_name("ledger.db-wal").read_bytes()))
    store.close()
    target = tmp_path / "target" / "ledger.db"
    target.parent.mkdir()
    found = set()
    for file, _ in days:
        for _, log in days:
            target.write_bytes(file)
            target.with_name("ledger.db-wal").write_bytes(log)
            state = contents(target, cluster)
            assert state is None or state in states
            found.add(None if state is None else states.index(state))
    assert len(found) > 4
