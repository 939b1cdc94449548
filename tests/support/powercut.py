"""All that a disk may hold after a power cut: file operations are recorded, then legal states enumerated.

What was written and not synced is, sector by sector, as it was after any of the writes since the last sync,
or as it was before them; the file's length likewise. A sector may be torn: its first bytes new and its last
ones old, or the other way round. Names change in order, and those that were not synced up to some point.
What was synced is there. (A write leaves the bytes around it alone, as SQLite assumes too.)

This is not `disk.FakeDisk`, which draws one such state at random: here they are gone through.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from replication.ledger.files import Files

__all__ = ["SECTOR", "Disk", "Recording", "cuts", "disk_states"]

SECTOR = 512

Disk = dict[str, bytes]
"""The files of the one folder by name."""


@dataclass(frozen=True)
class _Change:
    """One operation. `number` names the file, over all its names."""

    kind: str
    number: int = 0
    offset: int = 0
    data: bytes = b""
    names: tuple[tuple[str, int], ...] = ()


@dataclass
class Recording(Files):
    """Files in memory that remember every change. `skipped` names syncs that are lies: nothing becomes
    durable by them (for showing that a check notices)."""

    skipped: frozenset[str] = frozenset()
    changes: list[_Change] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    contents: list[bytearray] = field(default_factory=list)
    opened: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, disk: Disk) -> Recording:
        """A disk that holds these files, all durable."""
        files = cls()
        for number, (name, content) in enumerate(disk.items()):
            files.names[name] = number
            files.contents.append(bytearray(content))
            files.changes.append(_Change("write", number, 0, content))
            files.changes.append(_Change("sync", number))
        files._named()
        files.changes.append(_Change("sync_folder"))
        return files

    @property
    def disk(self) -> Disk:
        """What a program sees."""
        return {name: bytes(self.contents[number]) for name, number in self.names.items()}

    def exists(self, path: Path) -> bool:
        return path.name in self.names

    def create(self, path: Path) -> int:
        if path.name in self.names:
            raise FileExistsError(path)
        self.names[path.name] = len(self.contents)
        self.contents.append(bytearray())
        self._named()
        return self.open(path)

    def open(self, path: Path) -> int:
        if path.name not in self.names:
            raise FileNotFoundError(path)
        descriptor = max(self.opened, default=2) + 1
        self.opened[descriptor] = self.names[path.name]
        return descriptor

    def read(self, descriptor: int, limit: int) -> bytes:
        return bytes(self.contents[self.opened[descriptor]][:limit])

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._change(_Change("write", self.opened[descriptor], offset, data))

    def truncate(self, descriptor: int, size: int) -> None:
        self._change(_Change("truncate", self.opened[descriptor], size))

    def sync(self, descriptor: int) -> None:
        if "sync" not in self.skipped:
            self.changes.append(_Change("sync", self.opened[descriptor]))

    def replace(self, source: Path, target: Path) -> None:
        self.names[target.name] = self.names.pop(source.name)
        self._named()

    def sync_folder(self, folder: Path) -> None:
        if "sync_folder" not in self.skipped:
            self.changes.append(_Change("sync_folder"))

    def remove(self, path: Path) -> None:
        if self.names.pop(path.name, None) is not None:
            self._named()

    def close(self, descriptor: int) -> None:
        del self.opened[descriptor]

    def _change(self, change: _Change) -> None:
        _apply(self.contents[change.number], change)
        self.changes.append(change)

    def _named(self) -> None:
        self.changes.append(_Change("names", names=tuple(self.names.items())))


def _apply(content: bytearray, change: _Change) -> None:
    if change.kind == "truncate":
        del content[change.offset :]
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data


def disk_states(
    changes: Sequence[_Change], random: Random, most: int, *, tears: bool = True
) -> Iterator[Disk]:
    """Disks that may be there when power was lost after these changes: all, or about `most` of them; with
    `tears`, those with a torn sector as well."""
    names, versions = _pending(changes)
    last = names[-1]
    kept = dict(names[0])
    for state in names:  # names alone, with everything written to the files
        yield {name: versions[number][-1] for name, number in state}
    for number in {number for state in names for _, number in state}:
        if len(versions[number]) == 1:
            continue
        for content in cuts(versions[number], random, most, tears=tears):
            for state in {names[0], last}:
                yield {name: content if each == number else versions[each][-1] for name, each in state}
    if kept != dict(last):
        for state in names:  # and with nothing of what was not synced
            yield {name: versions[number][0] for name, number in state}


def _pending(
    changes: Sequence[_Change],
) -> tuple[list[tuple[tuple[str, int], ...]], dict[int, list[bytes]]]:
    """Sets of names since the folder was synced; contents of each file since it was, oldest first."""
    names: list[tuple[tuple[str, int], ...]] = [()]
    versions: dict[int, list[bytes]] = {}
    for change in changes:
        if change.kind == "names":
            names.append(change.names)
            for _, number in change.names:
                versions.setdefault(number, [b""])
        elif change.kind == "sync_folder":
            del names[:-1]
        elif change.kind == "sync":
            del versions[change.number][:-1]
        else:
            content = bytearray(versions.setdefault(change.number, [b""])[-1])
            _apply(content, change)
            versions[change.number].append(bytes(content))
    return names, versions


def cuts(versions: Sequence[bytes], random: Random, most: int, *, tears: bool = True) -> Iterator[bytes]:
    """Contents that may be there of a file that had these contents since it was last synced."""
    sectors = _changed_sectors(versions)
    choices = [sorted({_sector(version, at) for version in versions}) for at in sectors]
    sizes = sorted({len(version) for version in versions})
    combinations = len(sizes)
    for choice in choices:
        combinations *= len(choice)
    if combinations <= most:
        picks: Iterator[tuple[bytes, ...]] = itertools.product(*choices)
        for pick in picks:
            for size in sizes:
                yield _assembled(versions[-1], sectors, pick, size)
    else:
        for _ in range(most):
            pick = tuple(random.choice(choice) for choice in choices)
            yield _assembled(versions[-1], sectors, pick, random.choice(sizes))
    if tears:
        yield from _torn(versions)


def _torn(versions: Sequence[bytes]) -> Iterator[bytes]:
    """A write that came to the disk up to some byte, or from some byte on."""
    for old, new in itertools.pairwise(versions):
        size = max(len(old), len(new))
        before, after = old.ljust(size, b"\0"), new.ljust(size, b"\0")
        differing = [at for at in range(size) if before[at] != after[at]]
        if not differing:
            continue
        for at in range(differing[0], differing[-1] + 2):
            yield (after[:at] + before[at:])[: max(len(old), at)]
            yield before[:at] + after[at:]


def _changed_sectors(versions: Sequence[bytes]) -> list[int]:
    longest = max(map(len, versions))
    return [at for at in range(0, longest, SECTOR) if len({_sector(version, at) for version in versions}) > 1]


def _sector(content: bytes, at: int) -> bytes:
    return content[at : at + SECTOR].ljust(SECTOR, b"\0")


def _assembled(base: bytes, sectors: Sequence[int], pick: Sequence[bytes], size: int) -> bytes:
    content = bytearray(base.ljust(size, b"\0"))
    for at, sector in zip(sectors, pick, strict=True):
        content[at : at + SECTOR] = sector
    return bytes(content[:size])
