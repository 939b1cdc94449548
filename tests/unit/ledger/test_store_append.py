"""Appending: what is refused, what a failing disk does, and that kills and power cuts lose nothing."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, fill, parts, record_of

from replication.errors import InvariantError, StorageError
from replication.ledger.application import VotingApplication
from replication.ledger.projections import Projection
from replication.ledger.store import RecordError, Store
from replication.ordering.blocks import Block
from replication.ordering.statements import Phase


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def store(path: Path, cluster: LedgerCluster) -> Iterator[Store]:
    store = Store.create_or_open(path, cluster.genesis)
    yield store
    store.close()


def test_every_block_of_a_long_story_comes_back(
    store: Store, path: Path, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    fill(store, blocks)
    assert store.counters.fsyncs == len(blocks)
    assert store.totals() == cluster.history.totals()
    assert store.verify() == ""
    before = record_of(store)
    store.close()
    again = Store.create_or_open(path, cluster.genesis)
    assert record_of(again) == before
    again.close()


def test_it_is_the_same_whether_it_was_closed_in_between(
    path: Path, cluster: LedgerCluster, blocks: list[Part], store: Store
) -> None:
    fill(store, blocks)
    other = path.with_name("other.db")
    for block in blocks:
        reopened = Store.create_or_open(other, cluster.genesis)
        fill(reopened, [block])
        reopened.close()
    reopened = Store.create_or_open(other, cluster.genesis)
    assert record_of(reopened) == record_of(store)
    reopened.close()


# ------------------------------------------------------------------------------- what is no next block


def other_header(part: Part, **changes: object) -> Part:
    block, certificate, entries = part
    block = Block(replace(block.header, **changes), block.commands)  # type: ignore[arg-type]
    key = replace(certificate.key, height=block.height, block_hash=block.hash)
    return block, replace(certificate, key=key), entries


def other_key(part: Part, **changes: object) -> Part:
    block, certificate, entries = part
    return block, replace(certificate, key=replace(certificate.key, **changes)), entries  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda part, blocks: blocks[0], "entry 1 is to follow entry 7"),
        (lambda part, blocks: blocks[2], "is to follow"),
        (lambda part, blocks: other_header(part, height=3), "block 3 does not follow block 1"),
        (lambda part, blocks: other_header(part, parent=bytes(32)), "does not follow"),
        (lambda part, blocks: other_header(part, audit_size=11), "entries that its header does not name"),
        (lambda part, blocks: other_header(part, audit_head=bytes(32)), "entries that its header does not"),
        (lambda part, blocks: (*part[:2], part[2][:1]), "entries that its header does not name"),
        (lambda part, blocks: (*part[:2], part[2][1:]), "is to follow"),
        (lambda part, blocks: (*part[:2], ()), "entries that its header does not name"),
        (lambda part, blocks: other_key(part, phase=Phase.PREPARE), "does not prove it"),
        (lambda part, blocks: other_key(part, epoch=1), "does not prove it"),
        (lambda part, blocks: other_key(part, height=1), "does not prove it"),
        (lambda part, blocks: other_key(part, block_hash=bytes(32)), "does not prove it"),
    ],
)
def test_what_does_not_follow_is_refused_and_changes_nothing(
    store: Store, blocks: list[Part], change: Callable[[Part, list[Part]], Part], problem: str
) -> None:
    fill(store, blocks[:1])
    before = record_of(store)
    with pytest.raises(InvariantError, match=problem):
        store.append(*change(blocks[1], blocks))
    assert record_of(store) == before
    fill(store, blocks[1:])


# -------------------------------------------------------------------------------------- failing disks


def stops(store: Store, part: Part, problem: str) -> None:
    """The append fails, and nothing is taken after it or read from it: the state of the disk is unknown."""
    with pytest.raises(RecordError, match=problem) as caught:
        store.append(*part)
    assert isinstance(caught.value, StorageError)
    for use in (lambda: store.append(*part), lambda: store.ask("SELECT 1"), store.verify):
        with pytest.raises(RecordError, match="not usable any more"):
            use()


def recovers(store: Store, cluster: LedgerCluster, blocks: list[Part], height: int) -> None:
    """What was acknowledged is there; the last one may be, too. The rest can be appended."""
    store.close()
    again = Store.create_or_open(store.path, cluster.genesis)
    assert again.height in (height, height + 1)
    assert again.verify() == ""
    fill(again, blocks[again.height :])
    assert again.totals() == cluster.history.totals()
    again.close()


def log_descriptor(path: Path) -> int:
    """The descriptor under which SQLite writes to the log of the record."""
    wanted = os.path.realpath(f"{path}-wal")
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if os.readlink(f"/proc/self/fd/{name}") == wanted:  # noqa: PTH115
                return int(name)
        except FileNotFoundError:
            continue
    raise AssertionError("SQLite holds no log open")


@pytest.mark.parametrize("height", [3, 12, 22])
@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("/dev/full", "disk is full"),  # every write fails with ENOSPC
        ("/dev/null", "disk I/O error"),  # writes succeed, every fsync fails
        ("/proc/self/mem", "disk I/O error"),  # every write fails with EIO
    ],
)
def test_a_log_that_cannot_be_written_stops_the_store(
    store: Store,
    path: Path,
    cluster: LedgerCluster,
    blocks: list[Part],
    height: int,
    device: str,
    problem: str,
) -> None:
    fill(store, blocks[:height])
    target = log_descriptor(path)
    kept, source = os.dup(target), os.open(device, os.O_RDWR)
    os.dup2(source, target)
    try:
        stops(store, blocks[height], problem)
    finally:
        os.dup2(kept, target)
        os.close(kept)
        os.close(source)
    recovers(store, cluster, blocks, height)


def test_a_full_disk_stops_the_store(store: Store, cluster: LedgerCluster, blocks: list[Part]) -> None:
    fill(store, blocks[:5])
    pages = store.ask("PRAGMA page_count")[0][0]
    store.ask(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RecordError, match="disk is full"):
        fill(store, blocks[5:])
    height = store.height
    assert 5 <= height < len(blocks) - 1
    stops(store, blocks[height], "not usable any more: database or disk is full")
    recovers(store, cluster, blocks, height)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_in_the_middle_stops_the_store(
    store: Store,
    cluster: LedgerCluster,
    blocks: list[Part],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(store, blocks[:5])

    def broken(*values: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Projection, "apply", broken)
        with pytest.raises(type(error)):
            store.append(*blocks[5])
    stops(store, blocks[5], "not usable any more: a write broke off")
    store.close()
    again = Store.create_or_open(store.path, cluster.genesis)
    assert again.height == 5, "half a block is none"
    again.close()


# ---------------------------------------------------------------------------------- kills and power cuts

KILLED = """
import pickle, signal, sys
from pathlib import Path
from replication.identity.genesis import parse_genesis
from replication.ledger.store import Store
raw, blocks = pickle.loads(Path(sys.argv[2]).read_bytes())
store = Store.create_or_open(Path(sys.argv[1]), parse_genesis(raw))
print(store.height, flush=True)
for part in blocks[store.height:][:25]:
    store.append(*part)
    print(store.height, flush=True)
signal.pause()  # however slow who kills it is, it gets no further
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, path: Path) -> None:
    """Killed again and again, sometimes while it is made or opened; and the application starts from it."""
    cluster = LedgerCluster(4)
    for _ in range(120):
        cluster.decide(cluster.propose())
    (tmp_path / "blocks").write_bytes(pickle.dumps((cluster.genesis.raw, parts(cluster))))
    random, acknowledged, kills = Random(7), 0, 0
    while acknowledged < 80:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(tmp_path / "blocks")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(random.randrange(0, 25)):
            acknowledged = int(process.stdout.readline() or acknowledged)
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        acknowledged = int(printed[-1]) if printed else acknowledged
        kills += 1
        if not path.exists():
            assert acknowledged == 0
            continue
        store = Store.create_or_open(path, cluster.genesis)
        assert store.height in (acknowledged, acknowledged + 1)
        application = VotingApplication(cluster.genesis, store)
        execution = cluster.executions[store.height + 1]
        commands = cluster.commands[store.height + 1]
        assert application.execute(execution.height, execution.time_ms, commands).entries == execution.entries
        acknowledged = store.height
        store.close()
    assert kills > 3


def mixture(before: bytes, after: bytes, random: Random) -> bytes:
    """A file on its way from one content to another when the power went: any of its sectors are written."""
    kept = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    size = random.choice([len(before), len(after)])
    content = bytearray(before.ljust(size, b"\0")[:size])
    for at in range(0, min(size, len(after)), 512):
        if random.random() < kept:
            content[at : at + 512] = after[at : min(at + 512, size)]
    return bytes(content)


def test_power_cuts_between_and_in_the_middle_of_appends(
    tmp_path: Path, path: Path, store: Store, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    """The files as they were after each append are durable. The next one writes to the log, syncs it, and,
    when the log is long enough, writes to the file. Cut the power in one of both: any sectors are there."""
    store.ask("PRAGMA wal_autocheckpoint = 40")
    log = path.with_name("ledger.db-wal")
    states = [(path.read_bytes(), log.read_bytes())]
    for part in blocks:
        store.append(*part)
        states.append((path.read_bytes(), log.read_bytes()))
    random, disk = Random(11), tmp_path / "after" / "ledger.db"
    disk.parent.mkdir()
    checkpoints = lost = 0
    for height, ((file, log_bytes), (next_file, next_log)) in enumerate(itertools.pairwise(states)):
        cuts = [(file, mixture(log_bytes, next_log, random)) for _ in range(6)]
        if file != next_file:
            checkpoints += 1
            cuts += [(mixture(file, next_file, random), next_log) for _ in range(12)]
        for content, log_content in cuts:
            disk.write_bytes(content)
            disk.with_name("ledger.db-wal").write_bytes(log_content)
            recovered = Store.create_or_open(disk, cluster.genesis)
            assert recovered.height in (height, height + 1)
            lost += recovered.height == height
            recovered.close()
    assert checkpoints >= 3
    assert lost > 30


def test_a_killed_writer_cannot_be_mistaken_for_a_working_one(path: Path, store: Store) -> None:
    """The lock is the kernel's: it goes with the process."""
    with pytest.raises(RecordError, match="locked"):
        Store.create_or_open(path, store.genesis)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(path, timeout=0).execute("SELECT * FROM blocks")
