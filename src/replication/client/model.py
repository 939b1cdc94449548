"""What a client gets: plain, immutable records, without protobuf.

Times are integer milliseconds since the Unix epoch (names end in `_ms`), 0 where there is none; weights are
integers; digests are 32 raw bytes, hashes of audit entries lower-case hex. Enumerations are those of
`replication.consensus`. `to_json` turns any of these records into values that `json.dumps` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from replication.consensus.model import Decision, ProposalStatus, VoteValue

__all__ = [
    "Agreement",
    "AuditEntry",
    "AuditHead",
    "Blocs",
    "CastVote",
    "Certificate",
    "ChainCheck",
    "ClusterStatus",
    "Counters",
    "Decision",
    "EntryPage",
    "ExecutionOutcome",
    "ExecutorInfo",
    "HistoryItem",
    "MemberInfo",
    "MemberState",
    "Membership",
    "Missing",
    "Proposal",
    "ProposalStatus",
    "Receipt",
    "SignedReceipt",
    "Summary",
    "Tally",
    "Vote",
    "VoteValue",
    "to_json",
]


class ExecutionOutcome(StrEnum):
    """How an execution ended, as its executor reports it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Vote:
    """One committed vote. `revision` counts changes of the vote; `entry_sequence` names its audit entry."""

    voter_id: str
    value: VoteValue
    reason: str
    revision: int
    voted_ms: int
    entry_sequence: int


@dataclass(frozen=True, slots=True)
class Tally:
    """The count as every node recomputed it. `threshold_used` is an exact fraction such as ``2/3``.

    `cause` says why the tally was taken: settled, window, closed or expired.
    """

    decision: Decision
    approve_count: int
    reject_count: int
    abstain_count: int
    total_voters: int
    quorum_required: int
    quorum_met: bool
    approve_weight: int
    reject_weight: int
    threshold_used: str
    is_critical: bool
    cause: str
    entry_sequence: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """One report of an executor about an approved proposal."""

    executor_id: str
    outcome: ExecutionOutcome
    detail: str
    executed_ms: int
    entry_sequence: int


@dataclass(frozen=True, slots=True)
class Missing:
    """What an open proposal lacks for an approval: `count` more votes or approvals, of these `voters`, who
    have not voted. `condition` is quorum, approvals, majority or "group NAME"."""

    condition: str
    count: int
    voters: tuple[str, ...]

    @property
    def is_possible(self) -> bool:
        """Whether the voters who are left could still fulfil it."""
        return len(self.voters) >= self.count


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt as its executor signed it, for one epoch (`replication.client.executor`)."""

    executor_id: str
    epoch: int
    proposal_digest: bytes
    outcome: ExecutionOutcome
    detail: str
    executed_ms: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal with what is committed about it.

    In listings `evidence` is None and votes and receipts are empty.
    """

    id: str
    proposer_id: str
    action: str
    target: str
    evidence: Mapping[str, Any] | None
    status: ProposalStatus
    decision: Decision
    digest: bytes
    request_id: str
    created_ms: int
    closes_ms: int
    expires_ms: int
    decided_ms: int
    votes: tuple[Vote, ...]
    tally: Tally | None
    receipts: tuple[Receipt, ...]
    missing: tuple[Missing, ...] = ()

    @property
    def approved(self) -> bool:
        """Whether the decision is APPROVED. To act on it, verify its certificate: this is one node's word."""
        return self.decision is Decision.APPROVED

    @property
    def decided(self) -> bool:
        """Whether the proposal is past voting, by a decision or by expiry."""
        return self.status is not ProposalStatus.OPEN


@dataclass(frozen=True, slots=True)
class CastVote:
    """The answer to a vote: the vote as committed, and the proposal after it."""

    vote: Vote
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One vote of a voter, with the proposal it is about."""

    proposal_id: str
    vote: Vote


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often each pair of voters agreed, from 0 to 1; rows and columns in the order of `voter_ids`."""

    voter_ids: tuple[str, ...]
    rates: tuple[tuple[float, ...], ...]

    def rate(self, voter: str, other: str) -> float:
        """The rate of one pair. Raises `KeyError` for an unknown voter."""
        try:
            return self.rates[self.voter_ids.index(voter)][self.voter_ids.index(other)]
        except ValueError:
            raise KeyError(f"{voter!r} or {other!r} is not a voter of this cluster") from None


@dataclass(frozen=True, slots=True)
class Blocs:
    """Groups of voters that vote alike. `complete` is False when the search was cut short."""

    blocs: tuple[tuple[str, ...], ...]
    complete: bool
    threshold: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of voters, proposals by state, and entries."""

    voter_count: int
    max_byzantine_faults: int
    bft_quorum: int
    total_proposals: int
    open: int
    approved: int
    rejected: int
    no_quorum: int
    executed: int
    expired: int
    audit_entries: int
    audit_head: str
    height: int
    unconfirmed: int = 0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One link of the audit hash chain; `time_ms` is the time of its block."""

    sequence: int
    event_type: str
    proposal_id: str
    actor_id: str
    data: Mapping[str, Any]
    time_ms: int
    prev_hash: str
    hash: str
    height: int


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Some entries in order, and the length of the chain when the node answered."""

    entries: tuple[AuditEntry, ...]
    audit_size: int


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Length and last hash of one node's chain, and the block they belong to."""

    height: int
    block_hash: bytes
    audit_size: int
    audit_head: str


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """A node's verdict on its own stored record. It proves nothing about a node that lies."""

    valid: bool
    height: int
    audit_size: int
    audit_head: str
    problem: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A decision certificate as text.

    `verified` says whether this client checked it against a genesis file.
    """

    proposal_id: str
    text: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """Work of one node since its process started; CPU time in seconds."""

    signatures_verified: int
    fsyncs: int
    cpu_seconds: float
    blocks: int
    decisions: int


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member as the node that answered sees it; `silent_ms` since something was heard from it."""

    id: str
    address: str
    reachable: bool
    height: int
    audit_size: int
    audit_head: str
    weight: int
    silent_ms: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The cluster as node `node_id` sees it.

    `muted` says why this node signs nothing, `suspected` why it suspects the coordinator; both are empty when
    all is well. `can_progress`: whether it hears from a commit quorum, itself included. `clock_skew_ms`: by
    how much the node's clock is at least ahead of this host's (behind it, if negative); known after a survey.
    """

    cluster_id: bytes
    name: str
    epoch: int
    view: int
    coordinator: str
    n: int
    f: int
    tally_quorum: int
    commit_quorum: int
    node_id: str
    members: tuple[MemberState, ...]
    pending_commands: int
    counters: Counters
    version: str
    muted: str = ""
    suspected: str = ""
    can_progress: bool = True
    clock_ms: int = 0
    clock_skew_ms: int = 0
    certificate_expires_ms: int = 0

    def member(self, member_id: str) -> MemberState | None:
        """What the node says about one member, None if it does not list it."""
        return next((member for member in self.members if member.id == member_id), None)


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One member as the record knows it.

    `incarnation` is the nonce of the disk it was let back in with, empty for its first. `faulty` members
    have been proven to contradict themselves, by the audit entry `evidence_sequence`; their votes count as
    abstentions.
    """

    id: str
    address: str
    public_key: bytes
    weight: int
    incarnation: bytes
    faulty: bool
    evidence_sequence: int


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """Who may sign receipts besides the members."""

    id: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Membership:
    """The members of the current epoch, in the order in which they coordinate, and its executors."""

    epoch: int
    base_height: int
    members: tuple[MemberInfo, ...]
    executors: tuple[ExecutorInfo, ...] = ()


def to_json(value: Any) -> Any:
    """`value` as JSON values: records become objects, bytes lower-case hex, enumerations their values.

    Raises `TypeError` for anything that is not a record of this module or made of JSON values.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")
