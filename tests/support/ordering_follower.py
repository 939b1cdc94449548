"""One follower of four, m1, in the hands of a test: what it is shown, and what it acknowledges."""

from __future__ import annotations

from typing import Final

from tests.support.ordering_toy import Cluster, Node

from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import TimeoutCertificateMessage
from replication.ordering.statements import Phase

__all__ = ["QUORUM", "acknowledged", "commit", "enter_view_2", "good_block"]

QUORUM: Final = ("m0", "m2", "m3")
"""The others: enough without m1."""


def good_block(cluster: Cluster, node: Node, text: str = "a") -> Block:
    """A block that any member acknowledges in view 0."""
    return cluster.block(node, cluster.note("m2", text))


def commit(cluster: Cluster, node: Node, text: str = "first", view: int = 0) -> Block:
    """Commit a block at this node, by a certificate of the others."""
    block = good_block(cluster, node, text)
    certificate = cluster.certificate(Phase.COMMIT, block, QUORUM, view)
    node.carry_out(node.replica.receive_committed("m0", block, certificate))
    return block


def enter_view_2(cluster: Cluster, node: Node, lock: Certificate | None = None) -> None:
    """By timeout certificates, whose floor is the lock if there is one. View 2 is coordinated by m2."""
    for view in (0, 1):
        report = cluster.report("m2", view, lock=lock)
        certificate = cluster.timeout_certificate(view, report, signers=("m0", "m3"))
        node.receive("m2", TimeoutCertificateMessage(certificate))


def acknowledged(node: Node, block: Block, view: int = 0) -> bool:
    """Whether the last PREPARE of this node is for this block, in this view."""
    key = node.signed(Phase.PREPARE)
    return key is not None and (key.block_hash, key.view) == (block.hash, view)
