"""A snapshot of a node that is no node's, for tests of its metrics."""

from __future__ import annotations

from typing import Any

from tests.support.record_factory import RecordFactory

from replication.ledger.history import genesis_totals
from replication.ledger.reading import Summary
from replication.node.calls import MethodCalls
from replication.node.contacts import PeerState
from replication.node.counters import Counters
from replication.node.driver import DriverStatus
from replication.node.metrics import Snapshot
from replication.node.peers import SendQueue

__all__ = ["snapshot"]


def counters() -> Counters:
    """Two syncs, of 2 and 40 ms; one decision in 30 s."""
    made = Counters(evidence=1, fsyncs=9)
    made.cast["approve"] = made.recorded["reject"] = 3
    made.writes.add(2_000)
    made.writes.add(40_000)
    made.decided.add(30_000_000)
    return made


def snapshot(**changes: Any) -> Snapshot:
    """node-1 of four, which hears all others; `changes` are of its status."""
    genesis = RecordFactory(4).genesis
    peers = {
        f"node-{number}": PeerState(7, 20, b"\x01" * 32, 0, 50, reachable=True, refused=number)
        for number in (2, 3, 4)
    }
    values: dict[str, Any] = {
        "epoch": 0,
        "view": 3,
        "coordinator": "node-4",
        "height": 7,
        "audit_size": 20,
        "audit_head": b"\x01" * 32,
        "pending": 2,
        "peers": peers,
        "muted": "",
        "suspected": "",
        "can_progress": True,
        "counters": counters(),
    }
    summary = Summary(
        totals=genesis_totals(genesis),
        proposals=9,
        open=1,
        approved=5,
        rejected=2,
        no_quorum=0,
        executed=4,
        expired=1,
        unconfirmed=1,
    )
    proposals, watching = (
        MethodCalls("VotingService.Propose", is_stream=False),
        MethodCalls("VotingService.Watch", is_stream=True),
    )
    proposals.under_way = watching.under_way = 2
    proposals.end("OK", 3_000)
    queue = SendQueue()
    queue.put(b"message")
    return Snapshot(
        member="node-1",
        members=genesis.members,
        faulty=frozenset({"node-3"}),
        status=DriverStatus(**{**values, **changes}),
        summary=summary,
        certificates={"authority": genesis.ca_certificate},
        queues={"node-2": queue},
        calls={calls.name: calls for calls in (proposals, watching)},
    )
