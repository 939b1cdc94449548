"""Rules that make approval harder than the arithmetic alone: who must agree, who does not count, what must
be said.

They only ever add to what `rules` demands. For an action (or for all) they can ask for the supermajority or
a higher share, for approvals of a group of voters, for a reason with each vote, and that the proposer does
not count; and they can keep a target to one open proposal at a time. A requirement that nobody can fulfil
(all of a group have left) is not fulfilled: then nothing is approved, and `Poll.missing` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from replication.consensus.errors import InvalidConfigError, ReasonRequiredError, TargetLockedError, shown
from replication.consensus.model import Proposal, ProposalAction, VoteValue

__all__ = ["NOTHING_MORE", "ActionRules", "ApprovalRules", "GroupRule", "Missing"]

MAX_GROUPS: Final = 32
MAX_ACTIONS: Final = 256
"""More would be a mistake, and every open proposal looks at its groups."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """At least `approvals` of the voters in a group have to approve."""

    group: str
    voters: frozenset[str]
    approvals: int


@dataclass(frozen=True, slots=True)
class Missing:
    """One condition of approval that the votes so far do not fulfil.

    `condition` is "quorum", "approvals", "majority" or "group NAME". `count` more votes (for "quorum") or
    approvals are needed, at least, from among `voters`, who have not voted yet; fewer voters than that can
    not do it any more.
    """

    condition: str
    count: int
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionRules:
    """What is different for one action. None is: as for all others.

    `threshold`: share of the non-abstaining weight that must approve, not below the one that the action
    would have otherwise. `requires`: approvals by group, beside those that every action needs. `window_ms`
    and `expiry_ms`: of proposals that do not say, in milliseconds, 0 for no end.
    """

    threshold: Fraction | None = None
    requires: Mapping[str, int] = field(default_factory=dict)
    reason_required: bool | None = None
    window_ms: int | None = None
    expiry_ms: int | None = None


_NOTHING_SPECIAL: Final = ActionRules()


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """The rules of a session or cluster. The default asks for nothing more.

    * `reason_required`: a vote that approves or rejects gives a reason.
    * `proposer_counts`: whether the proposer's own vote counts; if not, the proposer abstains, whatever it
      says for its proposal or against it.
    * `lock_targets`: a target has one open proposal at a time.
    * `critical_actions`: need the supermajority, beside terminate and escalate.
    * `groups`: voters by the name of a group; `requires`: approvals of a group that every action needs.
    * `actions`: what is different for one action.

    Raises InvalidConfigError for a group that is not there or cannot give so many approvals.
    """

    reason_required: bool = False
    proposer_counts: bool = True
    lock_targets: bool = False
    critical_actions: frozenset[str] = frozenset()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    requires: Mapping[str, int] = field(default_factory=dict)
    actions: Mapping[str, ActionRules] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.groups) > MAX_GROUPS or len(self.actions) > MAX_ACTIONS:
            raise InvalidConfigError(f"there can be {MAX_GROUPS} groups and rules for {MAX_ACTIONS} actions")
        for name, voters in self.groups.items():
            if not name or not voters:
                raise InvalidConfigError(f"group {shown(name)} must have a name and voters")
        for where, requires in (
            ("requires", self.requires),
            *((f"actions.{action}.requires", rules.requires) for action, rules in self.actions.items()),
        ):
            for group, approvals in requires.items():
                self._check(where, group, approvals)

    def _check(self, where: str, group: str, approvals: int) -> None:
        size = len(self.groups.get(group, ()))
        if type(approvals) is not int or not 1 <= approvals <= size:
            raise InvalidConfigError(
                f"{where}.{group} must be a whole number from 1 to {size}, the voters of the group, got "
                f"{shown(approvals)}"
                if size
                else f"{where} names the group {shown(group)}, and groups does not"
            )

    def of(self, action: str) -> ActionRules:
        """What is different for an action."""
        return self.actions.get(action, _NOTHING_SPECIAL)

    def is_critical(self, action: str) -> bool:
        """Whether an action needs the supermajority."""
        return ProposalAction.is_critical(action) or action in self.critical_actions

    def needs_reason(self, action: str) -> bool:
        """Whether a vote on an action that approves or rejects has to give a reason."""
        own = self.of(action).reason_required
        return self.reason_required if own is None else own

    def group_rules(self, action: str) -> tuple[GroupRule, ...]:
        """Whose approvals an action needs, by the name of the group; the higher number if two rules ask."""
        needed = dict(self.requires)
        for group, approvals in self.of(action).requires.items():
            needed[group] = max(approvals, needed.get(group, 0))
        return tuple(GroupRule(group, self.groups[group], needed[group]) for group in sorted(needed))

    def require_free(self, target: str | None, open_ones: Iterable[Proposal]) -> None:
        """Raise TargetLockedError if an open proposal has the target, and a target has one at a time."""
        if not self.lock_targets or not target:
            return
        taken = next((proposal for proposal in open_ones if proposal.target == target), None)
        if taken is not None:
            raise TargetLockedError(
                f"{taken.id} on the target {shown(target)} is open, and the rules allow one at a time: tally "
                "it first"
            )

    def require_reason(self, proposal: Proposal, value: VoteValue, reason: str | None) -> None:
        """Raise ReasonRequiredError if a vote needs a reason and has none."""
        if value is not VoteValue.ABSTAIN and not reason and self.needs_reason(proposal.action):
            raise ReasonRequiredError(
                f"a vote on {proposal.id} needs a reason: the rules ask for one with {shown(proposal.action)}"
            )


NOTHING_MORE: Final = ApprovalRules()
"""No rules beside the arithmetic."""
