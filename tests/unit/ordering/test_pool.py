"""The pool of waiting commands: bounds for each author, repeats, and what a coordinator is held to."""

from __future__ import annotations

import pytest

from replication.errors import CallerError
from replication.ordering import pool as pool_module
from replication.ordering.application import CheckedCommand, command_digest
from replication.ordering.limits import PENDING_LIFETIME_MS
from replication.ordering.pool import CommandPool, PoolFullError


def add(pool: CommandPool, text: str, now_ms: int = 0, *, own: bool = False, author: str = "m1") -> bytes:
    command = text.encode()
    pool.add(command, CheckedCommand(command_digest(command), author), now_ms, own=own)
    return command


@pytest.fixture
def pool() -> CommandPool:
    return CommandPool()


def test_in_order_of_arrival_and_once(pool: CommandPool) -> None:
    first, second = add(pool, "b", 5), add(pool, "a", 6)
    checked = CheckedCommand(command_digest(first), "m1")
    assert pool.add(first, checked, 9) is False
    assert pool.commands() == [first, second]
    assert len(pool) == 2
    assert pool.oldest_ms() == 5
    assert CommandPool().oldest_ms() is None


def test_discarded_it_is_gone_and_its_room_is_free(
    pool: CommandPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_PENDING_PER_MEMBER", 2)
    first, second = add(pool, "a", own=True), add(pool, "b")
    pool.discard([command_digest(first), command_digest(b"unknown")])
    assert pool.commands() == [second]
    assert pool.held_since() is None
    add(pool, "c")
    with pytest.raises(PoolFullError):
        add(pool, "d")
    pool.discard([command_digest(second), command_digest(second)])
    add(pool, "e")


def test_each_author_has_a_share_of_its_own(pool: CommandPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_PENDING_PER_MEMBER", 3)
    for number in range(3):
        add(pool, f"flood {number}", author="m3")
    with pytest.raises(PoolFullError, match="m3 has 3 commands") as caught:
        add(pool, "one more", author="m3")
    assert isinstance(caught.value, CallerError)
    assert caught.value.reason == "TOO_MANY_PENDING"
    add(pool, "honest", author="m1")
    assert len(pool) == 4


def test_bytes_are_bounded_too(pool: CommandPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_PENDING_BYTES_PER_MEMBER", 10)
    add(pool, "123456")
    with pytest.raises(PoolFullError):
        add(pool, "12345")
    add(pool, "1234")


def test_cleared_it_is_empty(pool: CommandPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_PENDING_PER_MEMBER", 1)
    add(pool, "a", own=True)
    pool.clear()
    assert (len(pool), pool.held_since(), pool.held()) == (0, None, [])
    add(pool, "b")


def test_others_expire_and_ones_own_do_not(pool: CommandPool) -> None:
    own, _, young = add(pool, "a", 0, own=True), add(pool, "b", 0), add(pool, "c", 1)
    pool.expire(PENDING_LIFETIME_MS - 1)
    assert len(pool) == 3
    pool.expire(PENDING_LIFETIME_MS)
    assert pool.commands() == [own, young]


# What is sent again.


def test_ones_own_are_due_after_a_while(pool: CommandPool) -> None:
    own = add(pool, "a", 0, own=True)
    add(pool, "b", 0)
    assert pool.due(99, 100) == []
    assert pool.due(100, 100) == [own]
    assert pool.due(199, 100) == []
    assert pool.due(200, 100) == [own]


def test_a_new_coordinator_gets_ones_own(pool: CommandPool) -> None:
    own = add(pool, "a", 0, own=True)
    add(pool, "b", 0)
    assert pool.new_view(50) == [own]
    assert pool.due(149, 100) == []
    assert pool.due(150, 100) == [own]


def test_a_command_becomes_ones_own(pool: CommandPool) -> None:
    """It came back from another member before it was submitted here again."""
    command = add(pool, "a", 0)
    add(pool, "a", 7, own=True)
    assert pool.new_view(8) == [command]
    assert pool.held_since() == 7


# What the coordinator is held to.


def test_held_to_ones_own_from_the_start(pool: CommandPool) -> None:
    add(pool, "b", 3)
    assert pool.held_since() is None
    own = add(pool, "a", 5, own=True)
    add(pool, "c", 6, own=True)
    assert pool.held_since() == 5
    pool.discard([command_digest(own)])
    assert pool.held_since() == 6


def test_held_to_what_others_show_from_then_on(pool: CommandPool) -> None:
    """Not from its arrival: the coordinator may never have had it, and has its full time from now."""
    command = add(pool, "a", 0)
    assert pool.hold(command_digest(command), 1_000) is True
    assert pool.hold(command_digest(command), 2_000) is False
    assert pool.held_since() == 1_000
    assert pool.held() == [command]


def test_nobody_is_held_to_what_does_not_wait(pool: CommandPool) -> None:
    assert pool.hold(command_digest(b"unknown"), 5) is False
    assert pool.held() == []


def test_excused_the_time_begins_anew(pool: CommandPool) -> None:
    first, second = add(pool, "a", 0, own=True), add(pool, "b", 1, own=True)
    pool.excuse([first, b"unknown"], 500)
    assert pool.held_since() == 1
    pool.excuse([second], 600)
    assert pool.held_since() == 500
    assert pool.held() == [first, second]


# What is shown to all.


def test_overdue_is_what_a_coordinator_was_held_to_for_too_long(pool: CommandPool) -> None:
    own = add(pool, "a", 0, own=True)
    assert pool.overdue(99, 100) == []
    assert pool.overdue(100, 100) == [own]
    assert pool.overdue(101, 100) == []


def test_others_go_along(pool: CommandPool) -> None:
    """`One's own may depend on them (a vote on its proposal).`"""
    proposal, vote, young = add(pool, "a", 0), add(pool, "b", 10, own=True), add(pool, "c", 60)
    assert pool.overdue(105, 100) == [], "nobody is held to the proposal alone"
    assert pool.overdue(110, 100) == [proposal, vote]
    pool.hold(command_digest(young), 60)
    assert pool.overdue(160, 100) == [young]


def test_ones_own_is_shown_again(pool: CommandPool) -> None:
    """What is said only once gets lost, and a censor is never found out."""
    proposal, own = add(pool, "a", 0), add(pool, "b", 0, own=True)
    assert pool.overdue(100, 100) == [proposal, own]
    assert pool.overdue(299, 100) == []
    assert pool.overdue(300, 100) == [own]


def test_a_new_view_starts_with_a_clean_slate(pool: CommandPool) -> None:
    proposal, own = add(pool, "a", 0), add(pool, "b", 0, own=True)
    assert pool.overdue(100, 100) == [proposal, own]
    pool.new_view(100)
    assert pool.overdue(200, 100) == [proposal, own]


def test_what_cannot_be_ordered_is_not_overdue(pool: CommandPool) -> None:
    own = add(pool, "a", 0, own=True)
    pool.excuse([own], 90)
    assert pool.overdue(100, 100) == []
    assert pool.overdue(190, 100) == [own]


def test_junk_that_arrived_first_hides_nothing(pool: CommandPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_SHOWN_AT_ONCE", 2)
    junk = [add(pool, f"junk {number}", 0, author="m3") for number in range(3)]
    own = add(pool, "a", 0, own=True)
    assert pool.overdue(100, 100) == junk[:2]
    assert pool.overdue(101, 100) == [junk[2], own]
    assert pool.overdue(102, 100) == []
