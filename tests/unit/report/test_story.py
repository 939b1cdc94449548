"""What happened, told from entries: against sums made here from the same record."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from tests.support.epoch_factory import EpochFactory
from tests.support.record_factory import START_MS, RecordFactory, rich_record

from replication.client.errors import ResponseError
from replication.consensus import VoteValue
from replication.ledger.verify import VerificationError, verify_export
from replication.report.exported import ExportedEvents
from replication.report.story import MAX_VOTERS, Event, Story, tell

A, R, N = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN


def decided(**changes: Any) -> dict[str, Any]:
    """The data of a tally that is right but for some changes."""
    counts = dict.fromkeys(("approve_count", "reject_count", "abstain_count"), 0)
    facts = {"decision": "approved", "cause": "settled", "is_critical": False, "threshold_used": "1/2"}
    return {**facts, **counts, "votes": {}, **changes}


def collected(factory: RecordFactory, last: int = 10_000) -> ExportedEvents:
    entries = ExportedEvents(last)
    verify_export(entries.watch(factory.seal().lines()), factory.genesis)
    return entries


def story_of(factory: RecordFactory, last: int = 10_000) -> Story:
    entries = collected(factory, last)
    return tell(entries.found, start=entries.start)


def states(story: Story) -> dict[str, str]:
    return {case.id.removeprefix("prop-00"): case.state for case in story.cases}


def test_every_way_in_which_a_proposal_can_go() -> None:
    story = story_of(rich_record(4))
    assert states(story) == {
        **dict.fromkeys(("01", "07", "08"), "approved"),
        **dict.fromkeys(("02", "03", "09"), "rejected"),
        **dict.fromkeys(("04", "06", "10"), "no_quorum"),
        **dict.fromkeys(("05", "11"), "expired"),
        "12": "open",
    }
    assert [story.count(state) for state in ("approved", "rejected", "no_quorum", "expired", "open")] == [
        *(3, 3, 3, 2, 1),
    ]
    first = story.cases[0]
    assert (first.proposer, first.counts, first.threshold, first.cause) == (
        "node-1",
        (3, 0, 0),
        "1/2",
        "settled",
    )
    assert (first.took_ms, first.proposed_ms) == (1750, START_MS + 250)
    assert [(report.executor, report.outcome) for report in first.receipts] == [
        ("node-2", "failed"),
        ("node-3", "succeeded"),
        ("node-4", "partial"),
    ]
    assert [case.id for case in story.unconfirmed] == ["prop-0007", "prop-0008"]
    assert (story.first, story.size) == (0, 53)
    assert (story.begin_ms, story.end_ms) == (START_MS, START_MS + 6351)


def test_who_took_part() -> None:
    """Against the votes of all tallies, which `test_every_way...`'s record says."""
    story = story_of(rich_record(4))
    one = story.voters[0]
    assert [voter.asked for voter in story.voters] == [11] * 4
    assert [(*(voter.votes[value] for value in (A, R, N)), voter.silent) for voter in story.voters] == [
        (7, 2, 1, 1),
        (3, 4, 1, 3),
        (5, 1, 0, 5),
        (0, 1, 0, 10),
    ]
    assert one.sided == 9
    assert [voter.prevailed for voter in story.voters] == [5, 5, 4, 1]
    assert one.median_delay_ms == 3001
    assert all(voter.is_member for voter in story.voters)


def test_who_votes_like_whom() -> None:
    """node-1 and node-2 took sides together on 0001, 0002, 0003, 0006, 0007, 0008 and 0009."""
    story = story_of(rich_record(4))
    assert story.common["node-1", "node-2"] == story.common["node-2", "node-1"] == 7
    assert Fraction(story.agreement["node-1"]["node-2"]).limit_denominator(100) == Fraction(5, 7)
    assert story.common["node-3", "node-4"] == 1
    assert story.agreement["node-2"]["node-4"] == 1.0


def test_the_newest_part_of_a_record() -> None:
    """Members are known from the beginning; of older proposals only what came later."""
    factory = rich_record(4)
    whole = story_of(factory)
    part = story_of(factory, last=53 - 28)
    assert (part.first, part.size, part.begin_ms) == (28, 53, START_MS + 2000)
    assert "03" not in states(part)
    assert states(part)["01"] == "approved"
    older = next(case for case in part.cases if case.id == "prop-0001")
    assert (older.action, older.proposed_ms, older.took_ms) == ("", None, None)
    assert older.is_confirmed
    assert [voter.id for voter in part.voters] == [voter.id for voter in whole.voters]
    assert [voter.asked for voter in part.voters] == [10] * 4


def test_members_coordinators_and_liars() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.evidence("node-2", factory.statement("node-2"), factory.statement("node-2", block="other"))
    factory.block()
    factory.change({"change": "replace", "id": "node-2", "member": factory.new_member("node-6")})
    factory.block()
    proposal = factory.propose("node-1", "restrict")
    factory.vote(proposal, "node-4", "approve")
    factory.double_vote(proposal, "node-4", "reject")
    factory.block()
    factory.change({"change": "add", "member": factory.new_member("node-5")})
    factory.change({"change": "reweight", "id": "node-1", "weight": 2})
    factory.change({"change": "remove", "id": "node-4"})
    factory.block()
    factory.rejoin("node-3", bytes(range(32)))
    factory.block()
    factory.evidence("node-3", factory.timeout("node-3", 3, 6), factory.timeout("node-3", 3, 5))
    factory.block()
    factory.coordinator(2)
    story = story_of(factory)
    assert [(item.accused, item.what) for item in story.accusations] == [
        ("node-2", "signed prepare for two blocks at height 7 in view 1"),
        ("node-4", "voted approve and reject"),
        ("node-3", "signed two statements about view 3"),
    ]
    assert [(change.epoch, change.what) for change in story.changes] == [
        (1, "replace node-2 by node-6"),
        (2, "add node-5"),
        (3, "reweight node-1 to 2"),
        (4, "remove node-4"),
        (5, "rejoin node-3"),
    ]
    assert [change.proposal_id != "" for change in story.changes] == [True, True, True, True, False]
    assert [(turn.epoch, turn.view, turn.coordinator) for turn in story.turns] == [(5, 2, "node-3")]
    assert {voter.id for voter in story.voters if voter.is_member} == {"node-1", "node-3", "node-5", "node-6"}
    # The four changes were decided. Who came later was not asked before, who went is not asked any more.
    assert {voter.id: voter.asked for voter in story.voters} == {
        **dict.fromkeys(("node-1", "node-3", "node-4"), 4),
        **{"node-2": 1, "node-6": 3, "node-5": 2},
    }


def test_executors_are_no_voters() -> None:
    events = [genesis(), event(1, "membership", data={"epoch": 0, "change": added_executor()})]
    story = tell(events)
    assert [voter.id for voter in story.voters] == ["node-1"]
    assert [change.what for change in story.changes] == ["add-executor fence-1"]


def test_an_empty_record_and_kinds_of_later_versions() -> None:
    assert (tell([]).cases, tell([]).size, tell([]).median_ms) == ((), 0, None)
    story = tell([genesis(), event(1, "weather", data={"rain": True})])
    assert (story.cases, story.size) == ((), 2)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("propose", {}),
        ("tally", {"decision": "approved"}),
        ("tally", decided(votes={"node-1": "asked"})),
        ("tally", decided(votes={"node-9": "approve"})),
        ("tally", decided(votes=["node-1"])),
        ("vote", {}),
        ("execute", {"outcome": "succeeded"}),
        ("membership", {"epoch": 0, "change": []}),
        ("membership", {"epoch": 0, "change": {"change": "remove", "id": "node-9"}}),
        ("evidence", {"kind": "votes", "first": 1, "second": 2}),
        ("genesis", {"members": [{"id": f"m{number}"} for number in range(MAX_VOTERS + 1)]}),
    ],
)
def test_a_node_that_shows_nonsense_is_found_out(kind: str, data: dict[str, Any]) -> None:
    proposed = event(1, "propose", data={"action": "restrict", "target": ""}, proposal="prop-0001")
    shown = event(2, kind, data=data, proposal="prop-0001", actor="node-9")
    with pytest.raises(ResponseError, match=f"entry 2 is not what an entry of the kind {kind} is"):
        tell([genesis(), proposed, shown])


def genesis() -> Event:
    return event(0, "genesis", data={"members": [{"id": "node-1"}]})


def added_executor() -> dict[str, Any]:
    return {"change": "add-executor", "executor": {"id": "fence-1", "public_key": "", "possession": ""}}


def event(
    sequence: int, kind: str, *, data: dict[str, Any], proposal: str = "", actor: str = "node-1"
) -> Event:
    return Event(sequence, START_MS, kind, proposal, actor, data)


def test_an_export_that_does_not_verify_gives_nothing() -> None:
    factory = rich_record(4)
    lines = factory.seal().lines()
    entries = ExportedEvents(10)
    with pytest.raises(VerificationError, match=r"ends|cut off|missing"):
        verify_export(entries.watch(lines[:-1]), factory.genesis)
