"""A disk that fails or is slow, as the running node meets it: in the journal's file operations, and in
SQLite's.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from typing import Any, Final

from replication.faults.harness.behaviour import Behaviour
from replication.faults.harness.inside import Armed, Control
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Choice, Number, Whole

__all__ = ["BEHAVIOURS_HERE"]

_ERRORS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
_SQLITE_WORDS: Final = {"EIO": "disk I/O error", "ENOSPC": "database or disk is full"}
_SQLITE_CODES: Final = {"EIO": sqlite3.SQLITE_IOERR, "ENOSPC": sqlite3.SQLITE_FULL}


def _strikes(control: Control, file: str, operation: str) -> Armed | None:
    """The armed failure if it strikes this operation now."""
    armed = control.armed("disk-error")
    if armed is None or (armed.settings["file"], armed.settings["operation"]) != (file, operation):
        return None
    times = armed.settings["times"]
    if times and control.count(f"strikes of {armed.key}") > times:
        return None
    control.effect(armed, f"{armed.settings['error']} on {operation} of the {file}")
    return armed


def _install_errors(control: Control) -> None:
    from replication.ledger.files import Files

    write, sync = Files.write, Files.sync

    def failing_write(self: Files, descriptor: int, data: bytes, offset: int) -> None:
        armed = _strikes(control, "journal", "write")
        if armed is not None:
            raise _os_error(armed)
        write(self, descriptor, data, offset)

    def failing_sync(self: Files, descriptor: int) -> None:
        armed = _strikes(control, "journal", "sync")
        if armed is not None:
            raise _os_error(armed)
        sync(self, descriptor)

    Files.write = failing_write  # type: ignore[method-assign]
    Files.sync = failing_sync  # type: ignore[method-assign]

    def before_statement(statement: str) -> None:
        word = statement.lstrip()[:6].upper()
        operation = {"INSERT": "write", "UPDATE": "write", "COMMIT": "sync"}.get(word)
        armed = None if operation is None else _strikes(control, "ledger", operation)
        if armed is not None:
            error = sqlite3.OperationalError(_SQLITE_WORDS[armed.settings["error"]])
            error.sqlite_errorcode = _SQLITE_CODES[armed.settings["error"]]
            raise error

    _on_statements(before_statement)


def _install_slowness(control: Control) -> None:
    from replication.ledger.files import Files

    sync = Files.sync

    def wait() -> None:
        armed = control.armed("slow-disk")
        if armed is not None:
            control.effect(armed, f"each sync takes {armed.settings['sync_ms']:g} ms longer")
            time.sleep(armed.settings["sync_ms"] / 1000)

    def slow_sync(self: Files, descriptor: int) -> None:
        wait()
        sync(self, descriptor)

    Files.sync = slow_sync  # type: ignore[method-assign]
    _on_statements(lambda statement: wait() if statement.lstrip()[:6].upper() == "COMMIT" else None)


def _on_statements(before: Any) -> None:
    """Have `before` called with each SQL statement of every connection that is opened from now on."""
    connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        """A connection whose statements pass by `before`."""

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            before(sql)
            return super().execute(sql, *parameters)

        def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            before(sql)
            return super().executemany(sql, *parameters)

        def commit(self) -> None:
            before("COMMIT")
            super().commit()

        def __exit__(self, *details: Any) -> Any:
            if details[0] is None and self.in_transaction:
                before("COMMIT")
            return super().__exit__(*details)

    def watched_connect(*arguments: Any, **options: Any) -> Any:
        if "factory" in options:  # another behaviour watches already: build on it
            options["factory"] = type("Watched", (Watched, options["factory"]), {})
        else:
            options["factory"] = Watched
        return connect(*arguments, **options)

    sqlite3.connect = watched_connect


def _os_error(armed: Armed) -> OSError:
    code = _ERRORS[armed.settings["error"]]
    return OSError(code, os.strerror(code))


BEHAVIOURS_HERE: Final = (
    Behaviour(
        name="disk-error",
        group=Group.STORAGE,
        summary="writes or syncs of the journal or the record fail, once or for ever; the node must stop",
        settings={
            "file": Choice("journal", ("journal", "ledger")),
            "operation": Choice("sync", ("write", "sync")),
            "error": Choice("EIO", tuple(_ERRORS)),
            "times": Whole(1, 0, 1_000_000),
        },
        install=_install_errors,
        ends=True,
    ),
    Behaviour(
        name="slow-disk",
        group=Group.STORAGE,
        summary="every sync takes longer",
        settings={"sync_ms": Number(50.0, 0.1, 60_000.0)},
        install=_install_slowness,
    ),
)
