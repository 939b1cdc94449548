"""The kinds of commands, as values, with the bytes that their authors sign. See `commands`, the way in."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from replication.consensus.model import VoteValue
from replication.identity.merkle import merkle_root
from replication.identity.signbytes import (
    OUTCOME_CODES,
    VOTE_CODES,
    ballot_bytes,
    close_bytes,
    membership_bytes,
    newview_bytes,
    proposal_bytes,
    receipt_bytes,
    rejoin_bytes,
    vote_bytes,
)
from replication.ordering.statements import Evidence, Signed

__all__ = [
    "BallotCommand",
    "CloseCommand",
    "Command",
    "CoordinatorChangeCommand",
    "EvidenceCommand",
    "MembershipCommand",
    "ProposalCommand",
    "ReceiptCommand",
    "RejoinCommand",
    "VoteItem",
]


@dataclass(frozen=True, slots=True)
class ProposalCommand:
    """A member asks for a decision. `evidence` is canonical JSON of an object, times are milliseconds."""

    epoch: int
    proposer: str
    request_id: str
    action: str
    target: str
    evidence: bytes = field(repr=False)
    window_ms: int
    expiry_ms: int
    created_ms: int
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.proposer

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return proposal_bytes(
            cluster_id,
            self.epoch,
            proposer=self.proposer,
            request_id=self.request_id,
            action=self.action,
            target=self.target,
            evidence=self.evidence,
            window_ms=self.window_ms,
            expiry_ms=self.expiry_ms,
            created_ms=self.created_ms,
        )

    def digest(self, cluster_id: bytes) -> bytes:
        """SHA-256 of the sign-bytes: what votes refer to. It covers the cluster's id, which the command
        alone does not know."""
        return sha256(self.sign_bytes(cluster_id)).digest()


@dataclass(frozen=True, slots=True)
class VoteItem:
    """One vote of a ballot; its voter is the ballot's."""

    proposal_digest: bytes
    value: VoteValue
    revision: int = 0
    reason: str = ""
    voted_ms: int = 0

    def leaf(self, cluster_id: bytes, epoch: int, voter: str) -> bytes:
        """The vote's own sign-bytes, a leaf of the ballot's tree."""
        return vote_bytes(
            cluster_id,
            epoch,
            voter=voter,
            digest=self.proposal_digest,
            revision=self.revision,
            value=VOTE_CODES[self.value.value],
            reason=self.reason,
            voted_ms=self.voted_ms,
        )


@dataclass(frozen=True, slots=True)
class BallotCommand:
    """Votes of one voter, on different proposals, under one signature."""

    epoch: int
    voter: str
    votes: tuple[VoteItem, ...]
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.voter

    def leaves(self, cluster_id: bytes) -> list[bytes]:
        """The sign-bytes of each vote."""
        return [vote.leaf(cluster_id, self.epoch, self.voter) for vote in self.votes]

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        root = merkle_root(self.leaves(cluster_id))
        return ballot_bytes(cluster_id, self.epoch, voter=self.voter, size=len(self.votes), root=root)


@dataclass(frozen=True, slots=True)
class CloseCommand:
    """The proposer ends the vote before its window does."""

    epoch: int
    closer: str
    proposal_digest: bytes
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.closer

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return close_bytes(cluster_id, self.epoch, closer=self.closer, digest=self.proposal_digest)


@dataclass(frozen=True, slots=True)
class ReceiptCommand:
    """An executor's report on an approved proposal. `outcome` is one of `signbytes.OUTCOME_CODES`."""

    epoch: int
    executor: str
    proposal_digest: bytes
    outcome: str
    detail: str
    executed_ms: int
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.executor

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return receipt_bytes(
            cluster_id,
            self.epoch,
            executor=self.executor,
            digest=self.proposal_digest,
            outcome=OUTCOME_CODES[self.outcome],
            detail=self.detail,
            executed_ms=self.executed_ms,
        )


@dataclass(frozen=True, slots=True)
class CoordinatorChangeCommand:
    """A new coordinator's signed opening of its view, to be put on record."""

    epoch: int
    view: int
    coordinator: str
    tc_digest: bytes
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.coordinator

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return newview_bytes(
            cluster_id, self.epoch, view=self.view, tc_digest=self.tc_digest, signer=self.coordinator
        )


@dataclass(frozen=True, slots=True)
class EvidenceCommand:
    """Two signed statements of one member that contradict each other. Whoever submits it does not sign it."""

    first: Signed
    second: Signed

    @property
    def epoch(self) -> int:
        return self.first.epoch

    @property
    def accused(self) -> str:
        return self.first.signer

    @property
    def author(self) -> str:
        """Evidence against one member shares a pool of its own, so that nobody's commands can keep it out."""
        return f"evidence against {self.accused}"

    @property
    def evidence(self) -> Evidence:
        """The same in the vocabulary of ordering."""
        return Evidence(self.first, self.second)


@dataclass(frozen=True, slots=True)
class MembershipCommand:
    """A change of the member set (canonical JSON, see `membership`) that rests on an approved proposal."""

    epoch: int
    member: str
    change: bytes
    proposal_digest: bytes
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.member

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return membership_bytes(
            cluster_id, self.epoch, member=self.member, change=self.change, digest=self.proposal_digest
        )


@dataclass(frozen=True, slots=True)
class RejoinCommand:
    """A member that lost its disk asks to be let back in; `nonce` names its new incarnation."""

    epoch: int
    member: str
    nonce: bytes
    signature: bytes = field(default=b"", repr=False)

    @property
    def author(self) -> str:
        return self.member

    def sign_bytes(self, cluster_id: bytes) -> bytes:
        """The bytes that the signature covers."""
        return rejoin_bytes(cluster_id, self.epoch, member=self.member, nonce=self.nonce)


Command = (
    ProposalCommand
    | BallotCommand
    | CloseCommand
    | ReceiptCommand
    | CoordinatorChangeCommand
    | EvidenceCommand
    | MembershipCommand
    | RejoinCommand
)
