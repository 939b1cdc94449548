"""`acp doctor` on a real cluster: well, without its coordinator, without a quorum, with careless files."""

from __future__ import annotations

import shutil

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import Cluster, until

from replication.cli.main import ExitCode
from replication.node.local.provision import PolicyChoice

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]


def test_the_doctor_sees_what_happens(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.settle()
    well = cluster.acp("doctor")
    assert (well.code, well.out) == (ExitCode.OK, ""), well.out + well.err
    assert "4 nodes answered" in well.err

    with cluster.client() as client:
        leader = client.status().coordinator
    cluster.kill(leader)
    hurt = cluster.acp("doctor", "--json")
    assert hurt.code == ExitCode.CONFLICT
    about = {(item["severity"], item["subject"]) for item in hurt.json}
    assert ("warning", leader) in about
    assert any("nothing listens at" in item["what"] for item in hurt.json)

    other = next(node for node in cluster.genesis.members.ids if node != leader)
    cluster.kill(other)
    lost = cluster.acp("doctor", "--json", "--timeout", "8")
    assert lost.code == ExitCode.CONFLICT
    cluster.start_one(leader)
    cluster.start_one(other)
    until(lambda: cluster.acp("doctor").code == ExitCode.OK, "both are back, and sign")

    keys = [cluster.home(leader) / "tls" / "node.key", cluster.home(leader) / "keys" / "signing.pem"]
    keys += [cluster.directory / "ca" / "ca.key", cluster.directory / "clients" / "viewer.key"]
    for key in keys:
        key.chmod(0o644)
    careless = cluster.acp("doctor", "--json")
    found = {(item["severity"], item["subject"]) for item in careless.json}
    assert found == {("critical", str(key)) for key in keys}
    for key in keys:
        key.chmod(0o600)
    assert cluster.acp("doctor").code == ExitCode.OK


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
    assert cluster.acp("doctor").code == ExitCode.OK

    cluster.kill("node-4")
    shutil.rmtree(homes["node-4"])
    other_life.rename(homes["node-4"])
    cluster.start_one("node-4")

    def divergence() -> list[str]:
        found = cluster.acp("doctor", "--json").json
        return [item["what"] for item in found if "records diverge" in item["what"]]

    (what,) = until(divergence, "the doctor compares the records")
    assert "node-1, node-2, node-3: " in what
    assert "; node-4: " in what


def decide(cluster: Cluster, target: str, count: int) -> None:
    with cluster.client() as client:
        for number in range(count):
            assert client.propose("quarantine", f"{target}-{number}", wait_for_decision=True).approved
