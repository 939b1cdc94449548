"""Traces of real nodes: one a proposal, put together from what each node tells by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.collector import Collector, collector
from tests.support.real_cluster import WAIT_SECONDS, Cluster, known, until

from replication.client import call_id
from replication.node.config import read_config, write_config
from replication.node.local.provision import PolicyChoice, pick_free_ports

pytestmark = pytest.mark.cluster


def trace_to(cluster: Cluster, endpoint: str) -> None:
    for member in cluster.genesis.members.ids:
        file = cluster.home(member) / "config.toml"
        write_config(file, replace(read_config(file), tracing=endpoint))


def told(found: Collector, trace: str, name: str) -> list[str]:
    """Who has told a span of this name."""
    return sorted(span.member for span in found.spans if (span.trace, span.name) == (trace, name))


def test_one_trace_holds_what_all_nodes_did(make_cluster: MakeCluster, approving: PolicyChoice) -> None:
    cluster = make_cluster(policy=approving, start=False)
    members = list(cluster.genesis.members.ids)
    with collector() as found:
        trace_to(cluster, found.endpoint)
        cluster.start()
        with cluster.client() as client:
            with call_id("web-4711"):
                proposal = client.propose(
                    "quarantine",
                    "agent-7",
                    node="node-2",
                    wait_for_decision=True,
                    timeout_seconds=WAIT_SECONDS,
                )
            known(client, proposal, "node-3")
            client.execute(proposal.id, "succeeded", node="node-3")
            voted = {vote.voter_id for vote in client.get_proposal(proposal.id, node="node-3").votes}
        until(lambda: len({span.member for span in found.spans if span.name == "execute"}) == 4)
        until(lambda: any(span.name == "VotingService.Execute" for span in found.spans))
        (root,) = [span for span in found.spans if span.name == "proposal"]
        assert (root.member, root.parent, root.facts["acp.decision"]) == ("node-2", "", "approved")
        assert {(span.trace, span.parent) for span in found.spans if span is not root} == {
            (root.trace, root.id)
        }
        for name in ("order", "decide", "execute"):
            assert told(found, root.trace, name) == members, name
        # Who hears of a proposal with its decision has no vote to cast any more.
        assert voted <= set(told(found, root.trace, "vote"))
        assert len(told(found, root.trace, "vote")) == len(set(told(found, root.trace, "vote")))
        assert told(found, root.trace, "VotingService.Propose") == ["node-2"]
        assert told(found, root.trace, "VotingService.Execute") == ["node-3"]
        (call,) = [span for span in found.spans if span.name == "VotingService.Propose"]
        assert call.facts["acp.call"] == "web-4711"
        for span in found.spans:
            assert 0 <= span.ended_ns - span.began_ns < 60e9, span


def test_without_its_collector_a_cluster_decides(make_cluster: MakeCluster, approving: PolicyChoice) -> None:
    cluster = make_cluster(policy=approving, start=False)
    (port,) = pick_free_ports(1)
    trace_to(cluster, f"http://127.0.0.1:{port}/v1/traces")
    cluster.start()
    with cluster.client() as client:
        for number in range(10):
            decided = client.propose(
                "quarantine", f"agent-{number}", wait_for_decision=True, timeout_seconds=WAIT_SECONDS
            )
            assert decided.approved
    cluster.settle()
    cluster.stop("node-4")
    assert "stopped" in cluster.log("node-4"), "in good order"
