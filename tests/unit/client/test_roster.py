"""Endpoints of members that came later: learned from nodes, believed in nothing but time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication.client import ClusterHandle, Endpoint
from replication.client import roster as module
from replication.client.errors import UnknownMemberError
from replication.client.roster import Roster
from replication.identity.members import MAX_MEMBERS

GIVEN = (Endpoint("a.example:7001", "node-1"), Endpoint("b.example:7001", "node-2"))
HANDLE = ClusterHandle(GIVEN, b"", b"", b"")


def test_what_was_given_stays_and_comes_first() -> None:
    roster = Roster(HANDLE)
    roster.learn([("node-3", "c.example:7001"), ("node-1", "evil.example:1"), ("node-2", "b.example:7001")])
    later = (Endpoint("c.example:7001", "node-3"), Endpoint("evil.example:1", "node-1"))
    assert list(roster.endpoints) == [*GIVEN, *later]
    assert roster.endpoints_of("node-1") == (GIVEN[0], later[1])
    assert roster.endpoints_of("node-3") == (later[0],)
    roster.learn([("node-4", "d.example:7001")])
    assert list(roster.endpoints) == [*GIVEN, Endpoint("d.example:7001", "node-4")]


def test_what_is_no_address_is_left_out() -> None:
    roster = Roster(HANDLE)
    roster.learn(
        [("", "c.example:7001"), ("x=y", "c:1"), ("node-3", "nowhere"), ("node-4", "d:0"), ("node-5", "")]
    )
    assert list(roster.endpoints) == [*GIVEN, Endpoint("c:1", "x=y")]
    roster.learn((f"node-{number}", f"h{number}:1") for number in range(9, 9 + 10 * MAX_MEMBERS))
    assert len(roster.endpoints) == 2 + MAX_MEMBERS


def test_who_is_missing() -> None:
    roster = Roster(HANDLE)
    assert (roster.lacks("node-1"), roster.lacks("node-3")) == (False, True)
    with pytest.raises(UnknownMemberError, match="Known members: node-1, node-2"):
        roster.endpoints_of("node-3")
    roster.learn([("node-3", "c.example:7001")])
    assert not roster.lacks("node-3")


def test_the_list_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    roster = Roster(HANDLE)
    assert not roster.is_due
    monkeypatch.setattr(module, "LEARN_SECONDS", 0.0)
    assert roster.is_due


def test_a_client_of_one_member_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEARN_SECONDS", 0.0)
    for handle in (HANDLE.only("node-1"), replace(HANDLE, may_learn=False)):
        roster = Roster(handle)
        roster.learn([("node-3", "c.example:7001")])
        assert roster.endpoints == handle.endpoints
        assert (roster.is_due, roster.lacks("node-3")) == (False, False)
