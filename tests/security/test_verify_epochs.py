"""Forged epochs and coordinators in records: members that changed without right, or as nobody approved.

As in the other tests of forgeries, all hashes, links and commits hold (the forger has every key), so that
only the guard in question stands between the lie and a clean report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.epoch_factory import EpochFactory
from tests.support.record_factory import Json, RecordFactory

from replication.identity.keys import SigningKey
from replication.identity.members import prove_possession
from replication.ledger.verify import ExportReport, VerificationError, verify_export

NONCE = bytes(range(32))


def verify(factory: RecordFactory) -> ExportReport:
    record = factory.seal()
    return verify_export(record.lines(), record.genesis)


def refused(factory: RecordFactory, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify(factory)
    assert caught.value.where.startswith("line "), str(caught.value)


def changed(change: Json | None = None, n: int = 4) -> tuple[EpochFactory, Json]:
    """A record in which a change was approved and carried out (adding node-5 unless told), and the change."""
    factory = EpochFactory(n)
    change = change or {"change": "add", "member": factory.new_member("node-5")}
    factory.change(change)
    return factory, change


def decided(factory: EpochFactory) -> None:
    """One more decision, by all who are members by then."""
    factory.block()
    proposal = factory.propose(factory.ids[-1])
    for voter in factory.ids:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")


# -------------------------------------------------------------------------------------------- what is legal


CHANGES: dict[str, Callable[[EpochFactory], Json]] = {
    "add": lambda factory: {"change": "add", "member": factory.new_member("node-6", weight=7)},
    "remove": lambda factory: {"change": "remove", "id": "node-2"},
    "replace": lambda factory: {"change": "replace", "id": "node-2", "member": factory.new_member("node-9")},
    "new key": lambda factory: {
        "change": "replace",
        "id": "node-2",
        "member": factory.new_member("node-2", key="another"),
    },
    "reweight": lambda factory: {"change": "reweight", "id": "node-2", "weight": 3},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_members_change(kind: str) -> None:
    factory = EpochFactory(5)
    factory.change(CHANGES[kind](factory))
    decided(factory)
    report = verify(factory)
    assert (report.epoch, report.events["membership"], report.decisions["approved"]) == (1, 1, 2)


def test_many_epochs_with_views_and_evidence() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(3)
    factory.block()
    factory.evidence("node-2", factory.statement("node-2"), factory.statement("node-2", block="other"))
    for kind in ("add", "reweight", "new key", "remove"):
        if kind != "remove":
            factory.change(CHANGES[kind](factory))
        else:
            factory.change({"change": "remove", "id": "node-1"})
        decided(factory)
        factory.block()
        factory.coordinator(2)
    factory.block(100_000)
    factory.rejoin("node-3", NONCE)
    decided(factory)
    report = verify(factory)
    assert report.epoch == 5
    assert report.faulty == (), "node-2 has another key now"
    assert report.events["coordinator"] == 5


# --------------------------------------------------------------------------------------- the next epoch


def test_an_epoch_that_does_not_begin() -> None:
    factory, _ = changed()
    factory.block()
    factory.blocks[-1].lies["epoch"] = 0
    refused(factory, "header.epoch is 0, but the block before has begun epoch 1")


def test_an_epoch_that_nothing_began() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.epoch = 1
    decided(factory)
    refused(factory, "header.epoch is 1, but nothing has ended epoch 0")


def test_an_epoch_that_begins_in_its_own_block() -> None:
    factory, _ = changed()
    factory.blocks[-1].lies["epoch"] = 1
    refused(factory, "header.epoch is 1, but nothing has ended epoch 0")


def test_old_keys_do_not_commit_in_a_new_epoch() -> None:
    factory = EpochFactory(4)
    old = factory.keys["node-1"]
    factory.change({"change": "replace", "id": "node-1", "member": factory.new_member("node-1", key="new")})
    decided(factory)
    verify(factory)
    factory.blocks[-1].keys["node-1"] = old
    refused(factory, r"certificate.signatures\[0\].signature is not a signature of node-1")


def test_a_removed_member_does_not_sign_any_more() -> None:
    factory, _ = changed({"change": "remove", "id": "node-4"})
    decided(factory)
    verify(factory)
    factory.blocks[-1].signers = ["node-1", "node-2", "node-4"]
    refused(factory, r"certificate.signatures\[2\].signer 'node-4' is not a member in epoch 1")


def test_a_quorum_is_that_of_the_new_members() -> None:
    """Three of four make a commit, four of five are needed."""
    factory, _ = changed()
    factory.blocks[-1].signers = factory.ids[:3]
    decided(factory)
    verify(factory)
    factory.blocks[-1].signers = factory.ids[:3]
    refused(factory, "certificate.signatures has 3, but 4 of 5 members must sign")


@pytest.mark.parametrize("event", ["proposal", "vote", "close"])
def test_nothing_signed_for_an_old_epoch_counts(event: str) -> None:
    factory, _ = changed()
    factory.block()
    proposal = factory.propose("node-1", epoch=0 if event == "proposal" else 1)
    if event == "vote":
        factory.vote(proposal, "node-2", epoch=0)
    if event == "close":
        factory.close(proposal, "node-1", "no_quorum").data["close"]["epoch"] = 0
    refused(factory, "epoch 0 is over: this is epoch 1|data.close.epoch is 0, but the block's epoch is 1")


def test_old_votes_of_gone_keys_do_not_count() -> None:
    factory = EpochFactory(5)
    factory.block()
    proposal = factory.propose("node-1", "terminate")
    for voter in ("node-1", "node-2", "node-3"):
        factory.vote(proposal, voter, "reject" if voter == "node-3" else "approve")
    factory.change({"change": "remove", "id": "node-2"})
    factory.block()
    factory.vote(proposal, "node-4")
    verify(factory)
    factory.vote(proposal, "node-5")
    entry = factory.tally(proposal, "approved")
    verify(factory)
    entry.data["votes"]["node-2"] = "approve"
    refused(factory, "data.votes is ")


def test_what_a_new_electorate_settles_is_tallied_at_once() -> None:
    factory = EpochFactory(5)
    factory.block()
    proposal = factory.propose("node-1", "terminate")
    for voter in factory.ids[:4]:
        factory.vote(proposal, voter, "reject" if voter == "node-4" else "approve")
    verify(factory)
    factory.change({"change": "remove", "id": "node-5"})
    verify(factory)
    factory.block()
    refused(factory, f"{proposal} was settled by this block's votes, but is not tallied in it")
    factory.tally(proposal, "approved")
    verify(factory)


# --------------------------------------------------------------------------------------------- approvals


def test_a_change_without_a_proposal() -> None:
    factory, _ = changed()
    factory.blocks[-1].entries[-1].proposal_id = ""
    refused(factory, "data.digest is not that of '', approved in this epoch")


def test_a_change_that_was_not_approved() -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    proposal = factory.propose("node-1", "membership", evidence=change)
    for voter in factory.ids:
        factory.vote(proposal, voter, "reject")
    factory.tally(proposal, "rejected")
    factory.block()
    factory.membership(proposal, change)
    refused(
        factory, f"data.digest is not that of '{proposal}', approved in this epoch, for a change of members"
    )


def test_a_change_that_is_still_open() -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    proposal = factory.propose("node-1", "membership", evidence=change)
    factory.block()
    factory.membership(proposal, change)
    refused(factory, "approved in this epoch, for a change of members")


def test_an_approval_of_something_else() -> None:
    factory = EpochFactory(4)
    approved = {"change": "remove", "id": "node-3"}
    factory.block()
    proposal = factory.approve(approved)
    factory.block()
    factory.membership(proposal, {"change": "remove", "id": "node-4"})
    refused(factory, f"data.change is not what {proposal} approves")


def test_an_approval_for_another_purpose() -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    proposal = factory.propose("node-1", "quarantine", evidence=change)
    for voter in factory.ids:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    factory.block()
    factory.membership(proposal, change)
    refused(factory, "approved in this epoch, for a change of members")


def test_an_approval_by_weight_alone() -> None:
    factory = EpochFactory(4, weights=[5, 5, 1, 1])
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    proposal = factory.propose("node-1", "membership", "", evidence=change)
    for voter in factory.ids:
        factory.vote(proposal, voter, "approve" if voter in ("node-1", "node-2") else "reject")
    factory.tally(proposal, "approved")
    verify(factory)
    factory.block()
    factory.membership(proposal, change)
    refused(factory, f"{proposal} has 2 approvals, but a change of members needs 3")


def test_an_approval_is_used_once_and_in_its_epoch() -> None:
    factory, change = changed({"change": "reweight", "id": "node-4", "weight": 2})
    factory.change({"change": "reweight", "id": "node-4", "weight": 3})
    factory.block()
    factory.membership("prop-0001", change)
    refused(
        factory, "data.digest is not that of 'prop-0001', approved in this epoch, for a change of members"
    )


def test_a_change_that_its_submitter_did_not_sign() -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    proposal = factory.approve(change)
    factory.block()
    factory.membership(proposal, change, signer="node-2")
    refused(factory, "data.signature is not a signature of node-1 over this content")


def test_a_change_signed_for_another_epoch() -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    proposal = factory.approve(change)
    factory.block()
    factory.membership(proposal, change, epoch=1)
    refused(factory, "data.epoch is 1, but the block's epoch is 0")


@pytest.mark.parametrize("what", ["vote", "proposal", "second change", "coordinator"])
def test_a_change_is_alone_in_its_block(what: str) -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    open_one = factory.propose("node-2")
    proposal = factory.approve(change)
    for first in (True, False):
        twin = factory.twin()
        twin.block()
        if not first:
            twin.membership(proposal, change)
        if what == "vote":
            twin.vote(open_one, "node-1")
        elif what == "proposal":
            twin.propose("node-1")
        elif what == "second change":
            twin.rejoin("node-2", NONCE)
        else:
            twin.coordinator(1)
        if first:
            twin.membership(proposal, change)
        refused(twin, "the only command of its block|so no other command may be in it")


def test_what_is_due_may_stand_before_a_change() -> None:
    factory = EpochFactory(4)
    change = {"change": "remove", "id": "node-4"}
    factory.block()
    due = factory.propose("node-2", window_ms=500)
    proposal = factory.approve(change)
    factory.block()
    factory.tally(due, "no_quorum", "window")
    factory.membership(proposal, change)
    decided(factory)
    verify(factory)


# ------------------------------------------------------------------------------------ impossible changes


def possession_of_another(factory: EpochFactory) -> Json:
    member = factory.new_member("node-5")
    stranger = SigningKey.from_seed(bytes(32))
    member["possession"] = prove_possession(stranger, "node-5", factory.genesis.nonce).hex()
    return {"change": "add", "member": member}


def replayed_possession(factory: EpochFactory) -> Json:
    member = factory.new_member("node-5")
    key = factory.known_key(member)
    member["possession"] = prove_possession(key, "node-5", bytes(32)).hex()
    return {"change": "add", "member": member}


IMPOSSIBLE: list[tuple[Callable[[EpochFactory], Any], str]] = [
    (
        lambda f: {"change": "add", "member": f.new_member("node-2", address="a:1")},
        "node-2 is a member already",
    ),
    (lambda f: {"change": "remove", "id": "node-9"}, "'node-9' is not a member in epoch 0"),
    (lambda f: {"change": "reweight", "id": "node-2", "weight": 1}, "data.change changes nothing"),
    (lambda f: {"change": "reweight", "id": "node-2", "weight": 0}, "weight must be an integer in 1"),
    (
        lambda f: {"change": "add", "member": f.new_member("node-5", address="host-node-1:7000")},
        "is that of another member",
    ),
    (lambda f: {"change": "add", "member": f.new_member("node-5", address="no port")}, "must be host:port"),
    (possession_of_another, "the proof of possession of member node-5 does not verify"),
    (replayed_possession, "the proof of possession of member node-5 does not verify"),
    (
        lambda f: {"change": "add", "member": {**f.new_member("node-5"), "public_key": "01" + "00" * 31}},
        "is refused",
    ),
    (
        lambda f: {"change": "replace", "id": "node-2", "member": f.new_member("node-3", key="k")},
        "two members have the id node-3",
    ),
    (lambda f: {"change": "swap", "id": "node-2"}, "data.change.change must be one of"),
    (lambda f: {"change": ["remove"], "id": "node-2"}, "data.change.change must be one of"),
    (lambda f: {"change": "remove", "id": "node-2", "why": "x"}, 'unknown "why" of data.change'),
    (lambda f: {"change": "add", "member": {**f.new_member("node-5"), "admin": True}}, 'unknown "admin"'),
    (lambda f: {"change": "rejoin", "id": "node-2", "nonce": NONCE.hex()}, "rejoins without a proposal"),
]


@pytest.mark.parametrize(("make", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_changes_that_cannot_be_made(make: Callable[[EpochFactory], Any], message: str) -> None:
    factory = EpochFactory(4)
    change = make(factory)
    factory.block()
    proposal = factory.approve(change)
    factory.block()
    factory.membership(proposal, change)
    refused(factory, message)


# ---------------------------------------------------------------------------------------------- rejoining


def test_a_rejoin_that_the_member_did_not_sign() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.rejoin("node-2", NONCE, signer="node-3")
    refused(factory, "data.signature is not a signature of node-2 over this content")


def test_a_rejoin_of_another() -> None:
    factory = EpochFactory(4)
    factory.block()
    entry = factory.rejoin("node-2", NONCE)
    entry.data["change"]["id"] = "node-3"
    refused(factory, 'data.change.id is "node-3", but a member rejoins by itself')


def test_a_rejoin_on_a_proposal() -> None:
    factory = EpochFactory(4)
    factory.block()
    proposal = factory.propose("node-2")
    factory.block()
    factory.rejoin("node-2", NONCE).proposal_id = proposal
    refused(factory, "proposal_id must be empty: a member rejoins without a proposal")


def test_a_stranger_does_not_rejoin() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.rejoin("node-9", NONCE)
    refused(factory, "'node-9' is not a member in epoch 0")


def test_rejoins_too_soon_or_with_the_same_nonce() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.rejoin("node-2", NONCE)
    twin = factory.twin()
    twin.block(59_999)
    twin.rejoin("node-2", bytes(32))
    refused(twin, "node-2 has rejoined 59999 ms before: that is too soon")
    twin = factory.twin()
    twin.block(60_000)
    twin.rejoin("node-2", bytes(32))
    verify(twin)
    factory.block(60_000)
    factory.rejoin("node-2", NONCE)
    refused(factory, "data.change.nonce is that of the incarnation of node-2 already")


def test_a_proven_liar_does_not_rejoin() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.evidence("node-2", factory.statement("node-2"), factory.statement("node-2", block="other"))
    factory.block()
    factory.rejoin("node-2", NONCE)
    refused(factory, "node-2 is proven faulty, so it cannot rejoin")


# ----------------------------------------------------------------------------------------- coordinators


def test_a_coordinator_out_of_turn() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(2, "node-2")
    refused(factory, "actor_id is 'node-2', but the coordinator of view 2 is node-3")


def test_a_coordinator_that_did_not_sign() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(2, signer="node-1")
    refused(factory, "data.signature is not a signature of node-3 over this content")


def test_a_timeout_certificate_other_than_signed() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(2, tc_digest="00" * 32)
    refused(factory, "data.signature is not a signature of node-3 over this content")


@pytest.mark.parametrize("second", [2, 1])
def test_views_only_grow(second: int) -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(2)
    factory.block()
    factory.coordinator(second)
    refused(factory, f"data.view is {second}, but view 2 is on record already")


def test_view_0_needs_no_opening() -> None:
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(0)
    refused(factory, "data.view must be an integer in 1")


def test_a_coordinator_on_a_proposal() -> None:
    factory = EpochFactory(4)
    factory.block()
    proposal = factory.propose("node-1")
    factory.coordinator(1).proposal_id = proposal
    refused(factory, "the coordinator of view 1 is node-2")


def test_a_block_from_before_the_view_on_record() -> None:
    """A block certified in view 2 cannot hold, or follow, the opening of view 3."""
    factory = EpochFactory(4)
    factory.block()
    factory.coordinator(3)
    factory.blocks[-1].view = 2
    refused(factory, "was certified in view 2, but it is on record that view 3 had begun")
    factory.blocks[-1].view = 4
    verify(factory)
    factory.block().view = 0
    refused(factory, "was certified in view 0, but it is on record that view 3 had begun")
