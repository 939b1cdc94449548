"""`ConsensusProtocol` as a state machine, against a model that keeps lists and counts everything anew."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.voting_sessions import Clock

from replication.consensus import (
    ConsensusConfig,
    ConsensusProtocol,
    Decision,
    ProposalStatus,
    TallyResult,
    VoteValue,
)
from replication.consensus.errors import AlreadyVotedError, ProposalLimitError, ProposalNotOpenError

A, R, N = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN
ACTIONS = ["quarantine", "terminate", "escalate", "reboot"]
MAX_ACTIVE = 3
NUMBERS = st.integers(0, 2) | st.integers(0, 50)


@dataclass
class ModelProposal:
    """What the model knows of one proposal."""

    action: str
    expires_at: int | None
    status: str = "open"
    decision: str | None = None
    votes: dict[str, VoteValue] = field(default_factory=dict)
    result: TallyResult | None = None


class SessionMachine(RuleBasedStateMachine):
    """Any sequence of requests: the session answers and shows what the model says."""

    @initialize(
        weights=st.lists(st.sampled_from([1, 1, 2, 5]), min_size=1, max_size=5),
        change=st.booleans(),
        lifetime=st.sampled_from([0, 0, 8]),
    )
    def start(self, weights: list[int], change: bool, lifetime: int) -> None:
        self.clock = Clock(100)
        self.change = change
        self.lifetime = lifetime
        self.weights = {"abcde"[number]: weight for number, weight in enumerate(weights)}
        self.proposals: list[ModelProposal] = []
        self.events = 0
        self.session = ConsensusProtocol(
            self.weights,
            weights=self.weights,
            config=ConsensusConfig(
                default_expiry_seconds=lifetime, allow_vote_change=change, max_active_proposals=MAX_ACTIVE
            ),
            clock=self.clock,
        )

    # -- the model

    def expire(self) -> None:
        for proposal in self.proposals:
            is_past = proposal.expires_at is not None and self.clock.now > proposal.expires_at
            if proposal.status == "open" and is_past:
                proposal.status, proposal.decision = "expired", "no_quorum"
                self.events += 1

    def count(self, status: str) -> int:
        return sum(proposal.status == status for proposal in self.proposals)

    def decide(self, proposal: ModelProposal) -> str:
        n = len(self.weights)
        faulty = {1: 0, 2: 0, 3: 0, 4: 1, 5: 1}[n]
        approving = [voter_id for voter_id, value in proposal.votes.items() if value is A]
        rejecting = [voter_id for voter_id, value in proposal.votes.items() if value is R]
        participants = len(approving) + len(rejecting)
        if 2 * participants < n or participants < 2 * faulty + 1:
            return "no_quorum"
        in_favour = sum(self.weights[voter_id] for voter_id in approving)
        against = sum(self.weights[voter_id] for voter_id in rejecting)
        critical = proposal.action in ("terminate", "escalate")
        share = Fraction(in_favour, in_favour + against)
        approved = share >= (Fraction(2, 3) if critical else Fraction(1, 2))
        return "approved" if approved and in_favour > against and len(approving) > faulty else "rejected"

    def pick(self, number: int) -> tuple[str, ModelProposal]:
        index = len(self.proposals) - 1 - number % len(self.proposals)  # the newest first: they are open
        return f"prop-{index + 1:04d}", self.proposals[index]

    # -- requests

    @rule(ticks=st.integers(0, 6))
    def wait(self, ticks: int) -> None:
        self.clock.now += ticks
        self.session.list_proposals()  # any request makes the session look at the clock
        self.expire()

    @rule(
        action=st.sampled_from(ACTIONS),
        lifetime=st.sampled_from([None, 0, 1, 5, 12]),
        ticks=st.integers(0, 2),
    )
    def propose(self, action: str, lifetime: int | None, ticks: int) -> None:
        self.clock.now += ticks
        self.expire()
        if self.count("open") >= MAX_ACTIVE:
            with pytest.raises(ProposalLimitError):
                self.session.propose("a", action, expiry_seconds=lifetime)
            return
        proposal_id = self.session.propose("a", action, expiry_seconds=lifetime)
        seconds = self.lifetime if lifetime is None else lifetime
        self.proposals.append(ModelProposal(action, int(self.clock.now) + seconds if seconds else None))
        self.events += 1
        assert proposal_id == f"prop-{len(self.proposals):04d}"

    @precondition(lambda self: self.proposals)
    @rule(
        number=NUMBERS,
        voter=st.integers(0, 4),
        value=st.sampled_from([A, A, R, R, N]),
        ticks=st.integers(0, 2),
    )
    def vote(self, number: int, voter: int, value: VoteValue, ticks: int) -> None:
        self.clock.now += ticks
        self.expire()
        self.cast(number, voter, value)

    def cast(self, number: int, voter: int, value: VoteValue) -> None:
        proposal_id, proposal = self.pick(number)
        voter_id = list(self.weights)[voter % len(self.weights)]
        refusal: type[Exception] | None = None
        if proposal.status != "open":
            refusal = ProposalNotOpenError
        elif voter_id in proposal.votes and not self.change:
            refusal = AlreadyVotedError
        if refusal is not None:
            with pytest.raises(refusal):
                self.session.vote(proposal_id, voter_id, value)
            return
        assert self.session.vote(proposal_id, voter_id, value).value is value
        proposal.votes[voter_id] = value
        self.events += 1

    @precondition(lambda self: self.proposals)
    @rule(number=NUMBERS, value=st.sampled_from([A, A, R]))
    def all_others_vote(self, number: int, value: VoteValue) -> None:
        _, proposal = self.pick(number)
        for voter, voter_id in enumerate(self.weights):
            if voter_id not in proposal.votes:
                self.cast(number, voter, value)

    @precondition(lambda self: self.proposals)
    @rule(number=NUMBERS, ticks=st.integers(0, 2))
    def tally(self, number: int, ticks: int) -> None:
        self.clock.now += ticks
        self.expire()
        proposal_id, proposal = self.pick(number)
        if proposal.status == "open":
            proposal.status, proposal.decision = "decided", self.decide(proposal)
            self.events += 1
        result = self.session.tally(proposal_id)
        if proposal.result is not None:
            assert result is proposal.result
        proposal.result = result
        assert result.hash_chain_valid

    @precondition(lambda self: self.proposals)
    @rule(number=NUMBERS)
    def execute(self, number: int) -> None:
        proposal_id, proposal = self.pick(number)
        possible = proposal.status == "decided" and proposal.decision == "approved"
        assert self.session.execute(proposal_id) is possible
        if possible:
            proposal.status = "executed"
            self.events += 1

    # -- what must be so after each of them

    @invariant()
    def the_proposals_are_the_models(self) -> None:
        shown = self.session.list_proposals()
        assert len(shown) == len(self.proposals)
        for actual, expected in zip(shown, self.proposals, strict=True):
            assert actual.status is ProposalStatus(expected.status)
            assert {voter_id: vote.value for voter_id, vote in actual.votes.items()} == expected.votes
            assert list(actual.votes) == list(expected.votes)
            if expected.decision is None:
                assert actual.result is None
                continue
            result = actual.result
            assert result is not None
            assert result.decision is Decision(expected.decision)
            tally = [list(expected.votes.values()).count(value) for value in (A, R, N)]
            assert [result.approve_count, result.reject_count, result.abstain_count] == tally

    @invariant()
    def every_event_is_on_the_record_once(self) -> None:
        assert len(self.session.audit_log) == self.events
        assert self.session.verify_audit_chain()

    @invariant()
    def the_summary_counts_what_there_is(self) -> None:
        summary: dict[str, Any] = self.session.summary()
        decisions = [proposal.decision for proposal in self.proposals]
        assert [summary[status] for status in ("open", "executed", "expired")] == [
            self.count(status) for status in ("open", "executed", "expired")
        ]
        assert summary["approved"] == decisions.count("approved")
        assert summary["rejected"] == decisions.count("rejected")

    @invariant()
    def agreement_is_the_models(self) -> None:
        matrix = self.session.voter_agreement_matrix()
        for a, b in itertools.permutations(self.weights, 2):
            sides = [
                (proposal.votes[a], proposal.votes[b])
                for proposal in self.proposals
                if {proposal.votes.get(a), proposal.votes.get(b)} <= {A, R}
            ]
            agreed = sum(one is two for one, two in sides)
            assert matrix[a][b] == (agreed / len(sides) if sides else 0.0)


TestSession = SessionMachine.TestCase
