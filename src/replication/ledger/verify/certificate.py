"""`verify_certificate`: one decision, with nothing else at hand than the genesis file.

What a certificate proves: a commit quorum of members put this very tally entry into the record, and the
tally is what the votes beside it give, each signed by its voter for exactly this proposal. What it cannot
show is that no entry before it was left out or moved; only a whole record shows that (`verify_export`). Where
positions and times allow it, the certificate is still held to the rules of the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet
from replication.identity.merkle import root_from_path

from .commits import check_commit
from .errors import VerificationError
from .events import SignedProposal, SignedVote, check_close, check_tally, tally_fields
from .reading import MAX_CERTIFICATE_BYTES, Fields, keys, parse_document, seconds
from .records import Entry, parse_entry, parse_header
from .reports import CertificateReport
from .signatures import SignatureChecker, genesis_members
from .tally import Tally, TallyRules, is_critical

__all__ = ["CERTIFICATE_FORMAT", "verify_certificate"]

CERTIFICATE_FORMAT = "agent-consensus/certificate/1"

_KEYS = keys("format cluster_id proposal votes tally inclusion header commit")
_INCLUSION_KEYS = keys("index size path")


def verify_certificate(text: bytes | str, genesis: Genesis) -> CertificateReport:
    """Verify a decision certificate, trusting nothing but `genesis`.

    Act on it only if the report's `authorises` is true: a certificate can also prove that nothing was
    decided.

    Args:
        text: the whole file, with its newline.
        genesis: the parsed genesis file.

    Raises:
        VerificationError: the certificate does not prove its decision; the message says where it fails.
    """
    try:
        raw = text.encode("utf-8") if isinstance(text, str) else text
        fields = Fields(parse_document(raw, MAX_CERTIFICATE_BYTES), _KEYS)
        fields.fixed("format", CERTIFICATE_FORMAT, "this verifier reads")
        fields.fixed("cluster_id", genesis.cluster_id.hex(), "the genesis file makes it")
        return _Certificate(fields, genesis).verify()
    except VerificationError as error:
        raise error.at("certificate") from None
    except UnicodeEncodeError:
        raise VerificationError("not readable as UTF-8", where="certificate") from None


@dataclass(frozen=True, slots=True)
class _Dated:
    """A proposal with the time of its block and its deadlines (0: none), in milliseconds."""

    signed: SignedProposal
    entry: Entry
    closes_ms: int
    expires_ms: int


class _Certificate:
    """One certificate on its way through the checks."""

    def __init__(self, fields: Fields, genesis: Genesis) -> None:
        members_at = genesis_members(genesis)
        self._fields = fields
        self._genesis = genesis
        self._signatures = SignatureChecker(genesis.cluster_id, members_at)
        self._header = parse_header(fields.raw("header"), genesis.cluster_id)
        self._members: MemberSet = members_at(self._header.epoch)

    def verify(self) -> CertificateReport:
        """Check everything, the outermost proof first."""
        header = self._header
        signers = check_commit(self._fields.raw("commit"), header, self._signatures)
        tally = self._read("tally", self._fields.raw("tally"))
        first_sequence = self._check_inclusion(tally)
        proposal = self._read_proposal(tally)
        entries, votes = self._read_votes(proposal, tally)
        self._check_order([proposal.entry, *entries, tally], first_sequence)
        try:
            decision, cause = self._check_decision(proposal, tally, entries, votes, first_sequence)
        except VerificationError as error:
            raise error.at(f"tally: {tally}") from None
        return CertificateReport(
            cluster_id=self._genesis.cluster_id,
            proposal_id=tally.proposal_id,
            proposer=proposal.signed.proposer,
            action=proposal.signed.action,
            target=proposal.signed.target,
            evidence=proposal.signed.evidence,
            digest=proposal.signed.digest,
            decision=decision,
            cause=cause,
            votes=votes,
            height=header.height,
            time_ms=header.time_ms,
            block_hash=header.hash,
            tally_sequence=tally.sequence,
            signers=signers,
            signatures=self._signatures.checked,
        )

    def _read(self, name: str, value: object) -> Entry:
        try:
            return parse_entry(value)
        except VerificationError as error:
            raise error.at(name) from None

    def _check_inclusion(self, tally: Entry) -> int:
        """Check that the tally is in the block; return the sequence of the block's first entry."""
        header = self._header
        if tally.event_type not in ("tally", "expired"):
            raise VerificationError(f"event_type is {tally.event_type[:80]!r}, not a tally's", where="tally")
        inclusion = self._fields.inner("inclusion", _INCLUSION_KEYS)
        size = inclusion.integer("size", header.audit_size, low=1)
        index = inclusion.integer("index", size - 1)
        try:
            root = root_from_path(tally.hash, index, size, inclusion.digests("path"))
        except ValueError as error:
            raise VerificationError(f"inclusion.path: {error}") from None
        if root != header.entries_root:
            raise VerificationError("inclusion does not lead from the tally entry to header.entries_root")
        first_sequence = header.audit_size - size
        if tally.sequence != first_sequence + index:
            raise VerificationError(
                f"tally.sequence is {tally.sequence}, but in the block its place is {first_sequence + index}"
            )
        if index == size - 1 and tally.hash != header.audit_head:
            raise VerificationError("header.audit_head is not the hash of the tally, its last entry")
        return first_sequence

    def _read_proposal(self, tally: Entry) -> _Dated:
        entry = self._read("proposal", self._fields.raw("proposal"))
        try:
            if entry.event_type != "propose":
                raise VerificationError(f"event_type is {entry.event_type[:80]!r}, not propose")
            if entry.proposal_id != tally.proposal_id or not entry.proposal_id:
                raise VerificationError(f"proposal_id is not the tally's, {tally.proposal_id[:80]!r}")
            signed = SignedProposal.read(entry, self._signatures)
        except VerificationError as error:
            raise error.at(f"proposal: {entry}") from None
        proposed_ms = round(entry.timestamp * 1000)
        return _Dated(
            signed,
            entry,
            closes_ms=proposed_ms + signed.window_ms if signed.window_ms else 0,
            expires_ms=proposed_ms + signed.expiry_ms if signed.expiry_ms else 0,
        )

    def _read_votes(self, proposal: _Dated, tally: Entry) -> tuple[list[Entry], dict[str, str]]:
        entries: list[Entry] = []
        votes: dict[str, str] = {}
        for index, value in enumerate(self._fields.array("votes")):
            entry = self._read(f"votes[{index}]", value)
            try:
                vote = self._read_vote(entry, proposal, tally)
                if vote.voter in votes:
                    raise VerificationError(f"actor_id {vote.voter} has voted before: each voter counts once")
            except VerificationError as error:
                raise error.at(f"votes[{index}]: {entry}") from None
            entries.append(entry)
            votes[vote.voter] = vote.value
        return entries, votes

    def _read_vote(self, entry: Entry, proposal: _Dated, tally: Entry) -> SignedVote:
        if entry.event_type != "vote":
            raise VerificationError(f"event_type is {entry.event_type[:80]!r}, not vote")
        if entry.proposal_id != tally.proposal_id:
            raise VerificationError(f"proposal_id is not the tally's, {tally.proposal_id}")
        vote = SignedVote.read(entry, proposal.signed.digest, self._signatures)
        if vote.revision and not self._genesis.rules.allow_vote_change:
            raise VerificationError(f"data.revision is {vote.revision}, but the rules allow no changes")
        return vote

    def _check_order(self, entries: list[Entry], first_sequence: int) -> None:
        """Check sequences, links and times of proposal, votes and tally, which come in this order."""
        block_time = seconds(self._header.time_ms)
        for entry in entries:
            in_block = entry.sequence >= first_sequence
            if entry.timestamp != seconds(round(entry.timestamp * 1000)):
                raise VerificationError("timestamp is not in whole milliseconds", where=str(entry))
            if in_block != (entry.timestamp == block_time) or entry.timestamp > block_time:
                raise VerificationError(
                    f"timestamp {entry.timestamp} does not fit header.time_ms {self._header.time_ms}",
                    where=str(entry),
                )
        if entries[0].sequence < 1:
            raise VerificationError("entry 0 is genesis, so it cannot be a proposal", where=str(entries[0]))
        for before, entry in pairwise(entries):
            if entry.sequence <= before.sequence or entry.timestamp < before.timestamp:
                raise VerificationError(f"by sequence or timestamp, not after {before}", where=str(entry))
            if entry.sequence == before.sequence + 1 and entry.prev_hash != before.hash.hex():
                raise VerificationError(f"prev_hash is not the hash of {before}", where=str(entry))

    def _check_decision(
        self, proposal: _Dated, tally: Entry, entries: list[Entry], votes: dict[str, str], first_sequence: int
    ) -> tuple[str, str]:
        """Check the tally against the votes, and that it was due when it was taken."""
        fields = tally_fields(tally)
        cause = fields.text("cause")
        if cause == "closed":
            check_close(tally, fields, proposal.signed.digest, proposal.signed.proposer, self._signatures)
        rules = TallyRules.of(self._genesis, self._members, critical=is_critical(proposal.signed.action))
        decision = check_tally(
            fields, proposal.signed.digest, votes, Tally.count(votes, self._members), rules
        )
        self._check_deadlines(cause, proposal)
        early = [entry for entry in entries if entry.sequence < first_sequence]
        if cause in ("window", "expired"):
            if len(early) != len(entries):
                raise VerificationError(
                    "votes stand in the tally's block, but what is due comes before any vote there"
                )
            _check_in_time(early, proposal)
        if not self._genesis.rules.allow_vote_change:
            # With changes, an earlier vote may have been another; without, it was as it is here.
            before = {entry.actor_id: votes[entry.actor_id] for entry in early}
            if Tally.count(before, self._members).settled(rules) is not None:
                raise VerificationError(
                    "the votes before this block had settled it, so it was to be tallied there"
                )
        if cause == "settled":
            if Tally.count(votes, self._members).settled(rules) is None:
                raise VerificationError(
                    "data.cause is settled, but votes that are missing could change the decision"
                )
            if len(early) == len(entries):
                raise VerificationError("data.cause is settled, but no vote of this block has settled it")
        return decision, cause

    def _check_deadlines(self, cause: str, proposal: _Dated) -> None:
        now, closes, expires = self._header.time_ms, proposal.closes_ms, proposal.expires_ms
        window_over = bool(closes) and now > closes
        expired = bool(expires) and now > expires
        due = (
            "expired"
            if expired and (not window_over or expires <= closes)
            else "window"
            if window_over
            else None
        )
        if cause in ("window", "expired"):
            if due != cause:
                raise VerificationError(
                    f"data.cause is {cause}, but at header.time_ms {now} the proposal was not due for it"
                )
        elif due is not None:
            raise VerificationError(
                f"data.cause is {cause}, but at header.time_ms {now} the cause had to be {due}"
            )


def _check_in_time(entries: list[Entry], proposal: _Dated) -> None:
    """A vote in a block after the first deadline would have found the proposal finished."""
    deadline_ms = min(filter(None, (proposal.closes_ms, proposal.expires_ms)))
    for entry in entries:
        if entry.timestamp > seconds(deadline_ms):
            raise VerificationError(
                f"timestamp is after the proposal's deadline {deadline_ms} ms", where=str(entry)
            )
