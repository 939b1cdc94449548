"""`python -m replication.consensus`: exit codes, text and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from replication.consensus.__main__ import main
from replication.consensus.demo import MAX_DEMO_VOTERS, run_demo
from replication.consensus.errors import InvalidRequestError


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def account_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    account = json.loads(output_of(capsys, "--json", *arguments))
    assert isinstance(account, dict)
    return account


def test_the_module_runs_as_a_program_and_writes_data_to_stdout_only() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "replication.consensus",
            "--voters",
            "7",
            "--byzantine",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["byzantine"] == ["monitor-6", "monitor-7"]


def test_five_voters_decide_three_proposals(capsys: pytest.CaptureFixture[str]) -> None:
    account = account_of(capsys)
    assert account["voters"] == [f"monitor-{number}" for number in range(1, 6)]
    assert (account["byzantine"], account["refused"]) == ([], [])
    assert [
        (proposal["id"], proposal["action"], proposal["decision"], proposal["status"], proposal["approve"])
        for proposal in account["proposals"]
    ] == [
        ("prop-0001", "quarantine", "approved", "executed", 5),
        ("prop-0002", "terminate", "approved", "executed", 5),
        ("prop-0003", "release", "rejected", "decided", 0),
    ]
    assert account["summary"]["audit_chain_valid"] is True
    assert account["summary"]["voting_blocs"] == [account["voters"]]


@pytest.mark.parametrize(("voters", "faulty"), [(1, 0), (3, 0), (4, 1), (7, 2), (10, 3), (100, 33)])
def test_as_many_as_are_tolerated_change_no_decision(
    voters: int, faulty: int, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = account_of(capsys, "--voters", str(voters))
    attacked = account_of(capsys, "--voters", str(voters), "--byzantine")
    assert attacked["byzantine"] == attacked["voters"][voters - faulty :]
    assert len(attacked["byzantine"]) == faulty
    for before, after in zip(honest["proposals"], attacked["proposals"], strict=True):
        assert (before["decision"], before["status"]) == (after["decision"], after["status"])
        assert min(after["approve"], after["reject"]) == faulty
    assert len(attacked["refused"]) == 3 * faulty  # each tried to vote twice on each proposal
    assert attacked["summary"]["audit_entries"] == honest["summary"]["audit_entries"]


def test_the_text_has_the_decisions_and_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(capsys, "--voters", "4", "--byzantine")
    assert text.startswith("4 voters; against the honest: monitor-4\n")
    assert (
        "prop-0002  terminate agent-23: 3 approve, 1 reject -> approved by supermajority, executed\n" in text
    )
    assert "refused: Voter 'monitor-4' has already voted" in text
    assert "\nAgent Consensus Protocol Summary\n" in text
    assert "against the honest: nobody" in output_of(capsys)


def test_every_run_is_the_same() -> None:
    assert run_demo(5, True, True) == run_demo(5, True, True)


@pytest.mark.parametrize("voters", ["0", "-1", "101", "many", "2.5"])
def test_other_numbers_of_voters_are_a_usage_error(voters: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--voters", voters])
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert voters in captured.err


@pytest.mark.parametrize("voters", [0, MAX_DEMO_VOTERS + 1, 2.5, True, "5", None])
def test_the_function_takes_whole_numbers_in_its_range(voters: Any) -> None:
    with pytest.raises(InvalidRequestError, match="voters must be an integer from 1 to 100, got"):
        run_demo(voters)


def test_the_help_names_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--voters", "--byzantine", "--json"))
