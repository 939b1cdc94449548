"""What would become of a command: the conditions of each kind, without the effects.

One set of rules serves three questions. Execution asks about the state in the middle of a block; selection
asks which waiting commands are worth ordering; `verdict` asks what is certain for good. The rules are those
that `ledger.verify` holds a record to, written apart from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from replication.consensus.model import Decision, ProposalStatus, VoteValue
from replication.consensus.rules import bft_quorum
from replication.identity.genesis import Rules
from replication.identity.members import MemberSet

from .admission import Admitted
from .commands import (
    BallotCommand,
    CloseCommand,
    CoordinatorChangeCommand,
    EvidenceCommand,
    MembershipCommand,
    ProposalCommand,
    ReceiptCommand,
    RejoinCommand,
    VoteItem,
)
from .history import FinishedProposal, OpenProposal, RecordedVote
from .membership import ChangeError, apply_change, parse_change
from .outcomes import Outcome, Reason, refused, repeated
from .polls import OpenPoll

__all__ = ["MAX_RECEIPTS", "REJOIN_INTERVAL_MS", "Ruling", "View", "rule", "rule_vote"]

MAX_RECEIPTS: Final = 8
"""Receipts a proposal can have, since attempts to act on one decision are few; after them only the first that
says succeeded, so that failures cannot keep an execution from being confirmed."""

REJOIN_INTERVAL_MS: Final = 60_000
"""Block time between two rejoins of a member. Each ends an epoch and voids what was signed in it, so that a
faulty member that asks again and again would stop the cluster."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """`outcome` is None when the command would take effect now.

    `final`: it will be so for ever. `waits`: the command may take effect later without anybody doing it
    again, so it is not worth ordering yet. `contradicts`: the vote on record that this one contradicts, if
    its voter is not known to be faulty yet: then ordering it has an effect after all, the evidence.
    """

    outcome: Outcome | None = None
    final: bool = False
    waits: bool = False
    contradicts: RecordedVote | None = None

    @property
    def is_void(self) -> bool:
        """Whether ordering the command can never do anything."""
        return self.final and self.contradicts is None


TAKES_EFFECT: Final = Ruling()


class View(Protocol):
    """A state to rule by: the committed one, or that in the middle of a block."""

    @property
    def rules(self) -> Rules: ...

    @property
    def nonce(self) -> bytes:
        """Nonce of the genesis file."""
        ...

    @property
    def members(self) -> MemberSet: ...

    @property
    def recorded_view(self) -> int: ...

    @property
    def faulty(self) -> Mapping[str, int]: ...

    @property
    def incarnations(self) -> Mapping[str, bytes]: ...

    @property
    def rejoined_ms(self) -> Mapping[str, int]: ...

    @property
    def open_count(self) -> int: ...

    def poll(self, digest: bytes) -> OpenPoll | None:
        """The open proposal with this digest."""
        ...

    def polls(self) -> Iterator[OpenPoll]:
        """All open proposals."""
        ...

    def finished(self, digest: bytes) -> FinishedProposal | None:
        """The finished proposal with this digest."""
        ...

    def request(self, proposer: str, request_id: str) -> bytes | None:
        """Digest of the proposal on record under a request id."""
        ...

    def vote(self, digest: bytes, voter: str) -> RecordedVote | None:
        """The last vote on record of a voter on a finished proposal."""
        ...


def rule(view: View, admitted: Admitted, time_ms: int) -> Ruling:
    """Rule on a command in a block at `time_ms`; not on a ballot, whose votes are ruled on one by one
    (`rule_vote`)."""
    command = admitted.command
    match command:
        case ProposalCommand():
            return _rule_proposal(view, command, admitted.mark)
        case CloseCommand():
            return _rule_close(view, command)
        case ReceiptCommand():
            return _rule_receipt(view, command, admitted.mark)
        case CoordinatorChangeCommand():
            return _rule_coordinator(view, command)
        case EvidenceCommand():
            return _rule_evidence(view, command)
        case MembershipCommand():
            return _rule_membership(view, command)
        case RejoinCommand():
            return _rule_rejoin(view, command, time_ms)
        case BallotCommand():
            raise TypeError("votes are ruled on one by one")


def _final(outcome: Outcome) -> Ruling:
    return Ruling(outcome, final=True)


def _unknown(digest: bytes) -> Ruling:
    message = f"no proposal with digest {digest.hex()} is on record; it may still come"
    return Ruling(refused(Reason.UNKNOWN_PROPOSAL, message), waits=True)


def _rule_proposal(view: View, command: ProposalCommand, digest: bytes) -> Ruling:
    known = _known(view, digest)
    if known is not None:
        return _final(repeated("this proposal", known.id, known.sequence))
    other = _requested(view, command.proposer, command.request_id)
    if other is not None and not _same_content(command, other):
        return _final(
            refused(
                Reason.REQUEST_ID_REUSED,
                f"{command.proposer} has used request id {command.request_id} for {other.id}, which has "
                "other content; use a new id for a new proposal",
                other.id,
            )
        )
    other = other or _requested_elsewhere(view, command)
    if other is not None:
        return _final(repeated("a proposal with this request id and content", other.id, other.sequence))
    limit = view.rules.max_active_proposals
    if view.open_count >= limit:
        message = f"{limit} proposals are open, as many as the rules allow; try again when one is decided"
        return Ruling(refused(Reason.TOO_MANY_PROPOSALS, message))
    if view.rules.approval.lock_targets and command.target:
        return _rule_target(view, command.target)
    return TAKES_EFFECT


def _rule_target(view: View, target: str) -> Ruling:
    """A target has one open proposal at a time."""
    taken = next((poll.proposal for poll in view.polls() if poll.proposal.target == target), None)
    if taken is None:
        return TAKES_EFFECT
    message = (
        f"{taken.id} to {taken.action} the same target is open, and the rules of this cluster allow one at a "
        "time; vote on it, or wait until it is decided"
    )
    return Ruling(refused(Reason.TARGET_LOCKED, message, taken.id))


def _requested(view: View, proposer: str, request_id: str) -> OpenProposal | FinishedProposal | None:
    """The proposal on record that a member made under a request id."""
    digest = view.request(proposer, request_id)
    return None if digest is None else _known(view, digest)


def _requested_elsewhere(view: View, command: ProposalCommand) -> OpenProposal | FinishedProposal | None:
    """The same request, made through another member.

    A client whose node went away asks another one, while the first may still have its proposal under way.
    Only the same content counts: the ids of different members do not clash, or one could take those of
    another.
    """
    others = (member for member in view.members.ids if member != command.proposer)
    found = (_requested(view, member, command.request_id) for member in others)
    return next((other for other in found if other is not None and _same_content(command, other)), None)


def _known(view: View, digest: bytes) -> OpenProposal | FinishedProposal | None:
    poll = view.poll(digest)
    return view.finished(digest) if poll is None else poll.proposal


def _same_content(command: ProposalCommand, other: OpenProposal | FinishedProposal) -> bool:
    """Whether a proposal asks for the same. Epoch and clock differ when it is signed again."""
    content = (command.action, command.target, command.window_ms, command.expiry_ms)
    same = content == (other.action, other.target, other.window_ms, other.expiry_ms)
    return same and command.evidence == other.evidence_json.encode("utf-8")


def rule_vote(view: View, ballot: BallotCommand, item: VoteItem, mark: bytes) -> Ruling:
    """Rule on one vote of a ballot."""
    poll = view.poll(item.proposal_digest)
    if poll is None:
        return _rule_late_vote(view, ballot.voter, item.proposal_digest, mark)
    proposal_id, recorded = poll.proposal.id, poll.votes.get(ballot.voter)
    if _lacks_reason(view, poll, item):
        message = f"a vote on {proposal_id} needs a reason: the rules of this cluster ask for one"
        return _final(refused(Reason.REASON_REQUIRED, message, proposal_id))
    may_change = view.rules.allow_vote_change
    if recorded is None:
        return TAKES_EFFECT if item.revision == 0 else _out_of_order(proposal_id, item, 0, may_change)
    if recorded.mark == mark:
        return _final(repeated("this vote", proposal_id, recorded.sequence))
    if may_change and item.revision == recorded.revision + 1:
        return TAKES_EFFECT
    if may_change and item.revision > recorded.revision:
        return _out_of_order(proposal_id, item, recorded.revision + 1, may_change)
    message = f"{ballot.voter} has voted on {proposal_id}"
    if may_change:
        message += f"; the next vote that counts has revision {recorded.revision + 1}"
    else:
        message += ", and the rules of this cluster allow no change"
    outcome = refused(Reason.ALREADY_VOTED, message, proposal_id, recorded.sequence)
    twice = (item.revision, ballot.epoch) == (recorded.revision, recorded.epoch)
    is_news = twice and ballot.voter not in view.faulty
    return Ruling(outcome, final=True, contradicts=recorded if is_news else None)


def _lacks_reason(view: View, poll: OpenPoll, item: VoteItem) -> bool:
    if item.value is VoteValue.ABSTAIN or item.reason:
        return False
    return view.rules.approval.needs_reason(poll.proposal.action)


def _out_of_order(proposal_id: str, item: VoteItem, expected: int, may_change: bool) -> Ruling:
    message = f"revision {item.revision} of a vote on {proposal_id}, where {expected} comes next"
    outcome = refused(Reason.REVISION_OUT_OF_ORDER, message, proposal_id)
    return Ruling(outcome, final=not may_change, waits=may_change)


def _rule_late_vote(view: View, voter: str, digest: bytes, mark: bytes) -> Ruling:
    finished = view.finished(digest)
    if finished is None:
        return _unknown(digest)
    recorded = view.vote(digest, voter)
    if recorded is not None and recorded.mark == mark:
        return _final(repeated("this vote", finished.id, recorded.sequence))
    return _final(_not_open(finished))


def _not_open(finished: FinishedProposal) -> Outcome:
    if finished.status is ProposalStatus.EXPIRED:
        message = f"{finished.id} has expired undecided; make a new proposal"
        return refused(Reason.PROPOSAL_EXPIRED, message, finished.id, finished.tally_sequence)
    message = f"{finished.id} is decided: {finished.decision.value}"
    return refused(Reason.PROPOSAL_NOT_OPEN, message, finished.id, finished.tally_sequence)


def _rule_close(view: View, command: CloseCommand) -> Ruling:
    known = _known(view, command.proposal_digest)
    if known is None:
        return _unknown(command.proposal_digest)
    if known.proposer != command.closer:
        message = f"only {known.proposer}, who proposed {known.id}, may close it"
        return _final(refused(Reason.NOT_PROPOSER, message, known.id))
    if isinstance(known, OpenProposal):
        return TAKES_EFFECT
    if known.cause == "closed":
        return _final(repeated("this close", known.id, known.tally_sequence))
    return _final(_not_open(known))


def _rule_receipt(view: View, command: ReceiptCommand, mark: bytes) -> Ruling:
    known = _known(view, command.proposal_digest)
    if known is None:
        return _unknown(command.proposal_digest)
    if isinstance(known, OpenProposal):
        message = f"{known.id} is not decided, so it authorises nothing yet"
        return Ruling(refused(Reason.NOT_APPROVED, message, known.id), waits=True)
    if known.decision is not Decision.APPROVED:
        message = f"{known.id} is not approved ({known.decision.value}), so it authorises nothing"
        return _final(refused(Reason.NOT_APPROVED, message, known.id, known.tally_sequence))
    for receipt in known.receipts:
        if receipt.mark == mark:
            return _final(repeated("this receipt", known.id, receipt.sequence))
    if command.outcome == "succeeded" and known.status is ProposalStatus.EXECUTED:
        return _final(refused(Reason.ALREADY_EXECUTED, f"{known.id} was executed before", known.id))
    if len(known.receipts) >= MAX_RECEIPTS and command.outcome != "succeeded":
        message = f"{known.id} has {MAX_RECEIPTS} receipts, as many as it can have"
        return _final(refused(Reason.TOO_MANY_RECEIPTS, message, known.id))
    return TAKES_EFFECT


def _rule_coordinator(view: View, command: CoordinatorChangeCommand) -> Ruling:
    if command.view <= view.recorded_view:
        message = f"view {view.recorded_view} of this epoch is on record already"
        return _final(refused(Reason.VIEW_RECORDED, message))
    return TAKES_EFFECT


def _rule_evidence(view: View, command: EvidenceCommand) -> Ruling:
    known = view.faulty.get(command.accused)
    if known is not None:
        return _final(repeated(f"evidence against {command.accused}", "", known))
    return TAKES_EFFECT


def _rule_membership(view: View, command: MembershipCommand) -> Ruling:
    known = _known(view, command.proposal_digest)
    if known is None:
        return _unknown(command.proposal_digest)
    if isinstance(known, OpenProposal):
        return Ruling(refused(Reason.NOT_APPROVED, f"{known.id} is not decided yet", known.id), waits=True)
    problem = _flaw_of_approval(view, command, known)
    if problem:
        return _final(refused(Reason.NOT_APPROVED, problem, known.id))
    try:
        apply_change(view.members, parse_change(command.change), view.nonce)
    except ChangeError as error:
        return _final(refused(Reason.MEMBERSHIP_REFUSED, str(error), known.id))
    return TAKES_EFFECT


def _flaw_of_approval(view: View, command: MembershipCommand, known: FinishedProposal) -> str:
    """Why this proposal does not approve this change, or an empty text."""
    if known.decision is not Decision.APPROVED:
        return f"{known.id} is not approved ({known.decision.value})"
    if known.action != "membership" or known.evidence_json.encode("utf-8") != command.change:
        return f"{known.id} is about something else: its evidence must be exactly the change"
    if known.decided_epoch != view.members.epoch:
        return f"{known.id} was approved by the members of epoch {known.decided_epoch}; propose it again"
    needed = bft_quorum(view.members.n)
    if known.approve_count < needed:
        return f"{known.id} has {known.approve_count} approvals; a change of members needs {needed}"
    return ""


def _rule_rejoin(view: View, command: RejoinCommand, time_ms: int) -> Ruling:
    member = command.member
    if view.incarnations.get(member) == command.nonce:
        return _final(repeated(f"the rejoin of {member}", "", -1))
    if member in view.faulty:
        message = f"{member} is proven faulty; it comes back only when the members approve of a new key"
        return _final(refused(Reason.REJOIN_REFUSED, message, "", view.faulty[member]))
    last_ms = view.rejoined_ms.get(member)
    if last_ms is not None and time_ms < last_ms + REJOIN_INTERVAL_MS:
        message = f"{member} has rejoined at {last_ms} ms, and may again after {REJOIN_INTERVAL_MS} ms"
        return Ruling(refused(Reason.REJOIN_REFUSED, message), waits=True)
    return TAKES_EFFECT
