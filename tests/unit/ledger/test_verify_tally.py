"""The verifier's tally against a dumb oracle, and against the voting library that it judges."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.record_factory import RecordFactory

from replication.identity.members import Member, MemberSet
from replication.ledger.verify.commits import commit_quorum
from replication.ledger.verify.tally import Tally, TallyRules, is_critical

VALUES = ("approve", "reject", "abstain")


def members(weights: list[int]) -> MemberSet:
    return MemberSet(
        0, tuple(Member(f"m{i}", i.to_bytes(32, "big"), w, f"h{i}:1") for i, w in enumerate(weights))
    )


@dataclass
class Case:
    weights: list[int]
    votes: dict[str, str]
    threshold: Fraction
    quorum: Fraction

    @property
    def rules(self) -> TallyRules:
        n = len(self.weights)
        f = (n - 1) // 3
        required = max(math.ceil(n * self.quorum), 2 * f + 1)
        return TallyRules(n, f, sum(self.weights), required, self.threshold, critical=False)

    def tally(self) -> Tally:
        return Tally.count(self.votes, members(self.weights))


def oracle(case: Case, votes: dict[str, str]) -> str:
    """The rules of the design, word for word, with no thought for speed."""
    n = len(case.weights)
    f = (n - 1) // 3
    approving = [v for v, value in votes.items() if value == "approve"]
    rejecting = [v for v, value in votes.items() if value == "reject"]
    if len(approving) + len(rejecting) < max(math.ceil(n * case.quorum), 2 * f + 1):
        return "no_quorum"
    for_it = sum(case.weights[int(v[1:])] for v in approving)
    against = sum(case.weights[int(v[1:])] for v in rejecting)
    share = Fraction(for_it, for_it + against)
    return (
        "approved" if share >= case.threshold and for_it > against and len(approving) >= f + 1 else "rejected"
    )


def settled_oracle(case: Case) -> str | None:
    """Try every completion of the votes."""
    missing = [f"m{i}" for i in range(len(case.weights)) if f"m{i}" not in case.votes]
    outcomes = {
        oracle(case, case.votes | {v: value for v, value in zip(missing, completion, strict=True) if value})
        for completion in itertools.product((*VALUES, None), repeat=len(missing))
    }
    return outcomes.pop() if len(outcomes) == 1 else None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 6))
    weights = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    values = draw(st.lists(st.sampled_from((*VALUES, None)), min_size=n, max_size=n))
    thresholds = st.sampled_from(
        [Fraction(1, 2), Fraction(2, 3), Fraction(1), Fraction(3, 5), Fraction(1, 3)]
    )
    quorums = st.sampled_from([Fraction(1, 2), Fraction(1, 100), Fraction(1), Fraction(3, 4)])
    votes = {f"m{i}": value for i, value in enumerate(values) if value}
    return Case(weights, votes, draw(thresholds), draw(quorums))


@given(cases())
def test_the_decision_is_that_of_the_oracle(case: Case) -> None:
    assert case.tally().decision(case.rules) == oracle(case, case.votes)


@given(cases())
def test_settled_means_that_no_completion_decides_otherwise(case: Case) -> None:
    """A proposal without quorum is settled only by certainty, which trying everything out shows as well."""
    assert case.tally().settled(case.rules) == settled_oracle(case)


@pytest.mark.parametrize(
    ("approve", "reject", "abstain", "threshold", "decision"),
    [
        (3, 0, 0, Fraction(1, 2), "approved"),
        (2, 2, 0, Fraction(1, 2), "rejected"),
        (2, 0, 2, Fraction(1, 2), "no_quorum"),
        (2, 1, 0, Fraction(2, 3), "approved"),
        (2, 1, 1, Fraction(2, 3), "approved"),
        (2, 2, 0, Fraction(1, 3), "rejected"),
        (0, 3, 0, Fraction(1, 2), "rejected"),
    ],
)
def test_four_equal_voters(
    approve: int, reject: int, abstain: int, threshold: Fraction, decision: str
) -> None:
    rules = TallyRules(4, 1, 4, 3, threshold, critical=False)
    assert Tally(approve, reject, abstain, approve, reject, abstain).decision(rules) == decision


def test_only_two_actions_are_critical_by_their_exact_names() -> None:
    genesis = RecordFactory(1).genesis
    assert is_critical("terminate", genesis)
    assert is_critical("escalate", genesis)
    for action in ("quarantine", "release", "restrict", "Terminate", "terminate ", ""):
        assert not is_critical(action, genesis)


def test_commit_quorums_as_the_protocol_lists_them() -> None:
    listed = "1→1 2→2 3→2 4→3 5→4 6→4 7→5 8→6 9→6 10→7 11→8 12→8 13→9 16→11 19→13 22→15 25→17 28→19 31→21"
    for pair in listed.split():
        n, quorum = map(int, pair.split("→"))
        assert commit_quorum(n) == quorum
