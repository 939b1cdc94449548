"""The SQLite file of a node's record: its tables, its settings, and the judgement of an existing file.

Write-ahead log with synchronous FULL: a commit returns when its log is on disk. The file is created under
EXTRA, which also makes the creation of the journal durable. One connection a file: releases of SQLite before
3.51.3 can damage a write-ahead log that two connections share.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import ClassVar, Final

from replication.errors import StorageError

__all__ = ["RecordDamagedError", "RecordError", "connect", "create_tables"]

APPLICATION_ID: Final = 0x61637031  # "acp1"
SCHEMA_VERSION: Final = 1

_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, hash BLOB NOT NULL, block BLOB NOT NULL,
    certificate BLOB, checksum BLOB NOT NULL);
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY, height INTEGER NOT NULL, event_type TEXT NOT NULL, proposal_id TEXT,
    actor_id TEXT, data TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX entries_of_proposal ON entries (proposal_id, sequence) WHERE proposal_id IS NOT NULL;
CREATE INDEX entries_of_type ON entries (event_type, sequence);
"""

_PROJECTIONS: Final = """
CREATE TABLE {schema}.proposals (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL UNIQUE, proposer TEXT NOT NULL,
    request_id TEXT NOT NULL, status TEXT NOT NULL, decision TEXT NOT NULL, sequence INTEGER NOT NULL,
    proposed_ms INTEGER NOT NULL, decided_ms INTEGER NOT NULL DEFAULT 0,
    tally_sequence INTEGER NOT NULL DEFAULT 0, decided_epoch INTEGER NOT NULL DEFAULT 0,
    UNIQUE (proposer, request_id));
CREATE TABLE {schema}.votes (
    proposal INTEGER NOT NULL, voter TEXT NOT NULL, first_sequence INTEGER NOT NULL,
    sequence INTEGER NOT NULL, counts INTEGER NOT NULL, PRIMARY KEY (proposal, voter)) WITHOUT ROWID;
CREATE INDEX {schema}.votes_of_voter ON votes (voter, sequence);
CREATE INDEX {schema}.open_proposals ON proposals (number) WHERE status = 'open';
"""
"""What follows from the entries alone: written beside them, and compared with a replay when the file is
opened."""


class RecordError(StorageError):
    """The record cannot be read or written."""

    reason: ClassVar[str] = "RECORD_FAILED"


class RecordDamagedError(StorageError):
    """What is in the record is not what was written."""

    reason: ClassVar[str] = "RECORD_DAMAGED"


def connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open the file with its settings, which are read back; whether it is new comes with it.

    Raises RecordError when the disk refuses, RecordDamagedError when it is no record or its settings do not
    hold.
    """
    is_new = not path.exists() or path.stat().st_size == 0
    try:
        if is_new:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise RecordError(
            f"{path} cannot be opened: {error}. Check the folder, its owner and space."
        ) from error
    try:
        _configure(connection, path, is_new=is_new)
    except sqlite3.OperationalError as error:
        connection.close()
        raise RecordError(f"{path} cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise RecordDamagedError(
            f"{path} is not a record of this program, or is damaged: {error}. Move the data folder away and "
            "start the node again: it fetches the record from the others and asks to be let back in."
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection, is_new


def _configure(connection: sqlite3.Connection, path: Path, *, is_new: bool) -> None:
    def ask(pragma: str) -> object:
        row = connection.execute(f"PRAGMA {pragma}").fetchone()
        return row[0] if row else None

    ask("locking_mode = EXCLUSIVE")
    if is_new:
        ask(f"application_id = {APPLICATION_ID}")
        ask("synchronous = EXTRA")
    elif (ask("application_id"), ask("user_version")) != (APPLICATION_ID, SCHEMA_VERSION):
        raise RecordDamagedError(
            f"{path} is not a record of this version (application {ask('application_id')}, version "
            f"{ask('user_version')}). Use the program that wrote it, or move the file away."
        )
    ask("journal_mode = WAL")
    if not is_new:
        ask("synchronous = FULL")
    ask("foreign_keys = OFF")
    ask("cell_size_check = ON")
    if ask("journal_mode") != "wal" or ask("synchronous") != (3 if is_new else 2):
        raise RecordError(
            f"{path}: the file system does not support the settings that durability needs (journal_mode "
            f"{ask('journal_mode')}, synchronous {ask('synchronous')}). Use a local disk."
        )


def create_tables(connection: sqlite3.Connection, schema: str, *, whole: bool) -> None:
    """Create the tables of a new record, or with `whole` off only its projections, in the named schema."""
    if whole:
        connection.executescript(_TABLES)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.executescript(_PROJECTIONS.format(schema=schema))
