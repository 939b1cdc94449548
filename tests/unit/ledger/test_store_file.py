"""The file of the store: how it is made, what it is opened with, and what is refused in its place."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import fill, parts, record_of, small

from replication.errors import StorageError
from replication.identity.genesis import Genesis
from replication.ledger import schema
from replication.ledger.files import Files
from replication.ledger.store import RecordDamagedError, RecordError, Store
from replication.ledger.verify import verify_export


@pytest.fixture(scope="module")
def cluster() -> LedgerCluster:
    return small()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def store(path: Path, cluster: LedgerCluster) -> Iterator[Store]:
    store = Store.create_or_open(path, cluster.genesis)
    yield store
    store.close()


def pragma(store: Store, name: str) -> object:
    return store.ask(f"PRAGMA {name}")[0][0]


def reopened(path: Path, genesis: Genesis) -> tuple[object, ...]:
    store = Store.create_or_open(path, genesis)
    try:
        return record_of(store)
    finally:
        store.close()


def test_a_new_record_is_private_and_holds_genesis(store: Store, path: Path, cluster: LedgerCluster) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header, certificate = store.head()
    assert (header.height, header.audit_size, certificate) == (0, 1, None)
    assert store.height == 0
    assert store.totals() == LedgerCluster(4).history.totals()
    report = verify_export(store.export_lines(), cluster.genesis)
    assert (report.height, report.entries) == (0, 1)


def test_settings_read_back(store: Store, path: Path, cluster: LedgerCluster) -> None:
    """On the second open too: none of them but two is kept in the file."""
    for _ in range(2):
        assert pragma(store, "journal_mode") == "wal"
        assert pragma(store, "synchronous") == 2  # FULL
        assert pragma(store, "locking_mode") == "exclusive"
        assert pragma(store, "application_id") == 0x61637031
        assert pragma(store, "user_version") == 2
        assert pragma(store, "cell_size_check") == 1
        store.close()
        store = Store.create_or_open(path, cluster.genesis)
    store.close()
    assert path.read_bytes()[68:72] == b"acp1"


def test_settings_that_do_not_hold_are_refused(
    store: Store, path: Path, cluster: LedgerCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without what a write-ahead log needs: SQLite answers with the mode that it kept."""
    store.close()

    class Stubborn(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *values)

    real = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *values, **options: real(*values, **options, factory=Stubborn)
    )
    with pytest.raises(RecordError, match="journal_mode delete"):
        Store.create_or_open(path, cluster.genesis)


def test_one_process_a_file(store: Store, path: Path, cluster: LedgerCluster) -> None:
    with pytest.raises(RecordError, match="locked"):
        Store.create_or_open(path, cluster.genesis)


def test_another_cluster(store: Store, path: Path) -> None:
    store.close()
    with pytest.raises(RecordDamagedError, match="another cluster"):
        Store.create_or_open(path, LedgerCluster(5).genesis)


@pytest.mark.parametrize("content", [b"", b"not a database, but longer than a header" * 10, bytes(8192)])
def test_something_else_in_its_place(path: Path, cluster: LedgerCluster, content: bytes) -> None:
    """An empty file is no new record: a new one is made whole, or not at all."""
    path.write_bytes(content)
    with pytest.raises(RecordDamagedError):
        Store.create_or_open(path, cluster.genesis)
    assert path.read_bytes()[:10] == content[:10]


def test_a_dangling_link_and_a_folder(tmp_path: Path, cluster: LedgerCluster) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.db").mkdir()
    for name in ("link.db", "folder.db"):
        with pytest.raises(StorageError):
            Store.create_or_open(tmp_path / name, cluster.genesis)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("statement", ["user_version = 3", "application_id = 7"])
def test_another_version(store: Store, path: Path, cluster: LedgerCluster, statement: str) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA {statement}")
    connection.close()
    with pytest.raises(RecordDamagedError, match="not a record of this version"):
        Store.create_or_open(path, cluster.genesis)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX entries_of_block",
        "CREATE TRIGGER t AFTER INSERT ON votes BEGIN DELETE FROM votes; END",
        "CREATE TABLE more (x)",
        "ALTER TABLE proposals RENAME COLUMN decided_ms TO decided",
    ],
)
def test_other_tables(store: Store, path: Path, cluster: LedgerCluster, statement: str) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(RecordDamagedError, match="its tables are not those"):
        Store.create_or_open(path, cluster.genesis)


class FailingFiles(Files):
    """Fails the n-th call of one method."""

    def __init__(self, method: str, nth: int = 1) -> None:
        self._left = nth

        def failing(*values: object) -> object:
            self._left -= 1
            if self._left == 0:
                raise OSError(errno.EIO, "Input/output error")
            return real(*values)

        real = getattr(self, method)
        setattr(self, method, failing)


@pytest.mark.parametrize(
    ("method", "nth"), [("remove", 1), ("remove", 2), ("create", 1), ("replace", 1), ("sync_folder", 1)]
)
def test_a_record_is_made_whole_or_not_at_all(
    path: Path, cluster: LedgerCluster, method: str, nth: int
) -> None:
    with pytest.raises(RecordError, match="cannot be made"):
        Store.create_or_open(path, cluster.genesis, files=FailingFiles(method, nth))
    store = Store.create_or_open(path, cluster.genesis)
    assert store.height == 0
    store.close()
    assert sorted(item.name for item in path.parent.iterdir()) == ["ledger.db"]


def test_a_crash_while_it_is_made_leaves_no_record(
    path: Path, cluster: LedgerCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(BaseException):
        pass

    def crash(draft: Path, fill: object) -> None:
        draft.write_bytes(b"half a file")
        (draft.parent / f"{draft.name}-journal").write_bytes(b"half a journal")
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_fill_draft", crash)
        with pytest.raises(CrashError):
            Store.create_or_open(path, cluster.genesis)
    assert not path.exists()
    Store.create_or_open(path, cluster.genesis).close()
    assert [item.name for item in path.parent.iterdir()] == ["ledger.db"]


def test_a_log_without_its_record_does_not_get_into_a_new_one(
    store: Store, path: Path, cluster: LedgerCluster
) -> None:
    """Somebody removed the file of a killed node, to have it fetched again, and left the log."""
    fill(store, parts(cluster))
    log = path.with_name("ledger.db-wal")
    kept = log.read_bytes()
    assert len(kept) > 100_000
    store.close()
    path.unlink()
    log.write_bytes(kept)
    store = Store.create_or_open(path, cluster.genesis)
    assert store.height == 0
    fill(store, parts(cluster))
    store.close()
    assert path.with_name("ledger.db-wal.lost").read_bytes() == kept


def test_what_a_killed_process_left_is_made_durable_before_it_is_read(
    store: Store, path: Path, tmp_path: Path, cluster: LedgerCluster
) -> None:
    """The log of the killed one may be in the system's cache only. At open it is synced and written back."""
    fill(store, parts(cluster))
    copy = tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    assert copy.with_name("ledger.db-wal").stat().st_size > 0
    taken_up = Store.create_or_open(copy, cluster.genesis)
    assert copy.with_name("ledger.db-wal").stat().st_size == 0
    assert record_of(taken_up) == record_of(store)
    taken_up.close()


def test_closed(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(RecordError, match="it is closed"):
        store.blocks(0, 10)
    with pytest.raises(RecordError, match="it is closed"):
        store.verify()


def test_the_record_needs_nothing_of_the_process_that_wrote_it(
    store: Store, path: Path, cluster: LedgerCluster
) -> None:
    fill(store, parts(cluster))
    before = record_of(store)
    store.close()
    assert reopened(path, cluster.genesis) == before
    code = (
        "import sys\nfrom pathlib import Path\nfrom replication.identity.genesis import parse_genesis\n"
        "from replication.ledger.store import Store\n"
        "store = Store.create_or_open(Path(sys.argv[1]), parse_genesis(sys.stdin.buffer.read()))\n"
        "sys.stdout.buffer.writelines(store.export_lines())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], input=cluster.genesis.raw, capture_output=True, check=True
    )
    assert result.stdout == cluster.record.export()
