"""Power cuts at every moment of a node's writes, with whatever a disk may then hold of what was not synced.

The journal: what was acknowledged is there, what was not written is not, and a torn end is cut back. Tens of
thousands of disks, each opened. Then checks that lie about syncing, or leave it out, must be noticed. The
record: SQLite's file and log, cut at every sector of what a commit had written when it was not done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from tests.support.ledger_store import fill, parts, small
from tests.support.powercut import SECTOR, Disk, Recording, disk_states

from replication.errors import StorageError
from replication.ledger import journal as journal_module
from replication.ledger.frames import SEAL_SIZE, Heading, make_seal, read_frames
from replication.ledger.journal import JournalMissingError, JournalState, SignJournal
from replication.ledger.store import Store
from replication.ordering.application import command_digest
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.effects import KeepCommand, SaveBody, SaveSignState
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Statement, StatementKey

CLUSTER = bytes(range(32))
PATH = Path("/data/sign.journal")
LOG_HEADER = 32
LEAST = 50_000
"""Different disks that are opened on every change."""


def body(height: int, size: int) -> Block:
    header = BlockHeader(CLUSTER, 0, height, bytes(32), height, bytes(32), bytes(32), height, bytes(32))
    return Block(header, (b"command of %d" % height + bytes(range(256)) * (size // 256),))


def signed(state: SignState, phase: Phase, block: Block) -> SignState:
    statement = Statement(StatementKey(phase, 0, 0, block.height, block.hash), "node-1", bytes(64))
    return replace(state, prepare=statement) if phase is Phase.PREPARE else replace(state, commit=statement)


@dataclass
class Writer:
    """A member that prepares and commits block after block. It knows, for each moment, which writes were
    acknowledged by then and which were begun, and what the journal holds after each."""

    files: Recording
    states: list[JournalState] = field(default_factory=lambda: [JournalState(SignState(), (), ())])
    acknowledged: list[int] = field(default_factory=list)
    """Number of changes on the disk when the n-th write returned; the 0th is the making."""
    begun: list[int] = field(default_factory=list)
    compactions: int = 0

    def run(self, blocks: int, size: Callable[[int], int]) -> None:
        self._now(self.begun)
        journal = SignJournal.create(PATH, CLUSTER, "node-1", files=self.files)
        self._now(self.acknowledged)
        state = SignState()
        kept: tuple[bytes, ...] = ()
        held: tuple[Block, ...] = ()
        for height in range(1, blocks + 1):
            block = body(height, size(height))
            state = signed(state, Phase.PREPARE, block)
            held = (*held, block)
            command = b"own %d" % height
            kept = (*kept, command)
            self._write(
                journal,
                [SaveBody(block), SaveSignState(state), KeepCommand(command)],
                JournalState(state, held, kept),
            )
            state = signed(state, Phase.COMMIT, block)
            self._write(journal, [SaveSignState(state)], JournalState(state, held, kept))
            # The record has the block now; the journal forgets it with its next write.
            journal.settle(height, [command_digest(command)] if height % 3 else [])
            held = ()
            kept = tuple(each for each in kept if each != command or not height % 3)
        self.compactions = journal.counters.compactions

    def _write(
        self,
        journal: SignJournal,
        items: list[SaveBody | SaveSignState | KeepCommand],
        then: JournalState,
    ) -> None:
        self._now(self.begun)
        self.states.append(then)
        journal.write(items)
        self._now(self.acknowledged)

    def _now(self, moments: list[int]) -> None:
        moments.append(len(self.files.changes))

    def allowed(self, moment: int) -> list[JournalState]:
        """What a journal may hold after a power cut at this moment."""
        first = sum(at <= moment for at in self.acknowledged) - 1
        last = sum(at <= moment for at in self.begun) - 1
        return self.states[max(first, 0) : last + 1]

    def is_made(self, moment: int) -> bool:
        return self.acknowledged[0] <= moment


def reopened(disk: Disk) -> tuple[JournalState, Recording]:
    files = Recording.of(disk)
    _, state = SignJournal.open(PATH, CLUSTER, "node-1", files=files)
    return state, files


def check_disk(writer: Writer, moment: int, disk: Disk) -> None:
    """What must hold on any disk. Raises AssertionError or the journal's own errors."""
    try:
        state, files = reopened(disk)
    except JournalMissingError:
        assert not writer.is_made(moment), "the journal is gone"
        return
    assert state in writer.allowed(moment)
    content = files.disk[PATH.name]
    _, tail = read_frames(Heading.read(content), content)
    assert (tail.size, tail.is_sealed) == (SEAL_SIZE, True) or content == disk[PATH.name]


def moments(writer: Writer, most: int, seed: int) -> Iterator[tuple[int, Disk]]:
    """All moments and different disks."""
    random = Random(seed)
    seen: set[int] = set()
    for moment in range(len(writer.files.changes) + 1):
        allowed = (
            len(writer.allowed(moment)),
            writer.is_made(moment),
            sum(at <= moment for at in writer.begun),
        )
        for disk in disk_states(writer.files.changes[:moment], random, most):
            mark = hash((allowed, *disk.items()))
            if mark not in seen:
                seen.add(mark)
                yield moment, disk


def written(
    monkeypatch: pytest.MonkeyPatch, compact_at: int, skipped: frozenset[str] = frozenset(), blocks: int = 12
) -> Writer:
    monkeypatch.setattr(journal_module, "_COMPACT_BYTES", compact_at)
    monkeypatch.setattr(journal_module, "_COMPACT_RATIO", 2)
    writer = Writer(Recording(skipped))
    writer.run(blocks, lambda height: (0, 256, 1024)[height % 3])
    return writer


@pytest.mark.slow
@pytest.mark.parametrize("compact_at", [10**9, 3000], ids=["appending", "compacting"])
def test_no_power_cut_loses_what_the_journal_acknowledged(
    monkeypatch: pytest.MonkeyPatch, compact_at: int
) -> None:
    writer = written(monkeypatch, compact_at)
    assert (writer.compactions > 3) == (compact_at < 10**9)
    count = 0
    for moment, disk in moments(writer, 150, compact_at):
        check_disk(writer, moment, disk)
        count += 1
    print(f"{count} disks after {len(writer.files.changes)} changes")
    assert count >= LEAST // 2


def test_a_power_cut_while_a_torn_end_is_cut_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `open` has told is durable; when the power goes before it has, the journal opens as before."""
    writer = written(monkeypatch, 3000, blocks=4)
    random, count, repaired = Random(3), 0, 0
    for moment, disk in moments(writer, 60, 3):
        if random.random() > 0.02 or PATH.name not in disk:
            continue
        state, files = reopened(disk)
        mended = len(Recording.of(disk).changes)
        repaired += len(files.changes) > mended
        for end in range(mended, len(files.changes) + 1):
            for again in disk_states(files.changes[:end], random, 10, tears=False):
                found, _ = reopened(again)
                assert found in writer.allowed(moment)
                assert found == state or end < len(files.changes) - 1, "it was told, and is gone"
                count += 1
    print(f"{count} disks after {repaired} repairs")
    assert repaired > 30


def check_all(writer: Writer) -> None:
    for moment, disk in moments(writer, 60, 5):
        check_disk(writer, moment, disk)


def syncs_nothing(monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    return frozenset({"sync"})


def syncs_no_folder(monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    return frozenset({"sync_folder"})


def syncs_no_draft(monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    """The new file of a compaction is renamed before it is durable."""
    right = SignJournal._sync

    def sync(journal: SignJournal, descriptor: int | None = None) -> None:
        if descriptor is None:
            right(journal)

    monkeypatch.setattr(SignJournal, "_sync", sync)
    return frozenset()


def seals_before_it_syncs(monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    """The seal goes to the disk with the frame that it vouches for."""
    right = SignJournal._sync

    def sync(journal: SignJournal, descriptor: int | None = None) -> None:
        if descriptor is None:
            content = journal._files.read(journal._descriptor, 1 << 30)
            frames, _ = read_frames(journal._heading, content)
            seal = make_seal(journal._heading, len(frames) - 1, frames[-1].check)
            journal._files.write(journal._descriptor, seal, frames[-1].end)
        right(journal, descriptor)

    monkeypatch.setattr(SignJournal, "_sync", sync)
    return frozenset()


@pytest.mark.parametrize(
    "bug",
    [
        syncs_nothing,
        syncs_no_folder,
        syncs_no_draft,
        seals_before_it_syncs,
    ],
)
def test_a_journal_that_is_careless_is_noticed(
    monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], frozenset[str]]
) -> None:
    """The check above can fail."""
    writer = written(monkeypatch, 3000, bug(monkeypatch), blocks=6)
    with pytest.raises((AssertionError, StorageError)):
        check_all(writer)


# --------------------------------------------------------------------------------------------- the record


@pytest.mark.slow
def test_no_power_cut_loses_a_block_that_the_record_acknowledged(tmp_path: Path) -> None:
    """The log of each commit cut at every sector, and torn there, and with sectors missing in the middle;
    the file, when a checkpoint writes to it, likewise."""
    cluster = small()
    path, disk = tmp_path / "ledger.db", tmp_path / "after" / "ledger.db"
    disk.parent.mkdir()
    store = Store.create_or_open(path, cluster.genesis)
    store.ask("PRAGMA wal_autocheckpoint = 30")
    opened = checkpoints = lost = 0
    for height, item in enumerate(parts(cluster)):
        file, log = path.read_bytes(), log_of(path)
        fill(store, [item])
        next_file, next_log = path.read_bytes(), log_of(path)
        states = [(file, each) for each in log_cuts(log, next_log)]
        if file != next_file:
            checkpoints += 1
            states += [(each, next_log) for each in sector_cuts([file, next_file])]
        for content, log_content in states:
            disk.write_bytes(content)
            disk.with_name("ledger.db-wal").write_bytes(log_content)
            recovered = Store.create_or_open(disk, cluster.genesis)
            assert recovered.height in (height, height + 1)
            assert recovered.totals().audit_size == cluster.executions[recovered.height].audit_size
            lost += recovered.height == height
            opened += 1
            recovered.close()
        disk.write_bytes(next_file)
        disk.with_name("ledger.db-wal").write_bytes(next_log)
        durable = Store.create_or_open(disk, cluster.genesis)
        assert durable.height == height + 1, "acknowledged"
        durable.close()
    store.close()
    print(f"{opened} records opened, {checkpoints} checkpoints cut")
    assert checkpoints >= 1
    assert 0 < lost < opened
    assert opened > 300


def log_cuts(old: bytes, new: bytes) -> Iterator[bytes]:
    """A log that begins anew is overwritten from its start; SQLite syncs the new header before any frame."""
    begun = new[:LOG_HEADER] + old[LOG_HEADER:]
    if old[:LOG_HEADER] != begun[:LOG_HEADER]:
        for size in range(LOG_HEADER + 1):
            yield new[:size] + old[size:]
    yield from sector_cuts([begun, new])


def log_of(path: Path) -> bytes:
    log = path.with_name(path.name + "-wal")
    return log.read_bytes() if log.exists() else b""


def sector_cuts(versions: list[bytes]) -> Iterator[bytes]:
    """Written up to each sector, or from it on; and some sectors of either."""
    old, new = versions
    size = max(map(len, versions))
    before, after = old.ljust(size, b"\0"), new.ljust(size, b"\0")
    changed = [at for at in range(0, size, SECTOR) if before[at : at + SECTOR] != after[at : at + SECTOR]]
    for at in changed:
        yield (after[:at] + before[at:])[: max(len(old), at)]
        yield before[:at] + after[at:]
    random = Random(size)
    for _ in range(10):
        content = bytearray(before)
        for at in changed:
            if random.random() < 0.5:
                content[at : at + SECTOR] = after[at : at + SECTOR]
        yield bytes(content[:size])
