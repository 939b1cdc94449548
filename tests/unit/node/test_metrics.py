"""Metrics and health of a node, from what it knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from tests.support.real_cluster import until
from tests.support.snapshots import snapshot

from replication.node.contacts import PeerState
from replication.node.histogram import DECISION_BOUNDS_US, DURATION_BOUNDS_US, Histogram
from replication.node.local.provision import pick_free_ports
from replication.node.metrics import Snapshot, node_metrics
from replication.node.monitoring import MAX_REQUESTS, Monitoring, MonitoringError, why_not_ready


def value(found: Snapshot, name: str, **labels: str) -> float:
    (sample,) = [
        sample
        for metric in node_metrics(found)
        for sample in metric.samples
        if sample.name == name and sample.labels == labels
    ]
    return sample.value


def test_what_a_scrape_shows() -> None:
    found = snapshot()
    assert value(found, "acp_view") == 3
    assert value(found, "acp_is_coordinator") == 0
    assert value(found, "acp_decisions_total", decision="approved") == 5
    assert value(found, "acp_executions_unconfirmed") == 1
    assert value(found, "acp_member_faulty", member="node-3") == 1
    assert value(found, "acp_member_silent_seconds", member="node-2") == 0.05
    assert value(found, "acp_member_refused_messages_total", member="node-4") == 4
    assert value(found, "acp_member_queue_messages", member="node-2") == 1
    assert value(found, "acp_votes_cast_total", value="approve") == 3
    assert value(found, "acp_votes_recorded_total", value="abstain") == 0
    assert value(found, "acp_evidence_total") == 1
    assert value(found, "acp_rpcs_total", method="VotingService.Propose", code="OK") == 1
    assert value(found, "acp_rpcs_under_way", method="VotingService.Watch") == 2
    assert value(found, "acp_write_seconds_bucket", le="0.0025") == 1
    assert value(found, "acp_write_seconds_bucket", le="0.05") == value(found, "acp_write_seconds_count") == 2
    assert value(found, "acp_write_seconds_sum") == 0.042
    assert value(found, "acp_decision_seconds_bucket", le="60.0") == 1
    assert value(found, "acp_rpc_seconds_count", method="VotingService.Propose") == 1
    assert value(found, "acp_certificate_expiry_timestamp_seconds", certificate="authority") > 1e9


@pytest.mark.parametrize(
    ("size", "head", "diverges"), [(20, 1, 0), (20, 2, 1), (19, 2, 0)], ids=["same", "other", "behind"]
)
def test_divergence_is_another_head_at_the_same_length(size: int, head: int, diverges: int) -> None:
    found = snapshot(audit_size=size, audit_head=bytes([head]) * 32)
    assert value(found, "acp_member_diverges", member="node-2") == diverges


def test_names_keep_to_the_conventions() -> None:
    for metric in node_metrics(snapshot()):
        assert metric.name.startswith("acp_")
        assert metric.documentation.endswith(".")
        assert (metric.type == "counter") == all(sample.name.endswith("_total") for sample in metric.samples)


def test_a_bound_belongs_to_its_bucket() -> None:
    times = Histogram((10, 20))
    for duration_us in (0, 10, 11, 20, 21, 10**9):
        times.add(duration_us)
    assert list(times.cumulative()) == [("1e-05", 2), ("2e-05", 4), ("+Inf", 6)]
    assert (times.count, times.total_us) == (6, 10**9 + 62)


def test_bounds_rise() -> None:
    for bounds_us in (DURATION_BOUNDS_US, DECISION_BOUNDS_US):
        assert list(bounds_us) == sorted(set(bounds_us))


def test_ready() -> None:
    assert why_not_ready(snapshot().status, "node-1") == ""
    assert "quorum" in why_not_ready(snapshot(can_progress=False).status, "node-1")
    assert "lost its disk" in why_not_ready(snapshot(muted="lost its disk").status, "node-1")


class Listener:
    """A monitoring listener on a loop of its own."""

    def __init__(self) -> None:
        (port,) = pick_free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.status: dict[str, Any] = {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

        async def look() -> Snapshot:
            return snapshot(**self.status)

        async def make() -> Monitoring:
            return Monitoring(f"127.0.0.1:{port}", look, lambda: snapshot(**self.status).status, "node-1")

        self.port = port
        self.monitoring = asyncio.run_coroutine_threadsafe(make(), self.loop).result(10)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urlopen(self.url + path, timeout=20) as response:  # our own loopback address
                return response.status, response.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def close(self) -> None:
        self.monitoring.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def test_pages(listener: Listener) -> None:
    status, text = listener.get("/metrics")
    assert status == 200
    assert b'acp_decisions_total{decision="approved"} 5.0' in text
    assert b"process_cpu_seconds_total" in text
    assert listener.get("/livez") == (200, b'{"live": true}\n')
    assert json.loads(listener.get("/readyz")[1]) == {"ready": True, "why": ""}
    listener.status = {"can_progress": False}
    code, why = listener.get("/readyz")
    assert (code, json.loads(why)["ready"]) == (503, False)
    assert listener.get("/livez")[0] == 200
    assert listener.get("/other")[0] == 404


def test_a_loop_that_hangs_is_not_alive(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.node.monitoring.ANSWER_SECONDS", 0.2)
    released = threading.Event()
    listener.loop.call_soon_threadsafe(released.wait)
    try:
        assert listener.get("/livez")[0] == 503
    finally:
        released.set()


def test_connections_are_bounded(listener: Listener) -> None:
    """Who says nothing holds a thread for a while; the rest is turned away at once, and then there is room
    again."""
    idle = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(MAX_REQUESTS)]
    try:
        with socket.create_connection(("127.0.0.1", listener.port)) as more:
            more.settimeout(60)
            assert more.recv(1) == b""
    finally:
        for connection in idle:
            connection.close()

    def has_room() -> bool:
        with contextlib.suppress(OSError):
            return listener.get("/livez")[0] == 200
        return False

    until(has_room, "there is room again")


def test_an_address_in_use(listener: Listener) -> None:
    async def another() -> None:
        with pytest.raises(MonitoringError, match="cannot be served"):
            Monitoring(
                f"127.0.0.1:{listener.port}", listener.monitoring._look, lambda: snapshot().status, "x"
            )

    asyncio.run(another())


@pytest.mark.parametrize(
    ("claims", "is_ready"),
    [((7, 7, 7), True), ((9_000, 7, 7), True), ((57, 57, 7), True), ((58, 58, 7), False)],
)
def test_a_node_that_catches_up_is_not_ready_and_one_liar_cannot_say_so(
    claims: tuple[int, ...], is_ready: bool
) -> None:
    peers = {
        f"node-{number}": PeerState(height, 20, bytes(32), 0, 50, reachable=True, refused=0)
        for number, height in enumerate(claims, 2)
    }
    why = why_not_ready(snapshot(peers=peers).status, "node-1")
    assert ("catching up" not in why, not why) == (is_ready, is_ready)
