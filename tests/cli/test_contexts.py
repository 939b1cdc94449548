"""Contexts: what `acp context` keeps, and which cluster a command goes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replication.cli.main import ExitCode, main
from replication.cli.options import Connection


@pytest.fixture(autouse=True)
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("ACP_DIR", raising=False)
    path = tmp_path / "config" / "contexts.json"
    monkeypatch.setenv("ACP_CONFIG", str(path))
    return path


def test_add_use_list_remove(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["context", "add", "west", "--dir", "/w"]) == 0
    assert main(["context", "add", "east", "--dir", "/e"]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert Connection().in_context().directory == Path("/w")
    assert main(["context", "use", "east"]) == 0
    assert Connection().in_context().directory == Path("/e")
    capsys.readouterr()
    assert main(["context", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["current"] == "east"
    assert main(["context", "remove", "east"]) == 0
    assert Connection().in_context().directory is None


def test_which_cluster_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["context", "add", "west", "--dir", "/w"]) == 0
    typed = Connection(directory=Path("/typed"), context="west")
    assert typed.in_context().directory == Path("/typed")
    assert Connection(endpoint=["h:1"]).in_context().directory is None
    monkeypatch.setenv("ACP_DIR", "/inherited")
    inherited = Path("/inherited")
    assert Connection(directory=inherited).in_context().directory == inherited
    assert Connection(directory=inherited, context="west").in_context().directory == Path("/w")


def test_explicit_parts() -> None:
    parts = ["--endpoint", "h:1", "--cert", "/c", "--key", "/k", "--ca", "/a"]
    assert main(["context", "add", "far", *parts[:-2]]) == ExitCode.USAGE
    assert main(["context", "add", "far", *parts]) == 0
    found = Connection(context="far").in_context()
    assert (found.endpoint, found.cert, found.key, found.ca) == (["h:1"], Path("/c"), Path("/k"), Path("/a"))
    own = Connection(context="far", cert=Path("/mine"), key=Path("/my.key")).in_context()
    assert (own.cert, own.key) == (Path("/mine"), Path("/my.key"))


@pytest.mark.parametrize(
    "arguments", [["use", "no"], ["remove", "no"], ["show"], ["add", "a b", "--dir", "/w"]]
)
def test_wrong_names(arguments: list[str], file: Path) -> None:
    assert main(["context", *arguments]) == ExitCode.USAGE
    assert main(["status", "--context", "no"]) == ExitCode.USAGE
    assert not file.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"contexts": {"a": 1}}', '{"contexts": {"a": {"cert": 1}}}', "[" * 9000]
)
def test_a_damaged_file_is_refused_and_kept(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    assert main(["context", "add", "west", "--dir", "/w"]) == ExitCode.OPERATOR
    assert file.read_text() == text


def test_a_file_that_others_can_write_is_refused(file: Path) -> None:
    assert main(["context", "add", "west", "--dir", "/w"]) == 0
    file.chmod(0o622)
    assert main(["context", "list"]) == ExitCode.OPERATOR
