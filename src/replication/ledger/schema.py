"""The SQLite file of a node's record: its tables, its settings, and the judgement of an existing file.

Write-ahead log with synchronous FULL: a commit returns when its log is on disk. A new file is made beside its
place, whole and under synchronous EXTRA, and renamed into it: a crash leaves a record or none, never half of
one. One connection a file: releases of SQLite before 3.51.3 can damage a write-ahead log that two connections
share.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

from replication.errors import StorageError

from .files import Files

__all__ = [
    "APPLICATION_ID",
    "READ_ERRORS",
    "SCHEMA_VERSION",
    "RecordDamagedError",
    "RecordError",
    "begin_projections",
    "connect",
    "create_file",
    "damaged",
    "unreadable",
]

APPLICATION_ID: Final = 0x61637031  # "acp1"
SCHEMA_VERSION: Final = 2

_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, hash BLOB NOT NULL, block BLOB NOT NULL,
    certificate BLOB, checksum BLOB NOT NULL);
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY, height INTEGER NOT NULL, event_type TEXT NOT NULL, proposal_id TEXT,
    actor_id TEXT, data TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX entries_of_block ON entries (height);
CREATE INDEX entries_of_proposal ON entries (proposal_id, sequence) WHERE proposal_id IS NOT NULL;
CREATE INDEX entries_of_type ON entries (event_type, sequence);
"""

_PROJECTIONS: Final = """
CREATE TABLE proposals (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL UNIQUE, proposer TEXT NOT NULL,
    request_id TEXT NOT NULL, action TEXT NOT NULL, status TEXT NOT NULL, decision TEXT NOT NULL,
    sequence INTEGER NOT NULL, proposed_ms INTEGER NOT NULL, decided_ms INTEGER NOT NULL DEFAULT 0,
    tally_sequence INTEGER NOT NULL DEFAULT 0, decided_epoch INTEGER NOT NULL DEFAULT 0,
    UNIQUE (proposer, request_id));
CREATE TABLE votes (
    proposal INTEGER NOT NULL, voter TEXT NOT NULL, value TEXT NOT NULL, first_sequence INTEGER NOT NULL,
    sequence INTEGER NOT NULL, counts INTEGER NOT NULL, PRIMARY KEY (proposal, voter)) WITHOUT ROWID;
CREATE INDEX votes_of_voter ON votes (voter, sequence);
CREATE INDEX proposals_by_status ON proposals (status, number);
CREATE INDEX proposals_unconfirmed ON proposals (number)
    WHERE status = 'decided' AND decision = 'approved' AND action <> 'membership';
"""
"""What follows from the entries alone: written beside them, and compared with a replay when the file is
opened."""


READ_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What reading a file may raise. SQLite quotes what it finds, and its messages are decoded strictly."""

_DISK_REFUSES: Final = frozenset(
    {
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    }
)
"""Results of SQLite that say nothing about what is in the file. Any other one does."""


class RecordError(StorageError):
    """The record cannot be read or written."""

    reason: ClassVar[str] = "RECORD_FAILED"


class RecordDamagedError(StorageError):
    """What is in the record is not what was written."""

    reason: ClassVar[str] = "RECORD_DAMAGED"


def damaged(path: Path, problem: object) -> RecordDamagedError:
    """The error for a record that is not what was written, with what to do about it."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in str(problem)[:300])
    return RecordDamagedError(
        f"{path} is damaged: {shown}. Move it away, with what begins with its name, and start the node "
        "again: it fetches the record from the others. Look for what is wrong with the disk."
    )


def unreadable(path: Path, error: Exception) -> StorageError:
    """The error for a file that SQLite cannot read: is it the disk that refuses, or what is in the file?"""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _DISK_REFUSES:
        return RecordError(f"{path} cannot be used: {error}. Check the disk, its space and owner.")
    return damaged(path, error)


def create_file(path: Path, fill: Callable[[sqlite3.Connection], None], files: Files | None = None) -> None:
    """Make a new record file at `path`, durable on return; `fill` puts the first rows into its tables.

    A write-ahead log that is there without its file belongs to a record that is gone; it is renamed, since
    SQLite would apply it to the new one. Raises RecordError when the disk refuses.
    """
    files = files or Files()
    draft = path.with_name(f".{path.name}.new")
    try:
        for old in (draft, _beside(draft, "-journal"), _beside(draft, "-wal")):
            files.remove(old)
        if files.exists(_beside(path, "-wal")):
            files.replace(_beside(path, "-wal"), _beside(path, "-wal.lost"))
        files.close(files.create(draft))
        _fill_draft(draft, fill)
        files.replace(draft, path)
        files.sync_folder(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise RecordError(
            f"{path} cannot be made: {error}. Check the folder, its owner and space."
        ) from error


def _fill_draft(draft: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.executescript(f"BEGIN; {_TABLES} {_PROJECTIONS} COMMIT;")
        fill(connection)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing record file with its settings, which are read back.

    What a killed process left in the system's cache is made durable first: whoever reads the record from
    here on may rely on it.

    Raises RecordError when the disk refuses or cannot hold the settings, RecordDamagedError when the file is
    no record.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=1,
        )
    except sqlite3.Error as error:
        raise RecordError(f"{path} cannot be opened: {error}. Check the folder and its owner.") from error
    try:
        _configure(connection, path)
        _compare_schema(connection, path)
    except READ_ERRORS as error:
        connection.close()
        raise unreadable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, path: Path) -> None:
    def ask(pragma: str) -> object:
        row = connection.execute(f"PRAGMA {pragma}").fetchone()
        return row[0] if row else None

    ask("locking_mode = EXCLUSIVE")
    if (ask("application_id"), ask("user_version")) != (APPLICATION_ID, SCHEMA_VERSION):
        raise RecordDamagedError(
            f"{path} is not a record of this version (application {ask('application_id')}, version "
            f"{ask('user_version')}). Use the program that wrote it, or move the file away."
        )
    ask("journal_mode = WAL")
    ask("synchronous = FULL")
    ask("foreign_keys = OFF")
    ask("cell_size_check = ON")
    if ask("journal_mode") != "wal" or ask("synchronous") != 2:
        raise RecordError(
            f"{path}: the file system does not support the settings that durability needs (journal_mode "
            f"{ask('journal_mode')}, synchronous {ask('synchronous')}). Use a local disk."
        )
    # Syncs the log, copies it into the file, syncs that, and cuts the log to nothing.
    ask("wal_checkpoint(TRUNCATE)")


def _compare_schema(connection: sqlite3.Connection, path: Path) -> None:
    """A changed definition (of a default, of an index) would change what is written from now on."""
    if tuple(connection.execute(_DEFINITIONS)) != _definitions():
        raise damaged(path, "its tables are not those that were made")


_DEFINITIONS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"


@cache
def _definitions() -> tuple[tuple[object, ...], ...]:
    """What SQLite says of the tables when they were just made."""
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(_TABLES + _PROJECTIONS)
        return tuple(model.execute(_DEFINITIONS))


def begin_projections(connection: sqlite3.Connection) -> None:
    """Create the tables of what follows from the entries, in a transaction that stays open."""
    connection.executescript(f"BEGIN; {_PROJECTIONS}")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
