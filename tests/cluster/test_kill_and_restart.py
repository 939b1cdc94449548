"""kill -9 under load: nothing acknowledged is lost, the others go on, and whoever returns catches up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, until

from replication.cli.load import WARM_UP_PROPOSALS, Measurement, measure
from replication.cli.main import ExitCode
from replication.client import AsyncClient, RemoteError, open_folder
from replication.client.model import Decision
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

NODES = ("node-1", "node-2", "node-3", "node-4")
LOAD_SECONDS = 4.0
WARM_UP = len(NODES) * WARM_UP_PROPOSALS + 8
"""Proposals after which the load has begun: the first are made before anything is measured."""


def under_load(cluster: Cluster, action: Callable[[], object]) -> Measurement:
    """Load from eight clients at all nodes, with `action()` in the midst of it."""
    with cluster.client("viewer") as client:
        enough = client.summary().total_proposals + WARM_UP

    def strike() -> None:
        with cluster.client("viewer") as client:
            until(lambda: client.summary().total_proposals > enough, "the load has begun")
        action()

    with ThreadPoolExecutor(1) as pool:
        striking = pool.submit(strike)
        load = asyncio.run(
            measure(open_folder(cluster.directory), clients=8, seconds=LOAD_SECONDS, spread=True)
        )
        striking.result()
    return load


def coordinator(cluster: Cluster) -> str:
    with cluster.client("viewer") as client:
        return client.status().coordinator


@pytest.fixture
def cluster(make_cluster: MakeCluster, approving: PolicyChoice) -> Cluster:
    return make_cluster(policy=approving)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_any_other_node_can_be_killed(cluster: Cluster, index: int) -> None:
    leader = coordinator(cluster)
    victim = [node for node in NODES if node != leader][index]
    load = under_load(cluster, lambda: cluster.kill(victim))
    assert victim not in load.reachable
    assert cluster.settle(answering=3).answered == frozenset(NODES) - {victim}
    assert load.complete, "an acknowledged decision is missing, or the records differ"
    assert set(load.load.decisions.values()) == {Decision.APPROVED}
    with cluster.client() as client:
        after = client.propose(
            "restrict", "agent-after", wait_for_decision=True, timeout_seconds=WAIT_SECONDS
        )
        assert after.approved, "the cluster goes on without it"
        cluster.start_one(victim)
        picture = cluster.settle()
        assert picture.answered == frozenset(NODES)
        until(lambda: len(set(cluster.heads().values())) == 1)
        assert client.get_proposal(after.id, node=victim).approved
        known = {item.id: item.decision for item in client.list_proposals(page_size=500, node=victim)}
        assert all(known.get(key) is decision for key, decision in load.load.decisions.items())
        assert client.propose("restrict", "agent-back", wait_for_decision=True, node=victim).approved
    cluster.verified_exports()


def test_the_coordinator_can_be_killed(cluster: Cluster) -> None:
    leader = coordinator(cluster)
    load = under_load(cluster, lambda: cluster.kill(leader))
    assert load.complete, "an acknowledged decision is missing, or the records differ"
    with cluster.client() as client:
        after = client.propose(
            "restrict", "agent-after", wait_for_decision=True, timeout_seconds=WAIT_SECONDS
        )
        assert after.approved
        until(lambda: client.status().coordinator != leader)
        assert client.status().view > 0
        cluster.start_one(leader)
        cluster.settle()
        assert client.propose("restrict", "agent-back", wait_for_decision=True, node=leader).approved
    cluster.verified_exports()


async def decisions_until_all_are_gone(cluster: Cluster) -> dict[str, Decision]:
    """The decisions that eight clients were told of before no node answered any more."""
    acknowledged: dict[str, Decision] = {}

    async def work(client: AsyncClient) -> None:
        while True:
            try:
                proposal = await client.propose("restrict", "agent-1", wait_for_decision=True)
            except RemoteError:
                return
            acknowledged[proposal.id] = proposal.decision

    clients = [AsyncClient(open_folder(cluster.directory).starting_at(n), rounds=1) for n in range(8)]

    def kill_all() -> None:
        for node in NODES:
            cluster.signal(node, signal.SIGKILL)

    working = asyncio.gather(*(work(client) for client in clients))
    async with asyncio.timeout(WAIT_SECONDS):
        while len(acknowledged) <= 16:
            await asyncio.sleep(0.02)
    kill_all()
    await working
    for client in clients:
        await client.disconnect()
    return acknowledged


def test_all_nodes_can_be_killed_at_once(cluster: Cluster) -> None:
    acknowledged = asyncio.run(decisions_until_all_are_gone(cluster))
    assert acknowledged
    cluster.local.stop()
    cluster.start()
    cluster.settle()
    with cluster.client() as client:
        for node in NODES:
            known = {item.id: item.decision for item in client.list_proposals(page_size=500, node=node)}
            lost = [key for key, decision in acknowledged.items() if known.get(key) is not decision]
            assert not lost, f"{node} lost acknowledged decisions"
        assert client.propose(
            "restrict", "agent-after", wait_for_decision=True, timeout_seconds=WAIT_SECONDS
        ).approved
    cluster.verified_exports()


def test_a_node_that_was_stopped_for_a_while_catches_up(cluster: Cluster) -> None:
    """SIGSTOP: its connections stay, nothing comes, and then it goes on as if nothing had been."""
    leader = coordinator(cluster)
    victim = next(node for node in NODES if node != leader)
    load = under_load(cluster, lambda: cluster.signal(victim, signal.SIGSTOP))
    cluster.signal(victim, signal.SIGCONT)
    cluster.settle()
    assert not any(ids for node, ids in load.missing.items() if node != victim)
    with cluster.client() as client:
        known = {item.id: item.decision for item in client.list_proposals(page_size=500, node=victim)}
        assert all(known.get(key) is decision for key, decision in load.load.decisions.items())
    cluster.verified_exports()


def test_a_node_stops_in_good_order(cluster: Cluster) -> None:
    assert cluster.stop("node-4") == ExitCode.OK
    assert not (cluster.home("node-4") / "node.pid").exists()
    assert "level=error" not in cluster.log("node-4")
    with cluster.client() as client:
        assert client.propose("restrict", "agent-1", wait_for_decision=True).approved
