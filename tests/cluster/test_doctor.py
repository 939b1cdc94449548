"""`acp doctor` on a real cluster: well, without its coordinator, without a quorum, with careless files."""

from __future__ import annotations

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import until

from replication.cli.main import ExitCode

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
