"""The load behind `acp bench`, on servers that decide at once: what is counted, and that losses are found."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.cli.fake_cluster import FakeCluster

from replication.cli.load import Measurement, measure
from replication.cli.main import main
from replication.client import open_folder

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path / "cluster") as cluster:
        yield cluster


def run(fake: FakeCluster, clients: int = 4, *, spread: bool = True) -> Measurement:
    return asyncio.run(measure(open_folder(fake.directory), clients=clients, seconds=0.3, spread=spread))


def test_every_decision_is_counted_once(fake: FakeCluster) -> None:
    measurement = run(fake)
    document = measurement.as_document()
    warm_up = 2 * 4
    assert document["decisions"] == len(fake.state.proposals) - warm_up > 4
    assert document["outcomes"] == {"approved": document["decisions"]}
    assert document["latency_p50_ms"] <= document["latency_p99_ms"] <= document["latency_max_ms"]
    assert measurement.complete
    assert {node for method, node in fake.calls if method == "Propose"} == set(fake.genesis.members.ids)


def test_without_spread_one_node_gets_everything(fake: FakeCluster) -> None:
    run(fake, spread=False)
    assert {node for method, node in fake.calls if method == "Propose"} == {"node-1"}


def test_a_node_that_dies_does_not_stop_it(fake: FakeCluster) -> None:
    killer = threading.Timer(0.1, fake.stop, ["node-2"])
    killer.start()
    measurement = run(fake)
    killer.join()
    assert measurement.reachable == ("node-1", "node-3", "node-4")
    assert measurement.complete
    assert measurement.load.decisions


def test_errors_are_counted_by_reason(fake: FakeCluster) -> None:
    call = ["Propose", grpc.StatusCode.RESOURCE_EXHAUSTED]
    trouble = threading.Timer(0.15, fake.fail_next, call, {"reason": "BUSY"})
    trouble.start()
    measurement = run(fake)
    trouble.join()
    assert measurement.load.errors == {"BUSY": 1}


def test_a_decision_that_a_node_lost_is_found(fake: FakeCluster) -> None:
    fake.state.forgotten = {"prop-0010"}
    measurement = run(fake)
    assert set(measurement.missing) == set(fake.genesis.members.ids)
    assert all(ids == ("prop-0010",) for ids in measurement.missing.values())
    assert not measurement.complete


def test_bench_on_a_running_cluster(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--dir", str(fake.directory), "--seconds", "0.2", "--clients", "2"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    assert main(arguments) == 0
    assert "Every acknowledged decision is on every reachable node." in capsys.readouterr().out
    fake.state.forgotten = set(fake.state.proposals)
    fake.state.forgotten |= {f"prop-{number:04d}" for number in range(1, 9999)}
    assert main(arguments) == 1
    assert "MISSING" in capsys.readouterr().out
