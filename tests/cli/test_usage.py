"""The command line before any cluster is asked: usage errors, help, speed of the imports, and the local
errors.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from replication.cli.main import ExitCode, app, main

README = Path(__file__).parents[2] / "README.md"
VERBS = (
    *("init", "up", "down", "node", "status", "propose", "vote", "close", "execute", "proposals", "show"),
    *("history", "agreement", "blocs", "summary", "certificate", "verify", "evidence", "bench", "demo"),
    *("report", "watch", "executor", "gate", "doctor", "health", "log-level", "backup", "restore"),
)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("ACP_DIR", raising=False)
    monkeypatch.setenv("ACP_CONFIG", str(tmp_path_factory.mktemp("config") / "contexts.json"))


def test_every_verb_is_there() -> None:
    names = {command.name for command in app.registered_commands}
    assert names == set(VERBS)


@pytest.mark.parametrize(
    "arguments",
    [[verb] for verb in VERBS]
    + [["audit", verb] for verb in ("log", "export", "verify")]
    + [["enrol", verb] for verb in ("invite", "key", "genesis", "sign", "home", "renew")]
    + [["context", verb] for verb in ("add", "use", "list", "remove", "show")]
    + [["policy", "test"]],
)
def test_every_verb_has_help_and_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert ("--json" in captured.out) == (arguments not in (["node"], ["executor"]))


@pytest.mark.parametrize(
    "arguments", [["propose", "--help"], ["audit", "--help"], ["audit", "log", "--help"]]
)
def test_the_one_command_that_is_built_is_the_same(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`main` builds only what is asked for."""
    assert main(arguments) == 0
    narrow = capsys.readouterr().out
    with pytest.raises(SystemExit):
        app(args=arguments, prog_name="acp")
    assert narrow == capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["vote"],
        ["vote", "prop-0001"],
        ["show"],
        ["show", "prop-0001", "extra"],
        ["status", "--no-such-option"],
        ["status", "--timeout", "soon"],
        ["audit", "log", "--limit", "0"],
        ["bench", "--nodes", "0"],
        ["status"],
        ["up"],
        ["down"],
        ["status", "--endpoint", "h:1"],
        ["init", "x", "--nodes", "0"],
        ["init", "x", "--nodes", "101"],
        ["init", "x", "--nodes", "3", "--hosts", "a,b"],
        ["init", "x", "--base-port", "70000"],
        ["init", "x", "--hosts", "a b"],
        ["init", "x", "--policy", "oracle"],
        ["init", "x", "--policy", "cel:missing.toml"],
        ["init", "x", "--policy", "python:nothing"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--dir", "missing"],
        ["status", "--dir", "."],
        ["down", "--dir", "."],
        ["node", "--home", "missing"],
        ["demo", "--examples", "missing"],
        ["verify", "missing", "--genesis", "missing"],
    ],
    ids=" ".join,
)
def test_what_an_operator_has_to_put_right_is_exit_code_8(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == ExitCode.OPERATOR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("acp ")


def test_the_readme_lists_every_exit_code() -> None:
    table = (
        README.read_text(encoding="utf-8").split("| exit code | meaning |\n|---|---|\n")[1].split("\n\n")[0]
    )
    listed = re.findall(r"^\| (\d+) \| \S.* \|$", table, re.MULTILINE)
    assert [int(code) for code in listed] == sorted(ExitCode)


def test_the_readme_names_every_verb() -> None:
    text = README.read_text(encoding="utf-8")
    verbs = {str(command.name) for command in app.registered_commands}
    groups = {str(group.name) for group in app.registered_groups}
    assert {verb for verb in verbs | groups if not re.search(rf"\bacp {verb}\b", text)} == set()


def test_an_interruption_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("replication.node.local.provision.provision_cluster", interrupted)
    assert main(["init", str(tmp_path / "x")]) == ExitCode.INTERRUPTED


def test_a_bug_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("replication.node.local.provision.provision_cluster", broken)
    assert main(["init", str(tmp_path / "x")]) == ExitCode.INTERNAL
    assert "ZeroDivisionError: oops" in capsys.readouterr().err


def test_help_needs_nothing_heavy() -> None:
    """`acp --help` and completion must stay quick, so they may not import gRPC, protobuf or cryptography."""
    code = (
        "import sys; from replication.cli.main import app; "
        "heavy = {'grpc', 'google.protobuf', 'cryptography', 'nacl'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replication.cli", "--version"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stdout.startswith("acp ")) == (0, True)


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": "/usr/bin:/bin"}
