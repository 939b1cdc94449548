"""`acp report` on an exported record: verified before a word is believed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.html_page import Page
from tests.support.record_factory import rich_record

from replication.cli.main import ExitCode, main


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export and its genesis file."""
    folder = tmp_path_factory.mktemp("exported")
    factory = rich_record(4)
    (folder / "genesis.json").write_bytes(factory.genesis.raw)
    (folder / "record.jsonl").write_bytes(factory.seal().export())
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "report",
        "--from",
        str(folder / "record.jsonl"),
        "--genesis",
        str(folder / "genesis.json"),
        *more,
    ]


def test_the_page_of_an_exported_record(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / "page.html"
    assert main(arguments(exported, "--html", str(target))) == ExitCode.OK
    assert capsys.readouterr().out == ""
    page = Page(target.read_text(encoding="utf-8"))
    assert "every signature, tally and commit was verified" in page.text
    assert "prop-0012" in page.text
    assert "CAN DECIDE" not in page.text  # nobody was asked


def test_figures_for_people_and_programs(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(exported)) == ExitCode.OK
    shown = capsys.readouterr().out.split("\n")
    assert any(line.split() == ["approved", "3"] for line in shown)
    assert main(arguments(exported, "--json", "--last", "26")) == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert (made["first_entry"], made["audit_size"], made["findings"]) == (27, 53, None)
    assert {item["id"]: item["state"] for item in made["proposals"]}["prop-0008"] == "approved"


def test_a_record_that_was_changed_makes_no_page(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = (exported / "record.jsonl").read_bytes()
    (tmp_path / "genesis.json").write_bytes((exported / "genesis.json").read_bytes())
    for changed in (record.replace(b'"outcome":"failed"', b'"outcome":"succeeded"'), record[:-300]):
        (tmp_path / "record.jsonl").write_bytes(changed)
        assert main(arguments(tmp_path, "--html", str(tmp_path / "page.html"))) == ExitCode.VERIFICATION
        assert not (tmp_path / "page.html").exists()
        assert "Traceback" not in capsys.readouterr().err


def test_from_standard_input(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = io.BytesIO((exported / "record.jsonl").read_bytes())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=record))
    code = main(["report", "--from", "-", "--genesis", str(exported / "genesis.json"), "--json"])
    assert (code, json.loads(capsys.readouterr().out)["audit_size"]) == (ExitCode.OK, 53)


def test_what_is_missing_is_said(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--from", str(exported / "record.jsonl")]) == ExitCode.USAGE
    assert "genesis" in capsys.readouterr().err
    missing = main(["report", "--from", str(exported / "none"), "--genesis", str(exported / "genesis.json")])
    assert missing == ExitCode.OPERATOR
    assert "cannot be read" in capsys.readouterr().err
