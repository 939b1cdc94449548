"""`acp doctor` on a real cluster: well, without its coordinator, without a quorum, with careless files."""

from __future__ import annotations

import shutil

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import Answer, Cluster, until

from replication.cli.main import ExitCode
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster


def test_the_doctor_sees_what_happens(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.settle()
    well = until(lambda: finds_nothing(cluster), "nothing is wrong")
    assert well.out == ""
    assert "4 nodes answered" in well.err

    with cluster.client() as client:
        leader = client.status().coordinator
    cluster.kill(leader)
    hurt = cluster.acp("doctor", "--json")
    assert hurt.code == ExitCode.CONFLICT
    assert any(
        (item["severity"], item["subject"]) == ("warning", leader) and "nothing listens at" in item["what"]
        for item in hurt.json
    )

    other = next(node for node in cluster.genesis.members.ids if node != leader)
    cluster.kill(other)
    lost = cluster.acp("doctor", "--json", "--timeout", "8")
    assert lost.code == ExitCode.CONFLICT
    cluster.start_one(leader)
    cluster.start_one(other)
    until(lambda: finds_nothing(cluster), "both are back, and sign")

    keys = [cluster.home(leader) / "tls" / "node.key", cluster.home(leader) / "keys" / "signing.pem"]
    keys += [cluster.directory / "ca" / "ca.key", cluster.directory / "clients" / "viewer.key"]
    for key in keys:
        key.chmod(0o644)

    def careless() -> bool:
        found = {(item["severity"], item["subject"]) for item in cluster.acp("doctor", "--json").json}
        return found == {("critical", str(key)) for key in keys}

    until(careless, "these keys are found, and nothing else")
    for key in keys:
        key.chmod(0o600)
    until(lambda: finds_nothing(cluster))


def test_a_shorter_record_that_is_another_one_is_found(
    make_cluster: MakeCluster, approving: PolicyChoice
) -> None:
    """The same members live twice: one of them comes back with the shorter record of the other life."""
    cluster = make_cluster(policy=approving, start=False)
    lives = cluster.directory.parent
    homes = {node: cluster.home(node) / "data" for node in cluster.genesis.members.ids}
    for node, data in homes.items():
        shutil.copytree(data, lives / f"new-{node}")
    cluster.start()
    decide(cluster, "one-life", 1)
    cluster.settle()
    cluster.local.stop()
    other_life = homes["node-4"].rename(lives / "other-life")
    for node, data in homes.items():
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(lives / f"new-{node}", data)
    cluster.start()
    decide(cluster, "another-life", 3)
    cluster.settle()
    until(lambda: finds_nothing(cluster))

    cluster.kill("node-4")
    shutil.rmtree(homes["node-4"])
    other_life.rename(homes["node-4"])
    cluster.start_one("node-4")

    def divergence() -> list[str]:
        found = cluster.acp("doctor", "--json").json
        return [
            item["what"]
            for item in found
            if "records diverge" in item["what"] and all(node in item["what"] for node in homes)
        ]

    (what,) = until(divergence, "the doctor compares the records")
    assert "node-1, node-2, node-3: " in what
    assert "; node-4: " in what


def finds_nothing(cluster: Cluster) -> Answer | None:
    """What the doctor says of a cluster with which nothing is wrong. A node that did not answer in time, on a
    machine that stood still, is a finding."""
    answer = cluster.acp("doctor")
    return answer if answer.code == ExitCode.OK else None


def decide(cluster: Cluster, target: str, count: int) -> None:
    with cluster.client() as client:
        for number in range(count):
            assert client.propose("quarantine", f"{target}-{number}", wait_for_decision=True).approved
