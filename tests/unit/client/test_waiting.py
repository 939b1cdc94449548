"""When a cluster counts as ready: all answer, hear each other, and sign, as far as that is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.fake_cluster import FakeCluster

from replication.client import ClusterPicture, open_folder, wait_until_ready, waiting
from replication.errors import OperatorError


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path / "cluster") as cluster:
        yield cluster


def ready(fake: FakeCluster, seconds: float = 60.0) -> ClusterPicture:
    return asyncio.run(wait_until_ready(open_folder(fake.directory), seconds=seconds))


def test_a_node_that_does_not_sign_yet_is_waited_for(fake: FakeCluster) -> None:
    fake.state.muted_for = {"node-3": 3}
    assert ready(fake).muted == {}
    assert [node for method, node in fake.calls if method == "GetStatus"].count("node-3") == 4


def test_a_node_that_goes_on_not_signing_is_not(fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SIGNING_SECONDS", 0.3)
    fake.state.muted_for = {"node-3": 1_000_000}
    assert ready(fake).muted.keys() == {"node-3"}


def test_a_node_that_is_not_there_is_named(fake: FakeCluster) -> None:
    fake.stop("node-2")
    with pytest.raises(OperatorError, match="these do not answer: node-2 at "):
        ready(fake, 1.0)
