"""`acp faults list|run|replay|report` without a cluster: what is listed, what is refused, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from replication.cli.main import ExitCode, main
from replication.faults.harness import isolated
from replication.faults.harness.checks import CheckResult, Verdict
from replication.faults.harness.drill import RunPlan, Watcher, read_plan, write_plan
from replication.faults.harness.outcome import RunResult, write_result

SCENARIO = """
name = "small"
group = "process"
summary = "Something small."
[workload]
seconds = 2
[[faults]]
kind = "kill"
target = "minority"
"""
BROKEN = CheckResult("nothing is lost", "A4", Verdict.FAILED, "1 write", ("node-1 has lost it",))


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunPlan, Path]]:
    """Every run that is started, none of which needs a cluster. The scenario's seed says how it ends."""
    started: list[tuple[RunPlan, Path]] = []
    ends = {1: Verdict.PASSED, 2: Verdict.FAILED, 3: Verdict.NOT_RUN}

    async def start_run(plan: RunPlan, directory: Path, watcher: Watcher, *, keep: bool = False) -> RunResult:
        started.append((plan, directory))
        write_plan(plan, directory)
        watcher.stage("running")
        watcher.event(100, "kill begins: node-1")
        watcher.tick(200, 3, ["kill node-1"])
        verdict = ends[plan.seed]
        result = RunResult(
            name=plan.scenario.name,
            group=plan.scenario.group.value,
            summary=plan.scenario.summary,
            seed=plan.seed,
            nodes=plan.scenario.cluster.nodes,
            verdict=verdict,
            reasons=[] if verdict is Verdict.PASSED else ["a reason"],
            checks=[BROKEN] if verdict is Verdict.FAILED else [],
            faults=[],
            figures={"decisions": 3},
            seconds=1.0,
            directory=str(directory),
        )
        write_result(result, directory)
        return result

    monkeypatch.setattr(isolated, "start_run", start_run)
    return started


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_ready_drills_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "list"]) == ExitCode.OK
    assert "coordinator-killed" in capsys.readouterr().out
    assert main(["faults", "list", "--json"]) == ExitCode.OK
    listed = document(capsys)
    assert {"name": "storage-full", "group": "storage"}.items() <= next(
        item for item in listed if item["name"] == "storage-full"
    ).items()


def test_the_kinds_of_faults_are_listed_with_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "list", "--kinds"]) == ExitCode.OK
    assert "shape = isolate" in capsys.readouterr().out
    assert main(["faults", "list", "--kinds", "--json"]) == ExitCode.OK
    kinds = {item["kind"]: item for item in document(capsys)}
    assert kinds["partition"]["settings"] == {"shape": "isolate", "direction": "both", "how": "stall"}
    assert kinds["cable"]["needs"] == ["namespaces"]
    assert kinds["censor"]["settings"] == {"authors": None}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run"], ExitCode.USAGE, "or give --all"),
        (["run", "small", "--all"], ExitCode.USAGE, "or give --all"),
        (["run", "coordinator-kiled"], ExitCode.OPERATOR, "did you mean 'coordinator-killed'"),
        (["run", "nothing.toml"], ExitCode.OPERATOR, "cannot be read"),
        (["run", "coordinator-killed", "--nodes", "99"], ExitCode.OPERATOR, "Choose 1 to 31"),
        (["run", "process-mistakes", "--nodes", "3"], ExitCode.OPERATOR, "the cluster has 3 members"),
        (["list", "--library", "nowhere"], ExitCode.OPERATOR, "is not a folder"),
        (["replay", "nowhere"], ExitCode.OPERATOR, "folder of an earlier run"),
        (["report", "nowhere"], ExitCode.OPERATOR, "folder of a run that has finished"),
    ],
)
def test_what_cannot_be_done_is_said(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, words: str
) -> None:
    assert main(["faults", *arguments]) == code
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("seed", "more", "code"),
    [
        ("1", [], ExitCode.OK),
        ("2", [], ExitCode.VERIFICATION),
        ("3", [], ExitCode.CONFLICT),
        ("3", ["--allow-not-run"], ExitCode.OK),
        ("2", ["--allow-not-run"], ExitCode.VERIFICATION),
    ],
)
def test_the_exit_code_tells_the_verdict(
    scenario: Path,
    runs: list[tuple[RunPlan, Path]],
    tmp_path: Path,
    seed: str,
    more: list[str],
    code: ExitCode,
) -> None:
    arguments = ["faults", "run", str(scenario), "--seed", seed, "--dir", str(tmp_path / "run"), *more]
    assert main(arguments) == code
    assert len(runs) == 1


def test_a_run_is_reported_to_people_and_programs(
    scenario: Path, runs: list[tuple[RunPlan, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, folder = tmp_path / "page.html", tmp_path / "run"
    run = ["faults", "run", str(scenario), "--seed", "2", "--nodes", "7", "--report", str(page)]
    main([*run, "--dir", str(folder)])
    shown = capsys.readouterr()
    assert "node-1 has lost it" in shown.out
    assert "0.10 s  kill begins: node-1" in shown.err
    assert "node-1 has lost it" in page.read_text()
    assert (folder / "report.html").exists()
    assert main(["faults", "report", str(folder), "--json"]) == ExitCode.OK
    told = document(capsys)
    assert (told["verdict"], told["runs"][0]["nodes"]) == ("failed", 7)


def test_files_of_a_run_that_passed_are_removed_and_others_stay(
    scenario: Path, runs: list[tuple[RunPlan, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    main(["faults", "run", str(scenario), "--seed", "1"])
    assert not runs[0][1].exists()
    main(["faults", "run", str(scenario), "--seed", "2"])
    assert (runs[1][1] / "result.json").exists()
    main(["faults", "run", str(scenario), "--seed", "1", "--keep"])
    assert (runs[2][1] / "result.json").exists()


def test_a_folder_that_holds_something_is_not_touched(
    scenario: Path, runs: list[tuple[RunPlan, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["faults", "run", str(scenario), "--dir", str(tmp_path)]) == ExitCode.OPERATOR
    assert "is not an empty folder" in capsys.readouterr().err
    assert runs == []


def test_several_runs_go_into_folders_of_their_own(
    scenario: Path, runs: list[tuple[RunPlan, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(scenario), "coordinator-killed"]
    assert (
        main(["faults", "run", *names, "--dir", str(tmp_path / "all"), "--seed", "1", "--json"])
        == ExitCode.OK
    )
    assert [folder.name for _, folder in runs] == ["01-small", "02-coordinator-killed"]
    assert [run["name"] for run in document(capsys)["runs"]] == ["small", "coordinator-killed"]
    assert main(["faults", "report", str(tmp_path / "all")]) == ExitCode.OK
    assert "2 drills" in (tmp_path / "all" / "report.html").read_text()


def test_many_runs_go_on_where_they_broke_off(
    scenario: Path, runs: list[tuple[RunPlan, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = ["faults", "run", str(scenario), "--runs", "3", "--dir", str(tmp_path / "soak"), "--json"]
    assert main(many) == ExitCode.VERIFICATION
    assert [plan.seed for plan, _ in runs] == [1, 2, 3]
    (runs[1][1] / "result.json").unlink()
    capsys.readouterr()
    assert main([*many, "--resume"]) == ExitCode.VERIFICATION
    assert [plan.seed for plan, _ in runs[3:]] == [2], "only what had not finished"
    assert [run["verdict"] for run in document(capsys)["runs"]] == ["passed", "failed", "not run"]
    assert main([*many, "--resume", "--nodes", "7"]) == ExitCode.OPERATOR
    assert "is of another run" in capsys.readouterr().err
    assert main(["faults", "run", str(scenario), "--resume"]) == ExitCode.USAGE
    assert len(runs) == 4


def test_a_replay_has_the_same_scenario_seed_and_schedule(
    scenario: Path, runs: list[tuple[RunPlan, Path]], tmp_path: Path
) -> None:
    main(["faults", "run", str(scenario), "--seed", "2", "--nodes", "7", "--dir", str(tmp_path / "first")])
    main(["faults", "replay", str(tmp_path / "first"), "--dir", str(tmp_path / "second")])
    (first, _), (second, _) = runs
    assert second == first
    assert read_plan(tmp_path / "second") == first


def test_a_plan_that_was_tampered_with_is_refused(
    scenario: Path, runs: list[tuple[RunPlan, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["faults", "run", str(scenario), "--seed", "1", "--dir", str(tmp_path / "run")])
    (tmp_path / "run" / "run.json").write_text("{}")
    assert main(["faults", "replay", str(tmp_path / "run")]) == ExitCode.OPERATOR
    assert "is not the plan of a run" in capsys.readouterr().err
