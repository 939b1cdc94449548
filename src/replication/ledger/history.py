"""What the application needs to know of the committed record, and a history in memory for tests and tools.

The application keeps open proposals in memory and nothing else; whatever is finished it looks up here, so
that its memory does not grow with the record. `History` is that view; the store implements it over its
tables, `MemoryHistory` over dictionaries. Both are projections of the audit entries alone: `advance` and the
`read_*` functions say how an entry changes them, so that there is one answer to what an entry means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

from replication.consensus.canonical import canonical_json
from replication.consensus.chain import GENESIS_PREV_HASH, make_entry
from replication.consensus.model import AuditEntry, Decision, ProposalStatus, VoteValue
from replication.errors import InvariantError
from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet
from replication.identity.signbytes import OUTCOME_CODES, VOTE_CODES, receipt_bytes, vote_bytes

from .membership import apply_change, parse_change

__all__ = [
    "FinishedProposal",
    "History",
    "MemoryHistory",
    "OpenProposal",
    "RecordedReceipt",
    "RecordedVote",
    "Totals",
    "advance",
    "entry_timestamp",
    "genesis_entry",
    "genesis_totals",
    "has_key",
    "proposal_id_of",
    "read_finished",
    "read_open",
    "read_receipt",
    "read_vote",
]


@dataclass(frozen=True)
class RecordedVote:
    """A vote on record. `mark` is the SHA-256 of its sign-bytes; `data` is its entry's data, with which it
    can be shown to anyone; `sequence` is that of the entry."""

    voter: str
    value: VoteValue
    revision: int
    mark: bytes
    sequence: int
    data: Mapping[str, Any] = field(repr=False)

    @property
    def epoch(self) -> int:
        """The epoch whose key signed it."""
        return int(self.data["epoch"])


@dataclass(frozen=True)
class RecordedReceipt:
    """A receipt on record. `mark` is the SHA-256 of its sign-bytes; `sequence` is that of its entry."""

    executor: str
    outcome: str
    mark: bytes
    sequence: int


@dataclass(frozen=True)
class OpenProposal:
    """A proposal that is not decided. Times are block times in milliseconds; 0 is no such deadline.

    `votes` are the last votes of all who voted and count, in order of their first. `epoch` is the one in
    which it was proposed, `sequence` that of its entry.
    """

    id: str
    number: int
    digest: bytes
    proposer: str
    request_id: str
    action: str
    target: str
    evidence_json: str
    window_ms: int
    expiry_ms: int
    proposed_ms: int
    epoch: int
    sequence: int
    votes: tuple[RecordedVote, ...] = ()

    @property
    def closes_ms(self) -> int:
        """End of the voting window, 0 for none."""
        return self.proposed_ms + self.window_ms if self.window_ms else 0

    @property
    def expires_ms(self) -> int:
        """After this it is void, 0 for never."""
        return self.proposed_ms + self.expiry_ms if self.expiry_ms else 0


@dataclass(frozen=True)
class FinishedProposal:
    """A proposal that was tallied or has expired.

    `cause` says why it was tallied (settled, window, closed, expired); `approve_count` are the approving
    voters of that tally, `decided_epoch` the epoch in which it was taken. `sequence` is that of the propose
    entry, `tally_sequence` that of the tally. `receipts` are in order.
    """

    id: str
    number: int
    digest: bytes
    proposer: str
    request_id: str
    action: str
    target: str
    evidence_json: str
    window_ms: int
    expiry_ms: int
    sequence: int
    decision: Decision
    status: ProposalStatus
    cause: str
    approve_count: int
    decided_epoch: int
    tally_sequence: int
    receipts: tuple[RecordedReceipt, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Where the record stands. `audit_head` is the raw hash of the last entry.

    `members` are those of the current epoch, which began with the block above `base_height` (0 in epoch 0).
    `recorded_view` is the highest view of this epoch on record. `incarnations` holds the nonce of each member
    that has rejoined, `rejoined_ms` the block time at which it last did; `faulty` the sequence of the
    evidence entry against each member that is proven faulty.
    """

    height: int
    time_ms: int
    proposals: int
    audit_size: int
    audit_head: bytes
    members: MemberSet
    base_height: int = 0
    recorded_view: int = 0
    incarnations: Mapping[str, bytes] = field(default_factory=dict)
    rejoined_ms: Mapping[str, int] = field(default_factory=dict)
    faulty: Mapping[str, int] = field(default_factory=dict)


class History(Protocol):
    """The committed record as the application sees it. Each look-up costs O(log n) at most."""

    def finished(self, digest: bytes) -> FinishedProposal | None:
        """The decided or expired proposal with this digest."""
        ...

    def finished_by_id(self, proposal_id: str) -> FinishedProposal | None:
        """The decided or expired proposal with this id."""
        ...

    def request(self, proposer: str, request_id: str) -> bytes | None:
        """Digest of the proposal that a proposer committed under a request id, open or finished."""
        ...

    def vote(self, digest: bytes, voter: str) -> RecordedVote | None:
        """The last vote of a voter on a proposal, open or finished."""
        ...

    def open_proposals(self) -> Sequence[OpenProposal]:
        """All open proposals by number, with the votes that count. Asked at start only."""
        ...

    def totals(self) -> Totals:
        """Where the record stands."""
        ...


# ------------------------------------------------------------------------------------- what an entry means


def proposal_id_of(number: int) -> str:
    """The id of the proposal with this number, counted from 1 in commit order."""
    return f"prop-{number:04d}"


def genesis_entry(genesis: Genesis) -> AuditEntry:
    """Entry 0: the cluster's id and its first members."""
    members = [
        {"id": member.id, "public_key": member.public_key.hex(), "weight": member.weight}
        for member in genesis.members.members
    ]
    data = {"cluster_id": genesis.cluster_id.hex(), "epoch": genesis.members.epoch, "members": members}
    timestamp = entry_timestamp(genesis.created_ms)
    return make_entry(0, "genesis", "", "genesis", data, timestamp, GENESIS_PREV_HASH)


def entry_timestamp(time_ms: int) -> int | float:
    """A block time as it stands in entries, in seconds: an int when it is whole, else the nearest double."""
    return time_ms / 1000 if time_ms % 1000 else time_ms // 1000


def genesis_totals(genesis: Genesis, entry: AuditEntry | None = None) -> Totals:
    """Where a record stands that holds entry 0 and nothing else; `entry` is that one, if it was made."""
    head = bytes.fromhex((entry or genesis_entry(genesis)).hash)
    return Totals(0, genesis.created_ms, 0, 1, head, genesis.members)


def advance(totals: Totals, height: int, time_ms: int, entries: Sequence[AuditEntry], nonce: bytes) -> Totals:
    """Where the record stands after a block with these entries. `nonce` is that of the genesis file.

    A new epoch starts with the block above: there the members that were removed, or whose key was replaced,
    are no longer faulty, and no view is on record. Raises InvariantError for an entry out of sequence.
    """
    size, proposals, view = totals.audit_size, totals.proposals, totals.recorded_view
    faulty = dict(totals.faulty)
    ends_epoch: AuditEntry | None = None
    for entry in entries:
        if entry.sequence != size:
            raise InvariantError(f"entry {entry.sequence} is to follow entry {size - 1}")
        size += 1
        if entry.event_type == "propose":
            proposals += 1
        elif entry.event_type == "coordinator":
            view = entry.data["view"]
        elif entry.event_type == "evidence":
            faulty[entry.data["accused"]] = entry.sequence
        elif entry.event_type == "membership":
            ends_epoch = entry
    result = replace(
        totals,
        height=height,
        time_ms=time_ms,
        proposals=proposals,
        audit_size=size,
        audit_head=bytes.fromhex(entries[-1].hash) if entries else totals.audit_head,
        recorded_view=view,
        faulty=faulty,
    )
    return result if ends_epoch is None else _begin_epoch(result, ends_epoch, nonce)


def _begin_epoch(totals: Totals, entry: AuditEntry, nonce: bytes) -> Totals:
    change = parse_change(canonical_json(entry.data["change"]))
    old, new = totals.members, apply_change(totals.members, change, nonce)
    incarnations, rejoined_ms = dict(totals.incarnations), dict(totals.rejoined_ms)
    if change.kind == "rejoin":
        incarnations[change.id], rejoined_ms[change.id] = change.nonce, totals.time_ms
    kept = {item.id for item in new.members if has_key(old, item.id, item.public_key)}
    return replace(
        totals,
        members=new,
        base_height=totals.height,
        recorded_view=0,
        incarnations={member: value for member, value in incarnations.items() if member in kept},
        rejoined_ms={member: value for member, value in rejoined_ms.items() if member in kept},
        faulty={member: sequence for member, sequence in totals.faulty.items() if member in kept},
    )


def has_key(members: MemberSet, member_id: str, public_key: bytes) -> bool:
    """Whether this member is in the set with this very key. Votes, blame and incarnations end with either."""
    member = members.get(member_id)
    return member is not None and member.public_key == public_key


def read_open(entry: AuditEntry, time_ms: int) -> OpenProposal:
    """The proposal that a propose entry of a block with this time opens."""
    data = entry.data
    proposal_id = entry.proposal_id or ""
    return OpenProposal(
        id=proposal_id,
        number=int(proposal_id.removeprefix("prop-")),
        digest=bytes.fromhex(data["digest"]),
        proposer=entry.actor_id or "",
        request_id=data["request_id"],
        action=data["action"],
        target=data["target"],
        evidence_json=canonical_json(data["evidence"]).decode("utf-8"),
        window_ms=data["window_ms"],
        expiry_ms=data["expiry_ms"],
        proposed_ms=time_ms,
        epoch=data["epoch"],
        sequence=entry.sequence,
    )


def read_vote(entry: AuditEntry, cluster_id: bytes) -> RecordedVote:
    """The vote that a vote entry records."""
    data = entry.data
    message = vote_bytes(
        cluster_id,
        data["epoch"],
        voter=entry.actor_id or "",
        digest=bytes.fromhex(data["digest"]),
        revision=data["revision"],
        value=VOTE_CODES[data["value"]],
        reason=data["reason"],
        voted_ms=data["voted_ms"],
    )
    mark = sha256(message).digest()
    value = VoteValue(data["value"])
    return RecordedVote(entry.actor_id or "", value, data["revision"], mark, entry.sequence, data)


def read_receipt(entry: AuditEntry, cluster_id: bytes) -> RecordedReceipt:
    """The receipt that an execute entry records."""
    data = entry.data
    message = receipt_bytes(
        cluster_id,
        data["epoch"],
        executor=entry.actor_id or "",
        digest=bytes.fromhex(data["digest"]),
        outcome=OUTCOME_CODES[data["outcome"]],
        detail=data["detail"],
        executed_ms=data["executed_ms"],
    )
    return RecordedReceipt(entry.actor_id or "", data["outcome"], sha256(message).digest(), entry.sequence)


def read_finished(proposal: OpenProposal, entry: AuditEntry, epoch: int) -> FinishedProposal:
    """What a tally or expired entry, in a block of `epoch`, makes of an open proposal."""
    expired = entry.event_type == "expired"
    return FinishedProposal(
        id=proposal.id,
        number=proposal.number,
        digest=proposal.digest,
        proposer=proposal.proposer,
        request_id=proposal.request_id,
        action=proposal.action,
        target=proposal.target,
        evidence_json=proposal.evidence_json,
        window_ms=proposal.window_ms,
        expiry_ms=proposal.expiry_ms,
        sequence=proposal.sequence,
        decision=Decision(entry.data["decision"]),
        status=ProposalStatus.EXPIRED if expired else ProposalStatus.DECIDED,
        cause=entry.data["cause"],
        approve_count=entry.data["approve_count"],
        decided_epoch=epoch,
        tally_sequence=entry.sequence,
    )


# ------------------------------------------------------------------------------------------------ in memory


class MemoryHistory:
    """A `History` in dictionaries, for tests, simulations and tools. It begins with block 0 in it; feed it
    every block above."""

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self._totals = genesis_totals(genesis)
        self._open: dict[str, OpenProposal] = {}
        self._votes: dict[str, dict[str, RecordedVote]] = {}
        self._counting: dict[str, dict[str, RecordedVote]] = {}
        self._finished: dict[str, FinishedProposal] = {}
        self._ids: dict[bytes, str] = {}
        self._requests: dict[tuple[str, str], bytes] = {}

    def apply(self, height: int, time_ms: int, entries: Sequence[AuditEntry]) -> None:
        """Take in the entries of the next block (an application's `BlockExecution` has all three)."""
        before = self._totals
        for entry in entries:
            self._apply_entry(entry, time_ms, before.members.epoch)
        self._totals = advance(before, height, time_ms, entries, self._genesis.nonce)
        if self._totals.members.epoch != before.members.epoch:
            self._drop_votes(before.members, self._totals.members)

    def _apply_entry(self, entry: AuditEntry, time_ms: int, epoch: int) -> None:
        proposal_id = entry.proposal_id or ""
        if entry.event_type == "propose":
            proposal = read_open(entry, time_ms)
            self._open[proposal_id] = proposal
            self._votes[proposal_id], self._counting[proposal_id] = {}, {}
            self._ids[proposal.digest] = proposal_id
            self._requests[proposal.proposer, proposal.request_id] = proposal.digest
        elif entry.event_type == "vote":
            vote = read_vote(entry, self._genesis.cluster_id)
            self._votes[proposal_id][vote.voter] = vote
            self._counting[proposal_id][vote.voter] = vote
        elif entry.event_type in ("tally", "expired"):
            self._finished[proposal_id] = read_finished(self._open.pop(proposal_id), entry, epoch)
            del self._counting[proposal_id]
        elif entry.event_type == "execute":
            receipt = read_receipt(entry, self._genesis.cluster_id)
            finished = self._finished[proposal_id]
            status = ProposalStatus.EXECUTED if receipt.outcome == "succeeded" else finished.status
            self._finished[proposal_id] = replace(
                finished, status=status, receipts=(*finished.receipts, receipt)
            )

    def _drop_votes(self, old: MemberSet, new: MemberSet) -> None:
        """Votes of members that are gone, or that have another key now, count no more."""
        for votes in self._counting.values():
            for voter in tuple(votes):
                if not has_key(new, voter, old.public_key(voter)):
                    del votes[voter]

    def finished(self, digest: bytes) -> FinishedProposal | None:
        """See `History`."""
        return self._finished.get(self._ids.get(digest, ""))

    def finished_by_id(self, proposal_id: str) -> FinishedProposal | None:
        """See `History`."""
        return self._finished.get(proposal_id)

    def request(self, proposer: str, request_id: str) -> bytes | None:
        """See `History`."""
        return self._requests.get((proposer, request_id))

    def vote(self, digest: bytes, voter: str) -> RecordedVote | None:
        """See `History`."""
        return self._votes.get(self._ids.get(digest, ""), {}).get(voter)

    def open_proposals(self) -> Sequence[OpenProposal]:
        """See `History`."""
        return [
            replace(proposal, votes=tuple(self._counting[proposal.id].values()))
            for proposal in self._open.values()
        ]

    def totals(self) -> Totals:
        """See `History`."""
        return self._totals
