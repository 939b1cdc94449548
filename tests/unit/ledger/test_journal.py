"""The sign journal: what it keeps, what it refuses, and how it stops."""

from __future__ import annotations

import errno
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.support.disk import FakeDisk

from replication.errors import InvariantError, OperatorError, StorageError
from replication.ledger import journal as journal_module
from replication.ledger.journal import (
    JournalDamagedError,
    JournalExistsError,
    JournalForeignError,
    JournalItem,
    JournalMissingError,
    JournalState,
    SignJournal,
)
from replication.ordering.application import command_digest
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.effects import KeepCommand, SaveBody, SaveSignState
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Statement, StatementKey, Timeout
from replication.ordering.timeouts import TimeoutReport

CLUSTER = bytes(range(32))
SIGNATURE = bytes(64)
PATH = Path("/data/sign.journal")


def block(height: int, *commands: bytes, parent: int = 0) -> Block:
    header = BlockHeader(
        CLUSTER, 0, height, bytes([parent]) * 32, 1000 + height, bytes(32), bytes(32), height, bytes(32)
    )
    return Block(header, commands)


def statement(phase: Phase, view: int, height: int, block_hash: bytes = bytes(32)) -> Statement:
    return Statement(StatementKey(phase, 0, view, height, block_hash), "node-1", SIGNATURE)


def prepared(view: int, height: int, state: SignState | None = None) -> SignState:
    return replace(state or SignState(), prepare=statement(Phase.PREPARE, view, height))


def timed_out(view: int, committed: int = 0, state: SignState | None = None) -> SignState:
    timeout = Timeout(0, view, committed, None, "node-1", SIGNATURE)
    return replace(state or SignState(), timeout=TimeoutReport(timeout, None, None))


def create(path: Path = PATH, disk: FakeDisk | None = None, state: SignState | None = None) -> SignJournal:
    return SignJournal.create(path, CLUSTER, "node-1", state, files=disk)


def reopen(path: Path = PATH, disk: FakeDisk | None = None) -> tuple[SignJournal, JournalState]:
    return SignJournal.open(path, CLUSTER, "node-1", files=disk)


def held(path: Path = PATH, disk: FakeDisk | None = None) -> JournalState:
    journal, state = reopen(path, disk)
    journal.close()
    return state


def test_a_new_journal_is_private_and_says_that_nothing_was_signed(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    create(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert held(path) == JournalState(SignState(), (), ())
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path)
    first, second = block(1, b"one"), block(1, b"two", parent=1)
    journal.write([SaveBody(first), SaveSignState(prepared(0, 1)), KeepCommand(b"mine")])
    journal.write([SaveBody(second), SaveSignState(prepared(2, 1)), KeepCommand(b"also mine")])
    journal.close()
    assert held(path) == JournalState(prepared(2, 1), (first, second), (b"mine", b"also mine"))


def test_a_batch_costs_one_sync_and_a_repeat_none(tmp_path: Path) -> None:
    journal = create(tmp_path / "sign.journal")
    before = journal.counters.fsyncs
    batch: list[JournalItem] = [SaveBody(block(1)), SaveSignState(prepared(0, 1)), KeepCommand(b"mine")]
    journal.write(batch)
    assert journal.counters.fsyncs == before + 1
    journal.write(batch)
    journal.write([])
    assert (journal.counters.fsyncs, journal.counters.writes) == (before + 1, 1)
    journal.close()


def test_settled_things_go_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path)
    journal.write([SaveBody(block(1)), SaveBody(block(2)), KeepCommand(b"mine"), KeepCommand(b"other")])
    syncs = journal.counters.fsyncs
    journal.settle(1, [command_digest(b"mine"), command_digest(b"unknown")])
    assert journal.counters.fsyncs == syncs, "settling alone costs nothing"
    journal.write([SaveSignState(prepared(0, 2))])
    kill = path.read_bytes()
    journal.settle(2)
    journal.close()
    assert held(path) == JournalState(prepared(0, 2), (), (b"other",))
    path.write_bytes(kill)
    assert held(path) == JournalState(prepared(0, 2), (block(2),), (b"other",)), "not closed: kept longer"


def test_a_command_may_come_again_after_it_was_settled(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path)
    journal.write([KeepCommand(b"mine"), KeepCommand(b"mine")])
    journal.settle(0, [command_digest(b"mine")])
    journal.write([KeepCommand(b"mine")])
    journal.close()
    assert held(path).commands == (b"mine",)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(JournalMissingError, match="must not sign") as caught:
        reopen(tmp_path / "sign.journal")
    assert caught.value.reason == "JOURNAL_MISSING"


def test_never_replaced_by_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    create(path).close()
    before = path.read_bytes()
    with pytest.raises(JournalExistsError, match="would let it sign again"):
        create(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("cluster", "member"), [(bytes(32), "node-1"), (CLUSTER, "node-2")])
def test_foreign(tmp_path: Path, cluster: bytes, member: str) -> None:
    create(tmp_path / "sign.journal").close()
    with pytest.raises(JournalForeignError, match="belongs to node-1 of cluster 000102") as caught:
        SignJournal.open(tmp_path / "sign.journal", cluster, member)
    assert isinstance(caught.value, OperatorError)


@pytest.mark.parametrize("content", [b"", b"{}", bytes(5000), b"ACPSIGN1" + bytes(5000)])
def test_something_else_in_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sign.journal").write_bytes(content)
    with pytest.raises(JournalDamagedError, match="cannot be repaired"):
        reopen(tmp_path / "sign.journal")


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "sign.journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot be opened"):
        reopen(tmp_path / "sign.journal")


def test_closed(tmp_path: Path) -> None:
    journal = create(tmp_path / "sign.journal")
    journal.close()
    journal.close()
    with pytest.raises(StorageError, match="it was closed"):
        journal.write([KeepCommand(b"x")])


# ------------------------------------------------------------------------------------------ states only go up


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (prepared(3, 7), prepared(3, 6)),
        (prepared(3, 7), prepared(2, 8)),
        (prepared(3, 7), SignState()),
        (prepared(3, 7), replace(prepared(3, 7), prepare=statement(Phase.PREPARE, 3, 7, b"x" * 32))),
        (replace(SignState(), commit=statement(Phase.COMMIT, 1, 1)), prepared(1, 1)),
        (replace(SignState(), propose=statement(Phase.PROPOSE, 1, 1)), prepared(1, 1)),
        (timed_out(4), timed_out(3)),
        (timed_out(4), SignState()),
        (SignState(epoch=2), SignState(epoch=1)),
        (SignState(epoch=2), SignState(epoch=1, nonce=bytes(32))),
    ],
)
def test_a_state_that_forgets_is_refused(tmp_path: Path, old: SignState, new: SignState) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path, state=old)
    with pytest.raises(InvariantError, match="sign state would"):
        journal.write([KeepCommand(b"mine"), SaveSignState(new)])
    journal.close()
    assert held(path) == JournalState(old, (), ())


def test_a_state_that_forgets_is_refused_inside_a_batch_too(tmp_path: Path) -> None:
    journal = create(tmp_path / "sign.journal")
    with pytest.raises(InvariantError):
        journal.write([SaveSignState(prepared(1, 1)), SaveSignState(prepared(0, 1))])
    journal.close()


def test_a_new_epoch_or_incarnation_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path, state=timed_out(9, state=prepared(9, 9)))
    journal.write([SaveSignState(SignState(0, b"n" * 32))])
    journal.write([SaveSignState(SignState(1, b"n" * 32))])
    journal.close()
    assert held(path).sign_state == SignState(1, b"n" * 32)


def test_committed_height_is_what_the_record_must_reach() -> None:
    assert JournalState(SignState(), (), ()).committed_height == 0
    assert JournalState(prepared(0, 1), (), ()).committed_height == 0
    assert JournalState(prepared(5, 8), (), ()).committed_height == 7
    both = replace(timed_out(3, committed=9, state=prepared(3, 9)), commit=statement(Phase.COMMIT, 2, 8))
    assert JournalState(both, (), ()).committed_height == 9


# ------------------------------------------------------------------------------------------------- compaction


def test_a_file_that_is_mostly_dead_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path)
    sizes = []
    for height in range(1, 61):
        last = block(height, bytes(200_000))
        journal.write([SaveBody(last), SaveSignState(prepared(0, height)), KeepCommand(b"%d" % height)])
        journal.settle(height - 1)
        sizes.append(path.stat().st_size)
    journal.close()
    assert journal.counters.compactions >= 2
    assert max(sizes) < 5 * 1024 * 1024
    assert list(tmp_path.iterdir()) == [path]
    state = held(path)
    assert state.sign_state == prepared(0, 60)
    assert state.bodies == (block(60, bytes(200_000)),)
    assert state.commands == tuple(b"%d" % height for height in range(1, 61))


def test_what_is_alive_is_not_written_again_and_again(tmp_path: Path) -> None:
    journal = create(tmp_path / "sign.journal")
    for number in range(60):
        journal.write([KeepCommand(b"%d" % number + bytes(200_000))])
    assert journal.counters.compactions == 0
    journal.close()


def test_a_draft_left_by_a_crash_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_COMPACT_BYTES", 0)
    monkeypatch.setattr(journal_module, "_COMPACT_RATIO", 0)
    (tmp_path / ".sign.journal.new").write_bytes(b"half")
    journal = create(tmp_path / "sign.journal")
    (tmp_path / ".sign.journal.new").write_bytes(b"half")
    journal.write([KeepCommand(b"mine")])
    assert journal.counters.compactions == 1
    journal.close()
    assert held(tmp_path / "sign.journal").commands == (b"mine",)


def test_bodies_are_bounded_and_those_the_state_rests_on_stay(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    journal = create(path)
    bodies = [block(1, b"%d" % view, parent=view) for view in range(40)]
    key = StatementKey(Phase.PREPARE, 0, 0, 1, bodies[0].hash)
    locked = replace(SignState(), lock=Certificate(key, (("node-1", SIGNATURE),)))
    journal.write([SaveBody(bodies[0]), SaveSignState(locked)])
    for view, body in enumerate(bodies[1:], start=1):
        state = replace(locked, prepare=statement(Phase.PREPARE, view, 1, body.hash))
        journal.write([SaveBody(body), SaveSignState(state)])
    journal.close()
    assert held(path).bodies == (bodies[0], *bodies[-15:])


# -------------------------------------------------------------------------------- torn ends, damage, failures


def test_a_torn_end_is_cut_back_and_the_journal_goes_on() -> None:
    disk = FakeDisk()
    journal = create(disk=disk)
    journal.write([KeepCommand(b"first")])
    whole = len(disk.content(PATH))
    journal.write([KeepCommand(b"second" * 300)])
    torn = disk.content(PATH)[:-700]
    disk.put(PATH, torn)
    journal, state = reopen(disk=disk)
    assert state.commands == (b"first",)
    assert len(disk.content(PATH)) == whole
    journal.write([KeepCommand(b"third")])
    journal.close()
    assert held(disk=disk).commands == (b"first", b"third")


def test_what_a_killed_process_left_unsynced_is_made_durable_before_it_is_told() -> None:
    disk = FakeDisk()
    journal = create(disk=disk)
    disk.fail("sync")
    with pytest.raises(StorageError):
        journal.write([SaveSignState(prepared(0, 1))])
    disk.before = lambda operation: None
    _, state = reopen(disk=disk)
    assert state.sign_state == prepared(0, 1), "the write was in the system's cache"
    for seed in range(50):
        assert held(disk=disk.after_power_cut(Random(seed))).sign_state == prepared(0, 1)


def test_bit_rot_in_the_last_write_is_damage_not_a_torn_end() -> None:
    disk = FakeDisk()
    journal = create(disk=disk)
    journal.write([SaveSignState(prepared(0, 1)), KeepCommand(b"x" * 100)])
    content = bytearray(disk.content(PATH))
    content[-100] ^= 1
    disk.put(PATH, bytes(content))
    with pytest.raises(JournalDamagedError, match=r"write 1, at byte \d+, is damaged; the seal of write 1"):
        reopen(disk=disk)


def test_bytes_that_look_like_a_seal_are_none() -> None:
    """A stranger may choose what is in a command; it must not turn a torn end into damage."""
    disk = FakeDisk()
    journal = create(disk=disk)
    journal.write([KeepCommand(b"first")])
    journal.write([KeepCommand(b"\xacSea" + (99).to_bytes(8, "big") + bytes(64) + b"\xacFrm" + bytes(200))])
    disk.put(PATH, disk.content(PATH)[:-90])
    assert held(disk=disk).commands == (b"first",)


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_append_stops_the_journal(operation: str, error: int) -> None:
    disk = FakeDisk()
    journal = create(disk=disk)
    journal.write([SaveSignState(prepared(0, 1))])
    disk.fail(operation, error=error)
    with pytest.raises(StorageError, match="Nothing more may be signed"):
        journal.write([SaveSignState(prepared(0, 2))])
    done = len(disk.log)
    with pytest.raises(StorageError, match="accepts nothing any more"):
        journal.write([SaveSignState(prepared(0, 3))])
    journal.close()
    assert len(disk.log) == done, "not even at close"
    assert held(disk=disk).sign_state in (prepared(0, 1), prepared(0, 2))


@pytest.mark.parametrize("operation", ["remove", "create", "write", "sync", "replace", "sync_folder"])
def test_a_failed_compaction_stops_the_journal(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FakeDisk()
    journal = create(disk=disk)
    journal.write([SaveSignState(prepared(0, 1))])
    monkeypatch.setattr(journal_module, "_COMPACT_BYTES", 0)
    monkeypatch.setattr(journal_module, "_COMPACT_RATIO", 0)
    disk.put(PATH.with_name(".sign.journal.new"), b"half")
    disk.fail(operation)
    with pytest.raises(StorageError, match="Nothing more may be signed"):
        journal.write([SaveSignState(prepared(0, 2))])
    with pytest.raises(StorageError, match="accepts nothing any more"):
        journal.write([])
    assert held(disk=disk).sign_state in (prepared(0, 1), prepared(0, 2))


@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace", "sync_folder"])
def test_a_journal_that_cannot_be_made(operation: str) -> None:
    disk = FakeDisk()
    disk.fail(operation)
    with pytest.raises(StorageError, match="could not make"):
        create(disk=disk)


@pytest.mark.parametrize("operation", ["truncate", "write", "sync"])
def test_an_open_that_cannot_make_things_durable(operation: str) -> None:
    disk = FakeDisk()
    create(disk=disk).write([KeepCommand(b"first" * 40)])
    disk.put(PATH, disk.content(PATH)[:-100])
    disk.fail(operation)
    with pytest.raises(StorageError, match="could not cut back"):
        reopen(disk=disk)


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from replication.ledger.journal import SignJournal
from replication.ordering.effects import KeepCommand, SaveSignState
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Statement, StatementKey
journal, state = SignJournal.open(Path(sys.argv[1]), bytes(range(32)), "node-1")
height = state.sign_state.prepare.key.height if state.sign_state.prepare else 0
while True:
    height += 1
    prepare = Statement(StatementKey(Phase.PREPARE, 0, 0, height, bytes(32)), "node-1", bytes(64))
    journal.write([KeepCommand(b"%d " % height + bytes(3000)), SaveSignState(SignState(prepare=prepare))])
    journal.settle(height - 1, [])
    print(height, flush=True)
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "sign.journal"
    create(path).close()
    random = Random(4)
    acknowledged = 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(random.randrange(1, 60)):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        acknowledged = int(printed[-1]) if printed else acknowledged
        state = held(path)
        assert state.sign_state.prepare is not None
        height = state.sign_state.prepare.key.height
        assert height in (acknowledged, acknowledged + 1)
        assert len(state.commands) == height
