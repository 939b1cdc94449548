"""A session in one process: the life of a proposal, its bookkeeping and its reports.

What a session refuses is in `test_consensus_refusals.py`.
"""

from __future__ import annotations

import inspect
import json
import time
import warnings
from fractions import Fraction
from typing import Any

import pytest
from tests.support.voting_sessions import Clock, cast, decide

from replication.consensus import (
    ConsensusConfig,
    ConsensusProtocol,
    Decision,
    Proposal,
    ProposalAction,
    ProposalStatus,
    TallyResult,
    VoteValue,
)
from replication.consensus.analysis import find_blocs
from replication.consensus.errors import ProposalLimitError, VotingBlocsTruncatedWarning

A, R = VoteValue.APPROVE, VoteValue.REJECT
FIVE = ["a", "b", "c", "d", "e"]


def events(session: ConsensusProtocol) -> list[tuple[str, str | None, str | None]]:
    return [(entry.event_type, entry.proposal_id, entry.actor_id) for entry in session.audit_log]


# ------------------------------------------------------------------------------------------ voters


@pytest.mark.parametrize(("n", "faults", "quorum"), [(1, 0, 1), (3, 0, 1), (4, 1, 3), (5, 1, 3), (7, 2, 5)])
def test_the_numbers_of_the_electorate(n: int, faults: int, quorum: int) -> None:
    ids = [f"voter-{number}" for number in range(n)]
    session = ConsensusProtocol(iter(ids))
    assert session.voter_ids == ids
    assert (session.voter_count, session.max_byzantine_faults, session.bft_quorum) == (n, faults, quorum)


def test_lists_handed_out_are_copies() -> None:
    session = ConsensusProtocol(FIVE)
    session.propose("a", "release")
    session.voter_ids.clear()
    session.audit_log.clear()
    session.list_proposals().clear()
    assert (session.voter_count, len(session.voter_ids), len(session.audit_log)) == (5, 5, 1)
    assert len(session.list_proposals()) == 1
    assert session.verify_audit_chain()


def test_the_parameters_have_the_promised_names_and_defaults() -> None:
    def parameters(method: Any) -> str:
        return ", ".join(
            name if parameter.default is inspect.Parameter.empty else f"{name}={parameter.default!r}"
            for name, parameter in inspect.signature(method).parameters.items()
            if name not in ("self", "clock")
        )

    assert parameters(ConsensusProtocol) == "voter_ids, weights=None, config=None"
    assert parameters(ConsensusProtocol.propose) == (
        "proposer_id, action, target=None, evidence=None, expiry_seconds=None"
    )
    assert parameters(ConsensusProtocol.vote) == "proposal_id, voter_id, value, reason=None"
    assert parameters(ConsensusProtocol.list_proposals) == "status=None"
    assert parameters(ConsensusProtocol.detect_voting_blocs) == "threshold=0.9"


def test_without_a_clock_of_its_own_a_session_reads_the_time() -> None:
    session = ConsensusProtocol(FIVE)
    before = time.time()
    proposal = session.get_proposal(session.propose("a", "release"))
    assert before <= proposal.created_at <= time.time()


# --------------------------------------------------------------------------------------- proposing


def test_ids_count_up_from_one_in_four_digits_or_more() -> None:
    session = ConsensusProtocol(["a"], config=ConsensusConfig(max_active_proposals=10_000))
    ids = [session.propose("a", "release") for _ in range(10_000)]
    assert (ids[0], ids[1], ids[9], ids[-2], ids[-1]) == (
        "prop-0001", "prop-0002", "prop-0010", "prop-9999", "prop-10000",
    )  # fmt: skip


def test_a_proposal_is_recorded_as_made() -> None:
    session = ConsensusProtocol(FIVE, clock=Clock(1000.5))
    evidence = {"score": 0.97, "signals": ("a", "b")}
    proposal_id = session.propose("b", ProposalAction.TERMINATE, "agent-7", evidence, expiry_seconds=60)
    assert session.get_proposal(proposal_id) == Proposal(
        id="prop-0001",
        proposer_id="b",
        action="terminate",
        target="agent-7",
        evidence={"score": 0.97, "signals": ["a", "b"]},
        status=ProposalStatus.OPEN,
        created_at=1000.5,
        decided_at=None,
        expires_at=1060.5,
        votes={},
        result=None,
    )
    assert type(session.get_proposal(proposal_id).action) is str
    (entry,) = session.audit_log
    assert (entry.event_type, entry.proposal_id, entry.actor_id, entry.timestamp) == (
        "propose", "prop-0001", "b", 1000.5,
    )  # fmt: skip
    assert entry.data == {
        "action": "terminate",
        "target": "agent-7",
        "evidence": {"score": 0.97, "signals": ["a", "b"]},
        "is_critical": True,
        "expires_at": 1060.5,
    }


def test_evidence_is_out_of_the_callers_reach() -> None:
    session = ConsensusProtocol(FIVE)
    evidence: dict[str, Any] = {"signals": ["first"]}
    proposal = session.get_proposal(session.propose("a", "release", evidence=evidence))
    evidence["signals"].append("later")
    assert proposal.evidence == {"signals": ["first"]}
    assert proposal.evidence is not None
    proposal.evidence["signals"].append("later")
    assert session.audit_log[0].data["evidence"] == {"signals": ["first"]}
    assert session.verify_audit_chain()


def test_any_text_is_an_action_and_little_is_needed() -> None:
    session = ConsensusProtocol(FIVE)
    proposal = session.get_proposal(session.propose("a", "reboot"))
    assert (proposal.action, proposal.target, proposal.evidence) == ("reboot", None, None)
    assert (proposal.expires_at, proposal.is_critical) == (None, False)


def test_open_proposals_are_limited_and_a_decision_makes_room() -> None:
    session = ConsensusProtocol(FIVE, config=ConsensusConfig(max_active_proposals=2))
    first = session.propose("a", "release")
    session.propose("a", "release")
    with pytest.raises(ProposalLimitError, match=r"2 active proposals.*max_active_proposals"):
        session.propose("a", "release")
    session.tally(first)
    assert session.propose("a", "release") == "prop-0003"


# ------------------------------------------------------------------------------------------ voting


def test_a_vote_is_recorded_as_cast() -> None:
    session = ConsensusProtocol(FIVE, clock=Clock(1000))
    proposal_id = session.propose("a", "release")
    vote = session.vote(proposal_id, "c", A, "looks harmless")
    assert (vote.voter_id, vote.value, vote.timestamp, vote.reason) == ("c", A, 1000, "looks harmless")
    assert vote.hash == vote.compute_hash()
    assert session.get_proposal(proposal_id).votes == {"c": vote}
    entry = session.audit_log[-1]
    assert (entry.event_type, entry.proposal_id, entry.actor_id) == ("vote", proposal_id, "c")
    assert entry.data == {
        "value": "approve", "reason": "looks harmless", "vote_hash": vote.hash, "replaces": None,
    }  # fmt: skip


@pytest.mark.parametrize("value", list(VoteValue))
def test_a_vote_may_be_given_as_text(value: VoteValue) -> None:
    session = ConsensusProtocol(FIVE)
    assert session.vote(session.propose("a", "release"), "a", str(value.value)).value is value


def test_a_vote_may_be_changed_where_that_is_allowed_and_the_last_counts() -> None:
    session = ConsensusProtocol(FIVE, config=ConsensusConfig(allow_vote_change=True))
    proposal_id = session.propose("a", "release")
    cast(session, proposal_id, "AAR")
    first = session.get_proposal(proposal_id).votes["a"]
    second = session.vote(proposal_id, "a", R, "on reflection")
    assert session.audit_log[-1].data["replaces"] == first.hash
    assert list(session.get_proposal(proposal_id).votes) == ["a", "b", "c"]
    result = session.tally(proposal_id)
    assert (result.approve_count, result.reject_count, result.decision) == (1, 2, Decision.REJECTED)
    assert session.get_voter_history("a") == [(proposal_id, second)]


# ---------------------------------------------------------------------------------------- tallying


@pytest.mark.parametrize(
    ("votes", "action", "decision"),
    [
        ("AAA", "quarantine", Decision.APPROVED),
        ("AAR", "terminate", Decision.APPROVED),  # two thirds exactly
        ("AAARR", "terminate", Decision.REJECTED),
        ("AAARR", "escalate", Decision.REJECTED),
        ("AAARR", "quarantine", Decision.APPROVED),
        ("AARR", "quarantine", Decision.REJECTED),  # a tie
        ("AANNN", "quarantine", Decision.NO_QUORUM),
        ("", "quarantine", Decision.NO_QUORUM),
    ],
)
def test_a_tally_decides(votes: str, action: str, decision: Decision) -> None:
    session = ConsensusProtocol(FIVE)
    result = decide(session, votes, action)
    proposal = session.get_proposal(result.proposal_id)
    assert result.decision is decision
    assert (proposal.status, proposal.result) == (ProposalStatus.DECIDED, result)


def test_a_tally_is_recorded_exactly() -> None:
    clock = Clock()
    session = ConsensusProtocol(["a", "b", "c"], weights={"a": 1 / 3, "b": Fraction(5, 2)}, clock=clock)
    proposal_id = session.propose("a", "terminate")
    cast(session, proposal_id, "ARN")
    clock.now = 1005
    result = session.tally(proposal_id)
    assert result == TallyResult(
        proposal_id=proposal_id,
        decision=Decision.REJECTED,
        approve_count=1,
        reject_count=1,
        abstain_count=1,
        total_voters=3,
        quorum_required=2,
        quorum_met=True,
        approve_weight=1 / 3,
        reject_weight=2.5,
        threshold_used=2 / 3,
        is_critical=True,
        hash_chain_valid=True,
    )
    assert session.get_proposal(proposal_id).decided_at == 1005
    entry = session.audit_log[-1]
    assert (entry.event_type, entry.actor_id, entry.timestamp) == ("tally", None, 1005)
    assert entry.data == {
        "decision": "rejected",
        "approve_count": 1,
        "reject_count": 1,
        "abstain_count": 1,
        "total_voters": 3,
        "quorum_required": 2,
        "quorum_met": True,
        "approve_weight": "1/3",
        "reject_weight": "5/2",
        "threshold": "2/3",
        "is_critical": True,
        "hash_chain_valid": True,
    }


def test_weights_decide_and_heads_are_still_needed() -> None:
    session = ConsensusProtocol(FIVE, weights={"a": 100})
    assert decide(session, "ARRRR").decision is Decision.REJECTED  # one head is no more than f
    assert decide(session, "AARRR").decision is Decision.APPROVED
    assert decide(session, "RAAAA").decision is Decision.REJECTED


def test_the_configured_rules_are_used() -> None:
    config = ConsensusConfig(quorum_fraction=0.8, majority_threshold=0.75, supermajority_threshold=1)
    session = ConsensusProtocol(FIVE, config=config)
    assert decide(session, "AAA").decision is Decision.NO_QUORUM
    assert decide(session, "AAAR").decision is Decision.APPROVED
    assert decide(session, "AAARR").decision is Decision.REJECTED
    assert decide(session, "AAAR", "terminate").decision is Decision.REJECTED


def test_a_second_tally_returns_the_same_object_and_records_nothing() -> None:
    session = ConsensusProtocol(FIVE)
    result = decide(session, "AAA")
    entries = len(session.audit_log)
    assert session.tally(result.proposal_id) is result
    session.execute(result.proposal_id)
    assert session.tally(result.proposal_id) is result
    assert len(session.audit_log) == entries + 1


# --------------------------------------------------------------------------------------- executing


def test_an_approved_proposal_is_executed_once() -> None:
    session = ConsensusProtocol(FIVE)
    proposal_id = session.propose("a", "restrict", "agent-7")
    cast(session, proposal_id, "AAA")
    assert session.execute(proposal_id) is False  # not decided yet
    session.tally(proposal_id)
    assert session.execute(proposal_id) is True
    assert session.get_proposal(proposal_id).status is ProposalStatus.EXECUTED
    assert session.audit_log[-1].data == {"action": "restrict", "target": "agent-7"}
    assert session.execute(proposal_id) is False
    assert [event for event, *_ in events(session)].count("execute") == 1


@pytest.mark.parametrize("votes", ["RRR", "AR", "AARR"])
def test_what_is_not_approved_is_never_executed(votes: str) -> None:
    session = ConsensusProtocol(FIVE)
    result = decide(session, votes)
    entries = len(session.audit_log)
    assert session.execute(result.proposal_id) is False
    assert session.get_proposal(result.proposal_id).status is ProposalStatus.DECIDED
    assert len(session.audit_log) == entries


# ---------------------------------------------------------------------------------------- expiring


def test_past_its_expiry_a_proposal_has_no_quorum_whatever_the_votes() -> None:
    clock = Clock()
    session = ConsensusProtocol(FIVE, clock=clock)
    proposal_id = session.propose("a", "release", expiry_seconds=10)
    cast(session, proposal_id, "RRRRR")
    clock.now = 1010.001
    result = session.tally(proposal_id)
    proposal = session.get_proposal(proposal_id)
    assert result.decision is Decision.NO_QUORUM
    assert (result.reject_count, result.quorum_met) == (5, True)
    assert (proposal.status, proposal.decided_at) == (ProposalStatus.EXPIRED, 1010.001)
    assert proposal.result is result is session.tally(proposal_id)
    assert session.execute(proposal_id) is False
    assert events(session)[-1] == ("expired", proposal_id, None)
    assert session.audit_log[-1].data["decision"] == "no_quorum"


def test_at_its_expiry_a_proposal_is_still_open() -> None:
    clock = Clock()
    session = ConsensusProtocol(FIVE, clock=clock)
    proposal_id = session.propose("a", "release", expiry_seconds=10)
    clock.now = 1010
    cast(session, proposal_id, "AAA")
    assert session.tally(proposal_id).decision is Decision.APPROVED


def test_the_expiry_is_the_proposals_own_or_else_the_configurations() -> None:
    config = ConsensusConfig(default_expiry_seconds=30)
    session = ConsensusProtocol(FIVE, config=config, clock=Clock())
    for own, expires_at in [(None, 1030), (5, 1005), (0, None), (0.5, 1000.5)]:
        proposal = session.get_proposal(session.propose("a", "release", expiry_seconds=own))
        assert proposal.expires_at == expires_at


@pytest.mark.parametrize("look", ["get", "list", "summary", "execute", "propose"])
def test_nothing_past_its_time_is_seen_as_open(look: str) -> None:
    clock = Clock()
    session = ConsensusProtocol(FIVE, config=ConsensusConfig(max_active_proposals=1), clock=clock)
    proposal_id = session.propose("a", "release", expiry_seconds=10)
    proposal = session.get_proposal(proposal_id)
    clock.now = 1011
    if look == "get":
        session.get_proposal(proposal_id)
    elif look == "list":
        assert session.list_proposals("open") == []
    elif look == "summary":
        assert (session.summary()["open"], session.summary()["expired"]) == (0, 1)
    elif look == "execute":
        assert session.execute(proposal_id) is False
    else:
        session.propose("a", "release")  # its place is free
    assert proposal.status is ProposalStatus.EXPIRED


def test_what_expires_together_is_recorded_soonest_first() -> None:
    clock = Clock()
    session = ConsensusProtocol(FIVE, clock=clock)
    for seconds in (30, 10, 20, 10, 1000):
        session.propose("a", "release", expiry_seconds=seconds)
    decided = session.tally("prop-0003")
    clock.now = 1100
    assert [proposal.id for proposal in session.list_proposals("open")] == ["prop-0005"]
    assert [proposal_id for event, proposal_id, _ in events(session) if event == "expired"] == [
        "prop-0002", "prop-0004", "prop-0001",
    ]  # fmt: skip
    assert session.get_proposal("prop-0003").result is decided
    assert session.verify_audit_chain()


# ---------------------------------------------------------------------------------- looking back


def test_proposals_are_listed_oldest_first_and_by_status() -> None:
    clock = Clock()
    session = ConsensusProtocol(FIVE, clock=clock)
    session.execute(decide(session, "AAA").proposal_id)
    decide(session, "RRR")
    session.propose("a", "release", expiry_seconds=1)
    clock.now += 2
    session.propose("a", "release")
    assert [proposal.id[-1] for proposal in session.list_proposals()] == ["1", "2", "3", "4"]
    for status, number in [("executed", "1"), ("decided", "2"), ("expired", "3"), ("open", "4")]:
        for wanted in (status, ProposalStatus(status)):
            assert [proposal.id[-1] for proposal in session.list_proposals(wanted)] == [number]


def test_a_voters_history_is_in_the_order_of_the_proposals() -> None:
    session = ConsensusProtocol(FIVE)
    first, second, third = (session.propose("a", "release") for _ in range(3))
    late = session.vote(third, "b", R)
    early = session.vote(first, "b", A)
    session.vote(second, "c", A)
    assert session.get_voter_history("b") == [(first, early), (third, late)]
    assert session.get_voter_history("d") == []


def test_agreement_counts_open_and_closed_proposals_and_the_last_votes() -> None:
    session = ConsensusProtocol(["a", "b", "c"], config=ConsensusConfig(allow_vote_change=True))
    decide(session, "AAN")
    decide(session, "AR")
    proposal_id = session.propose("a", "release")
    cast(session, proposal_id, "RAN")
    session.vote(proposal_id, "b", R)
    expected = {
        "a": {"a": 1.0, "b": 2 / 3, "c": 0.0},
        "b": {"a": 2 / 3, "b": 1.0, "c": 0.0},
        "c": {"a": 0.0, "b": 0.0, "c": 1.0},
    }
    assert session.voter_agreement_matrix() == expected
    assert session.voter_agreement_matrix() == expected  # looking changes nothing


def test_blocs_are_sorted_largest_first_and_take_a_threshold() -> None:
    session = ConsensusProtocol(["e", "d", "c", "b", "a"])
    for votes in ("AARRR", "RRAAA", "AARRA"):
        decide(session, votes)
    assert session.detect_voting_blocs() == [["b", "c"], ["d", "e"]]
    assert session.detect_voting_blocs(threshold=2 / 3) == [["a", "b", "c"], ["d", "e"]]


def test_a_session_says_when_its_search_for_blocs_was_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    session = ConsensusProtocol(FIVE)
    decide(session, "AAARR")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.detect_voting_blocs()
    monkeypatch.setattr(
        "replication.consensus.protocol.find_blocs",
        lambda matrix, threshold: find_blocs(matrix, threshold, limit=2),
    )
    with pytest.warns(VotingBlocsTruncatedWarning, match=r"step limit.*may be more") as caught:
        session.detect_voting_blocs()
    assert caught[0].filename == __file__  # it points at the caller


def test_the_summary_has_these_keys_and_counts() -> None:
    clock = Clock()
    session = ConsensusProtocol(FIVE, clock=clock)
    session.execute(decide(session, "AAARR").proposal_id)
    decide(session, "AAARR")
    decide(session, "RRRAA")
    decide(session, "A")
    session.propose("a", "release", expiry_seconds=1)
    clock.now += 2
    session.propose("a", "release")
    summary = session.summary()
    assert summary == {
        "voter_count": 5,
        "max_byzantine_faults": 1,
        "bft_quorum": 3,
        "total_proposals": 6,
        "open": 1,
        "approved": 2,
        "rejected": 1,
        "executed": 1,
        "expired": 1,
        "audit_entries": 28,
        "audit_chain_valid": True,
        "voting_blocs": [["a", "b", "c"], ["d", "e"]],
    }
    assert json.loads(json.dumps(summary)) == summary


def test_the_rendered_summary_is_headed_and_says_the_same() -> None:
    session = ConsensusProtocol(FIVE)
    assert "Voting blocs: none" in session.render()
    session.execute(decide(session, "AAARR").proposal_id)
    lines = session.render().splitlines()
    assert lines[0] == "Agent Consensus Protocol Summary"
    assert "Voters: 5 (tolerates 1 faulty, quorum at least 3)" in lines
    assert "Proposals: 1 (0 open, 1 approved, 0 rejected, 1 executed, 0 expired)" in lines
    assert "Audit chain: 8 entries, valid" in lines
    assert "Voting blocs: a, b, c; d, e" in lines
    session.audit_log[2].data["value"] = "reject"
    assert "Audit chain: 8 entries, BROKEN" in session.render().splitlines()
