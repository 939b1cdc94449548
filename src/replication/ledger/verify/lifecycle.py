"""What may happen to proposals, and what must: the rules of the replicated application, run over the entries.

A block's entries stand in three parts: the proposals that were due at the block's time, in order of their
deadline; the commands; the tallies of proposals that the block settled, in the order in which it first
touched them. The first and the last part follow from the state, so an entry that is missing there is found
like one too many.

A vote touches its proposal; evidence touches those on which the accused has voted, by number; and the first
block of an epoch touches all that are open, since the electorate is another.

Open proposals are kept with their votes. Of a finished one there remain its digest (a signed proposal, and so
the votes on it, must not count a second time), whether it may be executed, and marks of its receipts: some
200 bytes; and in the epoch in which it was approved, what a change of members may rest on.
"""

from __future__ import annotations

import heapq
from collections import deque

from replication.consensus.canonical import canonical_json
from replication.identity.genesis import Genesis

from .electorate import Electorate
from .errors import VerificationError
from .events import SignedProposal, SignedReceipt, SignedVote, check_close, check_tally, tally_fields
from .proposals import Approval, OpenProposal
from .reading import Fields
from .records import Entry
from .signatures import CurrentEpoch, SignatureChecker
from .tally import APPROVED, TallyRules

__all__ = ["MAX_RECEIPTS", "Lifecycle"]

MAX_RECEIPTS = 8
"""Of one proposal; one more may be there if it is the first that says succeeded."""

# What is left of a finished proposal: its number, and below it these bits.
_APPROVED, _EXECUTED, _FLAGS = 1, 2, 4


class Lifecycle:
    """The state of all proposals. Call `begin_block`, `apply` for each of its entries, `end_block`."""

    def __init__(self, genesis: Genesis, current: CurrentEpoch, signatures: SignatureChecker) -> None:
        self.decisions = {"approved": 0, "rejected": 0, "no_quorum": 0, "expired": 0}
        self.proposals = 0
        self.executed = 0
        self._genesis = genesis
        self._electorate = Electorate(genesis, current, signatures)
        self._signatures = signatures
        self._open: dict[str, OpenProposal] = {}
        self._deadlines: list[tuple[int, int, str]] = []
        self._digests: dict[bytes, int] = {}
        self._receipts: dict[int, tuple[bytes, ...]] = {}
        self._approvals: dict[bytes, Approval] = {}
        self._begins_epoch = False
        self._time_ms = 0
        self._has_commands = False
        self._caused = False
        self._due: deque[tuple[str, str]] = deque()
        self._touched: dict[str, None] = {}
        self._settled: deque[str] | None = None

    @property
    def open_proposals(self) -> int:
        """How many proposals are open."""
        return len(self._open)

    @property
    def epoch(self) -> int:
        """The epoch of the next block."""
        return self._electorate.members.epoch

    @property
    def recorded_view(self) -> int:
        """The highest view of this epoch on record."""
        return self._electorate.recorded_view

    @property
    def faulty(self) -> tuple[str, ...]:
        """Members that are proven faulty."""
        return tuple(self._electorate.faulty)

    def begin_block(self, time_ms: int, *, has_commands: bool) -> None:
        """Find what is due at the time of the new block."""
        self._time_ms = time_ms
        self._has_commands = has_commands
        self._caused = False
        self._touched = dict.fromkeys(self._open) if self._begins_epoch else {}
        self._begins_epoch = False
        self._settled = None
        while self._deadlines and self._deadlines[0][0] < time_ms:
            _, _, proposal_id = heapq.heappop(self._deadlines)
            if (proposal := self._open.get(proposal_id)) is not None:
                self._due.append((proposal_id, proposal.deadline()[1]))

    def apply(self, entry: Entry) -> None:
        """Check one entry against the state, and carry it out."""
        handlers = {
            "propose": self._propose,
            "vote": self._vote,
            "tally": self._tally,
            "expired": self._tally,
            "execute": self._execute,
            "coordinator": self._coordinator,
            "evidence": self._evidence,
            "membership": self._membership,
        }
        handler = handlers.get(entry.event_type)
        if handler is None:
            raise VerificationError(f"event_type {entry.event_type[:80]!r} is not known, or not here")
        handler(entry)

    def end_block(self) -> None:
        """Check that nothing that had to happen in the block is missing."""
        self._require_due_done("the block ends")
        if self._settled is None:
            self._settled = self._find_settled()
        if self._settled:
            raise VerificationError(
                f"{self._settled[0]} was settled by this block's votes, but is not tallied in it"
            )
        before = self._electorate.advance()
        if before is not None:
            after = self._electorate.members
            for proposal in self._open.values():
                proposal.move(before, after, self._rules(proposal.action, proposal.proposer))
            self._approvals.clear()
            self._begins_epoch = True

    def _propose(self, entry: Entry) -> None:
        self._require_command()
        number = self.proposals + 1
        expected = f"prop-{number:04d}"
        if entry.proposal_id != expected:
            raise VerificationError(
                f"proposal_id is {entry.proposal_id[:80]!r}, but the next one is {expected}"
            )
        limit = self._genesis.rules.max_active_proposals
        if len(self._open) >= limit:
            raise VerificationError(
                f"{len(self._open)} proposals are open already, and the rules allow {limit}"
            )
        signed = SignedProposal.read(entry, self._signatures)
        if signed.digest in self._digests:
            first = self._digests[signed.digest] // _FLAGS
            raise VerificationError(f"data.digest is that of prop-{first:04d}: a proposal counts once")
        if self._genesis.rules.approval.lock_targets and signed.target:
            for other in self._open.values():
                if other.target == signed.target:
                    raise VerificationError(
                        f"{other.id} on the same target is open, and the rules allow one at a time"
                    )
        proposal = OpenProposal(
            id=expected,
            number=number,
            proposer=signed.proposer,
            action=signed.action,
            target=signed.target,
            evidence=signed.evidence if signed.action == "membership" else None,
            digest=signed.digest,
            rules=self._rules(signed.action, signed.proposer),
            closes_ms=self._time_ms + signed.window_ms if signed.window_ms else 0,
            expires_ms=self._time_ms + signed.expiry_ms if signed.expiry_ms else 0,
        )
        self.proposals = number
        self._open[expected] = proposal
        self._digests[signed.digest] = number * _FLAGS
        self._watch(proposal)

    def _rules(self, action: str, proposer: str) -> TallyRules:
        return TallyRules.of(self._genesis, self._electorate.members, action, proposer)

    def _watch(self, proposal: OpenProposal) -> None:
        """Remember when the proposal is due; sweep out the finished ones once they are the most."""
        if len(self._deadlines) > 2 * len(self._open) + 64:
            self._deadlines = [item for item in self._deadlines if item[2] in self._open]
            heapq.heapify(self._deadlines)
        deadline_ms, _ = proposal.deadline()
        if deadline_ms:
            heapq.heappush(self._deadlines, (deadline_ms, proposal.number, proposal.id))

    def _vote(self, entry: Entry) -> None:
        self._require_command()
        proposal = self._require_open(entry)
        vote = SignedVote.read(entry.data, entry.actor_id, proposal.digest, self._signatures)
        if not vote.reason and vote.value != "abstain" and self._needs_reason(proposal.action):
            raise VerificationError(f"data.reason is empty, and the rules ask for one on {proposal.id}")
        last = proposal.revisions.get(vote.voter)
        if last is not None and not self._genesis.rules.allow_vote_change:
            raise VerificationError(
                f"{vote.voter} has voted on {proposal.id} before, and the rules allow no change"
            )
        expected = 0 if last is None else last + 1
        if vote.revision != expected:
            raise VerificationError(
                f"data.revision is {vote.revision}, but this voter's next one is {expected}"
            )
        proposal.votes[vote.voter] = vote.value
        proposal.revisions[vote.voter] = vote.revision
        proposal.marks[vote.voter] = vote.mark
        self._touched[proposal.id] = None

    def _needs_reason(self, action: str) -> bool:
        approval = self._genesis.rules.approval
        own = approval.actions[action].reason_required if action in approval.actions else None
        return approval.reason_required if own is None else own

    def _tally(self, entry: Entry) -> None:
        fields = tally_fields(entry)
        cause = fields.text("cause")
        if cause == "closed":
            self._require_command()
            proposal = self._require_open(entry)
            check_close(entry, fields, proposal.digest, proposal.proposer, self.epoch, self._signatures)
        elif cause == "settled":
            self._take_settled(entry)
            proposal = self._require_open(entry)
        else:
            self._take_due(entry, cause)
            proposal = self._require_open(entry)
        self._decide(proposal, fields, cause)

    def _decide(self, proposal: OpenProposal, fields: Fields, cause: str) -> None:
        faulty = self._electorate.faulty
        tally = proposal.count(self._electorate.members, faulty)
        excluded = {voter: faulty[voter] for voter in proposal.votes if voter in faulty}
        decision = check_tally(fields, proposal.digest, proposal.votes, excluded, tally, proposal.rules)
        self.decisions["expired" if cause == "expired" else decision] += 1
        del self._open[proposal.id]
        if decision == APPROVED:
            self._digests[proposal.digest] |= _APPROVED
            if proposal.evidence is not None:
                change = canonical_json(proposal.evidence)
                self._approvals[proposal.digest] = Approval(proposal.id, change, tally.approve_count)

    def _execute(self, entry: Entry) -> None:
        self._require_command()
        receipt = SignedReceipt.read(entry, self._signatures)
        state = self._digests.get(receipt.digest)
        number, flags = divmod(state or 0, _FLAGS)
        if state is None or entry.proposal_id != f"prop-{number:04d}":
            raise VerificationError(f"data.digest is not that of {entry.proposal_id[:80]!r}")
        if not flags & _APPROVED:
            raise VerificationError(f"{entry.proposal_id} is not approved, so it authorises no execution")
        receipts = self._receipts.get(number, ())
        if len(receipts) >= MAX_RECEIPTS and receipt.outcome != "succeeded":
            raise VerificationError(f"{entry.proposal_id} has {MAX_RECEIPTS} receipts already")
        if receipt.mark in receipts:
            raise VerificationError("the same receipt is in the record already")
        if receipt.outcome == "succeeded":
            if flags & _EXECUTED:
                raise VerificationError(f"{entry.proposal_id} was executed already")
            self._digests[receipt.digest] = state | _EXECUTED
            self.executed += 1
        self._receipts[number] = (*receipts, receipt.mark)

    def _coordinator(self, entry: Entry) -> None:
        self._require_command()
        self._electorate.coordinator(entry)

    def _evidence(self, entry: Entry) -> None:
        self._require_command()
        evidence = self._electorate.evidence(entry)
        if evidence.votes is None:
            if entry.proposal_id:
                raise VerificationError("proposal_id must be empty: the evidence is about statements")
        else:
            proposal = self._require_open(entry)
            first, accused = evidence.votes[0], evidence.accused
            if evidence.digest != proposal.digest or proposal.marks.get(accused) != first.mark:
                raise VerificationError(f"data.first is not the vote of {accused} on {proposal.id} on record")
        for proposal in self._open.values():
            if evidence.accused in proposal.votes:
                self._touched[proposal.id] = None

    def _membership(self, entry: Entry) -> None:
        if self._caused:
            raise VerificationError("a change of members must be the only command of its block")
        self._require_command()
        self._electorate.membership(entry, self._time_ms, self._approvals.get)

    def _require_open(self, entry: Entry) -> OpenProposal:
        proposal = self._open.get(entry.proposal_id)
        if proposal is None:
            raise VerificationError(f"proposal_id {entry.proposal_id[:80]!r} does not name an open proposal")
        return proposal

    def _require_command(self) -> None:
        """The entry comes from a command: after what was due, before the settled tallies."""
        self._require_due_done("the commands begin")
        if self._settled is not None:
            raise VerificationError("a command's entry stands after the tallies that end a block")
        if self._electorate.is_ending:
            raise VerificationError("the block has changed the members, so no other command may be in it")
        self._caused = True
        if not self._has_commands:
            raise VerificationError(
                "the block's commands_root is that of no commands, so nothing can have caused this"
            )

    def _require_due_done(self, moment: str) -> None:
        if self._due:
            proposal_id, cause = self._due[0]
            what = "have expired" if cause == "expired" else "be tallied, its window over,"
            raise VerificationError(f"{proposal_id} had to {what} in this block before {moment}, but was not")

    def _take_due(self, entry: Entry, cause: str) -> None:
        if not self._due:
            raise VerificationError(
                f"{entry.proposal_id[:80]!r} is not due: nothing has reached its deadline (cause {cause})"
            )
        proposal_id, expected = self._due.popleft()
        if (entry.proposal_id, cause) != (proposal_id, expected):
            raise VerificationError(
                f"{entry.proposal_id[:80]!r} ({cause}) stands where {proposal_id} ({expected}) is due"
            )

    def _take_settled(self, entry: Entry) -> None:
        self._require_due_done("settled proposals are tallied")
        if self._settled is None:
            self._settled = self._find_settled()
        if not self._settled:
            raise VerificationError(f"{entry.proposal_id[:80]!r} is not settled by votes in this block")
        proposal_id = self._settled.popleft()
        if entry.proposal_id != proposal_id:
            raise VerificationError(
                f"{entry.proposal_id[:80]!r} stands where settled {proposal_id} has to be tallied"
            )

    def _find_settled(self) -> deque[str]:
        touched = (self._open[proposal_id] for proposal_id in self._touched if proposal_id in self._open)
        return deque(
            proposal.id
            for proposal in touched
            if proposal.is_settled(self._electorate.members, self._electorate.faulty)
        )
