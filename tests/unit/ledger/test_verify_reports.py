"""Good records and certificates, and what the reports say about them."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import FrozenInstanceError

import pytest
from tests.support.record_factory import START_MS, RecordFactory, dumps, rich_record, small_record

from replication.identity import keys
from replication.identity.genesis import Rules
from replication.ledger.verify import (
    VerificationError,
    read_lines,
    verify_certificate,
    verify_export,
)

OUTCOMES = {
    "prop-0001": ("approved", "settled"),
    "prop-0002": ("rejected", "settled"),
    "prop-0003": ("rejected", "settled"),
    "prop-0004": ("no_quorum", "window"),
    "prop-0005": ("no_quorum", "expired"),
    "prop-0006": ("no_quorum", "closed"),
    "prop-0007": ("approved", "closed"),
    "prop-0008": ("approved", "window"),
    "prop-0009": ("rejected", "settled"),
    "prop-0010": ("no_quorum", "settled"),
    "prop-0011": ("no_quorum", "expired"),
}


@pytest.mark.parametrize("n", [4, 5])
def test_a_good_record(n: int) -> None:
    factory = rich_record(n)
    record = factory.seal()
    report = verify_export(read_lines(io.BytesIO(record.export())), factory.genesis)
    last = record.blocks[-1].header
    assert report.cluster_id == factory.cluster_id
    assert (report.height, report.blocks, report.time_ms) == (6, 7, START_MS + 6351)
    assert report.block_hash.hex() == record.blocks[-1].hash
    assert report.head == report.audit_head == bytes.fromhex(last["audit_head"])
    assert report.audit_size == report.entries == last["audit_size"]
    assert report.decisions == {"approved": 3, "rejected": 3, "no_quorum": 3, "expired": 2}
    assert (report.proposals, report.open_proposals, report.executed) == (12, 1, 1)
    votes = {4: 26, 5: 30}[n]
    assert report.events == {
        "genesis": 1,
        "propose": 12,
        "vote": votes,
        "tally": 9,
        "expired": 2,
        "execute": 3,
    }
    with pytest.raises(FrozenInstanceError):
        report.height = 7  # type: ignore[misc]


def test_each_signature_is_verified_once() -> None:
    """14 events: 4 proposals, 3 ballots with 4 votes, a receipt and a close; 4 commits of 3."""
    record = small_record().seal()
    before = keys.verifications.count
    report = verify_export(record.lines(), record.genesis)
    assert report.signatures == keys.verifications.count - before == 4 + 3 + 1 + 1 + 4 * 3


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("proposal_id", OUTCOMES)
def test_good_certificates(n: int, proposal_id: str) -> None:
    factory = rich_record(n)
    certificate = factory.seal().certificate(proposal_id)
    report = verify_certificate(dumps(certificate) + b"\n", factory.genesis)
    decision, cause = OUTCOMES[proposal_id]
    assert (report.decision, report.cause) == (decision, cause)
    assert report.authorises is (decision == "approved")
    assert report.expired is (cause == "expired")
    assert report.votes == factory.votes[proposal_id]
    data = factory.proposals[proposal_id].data
    assert report.digest.hex() == data["digest"]
    assert (report.action, report.target, report.evidence) == (
        data["action"],
        data["target"],
        data["evidence"],
    )
    assert (report.proposal_id, report.proposer) == (proposal_id, factory.proposals[proposal_id].actor_id)
    assert (report.height, report.time_ms) == (
        certificate["header"]["height"],
        certificate["header"]["time_ms"],
    )
    assert report.block_hash.hex() == certificate["commit"]["block_hash"]
    assert report.tally_sequence == certificate["tally"]["sequence"]
    assert report.signers == tuple(factory.ids)
    assert report.signatures == n + 1 + len(report.votes) + (cause == "closed")


def test_the_genesis_alone_is_a_record() -> None:
    factory = RecordFactory(1)
    report = verify_export(factory.seal().lines(), factory.genesis)
    assert (report.height, report.entries, report.signatures, report.proposals) == (0, 1, 0, 0)


def test_one_member_decides_alone() -> None:
    factory = RecordFactory(1)
    factory.block()
    proposal = factory.propose("node-1")
    factory.vote(proposal, "node-1")
    factory.tally(proposal, "approved")
    assert verify_certificate(dumps(factory.seal().certificate(proposal)) + b"\n", factory.genesis).authorises
    assert verify_export(factory.seal().lines(), factory.genesis).decisions["approved"] == 1


def test_weights_and_thresholds_of_the_genesis_file_count() -> None:
    rules = Rules(default_window_ms=0, majority_threshold=Rules().supermajority_threshold)
    factory = RecordFactory(4, weights=[3, 3, 2, 1], rules=rules)
    factory.block()
    proposal = factory.propose("node-4")
    for voter, value in zip(factory.ids, ("approve", "approve", "reject", "reject"), strict=True):
        factory.vote(proposal, voter, value)
    factory.tally(proposal, "approved")
    assert verify_export(factory.seal().lines(), factory.genesis).decisions["approved"] == 1


def test_a_record_may_end_at_any_block() -> None:
    """A whole record that stops earlier is not a forgery; the report's height tells how far it reaches."""
    factory = rich_record(4)
    while factory.blocks:
        report = verify_export(factory.seal().lines(), factory.genesis)
        assert report.height == len(factory.blocks) - 1
        factory.blocks.pop()


def test_progress_is_told_after_each_block() -> None:
    record = small_record().seal()
    seen: list[tuple[int, int]] = []
    verify_export(record.lines(), record.genesis, lambda height, total: seen.append((height, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_error_says_what_and_where() -> None:
    error = VerificationError("data.value must be a string").at("entry 5").at("line 7")
    assert str(error) == "line 7, entry 5: data.value must be a string"
    assert (error.where, error.problem, error.reason) == (
        "line 7, entry 5",
        "data.value must be a string",
        "VERIFICATION_FAILED",
    )
    assert str(VerificationError("bad")) == "bad"


def test_memory_does_not_grow_with_votes_texts_and_deadlines_of_the_past() -> None:
    """Three times the history: a few hundred bytes more for each finished proposal."""

    def peak(proposals: int) -> int:
        factory = RecordFactory(4)
        for number in range(proposals):
            factory.block()
            proposal = factory.propose("node-1", evidence={"log": "x" * 4000, "n": number}, window_ms=10**9)
            for voter in factory.ids[:3]:
                factory.vote(proposal, voter, reason="y" * 500)
            factory.tally(proposal, "approved")
        for block in factory.blocks:
            block.signers = factory.ids[:3]
        export = factory.seal().export()
        tracemalloc.start()
        try:
            verify_export(read_lines(io.BytesIO(export)), factory.genesis)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    few, many = peak(100), peak(300)
    assert (many - few) / 200 < 600
