"""Coordinators that die, sleep and return; too few nodes; disks that were lost or rolled back."""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, until

from replication.cli.load import LoadResult
from replication.cli.main import ExitCode
from replication.client import AsyncClient, Client, open_folder
from replication.client.errors import RemoteError, UnavailableError
from replication.client.model import AuditEntry, ClusterStatus, Decision
from replication.node.config import Timing
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

BASE_TIMEOUT_SECONDS = Timing().idle_timeout_ms / 1000
FAILOVER_SECONDS = 3 * BASE_TIMEOUT_SECONDS
"""Within this time of the coordinator's death the next decision must be acknowledged."""

CLEAR_ERROR_SECONDS = 8.0
TRIES = 3
TICK_SECONDS = 0.02
NOTICED_SECONDS = 0.15


def state(cluster: Cluster, node: str) -> ClusterStatus | None:
    """What a node says of itself; None when it does not answer."""
    with Client(open_folder(cluster.directory, "viewer").only(node), rounds=1) as client:
        return client.survey(timeout_seconds=1.0).get(node)


def coordinator(cluster: Cluster) -> str:
    """Who coordinates the highest view that any node is in."""
    with cluster.client("viewer") as client:
        answers: dict[str, ClusterStatus] = until(lambda: client.survey(timeout_seconds=1.0))
    return max(answers.values(), key=lambda answer: (answer.epoch, answer.view)).coordinator


def entries(cluster: Cluster, event_type: str, node: str | None = None) -> list[AuditEntry]:
    with cluster.client("viewer") as client:
        return list(client.audit_entries(0, 500, event_type=event_type, node=node).entries)


def decide(cluster: Cluster, target: str, node: str | None = None) -> str:
    """One approved proposal; its id."""
    with cluster.client() as client:
        proposal = client.propose(
            "restrict", target, wait_for_decision=True, node=node, timeout_seconds=WAIT_SECONDS
        )
    assert proposal.approved
    return proposal.id


def assert_known(cluster: Cluster, node: str, decisions: dict[str, Decision]) -> None:
    with cluster.client() as client:
        known = {item.id: item.decision for item in client.list_proposals(page_size=500, node=node)}
    lost = [key for key, decision in decisions.items() if known.get(key) is not decision]
    assert not lost, f"{node} lost acknowledged decisions"


class Load:
    """Clients, spread over some nodes, that propose and wait; `acknowledged` has the time of each answer."""

    def __init__(self, cluster: Cluster, nodes: tuple[str, ...], clients: int = 4) -> None:
        handles = [open_folder(cluster.directory).only(node) for node in nodes]
        self._clients = [AsyncClient(handles[index % len(handles)], rounds=3) for index in range(clients)]
        self._is_over = False
        self.stood_still = 0.0
        """Seconds since the strike in which this process, which does little, did not get its turn."""
        self.acknowledged: list[float] = []
        self.result = LoadResult()

    async def _work(self, client: AsyncClient) -> None:
        while not self._is_over:
            try:
                proposal = await client.propose(
                    "restrict", "agent-1", wait_for_decision=True, timeout_seconds=20.0
                )
            except RemoteError as error:
                self.result.errors[error.reason] += 1
                await asyncio.sleep(0.05)
                continue
            self.acknowledged.append(time.monotonic())
            self.result.decisions[proposal.id] = proposal.decision

    async def run(self, strike: Callable[[], None]) -> float:
        """Load, then `strike`, then load until something begun later is decided; the time of the strike."""
        tasks = [asyncio.ensure_future(self._work(client)) for client in self._clients]
        try:
            await self._more_than(20)
            # `strike` blocks for as long as it takes to end a process, which is short.
            struck = time.monotonic()
            strike()
            self.stood_still = 0.0
            await self._more_than(len(self.acknowledged) + 20)
        finally:
            self._is_over = True
            await asyncio.wait(tasks, timeout=WAIT_SECONDS)
            for client in self._clients:
                await client.disconnect()
        return struck

    async def _more_than(self, count: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.acknowledged) <= count:
                due = time.monotonic() + TICK_SECONDS
                await asyncio.sleep(TICK_SECONDS)
                late = time.monotonic() - due
                self.stood_still += late if late > NOTICED_SECONDS else 0.0


def strike_under_load(
    cluster: Cluster, others: tuple[str, ...], strike: Callable[[], None]
) -> tuple[float, dict[str, Decision], bool]:
    """Seconds from the strike to the first decision that was acknowledged after it and needed a new
    coordinator, by the blocks' own times; what was acknowledged in all; and whether the seconds say nothing
    of the cluster: no new coordinator was needed, or the machine stood still."""
    load = Load(cluster, others)
    wall = time.time() - time.monotonic()
    struck = asyncio.run(load.run(strike))
    after = [answer for answer in load.acknowledged if answer > struck]
    # Answers under way when the coordinator died come at once: only blocks of its successor count.
    recorded = [
        entry for entry in all_entries(cluster, "coordinator") if entry.time_ms >= (struck + wall) * 1000
    ]
    if not recorded:  # another one had become the coordinator already
        return math.inf, load.result.decisions, True
    tallies = [
        entry.time_ms
        for entry in all_entries(cluster, "tally")
        if (entry.height, entry.time_ms) >= (recorded[0].height, recorded[0].time_ms)
    ]
    by_block = tallies[0] / 1000 - (struck + wall)
    successors = [answer - struck for answer in after if answer - struck >= by_block - 0.001]
    return max(by_block, successors[0]), load.result.decisions, load.stood_still > 0


def fail_over(
    cluster: Cluster,
    victims: Callable[[str], tuple[str, ...]],
    strike: Callable[..., None],
    heal: Callable[..., None],
) -> tuple[float, tuple[str, ...]]:
    """Strike the coordinator, and whom `victims` names with it, under load; check that nothing acknowledged
    is lost, heal them, and check it on them too. Seconds to the next decision, and who was struck.

    It has to be in time, also on a slow machine. Only one that stood still meanwhile gets another try."""
    decisions: dict[str, Decision] = {}
    for _ in range(TRIES):
        struck = victims(coordinator(cluster))
        others = tuple(node for node in nodes_of(cluster) if node not in struck)
        took, acknowledged, says_nothing = strike_under_load(cluster, others, lambda: strike(*struck))  # noqa: B023
        decisions |= acknowledged
        cluster.settle(answering=len(others))
        for node in others:
            assert_known(cluster, node, decisions)
        heal(*struck)
        cluster.settle()
        for node in struck:
            assert_known(cluster, node, decisions)
        if took < FAILOVER_SECONDS:
            return took, struck
        if not says_nothing:
            break
    raise AssertionError(
        f"the next decision took {took:.3f} s, and not less than {FAILOVER_SECONDS} s before"
    )


def all_entries(cluster: Cluster, event_type: str) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    with cluster.client("viewer") as client:
        while page := client.audit_entries(
            found[-1].sequence + 1 if found else 0, 500, event_type=event_type
        ).entries:
            found += page
    return found


def nodes_of(cluster: Cluster) -> tuple[str, ...]:
    return cluster.genesis.members.ids


@pytest.fixture
def cluster(make_cluster: MakeCluster, approving: PolicyChoice) -> Cluster:
    return make_cluster(policy=approving)


def test_a_killed_coordinator_is_replaced_in_time_and_returns_as_a_follower(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    took, (leader,) = fail_over(cluster, lambda leader: (leader,), cluster.kill, cluster.start_one)
    record_property("failover_seconds", round(took, 3))
    until(lambda: len(set(cluster.heads().values())) == 1)
    assert coordinator(cluster) != leader, "who was away does not take over when it returns"
    until(lambda: entries(cluster, "coordinator", leader)[-1].actor_id == coordinator(cluster))
    decide(cluster, "agent-back", leader)
    cluster.verified_exports()


def test_a_coordinator_that_slept_wakes_up_and_does_no_harm(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    took, (leader,) = fail_over(
        cluster,
        lambda leader: (leader,),
        lambda leader: cluster.signal(leader, signal.SIGSTOP),
        lambda leader: cluster.signal(leader, signal.SIGCONT),
    )
    record_property("failover_seconds", round(took, 3))
    assert coordinator(cluster) != leader
    decide(cluster, "agent-awake", leader)
    assert not entries(cluster, "evidence")
    cluster.settle()
    cluster.verified_exports()


@pytest.mark.parametrize("places", [3, 1], ids=["another", "the-next"])
def test_two_faulty_of_seven(
    make_cluster: MakeCluster,
    approving: PolicyChoice,
    places: int,
    record_property: Callable[[str, object], None],
) -> None:
    """The coordinator dies, and another falls asleep. If that is the one that would be next, there are two
    view changes, both with the base timeout: the first f coordinators in a row may well be faulty."""
    cluster = make_cluster(nodes=7, policy=approving)
    ids = nodes_of(cluster)

    def strike(leader: str, following: str) -> None:
        cluster.signal(following, signal.SIGSTOP)
        cluster.kill(leader)

    def heal(leader: str, following: str) -> None:
        cluster.start_one(leader)
        cluster.signal(following, signal.SIGCONT)

    took, (_, following) = fail_over(
        cluster, lambda leader: (leader, ids[(ids.index(leader) + places) % 7]), strike, heal
    )
    record_property("failover_seconds", round(took, 3))
    decide(cluster, "agent-seven", following)
    cluster.settle()
    cluster.verified_exports()


def test_without_a_quorum_of_nodes_it_says_so_and_goes_on_by_itself(cluster: Cluster) -> None:
    first = decide(cluster, "agent-before")
    cluster.settle()
    leader = coordinator(cluster)
    gone = (leader, next(node for node in reversed(nodes_of(cluster)) if node != leader))
    left = next(node for node in nodes_of(cluster) if node not in gone)
    for node in gone:
        cluster.kill(node)
    until(lambda: "CANNOT DECIDE" in cluster.acp("status").out, "acp status notices")
    with Client(open_folder(cluster.directory).only(left), rounds=1) as client:
        begin = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.propose("restrict", "agent-kept", request_id="kept", timeout_seconds=WAIT_SECONDS)
        assert caught.value.reason == "NO_QUORUM_OF_NODES"
        assert time.monotonic() - begin < CLEAR_ERROR_SECONDS
        assert client.get_proposal(first).approved, "reads still work"
        cluster.start_one(gone[0])
        until(
            lambda: (
                [item.target for item in client.list_proposals() if item.decided].count("agent-kept") == 1
            ),
            "what was kept is decided without being sent again",
        )
        again = client.propose(
            "restrict",
            "agent-kept",
            request_id="kept",
            wait_for_decision=True,
            timeout_seconds=WAIT_SECONDS,
        )
        assert again.approved
        assert [item.id for item in client.list_proposals() if item.target == "agent-kept"] == [again.id]
    until(lambda: "CANNOT DECIDE" not in cluster.acp("status").out)
    cluster.start_one(gone[1])
    cluster.settle()
    cluster.verified_exports()


def epoch_of(cluster: Cluster, node: str) -> int:
    answer = state(cluster, node)
    return -1 if answer is None else answer.epoch


def rejoins(cluster: Cluster, node: str) -> list[AuditEntry]:
    """As the node's own record has them."""
    return [
        entry
        for entry in entries(cluster, "membership", node)
        if entry.actor_id == node and '"rejoin"' in str(entry.data).replace("'", '"')
    ]


def voters(cluster: Cluster, proposal_id: str) -> set[str]:
    with cluster.client("viewer") as client:
        return {vote.voter_id for vote in client.get_proposal(proposal_id).votes}


@pytest.mark.parametrize("role", ["follower", "coordinator"])
def test_a_node_without_its_disk_is_let_back_in(cluster: Cluster, role: str) -> None:
    decisions = [decide(cluster, f"agent-{number}") for number in range(3)]
    leader = coordinator(cluster)
    victim = leader if role == "coordinator" else next(n for n in nodes_of(cluster) if n != leader)
    cluster.kill(victim)
    shutil.rmtree(cluster.home(victim) / "data")
    cluster.start_one(victim)
    until(lambda: epoch_of(cluster, victim) == 1, "the rejoin is ordered and followed")
    assert len(rejoins(cluster, victim)) == 1
    assert "observer" in cluster.log(victim)
    cluster.settle()
    with cluster.client() as client:
        for number in decisions:
            assert client.get_proposal(number, node=victim).approved
    other = next(node for node in nodes_of(cluster) if node not in (victim, coordinator(cluster)))
    cluster.kill(other)
    decide(cluster, "agent-needs-it", victim)  # three of four are left, so that it must sign
    cluster.start_one(other)
    cluster.settle()
    cluster.verified_exports()


def test_a_node_with_an_old_backup_is_muted_and_let_back_in(cluster: Cluster) -> None:
    decide(cluster, "agent-old")
    cluster.settle()
    victim = next(node for node in nodes_of(cluster) if node != coordinator(cluster))
    data = cluster.home(victim) / "data"
    backup = cluster.home(victim) / "backup"
    assert cluster.stop(victim) == ExitCode.OK
    shutil.copytree(data, backup)
    cluster.start_one(victim)
    until(lambda: not cluster.settle().muted)
    other = next(node for node in nodes_of(cluster) if node not in (victim, coordinator(cluster)))
    cluster.kill(other)  # so that the victim must sign, which it would have forgotten
    decisions = [decide(cluster, f"agent-{number}", victim) for number in range(3)]
    cluster.start_one(other)
    cluster.settle()
    cluster.kill(victim)
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    cluster.start_one(victim)
    until(lambda: epoch_of(cluster, victim) == 1, "it is found out, and let back in")
    assert len(rejoins(cluster, victim)) == 1
    cluster.settle()
    with cluster.client() as client:
        for number in decisions:
            assert client.get_proposal(number, node=victim).approved
    assert not entries(cluster, "evidence"), "it contradicted nothing that it had signed"
    other = next(node for node in nodes_of(cluster) if node not in (victim, coordinator(cluster)))
    cluster.kill(other)
    decide(cluster, "agent-needs-it", victim)
    cluster.start_one(other)
    cluster.settle()
    cluster.verified_exports()


def test_a_second_process_on_the_same_home_is_refused(cluster: Cluster) -> None:
    home = cluster.home("node-2")
    second = subprocess.run(
        [sys.executable, "-m", "replication.cli", "node", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert second.returncode == ExitCode.OPERATOR
    assert f"in use by process {cluster.pid('node-2')}" in second.stderr
    decide(cluster, "agent-unharmed", "node-2")
