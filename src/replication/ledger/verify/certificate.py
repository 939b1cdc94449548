"""`verify_certificate`: one decision, with nothing else at hand than the genesis file.

What a certificate proves: a commit quorum of members put this very tally entry into the record, and the
tally is what the votes beside it give, each signed by its voter for exactly this proposal. What it cannot
show is that no entry before it was left out or moved; only a whole record shows that (`verify_export`). Where
positions and times allow it, the certificate is still held to the rules of the record.

The file is one object: `format`, `cluster_id`, the `proposal`, `votes` and `tally` entries, the `inclusion`
of the tally in the block with this `header`, and its `commit` certificate. Two keys are there only when they
are needed: `epochs`, if the block is of a later epoch than 0, leads from the members of the genesis file to
those of that epoch (see `succession`); `evidence`, if votes are excluded, holds the evidence entries that the
tally refers to, in the order of their sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet

from .blame import SignedEvidence
from .commits import check_commit
from .errors import VerificationError
from .events import SignedProposal, SignedVote, check_close, check_tally, tally_fields
from .inclusion import check_inclusion
from .reading import MAX_CERTIFICATE_BYTES, Fields, keys, parse_document, seconds
from .records import Entry, parse_entry, parse_header
from .reports import CertificateReport
from .succession import Succession
from .tally import Tally, TallyRules

__all__ = ["CERTIFICATE_FORMAT", "verify_certificate"]

CERTIFICATE_FORMAT = "agent-consensus/certificate/1"

_KEYS = keys("format cluster_id proposal votes tally inclusion header commit")
_OPTIONAL_KEYS = keys("epochs evidence")


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
        value = parse_document(raw, MAX_CERTIFICATE_BYTES)
        fields = Fields(value, _KEYS | (_OPTIONAL_KEYS & value.keys()))
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


@dataclass(frozen=True, slots=True)
class _BallotBox:
    """The votes that count, as entries and by voter, and the excluded voters with their evidence.

    `first_sequence` is that of the first entry of the tally's block.
    """

    entries: list[Entry]
    votes: dict[str, str]
    excluded: dict[str, int]
    first_sequence: int

    @property
    def early(self) -> list[Entry]:
        """Votes of earlier blocks."""
        return [entry for entry in self.entries if entry.sequence < self.first_sequence]

    @property
    def excluded_early(self) -> set[str]:
        """Voters that were proven faulty before the block."""
        return {voter for voter, sequence in self.excluded.items() if sequence < self.first_sequence}

    @property
    def is_touched(self) -> bool:
        """Whether a vote, or evidence against a voter, stands in the block itself."""
        return len(self.early) < len(self.entries) or len(self.excluded_early) < len(self.excluded)


class _Certificate:
    """One certificate on its way through the checks."""

    def __init__(self, fields: Fields, genesis: Genesis) -> None:
        self._fields = fields
        self._genesis = genesis
        self._succession = Succession(genesis)
        self._signatures = self._succession.signatures
        self._header = parse_header(fields.raw("header"), genesis.cluster_id)
        self._follow_epochs()
        self._members: MemberSet = self._succession.members_at(self._header.epoch)
        self._is_first_of_epoch = self._succession.is_first_block(self._header)

    def verify(self) -> CertificateReport:
        """Check everything, the outermost proof first."""
        header = self._header
        commit = check_commit(self._fields.raw("commit"), header, self._signatures)
        tally = self._read("tally", self._fields.raw("tally"))
        first_sequence = self._check_inclusion(tally)
        proposal = self._read_proposal(tally)
        entries, votes = self._read_votes(proposal, tally)
        self._check_order([proposal.entry, *entries, tally], first_sequence)
        excluded = self._read_evidence(votes, tally, first_sequence)
        ballot_box = _BallotBox(entries, votes, excluded, first_sequence)
        try:
            decision, cause = self._check_decision(proposal, tally, ballot_box)
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
            signers=commit.signers,
            signatures=self._signatures.checked,
            epoch=header.epoch,
            excluded=tuple(excluded),
        )

    def _follow_epochs(self) -> None:
        """Learn the members up to the header's epoch."""
        if not self._fields.has("epochs"):
            return
        links = self._fields.array("epochs")
        if not links or len(links) != self._header.epoch:
            raise VerificationError(
                f"epochs has {len(links)} links, but header.epoch is {self._header.epoch}, and without links "
                "the key must not be there"
            )
        self._succession.follow(links)

    def _read(self, name: str, value: object) -> Entry:
        try:
            return parse_entry(value)
        except VerificationError as error:
            raise error.at(name) from None

    def _check_inclusion(self, tally: Entry) -> int:
        """Check that the tally is in the block; return the sequence of the block's first entry."""
        if tally.event_type not in ("tally", "expired"):
            raise VerificationError(f"event_type is {tally.event_type[:80]!r}, not a tally's", where="tally")
        return check_inclusion(self._fields, tally, "tally", self._header).first_sequence

    def _read_proposal(self, tally: Entry) -> _Dated:
        entry = self._read("proposal", self._fields.raw("proposal"))
        try:
            if entry.event_type != "propose":
                raise VerificationError(f"event_type is {entry.event_type[:80]!r}, not propose")
            if entry.proposal_id != tally.proposal_id or not entry.proposal_id:
                raise VerificationError(f"proposal_id is not the tally's, {tally.proposal_id[:80]!r}")
            signed = SignedProposal.read(entry, self._signatures)
            self._succession.check_epoch_of(signed.epoch, entry.sequence)
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
        vote = SignedVote.read(entry.data, entry.actor_id, proposal.signed.digest, self._signatures)
        self._succession.check_epoch_of(vote.epoch, entry.sequence)
        self._succession.check_still_counts(vote.voter, vote.epoch)
        if vote.revision and not self._genesis.rules.allow_vote_change:
            raise VerificationError(f"data.revision is {vote.revision}, but the rules allow no changes")
        return vote

    def _read_evidence(self, votes: dict[str, str], tally: Entry, first_sequence: int) -> dict[str, int]:
        """The voters whose votes are abstentions, each with the sequence of the evidence against it."""
        excluded: dict[str, int] = {}
        if not self._fields.has("evidence"):
            return excluded
        last = 0
        for index, value in enumerate(self._fields.array("evidence")):
            entry = self._read(f"evidence[{index}]", value)
            try:
                accused = self._check_evidence(entry, tally, first_sequence)
                if accused in excluded or accused not in votes or entry.sequence <= last:
                    raise VerificationError(
                        f"{accused[:80]!r} has no vote here, or is there twice, or this is not in order"
                    )
            except VerificationError as error:
                raise error.at(f"evidence[{index}]: {entry}") from None
            excluded[accused] = last = entry.sequence
        if not excluded:
            raise VerificationError("evidence is empty, and then the key must not be there")
        return excluded

    def _check_evidence(self, entry: Entry, tally: Entry, first_sequence: int) -> str:
        if entry.event_type != "evidence":
            raise VerificationError(f"event_type is {entry.event_type[:80]!r}, not evidence")
        evidence = SignedEvidence.read(entry, self._signatures)
        self._succession.check_epoch_of(evidence.epoch, entry.sequence)
        self._succession.check_still_counts(evidence.accused, evidence.epoch)
        self._check_time(entry, first_sequence)
        if entry.sequence >= tally.sequence:
            raise VerificationError(f"sequence is not before the tally's, {tally.sequence}")
        return evidence.accused

    def _check_order(self, entries: list[Entry], first_sequence: int) -> None:
        """Check sequences, links and times of proposal, votes and tally, which come in this order."""
        for entry in entries:
            self._check_time(entry, first_sequence)
        if entries[0].sequence < 1:
            raise VerificationError("entry 0 is genesis, so it cannot be a proposal", where=str(entries[0]))
        for before, entry in pairwise(entries):
            if entry.sequence <= before.sequence or entry.timestamp < before.timestamp:
                raise VerificationError(f"by sequence or timestamp, not after {before}", where=str(entry))
            if entry.sequence == before.sequence + 1 and entry.prev_hash != before.hash.hex():
                raise VerificationError(f"prev_hash is not the hash of {before}", where=str(entry))

    def _check_time(self, entry: Entry, first_sequence: int) -> None:
        """An entry has the time of the block exactly if it stands in it."""
        block_time = seconds(self._header.time_ms)
        in_block = entry.sequence >= first_sequence
        if entry.timestamp != seconds(round(entry.timestamp * 1000)):
            raise VerificationError("timestamp is not in whole milliseconds", where=str(entry))
        if in_block != (entry.timestamp == block_time) or entry.timestamp > block_time:
            raise VerificationError(
                f"timestamp {entry.timestamp} does not fit header.time_ms {self._header.time_ms}",
                where=str(entry),
            )

    def _check_decision(self, proposal: _Dated, tally: Entry, box: _BallotBox) -> tuple[str, str]:
        """Check the tally against the votes, and that it was due when it was taken."""
        fields = tally_fields(tally)
        cause = fields.text("cause")
        signed = proposal.signed
        if cause == "closed":
            check_close(tally, fields, signed.digest, signed.proposer, self._header.epoch, self._signatures)
        rules = TallyRules.of(self._genesis, self._members, signed.action, signed.proposer)
        count = Tally.count(box.votes, self._members, box.excluded, rules.uncounted)
        decision = check_tally(fields, signed.digest, box.votes, box.excluded, count, rules)
        self._check_deadlines(cause, proposal)
        if cause in ("window", "expired"):
            if box.is_touched:
                raise VerificationError(
                    "votes or evidence stand in the tally's block, but what is due comes before them there"
                )
            _check_in_time(box.early, proposal)
        if not self._genesis.rules.allow_vote_change and not self._is_first_of_epoch:
            # With changes, an earlier vote may have been another; without, it was as it is here. Before the
            # first block of an epoch, the electorate was another.
            before = {entry.actor_id: box.votes[entry.actor_id] for entry in box.early}
            earlier = Tally.count(before, self._members, box.excluded_early, rules.uncounted)
            if earlier.settled(rules) is not None:
                raise VerificationError(
                    "the votes before this block had settled it, so it was to be tallied there"
                )
        if cause == "settled":
            if count.settled(rules) is None:
                raise VerificationError(
                    "data.cause is settled, but votes that are missing could change the decision"
                )
            if not box.is_touched and not self._is_first_of_epoch:
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
