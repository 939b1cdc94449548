"""Expiry times: in order, strictly past, and no larger than the number of open proposals asks for."""

from __future__ import annotations

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


def test_the_clean_up_keeps_what_is_open() -> None:
    clock = Clock()
    session = ConsensusProtocol(["a"], clock=clock)
    kept = [session.propose("a", "release", expiry_seconds=seconds) for seconds in (50, 40, 60)]
    for _ in range(200):
        session.tally(session.propose("a", "release", expiry_seconds=3600))
    clock.now += 55
    assert [proposal.id for proposal in session.list_proposals("expired")] == kept[:2]
    assert [proposal.id for proposal in session.list_proposals("open")] == kept[2:]
