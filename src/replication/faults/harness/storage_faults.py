"""Faults of the disk: files ruined while a node is down, and a disk that takes nothing more while it runs.

A node that starts on ruined files has two ways: it *refuses* (it ends with an error, and signs nothing), or
it *recovers* (it fetches from its peers what it lost). What it must never do is go on as if nothing had
happened, which the checkers find out: exports that differ, signatures that contradict each other. A node that
refuses is repaired when the fault ends, by what an operator would do."""

from __future__ import annotations

import asyncio
import resource
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from replication.faults.harness import damage
from replication.faults.harness.fault import Fault, Kind, NotPossibleError
from replication.faults.harness.process_faults import (
    UP_SECONDS,
    LimitFault,
    StoppingFault,
    describe_code,
    last_words,
)
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Choice, Number, Setting, Whole, Words
from replication.node.home import NodeHome

__all__ = ["STORAGE_FAULTS"]

REFUSALS: Final = (8, 9)
"""Exit codes of a node that refuses: something a person has to put right; a damaged record or a failed
disk.
"""

FILES: Final = ("ledger", "wal", "journal")
EXPECT: Final = Choice("either", ("refuse", "recover", "either"))
REPAIR: Final = Choice("remove-damaged", ("remove-damaged", "wipe", "undo"))


def files_of(home: NodeHome, names: Sequence[str]) -> list[Path]:
    """The paths of a home's files, by the names that settings use; "ledger" is the database file alone."""
    ledger = home.ledger
    paths = {
        "ledger": ledger,
        "wal": ledger.with_name(ledger.name + damage.WAL),
        "journal": home.data / "sign.journal",
    }
    return [paths[name] for name in names]


def sqlite_files(home: NodeHome) -> list[Path]:
    """The database and what SQLite keeps beside it."""
    return [home.ledger.with_name(home.ledger.name + suffix) for suffix in ("", damage.WAL, damage.SHM)]


class DamageFault(StoppingFault):
    """Takes nodes down with SIGKILL, ruins their files, starts them, and repairs them at the end if they
    refused.

    """

    def damage(self, home: NodeHome) -> str:
        """Ruin the files of a home; say what was done."""
        raise NotImplementedError

    def repair(self, home: NodeHome) -> None:
        """What the operator does about a node that refused to start."""
        how = self.planned.settings.get("repair", "remove-damaged")
        if how == "undo":
            shutil.rmtree(home.data)
            shutil.copytree(self._backup(home), home.data)
        elif how == "wipe":
            damage.remove_files(home.data.iterdir())
        else:
            self.remove_damaged(home)

    def remove_damaged(self, home: NodeHome) -> None:
        """Remove the files that were ruined, so that the node makes new ones and fetches what they held."""
        hurt = files_of(home, self.hurt_files())
        if any(path.name.startswith(home.ledger.name) for path in hurt):
            hurt += sqlite_files(home)
        for path in hurt:
            path.unlink(missing_ok=True)

    def hurt_files(self) -> Sequence[str]:
        """Names of the files that are ruined."""
        return (self.setting("file"),)

    async def begin(self) -> None:
        self._refused: set[str] = set()
        await self.take_down()
        for member in self.members:
            home = self.site.nodes[member].home
            await asyncio.to_thread(shutil.copytree, home.data, self._backup(home), dirs_exist_ok=True)
            before = self._digests(home)
            done = await asyncio.to_thread(self.damage, home)
            if self._digests(home) == before:
                raise NotPossibleError(f"{member}: the files are what they were before")
            self.effect(f"{member}: {done}")
        for member in self.members:
            self.site.nodes[member].allow_end(self.who)
            self.site.nodes[member].release(self.who)
        await asyncio.gather(*(self._judge(member) for member in self.members))

    async def end(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            if member in self._refused:
                self.repair(node.home)
                self.effect(
                    f"{member}: repaired by its operator ({self.planned.settings.get('repair', 'undone')})"
                )
            node.forbid_end(self.who)
        await self.bring_up()
        for member in self.members:
            shutil.rmtree(self._backup(self.site.nodes[member].home), ignore_errors=True)

    async def _judge(self, member: str) -> None:
        """Wait until the node has refused or answers, and hold that against what the scenario expects."""
        node, expected = self.site.nodes[member], self.planned.settings.get("expect", "refuse")
        limit = UP_SECONDS * self.site.pace
        give_up = time.monotonic() + limit
        while time.monotonic() < give_up:
            node.notice_end()
            if node.pid is None and node.exits:
                self._judge_refusal(member, node.exits[-1].code, node.exits[-1].words, expected)
                return
            if await self.site.look(member) is not None:
                self.effect(f"{member}: runs again on what is left")
                if expected == "refuse":
                    self.violation(f"{member} started, although {self.planned.kind} has to be refused")
                return
            await asyncio.sleep(0.05)
        self.violation(f"{member} neither refused nor answered within {limit:.0f} s")

    def _judge_refusal(self, member: str, code: int, words: str, expected: str) -> None:
        self._refused.add(member)
        node = self.site.nodes[member]
        node.hold_now(self.who)
        said = last_words(words)
        self.effect(f"{member}: refused to start ({describe_code(code)}): {said}")
        if code not in REFUSALS:
            self.violation(f"{member} ended with {describe_code(code)} on a damaged disk: {said}")
        elif expected == "recover":
            self.violation(f"{member} refused to start, although it has to recover by itself: {said}")

    def _digests(self, home: NodeHome) -> dict[str, str]:
        watched = [*home.data.iterdir(), home.signing_key]
        return {path.name: f"{path.stat().st_mode:o} {damage.digest_of(path)}" for path in watched}

    def _backup(self, home: NodeHome) -> Path:
        return self.site.directory / f"before-{self.planned.number}-{home.path.name}"


_FILE_SETTINGS: Final[dict[str, Setting]] = {
    "file": Choice("ledger", FILES),
    "expect": EXPECT,
    "repair": REPAIR,
}


class FlipBytes(DamageFault):
    """Bits that the disk got wrong."""

    kind: ClassVar[Kind] = Kind(
        "flip-bytes",
        Group.STORAGE,
        "bits flipped in a file of a node that is down",
        robs=True,
        settings={**_FILE_SETTINGS, "count": Whole(1, 1, 100_000)},
    )

    def damage(self, home: NodeHome) -> str:
        if self.setting("file") == "ledger":
            damage.write_back_wal(home.ledger)
        (path,) = files_of(home, self.hurt_files())
        return damage.flip_bytes(path, self.setting("count"), self.draw)


class TruncateFile(DamageFault):
    """A file that is shorter than it was."""

    kind: ClassVar[Kind] = Kind(
        "truncate-file",
        Group.STORAGE,
        "a file of a node that is down cut short",
        robs=True,
        settings={**_FILE_SETTINGS, "keep_share": Number(0.5, 0.0, 1.0)},
    )

    def damage(self, home: NodeHome) -> str:
        if self.setting("file") == "ledger":
            damage.write_back_wal(home.ledger)
        (path,) = files_of(home, self.hurt_files())
        return damage.truncate(path, self.setting("keep_share"))


class SwapRows(DamageFault):
    """Two rows exchanged by somebody with access to the database."""

    kind: ClassVar[Kind] = Kind(
        "swap-rows",
        Group.STORAGE,
        "two rows of the record exchanged; the node must refuse",
        robs=True,
        settings={"repair": REPAIR},
    )

    def hurt_files(self) -> Sequence[str]:
        return ("ledger",)

    def damage(self, home: NodeHome) -> str:
        return damage.swap_rows(home.ledger, self.draw)


class RemoveWal(DamageFault):
    """The -wal removed by somebody who took it for rubbish: the newest commits are gone."""

    kind: ClassVar[Kind] = Kind(
        "remove-wal",
        Group.STORAGE,
        "the -wal of the record removed: its newest blocks are gone",
        robs=True,
        settings={"expect": EXPECT, "repair": REPAIR},
    )

    def hurt_files(self) -> Sequence[str]:
        return ("ledger",)

    def damage(self, home: NodeHome) -> str:
        return damage.remove_files(sqlite_files(home)[1:])


class WipeDisk(DamageFault):
    """Everything that the node wrote is gone; its key is still there."""

    kind: ClassVar[Kind] = Kind(
        "wipe-disk",
        Group.STORAGE,
        "everything that the node wrote is gone: it must not sign before it was let back in",
        robs=True,
        settings={"expect": Choice("recover", ("refuse", "recover", "either")), "repair": REPAIR},
    )

    def hurt_files(self) -> Sequence[str]:
        return FILES

    def damage(self, home: NodeHome) -> str:
        return damage.remove_files(home.data.iterdir())


class RollBack(DamageFault):
    """Yesterday's backup: files put back to what they were a while ago."""

    kind: ClassVar[Kind] = Kind(
        "roll-back",
        Group.STORAGE,
        "files put back to an earlier copy, as a restored backup does",
        robs=True,
        settings={
            "files": Words(("ledger", "journal"), ("ledger", "journal")),
            "age_seconds": Number(2.0, 0.1, 3600.0),
            "expect": EXPECT,
            "repair": REPAIR,
        },
    )

    def hurt_files(self) -> Sequence[str]:
        return tuple(self.setting("files"))

    async def begin(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            if not node.pause(self.who):
                raise NotPossibleError(f"{member} does not run")
            await asyncio.to_thread(damage.snapshot, self._paths(node.home), self._copies(node.home))
            node.resume(self.who)
        await asyncio.sleep(self.setting("age_seconds"))
        await super().begin()

    def damage(self, home: NodeHome) -> str:
        return damage.put_back(self._copies(home), self._paths(home))

    async def end(self) -> None:
        await super().end()
        for member in self.members:
            shutil.rmtree(self._copies(self.site.nodes[member].home), ignore_errors=True)

    def _paths(self, home: NodeHome) -> list[Path]:
        names = self.hurt_files()
        paths = files_of(home, [name for name in names if name != "ledger"])
        return paths + (sqlite_files(home) if "ledger" in names else [])

    def _copies(self, home: NodeHome) -> Path:
        return self.site.directory / f"copy-{self.planned.number}-{home.path.name}"


class WrongPermissions(DamageFault):
    """Secrets that everybody may read, or data that everybody may write: the node must refuse."""

    kind: ClassVar[Kind] = Kind(
        "wrong-permissions",
        Group.STORAGE,
        "the key readable, or the data writable, for everybody; the node must refuse",
        settings={"what": Choice("signing-key", ("signing-key", "tls-key", "data"))},
    )

    def _path(self, home: NodeHome) -> Path:
        return {"signing-key": home.signing_key, "tls-key": home.tls_key, "data": home.data}[
            self.setting("what")
        ]

    def damage(self, home: NodeHome) -> str:
        path = self._path(home)
        path.chmod(0o777 if path.is_dir() else 0o644)
        return f"{path.name}: mode {path.stat().st_mode & 0o777:04o}"

    def repair(self, home: NodeHome) -> None:
        path = self._path(home)
        path.chmod(0o700 if path.is_dir() else 0o600)

    def _digests(self, home: NodeHome) -> dict[str, str]:
        return {"mode": f"{self._path(home).stat().st_mode:o}"}


class DiskFull(LimitFault):
    """No file can grow any more: the kernel refuses each write beyond what is there. The node has to stop.

    By the limit on file sizes of the running process, so that it is the kernel's refusal (EFBIG instead of
    ENOSPC), met by the journal and by SQLite alike."""

    limit = resource.RLIMIT_FSIZE
    kind: ClassVar[Kind] = Kind(
        "disk-full",
        Group.STORAGE,
        "no file of the running node can grow; it must stop and lose nothing",
        settings={"spare_bytes": Whole(0, 0, 2**40)},
    )

    def used(self, pid: int) -> int:
        # The journal grows with every promise, so that its size is where the next write fails.
        home = next(node.home for node in self.site.nodes.values() if node.pid == pid)
        (journal,) = files_of(home, ["journal"])
        return journal.stat().st_size

    def spare(self) -> int:
        return int(self.setting("spare_bytes"))


STORAGE_FAULTS: Final[tuple[type[Fault], ...]] = (
    FlipBytes, TruncateFile, SwapRows, RemoveWal, WipeDisk, RollBack, WrongPermissions, DiskFull,
)  # fmt: skip
