"""Agreement and blocs against dumb oracles, their order, and the bound of the search."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest

from replication.consensus import VoteValue
from replication.consensus.analysis import AgreementCounts, find_blocs
from replication.consensus.errors import InvalidConfigError

Votes = dict[str, VoteValue]
Matrix = dict[str, dict[str, float]]

VALUES = list(VoteValue)
PROPOSALS_IN_TWO_BUFFERS = 1500


def random_votes(generator: random.Random, voters: Sequence[str], proposals: int) -> list[Votes]:
    """Some vote and some do not, in any order."""
    return [
        {
            voter: generator.choice(VALUES)
            for voter in generator.sample(voters, generator.randint(0, len(voters)))
        }
        for _ in range(proposals)
    ]


def oracle_counts(history: Sequence[Mapping[str, VoteValue]], a: str, b: str) -> tuple[int, int]:
    """How often the two agreed and how often both took a side, one proposal at a time."""
    sides = [
        (votes[a], votes[b])
        for votes in history
        if a in votes and b in votes and VoteValue.ABSTAIN not in (votes[a], votes[b])
    ]
    return sum(one == two for one, two in sides), len(sides)


def oracle_matrix(history: Sequence[Mapping[str, VoteValue]], voters: Sequence[str]) -> Matrix:
    matrix: Matrix = {}
    for a, b in itertools.product(voters, voters):
        agreed, common = oracle_counts(history, a, b)
        matrix.setdefault(a, {})[b] = 1.0 if a == b else agreed / common if common else 0.0
    return matrix


def recorded(history: Sequence[Votes]) -> AgreementCounts:
    counts = AgreementCounts()
    for votes in history:
        counts.record(votes)
    return counts


# --------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("proposals", [0, 1, 40, 1023, 1024, 1025, PROPOSALS_IN_TWO_BUFFERS])
def test_the_matrix_is_the_oracles(proposals: int) -> None:
    voters = ["a", "b", "c", "d", "e", "f"]
    history = random_votes(random.Random(proposals), voters, proposals)
    counts = recorded(history)
    assert counts.matrix([*voters, "never voted"]) == oracle_matrix(history, [*voters, "never voted"])
    for a, b in itertools.permutations(voters, 2):
        assert counts.counts(a, b) == oracle_counts(history, a, b)


def test_reading_in_between_changes_nothing() -> None:
    voters = ["a", "b", "c", "d"]
    history = random_votes(random.Random(5), voters, 60)
    counts = AgreementCounts()
    for number, votes in enumerate(history):
        counts.record(votes)
        assert counts.matrix(voters) == oracle_matrix(history[: number + 1], voters)


def test_strangers_and_oneself_have_no_counts() -> None:
    counts = recorded([{"a": VoteValue.APPROVE, "b": VoteValue.APPROVE}])
    assert counts.counts("a", "b") == (1, 1)
    assert counts.counts("a", "a") == counts.counts("a", "z") == counts.counts("y", "z") == (0, 0)


@pytest.mark.parametrize("proposals", [30, PROPOSALS_IN_TWO_BUFFERS])
def test_a_copy_and_its_original_do_not_touch_each_other(proposals: int) -> None:
    voters = ["a", "b", "c", "d"]
    generator = random.Random(2)
    history, mine, its = (random_votes(generator, voters, size) for size in (proposals, 20, 30))
    counts = recorded(history)
    twin = counts.copy()
    for votes in mine:
        counts.record(votes)
    for votes in its:
        twin.record({**votes, "late": VoteValue.REJECT})
    assert counts.matrix(voters) == oracle_matrix([*history, *mine], voters)
    assert twin.matrix(voters) == oracle_matrix([*history, *its], voters)
    assert counts.counts("a", "late") == (0, 0)


def test_voters_who_left_are_forgotten_and_the_others_are_not() -> None:
    voters = ["a", "b", "c", "d", "e"]
    generator = random.Random(3)
    history, later = (random_votes(generator, voters, size) for size in (40, 30))
    counts = recorded(history)
    counts.retain(["e", "a", "c", "never voted"])
    kept = ["a", "c", "e"]
    assert counts.matrix(kept) == oracle_matrix(history, kept)
    assert counts.counts("a", "b") == (0, 0)
    for votes in later:
        counts.record(votes)
    assert counts.matrix(kept) == oracle_matrix([*history, *later], kept)
    assert counts.counts("a", "b") == oracle_counts(later, "a", "b")  # who comes back starts afresh


# -------------------------------------------------------------------------------------------- blocs


def matrix_of(voters: Sequence[str], edges: Mapping[frozenset[str], float]) -> Matrix:
    return {a: {b: 1.0 if a == b else edges.get(frozenset((a, b)), 0.0) for b in voters} for a in voters}


def random_matrix(seed: int, voters: Sequence[str], share: float) -> Matrix:
    generator = random.Random(seed)
    pairs = itertools.combinations(voters, 2)
    return matrix_of(voters, {frozenset(pair): float(generator.random() < share) for pair in pairs})


def oracle_blocs(matrix: Matrix, threshold: float) -> list[list[str]]:
    """Of all sets of two or more: those who all agree, and that are part of no larger one."""
    voters = sorted(matrix)
    cliques = [
        set(group)
        for size in range(2, len(voters) + 1)
        for group in itertools.combinations(voters, size)
        if all(matrix[a][b] >= threshold for a, b in itertools.combinations(group, 2))
    ]
    maximal = [sorted(clique) for clique in cliques if not any(clique < another for another in cliques)]
    return sorted(maximal, key=lambda bloc: (-len(bloc), bloc))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_blocs_are_the_oracles_whatever_the_order_of_the_voters(seed: int, share: float) -> None:
    voters = [f"v{number:02d}" for number in range(11)]
    matrix = random_matrix(seed, voters, share)
    expected = oracle_blocs(matrix, 0.9)
    generator = random.Random(seed)
    for _ in range(4):
        shuffled = {voter: matrix[voter] for voter in generator.sample(voters, len(voters))}
        assert find_blocs(shuffled, 0.9) == (expected, True)


def test_blocs_overlap_and_the_largest_come_first() -> None:
    edges = {frozenset(pair): 1.0 for pair in ("zy", "ab", "bc", "ca", "cd", "de")}
    assert find_blocs(matrix_of("zyabcdef", edges)) == (
        [["a", "b", "c"], ["c", "d"], ["d", "e"], ["y", "z"]],
        True,
    )


def test_nobody_and_loners_form_no_bloc() -> None:
    assert find_blocs({}) == ([], True)
    assert find_blocs(matrix_of("a", {})) == ([], True)
    assert find_blocs(matrix_of("abc", {})) == ([], True)


@pytest.mark.parametrize(
    ("agreed", "common", "threshold", "together"),
    [
        (9, 10, 0.9, True),
        (899, 1000, 0.9, False),
        (2, 3, 2 / 3, True),
        (666_666, 1_000_000, 2 / 3, False),
        (1, 10, Fraction(1, 10), True),
        (1, 3, Fraction(1, 3), True),
        (1, 3, Fraction(10**17 + 1, 3 * 10**17), False),  # rounds to the same float, and is more
        (1, 3, Fraction(10**17 - 1, 3 * 10**17), True),
        (1, 1, 1, True),
        (10**7 - 1, 10**7, 1, False),
        (0, 5, 1e-9, False),
        (0, 5, Fraction(1, 10**400), False),
        (1, 5, Fraction(1, 10**400), True),
    ],
)
def test_the_threshold_is_compared_exactly(agreed: int, common: int, threshold: Any, together: bool) -> None:
    matrix = matrix_of("ab", {frozenset("ab"): agreed / common})
    assert find_blocs(matrix, threshold) == ([["a", "b"]] if together else [], True)


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan"), None, True])
def test_thresholds_outside_their_range(threshold: Any) -> None:
    with pytest.raises(InvalidConfigError, match="Threshold"):
        find_blocs({}, threshold)


# ---------------------------------------------------------------------------------------- the bound


def many_blocs(groups: int) -> Matrix:
    """Everyone agrees with all but the two others of a group of three: 3^groups blocs (Moon and Moser)."""
    voters = [f"v{number:03d}" for number in range(3 * groups)]
    return {
        a: {b: float(a == b or i // 3 != j // 3) for j, b in enumerate(voters)} for i, a in enumerate(voters)
    }


def test_all_blocs_are_found_while_the_bound_allows() -> None:
    blocs, complete = find_blocs(many_blocs(5))
    assert (len(blocs), complete) == (3**5, True)


def test_the_bound_bites_and_says_so_and_what_was_found_is_real() -> None:
    matrix = many_blocs(5)
    everything, _ = find_blocs(matrix)
    lengths = []
    for limit in (0, 1, 50, 200, 10_000):
        blocs, complete = find_blocs(matrix, limit=limit)
        assert complete is (limit == 10_000)
        assert all(bloc in everything for bloc in blocs)
        lengths.append(len(blocs))
    assert lengths == sorted(lengths)
    assert 0 < lengths[-2] < lengths[-1] == 3**5


def test_a_search_that_ends_on_its_last_step_is_complete() -> None:
    matrix = random_matrix(1, "abcdef", 0.5)
    completes = [find_blocs(matrix, limit=limit)[1] for limit in range(100)]
    steps = completes.index(True)
    assert completes == [False] * steps + [True] * (100 - steps)
    assert find_blocs(matrix, limit=steps)[0] == oracle_blocs(matrix, 0.9)


def test_the_largest_thinkable_number_of_blocs_ends_in_time() -> None:
    started = time.process_time()
    blocs, complete = find_blocs(many_blocs(66))  # 3^66 blocs
    assert not complete
    assert blocs
    assert time.process_time() - started < 20  # about one second; without a bound, never


def test_two_hundred_voters_and_a_thousand_proposals_are_usable() -> None:
    voters = [f"v{number:03d}" for number in range(200)]
    generator = random.Random(4)
    counts = AgreementCounts()
    for _ in range(1000):
        camps = generator.choices(VALUES, k=3)
        counts.record({voter: camps[number % 3] for number, voter in enumerate(voters)})
    started = time.process_time()
    blocs, complete = find_blocs(counts.matrix(voters))
    assert time.process_time() - started < 2  # about 0.04 s; one proposal at a time it takes longer than this
    assert complete
    assert blocs == sorted((voters[camp::3] for camp in range(3)), key=lambda bloc: (-len(bloc), bloc))
