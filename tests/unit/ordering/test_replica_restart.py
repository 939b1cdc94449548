"""Restarts: at every point of a write, with a disk that is whole, wiped, or older than what was signed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.ordering_follower import QUORUM, acknowledged, enter_view_2, good_block
from tests.support.ordering_toy import Cluster, Node

from replication.errors import PeerError
from replication.ordering.effects import ApplyBlock, KeepCommand, SaveBody, SaveSignState
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    CertificateMessage,
    CommandMessage,
    NewViewMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(4)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    (node,) = cluster.boot("m1")
    return node


def running(cluster: Cluster) -> list[Node]:
    nodes = cluster.boot()
    cluster.settle()
    return nodes


def order(cluster: Cluster, node: Node, *texts: str) -> None:
    """Have notes ordered, one block each."""
    for text in texts:
        node.submit(cluster.note(node.name, text))
        cluster.settle()
        cluster.run(20)


# The order of what is made durable.


def test_the_body_is_kept_before_the_promise_and_both_before_the_message(
    cluster: Cluster, node: Node
) -> None:
    """`Persist body and statement, then send PREPARE to the coordinator.`"""
    block = good_block(cluster, node)
    effects = node.replica.receive("m0", cluster.proposal("m0", block), cluster.now_ms)
    body, state = effects.persist
    assert body == SaveBody(block)
    assert isinstance(state, SaveSignState)
    assert state.state.prepare == effects.send[0].message.statement  # type: ignore[union-attr]


def test_lock_and_commit_are_one_state(cluster: Cluster, node: Node) -> None:
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    certificate = cluster.certificate(Phase.PREPARE, block, QUORUM)
    effects = node.replica.receive("m0", CertificateMessage(certificate), cluster.now_ms)
    (state,) = effects.persist
    assert isinstance(state, SaveSignState)
    assert state.state.lock == certificate
    assert state.state.commit is not None


def test_a_block_is_applied_before_a_state_that_rests_on_it(cluster: Cluster, node: Node) -> None:
    """One timeout certificate brings the commit certificate of the block at hand, and opens a view."""
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    committed = cluster.certificate(Phase.COMMIT, block, QUORUM)
    report = cluster.report("m2", 0, committed)
    message = TimeoutCertificateMessage(cluster.timeout_certificate(0, report, signers=("m0", "m3")))
    effects = node.replica.receive("m2", message, cluster.now_ms)
    applied, state = effects.persist
    assert isinstance(applied, ApplyBlock)
    assert isinstance(state, SaveSignState)
    assert state.state.opened == message.certificate


def test_a_command_that_is_to_be_kept_is_on_disk_before_it_is_shown(cluster: Cluster, node: Node) -> None:
    command = cluster.open("m1", "a")
    effects = node.replica.submit(command, cluster.now_ms)
    assert effects.persist == [KeepCommand(command)]
    assert effects.send[0].message == CommandMessage(command)


# A whole disk.


def test_a_restarted_member_sends_its_stored_statements_again(cluster: Cluster, node: Node) -> None:
    """`It never computes a second one for the same (view, height).`"""
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM)))
    state = node.sign_state
    node.take_sent()
    node.restart()
    assert node.sign_state == state
    assert node.take_sent() == [
        ("m0", Acknowledgement(cluster.statement(Phase.PREPARE, "m1", block))),
        ("m0", Acknowledgement(cluster.statement(Phase.COMMIT, "m1", block))),
    ]


def test_what_was_locked_by_certificate_alone_is_taken_up_too(cluster: Cluster, node: Node) -> None:
    """The COMMIT is the newest promise; it prepared another block, or none."""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", cluster.proposal("m0", other))
    node.offer("m0", cluster.proposal("m0", block))
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM)))
    node.receive("m0", BodyMessage(block))
    node.take_sent()
    node.restart()
    assert node.take_sent() == [("m0", Acknowledgement(cluster.statement(Phase.COMMIT, "m1", block)))]
    with pytest.raises(PeerError, match="another block"):
        node.receive("m0", cluster.proposal("m0", other))


def test_a_lock_survives_restarts_and_views(cluster: Cluster, node: Node) -> None:
    """`Clear per-view collections (never the lock).` A lock forgotten on the way forks three views later."""
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    certificate = cluster.certificate(Phase.PREPARE, block, QUORUM)
    node.receive("m0", CertificateMessage(certificate))
    enter_view_2(cluster, node)
    node.restart()
    enter_view_2(cluster, node)
    for name in ("m0", "m3"):
        node.receive(name, TimeoutMessage(cluster.report(name, 2)))
    report = node.sent_of(TimeoutMessage)[-1].report
    assert report == cluster.report("m1", 2, lock=certificate)


def test_a_timeout_is_never_forgotten(cluster: Cluster, node: Node) -> None:
    for name in ("m2", "m3"):
        node.receive(name, TimeoutMessage(cluster.report(name, 0)))
    assert node.replica.view == 1
    node.restart()
    assert node.replica.view == 1
    node.receive("m0", cluster.proposal("m0", good_block(cluster, node)))
    assert node.signed(Phase.PREPARE) is None


def test_the_stored_timeout_is_repeated(cluster: Cluster, node: Node) -> None:
    node.receive("m2", TimeoutMessage(cluster.report("m2", 0)))
    node.receive("m3", TimeoutMessage(cluster.report("m3", 5)))
    assert node.replica.timed_out
    node.restart()
    assert node.replica.timed_out
    node.take_sent()
    node.tick()
    assert node.sent_of(TimeoutMessage) == [TimeoutMessage(cluster.report("m1", 0))]


def test_the_view_and_its_floor_are_rebuilt(cluster: Cluster, node: Node) -> None:
    locked = good_block(cluster, node)
    enter_view_2(cluster, node, cluster.certificate(Phase.PREPARE, locked, QUORUM))
    node.restart()
    assert node.replica.view == 2
    with pytest.raises(PeerError, match="must carry on with"):
        node.receive("m2", cluster.proposal("m2", good_block(cluster, node, "b"), view=2))
    node.receive("m2", cluster.proposal("m2", locked, view=2))
    assert acknowledged(node, locked, 2)


def test_a_view_entered_by_certificate_goes_on_after_a_restart(cluster: Cluster, node: Node) -> None:
    """Nothing but the member's own COMMIT says what the floor was. The next block must find it willing."""
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    node.receive("m3", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM, view=2)))
    node.restart()
    node.receive("m2", CertificateMessage(cluster.certificate(Phase.COMMIT, block, QUORUM, view=2)))
    cluster.now_ms += 10
    opening = cluster.new_view("m2", cluster.timeout_certificate(1, signers=QUORUM)).statement
    following = cluster.block(node, node.application.view_command(opening))
    node.receive("m2", cluster.proposal("m2", following, view=2))
    assert acknowledged(node, following, 2)


def test_kept_commands_are_sent_again(cluster: Cluster, node: Node) -> None:
    command = cluster.open("m1", "a")
    node.submit(command)
    node.restart()
    assert node.replica.pending_count == 1
    node.take_sent()
    for _ in range(6):
        cluster.now_ms += 200
        node.tick()
    assert CommandMessage(command) in node.sent_of(CommandMessage)


def test_the_only_member_of_a_cluster_restarts_at_every_point(cluster: Cluster) -> None:
    cluster = Cluster(1)
    (node,) = cluster.boot()
    node.submit(cluster.note("m0", "a"))
    effects = node.replica.tick(cluster.now_ms)
    kinds = [type(item) for item in effects.persist]
    assert kinds == [SaveBody, SaveSignState, ApplyBlock]
    for kept in range(len(kinds) + 1):
        survivor = Node(cluster, "m0")
        survivor.disk.write(effects.persist[:kept])
        survivor.restart()
        survivor.submit(cluster.note("m0", "b"))
        survivor.tick()
        assert survivor.replica.height == (1 if kept < 2 else 2)


def test_the_only_member_whose_last_block_is_gone_goes_on(cluster: Cluster) -> None:
    """The record lost its last block, not the journal: it is made again from the stored statements."""
    cluster = Cluster(1)
    (node,) = cluster.boot()
    node.submit(cluster.note("m0", "a"))
    node.tick()
    block, _ = node.disk.blocks.pop()
    node.disk.bodies[block.hash] = block
    node.restart()
    assert node.replica.head == block.header


# A coordinator that restarts within its view.


def coordinate(cluster: Cluster) -> tuple[Node, BlockProposal]:
    (node,) = cluster.boot("m0")
    node.submit(cluster.note("m0", "a"))
    node.tick()
    (proposal,) = node.sent_of(BlockProposal)
    return node, proposal


def test_a_coordinator_never_equivocates_over_a_restart(cluster: Cluster) -> None:
    node, proposal = coordinate(cluster)
    node.restart()
    cluster.now_ms += 1_000
    node.submit(cluster.note("m0", "b"))
    node.tick()
    assert set(map(id, (item.block for item in node.sent_of(BlockProposal)))) == {id(proposal.block)}
    assert {item.statement for item in node.sent_of(BlockProposal)} == {proposal.statement}


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_whatever_part_of_the_write_survived(cluster: Cluster, kept: int) -> None:
    """A proposal that was not durable was not sent either, so that another one is no equivocation."""
    (node,) = cluster.boot("m0")
    node.submit(cluster.note("m0", "a"))
    effects = node.replica.tick(cluster.now_ms)
    assert [type(item) for item in effects.persist] == [SaveBody, SaveSignState]
    node.disk.write(effects.persist[:kept])
    node.restart()
    cluster.now_ms += 10
    node.submit(cluster.note("m0", "b"))
    node.tick()
    proposed = {item.block.commands for item in node.sent_of(BlockProposal)}
    assert proposed == {(cluster.note("m0", "a"),) if kept == 2 else (cluster.note("m0", "b"),)}


def test_prepares_that_arrive_before_the_witnesses_are_not_lost(cluster: Cluster) -> None:
    """The certificate is formed once; the coordinator's own COMMIT follows when it may speak."""
    node, proposal = coordinate(cluster)
    node.restart(trusted=False)
    for name in ("m1", "m2"):
        node.receive(name, Acknowledgement(cluster.statement(Phase.PREPARE, name, proposal.block)))
    node.tick()
    assert node.signed(Phase.COMMIT) is None
    for name in ("m1", "m2"):
        node.receive(name, Witness())
    node.tick()
    assert node.signed(Phase.COMMIT) == cluster.statement(Phase.COMMIT, "m0", proposal.block).key


def carrying_coordinator(cluster: Cluster) -> tuple[Node, Any]:
    """m1 coordinates view 1 and has proposed the block that it must carry on with."""
    (node,) = cluster.boot("m1")
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    lock = cluster.certificate(Phase.PREPARE, block, QUORUM)
    report = cluster.report("m2", 0, lock=lock)
    certificate = cluster.timeout_certificate(0, report, signers=("m0", "m3"))
    node.receive("m2", TimeoutCertificateMessage(certificate))
    node.tick()
    assert node.signed(Phase.PROPOSE) == cluster.statement(Phase.PROPOSE, "m1", block, view=1).key
    return node, block


@pytest.mark.parametrize("restarts", [False, True])
def test_a_view_is_recorded_after_the_block_that_was_carried_on(cluster: Cluster, restarts: bool) -> None:
    node, block = carrying_coordinator(cluster)
    if restarts:
        node.restart()
        node.tick()
        assert node.sent_of(NewViewMessage)
    node.receive("m2", CertificateMessage(cluster.certificate(Phase.COMMIT, block, QUORUM, view=1)))
    node.take_sent()
    node.tick()
    (proposal,) = node.sent_of(BlockProposal)
    assert proposal.block.commands[0].startswith(b"view|m1|0;1;")


# Asking what one has signed.


def test_a_restarted_member_signs_nothing_before_others_said_what_they_know(
    cluster: Cluster, node: Node
) -> None:
    node.restart(trusted=False)
    block = good_block(cluster, node)
    for sender, muted in ((None, True), ("m2", True), ("m2", True), ("m3", False)):
        if sender is not None:
            node.receive(sender, Witness())
        assert bool(node.replica.muted) is muted
        node.receive("m0", cluster.proposal("m0", block))
        assert acknowledged(node, block) is not muted


@pytest.mark.parametrize(("n", "needed"), [(1, 0), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_how_many_witnesses_it_takes(n: int, needed: int) -> None:
    """f + 1 of them hold an honest one, and no more than there are."""
    cluster = Cluster(n)
    node = Node(cluster, "m0")
    node.carry_out(node.replica.start(cluster.now_ms))
    for count, name in enumerate(cluster.members.ids[1:]):
        assert bool(node.replica.muted) is (count < needed)
        node.receive(name, Witness())
    assert not node.replica.muted


def test_members_tell_each_other_on_a_new_connection(cluster: Cluster) -> None:
    """`Lower than statements of its own that peers can show`: so they show the newest they know."""
    nodes = running(cluster)
    order(cluster, nodes[1], "a", "b")
    nodes[3].take_sent()
    nodes[3].carry_out(nodes[3].replica.greet("m0", cluster.now_ms))
    (witness,) = nodes[3].sent_of(Witness)
    newest = {item.key.phase: item.key.position for item in witness.statements}
    assert newest[Phase.COMMIT] == (0, 2)
    nodes[3].take_sent()
    nodes[3].carry_out(nodes[3].replica.greet("stranger", cluster.now_ms))
    assert nodes[3].take_sent() == []


def test_witnesses_remember_over_their_own_restart(cluster: Cluster) -> None:
    """All members restart, and one of them from a backup: the others' records show what it signed."""
    nodes = running(cluster)
    order(cluster, nodes[1], "a")
    backup = nodes[2].disk.snapshot()
    order(cluster, nodes[1], "b")
    nodes[2].disk.roll_back(backup, blocks_too=True)
    certificate = nodes[0].replica.latest_certificate
    assert certificate is not None
    assert "m2" in dict(certificate.signatures)
    cluster.links.clear()
    for node in nodes:
        node.restart(trusted=False)
    for node in nodes:
        for peer in cluster.members.ids:
            node.carry_out(node.replica.greet(peer, cluster.now_ms))
    cluster.deliver()
    assert "its own state does not know" in nodes[2].replica.muted
    assert [node.replica.muted for node in (nodes[0], nodes[1], nodes[3])] == [""] * 3


# A disk that is older than what was signed, or another one.


def test_a_sign_state_that_was_rolled_back_never_signs_again(cluster: Cluster, node: Node) -> None:
    """`Counts as faulty`: it follows, and asks to be let in under a fresh nonce."""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", cluster.proposal("m0", block))
    prepared = node.sign_state.prepare
    assert prepared is not None
    node.disk.sign_state = SignState()
    node.disk.bodies.clear()
    node.restart(trusted=False)
    node.receive("m2", Witness((prepared,)))
    node.receive("m3", Witness())
    node.receive("m0", cluster.proposal("m0", other))
    assert "was a backup restored?" in node.replica.muted
    assert not acknowledged(node, other)
    assert node.sign_state.nonce != b""
    (command,) = {item.command for item in node.sent_of(CommandMessage)}
    assert command.startswith(b"rejoin|m1|0;" + node.sign_state.nonce.hex().encode())


def test_a_rolled_back_timeout_is_noticed_too(cluster: Cluster, node: Node) -> None:
    node.restart(trusted=False)
    node.receive("m2", Witness((), cluster.timeout("m1", 3)))
    assert "was a backup restored?" in node.replica.muted


def test_witnesses_cannot_silence_a_member_that_remembers(cluster: Cluster, node: Node) -> None:
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    prepared = node.sign_state.prepare
    assert prepared is not None
    node.restart(trusted=False)
    forged = type(prepared)(cluster.statement(Phase.PREPARE, "m2", (9, bytes(32)), 9).key, "m1", bytes(64))
    foreign = cluster.statement(Phase.PREPARE, "m2", (9, bytes(32)), 9)
    earlier = cluster.statement(Phase.PREPARE, "m1", block, view=0)
    for name in ("m2", "m3"):
        node.receive(name, Witness((forged, foreign, earlier, prepared)))
    assert not node.replica.muted


def test_a_record_that_was_rolled_back_is_silent_until_it_has_caught_up(cluster: Cluster) -> None:
    """Its TIMEOUTs would report less than it has promised: a hidden lock, and evidence against an honest
    member."""
    nodes = running(cluster)
    order(cluster, nodes[1], "a", "b", "c")
    node = nodes[2]
    del node.disk.blocks[1:]
    node.restart()
    assert "ends at block 1, below what this member has signed" in node.replica.muted
    for name in ("m0", "m1"):
        node.receive(name, TimeoutMessage(cluster.report(name, 0)))
    assert not node.sent_of(TimeoutMessage)
    node.fetch(nodes[0])
    assert node.replica.muted == ""


def test_a_member_with_another_disk_waits_for_its_rejoin(cluster: Cluster) -> None:
    nodes = running(cluster)
    order(cluster, nodes[1], "a")
    node = nodes[2]
    node.disk.sign_state = SignState(0, b"\x05" * 32)
    node.restart()
    assert "waiting for its rejoin" in node.replica.muted
    cluster.settle()
    cluster.run(3_000)
    assert {item.replica.members.epoch for item in nodes} == {1}
    assert node.replica.muted == ""
    order(cluster, node, "b")
    assert node.signed(Phase.COMMIT) is not None
    assert node.sign_state.nonce == b"\x05" * 32


def test_a_backup_from_before_the_first_rejoin(cluster: Cluster) -> None:
    """The disk that was there at the beginning has no name to ask under: it takes a fresh one."""
    nodes = running(cluster)
    order(cluster, nodes[1], "a")
    node = nodes[2]
    oldest = node.disk.sign_state
    node.disk.sign_state = SignState(0, b"\x05" * 32)
    node.restart()
    cluster.settle()
    cluster.run(3_000)
    assert (node.replica.members.epoch, node.replica.muted) == (1, "")
    node.disk.sign_state = oldest
    node.restart()
    assert "waiting for its rejoin" in node.replica.muted
    assert len(node.sign_state.nonce) == 32
    assert node.sign_state.nonce != b"\x05" * 32


def test_a_wiped_member_keeps_one_nonce(cluster: Cluster) -> None:
    """What peers show it of its former disk is no news: it has asked already, under the nonce it has."""
    nodes = running(cluster)
    order(cluster, nodes[1], "a")
    former = nodes[2].sign_state.commit
    assert former is not None
    nodes[2].disk.sign_state = SignState(0, b"\x05" * 32)
    nodes[2].restart(trusted=False)
    nodes[2].receive("m3", Witness((former,)))
    assert nodes[2].sign_state.nonce == b"\x05" * 32
