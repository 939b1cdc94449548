"""Alert rules and dashboard: every metric in them is one that nodes have, with its labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector
from tests.support.snapshots import snapshot

from replication.node.metrics import node_metrics
from replication.ordering.quorum import commit_quorum

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
ADDED_BY_PROMETHEUS = {"cluster", "instance", "job"}
FUNCTIONS = {
    "sum",
    "max",
    "min",
    "count",
    "by",
    "rate",
    "increase",
    "time",
    "floor",
    "and",
    "label_values",
    "histogram_quantile",
    "or",
}


def known() -> dict[str, set[str]]:
    """Labels by the name of a sample, as a node has them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    samples = [
        sample for metric in (*node_metrics(snapshot()), *registry.collect()) for sample in metric.samples
    ]
    return {sample.name: set(sample.labels) for sample in samples} | {"up": set()}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def expressions() -> dict[str, str]:
    """Every expression by where it stands."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    found = {
        f"panel {panel['title']}": "; ".join(target["expr"] for target in panel["targets"])
        for panel in dashboard["panels"]
    }
    return found | {rule["alert"]: rule["expr"] for rule in rules()}


def check(expression: str) -> None:
    """Names and labels are known, and brackets are closed."""
    bare = re.sub(r'"[^"]*"|\[[0-9]+[smhd]\]', "", expression)
    for opening, closing in ("()", "{}", "[]"):
        assert bare.count(opening) == bare.count(closing), expression
    metrics = known()
    labels = {name for names in metrics.values() for name in names} | ADDED_BY_PROMETHEUS
    for word in re.findall(r"[a-z_]+", re.sub(r"\{[^}]*\}", "", bare)):
        assert word in metrics or word in labels or word in FUNCTIONS, f"{word} in {expression}"
    for inside in re.findall(r"\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*=", inside):
            assert label in labels, f"{label} in {expression}"


@pytest.mark.parametrize("where", sorted(expressions()))
def test_every_name_is_one_that_nodes_have(where: str) -> None:
    check(expressions()[where])


def test_a_name_that_is_none_is_noticed() -> None:
    for wrong in (
        "acp_hight > 1",
        "sum by (membr) (acp_view)",
        "rate(acp_blocks_total[5m]",
        'acp_view{clustr="a"}',
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_every_alert_says_what_to_do() -> None:
    names = {rule["alert"] for rule in rules()}
    assert names >= {
        *("AcpQuorumAtRisk", "AcpDivergence", "AcpEquivocation", "AcpUnconfirmedExecution"),
        *("AcpSlowCoordinator", "AcpCertificateExpires"),
    }
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


AT_RISK = (
    "sum by (cluster) (acp_can_progress * acp_signs) <= max by (cluster) (acp_commit_quorum) "
    "and max by (cluster) (acp_members) > max by (cluster) (acp_commit_quorum)"
)


@pytest.mark.parametrize("nodes", range(1, 11))
def test_when_a_quorum_is_at_risk(nodes: int) -> None:
    """The series of dead nodes are gone: what the rule needs must come from any node that is left."""
    assert expressions()["AcpQuorumAtRisk"] == AT_RISK
    quorum = commit_quorum(nodes)
    for left in range(quorum, nodes + 1):
        ready, members = left, nodes  # each node that is left says both
        fires = ready <= quorum and members > quorum
        assert fires is (left == quorum < nodes)


def test_promtool_takes_the_rules(not_run: Any) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        not_run("promtool is not installed")
    subprocess.run([str(promtool), "check", "rules", str(FOLDER / "alerts.yaml")], check=True)
