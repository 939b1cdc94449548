"""Certificates, timeouts and passed-on statements that move nobody, and what is still done after a TIMEOUT.

m1 of four follows; m0 coordinates view 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.ordering_follower import QUORUM, commit, enter_view_2, good_block
from tests.support.ordering_toy import Cluster, Node

from replication.errors import PeerError
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.core import BlockRefusedError
from replication.ordering.messages import (
    Acknowledgement,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    Message,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.statements import Phase


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(4, spares=1)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    (node,) = cluster.boot("m1")
    return node


# Prepare and commit certificates.


def test_a_prepare_certificate_of_this_view_is_answered_with_commit(cluster: Cluster, node: Node) -> None:
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    certificate = cluster.certificate(Phase.PREPARE, block, QUORUM)
    node.receive("m0", CertificateMessage(certificate))
    assert node.signed(Phase.COMMIT) == replace(certificate.key, phase=Phase.COMMIT)
    assert node.sign_state.lock == certificate


def test_a_prepare_certificate_of_an_older_view_only_raises_the_lock(cluster: Cluster, node: Node) -> None:
    """`A PC of another view never triggers COMMIT; it may raise the lock if its view is higher.`"""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    enter_view_2(cluster, node)
    later = cluster.certificate(Phase.PREPARE, block, QUORUM, view=1)
    for certificate in (later, cluster.certificate(Phase.PREPARE, other, QUORUM, view=0)):
        node.receive("m0", CertificateMessage(certificate))
        assert node.sign_state.lock == later
    assert node.signed(Phase.COMMIT) is None


def test_a_lock_learnt_from_a_later_view_is_not_lowered_by_this_one(cluster: Cluster, node: Node) -> None:
    """m1 is in view 0 when it hears of a lock of view 3; then the certificate of view 0 arrives."""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", cluster.proposal("m0", block))
    later = cluster.certificate(Phase.PREPARE, other, QUORUM, view=3)
    node.receive("m2", TimeoutMessage(cluster.report("m2", 5, lock=later)))
    assert node.replica.view == 0
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM)))
    assert node.sign_state.lock == later


def test_a_certificate_of_a_later_view_is_proof_enough_to_enter_it(cluster: Cluster, node: Node) -> None:
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    node.receive("m3", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM, view=3)))
    assert node.replica.view == 3
    assert node.signed(Phase.COMMIT) == cluster.statement(Phase.COMMIT, "m1", block, view=3).key


def test_no_commit_without_the_body(cluster: Cluster, node: Node) -> None:
    """`The body at hand`: a locked block must never be nowhere. It is asked for, and then answered."""
    block = good_block(cluster, node)
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM)))
    assert node.signed(Phase.COMMIT) is None
    assert node.take_sent() == [("m0", BodyRequest(block.hash))]
    other = good_block(cluster, node, "b")
    node.receive("m0", BodyMessage(other))
    assert node.signed(Phase.COMMIT) is None
    node.receive("m3", BodyMessage(block))
    assert node.signed(Phase.COMMIT) == cluster.statement(Phase.COMMIT, "m1", block).key
    assert block.hash in node.disk.bodies


def test_locked_on_a_block_no_other_is_prepared_in_that_view(cluster: Cluster, node: Node) -> None:
    """An equivocating coordinator shows the certified block by its certificate, and another one later."""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM)))
    node.receive("m0", BodyMessage(block))
    with pytest.raises(BlockRefusedError, match="another block"):
        node.receive("m0", cluster.proposal("m0", other))
    assert node.signed(Phase.PREPARE) is None


def test_stuck_on_one_of_two_blocks_it_goes_on_with_the_certified_one(cluster: Cluster, node: Node) -> None:
    """`A node stuck on an equivocated block although another is certified` is a classic mistake."""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    node.receive("m0", cluster.proposal("m0", other))
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.PREPARE, block, QUORUM)))
    node.receive("m0", BodyMessage(block))
    assert node.signed(Phase.COMMIT) == cluster.statement(Phase.COMMIT, "m1", block).key
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.COMMIT, block, QUORUM)))
    assert node.replica.height == 1


CERTIFICATES: dict[str, Callable[[Cluster, Block], Certificate]] = {
    "of too few": lambda c, b: c.certificate(Phase.PREPARE, b, ("m0", "m2")),
    "of commits, too few": lambda c, b: c.certificate(Phase.COMMIT, b, ("m0", "m2")),
    "of proposals": lambda c, b: c.certificate(Phase.PROPOSE, b, QUORUM),
    "of a foreigner": lambda c, b: c.certificate(Phase.COMMIT, b, ("m0", "m2", "m4")),
    "of a later view, too few": lambda c, b: c.certificate(Phase.COMMIT, b, ("m0", "m2"), 7),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_certificates_that_prove_nothing(cluster: Cluster, node: Node, name: str) -> None:
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    with pytest.raises(PeerError):
        node.receive("m0", CertificateMessage(CERTIFICATES[name](cluster, block)))
    assert (node.replica.height, node.replica.view, node.signed(Phase.COMMIT)) == (0, 0, None)


# After one's own TIMEOUT.


def give_up(cluster: Cluster, node: Node) -> None:
    for name in ("m2", "m3"):
        node.receive(name, SuspectMessage(cluster.suspect(name, node.replica.view)))
    assert node.replica.timed_out


def test_nothing_is_acknowledged_after_ones_own_timeout(cluster: Cluster, node: Node) -> None:
    """`From then on no PREPARE and no COMMIT in views <= v.`"""
    block = good_block(cluster, node)
    give_up(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    assert node.signed(Phase.PREPARE) is None
    certificate = cluster.certificate(Phase.PREPARE, block, QUORUM)
    node.receive("m0", CertificateMessage(certificate))
    assert node.signed(Phase.COMMIT) is None
    assert node.sign_state.lock == certificate, "it may raise the lock"


def test_a_final_block_is_committed_even_after_ones_own_timeout(cluster: Cluster, node: Node) -> None:
    """`Anyone with a CC for c+1, from whichever view, and the body commits.`"""
    block = good_block(cluster, node)
    node.receive("m0", cluster.proposal("m0", block))
    give_up(cluster, node)
    node.receive("m0", CertificateMessage(cluster.certificate(Phase.COMMIT, block, QUORUM)))
    assert node.replica.height == 1


# Statements of others, passed on or made up.

PASSED_ON: dict[str, Callable[[Cluster, Block], Message]] = {
    "an acknowledgement": lambda c, b: Acknowledgement(c.statement(Phase.PREPARE, "m3", b)),
    "a complaint": lambda c, b: SuspectMessage(c.suspect("m3", 0)),
    "a timeout": lambda c, b: TimeoutMessage(c.report("m3", 0)),
    "an opening": lambda c, b: c.new_view("m3", c.timeout_certificate(2, signers=QUORUM)),
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_is_another_members_counts_only_from_that_member(
    cluster: Cluster, node: Node, name: str
) -> None:
    with pytest.raises(PeerError, match="passed on"):
        node.receive("m2", PASSED_ON[name](cluster, good_block(cluster, node)))


FORGED: dict[str, Callable[[Cluster], Message]] = {
    "a complaint": lambda c: SuspectMessage(replace(c.suspect("m2", 0), signature=bytes(64))),
    "a timeout": lambda c: TimeoutMessage(
        replace(c.report("m2", 0), timeout=replace(c.timeout("m2", 0), signature=bytes(64)))
    ),
    "a timeout certificate": lambda c: TimeoutCertificateMessage(
        c.timeout_certificate(0, signers=("m0", "m2"))
    ),
    "a timeout certificate of nobody": lambda c: TimeoutCertificateMessage(
        replace(c.timeout_certificate(0, signers=QUORUM), timeouts=())
    ),
    "an opening": lambda c: replace(
        c.new_view("m2", c.timeout_certificate(1, signers=QUORUM)),
        statement=replace(
            c.new_view("m2", c.timeout_certificate(1, signers=QUORUM)).statement, signature=bytes(64)
        ),
    ),
    "an opening by a short certificate": lambda c: c.new_view(
        "m2", c.timeout_certificate(1, signers=("m0", "m2"))
    ),
    "an opening of another's view": lambda c: c.new_view("m2", c.timeout_certificate(2, signers=QUORUM)),
    "an opening by another certificate than it names": lambda c: NewViewMessage(
        c.new_view("m2", c.timeout_certificate(1, signers=QUORUM)).statement,
        c.timeout_certificate(1, signers=("m1", "m2", "m3")),
    ),
    "an opening by a certificate of another view": lambda c: NewViewMessage(
        c.new_view("m2", c.timeout_certificate(1, signers=QUORUM)).statement,
        c.timeout_certificate(0, signers=QUORUM),
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_is_not_signed_or_not_proven_moves_nobody(cluster: Cluster, node: Node, name: str) -> None:
    before = node.sign_state
    with pytest.raises(PeerError):
        node.receive("m2", FORGED[name](cluster))
    assert (node.replica.view, node.replica.timed_out) == (0, False)
    assert node.sign_state is before


def test_a_stranger_is_told_how_its_epoch_ended_and_no_more(cluster: Cluster, node: Node) -> None:
    node.receive("m4", SuspectMessage(cluster.suspect("m4", 0)))
    assert node.take_sent() == []
    block = commit(cluster, node)
    node.receive("m4", SuspectMessage(cluster.suspect("m4", 0)))
    assert node.take_sent() == [("m4", CertificateMessage(cluster.certificate(Phase.COMMIT, block, QUORUM)))]


def test_nobody_writes_to_oneself(cluster: Cluster, node: Node) -> None:
    with pytest.raises(PeerError, match="this member itself"):
        node.receive("m1", SuspectMessage(cluster.suspect("m1", 0)))


# Fetched blocks.


def test_fetched_blocks_are_checked_one_by_one(cluster: Cluster, node: Node) -> None:
    """`Verify epoch, certificate, parent; execute; compare heads.`"""
    block, other = good_block(cluster, node), good_block(cluster, node, "b")
    certificate = cluster.certificate(Phase.COMMIT, block, QUORUM, view=2)
    beyond = cluster.block(node, cluster.note("m2", "a"), height=2)
    orphan = cluster.block(node, cluster.note("m2", "a"), parent=bytes(32))
    bare = Block(block.header, ())
    rows: list[tuple[Block, Certificate, str]] = [
        (beyond, cluster.certificate(Phase.COMMIT, beyond, QUORUM), "does not follow"),
        (orphan, cluster.certificate(Phase.COMMIT, orphan, QUORUM), "does not follow"),
        (other, certificate, "certificate of another block"),
        (block, cluster.certificate(Phase.PREPARE, block, QUORUM), "phase prepare"),
        (block, cluster.certificate(Phase.COMMIT, block, ("m0", "m2")), "2 signatures"),
        (bare, certificate, "does not hold the commands"),
    ]
    for fetched, proof, text in rows:
        with pytest.raises(PeerError, match=text):
            node.replica.receive_committed("m3", fetched, proof)
    assert node.replica.height == 0
    node.carry_out(node.replica.receive_committed("m3", block, certificate))
    assert (node.replica.height, node.replica.view) == (1, 2)
    again = node.replica.receive_committed("m3", block, certificate)
    assert (again.persist, again.committed) == ([], []), "applying is idempotent by height"
