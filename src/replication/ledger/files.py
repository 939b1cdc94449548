"""The few file operations of the journal, in one place, so that a test can let each of them fail."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Files"]


class Files:
    """Files by descriptor. Every method raises `OSError` as the system gives it, and does all or says so."""

    def exists(self, path: Path) -> bool:
        """Whether there is anything at the path, a dangling link included."""
        return os.path.lexists(path)

    def create(self, path: Path) -> int:
        """A new file, 0600, for reading and writing; `FileExistsError` if there is one."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def open(self, path: Path) -> int:
        """An existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def read(self, descriptor: int, limit: int) -> bytes:
        """The whole file, but at most `limit` bytes."""
        parts = []
        offset = 0
        while offset < limit and (part := os.pread(descriptor, min(limit - offset, 1 << 20), offset)):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`; durable only after `sync`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset += written
            view = view[written:]

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file to `size` bytes; durable only after `sync`."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Make what was written durable, the size of the file included."""
        os.fdatasync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target`, atomically; durable only after `sync_folder`."""
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        """Make creations, renames and removals in a folder durable."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def close(self, descriptor: int) -> None:
        """Let go of a file."""
        os.close(descriptor)
