"""`acp` against servers that only pretend: what goes to stdout, what to stderr, and the exit code of each
verb.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.cli.fake_cluster import HEAD, FakeCluster

from replication.cli.main import ExitCode, main


@dataclass
class Answer:
    """What one run of `acp` left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as exactly one JSON document."""
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path_factory.mktemp("fake") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def fake(shared: FakeCluster) -> FakeCluster:
    """The servers of this module, with nothing decided yet."""
    state = shared.state
    for table in (state.proposals, state.by_request, state.failures):
        table.clear()
    state.calls.clear()
    state.corrupt = False
    return shared


@pytest.fixture
def acp(fake: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `acp` in this process, in the environment of a person who works with the fake cluster."""
    monkeypatch.setenv("ACP_DIR", str(fake.directory))
    monkeypatch.setenv("ACP_CONFIG", str(fake.directory / "contexts.json"))

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


def test_status_has_what_programs_need(acp: Run, fake: FakeCluster) -> None:
    answer = acp("status", "--json")
    assert answer.code == 0
    document = answer.json
    assert document["cluster_id"] == fake.genesis.cluster_id.hex()
    wanted = {"epoch", "view", "coordinator", "n", "f", "tally_quorum", "commit_quorum", "members"}
    assert wanted <= document.keys()
    assert [member["id"] for member in document["members"]] == list(fake.genesis.members.ids)
    member = {"id", "address", "reachable", "height", "audit_size", "audit_head"}
    assert all(member <= item.keys() for item in document["members"])
    assert all(item["height"] == 3 and item["audit_head"] == HEAD for item in document["members"])


def test_status_asks_the_next_node(acp: Run, fake: FakeCluster) -> None:
    fake.stop("node-1")
    try:
        document = acp("status", "--json").json
    finally:
        fake.start("node-1")
    assert document["members"][0]["height"] == 2, "as another node heard last"
    assert [item["answered"] for item in document["members"]] == [False, True, True, True]


def test_status_can_ask_one_node(acp: Run) -> None:
    assert acp("status", "--json", "--node", "node-3").json["node_id"] == "node-3"
    assert acp("status", "--node", "node-9").code == ExitCode.USAGE


def test_status_for_people(acp: Run) -> None:
    answer = acp("status")
    assert "coordinator node-1" in answer.out
    assert "4 of 4 members reachable: can decide" in answer.out
    assert answer.err == ""


def test_propose_sends_what_was_given(acp: Run, fake: FakeCluster) -> None:
    evidence = '{"score": 0.97, "who": "é"}'
    options = ("--window", "1.5", "--expiry", "0", "--request-id", "mine", "--json")
    document = acp("propose", "quarantine", "agent-7", "--evidence", evidence, *options).json
    assert (document["action"], document["target"], document["request_id"]) == (
        "quarantine",
        "agent-7",
        "mine",
    )
    assert document["evidence"] == {"score": 0.97, "who": "é"}
    assert (document["closes_ms"], document["expires_ms"]) == (1500, 0)
    assert acp("propose", "quarantine", "--json").json["closes_ms"] == 7, (
        "left out means the cluster's default"
    )


def test_propose_can_wait_for_the_decision(acp: Run) -> None:
    assert acp("propose", "quarantine", "--wait", "--json").json["decision"] == "approved"


def test_evidence_from_a_file_and_from_stdin(
    acp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "evidence.json"
    file.write_text('{"from": "file"}', encoding="utf-8")
    assert acp("propose", "restrict", "--evidence", f"@{file}", "--json").json["evidence"] == {"from": "file"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"from": "stdin"}')))
    assert acp("propose", "restrict", "--evidence", "-", "--json").json["evidence"] == {"from": "stdin"}


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ("[1]", "a list"),
        ("3", "a number"),
        ('"x"', "a text"),
        ("null", "null"),
        ("true", "true or false"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ("{" * 10_000, "not valid JSON"),
        ('{"a": "' + "x" * 65_536 + '"}', "65536 bytes"),
    ],
)
def test_evidence_that_is_no_object_is_refused_here(
    acp: Run, fake: FakeCluster, evidence: str, words: str
) -> None:
    answer = acp("propose", "restrict", "--evidence", evidence)
    assert (answer.code, answer.out) == (ExitCode.USAGE, "")
    assert words in answer.err
    assert fake.calls == []


def test_an_evidence_file_that_is_missing(acp: Run) -> None:
    assert acp("propose", "restrict", "--evidence", "@/nowhere/x.json").code == ExitCode.OPERATOR


@pytest.mark.parametrize("seconds", ["-1", "nan", "1e12"])
def test_impossible_times_are_refused(acp: Run, fake: FakeCluster, seconds: str) -> None:
    assert acp("propose", "restrict", "--window", seconds).code == ExitCode.USAGE
    assert fake.calls == []


def test_vote(acp: Run, fake: FakeCluster) -> None:
    acp("propose", "restrict")
    document = acp("vote", "prop-0001", "approve", "--reason", "yes", "--node", "node-2", "--json").json
    assert (document["vote"]["voter_id"], document["vote"]["reason"]) == ("node-2", "yes")
    answer = acp("vote", "prop-0001", "reject")
    assert (answer.out, "node-1 voted reject on prop-0001" in answer.err) == ("", True)
    again = acp("vote", "prop-0001", "reject")
    assert (again.code, again.out) == (ExitCode.CONFLICT, "")
    assert "[ALREADY_VOTED]" in again.err
    assert acp("vote", "prop-0001", "perhaps").code == ExitCode.USAGE
    assert acp("vote", "prop-0099", "approve").code == ExitCode.NOT_FOUND


def test_close_and_execute(acp: Run) -> None:
    acp("propose", "restrict")
    assert acp("close", "prop-0001", "--json").json["decision"] == "no_quorum"
    options = ("--outcome", "failed", "--detail", "no such agent", "--json")
    receipt = acp("execute", "prop-0001", *options).json["receipts"][0]
    assert (receipt["outcome"], receipt["detail"]) == ("failed", "no such agent")
    assert acp("execute", "prop-0001", "--outcome", "perhaps").code == ExitCode.USAGE


def test_proposals_and_show(acp: Run) -> None:
    acp("propose", "restrict", "agent-1", "--wait")
    acp("propose", "release", "agent-2")
    assert [item["id"] for item in acp("proposals", "--json").json] == ["prop-0001", "prop-0002"]
    assert [item["id"] for item in acp("proposals", "--status", "open", "--json").json] == ["prop-0002"]
    assert acp("proposals", "--status", "closed").code == ExitCode.USAGE
    assert "agent-2" in acp("proposals").out
    assert acp("show", "prop-0001", "--json").json["target"] == "agent-1"
    assert "agent-1" in acp("show", "prop-0001").out
    missing = acp("show", "prop-0099", "--json")
    assert (missing.code, missing.out) == (ExitCode.NOT_FOUND, "")


def test_analysis(acp: Run) -> None:
    acp("propose", "restrict")
    acp("vote", "prop-0001", "approve")
    assert acp("history", "node-1", "--json").json[0]["proposal_id"] == "prop-0001"
    assert acp("history", "nobody").code == ExitCode.NOT_FOUND
    assert acp("agreement", "--json").json["rates"]["node-1"]["node-2"] == 0.5
    assert acp("blocs", "--threshold", "0.5", "--json").json["blocs"] == [["node-1", "node-2"]]
    assert acp("blocs", "--threshold", "1.5").code == ExitCode.USAGE
    assert acp("summary", "--json").json["bft_quorum"] == 3
    for verb in (("history", "node-1"), ("agreement",), ("blocs",), ("summary",)):
        answer = acp(*verb)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out


def test_audit_log_and_export(acp: Run, tmp_path: Path) -> None:
    assert [item["sequence"] for item in acp("audit", "log", "--json").json] == list(range(7))
    chosen = acp("audit", "log", "--from", "2", "--limit", "3", "--json").json
    assert [item["sequence"] for item in chosen] == [2, 3, 4]
    assert acp("audit", "log", "--from", "-1").code == ExitCode.USAGE
    assert len(acp("audit", "export").out.splitlines()) == 3
    file = tmp_path / "record.jsonl"
    assert acp("audit", "export", "-o", str(file), "--json").json == {"file": str(file), "lines": 3}
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    assert acp("audit", "verify", str(file)).code == ExitCode.VERIFICATION


def test_a_certificate_that_does_not_verify_is_not_written(acp: Run, tmp_path: Path) -> None:
    acp("propose", "restrict", "--wait")
    file = tmp_path / "decision.json"
    answer = acp("certificate", "prop-0001", "-o", str(file))
    assert answer.code == ExitCode.VERIFICATION
    assert not file.exists()


def test_verify_without_the_right_files(acp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "made-up.json"
    file.write_text('{"format":"made up"}\n', encoding="utf-8")
    answer = acp("verify", str(file), "--json")
    assert (answer.code, answer.out) == (ExitCode.VERIFICATION, "")
    assert acp("verify", str(tmp_path / "missing.json")).code == ExitCode.OPERATOR
    assert acp("verify", str(file), "--genesis", str(file)).code == ExitCode.OPERATOR
    monkeypatch.delenv("ACP_DIR")
    assert acp("verify", str(file)).code == ExitCode.USAGE
    assert acp("audit", "verify", str(tmp_path / "missing.jsonl")).code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID_ARGUMENT", ExitCode.USAGE),
        ("NOT_FOUND", ExitCode.NOT_FOUND),
        ("FAILED_PRECONDITION", ExitCode.CONFLICT),
        ("ALREADY_EXISTS", ExitCode.CONFLICT),
        ("PERMISSION_DENIED", ExitCode.DENIED),
        ("UNAUTHENTICATED", ExitCode.DENIED),
        ("DEADLINE_EXCEEDED", ExitCode.UNAVAILABLE),
        ("DATA_LOSS", ExitCode.STORAGE),
        ("INTERNAL", ExitCode.INTERNAL),
    ],
)
def test_every_kind_of_failure_has_its_exit_code(
    acp: Run, fake: FakeCluster, status: str, code: ExitCode
) -> None:
    fake.fail_next("GetSummary", grpc.StatusCode[status], reason="SPECIAL", message="the node's words")
    answer = acp("summary", "--json")
    assert (answer.code, answer.out) == (code, "")
    assert re.fullmatch(r"error: the node's words \[SPECIAL\]\n  call [0-9a-f]{16}\n", answer.err)


def test_a_cluster_that_is_down(acp: Run, fake: FakeCluster) -> None:
    for member in list(fake.servers):
        fake.stop(member)
    try:
        answer = acp("summary")
        status = acp("status", "--json")
    finally:
        for member in fake.genesis.members.ids:
            fake.start(member)
    assert (answer.code, status.code) == (ExitCode.UNAVAILABLE, ExitCode.UNAVAILABLE)
    assert (answer.out, status.out) == ("", "")
    assert "Is the node running?" in answer.err


def test_an_answer_that_is_not_right_is_an_internal_error(acp: Run, fake: FakeCluster) -> None:
    acp("propose", "restrict")
    fake.state.corrupt = True
    answer = acp("show", "prop-0001")
    assert answer.code == ExitCode.INTERNAL
    assert "BAD_RESPONSE" in answer.err


def test_text_of_others_cannot_drive_the_terminal(acp: Run) -> None:
    acp("propose", "restrict", "\x1b[31m[bold]evil")
    for verb in (("show", "prop-0001"), ("proposals",)):
        out = acp(*verb).out
        assert "\x1b" not in out
        assert "[bold]evil" in out
