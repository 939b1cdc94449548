"""Fixtures of the tests with real node processes. Each module there is marked `cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.real_cluster import Cluster, made_cluster

from replication.node.local.provision import PolicyChoice

APPROVE_ALL = '[[rule]]\nwhen = "true"\nvote = "approve"\nreason = "test"\n'

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def approving(tmp_path_factory: pytest.TempPathFactory) -> PolicyChoice:
    """A policy that approves everything."""
    file = tmp_path_factory.mktemp("policy") / "approve.toml"
    file.write_text(APPROVE_ALL, encoding="utf-8")
    return PolicyChoice("cel", file=file)


@pytest.fixture(scope="module")
def manual_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four voters that wait to be told, for tests that leave them running."""
    with made_cluster(tmp_path_factory.mktemp("manual") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def approving_cluster(tmp_path_factory: pytest.TempPathFactory, approving: PolicyChoice) -> Iterator[Cluster]:
    """Four voters that approve everything, for tests that leave them running."""
    with made_cluster(tmp_path_factory.mktemp("approving") / "cluster", policy=approving) as cluster:
        yield cluster


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """Makes clusters of a test's own; all are stopped at its end."""
    made: list[Any] = []

    def make(name: str = "cluster", **options: Any) -> Cluster:
        context = made_cluster(tmp_path / name, **options)
        made.append(context)
        return context.__enter__()

    yield make
    for context in made:
        context.__exit__(None, None, None)
