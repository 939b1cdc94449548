"""The commit quorum: the literal table of the protocol, and an oracle that only knows how to count sets."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import pytest

from replication.consensus.rules import max_byzantine_faults
from replication.ordering.quorum import commit_quorum

TABLE: Final = {
    1: 1, 2: 2, 3: 2, 4: 3, 5: 4, 6: 4, 7: 5, 8: 6, 9: 6, 10: 7, 11: 8, 12: 8, 13: 9,
    16: 11, 19: 13, 22: 15, 25: 17, 28: 19, 31: 21,
}  # fmt: skip
"""n -> Q, as the protocol lists them."""

FAULTY: Final = {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 9: 2, 10: 3, 13: 4, 16: 5, 31: 10}
"""n -> f"""


def worst_overlap(n: int, size: int) -> int:
    """Fewest members that two sets of `size` out of n have in common, found by trying all pairs."""
    first = set(range(size))  # by symmetry one of the two may be fixed
    return min(len(first & set(second)) for second in combinations(range(n), size))


@pytest.mark.parametrize(("n", "quorum"), TABLE.items())
def test_table(n: int, quorum: int) -> None:
    assert commit_quorum(n) == quorum


@pytest.mark.parametrize(("n", "faulty"), FAULTY.items())
def test_how_many_may_be_faulty(n: int, faulty: int) -> None:
    assert max_byzantine_faults(n) == faulty


@pytest.mark.parametrize("n", range(1, 14))
def test_two_quorums_always_share_an_honest_member(n: int) -> None:
    assert worst_overlap(n, commit_quorum(n)) > max_byzantine_faults(n)


@pytest.mark.parametrize("n", range(1, 14))
def test_no_smaller_number_would_do(n: int) -> None:
    quorum = commit_quorum(n)
    if quorum > 1:
        assert worst_overlap(n, quorum - 1) <= max_byzantine_faults(n)


@pytest.mark.parametrize("n", range(1, 101))
def test_the_honest_members_alone_make_a_quorum(n: int) -> None:
    assert commit_quorum(n) <= n - max_byzantine_faults(n)


@pytest.mark.parametrize("n", range(1, 101))
def test_overlap_by_arithmetic(n: int) -> None:
    """Two sets of Q out of n overlap in at least 2Q - n."""
    assert 2 * commit_quorum(n) - n > max_byzantine_faults(n)


@pytest.mark.parametrize("n", range(4, 14))
def test_two_f_plus_one_is_safe_only_for_three_f_plus_one(n: int) -> None:
    faulty = max_byzantine_faults(n)
    is_safe = worst_overlap(n, 2 * faulty + 1) > faulty
    assert is_safe == (n == 3 * faulty + 1)


def test_six_members_would_fork_without_a_liar() -> None:
    """`At n = 6 two sets of 3 are disjoint, so it forks with nobody lying.`"""
    assert worst_overlap(6, 2 * max_byzantine_faults(6) + 1) == 0


@pytest.mark.parametrize("n", [0, -1, -100])
def test_a_cluster_has_members(n: int) -> None:
    with pytest.raises(ValueError, match="member"):
        commit_quorum(n)
