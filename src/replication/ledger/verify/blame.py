"""Evidence: two signed statements of one member that contradict each other, and new coordinators.

The data of an evidence entry says whose they are, and holds both as they were signed::

    {"accused": A, "epoch": E, "kind": "votes", "first": VOTE, "second": VOTE}
    {"accused": A, "epoch": E, "kind": "statements", "first": STATEMENT, "second": STATEMENT}

VOTE is the data of a vote entry. STATEMENT is one of::

    {"phase": "propose" | "prepare" | "commit", "view", "height", "block_hash", "signature"}
    {"phase": "timeout", "view", "committed_height", "lock": null | {"view", "block_hash"}, "signature"}

Evidence proves itself; nothing around it has to be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.identity.members import MemberSet
from replication.identity.signbytes import ZERO_DIGEST, newview_bytes, statement_bytes, timeout_bytes

from .errors import VerificationError
from .events import VOTE_KEYS, SignedVote
from .reading import Fields, keys
from .records import Entry
from .signatures import SignatureChecker

__all__ = ["SignedEvidence", "check_coordinator"]

EVIDENCE_KEYS = keys("epoch accused kind first second")
_BLOCK_KEYS = keys("phase view height block_hash signature")
_TIMEOUT_KEYS = keys("phase view committed_height lock signature")
_LOCK_KEYS = keys("view block_hash")
_COORDINATOR_KEYS = keys("epoch view tc_digest signature")


@dataclass(frozen=True, slots=True)
class SignedEvidence:
    """Evidence that holds. `votes` are the two votes, if it is about votes; `digest` their proposal's."""

    accused: str
    epoch: int
    digest: bytes | None = None
    votes: tuple[SignedVote, SignedVote] | None = None

    @classmethod
    def read(cls, entry: Entry, signatures: SignatureChecker) -> SignedEvidence:
        """Read an evidence entry's data; both statements must be signed by the accused, and contradict."""
        fields = Fields(entry.data, EVIDENCE_KEYS, "data")
        epoch, accused = fields.integer("epoch"), fields.text("accused")
        if entry.actor_id != "cluster":
            raise VerificationError(
                f"actor_id is {entry.actor_id[:80]!r}, but evidence is the cluster's to record"
            )
        if fields.choice("kind", ("votes", "statements")) == "votes":
            return cls._read_votes(fields, epoch, accused, signatures)
        first = _Statement.read(fields, "first", epoch, accused, signatures)
        second = _Statement.read(fields, "second", epoch, accused, signatures)
        if not first.contradicts(second):
            raise VerificationError("data.first and data.second do not contradict each other")
        return cls(accused, epoch)

    @classmethod
    def _read_votes(
        cls, fields: Fields, epoch: int, accused: str, signatures: SignatureChecker
    ) -> SignedEvidence:
        digest = Fields(fields.raw("first"), VOTE_KEYS, "data.first").digest("digest")
        first = SignedVote.read(fields.raw("first"), accused, digest, signatures, "data.first")
        second = SignedVote.read(fields.raw("second"), accused, digest, signatures, "data.second")
        if (first.epoch, second.epoch) != (epoch, epoch):
            raise VerificationError("data.first and data.second must be votes of the evidence's epoch")
        if first.revision != second.revision or first.mark == second.mark:
            raise VerificationError("data.first and data.second are no two votes of one revision")
        return cls(accused, epoch, digest, (first, second))


@dataclass(frozen=True, slots=True)
class _Statement:
    """A signed statement about a block or a view. `rank` is what a timeout reports: height, then lock."""

    phase: str
    view: int
    height: int
    content: tuple[object, ...]
    rank: tuple[int, int]

    @classmethod
    def read(
        cls, fields: Fields, key: str, epoch: int, accused: str, signatures: SignatureChecker
    ) -> _Statement:
        value = fields.mapping(key)
        is_timeout = value.get("phase") == "timeout"
        inner = fields.inner(key, _TIMEOUT_KEYS if is_timeout else _BLOCK_KEYS)
        statement, message = (
            cls._timeout(inner, epoch, accused, signatures.cluster_id)
            if is_timeout
            else cls._block(inner, epoch, accused, signatures.cluster_id)
        )
        signatures.check(accused, epoch, inner.signature("signature"), message, f"data.{key}.signature")
        return statement

    @classmethod
    def _block(cls, inner: Fields, epoch: int, accused: str, cluster_id: bytes) -> tuple[_Statement, bytes]:
        phase = inner.choice("phase", ("propose", "prepare", "commit"))
        view, height = inner.integer("view"), inner.integer("height")
        block_hash = inner.digest("block_hash")
        try:
            message = statement_bytes(
                phase, cluster_id, epoch, view=view, height=height, block_hash=block_hash, signer=accused
            )
        except ValueError as error:
            raise VerificationError(f"data: {error}") from None
        return cls(phase, view, height, (block_hash,), (height - 1, view)), message

    @classmethod
    def _timeout(cls, inner: Fields, epoch: int, accused: str, cluster_id: bytes) -> tuple[_Statement, bytes]:
        view, height = inner.integer("view"), inner.integer("committed_height")
        lock = None if inner.raw("lock") is None else inner.inner("lock", _LOCK_KEYS)
        lock_view = 0 if lock is None else lock.integer("view")
        lock_hash = ZERO_DIGEST if lock is None else lock.digest("block_hash")
        try:
            message = timeout_bytes(
                cluster_id,
                epoch,
                view=view,
                committed_height=height,
                has_lock=lock is not None,
                lock_view=lock_view,
                lock_hash=lock_hash,
                signer=accused,
            )
        except ValueError as error:
            raise VerificationError(f"data: {error}") from None
        rank = (height, -1 if lock is None else lock_view)
        return cls("timeout", view, height, (height, lock is None, lock_view, lock_hash), rank), message

    def contradicts(self, other: _Statement) -> bool:
        """Whether no correct member signs both.

        Two blocks in one phase of one view and height; two reports on one view; or a COMMIT on a height and
        view, and in that view or a later one a report that is lower than what the COMMIT promised to carry.
        """
        if self.phase == other.phase:
            same_place = self.view == other.view and (self.phase == "timeout" or self.height == other.height)
            return same_place and self.content != other.content
        if {self.phase, other.phase} != {"commit", "timeout"}:
            return False
        commit, timeout = (self, other) if self.phase == "commit" else (other, self)
        return timeout.view >= commit.view and timeout.rank < commit.rank


def check_coordinator(entry: Entry, members: MemberSet, signatures: SignatureChecker) -> int:
    """Check that the coordinator of a view signed that it takes over, and return the view."""
    fields = Fields(entry.data, _COORDINATOR_KEYS, "data")
    fields.fixed("epoch", members.epoch, "the block's epoch is")
    view = fields.integer("view", low=1)
    coordinator = members.ids[view % members.n]
    if entry.actor_id != coordinator or entry.proposal_id:
        raise VerificationError(
            f"actor_id is {entry.actor_id[:80]!r}, but the coordinator of view {view} is {coordinator}"
        )
    message = newview_bytes(
        signatures.cluster_id,
        members.epoch,
        view=view,
        tc_digest=fields.digest("tc_digest"),
        signer=coordinator,
    )
    signatures.check(coordinator, members.epoch, fields.signature("signature"), message, "data.signature")
    return view
