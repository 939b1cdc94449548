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


def is_critical(action: str, genesis: Genesis) -> bool:
    """Whether an action needs the supermajority."""
    return action in _CRITICAL_ACTIONS or action in genesis.rules.approval.critical_actions


@dataclass(frozen=True, slots=True)
class TallyRules:
    """What one tally is measured against: the size of the electorate, the action's threshold, the groups
    that have to approve (members, and how many of them), and the proposer if it does not count (else empty).
    """

    n: int
    f: int
    total_weight: int
    quorum_required: int
    threshold: Fraction
    critical: bool
    groups: tuple[tuple[frozenset[str], int], ...] = ()
    uncounted: str = ""

    @classmethod
    def of(cls, genesis: Genesis, members: MemberSet, action: str, proposer: str) -> TallyRules:
        """The rules of the genesis file for these members, and a proposal of this action."""
        approval, critical = genesis.rules.approval, is_critical(action, genesis)
        n = members.n
        f = (n - 1) // 3
        share = genesis.rules.quorum_fraction
        by_fraction = -(-n * share.numerator // share.denominator)
        threshold = genesis.rules.supermajority_threshold if critical else genesis.rules.majority_threshold
        needed = dict(approval.requires)
        if action in approval.actions:
            own = approval.actions[action]
            threshold = own.threshold or threshold
            for name, approvals in own.requires.items():
                needed[name] = max(approvals, needed.get(name, 0))
        groups = tuple(
            (frozenset(voter for voter in approval.groups[name] if voter in members), approvals)
            for name, approvals in needed.items()
        )
        total_weight = sum(member.weight for member in members.members)
        uncounted = "" if approval.proposer_counts or proposer not in members else proposer
        quorum = max(by_fraction, 2 * f + 1)
        return cls(n, f, total_weight, quorum, threshold, critical, groups, uncounted)


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes counted: heads and weights."""

    approve_count: int = 0
    reject_count: int = 0
    abstain_count: int = 0
    approve_weight: int = 0
    reject_weight: int = 0
    abstain_weight: int = 0
    approving: frozenset[str] = frozenset()
    voted: frozenset[str] = frozenset()

    @classmethod
    def count(
        cls, votes: Mapping[str, str], members: MemberSet, excluded: Container[str] = (), uncounted: str = ""
    ) -> Tally:
        """Count votes (voter to value); every voter is a member. Votes of the excluded are abstentions, and
        the `uncounted` proposer abstains, whether it has voted or not."""
        heads = dict.fromkeys(VOTE_VALUES, 0)
        weights = dict.fromkeys(VOTE_VALUES, 0)
        counted = dict(votes)
        if uncounted:
            counted[uncounted] = "abstain"
        approving = set()
        for voter, signed in counted.items():
            value = "abstain" if voter in excluded else signed
            if value == "approve":
                approving.add(voter)
            heads[value] += 1
            weights[value] += members.members[members.index_of(voter)].weight
        plain = cls(*heads.values(), *weights.values())  # type: ignore[arg-type]  # six counts, in order
        return replace(plain, approving=frozenset(approving), voted=frozenset(counted))

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
        agreed = all(len(self.approving & voters) >= approvals for voters, approvals in rules.groups)
        return APPROVED if reached and leads and heads and agreed else REJECTED

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
            self,
            approve_count=self.approve_count + outstanding,
            approve_weight=self.approve_weight + weight,
            approving=self.approving.union(*(voters - self.voted for voters, _ in rules.groups)),
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
