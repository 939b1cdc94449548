"""Ways to ruin the files of a node that is not running. Each says what it did, and the file differs
afterwards.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Final

from replication.faults.harness.fault import NotPossibleError

__all__ = [
    "digest_of",
    "flip_bytes",
    "put_back",
    "remove_files",
    "snapshot",
    "swap_rows",
    "truncate",
    "write_back_wal",
]

WAL: Final = "-wal"
SHM: Final = "-shm"


def digest_of(path: Path) -> str:
    """SHA-256 of a file in hex, empty if there is none."""
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def write_back_wal(database: Path) -> None:
    """Let SQLite move everything from the -wal into the database file, as it does when it is closed in good
    order.

    """
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flip_bytes(path: Path, count: int, draw: random.Random) -> str:
    """Change one bit in each of `count` bytes that are not zero (zeros are mostly room that nobody reads)."""
    content = bytearray(_content(path))
    used = [index for index, byte in enumerate(content) if byte]
    places = sorted(draw.sample(used, min(count, len(used))))
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return (
        f"{path.name}: one bit flipped in each of {len(places)} bytes, at {', '.join(map(str, places[:5]))}"
    )


def truncate(path: Path, keep_share: float) -> str:
    """Cut a file to a share of its length."""
    size = len(_content(path))
    kept = min(int(size * keep_share), size - 1)
    with path.open("r+b") as file:
        file.truncate(kept)
    return f"{path.name}: cut from {size} to {kept} bytes"


def swap_rows(database: Path, draw: random.Random) -> str:
    """Exchange two rows of the largest table; nothing in SQLite's own structures shows it."""
    with closing(sqlite3.connect(database)) as connection:
        sizes = {table: _rows(connection, table) for table in _tables(connection)}
        table = max(sizes, key=lambda name: len(sizes[name]), default="")
        if len(sizes.get(table, ())) < 2:
            raise NotPossibleError(f"{database.name} has no table with two rows")
        first, second = draw.sample(sizes[table], 2)
        aside = max(sizes[table]) + 1
        connection.execute("PRAGMA foreign_keys = OFF")
        for source, target in ((first, aside), (second, first), (aside, second)):
            connection.execute(f"UPDATE {table} SET rowid = ? WHERE rowid = ?", (target, source))  # noqa: S608
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return f"{database.name}: rows {first} and {second} of {table} exchanged"


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Names of the tables, quoted."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    return ['"' + name.replace('"', '""') + '"' for (name,) in found]


def _rows(connection: sqlite3.Connection, table: str) -> list[int]:
    """The row ids of a table; none of one that has no row ids."""
    try:
        return [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]  # noqa: S608
    except sqlite3.OperationalError:
        return []


def remove_files(paths: Iterable[Path]) -> str:
    """Remove files and folders; those that are not there do not matter."""
    removed = []
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
            removed.append(path.name)
        elif path.exists():
            path.unlink()
            removed.append(path.name)
    if not removed:
        raise NotPossibleError("there is nothing to remove")
    return f"removed {', '.join(removed)}"


def snapshot(paths: Iterable[Path], target: Path) -> None:
    """Copy files to a folder, as a backup does. The process that writes them must not run meanwhile."""
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.exists():
            shutil.copy2(path, target / path.name)


def put_back(source: Path, paths: Iterable[Path]) -> str:
    """Put the copies in the place of the files; a file that had no copy is removed."""
    changed = []
    for path in paths:
        before = digest_of(path)
        copy = source / path.name
        if copy.exists():
            shutil.copy2(copy, path)
        else:
            path.unlink(missing_ok=True)
        if digest_of(path) != before:
            changed.append(path.name)
    if not changed:
        raise NotPossibleError("nothing was written since the copy was made")
    return f"put back older {', '.join(changed)}"


def _content(path: Path) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    if not content:
        raise NotPossibleError(f"{path.name} is missing or empty: there is nothing to damage")
    return content
