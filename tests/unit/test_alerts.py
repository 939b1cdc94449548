"""Each alert rule fires on the series that it is for, and is silent on those beside them. promtool judges."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ALERTS: Final = Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yaml"
NODES: Final = ("a", "b", "c", "d")

Series = dict[str, str]

UP: Final = {f'up{{job="agent-consensus",cluster="x",instance="{node}"}}': "1x60" for node in NODES}


def each(name: str, values: str, nodes: tuple[str, ...] = NODES, **labels: str) -> Series:
    """The same series of several nodes. `values` are in promtool's notation, one a minute."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return {f'{name}{{cluster="x",instance="{node}"{more}}}': values for node in nodes}


def cluster(signing: tuple[str, ...], progress: str = "1x60") -> Series:
    """Four nodes; those that are not signing are gone."""
    return {
        **each("acp_can_progress", progress, signing),
        **each("acp_signs", "1x60", signing),
        **each("acp_commit_quorum", "3x60", signing),
        **each("acp_members", "4x60", signing),
    }


def writes(fast_us: str) -> Series:
    """A hundred writes a minute: so many of them within 0.25 s, all within 0.5 s."""
    return {
        **each("acp_write_seconds_bucket", fast_us, le="0.25"),
        **each("acp_write_seconds_bucket", "0+100x60", le="0.5"),
        **each("acp_write_seconds_bucket", "0+100x60", le="+Inf"),
    }


def executions(unconfirmed: str, executors: str) -> Series:
    return {
        **each("acp_executions_unconfirmed", unconfirmed),
        **each("acp_executors", executors),
    }


def commands(pending: str, blocks: str) -> Series:
    return {**each("acp_pending_commands", pending), **each("acp_blocks_total", blocks)}


DAY: Final = 86_400

# For each alert: series at whose end, after half an hour, it fires, and series at whose end it does not.
CASES: Final[dict[str, tuple[Series, Series]]] = {
    "AcpQuorumAtRisk": (cluster(NODES[:3]), cluster(NODES)),
    "AcpNoQuorum": (
        {**UP, **cluster(NODES[:2], progress="0x60")},
        {**UP, **cluster(NODES[:3])},
    ),
    "AcpNodeNotReady": (cluster(NODES, progress="1 0x60"), cluster(NODES, progress="1x28 0 1")),
    "AcpNodeDown": ({'up{job="agent-consensus",instance="a"}': "0x60"}, {**UP, 'up{job="other"}': "0x60"}),
    "AcpDivergence": (
        each("acp_member_diverges", "0x20 1x40", member="node-2"),
        each("acp_member_diverges", "0x20 1 0x40", member="node-2"),
    ),
    "AcpEquivocation": (
        each("acp_member_faulty", "0x29 1x40", ("a",), member="node-2"),
        each("acp_member_faulty", "0x60", member="node-2"),
    ),
    "AcpUnconfirmedExecution": (executions("0x20 2x40", "1x60"), executions("0x26 2x40", "1x60")),
    "AcpSlowCoordinator": (commands("3x60", "7x60"), commands("3x60", "0+2x60")),
    "AcpCoordinatorChanges": (
        each("acp_view_changes_total", "0x20 0+2x40"),
        each("acp_view_changes_total", "0x20 0 1 2 3x40"),
    ),
    "AcpCertificateExpires": (
        each("acp_certificate_expiry_timestamp_seconds", f"{13 * DAY}x60", certificate="node"),
        each("acp_certificate_expiry_timestamp_seconds", f"{15 * DAY}x60", certificate="node"),
    ),
    "AcpSlowDisk": (writes("0+97x60"), writes("0+100x60")),
    "AcpMemberReadsSlowly": (
        each("acp_member_queue_messages", "0x20 900x40", ("a",), member="node-2"),
        # As many as are kept for a member that is away: another alert is for that.
        each("acp_member_queue_messages", "256x60", ("a",), member="node-2"),
    ),
    "AcpInternalErrors": (
        each("acp_rpcs_total", "0x28 1x40", ("a",), method="VotingService.Propose", code="INTERNAL"),
        {
            **each("acp_rpcs_total", "0+9x60", ("a",), method="VotingService.Propose", code="NOT_FOUND"),
            **each("acp_rpcs_total", "1x60", ("a",), method="VotingService.Propose", code="INTERNAL"),
        },
    ),
    "AcpClientsTurnedAway": (
        each("acp_rpcs_total", "0+90x60", ("a",), method="AuditService.GetHead", code="RESOURCE_EXHAUSTED"),
        {
            **each(
                "acp_rpcs_total", "0+9x60", ("a",), method="AuditService.GetHead", code="RESOURCE_EXHAUSTED"
            ),
            **each("acp_rpcs_total", "0+900x60", ("a",), method="AuditService.GetHead", code="OK"),
        },
    ),
}


def test_every_alert_has_a_case() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert {rule["alert"] for rule in group["rules"]} == set(CASES)


@pytest.mark.parametrize("fires", [True, False], ids=["fires", "is silent"])
@pytest.mark.parametrize("alert", sorted(CASES))
def test_when_it_fires(alert: str, fires: bool, tmp_path: Path, not_run: Any) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        not_run("promtool is not installed")
    series = CASES[alert][0 if fires else 1]
    firing = f'max(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    case = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": firing,
                        "eval_time": "30m",
                        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "case.yaml"
    file.write_text(json.dumps(case))  # JSON is YAML
    done = subprocess.run(
        [str(promtool), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
