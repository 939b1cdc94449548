"""Random streams of commands for a `LedgerCluster`: what honest members send, and what faulty ones may.

Repeats, votes twice, votes on nothing, receipts for what is not approved, changes nobody approved. A test
draws a `programs` value, `rules` and `weights`, and gives them to `run`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from hypothesis import event
from hypothesis import strategies as st
from tests.support.ledger_cluster import LedgerCluster
from tests.support.record_factory import Json

from replication.identity.genesis import Rules
from replication.ordering.application import CommandError
from replication.ordering.statements import (
    Evidence,
    Lock,
    NewView,
    Phase,
    Signed,
    Statement,
    StatementKey,
    Timeout,
)

__all__ = ["NODES", "Stream", "programs", "rules", "run", "weights"]

NODES = 5
ACTIONS = ("quarantine", "terminate", "membership")
VALUES = ("approve", "approve", "approve", "reject", "abstain")
CHANGES = ("add", "remove", "replace", "rotate", "reweight")

members = st.integers(0, NODES - 1)
recent = st.integers(0, 5)

proposing = st.tuples(
    st.just("propose"),
    members,
    st.sampled_from(ACTIONS),
    st.sampled_from((0, 0, 1500, 4000)),
    st.sampled_from((0, 0, 1500, 3000)),
)
voting = st.one_of(
    st.tuples(st.just("votes"), recent, st.lists(st.sampled_from(VALUES), min_size=1, max_size=NODES)),
    st.tuples(st.just("ballot"), members, st.lists(recent, min_size=1, max_size=3), st.sampled_from(VALUES)),
    st.tuples(st.just("vote"), members, recent, st.sampled_from(VALUES), st.integers(0, 2)),
)
after = st.one_of(
    st.tuples(st.just("close"), members, recent),
    st.tuples(st.just("receipt"), members, recent, st.sampled_from(("succeeded", "failed", "partial"))),
    st.tuples(st.just("repeat"), st.integers(0, 20)),
)
upheaval = st.one_of(
    st.tuples(st.just("coordinator"), st.integers(1, 3)),
    st.tuples(st.just("evidence"), members, st.integers(0, 2)),
    st.tuples(st.just("change"), members, st.sampled_from(CHANGES), st.booleans()),
    st.tuples(st.just("rejoin"), members),
)
block = st.tuples(st.just("block"), st.sampled_from((1, 500, 1000, 2500, 70_000)))
steps = st.one_of(proposing, voting, voting, after, upheaval, block)


@dataclass
class Stream:
    """Turns steps into commands and blocks of a cluster. What no member would accept is left out."""

    cluster: LedgerCluster
    pending: list[bytes] = field(default_factory=list)
    proposals: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    added: int = 0

    def member(self, index: int) -> str:
        ids = self.cluster.application.members.ids
        return ids[index % len(ids)]

    def proposal(self, index: int) -> bytes | None:
        return self.proposals[-1 - index % len(self.proposals)] if self.proposals else None

    def send(self, command: bytes) -> None:
        self.pending.append(command)
        self.sent.append(command)

    def flush(self, after_ms: int) -> None:
        accepted = []
        for command in self.pending:
            try:
                self.cluster.application.check(command)
            except CommandError:
                continue
            accepted.append(command)
        self.pending.clear()
        view = self.cluster.application.recorded_view + 3
        execution = self.cluster.block(*accepted, after_ms=after_ms, view=view)
        for outcome in execution.outcomes.values():
            event(f"outcome {outcome.reason or 'accepted'}")
        for entry in execution.entries:
            event(f"entry {entry.event_type}")

    def take(self, step: tuple[Any, ...]) -> None:
        getattr(self, f"do_{step[0]}")(*step[1:])

    def do_propose(self, index: int, action: str, window_ms: int, expiry_ms: int) -> None:
        proposal = self.cluster.propose(self.member(index), action, window_ms=window_ms, expiry_ms=expiry_ms)
        self.proposals.append(proposal)
        self.send(proposal)

    def do_votes(self, which: int, values: list[str]) -> None:
        proposal = self.proposal(which)
        for index, value in enumerate(values if proposal is not None else ()):
            self.send(self.cluster.vote(self.member(index), proposal or b"", value))

    def do_ballot(self, index: int, which: list[int], value: str) -> None:
        chosen = [self.proposal(item) for item in which]
        votes = [(proposal, value) for proposal in dict.fromkeys(chosen) if proposal is not None]
        if votes:
            self.send(self.cluster.ballot(self.member(index), votes))

    def do_vote(self, index: int, which: int, value: str, revision: int) -> None:
        proposal = self.proposal(which)
        if proposal is not None:
            self.send(self.cluster.vote(self.member(index), proposal, value, revision=revision, reason=value))

    def do_close(self, index: int, which: int) -> None:
        proposal = self.proposal(which)
        if proposal is not None:
            self.send(self.cluster.close(self.member(index), proposal))

    def do_receipt(self, index: int, which: int, outcome: str) -> None:
        proposal = self.proposal(which)
        if proposal is not None:
            detail = str(len(self.sent) % 3)
            self.send(self.cluster.receipt(self.member(index), proposal, outcome, detail))

    def do_repeat(self, index: int) -> None:
        if self.sent:
            self.pending.append(self.sent[-1 - index % len(self.sent)])

    def do_coordinator(self, ahead: int) -> None:
        application = self.cluster.application
        view = application.recorded_view + ahead - 1
        signer = application.members.ids[view % application.members.n]
        digest = sha256(str(view).encode()).digest()
        opening = NewView(application.members.epoch, view, digest, signer)
        signature = self.cluster.sign(signer)(opening.sign_bytes(self.cluster.cluster_id))
        self.send(application.view_command(replace(opening, signature=signature)))

    def do_evidence(self, index: int, kind: int) -> None:
        signer, epoch = self.member(index), self.cluster.epoch

        def signed(item: Signed) -> Signed:
            signature = self.cluster.sign(signer)(item.sign_bytes(self.cluster.cluster_id))
            return replace(item, signature=signature)

        def statement(phase: Phase, block: bytes) -> Signed:
            return signed(Statement(StatementKey(phase, epoch, 2, 9, block), signer, b""))

        def timeout(view: int, height: int, lock: Lock | None) -> Signed:
            return signed(Timeout(epoch, view, height, lock, signer))

        pairs = (
            (statement(Phase.PREPARE, bytes(32)), statement(Phase.PREPARE, bytes([1]) * 32)),
            (timeout(4, 8, None), timeout(4, 8, Lock(3, bytes(32)))),
            (timeout(3, 8, Lock(1, bytes(32))), statement(Phase.COMMIT, bytes(32))),
        )
        self.send(self.cluster.application.evidence_command(Evidence(*pairs[kind])))

    def do_change(self, index: int, kind: str, approved: bool) -> None:
        cluster, subject = self.cluster, self.member(index)
        self.added += 1
        change: Json
        if kind == "add":
            change = {"change": "add", "member": cluster.new_member(f"extra-{self.added}")}
        elif kind == "remove":
            change = {"change": "remove", "id": subject}
        elif kind == "replace":
            change = {"change": "replace", "id": subject, "member": cluster.new_member(f"extra-{self.added}")}
        elif kind == "rotate":
            self.flush(1)  # what waits is signed with the old key
            old = cluster.keys[subject]
            member = cluster.new_member(subject, seed=str(self.added))
            change = {"change": "replace", "id": subject, "member": member}
            new, cluster.keys[subject] = cluster.keys[subject], old
        else:
            change = {"change": "reweight", "id": subject, "weight": 1 + self.added % 3}
        proposer = self.member(0)
        proposal = cluster.propose(proposer, "membership", evidence=change)
        voters = cluster.application.members.ids if approved else (proposer,)
        self.pending += [proposal, *(cluster.vote(voter, proposal) for voter in voters)]
        self.proposals.append(proposal)
        self.flush(1000)
        epoch = cluster.epoch
        self.pending.append(cluster.membership(proposer, proposal, change))
        self.flush(1000)
        if kind == "rotate" and cluster.epoch != epoch:
            cluster.keys[subject] = new

    def do_rejoin(self, index: int) -> None:
        nonce = sha256(f"disk {len(self.sent)}".encode()).digest()
        self.pending = [self.cluster.rejoin(self.member(index), nonce)]
        self.flush(1000)

    def do_block(self, after_ms: int) -> None:
        self.flush(after_ms)


def run(program: list[tuple[Any, ...]], rules: Rules, weights: list[int]) -> Stream:
    stream = Stream(LedgerCluster(NODES, rules=rules, weights=weights))
    for step in program:
        stream.take(step)
    stream.flush(1000)
    stream.flush(1000)
    return stream


programs = st.lists(steps, min_size=8, max_size=40)
rules = st.builds(
    Rules,
    default_window_ms=st.just(0),
    allow_vote_change=st.booleans(),
    max_active_proposals=st.sampled_from((2, 10)),
)
weights = st.lists(st.integers(1, 4), min_size=NODES, max_size=NODES)
