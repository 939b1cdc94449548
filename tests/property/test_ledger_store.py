"""Random streams of commands through application and store: the store answers as the history in memory does,
what it exports verifies, and a file opened anew is the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.ledger_store import parts, record_of
from tests.support.ledger_stream import programs, rules, run, weights

from replication.identity.genesis import Rules
from replication.ledger.application import VotingApplication
from replication.ledger.history import MemoryHistory
from replication.ledger.store import Store
from replication.ledger.verify import verify_certificate, verify_export

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(programs, rules, weights, st.data())
@relaxed
def test_a_store_is_what_the_entries_say(
    program: list[tuple[Any, ...]], rules: Rules, weights: list[int], data: st.DataObject
) -> None:
    cluster = run(program, rules, weights).cluster
    genesis, memory = cluster.genesis, MemoryHistory(cluster.genesis)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        store = Store.create_or_open(path, genesis)
        for block, certificate, entries in parts(cluster):
            if data.draw(st.integers(0, 5), label="reopen") == 0:
                store.close()
                store = Store.create_or_open(path, genesis)
            store.append(block, certificate, entries)
            memory.apply(block.height, block.header.time_ms, entries)
            assert store.totals() == memory.totals()
            assert list(store.open_proposals()) == list(memory.open_proposals())
        assert list(VotingApplication(genesis, store).open_proposals()) == list(memory.open_proposals())
        for listed in store.list_proposals(None, 0, 1000):
            proposal = listed.proposal
            assert store.finished(proposal.digest) == memory.finished(proposal.digest)
            assert store.request(proposal.proposer, proposal.request_id) == proposal.digest
            for voter in cluster.keys:
                assert store.vote(proposal.digest, voter) == memory.vote(proposal.digest, voter)
            text = store.certificate_json(proposal.id)
            assert (text is None) == (listed.status.value == "open")
            if text is not None:
                assert verify_certificate(text, genesis).decision == listed.decision.value
        report = verify_export(store.export_lines(), genesis)
        assert report.audit_head == store.totals().audit_head
        assert report.open_proposals == store.summary().open
        assert store.verify() == ""
        before = record_of(store)
        store.close()
        store = Store.create_or_open(path, genesis)
        assert record_of(store) == before
        store.close()
