"""Secrets on disk: written whole or not at all, with mode 0600, and refused when others could read them.

The check looks at mode bits and not at whether *this* process may read: a node that runs as root may read
everything, and still must not start on a key that every user of the host could have copied.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from pathlib import Path
from typing import ClassVar, Final

from replication.errors import OperatorError

__all__ = ["MAX_PRIVATE_FILE_BYTES", "KeyFileError", "read_private", "require_private", "write_private"]

MAX_PRIVATE_FILE_BYTES: Final = 64 * 1024
"""A PEM key has under 1 KiB; anything much larger is the wrong file."""

_PRIVATE_MODE: Final = 0o600
_GROUP_AND_OTHER: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyFileError(OperatorError):
    """A key file is missing, damaged, locked with another passphrase, or open to other users."""

    reason: ClassVar[str] = "KEY_FILE_REFUSED"


def write_private(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` with mode 0600, atomically and durably; an existing file is replaced.

    Raises:
        KeyFileError: the folder is missing, full or not writable. The old file, if any, is then untouched.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_new(draft, data)
            draft.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise KeyFileError(
            f"{target} could not be written: {error.strerror}. Check the folder and its free space."
        ) from error


def require_private(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is missing, not a regular file, or open to group or others in any way.

    Raises:
        KeyFileError: with the command that puts it right.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    _require_private_status(path, status)


def read_private(path: str | os.PathLike[str]) -> bytes:
    """Contents of a private file. The mode is taken from the open file, so no swap can come in between.

    Raises:
        KeyFileError: as `require_private`, or the file is larger than `MAX_PRIVATE_FILE_BYTES`.
    """
    try:
        # O_NONBLOCK: opening a named pipe by mistake must not hang the start of a node.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _require_private_status(path, os.fstat(file.fileno()))
            data = file.read(MAX_PRIVATE_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > MAX_PRIVATE_FILE_BYTES:
        raise KeyFileError(
            f"{path} is larger than {MAX_PRIVATE_FILE_BYTES} bytes and cannot be a key. Check the path."
        )
    return data


def _require_private_status(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is not a regular file. Give the path of the key file itself.")
    if status.st_mode & _GROUP_AND_OTHER:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(
            f"{path} has mode {mode:04o}: other users could read or change this secret. "
            f"If nobody has, run: chmod 600 {shlex.quote(os.fspath(path))}; otherwise replace the key."
        )


def _unreadable(path: str | os.PathLike[str], error: OSError) -> KeyFileError:
    return KeyFileError(f"{path} cannot be read: {error.strerror}. Check the path and the owner of the file.")


def _write_new(draft: Path, data: bytes) -> None:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), _PRIVATE_MODE)  # whatever the umask took away
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
