"""Forged executors and receipts in records: who acted without being let in, or under another's name."""

from __future__ import annotations

import pytest
from tests.support.epoch_factory import EpochFactory
from tests.support.executor_changes import added_executor, new_executor
from tests.support.record_factory import RecordFactory, dumps

from replication.ledger.verify import ExportReport, VerificationError, verify_certificate, verify_export


def verify(factory: RecordFactory) -> ExportReport:
    record = factory.seal()
    return verify_export(record.lines(), record.genesis)


def refused(factory: RecordFactory, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        verify(factory)


def approved(factory: EpochFactory) -> str:
    """A proposal that everybody approved, in a block of its own."""
    factory.block()
    proposal = factory.propose(factory.ids[0])
    for voter in factory.ids:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    factory.block()
    return proposal


@pytest.fixture
def factory() -> EpochFactory:
    """A record in which fence-1 was let in."""
    factory = EpochFactory(4)
    added_executor(factory)
    return factory


def test_an_executors_receipt_counts(factory: EpochFactory) -> None:
    factory.execute(approved(factory), "fence-1")
    report = verify(factory)
    assert (report.executed, report.epoch) == (1, 1)


def test_a_member_may_still_report(factory: EpochFactory) -> None:
    factory.execute(approved(factory), "node-3")
    assert verify(factory).executed == 1


def test_certificates_follow_the_change(factory: EpochFactory) -> None:
    proposal = approved(factory)
    record = factory.seal()
    report = verify_certificate(dumps(record.certificate(proposal)) + b"\n", record.genesis)
    assert (report.authorises, report.epoch) == (True, 1)


def test_nobody_reports_before_being_let_in() -> None:
    factory = EpochFactory(4)
    new_executor(factory, "fence-1")
    factory.execute(approved(factory), "fence-1")
    refused(factory, "'fence-1' is not a member in epoch 0")


def test_nobody_reports_after_being_removed(factory: EpochFactory) -> None:
    factory.change({"change": "remove-executor", "id": "fence-1"})
    proposal = approved(factory)
    verify(factory)
    factory.execute(proposal, "fence-1")
    refused(factory, "'fence-1' is not a member in epoch 2")


def test_under_the_name_of_an_executor(factory: EpochFactory) -> None:
    new_executor(factory, "other")
    factory.execute(approved(factory), "fence-1", signer="other")
    refused(factory, "data.signature is not a signature of fence-1")


def test_an_executor_does_not_vote(factory: EpochFactory) -> None:
    factory.block()
    proposal = factory.propose("node-1")
    factory.vote(proposal, "fence-1")
    refused(factory, "'fence-1' is not a member in epoch 1")


def test_an_executor_does_not_propose(factory: EpochFactory) -> None:
    factory.block()
    factory.propose("fence-1")
    refused(factory, "'fence-1' is not a member in epoch 1")


def test_a_key_that_is_not_its_own() -> None:
    factory = EpochFactory(4)
    executor = new_executor(factory, "fence-1", prover="thief")
    factory.change({"change": "add-executor", "executor": executor})
    refused(factory, "proof of possession")


@pytest.mark.parametrize("name", ["node-2", "fence-1"])
def test_a_name_that_is_taken(factory: EpochFactory, name: str) -> None:
    key = factory.keys[name]
    executor = new_executor(factory, name)
    factory.keys[name] = key
    factory.change({"change": "add-executor", "executor": executor})
    refused(factory, f"two members have the id {name}")


def test_removing_who_is_none(factory: EpochFactory) -> None:
    factory.change({"change": "remove-executor", "id": "node-2"})
    refused(factory, "'node-2' is not an executor in epoch 1")
