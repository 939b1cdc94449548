"""The voting rules of a cluster, as its genesis file states them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from replication.consensus.approval import NOTHING_MORE, ApprovalRules
from replication.consensus.rules import VotingRules
from replication.identity.members import MemberSet

__all__ = ["MAX_ACTIVE_PROPOSALS", "MAX_EXACT_INTEGER", "Rules"]

MAX_EXACT_INTEGER: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact (RFC 8785, section 3.2.2.3)."""

MAX_ACTIVE_PROPOSALS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Rules:
    """The voting rules of a cluster, exact, with the legal ranges of the voting library's configuration.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    quorum_fraction: Fraction = Fraction(1, 2)
    majority_threshold: Fraction = Fraction(1, 2)
    supermajority_threshold: Fraction = Fraction(2, 3)
    default_window_ms: int = 60_000
    default_expiry_ms: int = 0
    allow_vote_change: bool = False
    max_active_proposals: int = 10
    approval: ApprovalRules = NOTHING_MORE

    def __post_init__(self) -> None:
        for field in ("quorum_fraction", "majority_threshold", "supermajority_threshold"):
            share = getattr(self, field)
            if not isinstance(share, Fraction) or not 0 < share <= 1:
                raise ValueError(f"{field} must be a fraction above 0 and up to 1, not {share!s:.80}")
        for field in ("default_window_ms", "default_expiry_ms"):
            _require_range(field, getattr(self, field), 0, MAX_EXACT_INTEGER)
        if not isinstance(self.allow_vote_change, bool):
            raise ValueError(f"allow_vote_change must be true or false, not {self.allow_vote_change!r:.80}")
        _require_range("max_active_proposals", self.max_active_proposals, 1, MAX_ACTIVE_PROPOSALS)
        self.voting  # noqa: B018  # judges the shares that actions have of their own

    @property
    def voting(self) -> VotingRules:
        """The same for the voting library."""
        return VotingRules(
            self.quorum_fraction, self.majority_threshold, self.supermajority_threshold, self.approval
        )

    def window_ms(self, action: str) -> int:
        """How long votes on an action are collected if its proposal does not say; 0 for no end."""
        own = self.approval.of(action).window_ms
        return self.default_window_ms if own is None else own

    def expiry_ms(self, action: str) -> int:
        """How long a proposal of an action lives if it does not say; 0 for ever."""
        own = self.approval.of(action).expiry_ms
        return self.default_expiry_ms if own is None else own

    def require_satisfiable(self, members: MemberSet) -> None:
        """Raise ValueError for rules under which these members could never approve anything."""
        quorum = self.voting.quorum_required(members.n)
        if not self.approval.proposer_counts and quorum > members.n - 1:
            raise ValueError(
                f"approval.proposer_counts is false, and without the proposer {members.n} members "
                f"cannot reach the quorum of {quorum}"
            )
        everywhere = [("requires", self.approval.requires)]
        everywhere += [
            (f"actions.{action}.requires", own.requires) for action, own in self.approval.actions.items()
        ]
        for where, requires in everywhere:
            for group, approvals in requires.items():
                there = sum(voter in members for voter in self.approval.groups[group])
                if approvals > there:
                    raise ValueError(
                        f"approval.{where}.{group} asks for {approvals} approvals, and {there} of the group "
                        "are members"
                    )


def _require_range(field: str, value: object, lowest: int, highest: int) -> None:
    if type(value) is not int or not lowest <= value <= highest:
        raise ValueError(f"{field} must be a whole number from {lowest} to {highest}, not {value!r:.80}")
