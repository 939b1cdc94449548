"""Rules of approval against an oracle that tries every completion, and what is said to be missing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from replication.consensus.approval import ActionRules, ApprovalRules
from replication.consensus.model import Decision, VoteValue
from replication.consensus.rules import Electorate, Poll, VotingRules

A, R, N = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN
IDS = "abcde"
STRANGER = "z"
"""In a group, but not (any more) in the electorate."""


@dataclass(frozen=True)
class Setting:
    voters: tuple[str, ...]
    rules: VotingRules
    action: str
    proposer: str

    def poll(self, votes: dict[str, VoteValue]) -> Poll:
        poll = Poll.on(Electorate(dict.fromkeys(self.voters, 1)), self.rules, self.action, self.proposer)
        for voter, value in votes.items():
            poll.cast(voter, value)
        return poll


groups = st.frozensets(st.sampled_from((*IDS, STRANGER)), min_size=1)


@st.composite
def settings_of(draw: st.DrawFn) -> Setting:
    voters = tuple(IDS[: draw(st.integers(1, 5))])
    known = draw(st.dictionaries(st.sampled_from(["human", "night"]), groups, max_size=2))

    def requires() -> dict[str, int]:
        chosen = draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
        return {name: draw(st.integers(1, len(known[name]))) for name in chosen}

    own = ActionRules(
        threshold=draw(st.sampled_from([None, Fraction(3, 4), Fraction(1)])), requires=requires()
    )
    approval = ApprovalRules(
        proposer_counts=draw(st.booleans()),
        critical_actions=draw(st.sampled_from([frozenset(), frozenset({"wipe"})])),
        groups=known,
        requires=requires(),
        actions={"wipe": own} if draw(st.booleans()) else {},
    )
    rules = VotingRules(Fraction(1, 2), Fraction(1, 2), Fraction(2, 3), approval)
    action = draw(st.sampled_from(["wipe", "restrict", "terminate"]))
    return Setting(voters, rules, action, draw(st.sampled_from((*voters, STRANGER))))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Setting, dict[str, VoteValue]]:
    setting = draw(settings_of())
    voted = draw(st.permutations(setting.voters))[: draw(st.integers(0, len(setting.voters)))]
    return setting, {voter: draw(st.sampled_from([A, R, N])) for voter in voted}


def oracle(setting: Setting, votes: dict[str, VoteValue]) -> Decision:
    """The rules, sentence by sentence."""
    approval, action = setting.rules.approval, setting.action
    counted = dict(votes)
    if not approval.proposer_counts:
        counted.pop(setting.proposer, None)
    yes = {voter for voter, value in counted.items() if value is A}
    no = {voter for voter, value in counted.items() if value is R}
    n = len(setting.voters)
    f = (n - 1) // 3
    if len(yes) + len(no) < max(-(-n // 2), 2 * f + 1):
        return Decision.NO_QUORUM
    needed = (
        Fraction(2, 3) if action == "terminate" or action in approval.critical_actions else Fraction(1, 2)
    )
    if action in approval.actions and approval.actions[action].threshold is not None:
        needed = approval.actions[action].threshold or needed
    if Fraction(len(yes), len(yes) + len(no)) < needed or len(yes) <= len(no) or len(yes) <= f:
        return Decision.REJECTED
    asked = [*approval.requires.items()]
    if action in approval.actions:
        asked += approval.actions[action].requires.items()
    if any(len(approval.groups[group] & yes) < count for group, count in asked):
        return Decision.REJECTED
    return Decision.APPROVED


def completions(setting: Setting, votes: dict[str, VoteValue]) -> list[dict[str, VoteValue]]:
    left = [voter for voter in setting.voters if voter not in votes]
    return [
        votes | {voter: value for voter, value in zip(left, choice, strict=True) if value}
        for choice in itertools.product([None, A, R, N], repeat=len(left))
    ]


@given(situations())
def test_decisions_are_the_oracles(situation: tuple[Setting, dict[str, VoteValue]]) -> None:
    setting, votes = situation
    assert setting.poll(votes).decision() is oracle(setting, votes)


@given(situations())
def test_settled_is_when_no_completion_changes_anything(
    situation: tuple[Setting, dict[str, VoteValue]],
) -> None:
    setting, votes = situation
    outcomes = {oracle(setting, completion) for completion in completions(setting, votes)}
    assert setting.poll(votes).settled() is (len(outcomes) == 1)


@given(situations())
def test_rules_only_make_approval_harder(situation: tuple[Setting, dict[str, VoteValue]]) -> None:
    """But for one thing: a proposer that does not count cannot speak against its own proposal either."""
    setting, votes = situation
    if not setting.rules.approval.proposer_counts and votes.get(setting.proposer) is R:
        return
    plain = VotingRules(Fraction(1, 2), Fraction(1, 2), Fraction(2, 3))
    if setting.poll(votes).decision() is Decision.APPROVED:
        assert Setting(setting.voters, plain, setting.action, setting.proposer).poll(votes).decision() is (
            Decision.APPROVED
        )


@given(situations())
def test_what_is_missing_is_why_it_is_not_approved(situation: tuple[Setting, dict[str, VoteValue]]) -> None:
    setting, votes = situation
    poll = setting.poll(votes)
    missing = poll.missing()
    assert (poll.decision() is Decision.APPROVED) is (missing == ())
    if any(len(lack.voters) < lack.count for lack in missing):
        approvable = [
            done for done in completions(setting, votes) if oracle(setting, done) is Decision.APPROVED
        ]
        assert approvable == []


@given(situations())
def test_a_copy_goes_by_the_same_rules(situation: tuple[Setting, dict[str, VoteValue]]) -> None:
    setting, votes = situation
    poll = setting.poll(votes)
    twin = poll.copy()
    assert (twin.decision(), twin.settled(), twin.missing()) == (
        poll.decision(),
        poll.settled(),
        poll.missing(),
    )
