"""One picture of the cluster from what its members say about themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication.client.model import ClusterStatus, Counters, MemberState
from replication.client.survey import merge

NODES = ("a", "b", "c")


def member(name: str, height: int = 1, *, reachable: bool = True, head: str = "h") -> MemberState:
    return MemberState(name, f"{name}:1", reachable, height, height + 1, head, 1, 0)


def answer(node: str, members: list[MemberState], view: int = 0, coordinator: str = "a") -> ClusterStatus:
    return ClusterStatus(
        bytes(32),
        "c",
        0,
        view,
        coordinator,
        3,
        0,
        1,
        2,
        node,
        tuple(members),
        0,
        Counters(0, 0, 0.0, 0, 0),
        "",
    )


def test_members_speak_for_themselves() -> None:
    answers = {
        node: answer(node, [member(name, 5 if name == node else 3) for name in NODES]) for node in NODES
    }
    picture = merge(answers)
    assert [item.height for item in picture.members] == [5, 5, 5]
    assert picture.settled
    assert picture.all_connected


def test_for_silent_members_the_newest_word_of_others_counts() -> None:
    answers = {
        "a": answer("a", [member("a"), member("b"), member("c", 3)]),
        "b": answer("b", [member("a"), member("b"), member("c", 4, reachable=False)]),
    }
    picture = merge(answers)
    assert (picture.members[2].height, picture.members[2].reachable) == (3, True)
    assert picture.answered == {"a", "b"}
    assert not picture.all_connected
    assert picture.settled


def test_all_are_connected_when_each_hears_every_other() -> None:
    answers = {name: answer(name, [member("a"), member("b"), member("c")]) for name in "abc"}
    assert merge(answers).all_connected
    answers["c"] = answer("c", [member("a"), member("b", reachable=False), member("c")])
    picture = merge(answers)
    assert (picture.all_connected, picture.unheard) == (False, {"c": ("b",)})


def test_unequal_heads_are_not_settled() -> None:
    answers = {
        node: answer(node, [member(name, head=node if name == node else "h") for name in NODES])
        for node in NODES
    }
    assert not merge(answers).settled


def test_the_newest_view_counts_unless_a_member_is_preferred() -> None:
    states = [member(name) for name in NODES]
    answers = {
        "a": answer("a", states, 1, "b"),
        "b": answer("b", states, 2, "c"),
        "c": answer("c", states, 2, "c"),
    }
    assert (merge(answers).status.view, merge(answers).status.node_id) == (2, "c")
    assert merge(answers, preferred="a").status.view == 1


def test_without_answers_there_is_no_picture() -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge({})


def test_a_node_that_signs_nothing_does_not_count() -> None:
    states = [member(name) for name in NODES]
    answers = {name: answer(name, states) for name in NODES}
    assert merge(answers).can_decide
    answers["b"] = replace(answers["b"], muted="its disk was lost")
    answers["c"] = replace(answers["c"], muted="its disk was lost", suspected="silence")
    picture = merge(answers)
    assert not picture.can_decide
    assert picture.muted == {"b": "its disk was lost", "c": "its disk was lost"}
    assert picture.suspected == {"c": "silence"}


def test_the_newest_epoch_counts_and_who_left_is_left_out() -> None:
    old = replace(answer("c", [member(name) for name in NODES], 9, "c"), epoch=0)
    new = {
        name: replace(answer(name, [member("a"), member("b")], 0, "a"), epoch=1, n=2) for name in ("a", "b")
    }
    picture = merge({**new, "c": old})
    assert picture.status.epoch == 1
    assert picture.answered == {"a", "b"}
    assert picture.all_connected
