"""The load behind `acp bench`, on servers that decide at once: what is counted, and that losses are found."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from tests.cli.fake_cluster import FakeCluster

from replication.cli import load
from replication.cli.load import WARM_UP_PROPOSALS, Measurement, measure
from replication.cli.main import main
from replication.client import open_folder

pytestmark = pytest.mark.filterwarnings("error")

CLIENTS = 4
WARM_UP = WARM_UP_PROPOSALS * CLIENTS

LoadUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path / "cluster") as cluster:
        yield cluster


def run(fake: FakeCluster, clients: int = CLIENTS, *, spread: bool = True) -> Measurement:
    return asyncio.run(measure(open_folder(fake.directory), clients=clients, seconds=0.3, spread=spread))


@pytest.fixture
def load_until(monkeypatch: pytest.MonkeyPatch) -> LoadUntil:
    """The time of a load stands still until a condition holds: on a slow machine it only takes longer."""

    def hold(condition: Callable[[], bool]) -> None:
        began = time.perf_counter()
        clock = SimpleNamespace(
            perf_counter=lambda: time.perf_counter() if condition() else began,
            process_time=time.process_time,
        )
        monkeypatch.setattr(load, "time", clock)

    return hold


def test_every_decision_is_counted_once(fake: FakeCluster, load_until: LoadUntil) -> None:
    load_until(lambda: len(fake.state.proposals) >= WARM_UP + 3 * CLIENTS)
    measurement = run(fake)
    document = measurement.as_document()
    assert document["decisions"] == len(fake.state.proposals) - WARM_UP >= 3 * CLIENTS
    assert document["outcomes"] == {"approved": document["decisions"]}
    assert document["latency_p50_ms"] <= document["latency_p99_ms"] <= document["latency_max_ms"]
    assert measurement.complete
    assert {node for method, node in fake.calls if method == "Propose"} == set(fake.genesis.members.ids)


def test_without_spread_one_node_gets_everything(fake: FakeCluster) -> None:
    run(fake, spread=False)
    assert {node for method, node in fake.calls if method == "Propose"} == {"node-1"}


def test_a_node_that_dies_does_not_stop_it(fake: FakeCluster, load_until: LoadUntil) -> None:
    under_load, is_dead = threading.Event(), threading.Event()

    def kill() -> None:
        if under_load.wait(60):
            fake.stop("node-2")
            is_dead.set()

    def is_over() -> bool:
        if len(fake.state.proposals) > WARM_UP + CLIENTS:
            under_load.set()
        return is_dead.is_set()

    killer = threading.Thread(target=kill)
    killer.start()
    load_until(is_over)
    measurement = run(fake)
    killer.join()
    assert measurement.reachable == ("node-1", "node-3", "node-4")
    assert measurement.complete
    assert measurement.load.decisions


def test_errors_are_counted_by_reason(fake: FakeCluster, load_until: LoadUntil) -> None:
    load_until(lambda: len(fake.state.proposals) >= WARM_UP + 3 * CLIENTS)
    fake.fail_next("Propose", grpc.StatusCode.RESOURCE_EXHAUSTED, after=WARM_UP, reason="BUSY")
    measurement = run(fake)
    assert measurement.load.errors == {"BUSY": 1}
    assert len(measurement.load.decisions) >= 3 * CLIENTS, "the others go on"


def test_a_decision_that_a_node_lost_is_found(fake: FakeCluster, load_until: LoadUntil) -> None:
    load_until(lambda: len(fake.state.proposals) > 10)
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
