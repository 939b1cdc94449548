"""The store: its settings, what it gives back, and what it refuses to append."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, fill, part, parts, record_of, small, story

from replication.consensus.analysis import AgreementCounts
from replication.consensus.model import ProposalStatus, VoteValue
from replication.errors import InvariantError
from replication.ledger.application import VotingApplication
from replication.ledger.schema import APPLICATION_ID, SCHEMA_VERSION, RecordError
from replication.ledger.store import Store
from replication.ledger.verify import verify_certificate, verify_export
from replication.ordering.certificates import Certificate
from replication.ordering.statements import Phase


@lru_cache(maxsize=1)
def whole_story() -> LedgerCluster:
    return story()


@pytest.fixture
def cluster() -> LedgerCluster:
    """Everything that can happen. Shared: not to be changed."""
    return whole_story()


@pytest.fixture
def store(tmp_path: Path, cluster: LedgerCluster) -> Iterator[Store]:
    """The store of that."""
    with_blocks = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    fill(with_blocks, parts(cluster))
    yield with_blocks
    with_blocks.close()


# --------------------------------------------------------------------------------------------------- the file


def test_settings_are_those_that_durability_needs(store: Store) -> None:
    def ask(pragma: str) -> object:
        return store.ask(f"PRAGMA {pragma}")[0][0]

    assert ask("journal_mode") == "wal"
    assert ask("synchronous") == 2, "FULL: a commit returns when its log is on disk"
    assert ask("application_id") == APPLICATION_ID == int.from_bytes(b"acp1")
    assert ask("user_version") == SCHEMA_VERSION
    assert ask("locking_mode") == "exclusive"


def test_files_are_private_and_there_is_one_when_it_is_closed(tmp_path: Path) -> None:
    cluster = small()
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    fill(store, parts(cluster))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]


def test_a_second_store_of_the_same_file_is_refused(store: Store, cluster: LedgerCluster) -> None:
    with pytest.raises(RecordError, match="locked"):
        Store.create_or_open(store.path, cluster.genesis)
    assert store.verify() == ""


def test_a_block_costs_one_sync(tmp_path: Path) -> None:
    cluster = small()
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    for height, each in enumerate(parts(cluster), start=1):
        fill(store, [each])
        assert store.counters.fsyncs == height
    store.close()


def test_a_new_record_holds_block_0(tmp_path: Path, cluster: LedgerCluster) -> None:
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    header, certificate = store.head()
    assert (header.height, header.hash.hex(), certificate) == (0, cluster.sealed[0].hash, None)
    assert store.blocks(0, 1000) == []
    assert [item.entry for item in store.entries(0, 10)] == list(cluster.executions[0].entries)
    assert verify_export(store.export_lines(), cluster.genesis).audit_size == 1
    assert (store.height, store.verify(), store.summary().proposals) == (0, "", 0)
    store.close()


def test_closed(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(RecordError, match="it is closed"):
        store.proposal("prop-0001")
    with pytest.raises(RecordError, match="it is closed"):
        store.verify()


# ----------------------------------------------------------------------------------------- what comes back


def test_history_is_that_of_the_same_entries_in_memory(store: Store, cluster: LedgerCluster) -> None:
    memory = cluster.history
    assert store.totals() == memory.totals()
    assert list(store.open_proposals()) == list(memory.open_proposals())
    digests = [cluster.digest(command) for command in proposals(cluster)]
    assert len(digests) == store.summary().proposals
    for number, digest in enumerate(digests, start=1):
        assert store.finished(digest) == memory.finished(digest)
        assert store.finished_by_id(f"prop-{number:04d}") == memory.finished_by_id(f"prop-{number:04d}")
        for voter in (*cluster.ids, "node-6", "node-9", "nobody"):
            assert store.vote(digest, voter) == memory.vote(digest, voter)
            for request in range(len(digests) + 2):
                name = f"request-{request}"
                assert store.request(voter, name) == memory.request(voter, name)
    assert store.finished(bytes(32)) is None
    assert store.finished_by_id("prop-9999") is None


def proposals(cluster: LedgerCluster) -> list[bytes]:
    """The commands that became proposals, in order."""
    return [
        command
        for execution, commands in zip(cluster.executions, cluster.commands, strict=True)
        for command in commands
        if any(entry.event_type == "propose" for entry in execution.entries)
        if is_proposal(cluster, command)
    ]


def is_proposal(cluster: LedgerCluster, command: bytes) -> bool:
    try:
        cluster.digest(command)
    except AssertionError:
        return False
    return True


def test_an_application_restarts_from_it(store: Store, cluster: LedgerCluster) -> None:
    application = VotingApplication(cluster.genesis, store)
    assert list(application.open_proposals()) == list(cluster.application.open_proposals())
    assert application.members == cluster.application.members
    assert application.faulty == cluster.application.faulty
    assert application.recorded_view == cluster.application.recorded_view
    time_ms = cluster.time_ms + 80_000_000
    again = application.execute(len(cluster.executions), time_ms, ())
    assert again.entries == cluster.application.execute(len(cluster.executions), time_ms, ()).entries
    assert not again.is_empty, "a window and an expiry are due by then"


@pytest.mark.parametrize("make", [small, whole_story])
def test_reopened_it_is_the_same(tmp_path: Path, make: Callable[[], LedgerCluster]) -> None:
    cluster = make()
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    half = len(cluster.executions) // 2
    fill(store, parts(cluster, last=half))
    store.close()
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    assert store.height == half
    fill(store, parts(cluster, half + 1))
    before = record_of(store)
    store.close()
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    assert record_of(store) == before
    assert store.verify() == ""
    store.close()


def test_the_export_is_the_one_that_is_verified(store: Store, cluster: LedgerCluster) -> None:
    lines = list(store.export_lines())
    report = verify_export(lines, cluster.genesis)
    totals = store.totals()
    assert (report.audit_size, report.audit_head) == (totals.audit_size, totals.audit_head)
    assert report.epoch == cluster.epoch == 4
    assert set(report.faulty) == set(totals.faulty) == {"node-4"}
    # The cluster's own export is written by other code, with all signatures in it.
    assert [line.rstrip(b"\n") for line in lines] == [line.rstrip(b"\n") for line in cluster.record.lines()]


def test_an_export_in_pieces_while_the_record_grows(tmp_path: Path, cluster: LedgerCluster) -> None:
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    fill(store, parts(cluster, last=10))
    whole = list(store.export_lines())
    growing = store.export_lines()
    begun = [next(growing)]
    pieces = list(store.export_part(0, 4, 10))
    fill(store, parts(cluster, 11))
    pieces += store.export_part(5, 5, 10)
    pieces += store.export_part(6, 10, 10)
    assert pieces == whole
    assert begun + list(growing) == whole, "an export is of the record as it was when it began"
    assert verify_export(pieces, cluster.genesis).height == 10
    store.close()


def test_every_decision_has_a_certificate(store: Store, cluster: LedgerCluster) -> None:
    epochs, excluded = set(), 0
    for listed in store.list_proposals(None, 0, 100):
        text = store.certificate_json(listed.proposal.id)
        if listed.status is ProposalStatus.OPEN:
            assert text is None
            continue
        assert text is not None
        assert text.endswith("}\n")
        report = verify_certificate(text, cluster.genesis)
        assert (report.proposal_id, report.decision) == (listed.proposal.id, listed.decision.value)
        epochs.add(report.epoch)
        excluded += len(report.excluded)
    assert store.certificate_json("prop-9999") is None
    assert max(epochs) == 4
    assert 0 in epochs
    assert excluded > 0, "a vote of a faulty member is excluded, with the evidence in the certificate"


# --------------------------------------------------------------------------------------------------- pages


def test_proposals_in_pages(store: Store) -> None:
    everything = store.list_proposals(None, 0, 1000)
    assert [item.number for item in everything] == list(range(1, len(everything) + 1))
    paged, after = [], 0
    while page := store.list_proposals(None, after, 3):
        assert len(page) <= 3
        paged += page
        after = page[-1].number
    assert paged == everything
    for status in ProposalStatus:
        expected = [item for item in everything if item.status is status]
        assert store.list_proposals(status, 0, 1000) == expected
        assert store.list_proposals(status, 0, 1) == expected[:1]
        assert expected, status


def test_entries_in_pages(store: Store, cluster: LedgerCluster) -> None:
    everything = [entry for execution in cluster.executions for entry in execution.entries]
    assert [item.entry for item in store.entries(0, 10_000)] == everything
    assert [item.entry for item in store.entries(7, 5)] == everything[7:12]
    assert store.entries(len(everything), 5) == []
    votes = [entry for entry in everything if entry.event_type == "vote"]
    assert [item.entry for item in store.entries(0, 10_000, "vote")] == votes
    assert [item.entry for item in store.entries(votes[3].sequence, 2, "vote")] == votes[3:5]
    for item in store.entries(0, 10_000):
        assert item.entry in cluster.executions[item.height].entries
        assert item.time_ms == cluster.executions[item.height].time_ms


def test_votes_of_a_voter_in_pages(store: Store, cluster: LedgerCluster) -> None:
    for voter in ("node-1", "node-5", "node-9", "nobody"):
        last = {
            entry.proposal_id: entry
            for execution in cluster.executions
            for entry in execution.entries
            if entry.event_type == "vote" and entry.actor_id == voter
        }
        expected = sorted(entry.sequence for entry in last.values())
        found, after = [], -1
        while page := store.history(voter, after, 2):
            found += [item.sequence for item in page]
            after = page[-1].sequence
        assert found == expected


def test_blocks_in_pages(store: Store, cluster: LedgerCluster) -> None:
    everything = [(block, certificate) for block, certificate, _ in parts(cluster)]
    assert store.blocks(1, 1 << 30) == store.blocks(-5, 1 << 30) == everything
    assert store.blocks(4, 1) == everything[3:4], "one at least"
    assert store.blocks(len(everything) + 1, 1 << 30) == []
    paged, height = [], 1
    while page := store.blocks(height, 3000):
        paged += page
        height += len(page)
    assert paged == everything


def test_a_proposal_with_everything_about_it(store: Store) -> None:
    stored = store.proposal("prop-0001")
    assert stored is not None
    assert stored.listed.status is ProposalStatus.EXECUTED
    assert [receipt.outcome for receipt, _ in stored.receipts] == ["failed", "partial", "succeeded"]
    assert [vote.voter for vote in stored.votes] == ["node-1", "node-2", "node-3", "node-4", "node-5"]
    assert stored.tally is not None
    assert stored.tally.data["decision"] == "approved"
    assert store.proposal("prop-9999") is None


# ---------------------------------------------------------------------------------------------- statistics


def test_counts_are_those_of_the_entries(store: Store, cluster: LedgerCluster) -> None:
    entries = [entry for execution in cluster.executions for entry in execution.entries]
    decisions = [entry.data["decision"] for entry in entries if entry.event_type == "tally"]
    summary = store.summary()
    assert summary.proposals == sum(entry.event_type == "propose" for entry in entries)
    assert summary.approved == decisions.count("approved")
    assert summary.rejected == decisions.count("rejected")
    assert summary.no_quorum == decisions.count("no_quorum")
    assert summary.expired == sum(entry.event_type == "expired" for entry in entries) == 1
    assert summary.open == len(list(cluster.application.open_proposals())) == 3
    assert summary.executed == 1
    assert summary.totals == store.totals()


def test_agreement_is_counted_over_decided_and_open_proposals(store: Store, cluster: LedgerCluster) -> None:
    expected = AgreementCounts()
    for execution in cluster.executions:
        for entry in execution.entries:
            if entry.event_type in ("tally", "expired"):
                excluded = entry.data.get("excluded", {})
                votes = entry.data["votes"].items()
                expected.record({who: VoteValue(value) for who, value in votes if who not in excluded})
    for proposal in cluster.application.open_proposals():
        expected.record({vote.voter: vote.value for vote in proposal.votes})
    ids = [*cluster.ids, "node-6", "node-9"]
    assert store.agreement().matrix(ids) == expected.matrix(ids)
    counts = store.agreement()
    counts.record({"node-1": VoteValue.APPROVE, "node-2": VoteValue.REJECT})
    assert store.agreement().matrix(ids) == expected.matrix(ids), "a copy of its own"


# ----------------------------------------------------------------------------------- what is not appended


def other_parent(item: Part) -> Part:
    block, certificate, entries = item
    return replace(block, header=replace(block.header, parent=bytes(32))), certificate, entries


def with_key(item: Part, **changes: object) -> Part:
    block, certificate, entries = item
    return block, Certificate(replace(certificate.key, **changes), certificate.signatures), entries  # type: ignore[arg-type]


REFUSED: dict[str, Callable[[Part, Part], Part]] = {
    "a later block": lambda right, later: later,
    "another parent": lambda right, later: other_parent(right),
    "another block's certificate": lambda right, later: (right[0], later[1], right[2]),
    "another phase": lambda right, later: with_key(right, phase=Phase.PREPARE),
    "another epoch": lambda right, later: with_key(right, epoch=1),
    "another height": lambda right, later: with_key(right, height=9),
    "entries of another block": lambda right, later: (right[0], right[1], later[2]),
    "an entry too few": lambda right, later: (right[0], right[1], right[2][:-1]),
    "an entry twice": lambda right, later: (right[0], right[1], (*right[2], right[2][-1])),
    "entries out of order": lambda right, later: (right[0], right[1], right[2][::-1]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_follow_is_refused_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    cluster = small()
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    fill(store, parts(cluster, last=2))
    before = record_of(store)
    right, later = part(cluster, 3), part(cluster, 4)
    with pytest.raises(InvariantError):
        fill(store, [REFUSED[what](right, later)])
    assert record_of(store) == before
    fill(store, [right])
    assert (store.height, store.verify()) == (3, "")
    store.close()
