"""An open proposal with its votes and the running tally."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from replication.consensus.approval import Missing
from replication.consensus.model import Decision, VoteValue
from replication.consensus.rules import Electorate, Poll, VotingRules
from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet

from .history import OpenProposal, RecordedVote

__all__ = ["OpenPoll", "electorate_of", "voting_rules_of"]


def electorate_of(members: MemberSet) -> Electorate:
    """The voters of an epoch with their weights."""
    return Electorate({member.id: member.weight for member in members.members})


def voting_rules_of(genesis: Genesis) -> VotingRules:
    """What decides a vote."""
    return genesis.rules.voting


class OpenPoll:
    """Votes of one open proposal. The votes of members that are proven faulty count as abstentions.

    `proposal` has no votes in it: they are in `votes`, by voter, in the order of their first, as they were
    signed.
    """

    __slots__ = ("_electorate", "_poll", "proposal", "votes")

    def __init__(self, proposal: OpenProposal, electorate: Electorate, rules: VotingRules) -> None:
        self.proposal = replace(proposal, votes=())
        self.votes: dict[str, RecordedVote] = {}
        self._electorate = electorate
        self._poll = Poll.on(electorate, rules, proposal.action, proposal.proposer)

    def copy(self) -> OpenPoll:
        """An independent poll with the same votes; O(votes)."""
        twin = OpenPoll.__new__(OpenPoll)
        twin.proposal, twin.votes = self.proposal, self.votes.copy()
        twin._electorate, twin._poll = self._electorate, self._poll.copy()
        return twin

    def rebuilt(
        self,
        electorate: Electorate,
        rules: VotingRules,
        faulty: Mapping[str, int],
        keeps: Callable[[str], bool],
    ) -> OpenPoll:
        """The same proposal under another electorate, with the votes of those whom `keeps` names."""
        twin = OpenPoll(self.proposal, electorate, rules)
        for voter, vote in self.votes.items():
            if keeps(voter):
                twin.record(vote, is_faulty=voter in faulty)
        return twin

    def record(self, vote: RecordedVote, *, is_faulty: bool) -> None:
        """Count a vote; a later one of the same voter replaces the earlier."""
        self.votes[vote.voter] = vote
        self._poll.cast(vote.voter, VoteValue.ABSTAIN if is_faulty else vote.value)

    def discount(self, voter: str) -> bool:
        """The voter is proven faulty: its vote is an abstention from now on. False if it has not voted."""
        if voter not in self.votes:
            return False
        self._poll.cast(voter, VoteValue.ABSTAIN)
        return True

    @property
    def is_settled(self) -> bool:
        """Whether no vote that is missing could change the decision."""
        return self._poll.settled()

    def missing(self) -> tuple[Missing, ...]:
        """What the votes lack for an approval."""
        return self._poll.missing()

    @property
    def deadline(self) -> tuple[int, str]:
        """When the cluster acts by itself (0: never), and the cause of what it does; a tie expires."""
        closes, expires = self.proposal.closes_ms, self.proposal.expires_ms
        if expires and (not closes or expires <= closes):
            return expires, "expired"
        return closes, "window"

    def snapshot(self) -> OpenProposal:
        """The proposal with its votes."""
        return replace(self.proposal, votes=tuple(self.votes.values()))

    def decision(self, cause: str) -> Decision:
        """What the votes decide. Closed early, what is not settled authorises nothing."""
        if cause == "expired" or (cause == "closed" and not self._poll.settled()):
            return Decision.NO_QUORUM
        return self._poll.decision()

    def tally_data(self, cause: str, faulty: Mapping[str, int]) -> dict[str, Any]:
        """What a tally entry says. `votes` are as signed; `excluded`, there only if somebody is, names those
        that count as abstentions, each with the sequence of the evidence against its voter."""
        poll, counts = self._poll, self._poll.counts
        data: dict[str, Any] = {
            "digest": self.proposal.digest.hex(),
            "decision": self.decision(cause).value,
            "cause": cause,
            "approve_count": counts.approve,
            "reject_count": counts.reject,
            "abstain_count": counts.abstain,
            "total_voters": self._electorate.n,
            "quorum_required": poll.quorum_required,
            "quorum_met": poll.quorum_met,
            "approve_weight": int(poll.approve_weight),
            "reject_weight": int(poll.reject_weight),
            "threshold_used": str(poll.threshold),
            "is_critical": poll.is_critical,
            "votes": {voter: vote.value.value for voter, vote in self.votes.items()},
        }
        excluded = {voter: faulty[voter] for voter in self.votes if voter in faulty}
        return {**data, "excluded": excluded} if excluded else data
