"""`acp policy test`: the examples, expectations that are not met, files that are wrong, and the record of a
cluster whose servers only pretend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fake_cluster import FakeCluster

from replication.cli.main import ExitCode, main
from replication.consensus.approval import ApprovalRules
from replication.identity.genesis import Rules
from replication.node.local.provision import PolicyChoice, provision_cluster

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
POLICIES = EXAMPLES / "policies"

RULES = """
[[rule]]
when = 'evidence.size > 10'
vote = "reject"
reason = "too large"
[[rule]]
when = 'evidence.score > 0.5'
vote = "approve"
reason = "sure"
"""
LINE = '{"name": "one", "action": "quarantine", "evidence": {"score": 0.7}, "expect": "approve"}'

Try = Callable[..., tuple[int, Any]]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Try:
    """Run `acp policy test --json`; exit code and what it printed, None if nothing."""
    monkeypatch.delenv("ACP_DIR", raising=False)
    monkeypatch.setenv("ACP_CONFIG", str(tmp_path / "contexts.json"))

    def run(*arguments: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["policy", "test", *map(str, arguments), "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return run


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.toml"
    file.write_text(RULES, encoding="utf-8")
    return file


def lines(folder: Path, *texts: str) -> Path:
    file = folder / "incidents.jsonl"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("node", ["node-1", "node-2", "node-3", "node-4"])
def test_the_example_policies_vote_as_the_examples_say(attempt: Try, node: str) -> None:
    code, found = attempt(EXAMPLES / "incidents.jsonl", "--file", POLICIES / f"{node}.toml", "--voter", node)
    assert code == 0
    assert len(found["incidents"]) >= 30
    assert all(item["expected"] is not None for item in found["incidents"])
    assert {item["rule"] for item in found["unused_rules"]} <= {1}, "only the one about oneself"


def test_another_policy_does_not_meet_them(attempt: Try) -> None:
    code, found = attempt(
        EXAMPLES / "incidents.jsonl", "--file", POLICIES / "node-4.toml", "--voter", "node-1"
    )
    assert code == ExitCode.VERIFICATION
    assert found["unexpected"] == sum(item["unexpected"] for item in found["incidents"]) > 0
    flags = [item["unexpected"] for item in found["incidents"]]
    assert flags == sorted(flags, reverse=True), "what is unexpected stands first"


def test_the_python_example(attempt: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(POLICIES))
    file = POLICIES / "python_policy.jsonl"
    code, found = attempt(file, "--entry", "python_policy:decide")
    assert (code, found["unexpected"], found["unused_rules"]) == (0, 0, [])
    assert {item["expected"] for item in found["incidents"]} == {"approve", "reject", "none"}


def test_a_python_policy_that_hangs(attempt: Try, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text("def decide(incident):\n    while True: pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = lines(tmp_path, LINE.replace("approve", "none"), LINE)
    code, found = attempt(file, "--entry", "endless:decide", "--limit", "0.3")
    assert code == ExitCode.VERIFICATION
    assert [(item["vote"], item["expected"]) for item in found["incidents"]] == [
        ("none", "approve"),
        ("none", "none"),
    ]
    assert "not answered within 0.3 s" in found["incidents"][0]["problems"][0]["message"]


def test_what_is_said_of_each_incident(attempt: Try, tmp_path: Path, rules: Path) -> None:
    code, found = attempt(lines(tmp_path, "", LINE), "--file", rules)
    assert code == 0
    assert found["incidents"] == [
        {
            "name": "one",
            "action": "quarantine",
            "target": "",
            "vote": "approve",
            "rule": 2,
            "reason": "sure",
            "problems": [{"rule": 1, "message": "the evidence has no key 'size'", "missing_key": True}],
            "expected": "approve",
            "unexpected": False,
            "voted": None,
            "decided": None,
            "differs": False,
        }
    ]
    assert found["unused_rules"] == [{"rule": 1, "when": "evidence.size > 10"}]


def test_a_rule_that_breaks_counts_only_when_it_is_strict(attempt: Try, tmp_path: Path, rules: Path) -> None:
    missing, broken = LINE, '{"name": "b", "action": "a", "evidence": {"size": "huge", "score": 1}}'
    assert attempt(lines(tmp_path, missing), "--file", rules, "--strict")[0] == 0
    code, found = attempt(lines(tmp_path, missing, broken), "--file", rules)
    assert (code, found["with_problems"]) == (0, 1)
    assert attempt(lines(tmp_path, missing, broken), "--file", rules, "--strict")[0] == 7


def test_the_table_for_people(tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lines(
        tmp_path,
        LINE.replace('"approve"', '"reject"'),
        '{"action": "a", "evidence": {"size": "x", "score": 1}}',
    )
    assert main(["policy", "test", str(file), "--file", str(rules)]) == ExitCode.VERIFICATION
    captured = capsys.readouterr()
    assert "UNEXPECTED" in captured.out
    assert "approval withheld" in " ".join(captured.out.split())
    assert "Rules that decided none" in captured.out
    assert "0 of 1 expectations met" in captured.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ('{"action": "a", "evidence": {"x": 1, "x": 2}}', "stands twice"),
        ('{"action": "a", "evidence": {"x": NaN}}', "not JSON"),
        ('{"action": "a", "evidence": {"x": 1e400}}', "evidence"),
        ('{"action": "a", "evidence": []}', "evidence has the wrong type"),
        ('{"action": "a"}', "evidence is missing"),
        ('{"action": "a", "evidence": {}, "expct": "reject"}', "unknown key 'expct'"),
        ('{"action": "a", "evidence": {}, "expect": "rejected"}', "'rejected' is no vote"),
        ('{"action": "a", "evidence": {}, "expect": {"decision": "approved"}}', "status"),
        ('{"action": "a", "evidence": {}, "votes": {"node-1": ["approve"]}}', "is no vote"),
        ('{"action": "a", "evidence": {}, "window_seconds": -1}', "window_seconds -1 is not possible"),
        ('{"action": "a", "evidence": {}, "window_seconds": 1e999}', "window_seconds"),
        ('{"action": "a", "evidence": {"x": "' + "x" * 65_536 + '"}}', "more than 65536 bytes"),
    ],
)
def test_a_line_that_is_wrong_is_named(
    tmp_path: Path, rules: Path, line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lines(tmp_path, LINE, line)
    assert main(["policy", "test", str(file), "--file", str(rules)]) == ExitCode.OPERATOR
    error = capsys.readouterr().err
    assert "line 2: " in error
    assert words in error


def test_a_policy_that_is_wrong_is_exit_code_8(attempt: Try, tmp_path: Path, rules: Path) -> None:
    file = lines(tmp_path, LINE)
    rules.write_text("[[rule]]\nwhen = 'evidnce.x'\nvote = 'reject'\nreason = 'r'\n", encoding="utf-8")
    for policy in (("--file", rules), ("--file", tmp_path / "none.toml"), ("--entry", "nothing_here:decide")):
        assert attempt(file, *policy) == (ExitCode.OPERATOR, None)


@pytest.mark.parametrize(
    "arguments", [[], ["--file", "a"], ["x", "--file", "a", "--entry", "b:c"], ["x"]], ids=" ".join
)
def test_it_has_to_be_said_what_is_tried_on_what(attempt: Try, arguments: list[str]) -> None:
    assert attempt(*arguments) == (ExitCode.USAGE, None)


def test_the_policy_of_a_home(attempt: Try, tmp_path: Path) -> None:
    source = (POLICIES / "node-3.toml").resolve()
    provision_cluster(tmp_path / "c", nodes=2, policies={"node-2": PolicyChoice("cel", file=source)})
    file = lines(
        tmp_path, '{"action": "release", "target": "node-2", "evidence": {}, "votes": {"node-2": "abstain"}}'
    )
    code, found = attempt(file, "--home", tmp_path / "c" / "node-2")
    assert (code, found["voter"]) == (0, "node-2")
    assert attempt(file, "--home", tmp_path / "c" / "node-1") == (ExitCode.OPERATOR, None)


def test_what_is_critical_in_the_cluster_is_critical_in_a_trial(attempt: Try, tmp_path: Path) -> None:
    source = tmp_path / "rules.toml"
    source.write_text("[[rule]]\nwhen = 'critical'\nvote = 'reject'\nreason = 'grave'\n", encoding="utf-8")
    provision_cluster(
        tmp_path / "c",
        nodes=1,
        policy=PolicyChoice("cel", file=source),
        rules=Rules(approval=ApprovalRules(critical_actions=frozenset({"wipe"}))),
    )
    file = lines(
        tmp_path,
        '{"action": "wipe", "evidence": {}}',
        '{"action": "terminate", "evidence": {}}',
        '{"action": "quarantine", "evidence": {}}',
    )
    _, found = attempt(file, "--home", tmp_path / "c" / "node-1")
    assert [item["vote"] for item in found["incidents"]] == ["reject", "reject", "none"]
    _, found = attempt(file, "--file", source)
    assert [item["vote"] for item in found["incidents"]] == ["none", "reject", "none"]


def test_evidence_is_judged_as_it_arrives_at_a_voter(attempt: Try, tmp_path: Path, rules: Path) -> None:
    """1.0 has become 1, and what CEL does with doubles only is an error in a node too."""
    rules.write_text("[[rule]]\nwhen = 'evidence.x + 1.5 > 2.0'\nvote = 'reject'\nreason = 'r'\n")
    for number, vote in (("1.0", "none"), ("1.25", "reject")):
        code, found = attempt(
            lines(tmp_path, f'{{"action": "a", "evidence": {{"x": {number}}}}}'), "--file", rules
        )
        assert (code, found["incidents"][0]["vote"]) == (0, vote)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path_factory.mktemp("fake") / "cluster") as found:
        yield found


def test_the_record_with_the_differences_first(attempt: Try, rules: Path, cluster: FakeCluster) -> None:
    where = ("--dir", str(cluster.directory))
    for number, evidence in enumerate(('{"score": 0.9}', '{"size": 20}', '{"score": 0.8}')):
        assert main(["propose", "quarantine", f"agent-{number}", "--evidence", evidence, *where]) == 0
    vote = ("approve", "--reason", "seen", "--node", "node-2", *where)
    for proposal in ("prop-0001", "prop-0002"):
        assert main(["vote", proposal, *vote]) == 0
    code, found = attempt("--record", "--file", rules, "--voter", "node-2", *where)
    assert code == 0
    assert [(item["name"], item["vote"], item["voted"]) for item in found["incidents"]] == [
        ("prop-0002", "reject", "approve"),
        ("prop-0003", "approve", "none"),
        ("prop-0001", "approve", "approve"),
    ]
    assert found["differing"] == 2
    code, found = attempt("--record", "--last", "1", "--file", rules, *where)
    assert [(item["name"], item["voted"]) for item in found["incidents"]] == [("prop-0003", None)]
    assert attempt("--record", "--file", rules, "--voter", "nobody", *where)[0] == ExitCode.NOT_FOUND
