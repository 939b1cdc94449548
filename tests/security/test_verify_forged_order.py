"""Forged order: events that were not due, or were and are missing, where all hashes and commits hold.

The forger is stronger than any the cluster has to survive: unless a test says otherwise it holds *all* keys
for the commits, so that nothing but the guard in question stands between the lie and a clean report.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.record_factory import (
    RecordFactory,
    SealedRecord,
    approved,
    opened,
)

from replication.identity.genesis import Rules
from replication.ledger.verify import VerificationError, verify_export


def verify(made: RecordFactory | SealedRecord) -> None:
    record = made.seal() if isinstance(made, RecordFactory) else made
    verify_export(record.lines(), record.genesis)


def refused(made: RecordFactory | SealedRecord, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify(made)
    assert caught.value.where.startswith("line "), str(caught.value)
    assert caught.value.reason == "VERIFICATION_FAILED"


# ------------------------------------------------------------------------------- what is due, and what is not


def test_a_window_that_is_not_over() -> None:
    """A window of 1,000 ms is open at its last millisecond."""
    factory, proposal = opened(window_ms=1000)
    factory.block(1000)
    factory.tally(proposal, "no_quorum", "window")
    refused(
        factory,
        r"block 2, entry 2 .*'prop-0001' is not due: nothing has reached its deadline \(cause window\)",
    )
    factory.blocks[-1].time_ms += 1
    verify(factory)


def test_a_proposal_that_is_not_yet_expired() -> None:
    factory, proposal = opened(expiry_ms=1000)
    factory.block(1000)
    factory.tally(proposal, "no_quorum", "expired")
    refused(factory, "is not due: nothing has reached its deadline")
    factory.blocks[-1].time_ms += 1
    verify(factory)


@pytest.mark.parametrize(
    ("deadline", "words"), [("window_ms", "be tallied, its window over,"), ("expiry_ms", "expired")]
)
def test_a_due_proposal_that_nothing_was_done_about(deadline: str, words: str) -> None:
    deadlines: dict[str, Any] = {deadline: 1000}
    factory, proposal = opened(**deadlines)
    factory.block(1001, commands=[b"void"])
    refused(factory, rf"^line 6, block 2: prop-0001 had to .*{words}.* in this block before the block ends")
    factory.vote(proposal, "node-1")
    refused(factory, rf"entry 2 .*prop-0001 had to .*{words}.* in this block before the commands begin")


def test_a_settled_tally_before_what_is_due() -> None:
    factory, first = opened(window_ms=1000)
    second = factory.propose("node-2")
    factory.block(1001)
    factory.tally(second, "no_quorum")
    factory.tally(first, "no_quorum", "window")
    refused(
        factory, "prop-0001 had to be tallied, its window over, in this block before settled proposals are"
    )


def test_a_settled_proposal_that_is_not_tallied() -> None:
    factory, _ = approved()
    factory.blocks[1].entries.pop()
    refused(factory, r"block 1: prop-0001 was settled by this block's votes, but is not tallied in it")
    factory.block()
    factory.tally("prop-0001", "approved")
    refused(factory, r"block 1: prop-0001 was settled by this block's votes, but is not tallied in it")


def test_one_of_two_settled_proposals_is_not_tallied() -> None:
    factory, first = opened()
    second = factory.propose("node-2")
    for voter in factory.ids[:3]:
        factory.ballot(voter, [(first, "approve"), (second, "approve")])
    factory.tally(first, "approved")
    refused(factory, "block 1: prop-0002 was settled by this block's votes, but is not tallied in it")
    factory.tally(second, "approved")
    verify(factory)


def test_settled_tallies_follow_the_first_votes() -> None:
    factory, first = opened()
    second = factory.propose("node-2")
    for voter in factory.ids[:3]:
        factory.ballot(voter, [(second, "approve"), (first, "approve")])
    factory.tally(first, "approved")
    factory.tally(second, "approved")
    refused(factory, "'prop-0001' stands where settled prop-0002 has to be tallied")
    entries = factory.blocks[1].entries
    entries[-2:] = reversed(entries[-2:])
    verify(factory)


def test_a_tally_of_what_is_not_settled() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:2]:
        factory.vote(proposal, voter)
    factory.vote(proposal, "node-3", "reject")
    factory.tally(proposal, "approved")
    refused(factory, "'prop-0001' is not settled by votes in this block")


def test_a_settled_tally_twice() -> None:
    factory, proposal = approved()
    factory.tally(proposal, "approved")
    refused(factory, "'prop-0001' is not settled by votes in this block")


def test_a_second_tally_by_closing() -> None:
    factory, proposal = approved()
    factory.block()
    factory.close(proposal, "node-1", "approved")
    refused(factory, "proposal_id 'prop-0001' does not name an open proposal")


def test_commands_after_the_settled_tallies() -> None:
    factory, _ = approved()
    factory.propose("node-2")
    refused(factory, "a command's entry stands after the tallies that end a block")


def test_due_proposals_are_handled_by_deadline_and_number() -> None:
    factory, first = opened(window_ms=2000)
    second = factory.propose("node-2", window_ms=1000)
    third = factory.propose("node-3", expiry_ms=1000)
    factory.block(3000)
    factory.tally(second, "no_quorum", "window")
    factory.tally(third, "no_quorum", "expired")
    factory.tally(first, "no_quorum", "window")
    verify(factory)
    entries = factory.blocks[-1].entries
    for order in ([0, 2, 1], [1, 0, 2], [2, 0, 1]):
        factory.blocks[-1].entries = [entries[index] for index in order]
        refused(factory, r"'prop-000\d' \(\w+\) stands where prop-000\d \(\w+\) is due")


def test_deadlines_survive_the_end_of_many_other_proposals() -> None:
    """Finished proposals are swept out of the deadlines in between; the order of the rest must not suffer."""
    factory = RecordFactory(1, rules=Rules(default_window_ms=0, max_active_proposals=1000))
    factory.block()
    names = [factory.propose("node-1", window_ms=10_000 + number * 7919 % 400) for number in range(150)]
    kept = [name for number, name in enumerate(names) if number % 7 == 3]
    factory.block()
    for name in names:
        if name not in kept:
            factory.close(name, "node-1", "no_quorum")
    factory.propose("node-1")
    factory.block(20_000)
    for name in sorted(kept, key=lambda name: (factory.proposals[name].data["window_ms"], name)):
        factory.tally(name, "no_quorum", "window")
    verify(factory)


def test_an_expired_proposal_told_as_rejected() -> None:
    factory, proposal = opened(expiry_ms=1000)
    for voter in factory.ids[:2]:
        factory.vote(proposal, voter, "reject")
    factory.block(1001)
    entry = factory.tally(proposal, "no_quorum", "expired")
    verify(factory)
    entry.data["decision"] = "rejected"
    refused(factory, 'data.decision is "rejected", but the votes and rules make it "no_quorum"')
    entry.data["decision"] = "no_quorum"
    entry.event_type = "tally"
    refused(factory, "data.cause must be one of settled, window, closed")
    entry.data.update(cause="window", decision="rejected")
    refused(factory, r"'prop-0001' \(window\) stands where prop-0001 \(expired\) is due")
    entry.data["cause"] = "settled"
    refused(factory, "had to have expired in this block before settled proposals are tallied")


def test_an_approval_is_not_saved_by_its_window_when_it_expired_first() -> None:
    """Due for both: it expires if it expires first, or at the same moment."""
    for expiry_ms, cause in ((999, "expired"), (1000, "expired"), (1001, "window")):
        factory, proposal = opened(window_ms=1000, expiry_ms=expiry_ms)
        factory.vote(proposal, "node-1")
        factory.block(5000)
        entry = factory.tally(proposal, "no_quorum", cause)
        verify(factory)
        other = "window" if cause == "expired" else "expired"
        entry.event_type = "tally" if other == "window" else "expired"
        entry.data["cause"] = other
        refused(factory, rf"'prop-0001' \({other}\) stands where prop-0001 \({cause}\) is due")


def test_a_window_tally_told_as_expired() -> None:
    factory, proposal = opened(window_ms=1000)
    factory.block(1001)
    factory.tally(proposal, "no_quorum", "expired")
    refused(factory, r"'prop-0001' \(expired\) stands where prop-0001 \(window\) is due")


def test_an_expired_entry_with_another_cause() -> None:
    factory, proposal = opened(expiry_ms=1000)
    factory.block(1001)
    factory.tally(proposal, "no_quorum", "expired").data["cause"] = "window"
    refused(factory, 'data.cause is "window", but an expired entry says "expired"')


@pytest.mark.parametrize("cause", ["settled", "window", "expired"])
def test_the_cluster_itself_takes_a_tally_that_nobody_asked_for(cause: str) -> None:
    factory, proposal = opened(window_ms=2000 if cause == "window" else 0, expiry_ms=9000)
    for voter in factory.ids[: 3 if cause == "settled" else 2]:
        factory.vote(proposal, voter)
    if cause != "settled":
        factory.block(10_000 if cause == "expired" else 3000)
    entry = factory.tally(proposal, "approved" if cause == "settled" else "no_quorum", cause)
    verify(factory)
    entry.actor_id = "node-1"
    refused(factory, "actor_id is 'node-1', but the cluster takes this tally by itself")


# ---------------------------------------------------------------------------------------------- closing early


def test_an_early_close_authorises_nothing() -> None:
    factory, proposal = opened()
    for voter, value in zip(factory.ids, ("approve", "approve", "reject"), strict=False):
        factory.vote(proposal, voter, value)
    entry = factory.close(proposal, "node-1", "approved")
    refused(factory, 'data.decision is "approved", but the votes and rules make it "no_quorum"')
    entry.data["decision"] = "rejected"
    refused(factory, 'data.decision is "rejected", but the votes and rules make it "no_quorum"')
    entry.data["decision"] = "no_quorum"
    verify(factory)


def test_only_the_proposer_closes() -> None:
    factory, proposal = opened()
    factory.close(proposal, "node-2", "no_quorum")
    refused(factory, "actor_id is 'node-2', but only the proposer node-1 may close")
    factory, proposal = opened()
    factory.close(proposal, "node-1", "no_quorum", signer="node-2")
    refused(factory, "data.close.signature is not a signature of node-1 over this content")
    factory, proposal = opened()
    factory.close(proposal, "node-1", "no_quorum").data["close"]["epoch"] = 1
    refused(factory, "data.close.epoch is 1, but the block's epoch is 0")


def test_a_close_without_its_signature() -> None:
    factory, proposal = opened()
    del factory.close(proposal, "node-1", "no_quorum").data["close"]
    refused(factory, "missing close of data")


def test_a_close_that_is_none() -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-2")
    factory.close(proposal, "node-1", "no_quorum").data["cause"] = "settled"
    refused(factory, 'unknown "close" of data')


def test_a_close_after_the_window() -> None:
    factory, proposal = opened(window_ms=1000)
    factory.block(1001)
    factory.close(proposal, "node-1", "no_quorum")
    refused(factory, "had to be tallied, its window over, in this block before the commands begin")


# ---------------------------------------------------------------------------------------- events and commands


@pytest.mark.parametrize("event_type", ["genesis", "", "Vote", "pardon"])
def test_events_that_do_not_exist_here(event_type: str) -> None:
    factory = RecordFactory(4)
    factory.block(commands=[b"command"])
    factory.add(event_type, "", "genesis", factory.blocks[0].entries[0].data)
    refused(factory, f"event_type '{event_type}' is not known, or not here")


def test_entries_that_no_command_has_caused() -> None:
    factory, proposal = approved()
    factory.block()
    factory.execute(proposal, "node-1")
    factory.blocks[-1].commands.clear()
    refused(factory, "the block's commands_root is that of no commands, so nothing can have caused this")
