"""The vocabulary of a voting session: its enumerations and its records.

Times are seconds since the epoch, as numbers; which clock they come from is the caller's choice. The records
are plain dataclasses. `Vote` and `TallyResult` never change once made; a `Proposal` is the live record of its
session, and an `AuditEntry` may be edited, which the chain's verification then finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import EnumType, StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

from replication.consensus.canonical import canonical_json

__all__ = [
    "AuditEntry",
    "Decision",
    "Proposal",
    "ProposalAction",
    "ProposalStatus",
    "TallyResult",
    "Vote",
    "VoteValue",
    "entry_hash",
]


class _AbstainByDefault(EnumType):
    """Lets `VoteValue()` mean ABSTAIN; an enumeration has no other way to be called without a value."""

    def __call__(cls, value: Any = "abstain", *names: Any, **options: Any) -> Any:
        return super().__call__(value, *names, **options)


class VoteValue(StrEnum, metaclass=_AbstainByDefault):
    """What a voter says. `VoteValue()` is ABSTAIN: a vote that says nothing abstains."""

    APPROVE = "approve"
    REJECT = "reject"
    ABSTAIN = "abstain"

    if TYPE_CHECKING:  # type checkers look here, and not at the metaclass, for what a call may leave out

        def __new__(cls, value: object = "abstain") -> Self: ...


class Decision(StrEnum):
    """The outcome of a proposal. PENDING: it has not been tallied. NO_QUORUM is not a rejection."""

    APPROVED = "approved"
    REJECTED = "rejected"
    NO_QUORUM = "no_quorum"
    PENDING = "pending"


class ProposalStatus(StrEnum):
    """Where a proposal stands: OPEN, then DECIDED (by a tally) or EXPIRED; if approved, EXECUTED last."""

    OPEN = "open"
    DECIDED = "decided"
    EXECUTED = "executed"
    EXPIRED = "expired"


class ProposalAction(StrEnum):
    """The well-known actions. Any other non-empty string is a legal, and not critical, action."""

    QUARANTINE = "quarantine"
    TERMINATE = "terminate"
    ESCALATE = "escalate"
    RELEASE = "release"
    RESTRICT = "restrict"

    def is_critical(self: str) -> bool:
        """Return whether the action needs the supermajority; on the class, `is_critical("any text")`."""
        return self in _CRITICAL_ACTIONS


_CRITICAL_ACTIONS = frozenset({"terminate", "escalate"})


@dataclass(frozen=True, slots=True)
class Vote:
    """One voter's vote.

    `timestamp` is in seconds. `hash` is the SHA-256, full hex, over the canonical JSON of the other fields;
    it is filled in when left out.
    """

    voter_id: str
    value: VoteValue
    timestamp: float
    reason: str | None = None
    hash: str = ""

    def __post_init__(self) -> None:
        if not self.hash:
            object.__setattr__(self, "hash", self.compute_hash())

    def compute_hash(self) -> str:
        """Return the SHA-256 (hex) over the canonical JSON of voter_id, value, timestamp and reason."""
        fields = {
            "voter_id": self.voter_id,
            "value": self.value.value,
            "timestamp": self.timestamp,
            "reason": self.reason,
        }
        return sha256(canonical_json(fields)).hexdigest()


@dataclass(frozen=True, slots=True)
class TallyResult:
    """The count of a proposal's votes, and the decision that follows.

    Counts are voters; weights are the sums of voters' weights and `threshold_used` is a share in (0, 1], as
    floats for readers (the decision is taken on the exact values). `quorum_required` is a number of voters,
    and `quorum_met` compares it with approvals plus rejections. `hash_chain_valid` says whether the audit
    entries since the previous tally were intact.
    """

    proposal_id: str
    decision: Decision
    approve_count: int
    reject_count: int
    abstain_count: int
    total_voters: int
    quorum_required: int
    quorum_met: bool
    approve_weight: float
    reject_weight: float
    threshold_used: float
    is_critical: bool = False
    hash_chain_valid: bool = True

    @property
    def approved(self) -> bool:
        """Whether the proposal was approved; the only outcome that authorises anything."""
        return self.decision is Decision.APPROVED

    @property
    def participation_rate(self) -> float:
        """The share of all voters, 0 to 1, who approved or rejected. Abstaining is not participating."""
        return (self.approve_count + self.reject_count) / self.total_voters if self.total_voters else 0.0


@dataclass(slots=True)
class Proposal:
    """A proposed action and what became of it.

    `created_at`, `decided_at` and `expires_at` are in seconds; `expires_at` None is never. `votes` holds the
    last vote of each voter, in the order of their first. `evidence` is a JSON object (None if none was
    given).
    """

    id: str
    proposer_id: str
    action: str
    target: str | None = None
    evidence: dict[str, Any] | None = None
    status: ProposalStatus = ProposalStatus.OPEN
    created_at: float = 0.0
    decided_at: float | None = None
    expires_at: float | None = None
    votes: dict[str, Vote] = field(default_factory=dict)
    result: TallyResult | None = None

    @property
    def is_critical(self) -> bool:
        """Whether the action needs the supermajority."""
        return ProposalAction.is_critical(self.action)


def entry_hash(
    sequence: int,
    event_type: str,
    proposal_id: str | None,
    actor_id: str | None,
    data: Mapping[str, Any],
    timestamp: float,
    prev_hash: str,
) -> str:
    """Return the SHA-256 (64 hex digits) over the canonical JSON of an audit entry's fields and `prev_hash`.

    Raises `CanonicalJSONError` if a field has no canonical form.
    """
    fields = {
        "sequence": sequence,
        "event_type": event_type,
        "proposal_id": proposal_id,
        "actor_id": actor_id,
        "data": data,
        "timestamp": timestamp,
        "prev_hash": prev_hash,
    }
    return sha256(canonical_json(fields)).hexdigest()


@dataclass(slots=True)
class AuditEntry:
    """One event in the hash chain.

    `sequence` counts from 0; `timestamp` is in seconds; `proposal_id` and `actor_id` are None where the event
    has none; `data` is a JSON object. `hash` covers every other field, and `prev_hash` is the hash of the
    entry before.
    """

    sequence: int
    event_type: str
    proposal_id: str | None
    actor_id: str | None
    data: dict[str, Any]
    timestamp: float
    prev_hash: str = ""
    hash: str = ""

    def compute_hash(self, prev_hash: str = "") -> str:
        """Return the hash this entry must have behind an entry with hash `prev_hash` ("" for the first).

        The entry's own `prev_hash` is not used: whoever checks a chain supplies the link it has verified.
        Raises `CanonicalJSONError` if a field has no canonical form.
        """
        return entry_hash(
            self.sequence,
            self.event_type,
            self.proposal_id,
            self.actor_id,
            self.data,
            self.timestamp,
            prev_hash,
        )
