"""From protobuf to the records of `client.model`: totally and strictly.

Every field is checked before it is believed, since a node may lie: an enumeration value that is unspecified
or unknown, a digest of the wrong length, text that is not the JSON it must be. Whatever is wrong gives a
`ResponseError` that names the field, and no other exception."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from replication.client.errors import ResponseError
from replication.client.model import (
    Agreement,
    AuditEntry,
    AuditHead,
    Blocs,
    CastVote,
    ChainCheck,
    ClusterStatus,
    Counters,
    Decision,
    EntryPage,
    ExecutionOutcome,
    ExecutorInfo,
    HistoryItem,
    MemberInfo,
    Membership,
    MemberState,
    Missing,
    Proposal,
    ProposalStatus,
    Receipt,
    SignedReceipt,
    Summary,
    Tally,
    Vote,
    VoteValue,
)
from replication.v1 import audit_service_pb2, cluster_service_pb2, model_pb2, voting_service_pb2

__all__ = [
    "agreement",
    "audit_entry",
    "audit_head",
    "blocs",
    "cast_vote",
    "chain_check",
    "cluster_status",
    "entry_page",
    "history_item",
    "membership",
    "out_of_order",
    "outcome_to_wire",
    "proposal",
    "proposal_of",
    "receipt_to_wire",
    "repeated_page",
    "status_to_wire",
    "summary",
    "vote",
    "vote_value_to_wire",
]

T = TypeVar("T")

_DIGEST_SIZE: Final = 32
_HEX_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FRACTION: Final = re.compile(r"[1-9][0-9]*(/[1-9][0-9]*)?", re.ASCII)
_CAUSES: Final = frozenset({"settled", "window", "closed", "expired"})

_VOTE_VALUES: Final = {
    model_pb2.VOTE_VALUE_APPROVE: VoteValue.APPROVE,
    model_pb2.VOTE_VALUE_REJECT: VoteValue.REJECT,
    model_pb2.VOTE_VALUE_ABSTAIN: VoteValue.ABSTAIN,
}
_DECISIONS: Final = {
    model_pb2.DECISION_PENDING: Decision.PENDING,
    model_pb2.DECISION_APPROVED: Decision.APPROVED,
    model_pb2.DECISION_REJECTED: Decision.REJECTED,
    model_pb2.DECISION_NO_QUORUM: Decision.NO_QUORUM,
}
_STATUSES: Final = {
    model_pb2.PROPOSAL_STATUS_OPEN: ProposalStatus.OPEN,
    model_pb2.PROPOSAL_STATUS_DECIDED: ProposalStatus.DECIDED,
    model_pb2.PROPOSAL_STATUS_EXECUTED: ProposalStatus.EXECUTED,
    model_pb2.PROPOSAL_STATUS_EXPIRED: ProposalStatus.EXPIRED,
}
_OUTCOMES: Final = {
    model_pb2.EXECUTION_OUTCOME_SUCCEEDED: ExecutionOutcome.SUCCEEDED,
    model_pb2.EXECUTION_OUTCOME_FAILED: ExecutionOutcome.FAILED,
    model_pb2.EXECUTION_OUTCOME_PARTIAL: ExecutionOutcome.PARTIAL,
}
_VOTE_VALUES_TO_WIRE: Final = {value: number for number, value in _VOTE_VALUES.items()}
_STATUSES_TO_WIRE: Final = {value: number for number, value in _STATUSES.items()}
_OUTCOMES_TO_WIRE: Final = {value: number for number, value in _OUTCOMES.items()}


def vote_value_to_wire(value: VoteValue) -> model_pb2.VoteValue.ValueType:
    """The wire number of a vote value."""
    return _VOTE_VALUES_TO_WIRE[value]


def status_to_wire(status: ProposalStatus) -> model_pb2.ProposalStatus.ValueType:
    """The wire number of a proposal status."""
    return _STATUSES_TO_WIRE[status]


def outcome_to_wire(outcome: ExecutionOutcome) -> model_pb2.ExecutionOutcome.ValueType:
    """The wire number of an execution outcome."""
    return _OUTCOMES_TO_WIRE[outcome]


def vote(message: model_pb2.Vote) -> Vote:
    """A committed vote."""
    return Vote(
        voter_id=_named(message.voter_id, "vote.voter_id"),
        value=_enum(_VOTE_VALUES, message.value, "vote.value"),
        reason=message.reason,
        revision=message.revision,
        voted_ms=message.voted_ms,
        entry_sequence=message.entry_sequence,
    )


def proposal(message: model_pb2.Proposal, *, listed: bool = False) -> Proposal:
    """A proposal; `listed` ones come without evidence.

    Status, decision and tally have to agree with each other.
    """
    status = _enum(_STATUSES, message.status, "proposal.status")
    decision = _enum(_DECISIONS, message.decision, "proposal.decision")
    if (status is ProposalStatus.OPEN) != (decision is Decision.PENDING):
        raise ResponseError(
            _text("proposal.decision", f"{decision.value} does not fit status {status.value}")
        )
    tally = _tally(message.tally) if message.HasField("tally") else None
    if tally is not None and tally.decision is not decision:
        raise ResponseError(
            _text("proposal.tally", f"says {tally.decision.value}, the proposal {decision.value}")
        )
    return Proposal(
        id=_named(message.id, "proposal.id"),
        proposer_id=_named(message.proposer_id, "proposal.proposer_id"),
        action=_named(message.action, "proposal.action"),
        target=message.target,
        evidence=None
        if listed and not message.evidence_json
        else _object(message.evidence_json, "proposal.evidence"),
        status=status,
        decision=decision,
        digest=_digest(message.digest, "proposal.digest"),
        request_id=message.request_id,
        created_ms=message.created_ms,
        closes_ms=message.closes_ms,
        expires_ms=message.expires_ms,
        decided_ms=message.decided_ms,
        votes=tuple(vote(item) for item in message.votes),
        tally=tally,
        receipts=tuple(_receipt(item) for item in message.receipts),
        missing=tuple(
            Missing(_named(item.condition, "missing.condition"), item.count, tuple(item.voters))
            for item in message.missing
        ),
    )


def cast_vote(message: voting_service_pb2.CastVoteResponse) -> CastVote:
    """The answer to a vote."""
    _present(message, "vote")
    _present(message, "proposal")
    return CastVote(vote(message.vote), proposal(message.proposal))


def proposal_of(
    message: voting_service_pb2.ProposeResponse
    | voting_service_pb2.CloseProposalResponse
    | voting_service_pb2.ExecuteResponse
    | voting_service_pb2.ReportExecutionResponse
    | voting_service_pb2.GetProposalResponse,
) -> Proposal:
    """The proposal inside any answer that holds one."""
    _present(message, "proposal")
    return proposal(message.proposal)


def history_item(message: voting_service_pb2.HistoryItem) -> HistoryItem:
    """One vote of a voter's history."""
    _present(message, "vote")
    return HistoryItem(_named(message.proposal_id, "history.proposal_id"), vote(message.vote))


def agreement(message: voting_service_pb2.GetAgreementResponse) -> Agreement:
    """The agreement matrix; it must be square, with rates from 0 to 1."""
    voters = tuple(message.voter_ids)
    rates = tuple(tuple(row.rates) for row in message.rows)
    if len(rates) != len(voters) or any(len(row) != len(voters) for row in rates):
        raise ResponseError(_text("agreement.rows", f"not a square matrix of {len(voters)} voters"))
    if any(not 0.0 <= rate <= 1.0 for row in rates for rate in row):
        raise ResponseError(_text("agreement.rates", "a rate is not between 0 and 1"))
    return Agreement(voters, rates)


def blocs(message: voting_service_pb2.GetBlocsResponse, threshold: float) -> Blocs:
    """The voting blocs found at `threshold`."""
    return Blocs(tuple(tuple(bloc.voter_ids) for bloc in message.blocs), message.complete, threshold)


def summary(message: voting_service_pb2.GetSummaryResponse) -> Summary:
    """Counts of the whole record."""
    return Summary(
        voter_count=message.voter_count,
        max_byzantine_faults=message.max_byzantine_faults,
        bft_quorum=message.bft_quorum,
        total_proposals=message.total_proposals,
        open=message.open,
        approved=message.approved,
        rejected=message.rejected,
        no_quorum=message.no_quorum,
        executed=message.executed,
        expired=message.expired,
        audit_entries=message.audit_entries,
        audit_head=_hash(message.audit_head, "summary.audit_head"),
        height=message.height,
        unconfirmed=message.unconfirmed,
    )


def audit_entry(message: model_pb2.AuditEntry) -> AuditEntry:
    """One entry. Only entry 0 has no previous hash."""
    if message.sequence or message.prev_hash:
        _hash(message.prev_hash, "entry.prev_hash")
    return AuditEntry(
        sequence=message.sequence,
        event_type=_named(message.event_type, "entry.event_type"),
        proposal_id=message.proposal_id,
        actor_id=message.actor_id,
        data=_object(message.data_json, "entry.data"),
        time_ms=message.time_ms,
        prev_hash=message.prev_hash,
        hash=_hash(message.hash, "entry.hash"),
        height=message.height,
    )


def entry_page(
    message: audit_service_pb2.ListEntriesResponse, from_sequence: int, event_type: str = ""
) -> EntryPage:
    """A page of entries, which must be the ones asked for, without gaps (all those of one type, in order)."""
    entries = tuple(audit_entry(item) for item in message.entries)
    expected = from_sequence
    for entry in entries:
        if entry.sequence < expected or (entry.sequence > expected and not event_type):
            raise out_of_order(entry.sequence, expected)
        if event_type and entry.event_type != event_type:
            raise ResponseError(_text("entry.event_type", f"is {entry.event_type!r:.40}, not {event_type}"))
        expected = entry.sequence + 1
    return EntryPage(entries, message.audit_size)


def audit_head(message: audit_service_pb2.GetHeadResponse) -> AuditHead:
    """Length and last hash of a node's chain."""
    return AuditHead(
        height=message.height,
        block_hash=_digest(message.block_hash, "head.block_hash"),
        audit_size=message.audit_size,
        audit_head=_hash(message.audit_head, "head.audit_head"),
    )


def chain_check(message: audit_service_pb2.VerifyChainResponse) -> ChainCheck:
    """A node's verdict on its own record; a bad one must say what is wrong."""
    return ChainCheck(
        valid=message.valid,
        height=message.height,
        audit_size=message.audit_size,
        audit_head=message.audit_head,
        problem=message.problem if message.valid else message.problem or "the node did not say what is wrong",
    )


def cluster_status(message: cluster_service_pb2.GetStatusResponse) -> ClusterStatus:
    """The state of the cluster as the answering node sees it."""
    members = tuple(_member(item) for item in message.members)
    if len({member.id for member in members}) != len(members):
        raise ResponseError(_text("status.members", "a member is listed twice"))
    counters = message.counters
    return ClusterStatus(
        cluster_id=_digest(message.cluster_id, "status.cluster_id"),
        name=message.name,
        epoch=message.epoch,
        view=message.view,
        coordinator=_named(message.coordinator, "status.coordinator"),
        n=message.n,
        f=message.f,
        tally_quorum=message.tally_quorum,
        commit_quorum=message.commit_quorum,
        node_id=_named(message.node_id, "status.node_id"),
        members=members,
        pending_commands=message.pending_commands,
        counters=Counters(
            signatures_verified=counters.signatures_verified,
            fsyncs=counters.fsyncs,
            cpu_seconds=counters.cpu_seconds,
            blocks=counters.blocks,
            decisions=counters.decisions,
        ),
        version=message.version,
        muted=message.muted,
        suspected=message.suspected,
        can_progress=message.can_progress,
        clock_ms=message.clock_ms,
        certificate_expires_ms=message.certificate_expires_ms,
    )


def membership(message: cluster_service_pb2.ListMembersResponse) -> Membership:
    """The members of the current epoch."""
    members = tuple(
        MemberInfo(
            id=_named(item.id, "member.id"),
            address=item.address,
            public_key=_digest(item.public_key, "member.public_key"),
            weight=item.weight,
            incarnation=_digest(item.incarnation, "member.incarnation") if item.incarnation else b"",
            faulty=item.faulty,
            evidence_sequence=item.evidence_sequence,
        )
        for item in message.members
    )
    executors = tuple(
        ExecutorInfo(_named(item.id, "executor.id"), _digest(item.public_key, "executor.public_key"))
        for item in message.executors
    )
    return Membership(message.epoch, message.base_height, members, executors)


def receipt_to_wire(receipt: SignedReceipt) -> voting_service_pb2.ReportExecutionRequest:
    """A receipt on its way to a node."""
    return voting_service_pb2.ReportExecutionRequest(
        executor_id=receipt.executor_id,
        epoch=receipt.epoch,
        proposal_digest=receipt.proposal_digest,
        outcome=outcome_to_wire(receipt.outcome),
        detail=receipt.detail,
        executed_ms=receipt.executed_ms,
        signature=receipt.signature,
    )


def out_of_order(sequence: int, expected: int) -> ResponseError:
    """The error for an entry that is not the one due."""
    return ResponseError(_text("entries", f"entry {sequence} came where {expected} was due"))


def repeated_page(token: str) -> ResponseError:
    """The error for a listing that would go round for ever."""
    return ResponseError(_text("next_page_token", f"{token!r:.80} came twice"))


def _member(message: cluster_service_pb2.MemberStatus) -> MemberState:
    # A node that has not heard from a member yet knows no head of it.
    head = _hash(message.audit_head, "member.audit_head") if message.audit_head else ""
    return MemberState(
        id=_named(message.id, "member.id"),
        address=message.address,
        reachable=message.reachable,
        height=message.height,
        audit_size=message.audit_size,
        audit_head=head,
        weight=message.weight,
        silent_ms=message.silent_ms,
    )


def _tally(message: model_pb2.TallyResult) -> Tally:
    decision = _enum(_DECISIONS, message.decision, "tally.decision")
    if decision is Decision.PENDING:
        raise ResponseError(_text("tally.decision", "a tally cannot be pending"))
    if message.cause not in _CAUSES:
        raise ResponseError(_text("tally.cause", f"{message.cause!r:.40} is not a known cause"))
    if not _FRACTION.fullmatch(message.threshold_used):
        raise ResponseError(
            _text("tally.threshold_used", f"{message.threshold_used!r:.40} is not a fraction")
        )
    return Tally(
        decision=decision,
        approve_count=message.approve_count,
        reject_count=message.reject_count,
        abstain_count=message.abstain_count,
        total_voters=message.total_voters,
        quorum_required=message.quorum_required,
        quorum_met=message.quorum_met,
        approve_weight=message.approve_weight,
        reject_weight=message.reject_weight,
        threshold_used=message.threshold_used,
        is_critical=message.is_critical,
        cause=message.cause,
        entry_sequence=message.entry_sequence,
    )


def _receipt(message: model_pb2.ExecutionReceipt) -> Receipt:
    return Receipt(
        executor_id=_named(message.executor_id, "receipt.executor_id"),
        outcome=_enum(_OUTCOMES, message.outcome, "receipt.outcome"),
        detail=message.detail,
        executed_ms=message.executed_ms,
        entry_sequence=message.entry_sequence,
    )


def _enum(table: Mapping[Any, T], number: int, field: str) -> T:
    value = table.get(number)
    if value is None:
        raise ResponseError(_text(field, f"{number} is not a known value"))
    return value


def _digest(value: bytes, field: str) -> bytes:
    if len(value) != _DIGEST_SIZE:
        raise ResponseError(_text(field, f"has {len(value)} bytes instead of {_DIGEST_SIZE}"))
    return value


def _hash(value: str, field: str) -> str:
    if not _HEX_HASH.fullmatch(value):
        raise ResponseError(_text(field, f"{value!r:.80} is not a SHA-256 in lower-case hex"))
    return value


def _named(value: str, field: str) -> str:
    if not value:
        raise ResponseError(_text(field, "is missing"))
    return value


def _object(text: str, field: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ResponseError(_text(field, f"is not JSON ({error})")) from error
    if not isinstance(value, dict):
        raise ResponseError(_text(field, "is not a JSON object"))
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # Python's parser takes NaN and Infinity by itself


def _present(message: Any, field: str) -> None:
    if not message.HasField(field):
        raise ResponseError(_text(field, "is missing"))


def _text(field: str, problem: str) -> str:
    return (
        f"The node's answer cannot be used: {field}: {problem}. The node is faulty or of another version; "
        "ask another node (--node) and look at this one."
    )
