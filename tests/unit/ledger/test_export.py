"""Exports and certificates of the store: byte for byte what they must be, and accepted by the verifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, fill, parts
from tests.support.record_factory import dumps

from replication.ledger.store import Store
from replication.ledger.verify import VerificationError, verify_certificate, verify_export


@pytest.fixture
def empty(tmp_path: Path, cluster: LedgerCluster) -> Iterator[Store]:
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    yield store
    store.close()


@pytest.fixture
def store(empty: Store, blocks: list[Part]) -> Store:
    fill(empty, blocks)
    return empty


def test_the_export_is_what_a_second_writer_writes(store: Store, cluster: LedgerCluster) -> None:
    assert b"".join(store.export_lines()) == cluster.record.export()


def test_the_export_verifies_after_every_block(
    empty: Store, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    for part in blocks:
        fill(empty, [part])
        report = verify_export(empty.export_lines(), cluster.genesis)
        totals = empty.totals()
        assert (report.height, report.audit_size, report.head) == (
            totals.height,
            totals.audit_size,
            totals.audit_head,
        )
        assert report.block_hash == part[0].hash


def test_an_export_in_parts_is_the_same(store: Store) -> None:
    whole = list(store.export_lines())
    end = store.height
    for size in (1, 4, end + 1):
        lines: list[bytes] = []
        for first in range(0, end + 1, size):
            lines += store.export_part(first, min(first + size - 1, end), end)
        assert lines == whole


def test_an_export_is_of_the_moment_when_it_was_asked_for(
    empty: Store, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    """What is appended while it is read is left out."""
    fill(empty, blocks[:5])
    expected = list(empty.export_lines())
    lines = empty.export_lines()
    found = [next(lines) for _ in range(10)]
    fill(empty, blocks[5:])
    found += lines
    assert found == expected
    assert verify_export(found, cluster.genesis).height == 5


def test_certificates_are_what_a_second_writer_writes(store: Store, cluster: LedgerCluster) -> None:
    decided = 0
    for listed in store.list_proposals(None, 0, 100):
        proposal_id = listed.proposal.id
        text = store.certificate_json(proposal_id)
        if listed.status.value == "open":
            assert text is None
            continue
        assert text is not None
        assert text.encode() == dumps(cluster.record.certificate(proposal_id)) + b"\n"
        report = verify_certificate(text, cluster.genesis)
        assert (report.proposal_id, report.decision) == (proposal_id, listed.decision.value)
        assert report.expired == (listed.status.value == "expired")
        decided += 1
    assert decided == 9
    assert store.certificate_json("prop-0099") is None


def test_a_certificate_does_not_change_when_it_is_executed(
    empty: Store, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    fill(empty, blocks[:1])
    before = empty.certificate_json("prop-0001")
    fill(empty, blocks[1:])
    assert empty.certificate_json("prop-0001") == before


def test_certificates_with_a_bare_quorum_of_signatures(empty: Store, cluster: LedgerCluster) -> None:
    """As nodes have them: each may hold other signatures for a block, and its files verify all the same."""
    fill(empty, [part_with(cluster, height, 4) for height in range(1, 13)])
    assert verify_export(empty.export_lines(), cluster.genesis).height == 12
    text = empty.certificate_json("prop-0001")
    assert text is not None
    assert len(verify_certificate(text, cluster.genesis).signers) == 4


def part_with(cluster: LedgerCluster, height: int, signers: int) -> Part:
    block, certificate, entries = parts(cluster, height, height)[0]
    return block, type(certificate)(certificate.key, certificate.signatures[:signers]), entries


def test_the_verifier_is_no_formality(store: Store, cluster: LedgerCluster) -> None:
    lines = list(store.export_lines())
    with pytest.raises(VerificationError):
        verify_export(lines[:-1], cluster.genesis)
    text = store.certificate_json("prop-0001")
    assert text is not None
    with pytest.raises(VerificationError):
        verify_certificate(
            text.replace("quarantine", "terminate").replace("agent-7", "agent-8"), cluster.genesis
        )
