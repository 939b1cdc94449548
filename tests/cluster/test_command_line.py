"""`acp` end to end against a real cluster: what an operator, an enforcement point and an auditor type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.real_cluster import Answer, run_acp

from replication.cli.main import ExitCode
from replication.node.local.processes import running_pid

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster that `acp up --detach` made and started, and `acp down` stops."""
    directory = tmp_path_factory.mktemp("up") / "cluster"
    started = run_acp("up", "--nodes", "4", "--detach", "--json", directory=directory)
    try:
        assert started.code == ExitCode.OK, started.err
        assert len(started.json["started"]) == 4
        yield directory
    finally:
        stopped = run_acp("down", "--json", directory=directory)
    assert stopped.code == ExitCode.OK
    assert stopped.json == {"stopped": ["node-1", "node-2", "node-3", "node-4"]}
    assert all(running_pid(directory / f"node-{number}") is None for number in range(1, 5))


def ok(directory: Path, *arguments: str, stdin: str = "") -> Any:
    """The document that a command prints with --json."""
    answer = run_acp(*arguments, "--json", directory=directory, stdin=stdin)
    assert answer.code == ExitCode.OK, answer.err
    return answer.json


def decided(directory: Path, target: str, *votes: str) -> str:
    """The id of a proposal that was decided by these votes."""
    proposal = ok(
        directory, "propose", "quarantine", target, "--window", "0", "--evidence", '{"score": 0.97}'
    )
    for number, vote in enumerate(votes, start=1):
        ok(directory, "vote", proposal["id"], vote, "--node", f"node-{number}", "--reason", "seen it")
    return str(proposal["id"])


def test_up_of_a_running_cluster_starts_nothing(running: Path) -> None:
    again = run_acp("up", "--detach", "--json", directory=running)
    assert (again.code, again.json["started"]) == (ExitCode.OK, {})


def test_status_says_who_is_there(running: Path) -> None:
    status = ok(running, "status")
    assert (status["n"], status["f"], status["tally_quorum"], status["commit_quorum"]) == (4, 1, 3, 3)
    assert status["coordinator"] in {member["id"] for member in status["members"]}
    assert all(member["reachable"] and member["answered"] for member in status["members"])
    table = run_acp("status", directory=running)
    assert table.code == ExitCode.OK
    assert "4 of 4 members reachable: can decide" in table.out


def test_from_a_proposal_to_its_execution(running: Path, tmp_path: Path) -> None:
    proposal_id = decided(running, "agent-1", "approve", "approve", "approve")
    shown = ok(running, "show", proposal_id)
    assert (shown["status"], shown["decision"]) == ("decided", "approved")
    assert [vote["reason"] for vote in shown["votes"]] == ["seen it"] * 3
    file, genesis = tmp_path / "decision.json", running / "genesis.json"
    assert ok(running, "certificate", proposal_id, "-o", str(file))["verified"] is True
    proof = run_acp("verify", str(file), "--genesis", str(genesis), "--json")
    assert (proof.code, proof.json["authorises"], proof.json["proposal_id"]) == (0, True, proposal_id)
    denied = run_acp("execute", proposal_id, "--role", "executor", directory=running)
    assert "[ROLE_NOT_ALLOWED]" in denied.err  # its certificate alone reports nothing: its own key does
    executed = ok(running, "execute", proposal_id, "--detail", "isolated", "--role", "operator")
    assert executed["status"] == "executed"
    again = run_acp("execute", proposal_id, "--role", "operator", directory=running)
    assert (again.code, "[ALREADY_EXECUTED]" in again.err) == (ExitCode.CONFLICT, True)


def test_a_rejection_authorises_nothing(running: Path, tmp_path: Path) -> None:
    proposal_id = decided(running, "agent-2", "reject", "reject", "reject")
    file = tmp_path / "decision.json"
    ok(running, "certificate", proposal_id, "-o", str(file))
    proof = run_acp("verify", str(file), "--dir", str(running), "--json")
    assert (proof.code, proof.json["authorises"], proof.json["decision"]) == (0, False, "rejected")


def test_one_flipped_byte_in_a_certificate_fails(running: Path, tmp_path: Path) -> None:
    file = tmp_path / "decision.json"
    ok(running, "certificate", decided(running, "agent-3", "approve", "approve", "approve"), "-o", str(file))
    right = file.read_bytes()
    place = right.index(b"agent-3")
    file.write_bytes(right[:place] + b"A" + right[place + 1 :])
    proof = run_acp("verify", str(file), "--dir", str(running))
    assert (proof.code, proof.out) == (ExitCode.VERIFICATION, "")
    assert "error: " in proof.err


def test_a_policy_beside_what_was_decided(running: Path, tmp_path: Path) -> None:
    first = decided(running, "agent-p", "approve", "approve", "approve")
    second = decided(running, "agent-q", "reject", "reject", "reject")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nwhen = \'evidence.score > 0.9\'\nvote = "approve"\nreason = "sure"\n'
        '[[rule]]\nwhen = \'target == voter\'\nvote = "abstain"\nreason = "myself"\n'
    )
    found = ok(
        *(running, "policy", "test", "--record", "--last", "2", "--voter", "node-1", "--role", "viewer"),
        *("--file", str(rules)),
    )
    assert [
        (item["name"], item["vote"], item["voted"], item["decided"], item["differs"])
        for item in found["incidents"]
    ] == [
        (second, "approve", "reject", "rejected", True),
        (first, "approve", "approve", "approved", False),
    ]
    assert [item["rule"] for item in found["unused_rules"]] == [2]
    silent = ok(running, "policy", "test", "--record", "--voter", "node-4", "--file", str(rules))
    assert {item["voted"] for item in silent["incidents"] if item["name"] in (first, second)} == {"none"}


def test_an_export_verifies_and_one_flipped_byte_is_found_where_it_is(running: Path, tmp_path: Path) -> None:
    decided(running, "agent-4", "approve", "approve", "approve")
    file = tmp_path / "audit.jsonl"
    exported = run_acp("audit", "export", "-o", str(file), "--role", "viewer", directory=running)
    assert exported.code == ExitCode.OK, exported.err
    report = run_acp("audit", "verify", str(file), "--genesis", str(running / "genesis.json"), "--json")
    assert report.code == ExitCode.OK, report.err
    assert report.json["decisions"]["approved"] >= 1
    lines = file.read_bytes().splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if b"agent-4" in line)
    place = lines[number].index(b"agent-4")
    lines[number] = lines[number][:place] + b"A" + lines[number][place + 1 :]
    file.write_bytes(b"".join(lines))
    broken = run_acp("audit", "verify", str(file), "--genesis", str(running / "genesis.json"))
    assert (broken.code, broken.out) == (ExitCode.VERIFICATION, "")
    assert f"line {number + 1}" in broken.err
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:-1]))
    assert run_acp("audit", "verify", str(cut), "--dir", str(running)).code == ExitCode.VERIFICATION


def test_the_export_of_every_node_goes_through_a_pipe(running: Path) -> None:
    for number in range(1, 5):
        exported = run_acp("audit", "export", "--node", f"node-{number}", directory=running)
        assert exported.code == ExitCode.OK, exported.err
        report = run_acp("audit", "verify", "-", directory=running, stdin=exported.out)
        assert report.code == ExitCode.OK, report.err


def test_lists_and_statistics(running: Path) -> None:
    proposal_id = decided(running, "agent-5", "approve", "reject", "abstain", "approve")
    assert proposal_id in [item["id"] for item in ok(running, "proposals")]
    assert proposal_id in [item["proposal_id"] for item in ok(running, "history", "node-2")]
    assert ok(running, "agreement")["voter_ids"] == ["node-1", "node-2", "node-3", "node-4"]
    assert "blocs" in ok(running, "blocs", "--threshold", "0.5")
    summary = ok(running, "summary")
    assert summary["voter_count"] == 4
    entries = ok(running, "audit", "log", "--from", "0", "--limit", "5")
    assert [entry["sequence"] for entry in entries] == [0, 1, 2, 3, 4]
    assert entries[0]["event_type"] == "genesis"
    for verb in ("proposals", "summary", "agreement", "blocs"):
        table: Answer = run_acp(verb, directory=running)
        assert (table.code, table.err) == (ExitCode.OK, "")


def test_evidence_from_a_file_and_from_stdin(running: Path, tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps({"signal": "exfiltration", "bytes": 734003200}), encoding="utf-8")
    from_file = ok(running, "propose", "restrict", "agent-6", "--window", "0", "--evidence", f"@{file}")
    assert from_file["evidence"]["bytes"] == 734003200
    from_stdin = ok(running, "propose", "restrict", "agent-6", "--evidence", "-", stdin='{"from": "stdin"}')
    assert from_stdin["evidence"] == {"from": "stdin"}
    closed = ok(running, "close", from_file["id"])
    assert (closed["decision"], closed["tally"]["cause"]) == ("no_quorum", "closed")
    ok(running, "close", from_stdin["id"])


def test_waiting_longer_than_allowed(running: Path) -> None:
    late = run_acp("propose", "restrict", "agent-7", "--wait", "--timeout", "0.5", directory=running)
    assert (late.code, late.out) == (ExitCode.UNAVAILABLE, "")
    assert "request id" in late.err
