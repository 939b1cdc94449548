"""Blame against the simulator's judge, which has the rules written down a second time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.faults.simulation.judge import clash
from replication.ordering.blame import FirstStatements, contradict
from replication.ordering.statements import Lock, Phase, Signed, Statement, StatementKey, Timeout

hashes = st.sampled_from([bytes([number]) * 32 for number in range(2)])
small = st.integers(0, 3)
signers = st.sampled_from(["m0", "m1"])
statements = st.builds(
    Statement,
    st.builds(StatementKey, st.sampled_from(Phase), st.integers(0, 1), small, small, hashes),
    signers,
    st.just(b""),
)
timeouts = st.builds(
    Timeout,
    st.integers(0, 1),
    small,
    small,
    st.none() | st.builds(Lock, small, hashes),
    signers,
    st.just(b""),
)
signed = st.one_of(statements, timeouts)

NOT_BLAMED = "a later timeout that reports less"
"""The judge knows it, since no correct member does it; it harms nobody, and is not among what is recorded."""


def guilty(first: Signed, second: Signed) -> bool:
    return clash(first, second) not in (None, NOT_BLAMED)


@given(signed, signed)
def test_the_same_pairs_contradict(first: Signed, second: Signed) -> None:
    assert contradict(first, second) == guilty(first, second)
    assert contradict(second, first) == contradict(first, second)
    assert not contradict(first, first)


@given(st.lists(signed, max_size=12))
def test_who_is_blamed_is_who_contradicted_what_was_kept(items: list[Signed]) -> None:
    """Nobody is blamed without two statements that convict; and whoever made two is blamed, unless the second
    contradicts only something that had no place beside an earlier statement at the same position."""
    memory = FirstStatements()
    blamed = {}
    for item in items:
        evidence = memory.record(item)
        if evidence is not None:
            assert evidence.accused not in blamed
            assert evidence.first in items
            assert evidence.second is item
            assert guilty(evidence.first, evidence.second)
            blamed[evidence.accused] = evidence
    for signer in ("m0", "m1"):
        mine = [item for item in items if item.signer == signer]
        has_lied = any(guilty(first, second) for first in mine for second in mine)
        epochs = {item.epoch for item in mine}
        if len(epochs) <= 1:
            assert (signer in blamed) == has_lied
