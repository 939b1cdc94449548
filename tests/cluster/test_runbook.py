"""Deployment as an operator does it: all of deploy/README.md, on hosts that have a network each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from tests.support.deployment import FOUNDERS, LATER, ROOT, sections

from replication.faults.harness.namespaces import fresh_network_command, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_commands_of_the_readme_run_a_cluster_on_hosts_of_its_own(
    tmp_path: Path, not_run: Callable[[str], NoReturn]
) -> None:
    reason = why_not()
    if reason is not None:
        not_run(reason)
    done = subprocess.run(
        [*fresh_network_command(), sys.executable, "-m", "tests.support.deployment", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer["performed"]) == set(sections()), "each section that has commands was executed"
    seen = answer["seen"]

    incidents = [name for name in seen if name == "incident" or name.startswith("agent-")]
    assert len(incidents) == 5
    for incident in incidents:
        proposal = seen[incident]
        assert (proposal["decision"], proposal["executors"]) == ("approved", ["executor-1"])
        assert f'"target": "{proposal["target"]}"' in answer["carried_out"]
    for words in ("The certificate is valid and AUTHORISES", "The record is whole"):
        assert words in done.stderr

    death = seen["death"]
    before, *after = death["view"]
    assert all(view > before for view in after), "a view after the death, in status and metrics"
    assert set(death["coordinator"]) < set(FOUNDERS) - {death["dead"]}
    assert death["unreachable"] == [death["dead"]]
    assert any("it does not answer" in what for what in death["doctor"]), death["doctor"]
    assert death["can_decide"] == [True, True]
    assert seen["without quorum"] == {"can_decide": False, "unreachable": ["node-4", LATER]}

    # Each signing key was made on one host, and no private key travelled but in the guarded backups.
    owners = {key.relative_to(tmp_path).parts[:2] for key in tmp_path.rglob("signing.pem")}
    assert all(home == host.removesuffix("-lost") for host, home in owners), owners
    keys = [key.read_bytes() for key in tmp_path.rglob("keys/signing.pem") if "-lost" not in str(key)]
    assert len(keys) == len(set(keys)) == len(FOUNDERS) + 1
    assert not [file for file in tmp_path.rglob("*.json") if b"PRIVATE" in file.read_bytes()]
