"""The arithmetic of a vote: who counts, what a quorum is, and when a proposal is approved.

Everything is exact. Weights are scaled to integers once, thresholds are fractions, and shares are compared by
cross-multiplication, so that no two nodes can round differently. With n voters, f = floor((n - 1) / 3) of
them may be faulty (the bound of Lamport, Shostak and Pease, "The Byzantine Generals Problem", 1982), and 2f +
1 is the smallest number of participants in which the honest are sure to outnumber the faulty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from replication.consensus.approval import NOTHING_MORE, ApprovalRules, GroupRule, Missing
from replication.consensus.canonical import is_text
from replication.consensus.errors import InvalidConfigError, InvalidRequestError, UnknownVoterError, shown
from replication.consensus.model import Decision, TallyResult, VoteValue

__all__ = [
    "Electorate",
    "Poll",
    "VoteCounts",
    "VotingRules",
    "bft_quorum",
    "exact_fraction",
    "max_byzantine_faults",
    "require_share",
]

_NUMBER_TEXT: Final = re.compile(r"[+-]?[0-9]{1,18}(?:/[0-9]{1,18}|\.[0-9]{1,18})?")
"""Legal numbers as text. Bounded, and without exponents: Fraction("1e999999999") would take all memory."""


def max_byzantine_faults(voter_count: int) -> int:
    """Return f = floor((n - 1) / 3), the number of faulty voters that n voters tolerate."""
    return (voter_count - 1) // 3


def bft_quorum(voter_count: int) -> int:
    """Return 2f + 1, the least number of voters who must take part, whatever the configuration says."""
    return 2 * max_byzantine_faults(voter_count) + 1


def exact_fraction(value: object) -> Fraction:
    """Return the exact number that `value` stands for.

    A float stands for the simplest fraction that rounds to it, so that 2 / 3 and 0.1 mean two thirds and one
    tenth and a share of exactly two thirds meets the threshold. Text is "2/3", "0.5" or "3", up to 18 digits
    a part.

    Raises `InvalidRequestError` (a `ValueError`) for booleans, NaN, infinities, other text and other types.
    """
    if isinstance(value, bool):
        raise InvalidRequestError(f"must be a number, got {shown(value)}")
    if isinstance(value, int | Fraction):
        return Fraction(value)
    if isinstance(value, float):
        return _fraction_of_float(value)
    if isinstance(value, str) and _NUMBER_TEXT.fullmatch(value):
        try:
            return Fraction(value)
        except ZeroDivisionError:
            pass
    raise InvalidRequestError(f'must be a number, or text such as "2/3" or "0.5", got {shown(value)}')


def require_share(name: str, value: object) -> Fraction:
    """Return `value` as a fraction in (0, 1], or raise `InvalidConfigError` naming the field `name`."""
    try:
        share = exact_fraction(value)
    except InvalidRequestError as error:
        raise InvalidConfigError(f"{name} {error} (legal range: greater than 0, at most 1)") from error
    if not 0 < share <= 1:
        raise InvalidConfigError(f"{name} must be greater than 0 and at most 1, got {shown(value)}")
    return share


def _fraction_of_float(value: float) -> Fraction:
    if not math.isfinite(value):
        raise InvalidRequestError(f"must be a finite number, got {shown(value)}")
    if value.is_integer():
        return Fraction(int(value))
    if value < 0:
        return -_fraction_of_float(-value)
    exact = Fraction(value)
    # All numbers between the midpoints to the neighbouring floats round to `value`. The midpoints themselves
    # have larger denominators than `exact`, so the simplest number of the closed interval is never one of
    # them.
    low = (Fraction(math.nextafter(value, 0.0)) + exact) / 2
    high = (Fraction(math.nextafter(value, math.inf)) + exact) / 2
    return _simplest_between(low, high)


def _simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """Return the fraction of smallest denominator in [low, high], 0 < low < high, by continued fractions."""
    # The fraction is a0 + 1/(a1 + 1/(a2 + ...)); p and q run over its convergents.
    p_before, q_before, p, q = 0, 1, 1, 0
    while True:
        whole = math.ceil(low)
        if whole <= high:
            return Fraction(whole * p + p_before, whole * q + q_before)
        whole -= 1  # both ends lie strictly between `whole` and its successor
        p_before, q_before, p, q = p, q, whole * p + p_before, whole * q + q_before
        low, high = 1 / (high - whole), 1 / (low - whole)


@dataclass(frozen=True, slots=True)
class VotingRules:
    """The three shares, each in (0, 1], that decide a vote, and what approval needs beside them.

    Raises `InvalidConfigError` if a share is out of range, or an action's own threshold is below the one it
    would have otherwise.
    """

    quorum_fraction: Fraction
    majority_threshold: Fraction
    supermajority_threshold: Fraction
    approval: ApprovalRules = NOTHING_MORE

    def __post_init__(self) -> None:
        for name in ("quorum_fraction", "majority_threshold", "supermajority_threshold"):
            object.__setattr__(self, name, require_share(name, getattr(self, name)))
        for action, own in self.approval.actions.items():
            least = self.threshold(self.approval.is_critical(action))
            if own.threshold is not None and not least <= own.threshold <= 1:
                raise InvalidConfigError(
                    f"actions.{action}.threshold must be from {least}, which the action needs anyway, to 1, "
                    f"got {shown(own.threshold)}"
                )

    def quorum_required(self, voter_count: int) -> int:
        """Return how many voters must approve or reject: max(ceil(n * quorum_fraction), 2f + 1)."""
        return max(math.ceil(voter_count * self.quorum_fraction), bft_quorum(voter_count))

    def threshold(self, is_critical: bool) -> Fraction:
        """Return the share of the non-abstaining weight that must approve; meeting it exactly is enough."""
        return self.supermajority_threshold if is_critical else self.majority_threshold

    def threshold_of(self, action: str) -> Fraction:
        """Return the share of the non-abstaining weight that must approve an action."""
        own = self.approval.of(action).threshold
        return self.threshold(self.approval.is_critical(action)) if own is None else own


class Electorate:
    """The voters of a session and their weights. Never changes; shared by all its polls.

    Raises `InvalidConfigError` for no voters, for ids that are not non-empty text, and for weights that are
    not positive integers or fractions with a sum that fits a float.
    """

    __slots__ = ("ids", "max_faulty", "n", "scale", "scaled", "scaled_total", "total_weight")

    def __init__(self, weights: Mapping[str, Fraction | int]) -> None:
        if not weights:
            raise InvalidConfigError("At least one voter is needed, got none")
        for voter_id, weight in weights.items():
            _require_voter(voter_id, weight)
        fractions = [Fraction(weight) for weight in weights.values()]
        self.ids: tuple[str, ...] = tuple(weights)
        self.n = len(self.ids)
        self.max_faulty = max_byzantine_faults(self.n)
        self.total_weight = sum(fractions, Fraction(0))
        try:
            float(self.total_weight)
        except OverflowError:
            raise InvalidConfigError(
                "weights must be finite, also their sum: it is beyond any float"
            ) from None
        # Integers are many times faster than fractions: every weight is an integer multiple of 1 / scale.
        self.scale = math.lcm(*(weight.denominator for weight in fractions))
        self.scaled: dict[str, int] = {
            voter_id: int(weight * self.scale) for voter_id, weight in zip(self.ids, fractions, strict=True)
        }
        self.scaled_total = sum(self.scaled.values())

    def __contains__(self, voter_id: object) -> bool:
        return isinstance(voter_id, str) and voter_id in self.scaled

    def __len__(self) -> int:
        return self.n

    def weight_of(self, voter_id: str) -> Fraction:
        """Return a voter's weight; raise `UnknownVoterError` if it is not in the electorate."""
        if voter_id not in self:
            raise UnknownVoterError(voter_id)
        return Fraction(self.scaled[voter_id], self.scale)


def _require_voter(voter_id: object, weight: object) -> None:
    if not is_text(voter_id) or not voter_id:
        raise InvalidConfigError(f"voter_ids must be non-empty text, got {shown(voter_id)}")
    if isinstance(weight, bool) or not isinstance(weight, int | Fraction) or weight <= 0:
        raise InvalidConfigError(
            f"weights[{shown(voter_id)}] must be a positive number (legal range: > 0), got {shown(weight)}"
        )


class VoteCounts(NamedTuple):
    """How many voters said what."""

    approve: int
    reject: int
    abstain: int


_SLOT: Final = {VoteValue.APPROVE: 0, VoteValue.REJECT: 1, VoteValue.ABSTAIN: 2}


def _slot_of(value: object) -> int:
    if isinstance(value, VoteValue):  # plain text would compare equal, but is not what a poll may store
        return _SLOT[value]
    raise InvalidRequestError(f"a vote's value must be a VoteValue, got {shown(value)}")


class Poll:
    """The running tally of one proposal; every operation is O(1), except a copy, which is O(votes).

    A poll knows nothing of time, identity checks or closing: it counts what it is given, and says what would
    be decided now and whether the missing votes could still change that.
    """

    __slots__ = (
        "_abstaining",
        "_electorate",
        "_groups",
        "_heads",
        "_is_critical",
        "_quorum_required",
        "_threshold",
        "_votes",
        "_weights",
    )

    def __init__(self, electorate: Electorate, rules: VotingRules, is_critical: bool) -> None:
        self._electorate = electorate
        self._is_critical = is_critical
        self._quorum_required = rules.quorum_required(electorate.n)
        self._threshold = rules.threshold(is_critical)
        self._abstaining = ""
        self._groups: tuple[GroupRule, ...] = ()
        self._votes: dict[str, VoteValue] = {}
        self._heads = [0, 0, 0]
        self._weights = [0, 0, 0]  # in units of 1 / electorate.scale

    @classmethod
    def on(cls, electorate: Electorate, rules: VotingRules, action: str, proposer: str) -> Poll:
        """Return a new poll on an action that a voter proposes, under all rules for it."""
        approval = rules.approval
        poll = cls(electorate, rules, approval.is_critical(action))
        poll._threshold = rules.threshold_of(action)
        poll._groups = approval.group_rules(action)
        if not approval.proposer_counts and proposer in electorate:
            poll._abstaining = proposer
            poll.cast(proposer, VoteValue.ABSTAIN)
        return poll

    def cast(self, voter_id: str, value: VoteValue) -> None:
        """Count a vote; a later one of the same voter replaces the earlier.

        Raises `UnknownVoterError` if the voter is not in the electorate, `InvalidRequestError` if `value` is
        not a `VoteValue`; the poll is then unchanged.
        """
        if voter_id not in self._electorate:
            raise UnknownVoterError(voter_id)
        slot = _slot_of(value)
        if voter_id == self._abstaining:
            value, slot = VoteValue.ABSTAIN, _SLOT[VoteValue.ABSTAIN]
        weight = self._electorate.scaled[voter_id]
        replaced = self._votes.get(voter_id)
        if replaced is not None:
            self._heads[_SLOT[replaced]] -= 1
            self._weights[_SLOT[replaced]] -= weight
        self._heads[slot] += 1
        self._weights[slot] += weight
        self._votes[voter_id] = value

    def value_of(self, voter_id: str) -> VoteValue | None:
        """Return what the voter has voted, or None."""
        return self._votes.get(voter_id)

    @property
    def votes(self) -> Mapping[str, VoteValue]:
        """All votes by voter; a live view, not to be changed."""
        return self._votes

    @property
    def voters(self) -> tuple[str, ...]:
        """The voters who have voted, in the order of their first vote."""
        return tuple(self._votes)

    @property
    def counts(self) -> VoteCounts:
        """How many voters approve, reject and abstain."""
        return VoteCounts(*self._heads)

    @property
    def approve_weight(self) -> Fraction:
        """The exact weight of the approving voters."""
        return Fraction(self._weights[0], self._electorate.scale)

    @property
    def reject_weight(self) -> Fraction:
        """The exact weight of the rejecting voters."""
        return Fraction(self._weights[1], self._electorate.scale)

    @property
    def is_critical(self) -> bool:
        """Whether the supermajority threshold applies."""
        return self._is_critical

    @property
    def threshold(self) -> Fraction:
        """The share of the non-abstaining weight that must approve."""
        return self._threshold

    @property
    def quorum_required(self) -> int:
        """How many voters must approve or reject."""
        return self._quorum_required

    @property
    def quorum_met(self) -> bool:
        """Whether enough voters have approved or rejected; abstentions do not count."""
        return self._heads[0] + self._heads[1] >= self._quorum_required

    def decision(self) -> Decision:
        """Return the decision if the poll were closed now: APPROVED, REJECTED or NO_QUORUM."""
        if not self.quorum_met:
            return Decision.NO_QUORUM
        approved = self._approves(self._heads[0], self._weights[0], self._weights[1])
        return Decision.APPROVED if approved and self._groups_agree() else Decision.REJECTED

    def settled(self) -> bool:
        """Return whether no completion of the outstanding votes could change the decision.

        Votes already cast are taken as they are. With the quorum met, approval is monotone: an approving vote
        more can only help it and a rejecting one only hurt, so the two extremes bound every other completion.
        Without, the outcome is only certain (NO_QUORUM) when even all outstanding votes together cannot reach
        the quorum.
        """
        approve, reject, abstain = self._heads
        outstanding = self._electorate.n - approve - reject - abstain
        if not self.quorum_met:
            return approve + reject + outstanding < self._quorum_required
        approve_weight, reject_weight, abstain_weight = self._weights
        missing = self._electorate.scaled_total - approve_weight - reject_weight - abstain_weight
        at_worst = self._groups_agree() and self._approves(approve, approve_weight, reject_weight + missing)
        at_best = self._groups_agree(with_outstanding=True) and self._approves(
            approve + outstanding, approve_weight + missing, reject_weight
        )
        return at_worst == at_best

    def missing(self) -> tuple[Missing, ...]:
        """Return what the votes so far lack for an approval, and who could still give it."""
        outstanding = tuple(voter for voter in self._electorate.ids if voter not in self._votes)
        approve, reject, _ = self._heads
        found = []
        if not self.quorum_met:
            found.append(Missing("quorum", self._quorum_required - approve - reject, outstanding))
        if approve <= self._electorate.max_faulty:
            found.append(Missing("approvals", self._electorate.max_faulty + 1 - approve, outstanding))
        elif not self._approves(approve, self._weights[0], self._weights[1]):
            found.append(Missing("majority", self._approvals_for_majority(outstanding), outstanding))
        for rule in self._groups:
            lacking = rule.approvals - self._approvals_of(rule)
            if lacking > 0:
                found.append(
                    Missing(
                        f"group {rule.group}",
                        lacking,
                        tuple(voter for voter in outstanding if voter in rule.voters),
                    )
                )
        return tuple(found)

    def _approvals_for_majority(self, outstanding: tuple[str, ...]) -> int:
        """How many of the heaviest outstanding voters would have to approve; one more than all if they
        cannot."""
        weights = sorted((self._electorate.scaled[voter] for voter in outstanding), reverse=True)
        approve, reject = self._weights[0], self._weights[1]
        for count, weight in enumerate(weights, 1):
            approve += weight
            if self._approves(self._heads[0] + count, approve, reject):
                return count
        return len(weights) + 1

    def _groups_agree(self, *, with_outstanding: bool = False) -> bool:
        return all(
            self._approvals_of(rule, with_outstanding=with_outstanding) >= rule.approvals
            for rule in self._groups
        )

    def _approvals_of(self, rule: GroupRule, *, with_outstanding: bool = False) -> int:
        """Approvals in a group, with those that may still come if asked. Who has left gives none."""
        values = (self._votes.get(voter) for voter in rule.voters if voter in self._electorate.scaled)
        return sum(value is VoteValue.APPROVE or (with_outstanding and value is None) for value in values)

    def copy(self) -> Poll:
        """Return an independent poll with the same votes."""
        twin = Poll.__new__(Poll)
        twin._electorate = self._electorate
        twin._abstaining = self._abstaining
        twin._groups = self._groups
        twin._is_critical = self._is_critical
        twin._quorum_required = self._quorum_required
        twin._threshold = self._threshold
        twin._votes = self._votes.copy()
        twin._heads = self._heads.copy()
        twin._weights = self._weights.copy()
        return twin

    def result(
        self, proposal_id: str, hash_chain_valid: bool = True, decision: Decision | None = None
    ) -> TallyResult:
        """Return the count as a record, with the decision as of now, or the one given (for an expiry)."""
        approve, reject, abstain = self._heads
        scale = self._electorate.scale
        return TallyResult(
            proposal_id=proposal_id,
            decision=self.decision() if decision is None else decision,
            approve_count=approve,
            reject_count=reject,
            abstain_count=abstain,
            total_voters=self._electorate.n,
            quorum_required=self._quorum_required,
            quorum_met=self.quorum_met,
            approve_weight=self._weights[0] / scale,
            reject_weight=self._weights[1] / scale,
            threshold_used=float(self._threshold),
            is_critical=self._is_critical,
            hash_chain_valid=hash_chain_valid,
        )

    def _approves(self, heads: int, approve: int, reject: int) -> bool:
        """The rule of approval, on scaled weights: the share, more for than against, f + 1 heads."""
        threshold = self._threshold
        return (
            approve * threshold.denominator >= threshold.numerator * (approve + reject)
            and approve > reject
            and heads > self._electorate.max_faulty
        )
