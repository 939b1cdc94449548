"""Forged events: tallies, votes, proposals and receipts that lie, where all hashes and commits hold.

The forger is stronger than any the cluster has to survive: unless a test says otherwise it holds *all* keys
for the commits, so that nothing but the guard in question stands between the lie and a clean report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import lru_cache
from typing import Any

import pytest
from tests.support.record_factory import (
    DraftEntry,
    RecordFactory,
    SealedRecord,
    approved,
    dumps,
    entry_hash,
    opened,
    small_record,
)

from replication.identity import keys
from replication.identity.genesis import Genesis, Rules
from replication.ledger.verify import VerificationError, verify_export

CHANGES = Rules(default_window_ms=0, allow_vote_change=True)


def verify(made: RecordFactory | SealedRecord) -> None:
    record = made.seal() if isinstance(made, RecordFactory) else made
    verify_export(record.lines(), record.genesis)


def refused(made: RecordFactory | SealedRecord, message: str) -> None:
    record = made.seal() if isinstance(made, RecordFactory) else made
    refused_lines(record.lines(), record.genesis, message)


def refused_lines(lines: Iterable[bytes], genesis: Genesis, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify_export(lines, genesis)
    assert caught.value.where.startswith("line "), str(caught.value)
    assert caught.value.reason == "VERIFICATION_FAILED"


def entry_of(factory: RecordFactory, event_type: str, proposal_id: str = "prop-0001") -> DraftEntry:
    return next(
        entry
        for block in factory.blocks
        for entry in block.entries
        if (entry.event_type, entry.proposal_id) == (event_type, proposal_id)
    )


# ---------------------------------------------------------------------------------------------------- tallies


@pytest.mark.parametrize(
    ("field", "lie"),
    [
        ("decision", "rejected"),
        ("decision", "no_quorum"),
        ("approve_count", 3),
        ("approve_count", True),
        ("reject_count", 1),
        ("reject_count", False),
        ("abstain_count", 1),
        ("total_voters", 5),
        ("quorum_required", 2),
        ("quorum_met", False),
        ("quorum_met", 1),
        ("approve_weight", 5),
        ("approve_weight", "4"),
        ("reject_weight", 1),
        ("threshold_used", "2/3"),
        ("threshold_used", "2/4"),
        ("is_critical", True),
        ("votes", {"node-1": "approve"}),
        ("votes", {"node-1": "approve", "node-2": "approve", "node-3": "approve", "node-4": "reject"}),
        ("digest", "00" * 32),
    ],
)
def test_a_false_figure_in_a_tally(field: str, lie: object) -> None:
    factory, _ = approved()
    entry_of(factory, "tally").data[field] = lie
    refused(factory, rf"^line 10, block 1, entry 6 \(tally on prop-0001\): data\.{field} is ")


def test_a_rejection_told_as_an_approval() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter, "reject")
    factory.tally(proposal, "approved")
    refused(factory, 'data.decision is "approved", but the votes and rules make it "rejected"')


def test_a_tie_told_as_an_approval() -> None:
    factory, proposal = opened()
    for voter, value in zip(factory.ids, ("approve", "reject") * 2, strict=True):
        factory.vote(proposal, voter, value)
    factory.tally(proposal, "approved")
    refused(factory, 'data.decision is "approved", but the votes and rules make it "rejected"')


def test_a_critical_action_approved_by_a_plain_majority() -> None:
    factory, proposal = opened(5, action="terminate")
    for voter, value in zip(factory.ids, ("approve", "reject", "approve", "reject", "approve"), strict=True):
        factory.vote(proposal, voter, value)
    factory.tally(proposal, "approved")
    refused(factory, 'data.decision is "approved", but the votes and rules make it "rejected"')


def test_f_heavy_members_alone_approve_nothing() -> None:
    factory = RecordFactory(4, weights=[100, 1, 1, 1])
    factory.block()
    proposal = factory.propose("node-1")
    factory.vote(proposal, "node-1")
    for voter in factory.ids[1:]:
        factory.vote(proposal, voter, "reject")
    factory.tally(proposal, "approved")
    refused(factory, 'data.decision is "approved", but the votes and rules make it "rejected"')


def test_a_vote_left_out_of_the_record() -> None:
    factory, _ = approved()
    del factory.blocks[1].entries[2]
    refused(factory, r"entry 5 \(tally on prop-0001\): data.approve_count is 4, but the votes")


def test_a_vote_left_out_of_the_record_and_of_the_tally() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:2]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "no_quorum")
    refused(factory, "'prop-0001' is not settled by votes in this block")


# ------------------------------------------------------------------------------------------------------ votes


def test_a_vote_by_someone_who_is_no_member() -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-9")
    refused(
        factory, r"entry 2 \(vote on prop-0001\): data.ballot.signature: 'node-9' is not a member in epoch 0"
    )


def test_a_vote_in_the_name_of_another_member() -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-2", signer="node-1")
    refused(factory, "data.ballot.signature is not a signature of node-2 over this content")


@pytest.mark.parametrize("value", ["approve", "reject"])
@pytest.mark.parametrize("revision", [0, 1])
def test_a_second_vote_of_one_voter(value: str, revision: int) -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-1")
    factory.block()
    factory.vote(proposal, "node-1", value, revision=revision, reason="changed my mind")
    refused(factory, "node-1 has voted on prop-0001 before, and the rules allow no change")


def test_the_same_vote_entry_twice() -> None:
    factory, proposal = opened(rules=CHANGES)
    vote = factory.vote(proposal, "node-1")
    factory.blocks[1].entries.append(deepcopy(vote))
    refused(factory, "data.revision is 0, but this voter's next one is 1")


def test_a_vote_change_where_changes_are_allowed() -> None:
    factory, proposal = opened(rules=CHANGES)
    factory.vote(proposal, "node-1", "reject")
    factory.vote(proposal, "node-1", "abstain", revision=1)
    factory.block()
    factory.vote(proposal, "node-1", "approve", revision=2)
    for voter in ("node-2", "node-3"):
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    verify(factory)


@pytest.mark.parametrize("revision", [1, 3])
def test_a_vote_change_that_skips_a_revision(revision: int) -> None:
    factory, proposal = opened(rules=CHANGES)
    factory.vote(proposal, "node-1")
    factory.vote(proposal, "node-1", "reject", revision=1)
    factory.vote(proposal, "node-1", "approve", revision=revision)
    refused(factory, f"data.revision is {revision}, but this voter's next one is 2")


@pytest.mark.parametrize("rules", [None, CHANGES])
def test_a_first_vote_that_says_it_is_a_change(rules: Rules | None) -> None:
    factory, proposal = opened(rules=rules)
    factory.vote(proposal, "node-1", revision=1)
    refused(factory, "data.revision is 1, but this voter's next one is 0")


def test_a_vote_after_the_decision() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    factory.block()
    factory.vote(proposal, "node-4")
    refused(factory, r"block 2, entry 6 .*proposal_id 'prop-0001' does not name an open proposal")


def test_a_vote_on_a_proposal_that_is_not_there() -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-1").proposal_id = "prop-0002"
    refused(factory, "proposal_id 'prop-0002' does not name an open proposal")


def test_a_vote_carried_over_to_another_proposal() -> None:
    factory, first = opened()
    second = factory.propose("node-2", "terminate")
    factory.vote(second, "node-3", digest=factory.digest(first))
    refused(factory, r"data.digest is \"\w{64}\", but the proposal's digest is")


def test_a_vote_carried_over_with_the_digest_rewritten() -> None:
    factory, first = opened()
    second = factory.propose("node-2", "terminate")
    vote = factory.vote(second, "node-3", digest=factory.digest(first))
    vote.data["digest"] = factory.digest(second).hex()
    refused(factory, "data.ballot.signature is not a signature of node-3 over this content")


@pytest.mark.parametrize("field", ["value", "reason", "voted_ms"])
def test_a_vote_whose_content_was_changed(field: str) -> None:
    factory, proposal = opened()
    other = {"value": "reject", "reason": "for money", "voted_ms": 1}
    factory.vote(proposal, "node-3").data[field] = other[field]
    refused(factory, "data.ballot.signature is not a signature of node-3 over this content")


def test_a_ballot_that_was_seen_vouches_for_nothing_else() -> None:
    """Ballots are remembered, but the same signature with another leaf, voter or root is checked anew."""
    factory, first = opened()
    second = factory.propose("node-2")
    votes = factory.ballot("node-3", [(first, "approve"), (second, "approve")])
    votes[1].data["value"] = "reject"
    refused(factory, "data.ballot.signature is not a signature of node-3 over this content")
    votes[1].data["value"] = "approve"
    verify(factory)
    votes[1].actor_id = "node-4"
    refused(factory, "data.ballot.signature is not a signature of node-4 over this content")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": 1}, r"data.ballot.index must be an integer in 0..0"),
        ({"size": 0}, r"data.ballot.size must be an integer in 1.."),
        ({"size": 2**32}, r"data.ballot.size must be an integer in 1\.\.4294967295"),
        ({"size": 2**32 - 1}, r"data: a path of 0 hashes is too short"),
        ({"size": 2}, r"data: a path of 0 hashes is too short"),
        ({"size": 2, "path": ["00" * 32]}, "data.ballot.signature is not a signature"),
        ({"path": ["00" * 32]}, "data: a path of 1 hashes is too long"),
        ({"path": ["00" * 31]}, r"data.ballot.path\[0\] must be 64 lower-case hex digits"),
        ({"path": "00" * 32}, "data.ballot.path must be an array"),
        ({"signature": "00" * 64}, "data.ballot.signature is not a signature"),
    ],
)
def test_a_ballot_of_another_shape(change: dict[str, object], message: str) -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-3").data["ballot"].update(change)
    refused(factory, message)


# -------------------------------------------------------------------------------------------------- proposals


@pytest.mark.parametrize(
    ("field", "lie"),
    [
        ("action", "terminate"),
        ("target", "agent-8"),
        ("evidence", {"score": 1, "more": True}),
        ("request_id", "request-2"),
        ("window_ms", 1),
        ("expiry_ms", 1),
        ("created_ms", 1),
    ],
)
@pytest.mark.parametrize("forger", [False, True], ids=["careless", "careful"])
def test_the_content_of_a_proposal_is_swapped(field: str, lie: object, forger: bool) -> None:
    factory, _ = opened()
    data = entry_of(factory, "propose").data
    data[field] = lie
    if not forger:
        refused(factory, r"entry 1 \(propose on prop-0001\): data.digest is")
        return
    other = RecordFactory(4)
    other.cluster_id = factory.cluster_id
    other.block()
    fields = {
        key: data[key] for key in ("action", "target", "evidence", "request_id", "window_ms", "expiry_ms")
    }
    other.propose("node-1", **fields)
    if field != "created_ms":
        data["digest"] = entry_of(other, "propose").data["digest"]
        refused(factory, "data.signature is not a signature of node-1 over this content")


def test_a_proposal_by_someone_who_is_no_member() -> None:
    factory = RecordFactory(4)
    factory.block()
    factory.propose("mallory")
    refused(factory, "data.signature: 'mallory' is not a member in epoch 0")


def test_a_proposal_in_the_name_of_another_member() -> None:
    factory, _ = opened()
    entry_of(factory, "propose").actor_id = "node-2"
    refused(factory, "data.digest is")


def test_a_signed_proposal_counts_once() -> None:
    """Else a decision could be repeated for ever by replaying the proposal and its votes."""
    factory, proposal = approved()
    factory.block()
    replayed = deepcopy(entry_of(factory, "propose"))
    replayed.proposal_id = "prop-0002"
    factory.blocks[-1].entries.append(replayed)
    factory.blocks[-1].commands.append(b"again")
    assert proposal == "prop-0001"
    refused(factory, "data.digest is that of prop-0001: a proposal counts once")


@pytest.mark.parametrize("proposal_id", ["prop-0002", "prop-1", "prop-00001", "", "prop-0000"])
def test_proposals_are_numbered_without_gaps(proposal_id: str) -> None:
    factory, _ = opened()
    entry_of(factory, "propose").proposal_id = proposal_id
    refused(factory, "but the next one is prop-0001")


def test_no_more_open_proposals_than_the_rules_allow() -> None:
    factory = RecordFactory(4, rules=Rules(max_active_proposals=2))
    factory.block()
    factory.propose("node-1")
    factory.propose("node-2")
    verify(factory)
    factory.propose("node-3")
    refused(factory, "2 proposals are open already, and the rules allow 2")


def test_a_proposal_without_an_action() -> None:
    factory, _ = opened()
    entry_of(factory, "propose").data["action"] = ""
    refused(factory, "data: action must not be empty")


# ------------------------------------------------------------------------------------------------- executions


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_a_rejected_proposal_is_not_executed(outcome: str) -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter, "reject")
    factory.tally(proposal, "rejected")
    factory.block()
    factory.execute(proposal, "node-1", outcome)
    refused(factory, "prop-0001 is not approved, so it authorises no execution")


def test_an_open_or_expired_proposal_is_not_executed() -> None:
    factory, proposal = opened(expiry_ms=500)
    factory.execute(proposal, "node-1")
    refused(factory, "prop-0001 is not approved, so it authorises no execution")
    factory.blocks[1].entries.pop()
    factory.block()
    factory.tally(proposal, "no_quorum", "expired")
    factory.execute(proposal, "node-1")
    refused(factory, "prop-0001 is not approved, so it authorises no execution")


def executing() -> tuple[RecordFactory, str]:
    factory, proposal = approved()
    factory.block()
    return factory, proposal


def test_an_execution_is_signed_by_a_member_for_this_proposal() -> None:
    factory, proposal = executing()
    factory.execute(proposal, "mallory")
    refused(factory, "data.signature: 'mallory' is not a member")
    factory, proposal = executing()
    factory.execute(proposal, "node-2", signer="node-1")
    refused(factory, "data.signature is not a signature of node-2")
    factory, proposal = executing()
    entry = factory.execute(proposal, "node-2")
    entry.proposal_id = "prop-0002"
    refused(factory, "data.digest is not that of 'prop-0002'")
    factory, proposal = executing()
    entry = factory.execute(proposal, "node-2")
    entry.data["outcome"] = "partial"
    refused(factory, "data.signature is not a signature of node-2")
    entry.data["outcome"] = "magnificent"
    refused(factory, "data.outcome must be one of succeeded, failed, partial")


def test_an_execution_of_a_proposal_that_is_not_there() -> None:
    factory, _ = executing()
    other = RecordFactory(4)
    other.block()
    other.cluster_id = factory.cluster_id
    other.propose("node-3", request_id="elsewhere")
    factory.blocks[-1].entries.append(other.execute("prop-0001", "node-1"))
    factory.blocks[-1].commands.append(b"receipt")
    refused(factory, "data.digest is not that of 'prop-0001'")
    factory.blocks[-1].entries[-1].proposal_id = "prop-0000"
    refused(factory, "data.digest is not that of 'prop-0000'")


def test_a_proposal_is_executed_once() -> None:
    factory, proposal = executing()
    factory.execute(proposal, "node-1")
    verify(factory)
    factory.block()
    factory.execute(proposal, "node-2")
    refused(factory, "prop-0001 was executed already")


def test_a_receipt_counts_once() -> None:
    factory, proposal = executing()
    receipt = factory.execute(proposal, "node-1", "failed")
    factory.blocks[-1].entries.append(deepcopy(receipt))
    refused(factory, "the same receipt is in the record already")


def test_a_proposal_has_at_most_eight_receipts() -> None:
    factory, proposal = executing()
    for attempt in range(8):
        factory.execute(proposal, "node-1", "failed", detail=f"attempt {attempt}")
    verify(factory)
    factory.execute(proposal, "node-1", "failed", detail="once more")
    refused(factory, "prop-0001 has 8 receipts already")


def test_a_ninth_receipt_is_the_first_that_says_succeeded() -> None:
    def full() -> tuple[RecordFactory, str]:
        factory, proposal = executing()
        for attempt in range(8):
            factory.execute(proposal, "node-1", "failed", detail=f"attempt {attempt}")
        factory.execute(proposal, "node-2")
        return factory, proposal

    factory, proposal = full()
    verify(factory)
    factory.execute(proposal, "node-3")
    refused(factory, "prop-0001 was executed already")
    factory, proposal = full()
    factory.execute(proposal, "node-3", "partial")
    refused(factory, "prop-0001 has 8 receipts already")


# ------------------------------------------------------------------- every field, every wrong value, resealed


WRONG: tuple[object, ...] = (
    None,
    True,
    False,
    -1,
    0,
    7,
    2**53 - 1,
    1.5,
    "",
    "x",
    "00" * 32,
    "AA" * 64,
    [],
    {},
    ["x"],
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """All places in an entry's data, except inside evidence, which is free."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        found += [(*path, key)] if key == "evidence" else places(child, (*path, key))
    return found


def holder(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data


def test_every_field_of_every_entry_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value replaced by all types, each key removed, one added; all hashes and commits renewed.

    What comes before the change stays as it is, and what comes after is made when the verifier asks for it.
    """
    # A signature's answer never changes, and here the same ones are asked for thousands of times.
    monkeypatch.setattr(keys, "verify", lru_cache(maxsize=None)(keys.verify))
    factory = small_record()
    record = factory.seal()
    lines, tried = record.lines(), 0
    verify_export(lines, record.genesis)

    def forged(number: int) -> Iterator[bytes]:
        """The lines of the export when block `number` has changed."""
        blocks = record.blocks[:number]
        yield from lines[: 1 + sum(len(block.objects()) for block in blocks)]
        for block in factory.seal_blocks(record.blocks[:number]):
            blocks.append(block)
            yield from (dumps(item) + b"\n" for item in block.objects())
        yield SealedRecord(record.genesis, blocks).lines()[-1]

    for number, block in enumerate(factory.blocks):
        for entry in block.entries:
            original = entry.data
            for path in places(original):
                key = path[-1]
                for wrong in WRONG:
                    entry.data = deepcopy(original)
                    inner = holder(entry.data, path)
                    if type(inner[key]) is type(wrong) and inner[key] == wrong:
                        continue
                    inner[key] = wrong
                    refused_lines(forged(number), record.genesis, r"^line \d+, block \d+, entry \d+")
                    tried += 1
                if isinstance(key, str):
                    entry.data = deepcopy(original)
                    del holder(entry.data, path)[key]
                    refused_lines(forged(number), record.genesis, r"^line \d+, block \d+, entry \d+")
                    entry.data = deepcopy(original)
                    holder(entry.data, path)["zz"] = 1
                    refused_lines(forged(number), record.genesis, r"^line \d+, block \d+, entry \d+")
            entry.data = original
        assert list(forged(number)) == lines, "the forger changes nothing else"
    assert tried > 1000


def test_the_hash_of_an_entry_covers_each_field() -> None:
    """The factory's own check: what it calls a hash is over all that an entry says."""
    entry = small_record().seal().blocks[1].entries[0]
    for key in entry:
        if key != "hash":
            assert entry_hash({**entry, key: "other"}) != entry["hash"]
