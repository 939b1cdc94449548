"""`acp report` on a real cluster whose coordinator died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.html_page import Page
from tests.support.real_cluster import WAIT_SECONDS, until

from replication.cli.main import ExitCode
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

EVIL = "<script>console.error('it ran')</script><img src='http://127.0.0.1:9/x'>"


def test_the_report_tells_the_truth_when_the_coordinator_died(
    make_cluster: MakeCluster, approving: PolicyChoice, tmp_path: Path
) -> None:
    cluster = make_cluster(policy=approving)
    with cluster.client() as client:
        confirmed = client.propose("quarantine", EVIL, {"score": 1.0}, wait_for_decision=True)
        client.execute(confirmed.id)
        client.propose("terminate", "agent-8", wait_for_decision=True)
    cluster.settle()

    def calm() -> Any:
        """The report of a cluster with which nothing is wrong."""
        answer = cluster.acp("report", "--json")
        is_calm = answer.code == ExitCode.OK and answer.json["can_decide"] and not answer.json["findings"]
        return answer.json if is_calm else None

    before = until(calm)
    turns = len(before["coordinators"])
    assert [item["confirmed"] for item in before["proposals"]] == [True, False]
    leader = cluster.settle().status.coordinator
    cluster.kill(leader)
    others = [member for member in cluster.genesis.members.ids if member != leader]
    with cluster.client() as client:
        client.propose(
            "restrict", "agent-9", wait_for_decision=True, node=others[0], timeout_seconds=WAIT_SECONDS
        )
    target = tmp_path / "page.html"

    def made() -> Any:
        """The report, once another coordinator is on record and the old one's silence noticed."""
        answer = cluster.acp("report", "--html", str(target), "--json")
        if answer.code != ExitCode.OK:
            return None
        noticed = "SILENT" in target.read_text(encoding="utf-8")
        return answer if noticed and len(answer.json["coordinators"]) > turns else None

    shown = until(made, "the report shows what happened")
    assert shown.json["coordinators"][-1]["coordinator"] in others
    assert shown.json["can_decide"] is True
    assert leader in {item["subject"] for item in shown.json["findings"]}
    assert {voter["id"]: voter["asked"] for voter in shown.json["voters"]} == dict.fromkeys(
        cluster.genesis.members.ids, 3
    )
    part = cluster.acp("report", "--json", "--last", "4").json
    assert (part["first_entry"], len(part["proposals"])) == (part["audit_size"] - 4, 1)
    assert len(part["voters"]) == 4  # known from the beginning of the record

    page = Page(target.read_text(encoding="utf-8"))
    assert {"script", "img"}.isdisjoint(page.tags)
    for words in ("CAN DECIDE", "SILENT", "nothing listens at", EVIL, "Not confirmed", "agent-8"):
        assert words in page.text, words
    record = tmp_path / "record.jsonl"
    assert cluster.acp("audit", "export", "-o", str(record), "--node", others[0]).code == ExitCode.OK
    offline = cluster.acp("report", "--from", str(record), "--json").json
    assert offline["proposals"] == [{**item, "missing": []} for item in shown.json["proposals"]]
