"""The signed events (propose, vote, close, execute): data read, sign-bytes rebuilt, signatures checked.

What is here holds for an event on its own. Whether it may stand where it stands is `lifecycle`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from replication.consensus.canonical import canonical_json
from replication.identity.merkle import root_from_path
from replication.identity.signbytes import (
    OUTCOME_CODES,
    VOTE_CODES,
    ballot_bytes,
    close_bytes,
    proposal_bytes,
    receipt_bytes,
    vote_bytes,
)

from .errors import VerificationError
from .reading import Fields, keys
from .records import Entry
from .signatures import SignatureChecker
from .tally import NO_QUORUM, TALLY_KEYS, VOTE_VALUES, Tally, TallyRules

__all__ = [
    "VOTE_KEYS",
    "SignedProposal",
    "SignedReceipt",
    "SignedVote",
    "check_close",
    "check_tally",
    "tally_fields",
]

PROPOSE_KEYS = keys("epoch request_id action target evidence window_ms expiry_ms created_ms digest signature")
VOTE_KEYS = keys("epoch digest value reason revision voted_ms ballot")
BALLOT_KEYS = keys("size index path signature")
CLOSE_KEYS = keys("epoch signature")
RECEIPT_KEYS = keys("epoch digest outcome detail executed_ms signature")

_U32_MAX = 2**32 - 1
# A path in a tree of at most 2**32 - 1 leaves (RFC 6962 section 2.1.1).
_MAX_PATH = 32


@dataclass(frozen=True, slots=True)
class SignedProposal:
    """A proposal whose digest and signature are right."""

    proposer: str
    action: str
    target: str
    evidence: Mapping[str, object]
    window_ms: int
    expiry_ms: int
    epoch: int
    digest: bytes

    @classmethod
    def read(cls, entry: Entry, signatures: SignatureChecker) -> SignedProposal:
        """Read a propose entry's data, and check that its actor signed just this content."""
        fields = Fields(entry.data, PROPOSE_KEYS, "data")
        epoch = fields.integer("epoch")
        action, target = fields.text("action"), fields.text("target")
        evidence = fields.mapping("evidence")
        window_ms, expiry_ms = fields.integer("window_ms"), fields.integer("expiry_ms")
        try:
            message = proposal_bytes(
                signatures.cluster_id,
                epoch,
                proposer=entry.actor_id,
                request_id=fields.text("request_id"),
                action=action,
                target=target,
                evidence=canonical_json(evidence),
                window_ms=window_ms,
                expiry_ms=expiry_ms,
                created_ms=fields.integer("created_ms"),
            )
        except ValueError as error:
            raise VerificationError(f"data: {error}") from None
        digest = sha256(message).digest()
        fields.fixed("digest", digest.hex(), "the proposal's content gives")
        signatures.check(entry.actor_id, epoch, fields.signature("signature"), message, "data.signature")
        return cls(entry.actor_id, action, target, evidence, window_ms, expiry_ms, epoch, digest)


@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote that its voter signed, in a ballot. `mark` is the hash of the vote's own sign-bytes."""

    voter: str
    value: str
    reason: str
    revision: int
    epoch: int
    mark: bytes

    @classmethod
    def read(
        cls, data: object, voter: str, digest: bytes, signatures: SignatureChecker, path: str = "data"
    ) -> SignedVote:
        """Read a vote entry's data, and check that `voter` signed it for the proposal `digest`."""
        fields = Fields(data, VOTE_KEYS, path)
        epoch = fields.integer("epoch")
        fields.fixed("digest", digest.hex(), "the proposal's digest is")
        value = fields.choice("value", VOTE_VALUES)
        reason, revision = fields.text("reason"), fields.integer("revision", _U32_MAX)
        ballot = fields.inner("ballot", BALLOT_KEYS)
        size = ballot.integer("size", _U32_MAX, low=1)
        siblings = ballot.digests("path")
        try:
            leaf = vote_bytes(
                signatures.cluster_id,
                epoch,
                voter=voter,
                digest=digest,
                revision=revision,
                value=VOTE_CODES[value],
                reason=reason,
                voted_ms=fields.integer("voted_ms"),
            )
            root = root_from_path(leaf, ballot.integer("index", size - 1), size, siblings)
            message = ballot_bytes(signatures.cluster_id, epoch, voter=voter, size=size, root=root)
        except ValueError as error:
            raise VerificationError(f"{path}: {error}") from None
        check = signatures.check_ballot if size > 1 else signatures.check
        check(voter, epoch, ballot.signature("signature"), message, f"{path}.ballot.signature")
        return cls(voter, value, reason, revision, epoch, sha256(leaf).digest())


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """An executor's signed report. `mark` is the hash of what was signed, to tell receipts apart."""

    outcome: str
    digest: bytes
    mark: bytes

    @classmethod
    def read(cls, entry: Entry, signatures: SignatureChecker) -> SignedReceipt:
        """Read an execute entry's data, and check that its actor signed it."""
        fields = Fields(entry.data, RECEIPT_KEYS, "data")
        epoch = fields.integer("epoch")
        digest = fields.digest("digest")
        outcome = fields.choice("outcome", tuple(OUTCOME_CODES))
        try:
            message = receipt_bytes(
                signatures.cluster_id,
                epoch,
                executor=entry.actor_id,
                digest=digest,
                outcome=OUTCOME_CODES[outcome],
                detail=fields.text("detail"),
                executed_ms=fields.integer("executed_ms"),
            )
        except ValueError as error:
            raise VerificationError(f"data: {error}") from None
        signature = fields.signature("signature")
        signatures.check_receipt(entry.actor_id, epoch, signature, message, "data.signature")
        return cls(outcome, digest, sha256(message).digest())


def tally_fields(entry: Entry) -> Fields:
    """A tally or expired entry's data with the right keys and cause, none of its figures checked yet."""
    data = entry.data if isinstance(entry.data, dict) else {}
    closed = data.get("cause") == "closed"
    optional = {"close"} if closed else set()
    optional |= {"excluded"} & data.keys()
    fields = Fields(entry.data, TALLY_KEYS | optional, "data")
    if entry.event_type == "expired":
        fields.fixed("cause", "expired", "an expired entry says")
    else:
        fields.choice("cause", ("settled", "window", "closed"))
    if not closed and entry.actor_id != "cluster":
        raise VerificationError(
            f"actor_id is {entry.actor_id[:80]!r}, but the cluster takes this tally by itself"
        )
    return fields


def check_close(
    entry: Entry, fields: Fields, digest: bytes, proposer: str, epoch: int, signatures: SignatureChecker
) -> None:
    """Check the proposer's signed wish, in the block's epoch, to end the vote."""
    if entry.actor_id != proposer:
        raise VerificationError(
            f"actor_id is {entry.actor_id[:80]!r}, but only the proposer {proposer} may close"
        )
    close = fields.inner("close", CLOSE_KEYS)
    close.fixed("epoch", epoch, "the block's epoch is")
    message = close_bytes(signatures.cluster_id, epoch, closer=proposer, digest=digest)
    signatures.check(proposer, epoch, close.signature("signature"), message, "data.close.signature")


def check_tally(
    fields: Fields,
    digest: bytes,
    votes: Mapping[str, str],
    excluded: Mapping[str, int],
    tally: Tally,
    rules: TallyRules,
) -> str:
    """Compare everything that a tally or expired entry says with the votes; return the right decision.

    `votes` are as they were signed; `excluded` are voters whose votes count as abstentions, with the sequence
    of the evidence against each, and `tally` counts them so.
    """
    fields.fixed("digest", digest.hex(), "the proposal's digest is")
    decision = _decision(fields.text("cause"), tally, rules)
    for key, expected in tally.record(rules, decision).items():
        fields.fixed(key, expected, "the votes and rules make it")
    fields.fixed("votes", dict(votes), "the votes are")
    if excluded or fields.has("excluded"):
        _check_excluded(fields, excluded)
    return decision


def _check_excluded(fields: Fields, excluded: Mapping[str, int]) -> None:
    if not excluded:
        raise VerificationError("data.excluded must not be there: no voter is proven faulty")
    if not fields.has("excluded"):
        raise VerificationError(f"missing excluded of data: {', '.join(excluded)} are proven faulty")
    fields.fixed("excluded", dict(excluded), "by the evidence on record it is")


def _decision(cause: str, tally: Tally, rules: TallyRules) -> str:
    """The decision that each cause allows: what is not settled when it is closed early authorises nothing."""
    if cause == "window":
        return tally.decision(rules)
    if cause == "expired":
        return NO_QUORUM
    return tally.settled(rules) or NO_QUORUM
