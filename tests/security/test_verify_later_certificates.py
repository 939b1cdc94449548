"""Forged certificates of later epochs, and of decisions with excluded votes.

A certificate leads from the members of the genesis file to those of its epoch, link by link. Whoever forges
one does not have the keys of a quorum of honest members; here, as everywhere, it has them all, so that each
guard stands alone.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from tests.support.epoch_factory import EpochFactory
from tests.support.record_factory import Json, dumps, entry_hash, header_hash

from replication.identity.genesis import Genesis
from replication.identity.merkle import merkle_root
from replication.ledger.verify import CertificateReport, VerificationError, verify_certificate


def verify(certificate: Json, genesis: Genesis) -> CertificateReport:
    return verify_certificate(dumps(certificate) + b"\n", genesis)


def refused(certificate: Json, genesis: Genesis, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify(certificate, genesis)
    assert caught.value.where.startswith("certificate"), str(caught.value)


def decide(factory: EpochFactory) -> str:
    factory.block()
    proposal = factory.propose(factory.ids[0])
    for voter in factory.ids:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    return proposal


def later() -> tuple[EpochFactory, str]:
    """node-5 came in, node-1 got another key, node-3 rejoined; then a decision in epoch 3."""
    factory = EpochFactory(4)
    factory.change({"change": "add", "member": factory.new_member("node-5")})
    factory.change({"change": "replace", "id": "node-1", "member": factory.new_member("node-1", key="new")})
    factory.block()
    factory.rejoin("node-3", bytes(range(32)))
    return factory, decide(factory)


def made(factory: EpochFactory, proposal: str) -> Json:
    return factory.seal().certificate(proposal)


# ---------------------------------------------------------------------------------------------- later epochs


def test_a_certificate_of_a_later_epoch() -> None:
    factory, proposal = later()
    report = verify(made(factory, proposal), factory.genesis)
    assert (report.epoch, report.authorises, report.signers) == (3, True, tuple(factory.ids))


def test_epoch_0_needs_no_links() -> None:
    factory = EpochFactory(4)
    proposal = decide(factory)
    certificate = made(factory, proposal)
    assert "epochs" not in certificate
    assert verify(certificate, factory.genesis).epoch == 0
    refused({**certificate, "epochs": []}, factory.genesis, "epochs has 0 links, but header.epoch is 0")
    link = made(*later())["epochs"][0]
    refused({**certificate, "epochs": [link]}, factory.genesis, "epochs has 1 links, but header.epoch is 0")


def test_missing_links() -> None:
    factory, proposal = later()
    certificate = made(factory, proposal)
    for index in range(3):
        short = deepcopy(certificate)
        del short["epochs"][index]
        refused(short, factory.genesis, "epochs has 2 links, but header.epoch is 3")
    without = {key: value for key, value in certificate.items() if key != "epochs"}
    refused(without, factory.genesis, "epoch 3 has not begun: nothing has ended epoch 0")


def test_links_out_of_order() -> None:
    factory, proposal = later()
    certificate = made(factory, proposal)
    certificate["epochs"][0], certificate["epochs"][1] = certificate["epochs"][1], certificate["epochs"][0]
    refused(certificate, factory.genesis, r"certificate, epochs\[0\]: header.epoch is 1, not 0")


def test_a_link_of_another_record() -> None:
    """The members of epoch 1 are vouched for by those of epoch 0, not by anybody."""
    factory, proposal = later()
    certificate = made(factory, proposal)
    stranger = EpochFactory(4, seed=1)
    stranger.change({"change": "add", "member": stranger.new_member("node-5")})
    stranger.block()
    certificate["epochs"][0] = made(stranger, decide(stranger))["epochs"][0]
    refused(
        certificate, factory.genesis, r"epochs\[0\]: header.cluster_id is .*, but the genesis file makes it"
    )


def test_a_link_that_no_quorum_signed() -> None:
    factory, proposal = later()
    certificate = made(factory, proposal)
    certificate["epochs"][1]["commit"]["signatures"].pop()
    del certificate["epochs"][1]["commit"]["signatures"][0]
    refused(
        certificate, factory.genesis, r"epochs\[1\]: certificate.signatures has 3, but 4 of 5 members must"
    )


def test_a_link_signed_by_members_to_be() -> None:
    """The new members cannot vouch for themselves."""
    factory, proposal = later()
    certificate = made(factory, proposal)
    link = certificate["epochs"][0]
    link["commit"] = factory.commit(link["header"], signers=["node-2", "node-3", "node-4", "node-5"])
    refused(certificate, factory.genesis, r"epochs\[0\]: .*'node-5' is not a member in epoch 0")
    link = certificate["epochs"][1]
    refreshed = made(factory, proposal)
    refreshed["epochs"][1]["commit"] = factory.commit(link["header"])
    refused(
        refreshed, factory.genesis, r"epochs\[1\]: .*signatures\[0\].signature is not a signature of node-1"
    )


def resealed(certificate: Json, factory: EpochFactory, index: int, change: Callable[[Json], None]) -> Json:
    """The certificate with the entry of a link changed, and that block sealed anew by its members."""
    link = certificate["epochs"][index]
    change(link["entry"])
    link["entry"]["hash"] = entry_hash({key: value for key, value in link["entry"].items() if key != "hash"})
    leaf = bytes.fromhex(link["entry"]["hash"])
    link["header"].update(audit_head=leaf.hex(), entries_root=merkle_root([leaf]).hex())
    height = link["header"]["height"]
    block = factory.blocks[height]
    link["commit"] = factory.commit(link["header"], signers=list(block.members), at=block.keys)
    link["inclusion"] = {"index": 0, "size": 1, "path": []}
    assert header_hash(link["header"])
    return certificate


LIES: list[tuple[Callable[[Json], None], str]] = [
    (lambda e: e.update(event_type="evidence"), "entry.event_type is 'evidence', not membership"),
    (lambda e: e["data"].update(epoch=1), "data.epoch is 1, but the block's epoch is 0"),
    (lambda e: e.update(timestamp=e["timestamp"] + 1), "entry.timestamp is not the time of its block"),
    (lambda e: e.update(actor_id="node-2"), "data.signature is not a signature of node-2"),
    (lambda e: e["data"]["change"]["member"].update(weight=9), "data.signature is not a signature of node-1"),
    (lambda e: e["data"].update(digest="00" * 32), "data.signature is not a signature of node-1"),
    (lambda e: e.update(sequence=e["sequence"] + 1), "entry.sequence is"),
]


@pytest.mark.parametrize(("lie", "message"), LIES, ids=[message for _, message in LIES])
def test_lies_in_a_link(lie: Callable[[Json], None], message: str) -> None:
    factory, proposal = later()
    verify(resealed(made(factory, proposal), factory, 0, lambda entry: None), factory.genesis)
    refused(resealed(made(factory, proposal), factory, 0, lie), factory.genesis, r"epochs\[0\]: .*" + message)


def test_a_link_without_its_entry() -> None:
    factory, proposal = later()
    certificate = made(factory, proposal)
    certificate["epochs"][0]["inclusion"]["path"] = [bytes(32).hex()]
    refused(certificate, factory.genesis, r"epochs\[0\]: inclusion")
    certificate = made(factory, proposal)
    certificate["epochs"][0]["entry"] = certificate["epochs"][1]["entry"]
    refused(certificate, factory.genesis, r"epochs\[0\]: entry.timestamp is not the time of its")


def test_a_decision_from_before_its_epoch() -> None:
    """A block that claims an epoch, but a height at which it had not begun."""
    factory, proposal = later()
    certificate = made(factory, proposal)
    certificate["header"]["height"] = 5
    certificate["commit"] = factory.commit(certificate["header"])
    refused(certificate, factory.genesis, "header.height is 5, but epoch 3 begins above 5")


def test_the_first_block_of_an_epoch_follows_the_last_of_the_one_before() -> None:
    factory, proposal = later()
    certificate = made(factory, proposal)
    certificate["header"]["parent"] = bytes(32).hex()
    certificate["commit"] = factory.commit(certificate["header"])
    refused(certificate, factory.genesis, "header.parent is not the hash of the block that began the epoch")


def test_the_old_members_decide_nothing() -> None:
    """Those of epoch 0 sign a decision of their own in epoch 3."""
    factory, proposal = later()
    certificate = made(factory, proposal)
    certificate["commit"] = factory.commit(certificate["header"], signers=factory.ids[:3])
    refused(certificate, factory.genesis, "certificate.signatures has 3, but 4 of 5 members must sign")
    keys = factory.blocks[1].keys
    certificate["commit"] = factory.commit(certificate["header"], at=keys)
    refused(certificate, factory.genesis, r"signatures\[0\].signature is not a signature of node-1")


# ------------------------------------------------------------------------------------- votes across epochs


def across(change: str = "reweight") -> tuple[EpochFactory, str]:
    """A proposal of epoch 0 with two votes, decided in epoch 1; node-4 is reweighted or gets another key."""
    factory = EpochFactory(5)
    factory.block()
    proposal = factory.propose("node-2", "terminate")
    factory.vote(proposal, "node-4", "reject")
    factory.vote(proposal, "node-1")
    if change == "reweight":
        factory.change({"change": "reweight", "id": "node-4", "weight": 1_000})
    else:
        member = factory.new_member("node-4", key="new")
        factory.change({"change": "replace", "id": "node-4", "member": member})
    factory.block()
    for voter in ("node-2", "node-3"):
        factory.vote(proposal, voter)
    return factory, proposal


def test_votes_of_an_earlier_epoch_count_with_the_weights_of_the_later() -> None:
    factory, proposal = across()
    factory.vote(proposal, "node-5")
    factory.tally(proposal, "rejected")
    report = verify(made(factory, proposal), factory.genesis)
    assert (report.decision, report.epoch, len(report.votes)) == ("rejected", 1, 5)


def test_a_vote_of_a_key_that_is_gone() -> None:
    factory, proposal = across("key")
    factory.vote(proposal, "node-5")
    entry = factory.tally(proposal, "approved")
    record = factory.seal()
    certificate = record.certificate(proposal)
    assert verify(certificate, factory.genesis).authorises
    old_vote = next(item for block in record.blocks for item in block.entries if item["actor_id"] == "node-4")
    entry.data.update(reject_count=1, reject_weight=1)
    entry.data["votes"]["node-4"] = "reject"
    certificate = made(factory, proposal)
    certificate["votes"].insert(0, old_vote)
    refused(certificate, factory.genesis, r"votes\[0\]: .*node-4 or its key has left in epoch 1")


def test_a_vote_that_claims_another_epoch() -> None:
    factory, proposal = across()
    factory.vote(proposal, "node-5", epoch=0)
    factory.tally(proposal, "rejected")
    refused(made(factory, proposal), factory.genesis, "data.epoch is 0, but sequence .* is not of that epoch")


def test_a_close_of_an_earlier_epoch() -> None:
    factory, proposal = across()
    factory.close(proposal, "node-2", "no_quorum").data["close"]["epoch"] = 0
    refused(made(factory, proposal), factory.genesis, "data.close.epoch is 0, but the block's epoch is 1")


def test_a_tally_that_only_the_new_electorate_settles() -> None:
    factory = EpochFactory(5)
    factory.block()
    proposal = factory.propose("node-1", "terminate")
    for voter in factory.ids[:4]:
        factory.vote(proposal, voter, "reject" if voter == "node-4" else "approve")
    factory.change({"change": "remove", "id": "node-5"})
    factory.block()
    twin = factory.twin()
    factory.tally(proposal, "approved")
    assert verify(made(factory, proposal), factory.genesis).authorises
    twin.block()
    twin.tally(proposal, "approved")
    refused(made(twin, proposal), twin.genesis, "the votes before this block had settled it")


# ------------------------------------------------------------------------------------------------ evidence


def convicted() -> tuple[EpochFactory, str]:
    """node-4 votes, is proven faulty, and the other three decide."""
    factory = EpochFactory(4)
    factory.block()
    proposal = factory.propose("node-1", "terminate")
    factory.vote(proposal, "node-4", "reject")
    factory.block()
    factory.evidence("node-4", factory.statement("node-4"), factory.statement("node-4", block="other"))
    factory.block()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    return factory, proposal


def test_a_certificate_with_an_excluded_vote() -> None:
    factory, proposal = convicted()
    report = verify(made(factory, proposal), factory.genesis)
    assert (report.authorises, report.excluded, report.votes["node-4"]) == (True, ("node-4",), "reject")


def test_an_exclusion_without_evidence() -> None:
    factory, proposal = convicted()
    certificate = made(factory, proposal)
    del certificate["evidence"]
    refused(certificate, factory.genesis, "data.reject_count is 0, but the votes and rules make it 1")
    certificate["evidence"] = []
    refused(certificate, factory.genesis, "evidence is empty, and then the key must not be there")


def rehashed(entry: Json) -> Json:
    return {**entry, "hash": entry_hash({key: value for key, value in entry.items() if key != "hash"})}


EVIDENCE_LIES: list[tuple[Callable[[Json], None], str]] = [
    (lambda e: e["data"].update(accused="node-3"), "data.first.signature is not a signature of node-3"),
    (lambda e: e["data"].update(second=e["data"]["first"]), "do not contradict each other"),
    (lambda e: e.update(event_type="vote"), "event_type is 'vote', not evidence"),
    (lambda e: e.update(sequence=99), "does not fit header.time_ms"),
    (lambda e: e.update(sequence=1), 'data.excluded is {"node-4": 3}, but by the evidence on record'),
    (lambda e: e.update(timestamp=e["timestamp"] + 100), "does not fit header.time_ms"),
]


@pytest.mark.parametrize(("lie", "message"), EVIDENCE_LIES, ids=[message for _, message in EVIDENCE_LIES])
def test_lies_about_evidence(lie: Callable[[Json], None], message: str) -> None:
    factory, proposal = convicted()
    certificate = made(factory, proposal)
    lie(certificate["evidence"][0])
    certificate["evidence"][0] = rehashed(certificate["evidence"][0])
    refused(certificate, factory.genesis, message)


def test_evidence_against_nobody_here_or_twice() -> None:
    factory, proposal = convicted()
    certificate = made(factory, proposal)
    certificate["evidence"] *= 2
    refused(certificate, factory.genesis, r"evidence\[1\]: .*or is there twice")
    stranger = deepcopy(certificate["evidence"][0])
    stranger["data"].update(
        accused="node-9", first=factory.statement("node-9"), second=factory.statement("node-9", block="x")
    )
    certificate["evidence"] = [rehashed(stranger)]
    refused(certificate, factory.genesis, "'node-9' is not a member in epoch 0")


def test_evidence_that_ended_with_the_key() -> None:
    """node-4 lied with a key that it no longer has; its new votes count."""
    factory = EpochFactory(4)
    factory.block()
    lie = factory.evidence("node-4", factory.statement("node-4"), factory.statement("node-4", block="other"))
    factory.change({"change": "replace", "id": "node-4", "member": factory.new_member("node-4", key="new")})
    proposal = decide(factory)
    certificate = made(factory, proposal)
    assert verify(certificate, factory.genesis).excluded == ()
    factory.faulty["node-4"] = lie
    tally = next(entry for entry in reversed(factory.blocks[-1].entries) if entry.event_type == "tally")
    tally.data = factory.tally_data(proposal, "approved", "settled")
    refused(made(factory, proposal), factory.genesis, "node-4 or its key has left in epoch 1")


def test_evidence_in_the_block_does_not_reach_what_was_due() -> None:
    """What is due is tallied before anything else of the block happens."""
    factory = EpochFactory(4)
    factory.block()
    proposal = factory.propose("node-1", window_ms=500)
    factory.vote(proposal, "node-4")
    factory.block()
    factory.evidence("node-4", factory.statement("node-4"), factory.statement("node-4", block="other"))
    factory.tally(proposal, "no_quorum", "window")
    refused(
        made(factory, proposal),
        factory.genesis,
        "votes or evidence stand in the tally's block, but what is due comes before them there",
    )


def test_every_key_of_a_later_certificate_is_checked() -> None:
    """A changed value anywhere in the links or the evidence is found."""
    factory, _ = convicted()
    factory.change({"change": "add", "member": factory.new_member("node-5")})
    proposal = decide(factory)
    certificate = made(factory, proposal)
    assert verify(certificate, factory.genesis).excluded == ("node-4",)
    for path in _paths(certificate["epochs"], ("epochs",)) + _paths(certificate["evidence"], ("evidence",)):
        wrongs: tuple[object, ...] = (None, True, -1, "x", [], {})
        for wrong in wrongs:
            changed: Any = deepcopy(certificate)
            target = changed
            for step in path[:-1]:
                target = target[step]
            if target[path[-1]] == wrong and type(target[path[-1]]) is type(wrong):
                continue
            target[path[-1]] = wrong
            with pytest.raises(VerificationError):
                verify(changed, factory.genesis)


def _paths(value: object, path: tuple[object, ...]) -> list[tuple[object, ...]]:
    """All places in a JSON value."""
    found: list[tuple[object, ...]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found += [(*path, key), *_paths(child, (*path, key))]
    return found
