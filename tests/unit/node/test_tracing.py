"""Traces of a node: ids that all nodes agree on, and collectors that are there, away, or not installed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.support.collector import collector
from tests.support.real_cluster import until

from replication.node import tracing
from replication.node.local.provision import pick_free_ports
from replication.node.tracing import (
    MAX_SPANS_WAITING,
    MAX_STORIES,
    STOP_SECONDS,
    TracingError,
    connect,
)

CLUSTER = b"c" * 32
DIGEST = b"d" * 32


def test_every_node_finds_the_same_trace() -> None:
    with collector() as found:
        nodes = [connect(found.endpoint, member, CLUSTER) for member in ("node-1", "node-2")]
        for node in nodes:
            node.called("VotingService.Propose", DIGEST, time.time_ns() - 5, "web-4711")
            node.asked(DIGEST)
            node.chosen(DIGEST, "approve")
            node.chosen(DIGEST, "approve")  # it was not asked again
            node.stop()
        until(lambda: len(found.spans) >= 4)
    assert sorted((span.member, span.name) for span in found.spans) == [
        ("node-1", "VotingService.Propose"),
        ("node-1", "vote"),
        ("node-2", "VotingService.Propose"),
        ("node-2", "vote"),
    ]
    assert {span.trace for span in found.spans} == {f"{tracing.trace_id_of(DIGEST):032x}"}
    assert len({span.parent for span in found.spans}) == 1
    assert len({span.id for span in found.spans}) == 4
    assert all(span.began_ns <= span.ended_ns for span in found.spans)
    assert found.spans[0].facts["acp.call"] == "web-4711"


def test_a_dead_collector_holds_nobody_up() -> None:
    """More spans than there is room for, and nobody listens: each is taken at once, and the end is soon."""
    (port,) = pick_free_ports(1)
    traces = connect(f"http://127.0.0.1:{port}/v1/traces", "node-1", CLUSTER)
    began = time.perf_counter()
    for _ in range(2 * MAX_SPANS_WAITING):
        traces.called("VotingService.Propose", DIGEST, 0, "x")
    assert time.perf_counter() - began < 5, "a millisecond each would be too long"
    began = time.perf_counter()
    traces.stop()
    assert time.perf_counter() - began < STOP_SECONDS + 10


def test_no_more_proposals_are_followed_than_there_is_room_for() -> None:
    traces = connect("http://127.0.0.1:1/v1/traces", "node-1", CLUSTER)
    for number in range(MAX_STORIES + 10):
        traces.asked(number.to_bytes(32))
    stories = vars(traces)["_stories"]
    assert len(stories) == MAX_STORIES
    assert (0).to_bytes(32) not in stories
    traces.stop()


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(TracingError, match=r"agent-consensus\[tracing\]"):
        connect("http://127.0.0.1:1/v1/traces", "node-1", CLUSTER)


def test_a_node_without_traces_does_not_import_them() -> None:
    code = "import sys, replication.node.server; sys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
