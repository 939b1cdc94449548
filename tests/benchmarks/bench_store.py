"""What a record costs: `python -m tests.benchmarks.bench_store [blocks]`, by default 10,000.

A block holds one proposal with the votes of four members and its tally (six entries). Measured: an append,
which waits for the disk; syncs a block, of record and journal together, as a node writes them; opening the
record, which checks all of it, at a quarter of the blocks and at the end. That must be linear.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, part

from replication.identity.genesis import Genesis
from replication.ledger.journal import SignJournal
from replication.ledger.store import Store
from replication.ordering.effects import SaveBody, SaveSignState
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Statement, StatementKey

BLOCKS = 10_000
SIGNERS = 3
"""Signatures in a certificate: a quorum of four."""


def next_block(cluster: LedgerCluster) -> Part:
    """Decide one proposal."""
    proposer = cluster.ids[len(cluster.executions) % 4]
    cluster.decide(cluster.propose(proposer, evidence={"score": 0.97, "log": "x" * 100}))
    return part(cluster, len(cluster.executions) - 1, SIGNERS)


def sign(journal: SignJournal, state: SignState, item: Part, phase: Phase) -> SignState:
    """Promise a block, as a member does before it says so."""
    block = item[0]
    statement = Statement(StatementKey(phase, 0, 0, block.height, block.hash), "node-1", bytes(64))
    if phase is Phase.PREPARE:
        state = replace(state, prepare=statement)
        journal.write([SaveBody(block), SaveSignState(state)])
    else:
        state = replace(state, commit=statement, lock=replace(item[1], key=replace(item[1].key, phase=phase)))
        journal.write([SaveSignState(state)])
    return state


def measure_open(path: Path, genesis: Genesis, blocks: int) -> float:
    """Print and return the seconds that opening takes."""
    gc.collect()
    started, worked = time.perf_counter(), time.process_time()
    store = Store.create_or_open(path, genesis)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    size = path.stat().st_size / 1e6
    print(f"open {blocks:>6,} blocks ({size:.0f} MB): {seconds:.2f} s ({work:.2f} s of processor)")
    store.close()
    return work


def main(blocks: int) -> None:
    cluster = LedgerCluster(4)
    with tempfile.TemporaryDirectory(
        prefix=".bench-", dir=Path.cwd()
    ) as folder:  # not in memory, as /tmp may be
        path = Path(folder) / "ledger.db"
        store = Store.create_or_open(path, cluster.genesis)
        journal = SignJournal.create(Path(folder) / "sign.journal", cluster.cluster_id, "node-1")
        state, begun = SignState(), journal.counters.fsyncs
        appends, writes, opens = [], [], []
        for height in range(1, blocks + 1):
            item = next_block(cluster)
            started = time.perf_counter()
            state = sign(journal, state, item, Phase.PREPARE)
            state = sign(journal, state, item, Phase.COMMIT)
            written = time.perf_counter()
            store.append(*item)
            appends.append((time.perf_counter() - written) * 1000)
            writes.append((written - started) * 500)
            journal.settle(height)
            if height == blocks // 4:
                syncs = store.counters.fsyncs
                store.close()
                opens.append(measure_open(path, cluster.genesis, height))
                store = Store.create_or_open(path, cluster.genesis)
                store.counters.fsyncs = syncs
        syncs = store.counters.fsyncs + journal.counters.fsyncs - begun
        journal.close()
        store.close()
        for name, times in (("append a block", appends), ("write to the journal", writes)):
            last = statistics.quantiles(times, n=100)[98]
            print(f"{name}: {statistics.median(times):.2f} ms, one in a hundred {last:.2f} ms or more")
        print(f"syncs a block: {syncs / blocks:.2f} (record 1, journal 2)")
        opens.append(measure_open(path, cluster.genesis, blocks))
        print(f"four times the blocks take {opens[1] / opens[0]:.1f} times as long to open")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else BLOCKS)
