"""What a shell offers when the tab key is pressed, asked as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from replication.cli.main import main


def question(line: str, folder: Path) -> dict[str, str]:
    """The environment in which bash runs `acp` when the tab key is pressed behind `line`."""
    return {
        "_ACP_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "XDG_CONFIG_HOME": str(folder),
    }


class Offer(Protocol):
    """What is offered for the last word of a command line; "" begins a new one."""

    def __call__(self, line: str, *, folder: Path, **environment: str) -> list[str]: ...


@pytest.fixture
def offered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Asks in this process, which is much faster than to start one for each question."""

    def ask(line: str, *, folder: Path, **environment: str) -> list[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name in ("ACP_DIR", "ACP_CONFIG"):
                patch.delenv(name, raising=False)
            for name, value in {**question(line, folder), **environment}.items():
                patch.setenv(name, value)
            main([])
        answer = capsys.readouterr()
        assert answer.err == ""
        return answer.out.split()

    return ask


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    assert main(["init", str(folder / "cluster"), "--nodes", "4"]) == 0
    return folder / "cluster"


@pytest.mark.parametrize(
    ("line", "words"),
    [("acp sta", ["status"]), ("acp status --dir {} --node ", ["node-1", "node-2", "node-3", "node-4"])],
)
def test_the_program_itself(line: str, words: list[str], cluster: Path, tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if key not in ("ACP_DIR", "ACP_CONFIG")}
    done = subprocess.run(
        [sys.executable, "-m", "replication.cli"],
        env={**kept, **question(line.format(cluster), tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (words, "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("acp sta", ["status"]),
        ("acp policy ", ["test"]),
        ("acp audit ", ["log", "export", "verify"]),
        ("acp vote prop-0001 ", ["abstain", "approve", "reject"]),
        ("acp vote prop-0001 ap", ["approve"]),
        ("acp propose re", ["release", "restrict"]),
        ("acp status --role o", ["operator"]),
        ("acp status --node ", []),
        ("acp status --context ", []),
    ],
)
def test_words_that_are_known(offered: Offer, line: str, words: list[str], tmp_path: Path) -> None:
    assert offered(line, folder=tmp_path) == words


def test_members_of_the_cluster_that_is_named(offered: Offer, cluster: Path, tmp_path: Path) -> None:
    members = ["node-1", "node-2", "node-3", "node-4"]
    assert offered(f"acp status --dir {cluster} --node ", folder=tmp_path) == members
    assert offered("acp status --node ", folder=tmp_path, ACP_DIR=str(cluster)) == members
    assert offered("acp history ", folder=tmp_path, ACP_DIR=str(cluster)) == members
    assert offered(f"acp policy test --dir {cluster} --voter ", folder=tmp_path) == members
    assert offered("acp status --node ", folder=tmp_path, ACP_DIR=str(cluster / "none")) == []
    (tmp_path / "genesis.json").write_text("[" * 100_000)
    assert offered("acp status --node ", folder=tmp_path, ACP_DIR=str(tmp_path)) == []


def test_contexts(offered: Offer, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("west", "east"):
        assert main(["context", "add", name, "--dir", str(cluster)]) == 0
    assert offered("acp context use ", folder=tmp_path) == ["east", "west"]
    assert offered("acp status --context w", folder=tmp_path) == ["west"]
    (tmp_path / "acp").rename(tmp_path / "elsewhere")
    assert offered("acp context use ", folder=tmp_path) == []
