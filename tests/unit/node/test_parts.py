"""The small parts that the driver is made of: clock, inbox, contacts, own commands, changes, logs, policy
thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.consensus import VoteValue
from replication.identity.keys import SigningKey
from replication.identity.members import Member, MemberSet
from replication.ledger.outcomes import Outcome
from replication.node import inbox as inbox_module
from replication.node.changes import Changes
from replication.node.clock import NodeClock
from replication.node.contacts import Contacts
from replication.node.counters import LOG_EVERY_MS, PeerLog
from replication.node.inbox import Inbox
from replication.node.own_commands import OwnCommand, OwnCommands
from replication.node.policies import Choice, Incident, PythonPolicy
from replication.node.policy_thread import PolicyThread
from replication.ordering.application import command_digest
from replication.ordering.messages import BodyRequest, CommandMessage, Heartbeat

MILLION = 1_000_000


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# --------------------------------------------------------------------------------------------------------
# clock


class Hands:
    """Two clocks to set."""

    def __init__(self) -> None:
        self.wall = 1_000_000 * MILLION
        self.steady = 5 * MILLION
        self.clock = NodeClock(lambda: self.wall, lambda: self.steady)

    def advance(self, milliseconds: int, wall: int | None = None) -> int:
        self.steady += milliseconds * MILLION
        self.wall += (milliseconds if wall is None else wall) * MILLION
        return self.clock()


def test_the_clock_follows_the_wall_clock() -> None:
    hands = Hands()
    assert hands.advance(0) == 1_000_000
    assert hands.advance(250) == 1_000_250
    assert hands.advance(10, wall=90_000) == 1_090_250


def test_a_wall_clock_that_was_set_back_slows_the_clock_and_does_not_stop_it() -> None:
    hands = Hands()
    start = hands.advance(0)
    assert hands.advance(100, wall=-3_600_000) == start + 50
    assert hands.advance(1_000) == start + 550
    for _ in range(100):
        hands.advance(100_000)
    assert hands.clock() == hands.wall // MILLION  # caught up


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(-100_000, 100_000)), max_size=50))
def test_the_clock_never_goes_slower_than_half_speed(steps: list[tuple[int, int]]) -> None:
    hands = Hands()
    last = hands.clock()
    for elapsed, wall in steps:
        now = hands.advance(elapsed, wall)
        assert now >= last + elapsed // 2 - 1
        assert now >= hands.wall // MILLION
        last = now


# --------------------------------------------------------------------------------------------------------
# inbox


def test_messages_of_one_peer_come_out_in_order_and_peers_take_turns() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        for number in range(100):
            await inbox.put("flooder", BodyRequest(bytes([number])))
        for number in range(3):
            await inbox.put("node-2", BodyRequest(bytes([number])))
        await inbox.put("node-3", BodyRequest(b"x"))
        taken = [inbox.take() for _ in range(len(inbox))]
        assert [sender for sender, _ in taken[:8]] == [
            *("flooder", "node-2", "node-3", "flooder", "node-2", "flooder", "node-2", "flooder"),
        ]
        for peer, count in (("flooder", 100), ("node-2", 3)):
            own = [message for sender, message in taken if sender == peer]
            assert own == [BodyRequest(bytes([number])) for number in range(count)]
        assert not len(inbox)

    run(scenario())


@pytest.mark.parametrize("limit", ["MAX_MESSAGES_PER_PEER", "MAX_BYTES_PER_PEER"])
def test_a_full_share_makes_its_sender_wait_and_no_other(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = CommandMessage(bytes(1_000))
    monkeypatch.setattr(
        inbox_module, limit, 3 if limit.startswith("MAX_M") else 3 * inbox_module.size_of(message)
    )

    async def scenario() -> None:
        inbox = Inbox()
        flood = [asyncio.ensure_future(inbox.put("flooder", message)) for _ in range(6)]
        await asyncio.sleep(0.01)
        assert [task.done() for task in flood] == [True] * 3 + [False] * 3
        assert await inbox.put("other", message)
        inbox.take()
        await asyncio.sleep(0.01)
        assert [task.done() for task in flood] == [True] * 4 + [False] * 2
        inbox.close()
        assert await asyncio.gather(*flood) == [True] * 4 + [False] * 2

    run(scenario())


def test_a_sender_that_gives_up_waiting_does_not_keep_the_next_one_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "MAX_MESSAGES_PER_PEER", 1)

    async def scenario() -> None:
        inbox = Inbox()
        await inbox.put("peer", BodyRequest(b"0"))
        first = asyncio.ensure_future(inbox.put("peer", BodyRequest(b"1")))
        second = asyncio.ensure_future(inbox.put("peer", BodyRequest(b"2")))
        await asyncio.sleep(0)
        inbox.take()  # room for the first, which is cancelled before it comes to take it
        first.cancel()
        await until(second.done)
        assert inbox.take() == ("peer", BodyRequest(b"2"))

    run(scenario())


# -----------------------------------------------------------------------------------------------------
# contacts


def members(count: int) -> MemberSet:
    keys = [SigningKey.from_seed(bytes([number + 1]) * 32).public_key for number in range(count)]
    return MemberSet(0, tuple(Member(f"node-{number}", key, 1, "h:1") for number, key in enumerate(keys)))


def test_a_quorum_is_in_contact_when_enough_were_heard_lately() -> None:
    four = members(4)
    contacts = Contacts("node-0", contact_ms=1_000)
    contacts.heard("node-1", 0)
    assert not contacts.has_quorum(four, 0)
    contacts.heard("node-2", 500)
    assert contacts.has_quorum(four, 1_000)
    assert not contacts.has_quorum(four, 1_001)  # node-1 fell silent
    contacts.heard("stranger", 1_001)
    assert not contacts.has_quorum(four, 1_001)
    assert Contacts("node-0", 1_000).has_quorum(members(1), 0)


def test_states_say_what_peers_said_of_themselves() -> None:
    contacts = Contacts("node-0", contact_ms=1_000)
    contacts.heard("node-1", 100)
    contacts.said("node-1", Heartbeat(0, 3, 7, 20, b"h" * 32, None))
    contacts.refused("node-1")
    states = contacts.states(members(3), 400)
    assert list(states) == ["node-1", "node-2"]
    first, second = states.values()
    assert (first.view, first.height, first.audit_size, first.audit_head) == (3, 7, 20, b"h" * 32)
    assert (first.silent_ms, first.reachable, first.refused) == (300, True, 1)
    assert (second.silent_ms, second.reachable, second.height) == (None, False, 0)


def test_who_is_no_member_any_more_is_forgotten() -> None:
    contacts = Contacts("node-0", contact_ms=1_000)
    contacts.heard("node-3", 0)
    contacts.keep(members(3))
    assert contacts.reachable(0) == set()


# ------------------------------------------------------------------------------------------------- own
# commands


def test_waiters_give_up_and_the_command_stays() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        own = OwnCommands()
        entry = OwnCommand(b"command", command_digest(b"command"), None, 1_000)
        early, late = loop.create_future(), loop.create_future()
        entry.waiters = [(early, 1_000), (late, 3_000)]
        own.add(entry)
        own.give_up_waiting(2_000, lambda: RuntimeError("no quorum"))
        assert str(early.exception()) == "no quorum"
        assert not late.done()
        done = own.take_finished({entry.digest: Outcome(True), b"other": Outcome(False)})
        assert done == [(entry, Outcome(True))]
        entry.finish(Outcome(True))
        assert late.result() == Outcome(True)
        assert len(own) == 0

    run(scenario())


# ------------------------------------------------------------------------------------------------------
# changes


def test_watchers_are_woken_by_growth_and_told_of_the_end() -> None:
    async def scenario() -> None:
        changes = Changes(1, 10)
        assert await changes.wait_beyond(9) == 10
        watcher = asyncio.ensure_future(changes.wait_beyond(11))
        quitter = asyncio.ensure_future(changes.wait_above(1))
        await asyncio.sleep(0)
        quitter.cancel()
        changes.grew(2, 11)
        await asyncio.sleep(0.01)
        assert not watcher.done()
        changes.grew(3, 14)
        assert await watcher == 14
        watcher = asyncio.ensure_future(changes.wait_above(3))
        await asyncio.sleep(0)
        changes.close(lambda: RuntimeError("stopping"))
        with pytest.raises(RuntimeError, match="stopping"):
            await watcher
        with pytest.raises(RuntimeError, match="stopping"):
            await changes.wait_above(3)
        assert await changes.wait_above(2) == 3  # what is known is answered to the end

    run(scenario())


# ---------------------------------------------------------------------------------------------------------
# logs


def test_a_peer_gets_one_line_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    log = PeerLog(logging.getLogger("test"))
    with caplog.at_level(logging.WARNING, "test"):
        for now_ms in (0, 1, 2, LOG_EVERY_MS):
            log.refused("node-1", ValueError("bad"), now_ms)
        log.refused("node-2", ValueError("worse"), 3)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "2 more" in lines[1]


# ------------------------------------------------------------------------------------------------ policy
# thread

INCIDENT = Incident("node-1", "quarantine", "x", {}, False, 0, 0, 0, "node-0")


def test_answers_come_back_in_the_loops_thread_in_order() -> None:
    async def scenario() -> None:
        answers: list[tuple[bytes, Choice | None, bool]] = []
        home = threading.get_ident()
        thread = PolicyThread(
            PythonPolicy(lambda incident: "approve", "test"),
            5.0,
            lambda key: key != b"gone",
            lambda key, choice: answers.append((key, choice, threading.get_ident() == home)),
        )
        for key in (b"a", b"gone", b"b"):
            thread.ask(key, INCIDENT)
        await until(lambda: len(answers) == 2)
        thread.close()
        approve = Choice(VoteValue.APPROVE)
        assert answers == [(b"a", approve, True), (b"b", approve, True)]

    run(scenario())


def test_a_policy_that_hangs_is_not_asked_again_until_it_comes_back() -> None:
    async def scenario() -> None:
        answers: dict[bytes, Choice | None] = {}
        gate = threading.Event()
        calls: list[int] = []

        def slow(incident: Incident) -> str:
            calls.append(1)
            gate.wait()
            return "reject"

        thread = PolicyThread(
            PythonPolicy(slow, "test"),
            1.0,
            lambda key: True,
            lambda key, choice: answers.update({key: choice}),
        )
        thread.ask(b"a", INCIDENT)
        thread.ask(b"b", INCIDENT)
        await until(lambda: b"a" in answers)
        await asyncio.sleep(0.1)
        assert answers == {b"a": None}
        assert len(calls) == 1
        gate.set()
        await until(lambda: b"b" in answers)
        thread.close()
        assert answers == {b"a": None, b"b": Choice(VoteValue.REJECT)}  # a late answer does not count

    run(scenario())
