"""Expiry times: in order, strictly past, and no larger than the number of open proposals asks for."""

from __future__ import annotations

import random

import pytest
from tests.support.voting_sessions import Clock

from replication.consensus import ConsensusProtocol
from replication.consensus.deadlines import Deadlines


def test_ids_come_soonest_first_and_only_when_their_time_is_past() -> None:
    deadlines, open_proposals = Deadlines(), {"late", "early", "twin"}
    deadlines.add(20, 1, "late", open_proposals)
    deadlines.add(10.5, 3, "twin", open_proposals)
    deadlines.add(10.5, 2, "early", open_proposals)
    assert list(deadlines.pop_past(10.5)) == []
    assert list(deadlines.pop_past(10.6)) == ["early", "twin"]
    assert list(deadlines.pop_past(1000)) == ["late"]
    assert len(deadlines) == 0


def test_decided_proposals_do_not_pile_up() -> None:
    session = ConsensusProtocol(["a"], clock=Clock())
    largest = 0
    for _ in range(1000):
        session.tally(session.propose("a", "release", expiry_seconds=3600))
        largest = max(largest, len(session._deadlines))
    assert largest < 30


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_decided_in_between_the_open_ones_come_in_order(seed: int) -> None:
    generator = random.Random(seed)
    deadlines = Deadlines()
    expiries: dict[str, tuple[float, int]] = {}  # of the open proposals
    now = 0.0
    for number in range(600):
        proposal_id = f"prop-{number}"
        expiries[proposal_id] = (now + generator.randint(1, 200), number)
        deadlines.add(*expiries[proposal_id], proposal_id, expiries)
        assert len(deadlines) <= 2 * len(expiries) + 16
        for decided in generator.sample(sorted(expiries), len(expiries) // 9):
            del expiries[decided]
        now += generator.randint(0, 2)
        past = sorted((it for it in expiries if expiries[it][0] < now), key=lambda it: expiries[it])
        assert [it for it in deadlines.pop_past(now) if it in expiries] == past
        for proposal_id in past:
            del expiries[proposal_id]
