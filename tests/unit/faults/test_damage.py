"""Ruined files are really ruined, in the way that was asked for."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from replication.faults.harness import damage
from replication.faults.harness.fault import NotPossibleError


@pytest.fixture
def draw() -> random.Random:
    return random.Random(1)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL)")
        connection.execute("CREATE TABLE few (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE keyed (id TEXT PRIMARY KEY, other TEXT) WITHOUT ROWID")
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?)", [(number, f"hash {number}") for number in range(50)]
        )
        connection.commit()
    return path


def entries(database: Path) -> dict[int, str]:
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT sequence, hash FROM entries"))


def test_bits_are_flipped_where_there_is_something(tmp_path: Path, draw: random.Random) -> None:
    path = tmp_path / "file"
    content = bytes(100) + b"content" + bytes(100)
    path.write_bytes(content)
    said = damage.flip_bytes(path, 3, draw)
    changed = [index for index, byte in enumerate(path.read_bytes()) if byte != content[index]]
    assert len(changed) == 3
    assert set(changed) <= set(range(100, 107))
    assert "3 bytes" in said
    assert all((path.read_bytes()[index] ^ content[index]).bit_count() == 1 for index in changed)


def test_no_more_bits_than_there_are(tmp_path: Path, draw: random.Random) -> None:
    (tmp_path / "file").write_bytes(b"ab")
    assert "2 bytes" in damage.flip_bytes(tmp_path / "file", 1_000, draw)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.5, 50), (1.0, 99)])
def test_a_file_is_always_cut_shorter(tmp_path: Path, share: float, kept: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    damage.truncate(tmp_path / "file", share)
    assert (tmp_path / "file").stat().st_size == kept


def test_two_rows_are_exchanged_and_nothing_else(database: Path, draw: random.Random) -> None:
    before = entries(database)
    said = damage.swap_rows(database, draw)
    after = entries(database)
    different = [key for key in before if before[key] != after[key]]
    assert len(different) == 2
    assert (after[different[0]], after[different[1]]) == (before[different[1]], before[different[0]])
    assert "entries" in said
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_without_two_rows_nothing_can_be_exchanged(tmp_path: Path, draw: random.Random) -> None:
    path = tmp_path / "empty.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE few (id INTEGER PRIMARY KEY)")
    with pytest.raises(NotPossibleError, match="no table with two rows"):
        damage.swap_rows(path, draw)


def test_files_are_put_back_to_what_they_were(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    damage.snapshot([first, second], tmp_path / "copy")
    first.write_text("new")
    second.write_text("made later")
    assert damage.put_back(tmp_path / "copy", [first, second]) == "put back older first, second"
    assert first.read_text() == "old"
    assert not second.exists()
    with pytest.raises(NotPossibleError, match="nothing was written since"):
        damage.put_back(tmp_path / "copy", [first, second])


def test_files_and_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").write_text("")
    (tmp_path / "file").write_text("")
    said = damage.remove_files([tmp_path / "folder", tmp_path / "file", tmp_path / "nothing"])
    assert said == "removed folder, file"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotPossibleError, match="nothing to remove"):
        damage.remove_files([tmp_path / "nothing"])


def test_what_is_not_there_cannot_be_ruined(tmp_path: Path, draw: random.Random) -> None:
    with pytest.raises(NotPossibleError, match="missing or empty"):
        damage.flip_bytes(tmp_path / "nothing", 1, draw)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(NotPossibleError, match="missing or empty"):
        damage.truncate(tmp_path / "empty", 0.5)


def test_the_log_is_written_back_before_the_database_is_ruined(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO entries VALUES (99, 'newest')")
        connection.commit()
        wal = database.with_name("ledger.db-wal")
        assert wal.stat().st_size > 0
        damage.write_back_wal(database)
        assert wal.stat().st_size == 0
    assert entries(database)[99] == "newest"
