"""What the store answers: to the application that restarts from it, and to services, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, fill

from replication.consensus.model import AuditEntry, ProposalStatus
from replication.ledger.application import VotingApplication
from replication.ledger.history import History, MemoryHistory
from replication.ledger.reading import Listed, VoteItem
from replication.ledger.schema import RecordDamagedError
from replication.ledger.store import Store
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate

NOWHERE = bytes(32)


@pytest.fixture
def empty(tmp_path: Path, cluster: LedgerCluster) -> Iterator[Store]:
    store = Store.create_or_open(tmp_path / "ledger.db", cluster.genesis)
    yield store
    store.close()


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, cluster: LedgerCluster, blocks: list[Part]
) -> Iterator[Store]:
    """The whole story; tests only read it."""
    store = Store.create_or_open(tmp_path_factory.mktemp("story") / "ledger.db", cluster.genesis)
    fill(store, blocks)
    yield store
    store.close()


# ------------------------------------------------------------------------------------ for the application


def assert_same_history(one: History, other: History, cluster: LedgerCluster) -> None:
    """The same answers to everything the application may ask, about what there is and what there is not."""
    assert one.totals() == other.totals()
    assert list(one.open_proposals()) == list(other.open_proposals())
    proposals = [
        entry
        for execution in cluster.executions
        for entry in execution.entries
        if entry.event_type == "propose"
    ]
    for entry in proposals:
        digest = bytes.fromhex(entry.data["digest"])
        asked = entry.actor_id or "", entry.data["request_id"]
        assert one.finished(digest) == other.finished(digest)
        assert one.finished_by_id(entry.proposal_id or "") == other.finished_by_id(entry.proposal_id or "")
        assert one.request(*asked) == other.request(*asked)
        for voter in (*cluster.ids, "node-6", "node-9", "nobody"):
            assert one.vote(digest, voter) == other.vote(digest, voter)
    assert one.finished(NOWHERE) is other.finished(NOWHERE) is None
    assert one.finished_by_id("prop-9999") is other.finished_by_id("prop-9999") is None
    assert one.request("node-1", "never") is other.request("node-1", "never") is None
    assert one.vote(NOWHERE, "node-1") is other.vote(NOWHERE, "node-1") is None


def test_it_answers_as_the_history_in_memory_after_every_block(
    empty: Store, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    memory = MemoryHistory(cluster.genesis)
    assert_same_history(empty, memory, cluster)
    for block, certificate, entries in blocks:
        empty.append(block, certificate, entries)
        memory.apply(block.height, block.header.time_ms, entries)
        assert_same_history(empty, memory, cluster)


def test_an_application_can_start_from_it_after_every_block(
    empty: Store, cluster: LedgerCluster, blocks: list[Part]
) -> None:
    """And carries on as the one that never stopped: same entries, same deadlines."""
    for block, certificate, entries in blocks:
        application = VotingApplication(cluster.genesis, empty)
        execution = application.execute(block.height, block.header.time_ms, block.commands)
        assert execution.entries == entries
        assert execution.audit_head == block.header.audit_head
        empty.append(block, certificate, entries)
        application.commit(execution)
        restarted = VotingApplication(cluster.genesis, empty)
        assert list(restarted.open_proposals()) == list(application.open_proposals())
        assert restarted.next_deadline_ms() == application.next_deadline_ms()
        assert restarted.members == application.members


def test_totals_of_the_story(store: Store) -> None:
    totals = store.totals()
    assert (totals.members.epoch, totals.members.ids[-1]) == (4, "node-6")
    assert set(totals.faulty) == {"node-4"}
    assert list(totals.incarnations) == ["node-2"]
    assert totals.recorded_view == 2
    assert store.height == totals.height == store.head()[0].height


# ---------------------------------------------------------------------------------------- blocks and entries


def test_pages_of_blocks(store: Store, blocks: list[Part]) -> None:
    whole = [(block, certificate) for block, certificate, _ in blocks]
    assert store.blocks(0, 1 << 30) == store.blocks(1, 1 << 30) == whole
    assert store.blocks(len(blocks) + 1, 1 << 30) == []
    assert store.blocks(3, 0) == whole[2:3], "at least one, if there is one"
    found: list[tuple[Block, Certificate | None]] = []
    while page := store.blocks(len(found) + 1, 6000):
        assert len(page) == 1 or sum(sum(map(len, block.commands)) for block, _ in page) <= 6000
        found += page
    assert found == whole


def test_one_block(store: Store, blocks: list[Part]) -> None:
    assert store.block(0)[1] is None
    assert store.block(4) == blocks[3][:2]
    with pytest.raises(RecordDamagedError, match="block 99 is missing"):
        store.block(99)


def test_pages_of_entries(store: Store, cluster: LedgerCluster) -> None:
    expected = [
        (entry, execution.height, execution.time_ms)
        for execution in cluster.executions
        for entry in execution.entries
    ]
    found: list[tuple[AuditEntry, int, int]] = []
    while page := store.entries(len(found), 7):
        assert len(page) <= 7
        found += [(item.entry, item.height, item.time_ms) for item in page]
    assert found == expected
    assert [item.entry.event_type for item in store.entries(0, 100, "membership")] == ["membership"] * 4
    second = store.entries(0, 1, "membership")[0].entry.sequence + 1
    assert len(store.entries(second, 2, "membership")) == 2
    assert store.entries(0, 10, "unknown") == []
    assert store.entry(5) == expected[5][0]
    with pytest.raises(RecordDamagedError, match="entry 999 is missing"):
        store.entry(999)


# ------------------------------------------------------------------------------------ proposals and votes


def test_pages_of_proposals(store: Store) -> None:
    found: list[Listed] = []
    while page := store.list_proposals(None, found[-1].number if found else 0, 3):
        assert len(page) <= 3
        found += page
    assert [item.number for item in found] == list(range(1, 13))
    for status in ProposalStatus:
        own = [item for item in found if item.status is status]
        assert store.list_proposals(status, 0, 100) == own
        assert store.list_proposals(status, 0, 1) == own[:1]
        assert own, status


def test_one_proposal_in_full(store: Store, cluster: LedgerCluster) -> None:
    executed = store.proposal("prop-0001")
    assert executed is not None
    assert (executed.listed.status, executed.listed.decision.value) == (ProposalStatus.EXECUTED, "approved")
    assert executed.listed.decided_ms == cluster.executions[1].time_ms
    assert [receipt.outcome for receipt, _ in executed.receipts] == ["failed", "partial", "succeeded"]
    assert executed.listed.proposal.evidence_json == '{"big":1e+21,"log":["ssh",{"é":"\u2028"}]}'
    open_one = store.proposal("prop-0006")
    assert open_one is not None
    assert (open_one.tally, open_one.listed.decided_ms) == (None, 0)
    votes = [(vote.voter, vote.value.value, vote.revision) for vote in open_one.votes]
    assert votes == [("node-1", "approve", 1), ("node-5", "approve", 0), ("node-9", "abstain", 0)]
    assert store.proposal("prop-0099") is None


def test_history_of_a_voter(store: Store, cluster: LedgerCluster) -> None:
    last: dict[str, int] = {}
    for execution in cluster.executions:
        for entry in execution.entries:
            if entry.event_type == "vote" and entry.actor_id == "node-1":
                last[entry.proposal_id or ""] = entry.sequence
    expected = sorted(last.items(), key=lambda item: item[1])
    found: list[VoteItem] = []
    while page := store.history("node-1", found[-1].sequence if found else -1, 2):
        assert len(page) <= 2
        found += page
    assert [(item.proposal_id, item.sequence) for item in found] == expected
    assert store.history("nobody", -1, 10) == []


def test_summary(store: Store, cluster: LedgerCluster) -> None:
    report, summary = cluster.verify(), store.summary()
    assert summary.proposals == report.proposals == 12
    assert summary.open == report.open_proposals == 3
    assert summary.executed == report.executed == 1
    assert (summary.approved, summary.rejected, summary.no_quorum, summary.expired) == (
        report.decisions["approved"],
        report.decisions["rejected"],
        report.decisions["no_quorum"],
        report.decisions["expired"],
    )


def test_agreement_counts_each_pair_as_a_dumb_count_does(store: Store, cluster: LedgerCluster) -> None:
    """Votes as they stood when each proposal was tallied, or stand now; liars proven so do not count."""
    votes: dict[str, dict[str, str]] = {}
    for execution in cluster.executions:
        for entry in execution.entries:
            if entry.event_type in ("tally", "expired"):
                excluded = entry.data.get("excluded", {})
                counted = {k: v for k, v in entry.data["votes"].items() if k not in excluded}
                votes[entry.proposal_id or ""] = counted
    for proposal in cluster.application.open_proposals():
        votes[proposal.id] = {vote.voter: vote.value.value for vote in proposal.votes}
    ids = [*cluster.ids, "node-6", "node-9"]
    matrix = store.agreement().matrix(ids)
    sides = ("approve", "reject")
    for one in ids:
        for other in ids:
            common = [v for v in votes.values() if v.get(one) in sides and v.get(other) in sides]
            same = [v for v in common if v[one] == v[other]]
            expected = 1.0 if one == other else len(same) / len(common) if common else 0.0
            assert matrix[one][other] == expected, (one, other)
    rates = {matrix[one][other] for one in ids for other in ids if one != other}
    assert len(rates) > 1, "pairs that differ, or the count would not be tried"


def test_reading_agreement_changes_nothing(store: Store, cluster: LedgerCluster) -> None:
    first = store.agreement().matrix(cluster.ids)
    assert store.agreement().matrix(cluster.ids) == first


# --------------------------------------------------------------------------------------------------- cost

PLANS = [
    ("SELECT * FROM entries WHERE height = ? ORDER BY sequence", "entries_of_block"),
    (
        "SELECT * FROM entries WHERE proposal_id = ? AND event_type = ? ORDER BY sequence",
        "entries_of_proposal",
    ),
    ("SELECT * FROM entries WHERE event_type = ? AND sequence >= ? ORDER BY sequence", "entries_of_type"),
    ("SELECT * FROM votes WHERE voter = ? AND sequence > ? ORDER BY sequence", "votes_of_voter"),
    ("SELECT * FROM proposals WHERE status = ? AND number > ? ORDER BY number", "proposals_by_status"),
    ("SELECT * FROM proposals WHERE digest = ?", "sqlite_autoindex_proposals_2"),
    ("SELECT * FROM proposals WHERE proposer = ? AND request_id = ?", "sqlite_autoindex_proposals_3"),
    ("SELECT * FROM votes WHERE proposal = ? AND voter = ?", "PRIMARY KEY"),
]


@pytest.mark.parametrize(("query", "index"), PLANS)
def test_look_ups_do_not_slow_down_as_the_record_grows(store: Store, query: str, index: str) -> None:
    plan = " ".join(str(row[3]) for row in store.ask(f"EXPLAIN QUERY PLAN {query}", *"x" * query.count("?")))
    assert f"USING INDEX {index}" in plan or f"USING {index}" in plan
    assert "SCAN" not in plan
    assert "TEMP" not in plan


def test_every_query_of_the_store_uses_an_index(
    store: Store, cluster: LedgerCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All reads in turn; the plan of each statement that they run is looked at."""
    plans: dict[str, str] = {}
    real = Store.ask

    def watched(self: Store, query: str, *values: object) -> list[tuple[object, ...]]:
        rows = real(self, f"EXPLAIN QUERY PLAN {query}", *values)
        plans[query] = " / ".join(str(row[3]) for row in rows)
        return real(self, query, *values)

    monkeypatch.setattr(Store, "ask", watched)
    digest = next(cluster.application.open_proposals()).digest
    store.finished(digest), store.finished_by_id("prop-0001"), store.request("node-1", "x")
    store.vote(digest, "node-1"), store.open_proposals(), store.entry(3), store.block(3)
    store.entries(3, 5), store.entries(3, 5, "vote"), store.history("node-1", 3, 5)
    store.list_proposals(None, 0, 5), store.list_proposals(ProposalStatus.OPEN, 0, 5)
    store.proposal("prop-0001"), store.agreement(), store.certificate_json("prop-0012")
    list(store.export_part(2, 3, 5))
    assert len(plans) > 12
    for query, plan in plans.items():
        assert "SCAN" not in plan, f"{query}: {plan}"
