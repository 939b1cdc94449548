"""What services answer, made from what the store reads: values in, messages out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from replication.consensus.analysis import AgreementCounts, find_blocs
from replication.consensus.approval import Missing
from replication.consensus.canonical import canonical_json
from replication.consensus.model import AuditEntry, Decision, ProposalStatus, VoteValue
from replication.consensus.rules import bft_quorum
from replication.identity.members import MemberSet
from replication.ledger.history import RecordedReceipt, RecordedVote
from replication.ledger.reading import Listed, StoredEntry, StoredProposal, Summary, VoteItem
from replication.ordering.blocks import BlockHeader
from replication.ordering.certificates import Certificate
from replication.v1 import audit_service_pb2, model_pb2, voting_service_pb2

__all__ = ["agreement", "blocs", "entry", "head", "history_item", "proposal", "summary"]

_VOTES: Final = {
    VoteValue.APPROVE: model_pb2.VOTE_VALUE_APPROVE,
    VoteValue.REJECT: model_pb2.VOTE_VALUE_REJECT,
    VoteValue.ABSTAIN: model_pb2.VOTE_VALUE_ABSTAIN,
}
_DECISIONS: Final = {
    Decision.PENDING: model_pb2.DECISION_PENDING,
    Decision.APPROVED: model_pb2.DECISION_APPROVED,
    Decision.REJECTED: model_pb2.DECISION_REJECTED,
    Decision.NO_QUORUM: model_pb2.DECISION_NO_QUORUM,
}
_STATUSES: Final = {
    ProposalStatus.OPEN: model_pb2.PROPOSAL_STATUS_OPEN,
    ProposalStatus.DECIDED: model_pb2.PROPOSAL_STATUS_DECIDED,
    ProposalStatus.EXECUTED: model_pb2.PROPOSAL_STATUS_EXECUTED,
    ProposalStatus.EXPIRED: model_pb2.PROPOSAL_STATUS_EXPIRED,
}
_OUTCOMES: Final = {
    "succeeded": model_pb2.EXECUTION_OUTCOME_SUCCEEDED,
    "failed": model_pb2.EXECUTION_OUTCOME_FAILED,
    "partial": model_pb2.EXECUTION_OUTCOME_PARTIAL,
}


def entry(item: StoredEntry) -> model_pb2.AuditEntry:
    """One link of the chain."""
    found = item.entry
    return model_pb2.AuditEntry(
        sequence=found.sequence,
        event_type=found.event_type,
        proposal_id=found.proposal_id or "",
        actor_id=found.actor_id or "",
        data_json=canonical_json(found.data).decode("utf-8"),
        time_ms=item.time_ms,
        prev_hash=found.prev_hash,
        hash=found.hash,
        height=item.height,
    )


def proposal(
    item: StoredProposal | Listed, *, listed: bool = False, missing: Sequence[Missing] = ()
) -> model_pb2.Proposal:
    """A proposal with everything on record, and what it lacks; one that is only listed comes without
    evidence, votes and receipts."""
    state = item.listed if isinstance(item, StoredProposal) else item
    found = state.proposal
    message = model_pb2.Proposal(
        id=found.id,
        proposer_id=found.proposer,
        action=found.action,
        target=found.target,
        evidence_json="" if listed else found.evidence_json,
        status=_STATUSES[state.status],
        decision=_DECISIONS[state.decision],
        digest=found.digest,
        request_id=found.request_id,
        created_ms=found.proposed_ms,
        closes_ms=found.closes_ms,
        expires_ms=found.expires_ms,
        decided_ms=state.decided_ms,
    )
    if isinstance(item, StoredProposal):
        message.votes.extend(_vote(vote) for vote in item.votes)
        if item.tally is not None:
            message.tally.CopyFrom(_tally(item.tally))
        message.missing.extend(
            model_pb2.MissingCondition(condition=lack.condition, count=lack.count, voters=lack.voters)
            for lack in missing
        )
        message.receipts.extend(_receipt(receipt, entry) for receipt, entry in item.receipts)
    return message


def history_item(item: VoteItem) -> voting_service_pb2.HistoryItem:
    """One vote of a voter's history."""
    return voting_service_pb2.HistoryItem(proposal_id=item.proposal_id, vote=_vote(item.vote))


def agreement(counts: AgreementCounts, voters: Sequence[str]) -> voting_service_pb2.GetAgreementResponse:
    """The agreement matrix of these voters."""
    matrix = counts.matrix(voters)
    rows = [
        voting_service_pb2.AgreementRow(rates=[matrix[voter][other] for other in voters]) for voter in voters
    ]
    return voting_service_pb2.GetAgreementResponse(voter_ids=voters, rows=rows)


def blocs(
    counts: AgreementCounts, voters: Sequence[str], threshold: float
) -> voting_service_pb2.GetBlocsResponse:
    """Groups that vote alike, and whether the search found all of them."""
    found, complete = find_blocs(counts.matrix(voters), threshold)
    return voting_service_pb2.GetBlocsResponse(
        blocs=[voting_service_pb2.Bloc(voter_ids=bloc) for bloc in found], complete=complete
    )


def summary(found: Summary, members: MemberSet) -> voting_service_pb2.GetSummaryResponse:
    """Counts of everything."""
    return voting_service_pb2.GetSummaryResponse(
        voter_count=members.n,
        max_byzantine_faults=members.max_faulty,
        bft_quorum=bft_quorum(members.n),
        total_proposals=found.proposals,
        open=found.open,
        approved=found.approved,
        rejected=found.rejected,
        no_quorum=found.no_quorum,
        executed=found.executed,
        expired=found.expired,
        audit_entries=found.totals.audit_size,
        audit_head=found.totals.audit_head.hex(),
        height=found.totals.height,
        unconfirmed=found.unconfirmed,
    )


def head(found: tuple[BlockHeader, Certificate | None]) -> audit_service_pb2.GetHeadResponse:
    """Where the record ends."""
    header, _ = found
    return audit_service_pb2.GetHeadResponse(
        height=header.height,
        block_hash=header.hash,
        audit_size=header.audit_size,
        audit_head=header.audit_head.hex(),
    )


def _vote(vote: RecordedVote) -> model_pb2.Vote:
    return model_pb2.Vote(
        voter_id=vote.voter,
        value=_VOTES[vote.value],
        reason=vote.data["reason"],
        revision=vote.revision,
        voted_ms=vote.data["voted_ms"],
        entry_sequence=vote.sequence,
    )


def _tally(found: AuditEntry) -> model_pb2.TallyResult:
    data: dict[str, Any] = found.data
    return model_pb2.TallyResult(
        decision=_DECISIONS[Decision(data["decision"])],
        approve_count=data["approve_count"],
        reject_count=data["reject_count"],
        abstain_count=data["abstain_count"],
        total_voters=data["total_voters"],
        quorum_required=data["quorum_required"],
        quorum_met=data["quorum_met"],
        approve_weight=data["approve_weight"],
        reject_weight=data["reject_weight"],
        threshold_used=data["threshold_used"],
        is_critical=data["is_critical"],
        cause=data["cause"],
        entry_sequence=found.sequence,
    )


def _receipt(receipt: RecordedReceipt, found: AuditEntry) -> model_pb2.ExecutionReceipt:
    return model_pb2.ExecutionReceipt(
        executor_id=receipt.executor,
        outcome=_OUTCOMES[receipt.outcome],
        detail=found.data["detail"],
        executed_ms=found.data["executed_ms"],
        entry_sequence=receipt.sequence,
    )
