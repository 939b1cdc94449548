"""Drills on real clusters: some of the ready ones must pass, and ones made to fail must fail.

The whole library is `acp faults run --all`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.real_cluster import running_cluster, until

from replication.cli.main import ExitCode, main
from replication.faults.harness.history import read_history
from replication.faults.harness.page import load_run
from replication.faults.harness.product_bugs import PRODUCT_BUGS

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

REPRESENTATIVE = ("coordinator-killed", "storage-tampered")
"""All of them run in `acp faults run --all`; of these the files are looked at as well."""

QUICK_BUGS = (
    *("double-votes-forgiven", "equivocation-unseen", "censorship-borne", "coordinator-for-ever"),
    *("liars-counted", "liars-coordinate", "keys-readable", "homes-shared"),
)
"""All of them are hunted by `make bugs`."""

HEAD = """
name = "made-to-fail"
group = "process"
summary = "It is not meant to pass."
[workload]
seconds = 2
call_seconds = 2
"""


def drill(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    """Run `acp faults run`; its exit code, and the one run that it reports."""
    code = main(["faults", "run", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert shown.out, shown.err
    return code, json.loads(shown.out)["runs"][0]


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_ready_drill_passes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    code, run = drill(capsys, name, "--dir", directory)
    assert (code, run["verdict"], run["reasons"]) == (ExitCode.OK, "passed", [])
    assert all(fault["took_effect"] for fault in run["faults"])
    assert all(check["verdict"] == "passed" for check in run["checks"])
    view = load_run(directory)
    assert len(read_history((directory / "history.jsonl").read_text().splitlines())) == len(view.operations)
    assert sorted(path.name for path in (directory / "exports").iterdir()) == [
        f"node-{number}.jsonl" for number in range(1, 5)
    ]
    assert not (directory / "cluster").exists()  # no keys are left behind


@pytest.mark.parametrize("name", QUICK_BUGS)
def test_a_drill_notices_a_planted_bug(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes with one guard removed: the drill that passes with it fails without."""
    code = main(["faults", "run", "--bugs", name, "--dir", str(tmp_path / "run"), "--json"])
    (result,) = json.loads(capsys.readouterr().out).values()
    assert (code, result["verdict"]) == (ExitCode.OK, "failed"), result["reasons"]


@pytest.mark.parametrize("name", ["voter-double-votes", "coordinator-equivocates"])
def test_the_evidence_against_a_live_liar_verifies(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the drill its cluster is started as it is, and `acp evidence` checks both signatures here."""
    code, run = drill(capsys, name, "--dir", tmp_path / "run", "--keep")
    assert (code, run["verdict"]) == (ExitCode.OK, "passed"), run["reasons"]
    liar = run["faults"][0]["members"][0]
    directory = tmp_path / "run" / "cluster"
    with running_cluster(directory) as cluster:
        answer = cluster.acp("evidence", "--json")
        assert answer.code == ExitCode.OK, answer.err
        assert {(item["data"]["accused"], item["verified"]) for item in answer.json} == {(liar, True)}
        cluster.verified_exports()


def test_enough_bugs_are_planted() -> None:
    assert len({bug.name for bug in PRODUCT_BUGS}) == len(PRODUCT_BUGS) >= 10
    assert set(QUICK_BUGS) <= {bug.name for bug in PRODUCT_BUGS}


def test_real_interfaces_where_the_machine_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], not_run: Any
) -> None:
    code, run = drill(capsys, "network-cable", "--dir", tmp_path / "run")
    if run["verdict"] == "not run" and "network namespaces" in run["reasons"][0]:
        not_run(run["reasons"][0])
    assert (code, run["verdict"], run["reasons"]) == (ExitCode.OK, "passed", [])


def test_a_fault_that_leaves_no_trace_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "nothing.toml"
    # There are no commands of such an author that could be ignored.
    fault = '[[faults]]\nkind = "censor"\ntarget = "node-2"\nauthors = ["node-5"]\n'
    scenario.write_text(HEAD + fault + "at_seconds = 0.5\nfor_seconds = 1\n")
    code, run = drill(capsys, scenario, "--dir", tmp_path / "run")
    assert (code, run["verdict"]) == (ExitCode.CONFLICT, "not run")
    assert run["reasons"] == ["fault 1 (censor) had no effect that could be seen"]


def test_more_dead_nodes_than_may_be_fail_the_drill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "too-many.toml"
    # Not the coordinator: what it was the first to commit would be missing, too.
    fault = '[[faults]]\nkind = "kill"\ntarget = ["node-3", "node-4"]\nat_seconds = 0.5\npermanent = true\n'
    scenario.write_text(HEAD + fault + "[bounds]\nrecover_seconds = 4\n")
    code, run = drill(capsys, scenario, "--dir", tmp_path / "run")
    assert (code, run["verdict"]) == (ExitCode.VERIFICATION, "failed")
    failed = {check["name"] for check in run["checks"] if check["verdict"] == "failed"}
    assert failed == {"the cluster goes on, and recovers in time"}


def test_a_production_node_is_drilled_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "plain.toml"
    fault = '[[faults]]\nkind = "pause"\ntarget = "follower"\nat_seconds = 0.5\nfor_seconds = 1\n'
    scenario.write_text(HEAD + fault + "[cluster]\nrecord_signatures = false\n")
    code, run = drill(capsys, scenario, "--dir", tmp_path / "run", "--keep")
    assert (code, run["verdict"], run["reasons"]) == (ExitCode.OK, "passed", [])
    assert run["figures"]["signatures_logged"] == 0
    assert (tmp_path / "run" / "cluster" / "node-1" / "node.log").exists()


def nodes_of(directory: Path) -> list[int]:
    """The processes whose command line names a home below this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{directory}/cluster/node-".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("coordinator-killed", signal.SIGTERM, ExitCode.INTERRUPTED),
        ("network-cable", signal.SIGINT, ExitCode.INTERRUPTED),
        ("coordinator-killed", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_drill_that_is_interrupted_leaves_no_process_behind(
    name: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    command = [sys.executable, "-m", "replication.cli", "faults", "run", name, "--dir", str(directory)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: len(nodes_of(directory)) == 4 or child.poll() is not None, seconds=120)
        if child.poll() is not None and name == "network-cable":
            return  # this machine has no namespaces to be interrupted in
        child.send_signal(number)
        child.communicate(timeout=120)
        assert child.returncode == code
        until(lambda: not nodes_of(directory), seconds=120)
    finally:
        child.kill()
        child.wait()
