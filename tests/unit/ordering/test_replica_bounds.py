"""What a member can make a replica remember, and what becomes of an input that fails half of the way."""

from __future__ import annotations

from itertools import count

import pytest
from tests.support.ordering_follower import QUORUM, good_block
from tests.support.ordering_toy import Cluster, Node

from replication.errors import PeerError
from replication.ordering import limits
from replication.ordering import pool as pool_module
from replication.ordering.core import BlockRefusedError
from replication.ordering.messages import (
    Acknowledgement,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    CommandMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.statements import Phase


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(4)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    (node,) = cluster.boot("m1")
    return node


def size(thing: object, seen: set[int] | None = None) -> int:
    """How many objects of ours, and containers, hang on something."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, bytes | str | int | float | type | None):
        return 0
    seen.add(id(thing))
    children: list[object] = []
    if isinstance(thing, dict):
        children = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        children = list(thing)
    elif type(thing).__module__.startswith(("replication.ordering", "collections")):
        children = [getattr(thing, name) for name in _fields(thing) if hasattr(thing, name)]
    return 1 + sum(size(child, seen) for child in children)


def _fields(thing: object) -> list[str]:
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(thing, "__dict__", {}), *slots]


def statements_of_views_to_come(cluster: Cluster, node: Node, number: int) -> None:
    block = good_block(cluster, node, "same")
    for phase in (Phase.PREPARE, Phase.COMMIT):
        node.offer("m3", Acknowledgement(cluster.statement(phase, "m3", block, view=number)))
    node.offer("m3", SuspectMessage(cluster.suspect("m3", number)))
    node.offer("m3", TimeoutMessage(cluster.report("m3", number)))
    node.offer("m3", cluster.proposal("m3", block, view=4 * number + 3))


def other_blocks(cluster: Cluster, node: Node, number: int) -> None:
    """A faulty coordinator shows one block after the other; bodies that nobody asked for."""
    block = good_block(cluster, node, str(number))
    node.offer("m0", cluster.proposal("m0", block))
    node.offer("m3", BodyMessage(block))
    node.offer("m3", BodyRequest(block.hash))
    for phase in (Phase.PREPARE, Phase.COMMIT):
        node.offer("m3", Acknowledgement(cluster.statement(phase, "m3", block)))


def bad_blocks(cluster: Cluster, node: Node, number: int) -> None:
    block = cluster.block(node, cluster.note("m2", str(number)), audit_size=9_999)
    with pytest.raises(BlockRefusedError):
        node.receive("m0", cluster.proposal("m0", block))


def blocks_far_ahead(cluster: Cluster, node: Node, number: int) -> None:
    block = cluster.block(node, cluster.note("m2", "a"), height=number + 3)
    parent = cluster.certificate(Phase.COMMIT, (number + 2, bytes(32)), QUORUM)
    node.offer("m0", cluster.proposal("m0", block, parent=parent))
    node.behind.clear()


def locks_without_bodies(cluster: Cluster, node: Node, number: int) -> None:
    lock = cluster.certificate(Phase.PREPARE, (1, number.to_bytes(32, "big")), QUORUM)
    node.offer("m0", CertificateMessage(lock))


@pytest.mark.parametrize(
    "flood",
    [statements_of_views_to_come, other_blocks, bad_blocks, blocks_far_ahead, locks_without_bodies],
)
def test_a_flood_of_one_member_fills_nothing(cluster: Cluster, node: Node, flood: object) -> None:
    assert callable(flood)
    numbers = count(1)
    for _ in range(250):  # fills what is bounded
        flood(cluster, node, next(numbers))
    before = size(node.replica)
    for _ in range(250):
        flood(cluster, node, next(numbers))
    assert size(node.replica) <= before + 20


def test_a_flood_of_commands_fills_the_share_of_its_author(
    cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_PENDING_PER_MEMBER", 20)
    for number in range(50):
        node.offer("m3", CommandMessage(cluster.note("m3", str(number)), overdue=True))
    assert node.replica.pending_count == 20
    assert len(node.refused) == 30
    node.receive("m3", CommandMessage(cluster.note("m2", "a")))
    assert node.replica.pending_count == 21


def test_bodies_of_one_height_are_bounded(cluster: Cluster, node: Node) -> None:
    """Each view may bring another block, and views may change for long before one gets through. What the
    member is locked on stays."""
    locked = good_block(cluster, node, "locked")
    node.receive("m0", cluster.proposal("m0", locked))
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, locked, QUORUM)))
    for view in range(2, 4 * limits.MAX_BODIES, 4):
        closing = cluster.timeout_certificate(view - 1, signers=QUORUM)
        node.receive("m2", TimeoutCertificateMessage(closing))
        opening = cluster.new_view("m2", closing).statement
        block = cluster.block(node, node.application.view_command(opening))
        node.receive("m2", cluster.proposal("m2", block, view=view))
        assert node.signed(Phase.PREPARE) == cluster.statement(Phase.PREPARE, "m1", block, view=view).key
        cluster.now_ms += 1
    assert len(node.replica._bodies) <= limits.MAX_BODIES
    assert {locked.hash, block.hash} <= set(node.replica._bodies)
    assert len(node.replica._executions) <= 1


# Inputs that fail half of the way.


def test_what_was_right_in_a_refused_message_is_not_lost(cluster: Cluster, node: Node) -> None:
    """The second of two blocks is refused; what it proves against its coordinator goes out with the next
    input."""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", cluster.proposal("m0", block))
    with pytest.raises(PeerError):
        node.replica.receive("m0", cluster.proposal("m0", other), cluster.now_ms)
    effects = node.replica.tick(cluster.now_ms)
    shown = [item.message for item in effects.send if isinstance(item.message, CommandMessage)]
    assert len(shown) == 1
    assert shown[0].command.startswith(b"evidence|m0|")


def test_a_block_that_came_with_a_bad_message_is_not_lost(cluster: Cluster, node: Node) -> None:
    """Its certificate comes with a proposal that turns out to be bad when its turn comes."""
    first = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", first))
    parent = cluster.certificate(Phase.COMMIT, first, QUORUM)
    bad = cluster.block(node, cluster.note("m2", "b"), height=2, parent=first.hash, audit_size=9_999)
    effects = node.replica.receive("m0", cluster.proposal("m0", bad, parent=parent), cluster.now_ms)
    node.carry_out(effects)
    assert [applied.block for applied in effects.committed] == [first]
    with pytest.raises(BlockRefusedError):
        node.replica.tick(cluster.now_ms)
    node.tick()
    assert node.replica.height == 1
    assert node.disk.height == 1


def test_a_timeout_whose_lock_is_bad_is_dropped_alone(cluster: Cluster, node: Node) -> None:
    """`A TIMEOUT is checked alone on receipt; a bad one is dropped alone.`"""
    block = good_block(cluster, node)
    bad = cluster.certificate(Phase.PREPARE, block, ("m0", "m2"))
    with pytest.raises(PeerError):
        node.receive("m3", TimeoutMessage(cluster.report("m3", 0, lock=bad)))
    for name in ("m0", "m2"):
        node.receive(name, TimeoutMessage(cluster.report(name, 0)))
    assert node.replica.view == 1
