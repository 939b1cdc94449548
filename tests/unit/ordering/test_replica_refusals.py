"""Blocks that a replica does not acknowledge, one rule of the protocol a row.

m1 of four follows; m0 coordinates view 0. Each row is a message that differs from a good one in one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.ordering_follower import QUORUM, acknowledged, commit, enter_view_2, good_block
from tests.support.ordering_toy import Cluster, Node

from replication.ordering import limits
from replication.ordering.blocks import Block, commands_root
from replication.ordering.core import BlockRefusedError
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    CommandMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
)
from replication.ordering.statements import Phase


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(4, spares=1)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    (node,) = cluster.boot("m1")
    return node


# The good case, without which the others prove nothing.


def test_a_good_block_is_acknowledged(cluster: Cluster, node: Node) -> None:
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    assert acknowledged(node, block)
    assert node.sent == [("m0", Acknowledgement(cluster.statement(Phase.PREPARE, "m1", block)))]


# Blocks.

Offer = Callable[[Cluster, Node], BlockProposal]


def with_block(make: Callable[[Cluster, Node], Block]) -> Offer:
    return lambda cluster, node: cluster.proposal("m0", make(cluster, node))


def changed(**changes: Any) -> Offer:
    return with_block(
        lambda c, n: Block(replace(good_block(c, n).header, **changes), good_block(c, n).commands)
    )


def at_time(offset_ms: int) -> Offer:
    return with_block(lambda c, n: c.block(n, c.note("m2", "a"), time_ms=c.now_ms + offset_ms))


def with_commands(*commands: bytes) -> Offer:
    """A block whose header is honest about commands that are not acceptable."""

    def make(cluster: Cluster, node: Node) -> Block:
        return Block(
            replace(good_block(cluster, node).header, commands_root=commands_root(commands)), commands
        )

    return with_block(make)


def resigned(phase: Phase, signer: str, view: int = 0, epoch: int = 0) -> Offer:
    def make(cluster: Cluster, node: Node) -> BlockProposal:
        block = good_block(cluster, node)
        return replace(
            cluster.proposal("m0", block), statement=cluster.statement(phase, signer, block, view, epoch)
        )

    return make


BLOCKS: dict[str, tuple[Offer, str]] = {
    "parent is not the last block": (changed(parent=b"\x07" * 32), "does not name block 0 as its parent"),
    "another cluster": (changed(cluster_id=bytes(32)), "belongs to another cluster or epoch"),
    "another epoch in the header": (changed(epoch=1), "belongs to another cluster or epoch"),
    "time before the parent's": (changed(time_ms=0), "outside"),
    "time too far ahead": (at_time(limits.MAX_CLOCK_AHEAD_MS + 1), "check the clocks"),
    "time too far behind": (at_time(-limits.MAX_BLOCK_AGE_MS - 1), "check the clocks"),
    "wrong audit head": (changed(audit_head=b"\x07" * 32), "claims another outcome"),
    "wrong audit size": (changed(audit_size=77), "claims another outcome"),
    "wrong entries root": (changed(entries_root=b"\x07" * 32), "claims another outcome"),
    "wrong commands root": (changed(commands_root=b"\x07" * 32), "does not hold the commands"),
    "a command left out": (
        with_block(
            lambda c, n: Block(c.block(n, c.note("m2", "a"), c.note("m2", "b")).header, (c.note("m2", "a"),))
        ),
        "does not hold the commands",
    ),
    "too many commands": (with_commands(*[b"x"] * (limits.MAX_BLOCK_COMMANDS + 1)), "4097 commands"),
    "too large": (with_commands(bytes(limits.MAX_BLOCK_BYTES + 1)), "larger than"),
    "a malformed command": (with_commands(b"nonsense"), "invalid command"),
    "an empty block with nothing due": (with_block(lambda c, n: c.block(n)), "empty and nothing was due"),
    "signed by another member": (resigned(Phase.PROPOSE, "m2"), "under a statement that"),
    "signed as a prepare": (resigned(Phase.PREPARE, "m0"), "under a statement that"),
    "statement of another block": (
        lambda c, n: replace(
            c.proposal("m0", good_block(c, n)),
            statement=c.statement(Phase.PROPOSE, "m0", good_block(c, n, "b")),
        ),
        "under a statement that",
    ),
    "bad signature": (
        lambda c, n: replace(
            c.proposal("m0", good_block(c, n)),
            statement=replace(c.statement(Phase.PROPOSE, "m0", good_block(c, n)), signature=bytes(64)),
        ),
        "does not verify",
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_are_refused(cluster: Cluster, node: Node, name: str) -> None:
    make, text = BLOCKS[name]
    before = node.sign_state
    with pytest.raises(BlockRefusedError, match=text):
        node.receive("m0", make(cluster, node))
    node.tick()
    assert node.sign_state is before, "nothing was promised"
    assert not node.sent_of(Acknowledgement)
    assert node.disk.bodies == {}


LIES = {name: row for name, row in BLOCKS.items() if "signature" not in name and "under a" not in row[1]}


@pytest.mark.parametrize("name", LIES)
def test_a_coordinator_that_signed_a_bad_block_is_suspected(cluster: Cluster, node: Node, name: str) -> None:
    """`SUSPECT when the coordinator provably lied`: there is no need to wait."""
    with pytest.raises(BlockRefusedError):
        node.receive("m0", LIES[name][0](cluster, node))
    cluster.now_ms += 1
    node.tick()
    assert len(node.sent_of(SuspectMessage)) == 1


def test_a_bad_signature_does_not_blame_the_coordinator(cluster: Cluster, node: Node) -> None:
    with pytest.raises(BlockRefusedError):
        node.receive("m0", BLOCKS["bad signature"][0](cluster, node))
    cluster.now_ms += 1
    node.tick()
    assert not node.sent_of(SuspectMessage)


def test_after_a_refusal_a_good_block_is_acknowledged_all_the_same(cluster: Cluster, node: Node) -> None:
    for name in ("wrong audit head", "a malformed command", "time too far ahead"):
        with pytest.raises(BlockRefusedError):
            node.receive("m0", BLOCKS[name][0](cluster, node))
    assert node.replica._executions == {}, "refused blocks leave nothing behind"
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    assert acknowledged(node, block)


@pytest.mark.parametrize("offset", [limits.MAX_CLOCK_AHEAD_MS, -limits.MAX_BLOCK_AGE_MS, 0, -1_000])
def test_block_times_within_the_bounds(cluster: Cluster, node: Node, offset: int) -> None:
    message = at_time(offset)(cluster, node)
    node.receive("m0", message)
    assert acknowledged(node, message.block)


def test_a_block_not_later_than_its_parent(cluster: Cluster, node: Node) -> None:
    parent = commit(cluster, node)
    block = cluster.block(node, cluster.note("m2", "a"), time_ms=parent.header.time_ms)
    with pytest.raises(BlockRefusedError, match="outside"):
        node.receive("m0", cluster.proposal("m0", block))


def test_a_duplicate_command_does_not_spoil_a_block(cluster: Cluster, node: Node) -> None:
    parent = commit(cluster, node)
    cluster.now_ms += 10
    block = cluster.block(node, *parent.commands, cluster.note("m2", "new"))
    node.receive("m0", cluster.proposal("m0", block))
    assert acknowledged(node, block)


def test_an_empty_block_when_a_window_closed(cluster: Cluster, node: Node) -> None:
    """`No empty blocks, except to close a window or to let a proposal expire.`"""
    opened = cluster.block(node, cluster.open("m2", "a", window_ms=100))
    certificate = cluster.certificate(Phase.COMMIT, opened, QUORUM)
    node.carry_out(node.replica.receive_committed("m0", opened, certificate))
    cluster.now_ms += 100
    with pytest.raises(BlockRefusedError, match="empty and nothing was due"):
        node.receive("m0", cluster.proposal("m0", cluster.block(node)))
    cluster.now_ms += 1
    block = cluster.block(node)
    node.receive("m0", cluster.proposal("m0", block))
    assert acknowledged(node, block)


# Who sends it, in which view, at which height.


@pytest.mark.parametrize("sender", ["m2", "m3"])
def test_only_the_coordinator_proposes(cluster: Cluster, node: Node, sender: str) -> None:
    block = good_block(cluster, node)
    for message in (cluster.proposal("m0", block), cluster.proposal(sender, block)):
        with pytest.raises(BlockRefusedError, match="coordinator of 0"):
            node.receive(sender, message)


def test_a_block_of_a_view_to_come_moves_nobody(cluster: Cluster, node: Node) -> None:
    block = good_block(cluster, node)
    node.receive("m2", cluster.proposal("m2", block, view=2))
    assert node.replica.view == 0
    assert not acknowledged(node, block, 2)


def test_a_block_of_a_view_that_is_over_is_answered_with_the_way_out(cluster: Cluster, node: Node) -> None:
    """`A message of an older view is answered with one's newest TC or CC.`"""
    enter_view_2(cluster, node)
    node.take_sent()
    node.receive("m0", cluster.proposal("m0", good_block(cluster, node)))
    ((to, message),) = node.take_sent()
    assert to == "m0"
    assert isinstance(message, TimeoutCertificateMessage)
    assert message.certificate.view == 1


def test_a_block_that_is_committed_is_answered_with_its_certificate(cluster: Cluster, node: Node) -> None:
    block = commit(cluster, node)
    node.take_sent()
    node.receive("m0", cluster.proposal("m0", block))
    assert node.take_sent() == [("m0", CertificateMessage(cluster.certificate(Phase.COMMIT, block, QUORUM)))]


def test_a_block_of_an_old_epoch_is_answered_too(cluster: Cluster, node: Node) -> None:
    block = cluster.block(node, cluster.change_members("m2", ("m3", "m2", "m1", "m0")))
    certificate = cluster.certificate(Phase.COMMIT, block, QUORUM)
    node.carry_out(node.replica.receive_committed("m0", block, certificate))
    node.take_sent()
    node.receive("m0", cluster.proposal("m0", cluster.block(node, cluster.note("m2", "a"), epoch=0)))
    assert node.take_sent() == [("m0", CertificateMessage(certificate))]


def test_a_block_two_heights_up_waits_for_its_parent(cluster: Cluster, node: Node) -> None:
    """`Behind: catch up.` The parent's certificate is proof of what to fetch."""
    (ahead,) = cluster.boot("m3")
    first = commit(cluster, ahead)
    second = good_block(cluster, ahead, "second")
    parent = cluster.certificate(Phase.COMMIT, first, QUORUM)
    node.receive("m0", cluster.proposal("m0", second, parent=parent))
    assert [(item.peer, item.height) for item in node.behind] == [("m0", 1)]
    assert node.signed(Phase.PREPARE) is None
    node.fetch(ahead)
    assert node.signed(Phase.PREPARE) is None, "executing on top needs the parent on disk first"
    node.tick()
    assert acknowledged(node, second)


def test_a_block_two_heights_up_without_proof_is_nothing(cluster: Cluster, node: Node) -> None:
    (ahead,) = cluster.boot("m3")
    first = commit(cluster, ahead)
    second = good_block(cluster, ahead, "second")
    node.receive("m0", cluster.proposal("m0", second))
    lower = cluster.certificate(Phase.COMMIT, (2, first.hash), QUORUM)
    node.receive("m0", cluster.proposal("m0", second, parent=lower))
    assert (node.behind, node.take_sent()) == ([], [])


# One block at a position.


def test_the_same_block_again_gets_the_same_signature_again(cluster: Cluster, node: Node) -> None:
    message = cluster.proposal("m0", good_block(cluster, node))
    node.receive("m0", message)
    first = node.take_sent()
    state = node.sign_state
    node.receive("m0", message)
    assert node.take_sent() == first
    assert node.sign_state is state


def test_another_block_at_the_same_position_is_evidence(cluster: Cluster, node: Node) -> None:
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", cluster.proposal("m0", block))
    with pytest.raises(BlockRefusedError, match="another block 1 in view 0"):
        node.receive("m0", cluster.proposal("m0", other))
    cluster.now_ms += 1
    node.tick()
    assert acknowledged(node, block)
    (command,) = [message.command for message in node.sent_of(CommandMessage)]
    assert command.startswith(b"evidence|m0|")
    assert len(node.sent_of(SuspectMessage)) == 1, "a proven liar is suspected at once"


def test_a_block_is_not_acknowledged_below_the_last_one(cluster: Cluster, node: Node) -> None:
    """`(v,h) must exceed its last PREPARE`, also after a restart that forgot the rest."""
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    node.disk.bodies.clear()
    node.restart()
    node.receive("m0", cluster.proposal("m0", good_block(cluster, node, "b")))
    assert acknowledged(node, block)


# The floor of a view.


def test_a_view_with_a_lock_carries_on_with_that_block(cluster: Cluster, node: Node) -> None:
    """`If h-1 = c* and the TC has a lock, the hash is hash*.`"""
    locked, other = good_block(cluster, node), good_block(cluster, node, "b")
    enter_view_2(cluster, node, cluster.certificate(Phase.PREPARE, locked, QUORUM))
    with pytest.raises(BlockRefusedError, match="not what view 2 must carry on with"):
        node.receive("m2", cluster.proposal("m2", other, view=2))
    node.receive("m2", cluster.proposal("m2", locked, view=2))
    assert acknowledged(node, locked, view=2)


def test_a_locked_block_may_be_old_and_need_not_record_the_view(cluster: Cluster, node: Node) -> None:
    """It was checked when it was new, by a commit quorum; an outage may have been long."""
    locked = good_block(cluster, node)
    cluster.now_ms += 10 * limits.MAX_BLOCK_AGE_MS
    enter_view_2(cluster, node, cluster.certificate(Phase.PREPARE, locked, QUORUM))
    node.receive("m2", cluster.proposal("m2", locked, view=2))
    assert acknowledged(node, locked, view=2)


def test_a_locked_block_must_still_be_what_it_claims(cluster: Cluster, node: Node) -> None:
    """Only time and content were judged before; an outcome is always compared."""
    locked = cluster.block(node, cluster.note("m2", "a"), audit_size=77)
    enter_view_2(cluster, node, cluster.certificate(Phase.PREPARE, locked, QUORUM))
    with pytest.raises(BlockRefusedError, match="claims another outcome"):
        node.receive("m2", cluster.proposal("m2", locked, view=2))


def test_the_first_new_block_of_a_view_records_it(cluster: Cluster, node: Node) -> None:
    """`The first block of a new view carries a command that records the new coordinator.`"""
    certificate = cluster.timeout_certificate(1, signers=QUORUM)
    node.receive("m2", TimeoutCertificateMessage(certificate))
    opening = cluster.new_view("m2", certificate)
    node.receive("m2", opening)
    with pytest.raises(BlockRefusedError, match="leaves view 0 on record in view 2"):
        node.receive("m2", cluster.proposal("m2", good_block(cluster, node), view=2))
    wrong = cluster.new_view("m0", cluster.timeout_certificate(3, signers=QUORUM))
    for message in (wrong, opening):
        command = node.application.view_command(message.statement)
        block = cluster.block(node, command)
        if message is wrong:
            with pytest.raises(BlockRefusedError, match="leaves view 4 on record in view 2"):
                node.receive("m2", cluster.proposal("m2", block, view=2))
        else:
            node.receive("m2", cluster.proposal("m2", block, view=2))
            assert acknowledged(node, block, view=2)
