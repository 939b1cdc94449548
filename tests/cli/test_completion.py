"""What a shell offers when the tab key is pressed, asked as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replication.cli.main import main


def offered(line: str, *, folder: Path, **environment: str) -> list[str]:
    """What is offered for the last word of a command line; "" begins a new one."""
    done = subprocess.run(
        [sys.executable, "-m", "replication.cli"],
        env={
            **{key: value for key, value in os.environ.items() if key not in ("ACP_DIR", "ACP_CONFIG")},
            "_ACP_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "XDG_CONFIG_HOME": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    assert main(["init", str(folder / "cluster"), "--nodes", "4"]) == 0
    return folder / "cluster"


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
def test_words_that_are_known(line: str, words: list[str], tmp_path: Path) -> None:
    assert offered(line, folder=tmp_path) == words


def test_members_of_the_cluster_that_is_named(cluster: Path, tmp_path: Path) -> None:
    members = ["node-1", "node-2", "node-3", "node-4"]
    assert offered(f"acp status --dir {cluster} --node ", folder=tmp_path) == members
    assert offered("acp status --node ", folder=tmp_path, ACP_DIR=str(cluster)) == members
    assert offered("acp history ", folder=tmp_path, ACP_DIR=str(cluster)) == members
    assert offered(f"acp policy test --dir {cluster} --voter ", folder=tmp_path) == members
    assert offered("acp status --node ", folder=tmp_path, ACP_DIR=str(cluster / "none")) == []
    (tmp_path / "genesis.json").write_text("[" * 100_000)
    assert offered("acp status --node ", folder=tmp_path, ACP_DIR=str(tmp_path)) == []


def test_contexts(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("west", "east"):
        assert main(["context", "add", name, "--dir", str(cluster)]) == 0
    assert offered("acp context use ", folder=tmp_path) == ["east", "west"]
    assert offered("acp status --context w", folder=tmp_path) == ["west"]
    (tmp_path / "acp").rename(tmp_path / "elsewhere")
    assert offered("acp context use ", folder=tmp_path) == []
