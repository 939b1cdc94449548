"""The journal against every truncation, every flipped byte, and power cuts anywhere."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.disk import FakeDisk, PowerLost

from replication.ledger import journal as journal_module
from replication.ledger.journal import JournalDamagedError, JournalState, SignJournal
from replication.ordering.application import command_digest
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.effects import KeepCommand, SaveBody, SaveSignState
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Statement, StatementKey

CLUSTER = bytes(range(32))
PATH = Path("/data/sign.journal")


def body(height: int) -> Block:
    header = BlockHeader(CLUSTER, 0, height, bytes(32), height, bytes(32), bytes(32), height, bytes(32))
    return Block(header, (b"command of %d" % height,))


def signed(height: int) -> SignState:
    key = StatementKey(Phase.PREPARE, 0, 0, height, body(height).hash)
    return replace(SignState(), prepare=Statement(key, "node-1", bytes(64)))


def opened(disk: FakeDisk) -> JournalState:
    journal, state = SignJournal.open(PATH, CLUSTER, "node-1", files=disk)
    journal.close()
    return state


def small_journal() -> tuple[bytes, list[JournalState]]:
    """A file of a few writes, sealed, and the states after each of them."""
    disk = FakeDisk()
    journal = SignJournal.create(PATH, CLUSTER, "node-1", files=disk)
    states = [JournalState(SignState(), (), ())]
    for height in (1, 2, 3):
        journal.write([SaveBody(body(height)), SaveSignState(signed(height)), KeepCommand(b"%d" % height)])
        journal.settle(height - 1)
        copy = FakeDisk()
        copy.put(PATH, disk.content(PATH))
        states.append(opened(copy))
    return disk.content(PATH), states


def state_of(content: bytes) -> JournalState | None:
    """What a journal with this content holds; None when it is reported as damaged."""
    disk = FakeDisk()
    disk.put(PATH, content)
    try:
        return opened(disk)
    except JournalDamagedError:
        return None


def test_every_truncation_is_an_older_state_or_reported() -> None:
    """An older state is what a restored backup looks like, too; the other members tell (see the journal)."""
    content, states = small_journal()
    found = [state_of(content[:size]) for size in range(len(content) + 1)]
    assert found[-1] == states[-1]
    assert all(state is None or state in states for state in found)
    order = [-1 if state is None else states.index(state) for state in found]
    assert order == sorted(order)
    assert set(order) == {-1, 0, 1, 2, 3}


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_harmless_or_reported(mask: int) -> None:
    """The last write was sealed, so that not even a flip in it passes for a torn end."""
    content, states = small_journal()
    harmless = 0
    for index in range(len(content)):
        state = state_of(content[:index] + bytes([content[index] ^ mask]) + content[index + 1 :])
        assert state is None or state == states[-1], f"byte {index}"
        harmless += state is not None
    assert harmless == 76, "the seal itself: 4 + 8 + 32 + 32 bytes"


def test_every_flipped_byte_of_a_journal_that_lost_its_seal_in_a_power_cut() -> None:
    """Then the last write cannot be told from a torn one: at worst the state before it comes back."""
    content, states = small_journal()
    unsealed = content[:-76] + bytes(76)
    assert state_of(unsealed) == states[-1]
    for index in range(len(unsealed)):
        state = state_of(unsealed[:index] + bytes([unsealed[index] ^ 0x10]) + unsealed[index + 1 :])
        assert state is None or state in states[-2:], f"byte {index}"


def test_no_frame_can_be_left_out_repeated_or_moved() -> None:
    content, states = small_journal()
    cuts = [
        0,
        *(size for size in range(1, len(content)) if content.startswith(b"\xacFrm", size)),
        len(content),
    ]
    parts = [content[start:end] for start, end in itertools.pairwise(cuts)]
    assert len(parts) == 5
    for index in range(1, 5):
        assert state_of(b"".join(parts[:index] + parts[index + 1 :])) in (None, *states[:-1])
        assert state_of(b"".join([*parts[: index + 1], *parts[index:]])) in (None, states[-1])
    assert state_of(b"".join([parts[0], parts[1], parts[3], parts[2], parts[4]])) is None


@given(noise=st.binary(max_size=300), keep=st.integers(0, 2000))
def test_noise_gets_a_state_or_a_report(noise: bytes, keep: int) -> None:
    content, states = small_journal()
    assert state_of(content[:keep] + noise) in (None, *states)


steps = st.lists(
    st.tuples(st.sampled_from(["block", "command", "both", "settle"]), st.integers(0, 3000)),
    min_size=1,
    max_size=12,
)


class _Run:
    """Writes to a journal until the power goes; knows what was acknowledged, and what was under way."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.height = 0
        self.state = self.next_state = SignState()
        self.bodies: set[bytes] = set()
        self.commands: set[bytes] = set()
        self.under_way: set[bytes] = set()
        self.created = False

    def run(self, plan: list[tuple[str, int]]) -> None:
        journal = SignJournal.create(PATH, CLUSTER, "node-1", files=self.disk)
        self.created = True
        for number, (kind, size) in enumerate(plan):
            items: list[SaveBody | SaveSignState | KeepCommand] = []
            if kind == "settle":
                journal.settle(max(0, self.height - 1), [command_digest(each) for each in self.commands])
                self.bodies = {body(self.height).hash} if self.height else set()
                self.commands.clear()
                continue
            if kind in ("block", "both"):
                self.height += 1
                self.next_state = signed(self.height)
                items += [SaveBody(body(self.height)), SaveSignState(self.next_state)]
            command = b"%d " % number + bytes(size)
            if kind in ("command", "both"):
                items.append(KeepCommand(command))
            self.under_way = {item.command for item in items if isinstance(item, KeepCommand)}
            journal.write(items)
            self.state = self.next_state
            self.commands |= self.under_way
            if kind != "command":
                self.bodies.add(body(self.height).hash)
        journal.close()


@settings(max_examples=300)
@given(
    plan=steps,
    after=st.integers(0, 80),
    seed=st.integers(0, 2**32),
    threshold=st.sampled_from([0, 4000, 10**7]),
)
def test_power_cut_anywhere(plan: list[tuple[str, int]], after: int, seed: int, threshold: int) -> None:
    """Ten disks for each cut: nothing acknowledged is missing, nothing is there that was not written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "_COMPACT_BYTES", threshold)
        disk = FakeDisk()
        disk.lose_power(after)
        run = _Run(disk)
        with contextlib.suppress(PowerLost):
            run.run(plan)
        random = Random(seed)
        for _ in range(10):
            disk_after = disk.after_power_cut(random)
            if not run.created and not disk_after.exists(PATH):
                continue  # lost before it was made: `acp init` has not finished either
            state = opened(disk_after)
            assert state.sign_state in (run.state, run.next_state)
            assert {each.hash for each in state.bodies} >= run.bodies
            assert set(state.commands) >= run.commands
            assert opened(disk_after) == state, "and opening changes nothing"
