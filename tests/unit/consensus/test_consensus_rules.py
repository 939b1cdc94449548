"""The arithmetic of a vote, in tables."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

from replication.consensus import Decision, VoteValue
from replication.consensus.errors import InvalidRequestError, UnknownVoterError
from replication.consensus.rules import (
    Electorate,
    Poll,
    VotingRules,
    bft_quorum,
    exact_fraction,
    max_byzantine_faults,
)

A, R, N = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN
RULES = VotingRules(Fraction(1, 2), Fraction(1, 2), Fraction(2, 3))
LAX = VotingRules(Fraction(1, 100), Fraction(1, 100), Fraction(1, 100))

# n, f, 2f + 1
QUORUMS = [
    (1, 0, 1),
    (2, 0, 1),
    (3, 0, 1),
    (4, 1, 3),
    (5, 1, 3),
    (6, 1, 3),
    (7, 2, 5),
    (8, 2, 5),
    (9, 2, 5),
    (10, 3, 7),
    (11, 3, 7),
    (12, 3, 7),
    (13, 4, 9),
    (16, 5, 11),
    (31, 10, 21),
    (100, 33, 67),
]


@pytest.mark.parametrize(("n", "faults", "quorum"), QUORUMS)
def test_faults_and_quorum(n: int, faults: int, quorum: int) -> None:
    assert max_byzantine_faults(n) == faults
    assert bft_quorum(n) == quorum


@pytest.mark.parametrize(
    ("n", "fraction", "required"),
    [
        (5, "1/2", 3),
        (6, "1/2", 3),
        (6, "51/100", 4),
        (10, "1/2", 7),  # 2f + 1 is more than half
        (10, "7/10", 7),
        (10, "71/100", 8),
        (10, "1", 10),
        (3, "1/3", 1),
        (3, "1/1000", 1),
        (100, "1/1000", 67),
        (100, "68/100", 68),
    ],
)
def test_the_quorum_is_the_larger_of_the_two(n: int, fraction: str, required: int) -> None:
    assert VotingRules(Fraction(fraction), Fraction(1), Fraction(1)).quorum_required(n) == required


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("share", [Fraction(0), Fraction(-1, 2), Fraction(3, 2)])
def test_rules_refuse_shares_outside_their_range(position: int, share: Fraction) -> None:
    shares = [Fraction(1, 2)] * 3
    shares[position] = share
    with pytest.raises(ValueError, match="must be greater than 0 and at most 1"):
        VotingRules(shares[0], shares[1], shares[2])


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        (2 / 3, Fraction(2, 3)),
        (5 / 6, Fraction(5, 6)),
        (0.1, Fraction(1, 10)),
        (0.667, Fraction(667, 1000)),
        (-0.1, Fraction(-1, 10)),
        (1 / 3 + 2, Fraction(7, 3)),
        (0.5, Fraction(1, 2)),
        (3.0, Fraction(3)),
        (0.0, Fraction(0)),
        (1e300, Fraction(int(1e300))),
        (7, Fraction(7)),
        (Fraction(2, 7), Fraction(2, 7)),
        ("2/3", Fraction(2, 3)),
        ("0.25", Fraction(1, 4)),
        ("-3", Fraction(-3)),
        ("+0.1", Fraction(1, 10)),
    ],
)
def test_exact_fraction(value: Any, exact: Fraction) -> None:
    assert exact_fraction(value) == exact


@pytest.mark.parametrize(
    "value", [5e-324, 2.2250738585072014e-308, 1e-300, 1 + 2**-52, 1 - 2**-53, 0.3 + 1e-16]
)
def test_exact_fraction_at_the_edges_of_floats_rounds_back(value: float) -> None:
    assert float(exact_fraction(value)) == value


BAD_TEXTS = ["", "x", "1/0", "1e9", "0x1", " 1", "1_0", "1/-2", "٣", "9" * 19]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, None, [], *BAD_TEXTS])
def test_exact_fraction_refuses(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="must be"):
        exact_fraction(value)


def test_an_electorate_knows_its_voters_and_weights() -> None:
    electorate = Electorate({"a": 2, "b": Fraction(1, 3), "c": Fraction(5, 2)})
    assert electorate.ids == ("a", "b", "c")
    assert (electorate.n, len(electorate), electorate.max_faulty) == (3, 3, 0)
    assert electorate.total_weight == Fraction(29, 6)
    assert [electorate.weight_of(voter) for voter in "abc"] == [2, Fraction(1, 3), Fraction(5, 2)]
    assert "a" in electorate
    assert "d" not in electorate
    assert ["a"] not in electorate
    with pytest.raises(UnknownVoterError):
        electorate.weight_of("d")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "At least one voter"),
        ({"": 1}, "voter_ids must be non-empty text"),
        ({5: 1}, "voter_ids must be non-empty text"),
        ({"\ud800": 1}, "voter_ids must be non-empty text"),
        ({"a": 0}, "positive"),
        ({"a": -1}, "positive"),
        ({"a": True}, "positive"),
        ({"a": 0.5}, "positive"),
        ({"a": 10**400}, "finite"),
        ({"a": int(1e308), "b": int(1e308)}, "finite"),
    ],
)
def test_an_electorate_refuses(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Electorate(weights)


def poll_of(
    votes: str, n: int, *, critical: bool = False, rules: VotingRules = RULES, **weights: Any
) -> Poll:
    """A poll of n voters a, b, c, … with one letter a vote: A, R, N, or - for none."""
    ids = "abcdefghijklmnopqrstuvwxyz"[:n]
    poll = Poll(Electorate({voter: weights.get(voter, 1) for voter in ids}), rules, critical)
    for voter, letter in zip(ids, votes, strict=False):
        if letter != "-":
            poll.cast(voter, {"A": A, "R": R, "N": N}[letter])
    return poll


@pytest.mark.parametrize(
    ("votes", "n", "critical", "decision"),
    [
        ("AAA", 5, False, Decision.APPROVED),
        ("AA", 5, False, Decision.NO_QUORUM),
        ("AANNN", 5, False, Decision.NO_QUORUM),  # abstaining is not taking part
        ("AARNN", 5, False, Decision.APPROVED),
        ("ARR", 5, False, Decision.REJECTED),
        ("AARR", 5, False, Decision.REJECTED),  # a tie never approves, though the share is one half
        ("AAR", 3, True, Decision.APPROVED),  # two thirds exactly
        ("AAARR", 5, True, Decision.REJECTED),
        ("AAAAR", 5, True, Decision.APPROVED),
        ("AAAARR", 6, True, Decision.APPROVED),
        ("A", 1, False, Decision.APPROVED),
        ("R", 1, False, Decision.REJECTED),
        ("N", 1, False, Decision.NO_QUORUM),
        ("", 1, False, Decision.NO_QUORUM),
    ],
)
def test_decisions(votes: str, n: int, critical: bool, decision: Decision) -> None:
    assert poll_of(votes, n, critical=critical).decision() is decision


def test_meeting_the_threshold_exactly_is_enough_and_a_hair_less_is_not() -> None:
    assert poll_of("AAR", 3, critical=True).decision() is Decision.APPROVED
    assert poll_of("AAR", 3, critical=True, c=Fraction(10**18 + 1, 10**18)).decision() is Decision.REJECTED


def test_weights_that_floats_would_round_decide_exactly() -> None:
    tenth = Fraction(1, 10)
    assert poll_of("AAAR", 4, a=tenth, b=tenth, c=tenth, d=3 * tenth).decision() is Decision.REJECTED
    assert poll_of("AAR", 3, a=2**60, b=1, c=2**60).decision() is Decision.APPROVED


def test_more_must_approve_than_reject_even_below_the_threshold() -> None:
    assert poll_of("AARRR", 5, rules=LAX).decision() is Decision.REJECTED
    assert poll_of("AARR", 4, rules=LAX).decision() is Decision.REJECTED


def test_f_voters_approve_nothing_whatever_their_weights() -> None:
    assert poll_of("ARR", 4, a=1000).decision() is Decision.REJECTED
    assert poll_of("AAR", 4, a=1000).decision() is Decision.APPROVED
    assert poll_of("AARRR", 7, a=1000, b=1000).decision() is Decision.REJECTED
    assert poll_of("AAARR", 7, a=1000, b=1000).decision() is Decision.APPROVED


@pytest.mark.parametrize(
    ("votes", "n", "settled"),
    [
        ("AAA", 5, True),
        ("AAR", 5, False),
        ("AARR", 5, False),
        ("RRR", 5, True),
        ("AA", 5, False),
        ("NNN", 5, True),  # the two that are left cannot make the quorum of three
        ("NN", 5, False),
        ("AANNN", 5, True),
        ("", 5, False),
        ("", 1, False),
        ("A", 1, True),
        ("N", 1, True),
        ("AA", 3, True),
        ("AR", 3, False),
        ("AAA", 6, False),  # three more could still make a tie
        ("AAAN", 6, True),
    ],
)
def test_settled(votes: str, n: int, settled: bool) -> None:
    assert poll_of(votes, n).settled() is settled


def test_settled_minds_the_heads_and_not_only_the_weight() -> None:
    assert not poll_of("ARR", 4, a=1000).settled()  # d's approval would make the two heads needed
    assert poll_of("ARRN", 4, a=1000).settled()


def test_a_later_vote_replaces_the_earlier() -> None:
    poll = poll_of("ARN", 4, a=Fraction(1, 2), b=3)
    poll.cast("a", R)
    poll.cast("a", N)
    poll.cast("b", A)
    assert poll.counts == (1, 0, 2)
    assert (poll.approve_weight, poll.reject_weight) == (Fraction(3), Fraction(0))
    assert [poll.value_of(voter) for voter in "abcd"] == [N, A, N, None]
    assert poll.voters == ("a", "b", "c")
    assert poll.votes == {"a": N, "b": A, "c": N}


@pytest.mark.parametrize("value", ["approve", None, 1, ["approve"]])
def test_a_poll_takes_no_other_values(value: Any) -> None:
    poll = poll_of("A", 4)
    with pytest.raises(InvalidRequestError, match="VoteValue"):
        poll.cast("b", value)
    assert poll.counts == (1, 0, 0)


def test_a_poll_takes_no_strangers() -> None:
    poll = poll_of("A", 4)
    with pytest.raises(UnknownVoterError, match="Unknown voter 'z'"):
        poll.cast("z", A)
    assert poll.counts == (1, 0, 0)


def test_a_copy_is_independent() -> None:
    poll = poll_of("AA", 5, critical=True)
    copy = poll.copy()
    copy.cast("c", A)
    copy.cast("a", R)
    assert (poll.counts, poll.votes) == ((2, 0, 0), {"a": A, "b": A})
    assert (poll.approve_weight, poll.reject_weight) == (Fraction(2), Fraction(0))
    assert copy.counts == (2, 1, 0)
    assert (copy.is_critical, copy.threshold, copy.quorum_required) == (True, Fraction(2, 3), 3)


def test_the_result_is_for_readers() -> None:
    poll = poll_of("AARN", 5, critical=True, a=Fraction(1, 3))
    result = poll.result("prop-0007", hash_chain_valid=False)
    assert result.proposal_id == "prop-0007"
    assert result.decision is Decision.REJECTED
    assert (result.approve_count, result.reject_count, result.abstain_count) == (2, 1, 1)
    assert (result.total_voters, result.quorum_required, result.quorum_met) == (5, 3, True)
    assert (result.approve_weight, result.reject_weight) == (4 / 3, 1.0)
    assert (result.threshold_used, result.is_critical, result.hash_chain_valid) == (2 / 3, True, False)
    assert all(
        type(number) is float
        for number in (result.approve_weight, result.reject_weight, result.threshold_used)
    )
    assert poll.result("prop-0007", decision=Decision.NO_QUORUM).decision is Decision.NO_QUORUM
