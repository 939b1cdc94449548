"""The tally, computed a second time from the votes alone. Shares no code with the voting library it judges.

Rules: participants are those who approve or reject; fewer than max(ceil(n * quorum_fraction), 2f + 1) of them
is no quorum. Approval needs the threshold's share of the participating weight (meeting it exactly is enough),
more approving than rejecting weight, and f + 1 approving heads. All else with a quorum is a rejection.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet

from .reading import keys

__all__ = [
    "APPROVED",
    "NO_QUORUM",
    "REJECTED",
    "TALLY_KEYS",
    "VOTE_VALUES",
    "Tally",
    "TallyRules",
    "is_critical",
]

APPROVED, REJECTED, NO_QUORUM = "approved", "rejected", "no_quorum"
VOTE_VALUES = ("approve", "reject", "abstain")
TALLY_KEYS = keys(
    "digest decision cause approve_count reject_count abstain_count total_voters "
    "quorum_required quorum_met approve_weight reject_weight threshold_used is_critical votes"
)

_CRITICAL_ACTIONS = frozenset({"terminate", "escalate"})


def is_critical(action: str) -> bool:
    """Whether an action needs the supermajority."""
    return action in _CRITICAL_ACTIONS


@dataclass(frozen=True, slots=True)
class TallyRules:
    """What one tally is measured against: the size of the electorate, and the action's threshold."""

    n: int
    f: int
    total_weight: int
    quorum_required: int
    threshold: Fraction
    critical: bool

    @classmethod
    def of(cls, genesis: Genesis, members: MemberSet, *, critical: bool) -> TallyRules:
        """The rules of the genesis file for these members."""
        n = members.n
        f = (n - 1) // 3
        share = genesis.rules.quorum_fraction
        by_fraction = -(-n * share.numerator // share.denominator)
        threshold = genesis.rules.supermajority_threshold if critical else genesis.rules.majority_threshold
        total_weight = sum(member.weight for member in members.members)
        return cls(n, f, total_weight, max(by_fraction, 2 * f + 1), threshold, critical)


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes counted: heads and weights."""

    approve_count: int = 0
    reject_count: int = 0
    abstain_count: int = 0
    approve_weight: int = 0
    reject_weight: int = 0
    abstain_weight: int = 0

    @classmethod
    def count(cls, votes: Mapping[str, str], members: MemberSet, excluded: Container[str] = ()) -> Tally:
        """Count votes (voter to value); every voter is a member. Votes of the excluded are abstentions."""
        heads = dict.fromkeys(VOTE_VALUES, 0)
        weights = dict.fromkeys(VOTE_VALUES, 0)
        for voter, signed in votes.items():
            value = "abstain" if voter in excluded else signed
            heads[value] += 1
            weights[value] += members.members[members.index_of(voter)].weight
        return cls(*heads.values(), *weights.values())

    @property
    def participants(self) -> int:
        """Voters who approved or rejected."""
        return self.approve_count + self.reject_count

    def decision(self, rules: TallyRules) -> str:
        """The decision if these were all the votes."""
        if self.participants < rules.quorum_required:
            return NO_QUORUM
        participating = self.approve_weight + self.reject_weight
        reached = (
            self.approve_weight * rules.threshold.denominator >= participating * rules.threshold.numerator
        )
        leads = self.approve_weight > self.reject_weight
        heads = self.approve_count >= rules.f + 1
        return APPROVED if reached and leads and heads else REJECTED

    def settled(self, rules: TallyRules) -> str | None:
        """The decision if no vote that is still missing can change it, else None.

        More approvals never turn an approval down, so the two extreme completions speak for all.
        """
        outstanding = rules.n - self.participants - self.abstain_count
        if not outstanding:
            return self.decision(rules)
        if self.participants + outstanding < rules.quorum_required:
            return NO_QUORUM
        if self.participants < rules.quorum_required:
            return None
        weight = rules.total_weight - self.approve_weight - self.reject_weight - self.abstain_weight
        best = replace(
            self, approve_count=self.approve_count + outstanding, approve_weight=self.approve_weight + weight
        ).decision(rules)
        worst = replace(
            self, reject_count=self.reject_count + outstanding, reject_weight=self.reject_weight + weight
        ).decision(rules)
        return best if best == worst else None

    def record(self, rules: TallyRules, decision: str) -> dict[str, object]:
        """What a tally entry must say about these votes and this decision, field by field."""
        return {
            "decision": decision,
            "approve_count": self.approve_count,
            "reject_count": self.reject_count,
            "abstain_count": self.abstain_count,
            "total_voters": rules.n,
            "quorum_required": rules.quorum_required,
            "quorum_met": self.participants >= rules.quorum_required,
            "approve_weight": self.approve_weight,
            "reject_weight": self.reject_weight,
            "threshold_used": str(rules.threshold),
            "is_critical": rules.critical,
        }
