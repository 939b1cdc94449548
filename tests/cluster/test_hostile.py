"""Hostile clients and a hostile member against a running node: it stays up, its memory is bounded, those who
are honest get their decisions, and whoever attacks gets clear errors.

The floods are processes of their own (tests/support/floods.py). What they cost in throughput is measured by
tests/benchmarks/bench_floods.py, not here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.floods import FLOODS, OF_MEMBERS, flooding, memory_bytes
from tests.support.real_cluster import WAIT_SECONDS, Cluster, made_cluster, until

from replication.client import Client
from replication.node.access import MAX_STREAMS_PER_CALLER
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

MAX_GROWTH_BYTES = 64 * 1024 * 1024
DECISIONS = 3
"""That an honest client has to get while each flood lasts."""

# What the node may answer to each flood, and what it has to. gRPC shows a client INTERNAL when a stream is
# refused on which it is still writing; that the node itself failed nowhere is looked for in its log.
ANSWERS: dict[str, tuple[set[str], set[str]]] = {
    "oversize": ({"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, {"RESOURCE_EXHAUSTED"}),
    "malformed": ({"INVALID_ARGUMENT", "DEADLINE_EXCEEDED"}, {"INVALID_ARGUMENT"}),
    "propose": ({"OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED"}, {"OK", "INVALID_ARGUMENT"}),
    "watch": ({"STREAM", "RESOURCE_EXHAUSTED", "CANCELLED", "UNAVAILABLE"}, {"STREAM", "RESOURCE_EXHAUSTED"}),
    "connections": ({"OPENED", "CLOSED_BY_NODE"}, {"OPENED"}),
    "handshakes": ({"OPENED", "CLOSED_BY_NODE"}, {"OPENED"}),
    "anonymous": ({"UNAVAILABLE", "DEADLINE_EXCEEDED"}, {"UNAVAILABLE"}),
    "fetch": ({"OK", "DEADLINE_EXCEEDED"}, {"OK"}),
    "signatures": ({"SENT", "CANCELLED"}, {"SENT"}),
    "views": ({"SENT", "CANCELLED"}, {"SENT"}),
    "names": ({"SENT", "CANCELLED", "INVALID_ARGUMENT", "INTERNAL"}, {"SENT", "INVALID_ARGUMENT"}),
    "garbage": ({"SENT", "INVALID_ARGUMENT", "INTERNAL"}, {"SENT", "INVALID_ARGUMENT"}),
    "witnesses": ({"SENT"}, {"SENT"}),
    "empties": ({"SENT"}, {"SENT"}),
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, approving: PolicyChoice) -> Iterator[Cluster]:
    """Three honest members that approve everything; the keys of the fourth are the attacker's."""
    with made_cluster(tmp_path_factory.mktemp("attacked") / "cluster", policy=approving) as cluster:
        with cluster.client() as client:
            decide(client, 20)
        cluster.stop("node-4")
        yield cluster


def decide(client: Client, count: int) -> None:
    for number in range(count):
        proposal = client.propose(
            "restrict", f"agent-{number}", {"n": number}, wait_for_decision=True, timeout_seconds=WAIT_SECONDS
        )
        assert proposal.approved


def test_every_flood_is_judged() -> None:
    assert ANSWERS.keys() == FLOODS.keys()


@pytest.mark.parametrize("kind", [*sorted(FLOODS.keys() - OF_MEMBERS), *sorted(OF_MEMBERS)])
def test_a_flood_is_survived(attacked: Cluster, kind: str) -> None:
    pid = attacked.pid("node-1")
    before = memory_bytes(pid)
    allowed, needed = ANSWERS[kind]
    with attacked.client() as client, flooding(kind, attacked.directory, needed) as flood:
        decide(client, DECISIONS)
        flood.require_running()
        growth = memory_bytes(pid) - before
    print(f"{kind}: {flood.answers}, memory {growth / 2**20:+.0f} MiB")
    assert attacked.pid("node-1") == pid
    assert growth < MAX_GROWTH_BYTES, f"{growth >> 20} MiB more"
    assert needed <= flood.answers.keys() <= allowed, flood.answers
    if kind == "watch":
        assert flood.answers["STREAM"] <= MAX_STREAMS_PER_CALLER


def test_the_record_is_as_it_must_be_after_all_floods(attacked: Cluster) -> None:
    attacked.start_one("node-4")
    with attacked.client() as client:
        decide(client, 1)
    attacked.settle()
    until(lambda: len(set(attacked.heads().values())) == 1)
    log = attacked.log("node-1")
    assert "internal error" not in log
    assert "Traceback" not in log
