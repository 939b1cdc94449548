"""When a coordinator is suspected, when it must not be, and that one liar alone deposes nobody."""

from __future__ import annotations

import pytest
from tests.support.ordering_follower import QUORUM, enter_view_2
from tests.support.ordering_toy import Cluster, Node

from replication.ordering.limits import PENDING_LIFETIME_MS
from replication.ordering.messages import (
    CommandMessage,
    Heartbeat,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.pacemaker import ReplicaSettings

SETTINGS = ReplicaSettings()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(4)


@pytest.fixture
def nodes(cluster: Cluster) -> list[Node]:
    nodes = cluster.boot()
    cluster.settle()
    return nodes


def views(nodes: list[Node]) -> set[int]:
    return {node.replica.view for node in nodes}


def beat(cluster: Cluster, *nodes: Node) -> None:
    """m0 is alive, and says nothing else."""
    for node in nodes:
        head = nodes[0].replica
        node.offer(
            "m0",
            Heartbeat(0, node.replica.view, head.height, head.head.audit_size, head.head.audit_head, None),
        )


def wait_beating(cluster: Cluster, nodes: list[Node], duration_ms: int) -> None:
    """Time passes for these members while the coordinator only sends heartbeats."""
    for _ in range(duration_ms // 100):
        cluster.now_ms += 100
        beat(cluster, *nodes)
        for node in nodes:
            node.tick()
        cluster.deliver()


# Reasons.


def test_nothing_came_for_the_idle_timeout(cluster: Cluster, nodes: list[Node]) -> None:
    """`Nothing valid came from the coordinator for the idle timeout.`"""
    cluster.isolate("m0")
    nodes[1].take_sent()
    cluster.now_ms += SETTINGS.idle_timeout_ms
    nodes[1].tick()
    assert (nodes[1].replica.suspected, nodes[1].sent_of(SuspectMessage)) == ("", [])
    cluster.now_ms += 1
    nodes[1].tick()
    assert "nothing valid came from m0 for 800 ms" in nodes[1].replica.suspected
    assert nodes[1].sent_of(SuspectMessage) == [SuspectMessage(cluster.suspect("m1", 0))]


def test_a_complaint_is_repeated_while_the_reason_holds_and_no_longer(
    cluster: Cluster, nodes: list[Node]
) -> None:
    """`SUSPECT goes to all and is repeated while the reason holds.`"""
    node = nodes[1]
    cluster.isolate("m1")
    cluster.now_ms += SETTINGS.idle_timeout_ms + 1
    node.take_sent()
    for _ in range(30):
        node.tick()
        cluster.now_ms += 100
    assert len(node.sent_of(SuspectMessage)) == 15
    beat(cluster, node)
    node.take_sent()
    node.tick()
    assert (node.replica.suspected, node.sent_of(SuspectMessage)) == ("", [])
    assert not node.replica.timed_out, "one falsely suspecting node does not mute itself"


def test_a_command_known_to_be_pending_was_not_committed(cluster: Cluster, nodes: list[Node]) -> None:
    """`A command known to be pending was not committed within the busy timeout.` Heartbeats do not help."""
    node = nodes[1]
    cluster.isolate("m0")
    node.submit(cluster.note("m1", "a"))
    wait_beating(cluster, [node], SETTINGS.busy_timeout_ms)
    assert node.replica.suspected == ""
    wait_beating(cluster, [node], 100)
    assert "a command has waited" in node.replica.suspected


def test_a_view_was_entered_and_nobody_opened_it(cluster: Cluster) -> None:
    """`v was entered and no NEWVIEW came.` Here too, heartbeats alone do not prove service."""
    (node,) = cluster.boot("m1")
    enter_view_2(cluster, node)
    for opened in (False, True):
        if opened:
            certificate = cluster.timeout_certificate(1, signers=QUORUM)
            node.receive("m2", cluster.new_view("m2", certificate))
        idle = 4 * SETTINGS.idle_timeout_ms
        for _ in range(idle // 100 + 1):
            cluster.now_ms += 100
            node.receive("m2", Heartbeat(0, 2, 0, 1, bytes(32), None))
        assert ("m2 has not opened view 2" in node.replica.suspected) is not opened


def test_a_window_closed_and_no_block_came(cluster: Cluster, nodes: list[Node]) -> None:
    """No command waits, and nobody would miss a coordinator that lets proposals lie open for ever."""
    nodes[1].submit(cluster.open("m1", "a", window_ms=500))
    cluster.settle()
    cluster.run(20)
    assert {node.replica.height for node in nodes} == {1}
    cluster.isolate("m0")
    due = 500 + SETTINGS.clock_ahead_ms + SETTINGS.busy_timeout_ms
    wait_beating(cluster, nodes[1:], due - 100)
    assert nodes[1].replica.suspected == ""
    wait_beating(cluster, nodes[1:], 300)
    assert views(nodes[1:]) == {1}


def test_a_block_does_not_get_through_although_nobody_lies(cluster: Cluster, nodes: list[Node]) -> None:
    """m3 is silent, and m1 alone has given up the view: m0 and m2 are too few, and nobody else complains.

    Only the coordinator has a command, so that its block is all that the others know of it.
    """
    cluster.isolate("m3")
    for name in ("m2", "m3"):
        nodes[1].receive(name, SuspectMessage(cluster.suspect(name, 0)))
    assert nodes[1].replica.timed_out
    nodes[0].submit(cluster.note("m0", "a"))
    cluster.run(5_000)
    assert [node.replica.height for node in nodes[:3]] == [2, 2, 2]


# Fairness.


def test_a_vote_on_what_nobody_proposed_deposes_nobody(cluster: Cluster, nodes: list[Node]) -> None:
    """A faulty member shows a command that no coordinator could order."""
    vote = cluster.vote("m3", cluster.open("m3", "never shown"))
    for node in nodes[:3]:
        node.receive("m3", CommandMessage(vote, overdue=True))
    cluster.isolate("m3")
    cluster.run(PENDING_LIFETIME_MS + 2_000, step_ms=200)
    assert views(nodes[:3]) == {0}
    assert nodes[1].replica.pending_count == 0


def test_a_command_kept_back_for_long_gives_the_coordinator_its_full_time(
    cluster: Cluster, nodes: list[Node]
) -> None:
    """A faulty member shows it to the others first, and says much later that it is overdue."""
    command = cluster.note("m3", "late")
    for node in nodes[1:3]:
        node.receive("m3", CommandMessage(command))
    cluster.isolate("m3")
    cluster.run(10_000, step_ms=200)
    for node in nodes[1:3]:
        node.receive("m3", CommandMessage(command, overdue=True))
        assert node.replica.suspected == ""
    cluster.run(5_000)
    assert views(nodes[:3]) == {0}
    assert [node.replica.height for node in nodes[:3]] == [1, 1, 1]


def test_a_command_that_must_go_alone_hides_no_censorship(cluster: Cluster, nodes: list[Node]) -> None:
    """A faulty coordinator shows a change of members that it never orders: what else waits is still its
    duty."""
    alone = cluster.change_members("m0", ("m0", "m1", "m2"))
    for node in nodes[1:]:
        node.receive("m0", CommandMessage(alone))
    cluster.isolate("m0")
    nodes[1].submit(cluster.note("m1", "censored"))
    wait_beating(cluster, nodes[1:], 3 * SETTINGS.busy_timeout_ms)
    assert views(nodes[1:]) == {1}


def test_one_complaint_deposes_nobody(cluster: Cluster, nodes: list[Node]) -> None:
    """`One node's complaint alone must not depose a coordinator, f+1 do.`"""
    for _ in range(20):
        for node in nodes[:3]:
            node.receive("m3", SuspectMessage(cluster.suspect("m3", 0)))
        cluster.run(100)
    assert not any(node.replica.timed_out for node in nodes)


def test_complaints_of_other_times_do_not_add_up(cluster: Cluster, nodes: list[Node]) -> None:
    node = nodes[1]
    node.receive("m2", SuspectMessage(cluster.suspect("m2", 0)))
    cluster.now_ms += SETTINGS.idle_timeout_ms + 1
    beat(cluster, node)
    node.receive("m3", SuspectMessage(cluster.suspect("m3", 0)))
    assert not node.replica.timed_out
    node.receive("m2", SuspectMessage(cluster.suspect("m2", 0)))
    assert node.replica.timed_out


def test_a_complaint_about_another_view_does_not_count(cluster: Cluster, nodes: list[Node]) -> None:
    for name, view in (("m2", 0), ("m3", 1), ("m0", 2)):
        nodes[1].receive(name, SuspectMessage(cluster.suspect(name, view)))
    assert not nodes[1].replica.timed_out


# Censorship.


def test_overdue_commands_are_shown_to_all_and_shown_again(cluster: Cluster, nodes: list[Node]) -> None:
    """`One that stays uncommitted for half the busy timeout is shown to all nodes.`"""
    node = nodes[1]
    cluster.isolate("m0")
    command = cluster.note("m1", "a")
    node.submit(command)
    for half in range(1, 5):
        wait_beating(cluster, [node], SETTINGS.busy_timeout_ms // 2)
        shown = [item for item in node.sent_of(CommandMessage) if item.overdue]
        assert len(shown) == (half + 1) // 2
    assert set(shown) == {CommandMessage(command, overdue=True)}


def test_what_is_shown_as_overdue_is_kept_and_passed_on(cluster: Cluster, nodes: list[Node]) -> None:
    """`They check it, keep it, pass it on and run the busy timer for it.`"""
    command = cluster.note("m3", "a")
    node = nodes[1]
    node.take_sent()
    for _ in range(2):
        node.receive("m3", CommandMessage(command, overdue=True))
    assert node.take_sent() == [("m0", CommandMessage(command))]
    assert node.replica.pending_count == 1
    wait_beating(cluster, [node], SETTINGS.busy_timeout_ms + 100)
    assert "a command has waited" in node.replica.suspected


def test_a_void_command_is_not_kept(cluster: Cluster, nodes: list[Node]) -> None:
    command = cluster.note("m1", "a")
    nodes[1].submit(command)
    cluster.settle()
    cluster.run(20)
    assert nodes[2].replica.height == 1
    nodes[2].receive("m3", CommandMessage(command, overdue=True))
    assert nodes[2].replica.pending_count == 0


def test_a_coordinator_that_may_not_sign_is_no_better_than_a_follower(
    cluster: Cluster, nodes: list[Node]
) -> None:
    """Its disk is lost: it waits for its rejoin to be ordered, and must be replaced to get it ordered."""
    nodes[0].disk.sign_state = type(nodes[0].sign_state)(0, b"\x01" * 32)
    nodes[0].restart()
    assert "waiting for its rejoin" in nodes[0].replica.muted
    cluster.run(10_000)
    assert {(node.replica.members.epoch, node.replica.muted) for node in nodes} == {(1, "")}


# What a member does once it has given up.


def test_f_plus_one_complaints_make_a_timeout_and_a_quorum_of_those_a_view(
    cluster: Cluster, nodes: list[Node]
) -> None:
    node = nodes[3]
    cluster.isolate("m3")
    for name in ("m1", "m2"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0)))
    assert node.sent_of(TimeoutMessage) == [TimeoutMessage(cluster.report("m3", 0))]
    node.receive("m1", TimeoutMessage(cluster.report("m1", 0)))
    assert node.replica.view == 0
    node.receive("m2", TimeoutMessage(cluster.report("m2", 0)))
    assert node.replica.view == 1
    (message,) = node.sent_of(TimeoutCertificateMessage)
    assert message.certificate == cluster.timeout_certificate(0, signers=("m1", "m2", "m3"))


def test_a_timeout_is_repeated_verbatim_until_the_view_is_left(cluster: Cluster, nodes: list[Node]) -> None:
    node = nodes[3]
    cluster.isolate("m3")
    for name in ("m1", "m2"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0)))
    for _ in range(10):
        cluster.now_ms += SETTINGS.repeat_ms
        node.tick()
    sent = node.sent_of(TimeoutMessage)
    assert len(sent) == 11
    assert len(set(map(id, (message.report for message in sent)))) == 1
    assert node.sent_of(SuspectMessage) == []


def test_timeouts_of_a_later_view_move_a_member_that_is_behind(cluster: Cluster, nodes: list[Node]) -> None:
    """`f+1 TIMEOUTs for a view >= one's own`"""
    node = nodes[3]
    cluster.isolate("m3")
    for name in ("m1", "m2"):
        node.receive(name, TimeoutMessage(cluster.report(name, 4)))
    assert node.sent_of(TimeoutMessage) == [TimeoutMessage(cluster.report("m3", 0))]
    node.receive("m0", TimeoutMessage(cluster.report("m0", 4)))
    assert node.replica.view == 5
