"""Forged evidence in records: members blamed for what they did not sign, liars whose votes still count."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from tests.support.epoch_factory import EpochFactory
from tests.support.record_factory import DraftEntry, Json, RecordFactory

from replication.identity.genesis import Rules
from replication.ledger.verify import ExportReport, VerificationError, verify_export

Pair = tuple[Json, Json]


def verify(factory: RecordFactory) -> ExportReport:
    record = factory.seal()
    return verify_export(record.lines(), record.genesis)


def refused(factory: RecordFactory, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify(factory)
    assert caught.value.where.startswith("line "), str(caught.value)


def blamed(make: Callable[[EpochFactory], Pair]) -> EpochFactory:
    factory = EpochFactory(4)
    factory.block()
    factory.evidence("node-2", *make(factory))
    return factory


# ----------------------------------------------------------------------------------------- contradictions

CONTRADICTIONS: dict[str, Callable[[EpochFactory], Pair]] = {
    "two proposals": lambda f: (
        f.statement("node-2", "propose"),
        f.statement("node-2", "propose", block="other"),
    ),
    "two prepares": lambda f: (f.statement("node-2"), f.statement("node-2", block="other")),
    "two commits": lambda f: (
        f.statement("node-2", "commit"),
        f.statement("node-2", "commit", block="other"),
    ),
    "two heights": lambda f: (f.timeout("node-2", 3, 6), f.timeout("node-2", 3, 5)),
    "two locks": lambda f: (f.timeout("node-2", 3, 6, (1, "a")), f.timeout("node-2", 3, 6, (1, "b"))),
    "lock and none": lambda f: (f.timeout("node-2", 3, 6, (0, "a")), f.timeout("node-2", 3, 6)),
    # A COMMIT on height 7 in view 1 promises to report height 6 and a lock of view 1, or more.
    "no lock reported": lambda f: (f.statement("node-2", "commit"), f.timeout("node-2", 1, 6)),
    "old lock reported": lambda f: (f.timeout("node-2", 9, 6, (0, "a")), f.statement("node-2", "commit")),
    "low height": lambda f: (f.statement("node-2", "commit"), f.timeout("node-2", 1, 5, (4, "a"))),
}

HARMLESS: dict[str, Callable[[EpochFactory], Pair]] = {
    "the same twice": lambda f: (f.statement("node-2"), f.statement("node-2")),
    "two views": lambda f: (f.statement("node-2"), f.statement("node-2", block="other", view=2)),
    "two heights": lambda f: (f.statement("node-2"), f.statement("node-2", block="other", height=8)),
    "two phases": lambda f: (f.statement("node-2"), f.statement("node-2", "commit", block="other")),
    "two timeouts": lambda f: (f.timeout("node-2", 3, 6), f.timeout("node-2", 4, 5)),
    "the same timeout": lambda f: (f.timeout("node-2", 3, 6), f.timeout("node-2", 3, 6)),
    "prepare and timeout": lambda f: (f.statement("node-2"), f.timeout("node-2", 1, 2)),
    "the lock reported": lambda f: (f.statement("node-2", "commit"), f.timeout("node-2", 1, 6, (1, "a"))),
    "a higher lock": lambda f: (f.statement("node-2", "commit"), f.timeout("node-2", 3, 6, (2, "a"))),
    "committed since": lambda f: (f.statement("node-2", "commit"), f.timeout("node-2", 1, 7)),
    "an earlier view": lambda f: (f.statement("node-2", "commit"), f.timeout("node-2", 0, 5)),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_contradictions(kind: str) -> None:
    factory = blamed(CONTRADICTIONS[kind])
    report = verify(factory)
    assert (report.faulty, report.events["evidence"]) == (("node-2",), 1)
    data = factory.blocks[-1].entries[-1].data
    data["first"], data["second"] = data["second"], data["first"]
    verify(factory)


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_a_correct_member_may_sign(kind: str) -> None:
    refused(blamed(HARMLESS[kind]), "data.first and data.second do not contradict each other")


@pytest.mark.parametrize("key", ["first", "second"])
@pytest.mark.parametrize("kind", ["two prepares", "two locks", "no lock reported"])
def test_statements_that_the_accused_did_not_sign(kind: str, key: str) -> None:
    factory = blamed(CONTRADICTIONS[kind])
    data = factory.blocks[-1].entries[-1].data
    good = data[key]["signature"]
    data[key]["signature"] = good[:-2] + f"{int(good[-2:], 16) ^ 1:02x}"
    refused(factory, f"data.{key}.signature is not a signature of node-2 over this content")


def test_statements_of_two_members() -> None:
    factory = blamed(lambda f: (f.statement("node-2"), f.statement("node-3", block="other")))
    refused(factory, "data.second.signature is not a signature of node-2")


def test_statements_of_two_epochs() -> None:
    """After a rejoin a member may well prepare another block at the same view and height."""
    factory = EpochFactory(4)
    old = factory.statement("node-2")
    factory.block()
    factory.rejoin("node-3", bytes(range(32)))
    factory.block()
    entry = factory.evidence("node-2", old, factory.statement("node-2", block="other"))
    refused(factory, "data.first.signature is not a signature of node-2")
    entry.data["epoch"] = 0
    refused(factory, "epoch 0 is over: this is epoch 1")


LIES: list[tuple[Callable[[DraftEntry], None], str]] = [
    (lambda e: e.data.update(accused="node-9"), "'node-9' is not a member in epoch 0"),
    (lambda e: e.data.update(accused="node-3"), "data.first.signature is not a signature of node-3"),
    (lambda e: e.data.update(epoch=1), "epoch 1 has not begun"),
    (lambda e: e.data.update(kind="gossip"), "data.kind must be one of votes, statements"),
    (lambda e: e.data.update(kind="votes"), "data.first"),
    (lambda e: e.data["first"].update(phase="suspect"), "data.first.phase must be one of"),
    (lambda e: e.data["first"].update(phase="timeout"), "of data.first"),
    (lambda e: e.data["first"].update(extra=1), 'unknown "extra" of data.first'),
    (lambda e: e.data.update(first=None), "data.first must be an object"),
    (lambda e: e.data["first"].update(height=-1), "data.first.height must be an integer"),
    (
        lambda e: setattr(e, "actor_id", "node-1"),
        "actor_id is 'node-1', but evidence is the cluster's to record",
    ),
    (lambda e: setattr(e, "proposal_id", "prop-0001"), "proposal_id must be empty"),
]


@pytest.mark.parametrize(("lie", "message"), LIES, ids=[message for _, message in LIES])
def test_lies_about_evidence(lie: Callable[[DraftEntry], None], message: str) -> None:
    factory = blamed(CONTRADICTIONS["two prepares"])
    lie(factory.blocks[-1].entries[-1])
    refused(factory, message)


def test_a_member_is_blamed_once() -> None:
    factory = blamed(CONTRADICTIONS["two prepares"])
    factory.evidence("node-2", *CONTRADICTIONS["two locks"](factory))
    refused(factory, "data.accused node-2 is proven faulty already, by entry 1")


# ------------------------------------------------------------------------------------------- double votes


def voted(**options: Any) -> tuple[EpochFactory, str]:
    """A critical proposal with a vote of node-4, still open."""
    factory = EpochFactory(4, **options)
    factory.block()
    proposal = factory.propose("node-1", "terminate")
    factory.vote(proposal, "node-4")
    return factory, proposal


def test_two_votes_of_one_revision() -> None:
    factory, proposal = voted()
    factory.block()
    factory.double_vote(proposal, "node-4")
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    report = verify(factory)
    assert (report.faulty, report.events["vote"]) == (("node-4",), 4)


def test_the_same_vote_twice_is_no_double_vote() -> None:
    factory, proposal = voted()
    factory.block()
    entry = factory.double_vote(proposal, "node-4")
    entry.data["second"] = deepcopy(entry.data["first"])
    refused(factory, "data.first and data.second are no two votes of one revision")


def test_a_legal_change_is_no_double_vote() -> None:
    factory, proposal = voted(rules=Rules(default_window_ms=0, allow_vote_change=True))
    factory.block()
    factory.double_vote(proposal, "node-4", revision=1)
    refused(factory, "data.first and data.second are no two votes of one revision")


def test_votes_on_two_proposals_are_no_double_vote() -> None:
    factory, proposal = voted()
    other = factory.propose("node-1")
    second = factory.vote(other, "node-4", "reject")
    entry = factory.double_vote(proposal, "node-4")
    entry.data["second"] = deepcopy(second.data)
    refused(factory, "data.second.digest is .*, but the proposal's digest is")


def test_a_forged_second_vote() -> None:
    factory, proposal = voted()
    factory.block()
    factory.double_vote(proposal, "node-4", signer="node-3")
    refused(factory, "data.second.ballot.signature is not a signature of node-4")


def test_a_first_vote_that_is_not_on_record() -> None:
    """Both are signed, but the record has another: then one of those on record must be shown."""
    factory, proposal = voted()
    factory.block()
    entry = factory.double_vote(proposal, "node-4")
    entry.data["first"], entry.data["second"] = entry.data["second"], entry.data["first"]
    refused(factory, f"data.first is not the vote of node-4 on {proposal} on record")


def test_double_votes_name_their_open_proposal() -> None:
    factory, proposal = voted()
    other = factory.propose("node-1")
    factory.block()
    entry = factory.double_vote(proposal, "node-4")
    entry.proposal_id = other
    refused(factory, f"data.first is not the vote of node-4 on {other} on record")
    entry.proposal_id = ""
    refused(factory, "proposal_id '' does not name an open proposal")


# ------------------------------------------------------------------------------- what follows for the votes


def convicted() -> tuple[EpochFactory, str, DraftEntry]:
    """A critical proposal decided by three others, with a fourth vote of a proven liar."""
    factory, proposal = voted()
    factory.block()
    factory.double_vote(proposal, "node-4")
    factory.block()
    for voter, value in zip(factory.ids, ["approve", "approve", "reject"], strict=False):
        factory.vote(proposal, voter, value)
    entry = factory.tally(proposal, "approved")
    return factory, proposal, entry


def test_a_liar_abstains() -> None:
    factory, _, entry = convicted()
    assert (entry.data["approve_count"], entry.data["abstain_count"]) == (2, 1)
    assert list(entry.data["excluded"]) == ["node-4"]
    verify(factory)


def test_a_liar_whose_vote_still_counts() -> None:
    factory, _, entry = convicted()
    del entry.data["excluded"]
    entry.data.update(approve_count=3, approve_weight=3, abstain_count=0)
    refused(factory, "data.approve_count is 3, but the votes and rules make it 2")


def test_an_abstention_without_its_reason() -> None:
    factory, _, entry = convicted()
    del entry.data["excluded"]
    refused(factory, "missing excluded of data: node-4 are proven faulty")


def test_an_abstention_with_another_reason() -> None:
    factory, _, entry = convicted()
    entry.data["excluded"]["node-4"] = 1
    refused(factory, 'data.excluded is {"node-4": 1}, but by the evidence on record it is {"node-4": 3}')


def test_an_honest_voter_excluded() -> None:
    factory, proposal = voted()
    factory.block()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    entry = factory.tally(proposal, "approved")
    verify(factory)
    entry.data["excluded"] = {"node-1": 2}
    refused(factory, "data.excluded must not be there: no voter is proven faulty")
    entry.data["excluded"] = {}
    refused(factory, "data.excluded must not be there: no voter is proven faulty")


def test_later_votes_of_a_liar_abstain_too() -> None:
    factory = blamed(CONTRADICTIONS["two commits"])
    proposal = factory.propose("node-2")
    for voter in factory.ids:
        factory.vote(proposal, voter)
    entry = factory.tally(proposal, "approved")
    verify(factory)
    assert entry.data["abstain_count"] == 1
    factory.faulty.clear()
    entry.data = factory.tally_data(proposal, "approved", "settled")
    refused(factory, "data.approve_count is 4, but the votes and rules make it 3")


def test_what_evidence_settles_is_tallied_at_once() -> None:
    factory, proposal = voted()
    factory.vote(proposal, "node-1", "abstain")
    verify(factory)
    factory.block()
    factory.double_vote(proposal, "node-4")
    refused(factory, f"{proposal} was settled by this block's votes, but is not tallied in it")
    factory.tally(proposal, "no_quorum")
    verify(factory)
