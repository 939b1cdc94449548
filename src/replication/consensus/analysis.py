"""Who votes with whom: pairwise agreement, and blocs of voters who agree with each other.

The agreement of two voters is the share of the proposals on which both cast a non-abstaining vote and said
the same. A bloc is a maximal clique of the graph whose edges join voters with enough agreement. Cliques are
enumerated by the algorithm of Bron and Kerbosch (CACM 16(9), 1973) with the pivot rule of Tomita, Tanaka and
Takahashi (2006) and the degeneracy order of Eppstein, Löffler and Strash (2010). A graph can have 3^(n/3)
maximal cliques, so the search has a step limit and says when it hit it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final

from replication.consensus.model import VoteValue
from replication.consensus.rules import exact_fraction, require_share

__all__ = ["BLOC_SEARCH_STEPS", "AgreementCounts", "find_blocs"]

BLOC_SEARCH_STEPS: Final = 100_000
"""Default step limit of the search for blocs: well under a second on random graphs of 200 voters."""

_BUFFERED_PROPOSALS: Final = 1024
"""How many proposals are kept as bits before they are added to the pair counters. Larger means fewer passes
over all pairs, but larger integers to copy for each vote; from 512 to 4096 the cost per vote hardly
differs."""


class AgreementCounts:
    """Counts, for each pair of voters, on how many proposals both took a side and on how many they agreed.

    Memory is O(voters²), whatever the number of proposals. Counting pairs one proposal at a time would cost
    O(voters²) for each. Instead every voter has two bit sets over the proposals last recorded, one bit a
    proposal; when they are full, or the counts are read, one pass over the pairs adds the common bits to the
    counters.
    """

    __slots__ = ("_agreed", "_approving", "_buffered", "_common", "_index", "_rejecting")

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._approving: list[int] = []
        self._rejecting: list[int] = []
        self._buffered = 0
        # The pair (i, j), i < j, is at j * (j - 1) / 2 + i, which does not move when voters are added. The
        # lists are replaced, never changed, so that copies can share them.
        self._agreed: list[int] = []
        self._common: list[int] = []

    def record(self, votes: Mapping[str, VoteValue]) -> None:
        """Count one proposal's votes, by voter id. Voters not seen before are added. O(votes), amortised."""
        bit = 1 << self._buffered
        for voter_id, value in votes.items():
            index = self._index.get(voter_id)
            if index is None:
                index = self._add_voter(voter_id)
            if value is VoteValue.APPROVE:
                self._approving[index] |= bit
            elif value is VoteValue.REJECT:
                self._rejecting[index] |= bit
        self._buffered += 1
        if self._buffered == _BUFFERED_PROPOSALS:
            self._fold()

    def counts(self, voter_a: str, voter_b: str) -> tuple[int, int]:
        """Return on how many proposals the two agreed, and on how many both took a side."""
        self._fold()
        first, second = self._index.get(voter_a), self._index.get(voter_b)
        if first is None or second is None or first == second:
            return (0, 0)
        pair = _pair(first, second)
        return (self._agreed[pair], self._common[pair])

    def matrix(self, voter_ids: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return {a: {b: rate}}: rates in [0, 1], 1.0 with oneself, 0.0 with nothing in common."""
        self._fold()
        ids = list(voter_ids)
        positions = [self._index.get(voter_id) for voter_id in ids]
        return {
            voter_id: {
                other_id: self._rate(row, column) for other_id, column in zip(ids, positions, strict=True)
            }
            | {voter_id: 1.0}
            for voter_id, row in zip(ids, positions, strict=True)
        }

    def retain(self, voter_ids: Iterable[str]) -> None:
        """Forget all voters but these, so that memory follows the present members."""
        self._fold()
        kept = set(voter_ids)
        before, agreed, common = self._index, self._agreed, self._common
        self._index = {}
        for voter_id in before:
            if voter_id in kept:
                self._index[voter_id] = len(self._index)
        pairs = [_pair(before[a], before[b]) for a, b in _pairs(list(self._index))]
        self._agreed = [agreed[pair] for pair in pairs]
        self._common = [common[pair] for pair in pairs]
        self._approving = [0] * len(self._index)
        self._rejecting = [0] * len(self._index)

    def copy(self) -> AgreementCounts:
        """Return independent counts with the same content. O(voters)."""
        twin = AgreementCounts()
        twin._index = self._index.copy()
        twin._approving = self._approving.copy()
        twin._rejecting = self._rejecting.copy()
        twin._buffered = self._buffered
        twin._agreed, twin._common = self._agreed, self._common
        return twin

    def _add_voter(self, voter_id: str) -> int:
        index = self._index[voter_id] = len(self._index)
        self._approving.append(0)
        self._rejecting.append(0)
        self._agreed = self._agreed + [0] * index
        self._common = self._common + [0] * index
        return index

    def _rate(self, row: int | None, column: int | None) -> float:
        if row is None or column is None or row == column:
            return 0.0
        pair = _pair(row, column)
        common = self._common[pair]
        return self._agreed[pair] / common if common else 0.0

    def _fold(self) -> None:
        """Add the buffered proposals to the pair counters."""
        if not self._buffered:
            return
        agreed, common = self._agreed.copy(), self._common.copy()
        pair = 0
        for j, (approving, rejecting) in enumerate(zip(self._approving, self._rejecting, strict=True)):
            voting = approving | rejecting
            for i in range(j):
                other_approving, other_rejecting = self._approving[i], self._rejecting[i]
                shared = voting & (other_approving | other_rejecting)
                if shared:
                    common[pair] += shared.bit_count()
                    agreed[pair] += (
                        (approving & other_approving) | (rejecting & other_rejecting)
                    ).bit_count()
                pair += 1
        self._agreed, self._common = agreed, common
        self._approving = [0] * len(self._index)
        self._rejecting = [0] * len(self._index)
        self._buffered = 0


def _pair(first: int, second: int) -> int:
    low, high = (first, second) if first < second else (second, first)
    return high * (high - 1) // 2 + low


def _pairs(items: Sequence[str]) -> Iterator[tuple[str, str]]:
    """All pairs in the order of the pair counters."""
    return ((items[i], items[j]) for j in range(len(items)) for i in range(j))


def find_blocs(
    matrix: Mapping[str, Mapping[str, float]],
    threshold: float | Fraction = 0.9,
    limit: int = BLOC_SEARCH_STEPS,
) -> tuple[list[list[str]], bool]:
    """Return the maximal sets of two or more voters who all agree at least `threshold` with each other.

    `matrix` holds agreement rates in [0, 1] as `AgreementCounts.matrix` makes it. Each bloc is sorted; the
    largest come first, those of equal size in lexicographic order, whatever the order of the matrix. The
    second value is False if the search stopped after `limit` steps: every bloc returned is real, but there
    may be others.

    Raises `InvalidConfigError` (a `ValueError`) if the threshold is not in (0, 1].
    """
    ids = sorted(matrix)
    neighbours = _agreement_graph(matrix, ids, require_share("Threshold", threshold))
    cliques: list[int] = []
    complete = _collect_cliques(neighbours, limit, cliques)
    blocs = [[ids[index] for index in _members(clique)] for clique in cliques]
    blocs.sort(key=lambda bloc: (-len(bloc), bloc))
    return blocs, complete


def _agreement_graph(
    matrix: Mapping[str, Mapping[str, float]], ids: Sequence[str], threshold: Fraction
) -> list[int]:
    """Return the neighbours of each voter as a bit set.

    The comparison is exact, though the rates are floats. Rounding is monotone: a rate above float(threshold)
    came from a fraction above the threshold, one below from a fraction below. On equality, the rate's
    fraction is the simplest that rounds to this float (two with denominators below 2^26 never round to the
    same one), so it can be recovered, once for all such rates, and compared.
    """
    bar = float(threshold)
    least = bar if exact_fraction(bar) >= threshold else None
    neighbours = [0] * len(ids)
    for index, voter_id in enumerate(ids):
        row = matrix[voter_id]
        for other in range(index):
            rate = row[ids[other]]
            if rate > bar or rate == least:
                neighbours[index] |= 1 << other
                neighbours[other] |= 1 << index
    return neighbours


def _collect_cliques(neighbours: Sequence[int], limit: int, cliques: list[int]) -> bool:
    """Append every maximal clique of two or more to `cliques`; return False if `limit` steps were not enough.

    An explicit stack takes the place of recursion. A state is (clique, candidates, excluded): candidates are
    joined to every member and may still be added; excluded are too, but cliques with them were already
    listed.
    """
    steps = 0
    for start in _degeneracy_states(neighbours):
        stack = [start]
        while stack:
            if steps == limit:
                return False
            steps += 1
            clique, candidates, excluded = stack.pop()
            if candidates:
                stack.extend(_branches(neighbours, clique, candidates, excluded))
            elif not excluded and clique & (clique - 1):  # maximal, and more than one bit
                cliques.append(clique)
    return True


def _branches(
    neighbours: Sequence[int], clique: int, candidates: int, excluded: int
) -> list[tuple[int, int, int]]:
    """One step of Bron-Kerbosch: a maximal clique holds the pivot or one of the pivot's non-neighbours."""
    pivot = max(
        _members(candidates | excluded), key=lambda index: (candidates & neighbours[index]).bit_count()
    )
    branches = []
    for index in _members(candidates & ~neighbours[pivot]):
        bit = 1 << index
        branches.append((clique | bit, candidates & neighbours[index], excluded & neighbours[index]))
        candidates &= ~bit
        excluded |= bit
    return branches


def _degeneracy_states(neighbours: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The first states, one a voter: candidates come later in the degeneracy order, excluded earlier."""
    remaining = (1 << len(neighbours)) - 1
    removed = 0
    while remaining:
        index = min(_members(remaining), key=lambda index: (neighbours[index] & remaining).bit_count())
        bit = 1 << index
        remaining &= ~bit
        yield bit, neighbours[index] & remaining, neighbours[index] & removed
        removed |= bit


def _members(bits: int) -> list[int]:
    """The positions of the bits that are set, lowest first."""
    members = []
    while bits:
        lowest = bits & -bits
        members.append(lowest.bit_length() - 1)
        bits ^= lowest
    return members
