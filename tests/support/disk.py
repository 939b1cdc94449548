"""A disk in memory for the journal: it counts and fails operations, and loses power.

What was written and not synced may be on the disk after a power cut or not, sector by sector, in any mixture;
so may a truncation. Changes of the folder that were not synced come in order, up to some point. What was
synced is there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from replication.ledger.files import Files

__all__ = ["FakeDisk", "PowerLost"]

SECTOR = 512


class PowerLost(BaseException):
    """Not an Exception: nothing may catch it and carry on."""


@dataclass
class _Node:
    """A file: what is durable, what the program sees, and the changes in between (None: a truncation)."""

    durable: bytes = b""
    content: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, at: int, data: bytes | None) -> None:
        _change(self.content, at, data)
        self.pending.append((at, data))

    def after_power_cut(self, random: Random) -> bytes:
        """One of the contents that the disk may have."""
        kept = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        content = bytearray(self.durable)
        for at, data in self.pending:
            if data is None:
                if random.random() < kept:
                    _change(content, at, None)
                continue
            for part_at, part in _sectors(at, data):
                if random.random() < kept:
                    _change(content, part_at, part)
        return bytes(content)


def _change(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del content[at:]
        return
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _sectors(at: int, data: bytes) -> list[tuple[int, bytes]]:
    parts = []
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR - (at + start) % SECTOR)
        parts.append((at + start, data[start:end]))
        start = end
    return parts


class FakeDisk(Files):
    """`log` names each operation that changes something, in order. `before` is called with the name of each,
    and may raise; `fail` makes the n-th of a name fail with an errno."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.before: Callable[[str], None] = lambda operation: None
        self._names: dict[str, _Node] = {}
        self._durable_names: dict[str, _Node] = {}
        self._pending_names: list[dict[str, _Node]] = []
        self._open: dict[int, _Node] = {}

    # What tests use.

    def fail(self, operation: str, nth: int = 1, error: int = errno.EIO) -> None:
        """Make the n-th `operation` from now on fail, and no other."""
        left = nth

        def check(name: str) -> None:
            nonlocal left
            if name == operation:
                left -= 1
                if left == 0:
                    raise OSError(error, errno.errorcode[error])

        self.before = check

    def lose_power(self, after: int) -> None:
        """Lose power when this many more operations were done."""
        left = after

        def check(name: str) -> None:
            nonlocal left
            if left == 0:
                raise PowerLost
            left -= 1

        self.before = check

    def after_power_cut(self, random: Random) -> FakeDisk:
        """The disk as it may be when power returns."""
        disk = FakeDisk()
        states = [self._durable_names, *self._pending_names]
        for name, node in random.choice(states).items():
            content = node.after_power_cut(random)
            disk._names[name] = _Node(content, bytearray(content))
        disk._durable_names = dict(disk._names)
        return disk

    def content(self, path: Path) -> bytes:
        """What a program sees in a file."""
        return bytes(self._names[path.name].content)

    def put(self, path: Path, content: bytes) -> None:
        """Make a file, durable."""
        self._names[path.name] = self._durable_names[path.name] = _Node(content, bytearray(content))

    @property
    def names(self) -> set[str]:
        """The names in the folder."""
        return set(self._names)

    # What the journal uses.

    def exists(self, path: Path) -> bool:
        return path.name in self._names

    def create(self, path: Path) -> int:
        if path.name in self._names:
            raise FileExistsError(errno.EEXIST, "File exists")
        self._do("create")
        self._names[path.name] = _Node()
        self._changed_names()
        return self.open(path)

    def open(self, path: Path) -> int:
        if path.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        descriptor = max(self._open, default=2) + 1
        self._open[descriptor] = self._names[path.name]
        return descriptor

    def read(self, descriptor: int, limit: int) -> bytes:
        return bytes(self._open[descriptor].content[:limit])

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._do("write")
        self._open[descriptor].change(offset, data)

    def truncate(self, descriptor: int, size: int) -> None:
        self._do("truncate")
        self._open[descriptor].change(size, None)

    def sync(self, descriptor: int) -> None:
        self._do("sync")
        node = self._open[descriptor]
        node.durable, node.pending = bytes(node.content), []

    def replace(self, source: Path, target: Path) -> None:
        self._do("replace")
        self._names[target.name] = self._names.pop(source.name)
        self._changed_names()

    def sync_folder(self, folder: Path) -> None:
        self._do("sync_folder")
        self._durable_names, self._pending_names = dict(self._names), []

    def remove(self, path: Path) -> None:
        if path.name in self._names:
            self._do("remove")
            del self._names[path.name]
            self._changed_names()

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]

    def _do(self, operation: str) -> None:
        self.before(operation)
        self.log.append(operation)

    def _changed_names(self) -> None:
        self._pending_names.append(dict(self._names))
