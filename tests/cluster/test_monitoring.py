"""Metrics and health of real nodes while a coordinator dies and a quorum is lost."""

from __future__ import annotations

import json
import re
from functools import partial
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, until

from replication.client import call_id
from replication.client.errors import InvalidRequestError, NotFoundError
from replication.node.config import read_config, split_address
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:  # loopback
            return response.status, response.read().decode()
    except URLError as error:
        code = getattr(error, "code", 0)
        return code, error.read().decode() if code else ""  # type: ignore[attr-defined]  # an HTTPError has it


def value(port: int, name: str, default: float | None = None) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", get(port, "/metrics")[1], re.MULTILINE)
    if found is None and default is not None:
        return default
    assert found is not None, name
    return float(found[1])


def metrics_port(cluster: Cluster, node: str) -> int:
    """Where `acp init --metrics` has put them."""
    listen = read_config(cluster.home(node) / "config.toml").monitoring
    assert listen is not None
    return split_address(listen)[1]


def has_logged(cluster: Cluster, node: str, pattern: str) -> bool:
    return re.search(pattern, cluster.log(node)) is not None


def test_metrics_and_health_tell_the_truth(make_cluster: MakeCluster, approving: PolicyChoice) -> None:
    cluster = make_cluster(policy=approving, metrics=True, start=False)
    ports = {node: metrics_port(cluster, node) for node in cluster.genesis.members.ids}
    cluster.start()
    with cluster.client() as client:
        made = client.propose("quarantine", "agent-7", wait_for_decision=True, timeout_seconds=WAIT_SECONDS)
        cluster.settle()
        voted = {vote.voter_id for vote in client.get_proposal(made.id).votes}
        for node, port in ports.items():
            assert value(port, 'acp_decisions_total{decision="approved"}') == 1
            assert value(port, "acp_decision_seconds_count") == 1
            assert value(port, 'acp_decision_seconds_bucket{le="+Inf"}') == 1
            assert value(port, 'acp_write_seconds_bucket{le="+Inf"}') >= value(port, "acp_height") >= 1
            # Who hears of a proposal with its decision has no vote to cast any more.
            cast = value(port, 'acp_votes_cast_total{value="approve"}', 0)
            assert cast == 1 or (cast == 0 and node not in voted)
            assert 3 <= value(port, 'acp_votes_recorded_total{value="approve"}') <= 4
            until(lambda: value(port, 'acp_rpcs_under_way{method="PeerService.Exchange"}') == 3)  # noqa: B023
        assert 'acp_member_queue_messages{member="node-2"}' in get(ports["node-1"], "/metrics")[1]
        propose = 'acp_rpcs_total{code="OK",method="VotingService.Propose"} 1'
        assert sum(propose in get(port, "/metrics")[1] for port in ports.values()) == 1
        for port in ports.values():
            until(lambda: get(port, "/readyz")[0] == get(port, "/livez")[0] == 200)  # noqa: B023
        assert cluster.acp("health", str(cluster.home("node-3")), "--service", "ready").code == 0
        assert client.set_log_level("debug", node="node-2") == "info"
        answer = cluster.acp("log-level", "info", "--node", "node-2", "--json")
        assert json.loads(answer.out) == {"node": "node-2", "level": "info", "previous": "debug"}
        assert cluster.acp("log-level", "info").code == 2
        with pytest.raises(InvalidRequestError, match="must be one of"):
            client.set_log_level("loud", node="node-2")
        status = client.status(node="node-3")
        leader, view = status.coordinator, status.view
        cluster.kill(leader)
        left = [node for node in ports if node != leader]
        until(lambda: all(value(ports[node], "acp_view") > view for node in left))
        until(lambda: value(ports[left[0]], f'acp_member_reachable{{member="{leader}"}}') == 0)
        cluster.kill(left[0])
        alone = left[1]
        until(lambda: get(ports[alone], "/readyz")[0] == 503)
        assert "quorum" in json.loads(get(ports[alone], "/readyz")[1])["why"]
        assert get(ports[alone], "/livez")[0] == 200
        until(lambda: cluster.acp("health", str(cluster.home(alone)), "--service", "ready").code == 6)
        assert cluster.acp("health", str(cluster.home(alone)), "--service", "live").code == 0
        cluster.start_one(leader)
        until(lambda: get(ports[alone], "/readyz")[0] == 200)


def test_what_became_of_a_call_is_in_the_log_of_its_node(make_cluster: MakeCluster) -> None:
    """The client's error names the call, and so does the node's log; gRPC carries the id both ways."""
    cluster = make_cluster()
    with cluster.client() as client:
        with pytest.raises(NotFoundError) as caught, call_id("web-4711"):
            client.get_proposal("prop-0404", node="node-2")
        assert caught.value.call_id == "web-4711"
        answer = cluster.acp("show", "prop-0404", "--node", "node-2")
        found = re.search(r"^  call ([0-9a-f]{16})$", answer.err, re.MULTILINE)
        assert found is not None
        for call in ("web-4711", found[1]):
            refused = rf'call={call} msg="VotingService.GetProposal of .* NOT_FOUND: there is no proposal'
            until(partial(has_logged, cluster, "node-2", refused))
        client.set_log_level("debug", node="node-3")
        with call_id("web-4712"):
            client.propose("quarantine", "agent-7", node="node-3", request_id="r-1")
        until(lambda: has_logged(cluster, "node-3", r"call=web-4712 msg=.*Propose of admin ended .* OK"))
        assert "web-4712" not in cluster.log("node-1"), "only the node that was asked knows the call"
