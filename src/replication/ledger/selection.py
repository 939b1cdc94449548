"""Choosing among waiting commands for a block: what to order now, what to leave, what to throw away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from replication.consensus.model import VoteValue
from replication.consensus.rules import Poll
from replication.ordering.application import CommandError, Selection
from replication.ordering.limits import MAX_BLOCK_COMMANDS

from .admission import Admission, Admitted
from .commands import (
    BallotCommand,
    CloseCommand,
    CoordinatorChangeCommand,
    EvidenceCommand,
    MembershipCommand,
    ProposalCommand,
    RejoinCommand,
)
from .rulings import rule, rule_vote
from .state import State

__all__ = ["select"]


def select(state: State, admission: Admission, commands: Sequence[bytes], time_ms: int) -> Selection:
    """Choose for a block at `time_ms`, in this order: evidence; what is about open proposals; new proposals,
    those of different members in turn; what is about the new ones.

    A ballot with a vote on a proposal that is neither open nor chosen waits as a whole. A change of members
    goes alone. Waiting longer gains nothing once every chosen proposal is settled by the chosen votes.
    """
    picker = _Picker(state, admission, time_ms)
    for raw in commands:
        picker.offer(raw)
        if picker.alone is not None:
            return Selection((picker.alone,), True, tuple(picker.void))
        if picker.is_full:
            break
    return picker.selection()


class _Picker:
    """Sorts commands as they are offered; votes that depend on new proposals at the end."""

    def __init__(self, state: State, admission: Admission, time_ms: int) -> None:
        self.void: list[bytes] = []
        self.alone: bytes | None = None
        self._state = state
        self._admission = admission
        self._time_ms = time_ms
        self._accused: set[str] = set()
        self._evidence: list[bytes] = []
        self._ready: list[bytes] = []
        self._proposals: list[tuple[int, bytes]] = []
        self._proposers: Counter[str] = Counter()
        self._new: dict[bytes, Poll] = {}
        self._unready: list[Admitted] = []

    @property
    def is_full(self) -> bool:
        """Whether a block takes no more commands. Proposals do not count: they must not crowd votes out."""
        return len(self._evidence) + len(self._ready) >= MAX_BLOCK_COMMANDS

    def offer(self, raw: bytes) -> None:
        """Look at one waiting command."""
        try:
            admitted = self._admission.check(raw, self._state.members)
        except CommandError:
            self.void.append(raw)
            return
        command = admitted.command
        if isinstance(command, BallotCommand):
            self._offer_ballot(admitted, command)
        elif isinstance(command, CoordinatorChangeCommand):
            self.void.append(raw)  # a coordinator makes its own, and it goes into a block before all others
        else:
            self._offer_other(admitted)

    def _offer_ballot(self, admitted: Admitted, ballot: BallotCommand) -> None:
        rulings = [
            rule_vote(self._state, ballot, item, mark)
            for item, mark in zip(ballot.votes, admitted.marks, strict=True)
        ]
        if all(ruling.is_void for ruling in rulings):
            self.void.append(admitted.raw)
        elif any(ruling.waits for ruling in rulings):
            self._unready.append(admitted)
        else:
            self._ready.append(admitted.raw)

    def _offer_other(self, admitted: Admitted) -> None:
        command, ruling = admitted.command, rule(self._state, admitted, self._time_ms)
        if ruling.is_void:
            self.void.append(admitted.raw)
        elif ruling.waits:
            self._unready.append(admitted)
        elif isinstance(command, MembershipCommand | RejoinCommand):
            self.alone = admitted.raw
        elif isinstance(command, ProposalCommand):
            self._offer_proposal(admitted, command)
        elif isinstance(command, EvidenceCommand):
            if command.accused not in self._accused:
                self._accused.add(command.accused)
                self._evidence.append(admitted.raw)
        else:
            self._ready.append(admitted.raw)

    def _offer_proposal(self, admitted: Admitted, command: ProposalCommand) -> None:
        turn = self._proposers[command.proposer]
        self._proposers[command.proposer] = turn + 1
        self._proposals.append((turn, admitted.raw))
        if self._state.open_count + len(self._new) < self._state.rules.max_active_proposals:
            state = self._state
            poll = Poll.on(state.electorate, state.voting_rules, command.action, command.proposer)
            self._new.setdefault(admitted.mark, poll)

    def selection(self) -> Selection:
        """What was chosen."""
        dependent = [admitted.raw for admitted in self._unready if self._is_answered(admitted)]
        in_turn = [raw for _, raw in sorted(self._proposals, key=lambda item: item[0])]
        chosen = (*self._evidence, *self._ready, *in_turn, *dependent)
        return Selection(chosen, all(poll.settled() for poll in self._new.values()), tuple(self.void))

    def _is_answered(self, admitted: Admitted) -> bool:
        """Whether a command that waits for proposals can go with those that were chosen."""
        command = admitted.command
        if isinstance(command, CloseCommand):
            return command.proposal_digest in self._new
        if not isinstance(command, BallotCommand):
            return False
        for item, mark in zip(command.votes, admitted.marks, strict=True):
            waits_for_other = item.revision != 0 or item.proposal_digest not in self._new
            if waits_for_other and rule_vote(self._state, command, item, mark).waits:
                return False
        for item in command.votes:
            poll = self._new.get(item.proposal_digest)
            if poll is not None:
                is_faulty = command.voter in self._state.faulty
                poll.cast(command.voter, VoteValue.ABSTAIN if is_faulty else item.value)
        return True
