"""Trying a policy: what counts as unmet or different, and a python policy that does not come back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from replication.node.config import PolicySettings
from replication.node.policies import Incident, PolicyError, parse_cel_policy
from replication.node.policy_process import PolicyProcess
from replication.node.policy_trial import Case, Trial, try_policy

RULES = """
[[rule]]
when = 'evidence.size > 10'
vote = "reject"
reason = "large"
[[rule]]
when = 'evidence.score > 0.5'
vote = "approve"
reason = "sure"
[[rule]]
when = 'evidence.score > 0.9'
vote = "approve"
reason = "very sure"
"""


def incident(**evidence: object) -> Incident:
    return Incident("node-1", "quarantine", "agent-1", evidence, False, 0, 0, 1_730_000_000_000, "node-2")


def trial(*cases: Case) -> Trial:
    policy = parse_cel_policy(RULES, "rules.toml")
    return try_policy(policy.judge, cases, policy.rules)


def names(found: Trial) -> list[str]:
    return [finding.case.name for finding in found.findings]


def test_rules_that_an_earlier_one_always_forestalls_are_unused() -> None:
    found = trial(Case("a", incident(score=0.95)), Case("b", incident(score=0.1)))
    assert found.unused == (1, 3)
    assert [(finding.vote, finding.judgement.rule) for finding in found.findings] == [
        ("approve", 2),
        ("none", None),
    ]


def test_a_policy_without_rules_has_no_unused_ones() -> None:
    policy = parse_cel_policy('default = { vote = "reject", reason = "no" }', "rules.toml")
    assert try_policy(policy.judge, [Case("a", incident())], policy.rules).unused == ()


@pytest.mark.parametrize(
    ("expected", "voted", "decision", "unmet", "differs"),
    [
        (None, None, None, False, False),
        ("approve", None, None, False, False),
        ("none", None, None, True, False),
        (None, "approve", "rejected", False, False),  # what the voter said counts, not what came of it
        (None, "none", "approved", False, True),
        (None, None, "approved", False, False),
        (None, None, "rejected", False, True),
        (None, None, "no_quorum", False, False),
        ("reject", "reject", None, True, True),
    ],
)
def test_what_is_unmet_and_what_differs(
    expected: str | None, voted: str | None, decision: str | None, unmet: bool, differs: bool
) -> None:
    found = trial(Case("a", incident(score=0.7), expected, voted, decision))
    assert (found.findings[0].is_unmet, found.findings[0].differs) == (unmet, differs)
    assert (found.unmet, found.differing) == (unmet, differs)


def test_what_needs_a_look_stands_first() -> None:
    found = trial(
        Case("fine", incident(score=0.7)),
        Case("differs", incident(score=0.7), voted="reject"),
        Case("unmet", incident(score=0.7), expected="abstain"),
        Case("also fine", incident(), expected="none"),
    )
    assert names(found) == ["unmet", "differs", "fine", "also fine"]


def test_a_missing_key_is_no_problem_and_a_withheld_approval_is() -> None:
    found = trial(Case("missing", incident()), Case("broken", incident(size="huge", score=0.7)))
    assert found.broken == 1
    missing, broken = found.findings
    assert (missing.errors, missing.vote) == ((), "none")
    assert broken.vote == "none"
    assert [str(error)[:8] for error in broken.errors] == ["rule 1: ", "rule 2: "]
    assert "approval withheld" in str(broken.errors[1])


CODE = """
import os, time
print("noise on stdout")
def decide(incident):
    match incident.evidence["do"]:
        case "loop":
            while True: pass
        case "exit":
            os._exit(3)
        case "raise":
            raise SystemExit(4)
        case "pid":
            from replication.node.policies import Choice, VoteValue
            return Choice(VoteValue.ABSTAIN, str(os.getpid()))
    return incident.evidence["do"]
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PolicySettings:
    (tmp_path / "tried_policy.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return PolicySettings("python", entry="tried_policy:decide")


def test_a_python_policy_that_hangs_is_ended_and_the_next_incident_is_judged(
    settings: PolicySettings, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with PolicyProcess(settings, 60.0) as process:
        first = process.judge(incident(do="pid"))
        vars(process)["_timeout_seconds"] = 1.0
        hung = process.judge(incident(do="loop"))
        vars(process)["_timeout_seconds"] = 60.0
        gone = process.judge(incident(do="exit"))
        raised = process.judge(incident(do="raise"))
        approved = process.judge(incident(do="approve"))
        last = process.judge(incident(do="pid"))
    assert time.monotonic() - began < 100
    assert hung.choice is None
    assert "not answered within 1 s" in str(hung.diagnostics[0])
    assert gone.choice is None
    assert "ended its process (exit code 3)" in str(gone.diagnostics[0])
    assert "raised SystemExit" in str(raised.diagnostics[0])
    assert approved.choice is not None
    assert first.choice is not None
    assert last.choice is not None
    assert first.choice.reason != last.choice.reason
    for judgement in (first, last):
        assert not is_running(int(judgement.choice.reason if judgement.choice else 0))
    captured = capfd.readouterr()
    assert captured.out == "", "stdout is for the answer of the tool"
    assert "noise on stdout" in captured.err


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def other(): pass", "has no 'decide'"),
        ("raise RuntimeError('out of order')", "out of order"),
        ("while True: pass", "not imported within 3 s"),
        ("import os; os._exit(5)", "ended while it was imported"),
    ],
)
def test_a_python_policy_that_cannot_be_loaded(
    settings: PolicySettings, tmp_path: Path, code: str, words: str
) -> None:
    (tmp_path / "tried_policy.py").write_text(code, encoding="utf-8")
    with pytest.raises(PolicyError, match=words):
        PolicyProcess(settings, 1.0, load_seconds=3 if "while" in code else 30)
