"""Epochs: what ends with one, what begins, and who may speak in it."""

from __future__ import annotations

import pytest
from tests.support.ordering_follower import QUORUM, acknowledged, good_block
from tests.support.ordering_toy import Cluster, Node

from replication.ordering.blocks import Block
from replication.ordering.messages import (
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    SuspectMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase

REVERSED = ("m3", "m2", "m1", "m0")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(4, spares=1)


def running(cluster: Cluster, *names: str) -> list[Node]:
    nodes = cluster.boot(*names)
    cluster.settle()
    return nodes


def change(cluster: Cluster, node: Node, *names: str) -> None:
    """Have these members ordered."""
    node.submit(cluster.change_members(node.name, names))
    cluster.settle()
    cluster.run(20)


def order(cluster: Cluster, node: Node, text: str) -> None:
    node.submit(cluster.note(node.name, text))
    cluster.settle()
    cluster.run(20)


def test_a_new_epoch_starts_at_view_0_with_the_floor_there(cluster: Cluster) -> None:
    """`It takes effect at the next height; the new epoch starts at view 0 with the floor there.`"""
    nodes = running(cluster)
    cluster.isolate("m0")
    order(cluster, nodes[1], "a")
    cluster.run(5_000)
    assert nodes[1].replica.view == 1
    change(cluster, nodes[1], *REVERSED)
    for node in nodes[1:]:
        replica = node.replica
        assert (replica.members.epoch, replica.view, replica.coordinator) == (1, 0, "m3")
        assert node.sign_state.epoch == 1
    order(cluster, nodes[1], "b")
    assert nodes[3].signed(Phase.PROPOSE) == nodes[3].sign_state.propose.key  # type: ignore[union-attr]
    assert nodes[3].sign_state.propose.key.position == (0, nodes[3].replica.height)  # type: ignore[union-attr]


def test_old_members_learn_the_end(cluster: Cluster) -> None:
    """`Messages of an old epoch are answered with the last CC, so that old members learn the end.`"""
    nodes = running(cluster)
    cluster.isolate("m3")
    change(cluster, nodes[1], *REVERSED)
    node = nodes[1]
    node.take_sent()
    old: list[Message] = [
        SuspectMessage(cluster.suspect("m3", 0)),
        TimeoutMessage(cluster.report("m3", 0)),
        Heartbeat(0, 0, 0, 1, bytes(32), None),
    ]
    for message in old:
        node.receive("m3", message)
        assert CertificateMessage(node.replica.latest_certificate) in node.sent_of(CertificateMessage)  # type: ignore[arg-type]
        node.take_sent()
    cluster.heal()
    cluster.run(1_000)
    assert nodes[3].replica.members.epoch == 1
    order(cluster, nodes[3], "b")
    assert nodes[0].replica.height == 2


def test_statements_of_an_old_epoch_are_void(cluster: Cluster) -> None:
    nodes = running(cluster)
    change(cluster, nodes[1], *REVERSED)
    node = nodes[1]
    for name in ("m2", "m3"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0)))
        node.receive(name, TimeoutMessage(cluster.report(name, 0)))
    assert not node.replica.timed_out
    for name in ("m2", "m3"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0, epoch=1)))
    assert node.replica.timed_out


def test_commands_of_an_old_epoch_are_dropped(cluster: Cluster) -> None:
    """They name their epoch; the driver has them signed again."""
    nodes = running(cluster)
    cluster.isolate("m1")
    nodes[1].submit(cluster.note("m1", "a"))
    change(cluster, nodes[2], *REVERSED)
    assert nodes[1].replica.pending_count == 1
    nodes[1].fetch(nodes[2])
    assert nodes[1].replica.pending_count == 0


def test_a_crash_between_the_block_and_the_new_state(cluster: Cluster) -> None:
    nodes = running(cluster)
    old = nodes[2].sign_state
    change(cluster, nodes[1], *REVERSED)
    nodes[2].disk.sign_state = old
    nodes[2].restart()
    assert nodes[2].disk.sign_state == SignState(1)
    order(cluster, nodes[1], "a")
    assert nodes[2].signed(Phase.COMMIT) is not None


def test_a_backup_from_before_an_epoch_is_noticed(cluster: Cluster) -> None:
    """What it signed in the new epoch is shown to it while its record still knows the old one."""
    nodes = running(cluster)
    backup = nodes[2].disk.snapshot()
    change(cluster, nodes[1], *REVERSED)
    order(cluster, nodes[1], "a")
    node = nodes[2]
    signed = node.sign_state.commit
    assert signed is not None
    node.disk.roll_back(backup, blocks_too=True)
    node.restart(trusted=False)
    for name in ("m0", "m1", "m3"):
        cluster.nodes[name].carry_out(cluster.nodes[name].replica.greet("m2", cluster.now_ms))
    cluster.deliver()
    node.fetch(nodes[0])
    assert node.replica.members.epoch == 1
    assert node.replica.muted
    cluster.run(2_000)
    assert {item.replica.members.epoch for item in nodes} == {2}
    assert node.replica.muted == ""


def test_a_record_from_before_an_epoch_makes_no_room_for_a_second_statement(cluster: Cluster) -> None:
    """The journal is whole and of the new epoch; the record has to be fetched again."""
    nodes = running(cluster)
    change(cluster, nodes[1], *REVERSED)
    order(cluster, nodes[1], "a")
    node = nodes[2]
    state = node.sign_state
    assert state.commit is not None
    node.disk.blocks.clear()
    node.restart()
    assert "below what this member has signed in epoch 1" in node.replica.muted
    for name in ("m0", "m1"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0)))
    assert not node.replica.timed_out
    node.fetch(nodes[0])
    assert node.sign_state == state
    assert node.replica.muted == ""


def test_a_member_that_is_removed_falls_silent(cluster: Cluster) -> None:
    nodes = running(cluster)
    change(cluster, nodes[1], "m0", "m1", "m2")
    assert "m3 is not a member in epoch 1" in nodes[3].replica.muted
    order(cluster, nodes[1], "a")
    cluster.run(1_000)
    assert [node.replica.height for node in nodes[:3]] == [2, 2, 2]
    assert nodes[3].signed(Phase.PREPARE) is None


@pytest.mark.parametrize("behind", [False, True])
def test_a_new_member_may_speak_soon(cluster: Cluster, behind: bool) -> None:
    """Nobody greeted it as a member before: it is told that nothing of its own is known."""
    nodes = running(cluster)
    newcomer = Node(cluster, "m4")
    cluster.nodes["m4"] = newcomer
    newcomer.start(trusted=False)
    cluster.settle()
    if behind:
        cluster.cut |= {(name, "m4") for name in cluster.members.ids}
    change(cluster, nodes[1], "m0", "m1", "m2", "m3", "m4")
    if behind:
        cluster.cut.clear()
        for node in nodes:
            node.carry_out(node.replica.greet("m4", cluster.now_ms))
    cluster.run(1_000)
    assert newcomer.replica.members.epoch == 1
    assert newcomer.replica.muted == ""
    order(cluster, newcomer, "a")
    assert newcomer.signed(Phase.PREPARE) is not None


def test_witnesses_from_an_epoch_to_come_count_when_it_has(cluster: Cluster) -> None:
    """A newcomer that is epochs behind knows none of the members of now. They tell it once, when it connects,
    what is known of its own; it may speak when it has caught up."""
    cluster = Cluster(4, spares=3)
    nodes = running(cluster)
    newcomer = Node(cluster, "m6")
    newcomer.start(trusted=False)
    change(cluster, nodes[1], "m1", "m4", "m5", "m6")
    for stranger in ("m4", "m5"):
        assert stranger not in newcomer.replica.members
        newcomer.receive(stranger, Witness())
    assert "is not a member in epoch 0" in newcomer.replica.muted
    newcomer.fetch(nodes[1])
    assert newcomer.replica.members.epoch == 1
    assert newcomer.replica.muted == ""


def test_witnesses_that_are_members_no_more_do_not_count(cluster: Cluster) -> None:
    cluster = Cluster(4, spares=3)
    nodes = running(cluster)
    newcomer = Node(cluster, "m6")
    newcomer.start(trusted=False)
    change(cluster, nodes[1], "m1", "m4", "m5", "m6")
    for witness in ("m0", "m2", "m3", "m4"):
        newcomer.receive(witness, Witness())
    newcomer.fetch(nodes[1])
    assert "waiting to hear from 2 other members" in newcomer.replica.muted
    newcomer.receive("m5", Witness())
    assert newcomer.replica.muted == ""


def test_strangers_fill_no_memory(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.ordering.replica.MAX_WITNESSES", 3)
    (node,) = cluster.boot("m1")
    for number in range(20):
        node.receive(f"stranger-{number}", Witness())
    assert len(node.replica._witnesses) <= 4
    node.receive("m2", Witness())
    assert "m2" in node.replica._witnesses


def test_witnesses_of_newcomers_go_to_newcomers_only(cluster: Cluster) -> None:
    nodes = running(cluster)
    nodes[1].take_sent()
    change(cluster, nodes[1], "m4", "m0", "m1", "m2", "m3")
    assert [to for to, message in nodes[1].sent if isinstance(message, Witness)] == ["m4"]


def test_the_block_that_ends_an_epoch_may_do_so_in_a_later_view(cluster: Cluster) -> None:
    """It leaves view 0 on record, which is that of the next epoch; the view itself was recorded before."""
    (node,) = cluster.boot("m1")
    certificate = cluster.timeout_certificate(1, signers=QUORUM)
    opening = cluster.new_view("m2", certificate)
    node.receive("m2", opening)
    first = cluster.block(node, node.application.view_command(opening.statement))
    ending = cluster.block(node, cluster.change_members("m2", REVERSED))
    node.offer("m2", cluster.proposal("m2", ending, view=2))
    assert not acknowledged(node, ending, 2), "the first block of a view records the view"
    proof = cluster.certificate(Phase.COMMIT, first, QUORUM, view=2)
    node.carry_out(node.replica.receive_committed("m2", first, proof))
    cluster.now_ms += 10
    ending = cluster.block(node, cluster.change_members("m2", REVERSED))
    node.receive("m2", cluster.proposal("m2", ending, view=2))
    assert acknowledged(node, ending, 2)


def test_a_due_block_is_not_held_against_the_first_coordinator_of_an_epoch(cluster: Cluster) -> None:
    """All timers start with the epoch, also for what was due long before."""
    nodes = running(cluster)
    order(cluster, nodes[1], "a")
    nodes[1].submit(cluster.open("m1", "b", window_ms=100))
    cluster.settle()
    cluster.run(20)
    node = nodes[1]
    block = cluster.block(node, cluster.change_members("m1", REVERSED))
    stuck = Block(block.header, block.commands)
    cluster.isolate("m1")
    cluster.now_ms += 60_000
    proof = cluster.certificate(Phase.COMMIT, stuck, QUORUM)
    node.tick()
    node.carry_out(node.replica.receive_committed("m0", stuck, proof))
    assert node.replica.members.epoch == 1
    assert node.replica.suspected == ""
    node.tick()
    assert node.replica.suspected == ""


def test_a_certificate_of_a_later_epoch_says_only_where_to_fetch(cluster: Cluster) -> None:
    """Its members are not known yet, so that it proves nothing here."""
    (node,) = cluster.boot("m1")
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    for phase in (Phase.PREPARE, Phase.COMMIT):
        certificate = cluster.certificate(phase, (5, bytes(32)), QUORUM, view=3, epoch=1)
        node.receive("m3", CertificateMessage(certificate))
    assert [(item.peer, item.height) for item in node.behind] == [("m3", 5), ("m3", 5)]
    assert (node.replica.view, node.replica.height) == (0, 0)


def test_a_late_command_of_the_coordinator_is_no_reason(cluster: Cluster) -> None:
    """A command for the old epoch that is passed on late is refused, and does no harm."""
    nodes = running(cluster)
    application = nodes[1].application
    command = application.rejoin_command("m1", b"\x01" * 32, cluster.keys["m1"].sign)
    change(cluster, nodes[1], *REVERSED)
    nodes[2].offer("m1", CommandMessage(command, overdue=True))
    assert nodes[2].replica.pending_count == 0
