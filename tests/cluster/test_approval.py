"""Rules of approval on a real cluster: refusals, what is missing and from whom, a record that verifies."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import known

from replication.client import RemoteError
from replication.node.local.rules_file import read_rules

pytestmark = pytest.mark.cluster

RULES = """
default_window_ms = 0
[approval]
reason_required = true
proposer_counts = false
lock_targets = true
[approval.groups]
human = ["node-2", "node-4"]
[approval.actions.terminate]
requires = { human = 2 }
window_ms = 60000
"""


def test_rules_hold_and_are_explained(make_cluster: MakeCluster, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    cluster = make_cluster(rules=read_rules(file))
    with cluster.client() as client:
        proposal = client.propose("terminate", "agent-7", node="node-1")
        assert proposal.closes_ms - proposal.created_ms == 60_000
        known(client, proposal, "node-3")
        with pytest.raises(RemoteError, match="the same target is open") as locked:
            client.propose("restrict", "agent-7", node="node-3")
        assert locked.value.reason == "TARGET_LOCKED"
        known(client, proposal, "node-2")
        with pytest.raises(RemoteError, match="needs a reason") as silent:
            client.vote(proposal.id, "approve", node="node-2")
        assert silent.value.reason == "REASON_REQUIRED"
        for node in ("node-1", "node-2", "node-3"):
            client.vote(proposal.id, "approve", "score 0.99", node=node)
        cluster.settle()
        found = client.get_proposal(proposal.id, node="node-4")
        lacking = {item.condition: (item.count, item.voters) for item in found.missing}
        assert lacking == {"quorum": (1, ("node-4",)), "group human": (1, ("node-4",))}
        shown = cluster.acp("show", proposal.id).out
        assert "Missing for an approval" in shown
        assert "group human" in shown
        client.vote(proposal.id, "approve", "I agree", node="node-4")
        decided = client.get_proposal(proposal.id, node="node-4")
        assert (decided.approved, decided.missing) == (True, ())
        assert decided.tally is not None
        assert (decided.tally.approve_count, decided.tally.abstain_count) == (3, 1)
        assert client.certificate(proposal.id, node="node-4").verified
        known(client, decided, "node-3")
        client.propose("restrict", "agent-7", node="node-3")
    cluster.settle()
    cluster.verified_exports()
