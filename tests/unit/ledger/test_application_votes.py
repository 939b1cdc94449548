"""The voting application: proposals, ballots, closes, receipts, deadlines; what becomes of each command."""

from __future__ import annotations

import pytest
from tests.support.ledger_cluster import LedgerCluster

from replication.consensus.model import AuditEntry
from replication.errors import InvariantError
from replication.identity.genesis import Rules
from replication.ledger.application import BlockExecution, Outcome, VotingApplication
from replication.ledger.history import MemoryHistory, genesis_entry
from replication.ordering.application import Application, command_digest

CHANGEABLE = Rules(default_window_ms=0, allow_vote_change=True)


def events(execution: BlockExecution) -> list[str]:
    return [entry.event_type for entry in execution.entries]


def only(execution: BlockExecution, event_type: str) -> AuditEntry:
    (entry,) = (entry for entry in execution.entries if entry.event_type == event_type)
    return entry


def reason(outcome: Outcome) -> str:
    assert bool(outcome.reason) == bool(outcome.message)
    return outcome.reason if not outcome.accepted else outcome.reason or "accepted"


def test_it_is_an_application() -> None:
    cluster = LedgerCluster(4)
    application: Application[BlockExecution] = cluster.application
    assert application.members == cluster.genesis.members
    assert application.recorded_view == 0
    assert application.incarnation("node-1") == b""
    assert application.next_deadline_ms() is None


def test_block_0_is_the_genesis_entry() -> None:
    cluster = LedgerCluster(4)
    execution = cluster.application.genesis_execution()
    assert execution.entries == (genesis_entry(cluster.genesis),)
    assert (execution.height, execution.audit_size, execution.is_empty) == (0, 1, False)
    assert execution.audit_head.hex() == execution.entries[0].hash
    assert cluster.verify().height == 0


def test_a_decision_in_one_block() -> None:
    """Proposal, votes and tally commit together: nobody waits for the proposal to be committed first."""
    cluster = LedgerCluster(4)
    proposal = cluster.propose(evidence={"é": 1.5})
    execution = cluster.block(proposal, *(cluster.vote(voter, proposal) for voter in cluster.ids[:3]))
    assert events(execution) == ["propose", "vote", "vote", "vote", "tally"]
    tally = only(execution, "tally")
    assert (tally.data["decision"], tally.data["cause"], tally.actor_id) == ("approved", "settled", "cluster")
    assert execution.outcomes[command_digest(proposal)] == Outcome(True, "", "", "prop-0001", 1)
    assert cluster.application.open_proposal("prop-0001") is None
    finished = cluster.history.finished(cluster.digest(proposal))
    assert finished is not None
    assert (finished.id, finished.approve_count, finished.tally_sequence) == ("prop-0001", 3, 5)
    cluster.verify()


def test_votes_that_could_still_turn_it_keep_it_open() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose("node-1", "terminate")
    execution = cluster.block(proposal, *(cluster.vote(voter, proposal) for voter in cluster.ids[:2]))
    assert events(execution) == ["propose", "vote", "vote"]
    open_proposal = cluster.application.open_proposal(cluster.digest(proposal))
    assert open_proposal is not None
    assert open_proposal == cluster.application.open_proposal("prop-0001")
    assert [vote.voter for vote in open_proposal.votes] == ["node-1", "node-2"]
    execution = cluster.block(cluster.vote("node-3", proposal, "reject"), cluster.vote("node-4", proposal))
    assert only(execution, "tally").data["decision"] == "approved"
    cluster.verify()


def test_execution_is_speculative() -> None:
    """Until it is committed, a block has happened to nobody; another may be committed instead."""
    cluster = LedgerCluster(4)
    application = cluster.application
    proposal = cluster.propose()
    cluster.block(proposal)
    block = [cluster.vote(voter, proposal) for voter in cluster.ids]
    first = application.execute(2, cluster.time_ms + 5, block)
    assert application.execute(2, cluster.time_ms + 5, block[:1]).entries != first.entries
    assert application.execute(2, cluster.time_ms + 5, block).entries == first.entries
    assert application.open_proposal("prop-0001") is not None
    assert cluster.block(*block, after_ms=5).entries == first.entries
    with pytest.raises(InvariantError, match="on top of another state"):
        application.commit(first)


# -------------------------------------------------------------------------------------- refused proposals


def test_repeated_proposals() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose("node-1", request_id="r")
    again = cluster.propose("node-1", request_id="r", created_ms=7)
    other = cluster.propose("node-1", "release", request_id="r")
    execution = cluster.block(proposal, again, other)
    assert events(execution) == ["propose"]
    for command, expected in ((proposal, "accepted"), (again, "DUPLICATE"), (other, "REQUEST_ID_REUSED")):
        outcome = execution.outcomes[command_digest(command)]
        assert (reason(outcome), outcome.proposal_id) == (expected, "prop-0001")
    assert cluster.outcome(again) == Outcome(
        True, "DUPLICATE", "a proposal with this request id and content is on record already", "prop-0001", 1
    )
    assert reason(cluster.outcome(other)) == "REQUEST_ID_REUSED"
    assert cluster.outcome(proposal).entry_sequence == 1
    cluster.block(*(cluster.vote(voter, proposal) for voter in cluster.ids))
    assert [reason(cluster.outcome(item)) for item in (proposal, again, other)] == [
        "DUPLICATE",
        "DUPLICATE",
        "REQUEST_ID_REUSED",
    ]
    cluster.verify()


def test_a_request_repeated_at_another_member() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose("node-1", request_id="r")
    same = cluster.propose("node-2", request_id="r", created_ms=7)
    different = cluster.propose("node-3", "release", request_id="r")
    execution = cluster.block(proposal, same, different)
    assert events(execution) == ["propose", "propose"]
    outcomes = [execution.outcomes[command_digest(command)] for command in (proposal, same, different)]
    assert [(reason(outcome), outcome.proposal_id) for outcome in outcomes] == [
        ("accepted", "prop-0001"),
        ("DUPLICATE", "prop-0001"),
        ("accepted", "prop-0002"),  # nobody can take another member's ids
    ]
    cluster.block(*(cluster.vote(voter, proposal) for voter in cluster.ids))
    assert reason(cluster.outcome(cluster.propose("node-4", request_id="r"))) == "DUPLICATE"
    assert reason(cluster.outcome(cluster.propose("node-2", "restrict", request_id="r"))) == "accepted"
    cluster.verify()


def test_too_many_proposals() -> None:
    cluster = LedgerCluster(4, rules=Rules(default_window_ms=0, max_active_proposals=2))
    first, second, third = (cluster.propose() for _ in range(3))
    execution = cluster.block(first, second, third)
    assert [reason(outcome) for outcome in execution.outcomes.values()] == [
        "accepted",
        "accepted",
        "TOO_MANY_PROPOSALS",
    ]
    assert cluster.application.verdict(third) is None, "there may be room later"
    execution = cluster.block(cluster.close("node-1", first), third)
    assert execution.outcomes[command_digest(third)] == Outcome(True, "", "", "prop-0003", 4)
    cluster.verify()


# ------------------------------------------------------------------------------------------ refused votes


def test_votes_that_come_too_late_or_too_early() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose(expiry_ms=1000)
    vote = cluster.vote("node-1", proposal)
    early = cluster.outcome(vote)
    assert reason(early) == "UNKNOWN_PROPOSAL"
    assert cluster.application.verdict(vote) is None
    assert reason(cluster.block(vote, proposal).outcomes[command_digest(vote)]) == "UNKNOWN_PROPOSAL"
    assert reason(cluster.outcome(vote, after_ms=1000)) == "accepted", "the last millisecond still counts"
    late = cluster.vote("node-2", proposal)
    execution = cluster.block(late, after_ms=1)
    assert events(execution) == ["expired"]
    assert reason(execution.outcomes[command_digest(late)]) == "PROPOSAL_EXPIRED"
    assert reason(cluster.outcome(vote)) == "DUPLICATE", "the one on record"
    closed = cluster.propose()
    cluster.block(closed, cluster.close("node-1", closed))
    assert reason(cluster.outcome(cluster.vote("node-2", closed))) == "PROPOSAL_NOT_OPEN"
    cluster.verify()


def test_ballots_share_one_signature_and_stand_alone() -> None:
    cluster = LedgerCluster(4)
    first, second, third = (cluster.propose() for _ in range(3))
    cluster.block(first, second, cluster.close("node-1", second))
    ballot = cluster.ballot("node-2", [(first, "approve"), (second, "approve"), (third, "approve")])
    execution = cluster.block(ballot)
    votes = execution.vote_outcomes[command_digest(ballot)]
    assert [reason(outcome) for outcome in votes] == ["accepted", "PROPOSAL_NOT_OPEN", "UNKNOWN_PROPOSAL"]
    assert execution.outcomes[command_digest(ballot)] == votes[1]
    assert cluster.application.verdict(ballot) is None
    verdicts = cluster.application.vote_verdicts(ballot)
    assert [outcome and reason(outcome) for outcome in verdicts] == ["DUPLICATE", "PROPOSAL_NOT_OPEN", None]
    repacked = cluster.vote("node-2", first, "approve", voted_ms=cluster.time_ms - 1000)
    assert reason(cluster.outcome(repacked)) == "DUPLICATE", (
        "the same vote in another ballot is no second one"
    )
    assert cluster.application.faulty == frozenset()
    cluster.verify()


def test_a_vote_may_change_only_by_the_rules() -> None:
    cluster = LedgerCluster(4, rules=CHANGEABLE)
    proposal = cluster.propose("node-1", "terminate")
    cluster.block(proposal, cluster.vote("node-1", proposal))
    skipped = cluster.vote("node-1", proposal, "reject", revision=2)
    changed = cluster.vote("node-1", proposal, "reject", revision=1)
    assert reason(cluster.outcome(skipped)) == "REVISION_OUT_OF_ORDER"
    assert cluster.application.verdict(skipped) is None
    assert reason(cluster.outcome(changed)) == "accepted"
    assert reason(cluster.outcome(skipped)) == "accepted"
    assert reason(cluster.outcome(changed)) == "ALREADY_VOTED", "a later one is on record"
    assert cluster.application.faulty == frozenset(), "no revision was signed twice"
    cluster.verify()

    strict = LedgerCluster(4)
    proposal = strict.propose("node-1", "terminate")
    strict.block(proposal, strict.vote("node-1", proposal))
    assert reason(strict.outcome(strict.vote("node-1", proposal, "reject", revision=1))) == "ALREADY_VOTED"
    first_is_second = strict.vote("node-2", proposal, revision=1)
    assert reason(strict.outcome(first_is_second)) == "REVISION_OUT_OF_ORDER"
    assert strict.application.verdict(first_is_second) is not None
    assert strict.application.faulty == frozenset()
    strict.verify()


# ----------------------------------------------------------------------------------------- closing, receipts


def test_closing() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose("node-1")
    close, foreign = cluster.close("node-1", proposal), cluster.close("node-2", proposal)
    assert reason(cluster.outcome(close)) == "UNKNOWN_PROPOSAL"
    cluster.block(proposal, cluster.vote("node-2", proposal), cluster.vote("node-3", proposal))
    assert reason(cluster.outcome(foreign)) == "NOT_PROPOSER"
    execution = cluster.block(close)
    tally = only(execution, "tally")
    assert (tally.data["decision"], tally.data["cause"], tally.actor_id) == ("no_quorum", "closed", "node-1")
    assert execution.outcomes[command_digest(close)] == Outcome(True, "", "", "prop-0001", tally.sequence)
    assert cluster.outcome(close).entry_sequence == tally.sequence
    assert reason(cluster.outcome(close)) == "DUPLICATE"
    other = cluster.propose("node-1")
    cluster.decide(other)
    assert reason(cluster.outcome(cluster.close("node-1", other))) == "PROPOSAL_NOT_OPEN"
    cluster.verify()


def test_receipts() -> None:
    cluster = LedgerCluster(4)
    proposal, rejected = cluster.propose(), cluster.propose()
    failed = cluster.receipt("node-2", proposal, "failed", "0")
    assert reason(cluster.outcome(failed)) == "UNKNOWN_PROPOSAL"
    cluster.block(proposal)
    assert reason(cluster.outcome(failed)) == "NOT_APPROVED"
    assert cluster.application.verdict(failed) is None, "it may still be approved"
    cluster.block(*(cluster.vote(voter, proposal) for voter in cluster.ids))
    cluster.decide(rejected, "reject")
    assert reason(cluster.outcome(cluster.receipt("node-2", rejected))) == "NOT_APPROVED"
    assert reason(cluster.outcome(failed)) == "accepted"
    assert reason(cluster.outcome(failed)) == "DUPLICATE"
    done, again = cluster.receipt("node-3", proposal), cluster.receipt("node-4", proposal)
    execution = cluster.block(done, again)
    assert [reason(item) for item in execution.outcomes.values()] == ["accepted", "ALREADY_EXECUTED"]
    assert reason(cluster.outcome(again)) == "ALREADY_EXECUTED"
    more = [cluster.receipt("node-1", proposal, "partial", str(number)) for number in range(7)]
    execution = cluster.block(*more)
    assert [reason(item) for item in execution.outcomes.values()] == ["accepted"] * 6 + ["TOO_MANY_RECEIPTS"]
    assert reason(cluster.outcome(more[-1])) == "TOO_MANY_RECEIPTS"
    assert cluster.verify().executed == 1


def test_failures_leave_room_for_one_success() -> None:
    """On record and in the verifier: after eight failures one success, and nothing after that."""
    cluster = LedgerCluster(4)
    proposal = cluster.propose()
    cluster.decide(proposal)
    failed = [cluster.receipt("node-1", proposal, "failed", str(number)) for number in range(9)]
    execution = cluster.block(*failed)
    assert [reason(item) for item in execution.outcomes.values()] == ["accepted"] * 8 + ["TOO_MANY_RECEIPTS"]
    done, again = cluster.receipt("node-2", proposal), cluster.receipt("node-3", proposal)
    late = cluster.receipt("node-4", proposal, "partial", "late")
    execution = cluster.block(done, again, late)
    assert [reason(item) for item in execution.outcomes.values()] == [
        "accepted",
        "ALREADY_EXECUTED",
        "TOO_MANY_RECEIPTS",
    ]
    assert cluster.verify().executed == 1


def test_a_receipt_may_follow_in_the_block_of_the_decision() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose()
    votes = [cluster.vote(voter, proposal) for voter in cluster.ids]
    receipt = cluster.receipt("node-2", proposal)
    execution = cluster.block(proposal, *votes, cluster.close("node-1", proposal), receipt)
    assert events(execution) == ["propose", *["vote"] * 4, "tally", "execute"]
    assert only(execution, "tally").data["decision"] == "approved"
    cluster.verify()


# ----------------------------------------------------------------------------------------------- deadlines


def test_deadlines_come_first_and_in_order() -> None:
    cluster = LedgerCluster(4)
    window = cluster.propose(window_ms=3000)
    both = cluster.propose(window_ms=2000, expiry_ms=2000)
    expiry = cluster.propose(window_ms=9000, expiry_ms=1000)
    never = cluster.propose()
    cluster.block(window, both, expiry, never)
    start = cluster.time_ms
    assert cluster.application.next_deadline_ms() == start + 1000
    votes = [cluster.vote(voter, window) for voter in cluster.ids[:3]]
    execution = cluster.block(*votes, after_ms=1000)
    assert events(execution) == ["vote"] * 3 + ["tally"]
    assert cluster.application.next_deadline_ms() == start + 1000
    execution = cluster.block(cluster.vote("node-1", both), after_ms=2000)
    assert [(entry.event_type, entry.proposal_id) for entry in execution.entries] == [
        ("expired", "prop-0003"),
        ("expired", "prop-0002"),
    ]
    assert cluster.application.next_deadline_ms() is None
    cluster.verify()


def test_a_window_is_tallied_with_the_votes_at_hand() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose("node-1", "terminate", window_ms=500)
    cluster.block(proposal, *(cluster.vote(voter, proposal) for voter in cluster.ids[:2]))
    cluster.block(cluster.vote("node-3", proposal, "reject"), after_ms=500)
    execution = cluster.block(after_ms=1)
    assert events(execution) == ["tally"]
    assert (execution.entries[0].data["cause"], execution.entries[0].data["decision"]) == (
        "window",
        "approved",
    )
    assert cluster.block(after_ms=1).is_empty
    cluster.verify()


def test_a_restart_takes_up_everything() -> None:
    cluster = LedgerCluster(4, rules=CHANGEABLE)
    first, second = cluster.propose(window_ms=5000), cluster.propose("node-2", expiry_ms=4000)
    cluster.block(first, second, cluster.ballot("node-1", [(first, "approve"), (second, "reject")]))
    cluster.block(cluster.vote("node-1", first, "reject", revision=1))
    twin = VotingApplication(cluster.genesis, cluster.history)
    assert list(twin.open_proposals()) == list(cluster.application.open_proposals())
    assert twin.next_deadline_ms() == cluster.application.next_deadline_ms()
    block = [cluster.vote(voter, proposal) for voter in cluster.ids[1:] for proposal in (first, second)]
    height, time_ms = len(cluster.executions), cluster.time_ms + 10
    assert (
        twin.execute(height, time_ms, block).entries
        == cluster.application.execute(height, time_ms, block).entries
    )


def test_memory_does_not_grow_with_what_is_decided() -> None:
    """Of a finished proposal nothing stays behind."""
    cluster = LedgerCluster(4)
    for _ in range(40):
        cluster.decide(cluster.propose(window_ms=60_000))
    state = cluster.application._state
    assert (len(state._polls), len(state._digests), len(state._due), len(state._unknown)) == (0, 0, 0, 0)


def test_history_begins_with_block_0() -> None:
    cluster = LedgerCluster(4)
    totals = MemoryHistory(cluster.genesis).totals()
    assert (totals.height, totals.audit_size, totals.time_ms) == (0, 1, cluster.genesis.created_ms)
