"""The fuzzing itself: repeatable, able to fail, complete; and what it has found."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from replication.cli.main import app
from replication.errors import PeerError
from replication.faults.fuzzing import runner
from replication.faults.fuzzing.corpus import input_of
from replication.faults.fuzzing.runner import FuzzReport, check_corpus, judge, run_range, run_seed, schedule
from replication.faults.fuzzing.targets import TARGETS, Target
from replication.faults.harness.checks.signatures import parse_statement
from replication.faults.harness.reading import parse_scenario
from replication.faults.harness.scenario import ScenarioError
from replication.ledger import codec
from replication.node.config import ConfigError, parse_config
from replication.node.policies import PolicyError, parse_cel_policy

DIGEST = """
from hashlib import sha256
from replication.faults.fuzzing.corpus import input_of
from replication.faults.fuzzing.targets import TARGETS
print(sha256(b"".join(input_of(name, seed) for name in TARGETS for seed in range(40))).hexdigest())
"""


def test_the_corpus_is_accepted() -> None:
    check_corpus()


def test_a_seed_names_the_same_input_in_every_process() -> None:
    here = sha256(b"".join(input_of(name, seed) for name in TARGETS for seed in range(40))).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, env=environment
    )
    assert there.stdout.strip() == here


def test_a_range_is_the_sum_of_its_parts_and_reaches_every_target() -> None:
    whole, parts = FuzzReport(), FuzzReport()
    for _, part in run_range(0, len(schedule())):
        whole.add(part)
    for first, count in ((0, 100), (100, len(schedule()) - 100)):
        done = list(run_range(first, count))
        assert done[-1][0] == first + count
        for _, part in done:
            parts.add(part)
    assert (parts.executions, parts.accepted) == (whole.executions, whole.accepted)
    assert whole.executions == {target.name: target.share for target in TARGETS.values()}
    assert not whole.failures


def refusing(text: bytes) -> None:
    raise PeerError("no")


def broken(text: bytes) -> None:
    raise KeyError("oops")


def burning(text: bytes) -> None:
    for number in range(1_000_000):
        hash(number)


def test_what_counts_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge(Target("t", "", refusing, (PeerError,), 1), b"") == (False, None)
    assert judge(Target("t", "", refusing, (ValueError,), 1), b"")[1] == (
        "PeerError in refusing",
        "PeerError: no",
    )
    assert judge(Target("t", "", broken, (PeerError,), 1), b"")[1] == (
        "KeyError in broken",
        "KeyError: 'oops'",
    )
    monkeypatch.setattr(runner, "MAX_SECONDS", 0.001)
    _, slow = judge(Target("t", "", burning, (), 1), b"1234")
    assert slow is not None
    assert slow[0] == "too slow"


def test_a_missing_check_is_found_kept_and_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A decoder that does not look at lengths: the fuzzer finds it, and the file shows it again."""

    def careless(value: bytes, name: str, size: int) -> bytes:
        if len(value) < size:
            raise IndexError("reads beyond the end")
        return value

    monkeypatch.setattr(codec, "_sized", careless)
    report = FuzzReport()
    for seed in range(300):
        run_seed("blocks", seed, report)
    failure = report.failures["blocks", "IndexError in careless"]
    path = failure.save(tmp_path)
    assert path.read_bytes() == input_of("blocks", failure.seed)
    again = ["faults", "fuzz", "--target", "blocks", "--replay", str(path)]
    assert CliRunner().invoke(app, again).exit_code == 7
    monkeypatch.undo()
    assert CliRunner().invoke(app, again).exit_code == 0


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    note = tmp_path / "progress"
    note.write_text("450\n", encoding="ascii")
    command = [
        "faults",
        "fuzz",
        "--executions",
        "500",
        "--target",
        "request",
        "--resume",
        str(note),
        "--json",
    ]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0
    assert '"executions": 50' in run.stdout
    assert not note.exists()
    assert CliRunner().invoke(app, ["faults", "fuzz", "--target", "nothing"]).exit_code == 2


# ------------------------------------------------------------------------------------- what was found by it


@pytest.mark.parametrize(
    "number", ["9" * 5_000, "0x" + "f" * 4_000, str(2**63)], ids=["decimal", "hex", "2**63"]
)
def test_numbers_of_thousands_of_digits_are_refused_in_all_toml_files(number: str) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_config(f'id = "a"\nlisten = "a:1"\n[timing]\nrepeat_ms = {number}\n', "config.toml")
    with pytest.raises(PolicyError, match="not valid TOML"):
        parse_cel_policy(f"[default]\nvote = {number}\n", "policy.toml")
    with pytest.raises(ScenarioError, match="not valid TOML"):
        parse_scenario(f"seed = {number}\n", "scenario.toml")


@pytest.mark.parametrize("kind", ["commit", "timeout", "newview"])
def test_signed_bytes_that_are_cut_off_are_no_statement(kind: str) -> None:
    tag = f"acp/{kind}/v1".encode()
    with pytest.raises(ValueError, match="cut off"):
        parse_statement(bytes([len(tag)]) + tag + bytes(40 + 30))
