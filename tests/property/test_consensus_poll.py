"""`Poll` against a brute-force oracle: every way the outstanding votes could still come in.

The oracle shares nothing with the library but the names of the votes and decisions: quantities are fractions,
the quorum is found by counting up, and a completion is tried by trying it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from replication.consensus import Decision, VoteValue
from replication.consensus.rules import Electorate, Poll, VotingRules

A, R, N = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN
VALUES = [A, R, N]
IDS = "abcdef"

shares = st.fractions(min_value=Fraction(1, 20), max_value=1, max_denominator=20)
# Few different weights, so that ties and shares that meet a threshold exactly are common.
weights = st.sampled_from([Fraction(1), Fraction(1), Fraction(2), Fraction(3), Fraction(1, 3), Fraction(100)])


@dataclass(frozen=True)
class Setting:
    """What a poll is made of."""

    weights: dict[str, Fraction]
    quorum_fraction: Fraction
    majority: Fraction
    supermajority: Fraction
    is_critical: bool

    def poll(self, votes: dict[str, VoteValue]) -> Poll:
        rules = VotingRules(self.quorum_fraction, self.majority, self.supermajority)
        poll = Poll(Electorate(self.weights), rules, self.is_critical)
        for voter_id, value in votes.items():
            poll.cast(voter_id, value)
        return poll


@st.composite
def settings_of(draw: st.DrawFn, max_voters: int = 5) -> Setting:
    # Counted down, since small numbers are drawn more often, and with fewer than four voters f is 0.
    n = max_voters - draw(st.integers(0, max_voters - 1))
    return Setting(
        weights={IDS[number]: draw(weights) for number in range(n)},
        quorum_fraction=draw(shares),
        majority=draw(shares),
        supermajority=draw(shares),
        is_critical=draw(st.booleans()),
    )


@st.composite
def situations(draw: st.DrawFn, max_voters: int = 5) -> tuple[Setting, dict[str, VoteValue]]:
    """A setting, and the votes of some voters in some order."""
    setting = draw(settings_of(max_voters))
    voters = draw(st.permutations(list(setting.weights)))
    count = draw(st.integers(0, len(voters)))
    return setting, {voter_id: draw(st.sampled_from(VALUES)) for voter_id in voters[:count]}


def oracle_decision(setting: Setting, votes: dict[str, VoteValue]) -> Decision:
    """The rules of the vote, sentence by sentence."""
    n = len(setting.weights)
    faulty = max(f for f in range(n) if 3 * f + 1 <= n)
    approving = [voter_id for voter_id, value in votes.items() if value is A]
    rejecting = [voter_id for voter_id, value in votes.items() if value is R]
    participants = len(approving) + len(rejecting)
    if participants < n * setting.quorum_fraction or participants < 2 * faulty + 1:
        return Decision.NO_QUORUM
    weight_for = sum((setting.weights[voter_id] for voter_id in approving), Fraction(0))
    weight_against = sum((setting.weights[voter_id] for voter_id in rejecting), Fraction(0))
    threshold = setting.supermajority if setting.is_critical else setting.majority
    if weight_for / (weight_for + weight_against) < threshold:
        return Decision.REJECTED
    if weight_for <= weight_against:
        return Decision.REJECTED
    return Decision.APPROVED if len(approving) >= faulty + 1 else Decision.REJECTED


def completions(setting: Setting, votes: dict[str, VoteValue]) -> list[dict[str, VoteValue]]:
    """Every way to go on: each voter who has not voted does not, approves, rejects or abstains."""
    outstanding = [voter_id for voter_id in setting.weights if voter_id not in votes]
    return [
        votes | {voter_id: value for voter_id, value in zip(outstanding, choice, strict=True) if value}
        for choice in itertools.product([None, A, R, N], repeat=len(outstanding))
    ]


@given(settings_of(max_voters=4))
def test_every_decision_is_the_oracles(setting: Setting) -> None:
    for votes in completions(setting, {}):
        poll = setting.poll(votes)
        decision = oracle_decision(setting, votes)
        assert poll.decision() is decision
        assert poll.quorum_met is (decision is not Decision.NO_QUORUM)
        assert poll.result("prop-0001").decision is decision


@given(situations())
def test_settled_means_that_no_completion_changes_the_decision(
    situation: tuple[Setting, dict[str, VoteValue]],
) -> None:
    setting, votes = situation
    poll = setting.poll(votes)
    assert poll.decision() is oracle_decision(setting, votes)
    outcomes = {oracle_decision(setting, completed) for completed in completions(setting, votes)}
    assert poll.settled() is (len(outcomes) == 1)


@given(situations(max_voters=4))
def test_what_is_settled_stays_settled_and_decided_as_it_was(
    situation: tuple[Setting, dict[str, VoteValue]],
) -> None:
    setting, votes = situation
    poll = setting.poll(votes)
    if not poll.settled():
        return
    for completed in completions(setting, votes):
        later = setting.poll(completed)
        assert later.settled()
        assert later.decision() is poll.decision()


@given(situations(max_voters=6), st.data())
def test_a_changed_mind_moves_the_decision_only_its_own_way(
    situation: tuple[Setting, dict[str, VoteValue]], data: st.DataObject
) -> None:
    setting, votes = situation
    sides = [voter_id for voter_id, value in votes.items() if value is not N]
    if not sides:
        return
    voter_id = data.draw(st.sampled_from(sides), label="voter")
    against, in_favour = setting.poll(votes), setting.poll(votes)
    against.cast(voter_id, R)
    in_favour.cast(voter_id, A)
    if against.decision() is Decision.APPROVED:
        assert in_favour.decision() is Decision.APPROVED
    assert (against.decision() is Decision.NO_QUORUM) is (in_favour.decision() is Decision.NO_QUORUM)


@given(situations(max_voters=6))
def test_with_a_quorum_a_further_vote_moves_the_decision_only_its_own_way(
    situation: tuple[Setting, dict[str, VoteValue]],
) -> None:
    setting, votes = situation
    poll = setting.poll(votes)
    if not poll.quorum_met:
        return
    for voter_id in setting.weights.keys() - votes.keys():
        approved = {value: setting.poll({**votes, voter_id: value}).decision() for value in VALUES}
        assert approved[N] is poll.decision()
        if poll.decision() is Decision.APPROVED:
            assert approved[A] is Decision.APPROVED
        else:
            assert approved[R] is Decision.REJECTED


@given(situations(max_voters=6), st.data())
def test_neither_order_nor_earlier_votes_matter(
    situation: tuple[Setting, dict[str, VoteValue]], data: st.DataObject
) -> None:
    setting, votes = situation
    poll = setting.poll(votes)
    other = setting.poll({})
    shuffled = data.draw(st.permutations(list(votes)), label="order")
    for voter_id in shuffled:
        for value in data.draw(st.lists(st.sampled_from(VALUES), max_size=2), label="earlier votes"):
            other.cast(voter_id, value)
    for voter_id in data.draw(st.permutations(shuffled), label="final order"):
        other.cast(voter_id, votes[voter_id])
    assert other.result("x") == poll.result("x")
    assert (other.approve_weight, other.reject_weight) == (poll.approve_weight, poll.reject_weight)
    assert other.settled() is poll.settled()
    assert other.votes == poll.votes


@given(situations(max_voters=6), st.permutations(IDS), st.fractions(min_value=Fraction(1, 9), max_value=9))
def test_neither_names_nor_the_unit_of_weight_matter(
    situation: tuple[Setting, dict[str, VoteValue]], names: list[str], unit: Fraction
) -> None:
    setting, votes = situation
    renamed = dict(zip(IDS, names, strict=True))
    other = Setting(
        {renamed[voter_id]: weight * unit for voter_id, weight in reversed(setting.weights.items())},
        setting.quorum_fraction,
        setting.majority,
        setting.supermajority,
        setting.is_critical,
    )
    poll = setting.poll(votes)
    twin = other.poll({renamed[voter_id]: value for voter_id, value in votes.items()})
    assert (twin.decision(), twin.settled(), twin.counts) == (poll.decision(), poll.settled(), poll.counts)
    assert twin.approve_weight == poll.approve_weight * unit
