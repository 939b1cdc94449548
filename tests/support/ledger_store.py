"""Blocks of a `LedgerCluster` in the form that the store takes, and a record in which everything happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from tests.support.ledger_cluster import LedgerCluster

from replication.consensus.model import AuditEntry
from replication.identity.genesis import Rules
from replication.ledger.store import Store
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.statements import (
    Evidence,
    NewView,
    Phase,
    Statement,
    StatementKey,
)

__all__ = ["Part", "coordinator", "evidence", "fill", "part", "parts", "record_of", "small", "story"]

Part = tuple[Block, Certificate, tuple[AuditEntry, ...]]


def part(cluster: LedgerCluster, height: int, signers: int | None = None) -> Part:
    """One block with its certificate and entries; `signers` cuts the certificate to that many signatures."""
    sealed = cluster.sealed[height]
    fields: Any = {
        key: bytes.fromhex(value) if isinstance(value, str) else value for key, value in sealed.header.items()
    }
    certificate = sealed.certificate
    assert certificate is not None
    key = StatementKey(
        Phase.COMMIT,
        certificate["epoch"],
        certificate["view"],
        certificate["height"],
        bytes.fromhex(certificate["block_hash"]),
    )
    signatures = tuple(
        (item["signer"], bytes.fromhex(item["signature"])) for item in certificate["signatures"][:signers]
    )
    block = Block(BlockHeader(**fields), cluster.commands[height])
    return block, Certificate(key, signatures), tuple(cluster.executions[height].entries)


def parts(cluster: LedgerCluster, first: int = 1, last: int | None = None) -> list[Part]:
    """Blocks `first` to `last`, by default all."""
    last = len(cluster.executions) - 1 if last is None else last
    return [part(cluster, height) for height in range(first, last + 1)]


def fill(store: Store, blocks: Sequence[Part]) -> None:
    """Append blocks."""
    for block, certificate, entries in blocks:
        store.append(block, certificate, entries)


def record_of(store: Store) -> tuple[object, ...]:
    """Everything that a store says, in a form that can be compared."""
    numbers = [listed.number for listed in store.list_proposals(None, 0, 10_000)]
    ids = [f"prop-{number:04d}" for number in numbers]
    return (
        store.totals(),
        store.head(),
        b"".join(store.export_lines()),
        store.blocks(0, 1 << 30),
        store.open_proposals(),
        store.summary(),
        store.agreement().matrix(store.totals().members.ids),
        [store.proposal(each) for each in ids],
        [store.finished_by_id(each) for each in ids],
        [store.certificate_json(each) for each in ids],
        [store.history(member, -1, 1000) for member in store.totals().members.ids],
    )


def coordinator(cluster: LedgerCluster, view: int) -> bytes:
    """The command that records the coordinator of a view."""
    members = cluster.application.members
    opening = NewView(members.epoch, view, sha256(b"tc").digest(), members.ids[view % members.n])
    signature = cluster.sign(opening.signer)(opening.sign_bytes(cluster.cluster_id))
    return cluster.application.view_command(replace(opening, signature=signature))


def evidence(cluster: LedgerCluster, signer: str) -> bytes:
    """The command that shows two PREPAREs of a member at one position."""
    pair = []
    for block_hash in (bytes(32), b"\x01" * 32):
        item = Statement(StatementKey(Phase.PREPARE, cluster.epoch, 2, 9, block_hash), signer, b"")
        signature = cluster.sign(signer)(item.sign_bytes(cluster.cluster_id))
        pair.append(replace(item, signature=signature))
    return cluster.application.evidence_command(Evidence(*pair))


def small() -> LedgerCluster:
    """Forty entries, for tests that touch every byte; a proposal stays open, another is executed."""
    cluster = LedgerCluster(4)
    for number, action in enumerate(
        ["quarantine", "terminate", "restrict", "release", "escalate", "isolate"]
    ):
        proposal = cluster.propose(cluster.ids[number % 4], action, evidence={"näme": number + 0.5})
        cluster.decide(proposal, "reject" if number == 2 else "approve")
    cluster.block(cluster.receipt("node-2", proposal), coordinator(cluster, 1), view=1)
    last = cluster.propose(expiry_ms=500_000)
    cluster.block(last, cluster.vote("node-3", last), view=1)
    assert cluster.executions[-1].audit_size == 41
    return cluster


def story() -> LedgerCluster:
    """Whatever can happen to proposals, votes and members, over several epochs; three proposals stay open."""
    rules = Rules(default_window_ms=0, allow_vote_change=True, max_active_proposals=20)
    cluster = LedgerCluster(5, weights=[1, 2, 1, 1, 1], rules=rules)
    ids = cluster.ids
    first = cluster.propose("node-1", "terminate", evidence={"log": ["ssh", {"é": "\u2028"}], "big": 1e21})
    cluster.decide(first)
    cluster.block(cluster.receipt("node-2", first, "failed"), cluster.receipt("node-3", first, "partial"))
    cluster.block(cluster.receipt("node-2", first, detail="done"))
    rejected = cluster.propose("node-2")
    cluster.decide(rejected, "reject")
    windowed = cluster.propose("node-3", window_ms=3000)
    expiring = cluster.propose("node-4", expiry_ms=4000)
    closed = cluster.propose("node-5")
    lasting = cluster.propose("node-1", "escalate", expiry_ms=90_000_000)
    cluster.block(windowed, expiring, closed, lasting)
    cluster.block(
        cluster.ballot("node-1", [(windowed, "approve"), (lasting, "reject"), (expiring, "abstain")]),
        cluster.vote("node-5", lasting, "approve"),
    )
    cluster.block(cluster.vote("node-1", lasting, "approve", revision=1, reason="on second thought"))
    cluster.block(cluster.close("node-5", closed))
    cluster.block(after_ms=9_000)
    cluster.block()
    cluster.block(cluster.vote("node-5", lasting, "reject"))  # revision 0 again: evidence
    cluster.change_members({"change": "reweight", "id": "node-3", "weight": 3})
    cluster.change_members({"change": "replace", "id": "node-5", "member": cluster.new_member("node-9")})
    cluster.block(coordinator(cluster, 1), view=1)
    cluster.block(cluster.rejoin("node-2", sha256(b"disk").digest()), view=1)
    second = cluster.propose("node-9", window_ms=80_000_000, evidence={})
    cluster.block(second, cluster.vote("node-9", second), cluster.vote("node-9", lasting, "abstain"))
    cluster.block(evidence(cluster, "node-4"))
    third = cluster.propose("node-9")
    cluster.block(third, cluster.vote("node-4", third), cluster.vote("node-1", third))
    cluster.change_members({"change": "add", "member": cluster.new_member("node-6")})
    cluster.decide(cluster.propose("node-6"), voters=["node-1", "node-2", "node-3", "node-9", "node-6"])
    cluster.block(coordinator(cluster, 2), view=2)
    assert {
        kind for execution in cluster.executions for kind in (e.event_type for e in execution.entries)
    } == {
        *("genesis", "propose", "vote", "tally", "expired", "execute"),
        *("coordinator", "evidence", "membership"),
    }
    assert len(ids) == 5
    return cluster
