"""Voter policies: what they decide, and that whatever goes wrong in one never becomes an approval."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cel
import pytest

from replication.consensus import VoteValue
from replication.errors import OperatorError
from replication.node import policies
from replication.node.cel_expression import MAX_EVIDENCE_DEPTH
from replication.node.config import PolicySettings
from replication.node.policies import (
    MAX_REASON_BYTES,
    MAX_STEPS,
    CelPolicy,
    Choice,
    Incident,
    ManualPolicy,
    Policy,
    PolicyError,
    PythonPolicy,
    evidence_size,
    load_cel_policy,
    load_policy,
    parse_cel_policy,
)

APPROVE, REJECT, ABSTAIN = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN


def incident(evidence: dict[str, Any] | None = None, **changes: Any) -> Incident:
    fields: dict[str, Any] = {
        "proposer": "node-2",
        "action": "quarantine",
        "target": "agent-7",
        "evidence": {} if evidence is None else evidence,
        "critical": False,
        "window_ms": 0,
        "expiry_ms": 0,
        "created_ms": 0,
        "voter": "node-1",
    }
    return Incident(**{**fields, **changes})


def rule(when: str, vote: str = "approve", reason: str = "because") -> str:
    return f"[[rule]]\nwhen = '''{when}'''\nvote = '{vote}'\nreason = '{reason}'\n"


def policy(*rules: str, head: str = "") -> CelPolicy:
    return parse_cel_policy(head + "".join(rules), "test.toml")


def matches(when: str, evidence: dict[str, Any] | None = None, **changes: Any) -> bool:
    return policy(rule(when)).decide(incident(evidence, **changes)) is not None


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


# --------------------------------------------------------------------------------------- cel: what is decided


def test_first_true_rule_decides() -> None:
    subject = policy(
        rule("false"), rule("evidence.x > 1", "reject", "second"), rule("true", "approve", "third")
    )
    assert subject.decide(incident({"x": 2})) == Choice(REJECT, "second")
    assert subject.decide(incident({"x": 1})) == Choice(APPROVE, "third")
    assert subject.judge(incident({"x": 1})).rule == 3


def test_no_rule_true_leaves_it_to_a_person() -> None:
    assert policy(rule("false")).decide(incident()) is None


def test_default() -> None:
    subject = policy(rule("evidence.x"), head="default = { vote = 'abstain', reason = 'no idea' }\n")
    judgement = subject.judge(incident({"x": False}))
    assert (judgement.choice, judgement.rule) == (Choice(ABSTAIN, "no idea"), None)


def test_vote_none_stops_the_search() -> None:
    assert policy("[[rule]]\nwhen = 'true'\nvote = 'none'\n", rule("true")).decide(incident()) is None


@pytest.mark.parametrize(
    "when",
    [
        "action == 'quarantine' && target == 'agent-7' && !critical",
        "proposer == 'node-2' && voter == 'node-1'",
        "evidence.n == 1 && evidence.n == 1.0 && evidence.n > 0.5",
        "evidence.big == 9007199254740991",
        "evidence.f > 1e300",
        "evidence.s == 'é日本🙄'",
        "evidence.list.exists(x, x > 2) && size(evidence.list) == 3",
        "evidence.nothing == null",
        "has(evidence.map.inner) && !has(evidence.map.other) && 'inner' in evidence.map",
        "type(evidence.n) == int && type(evidence.list) == list",
        "evidence.n > 0 || evidence.missing",
        "evidence.s.matches(r'^\\S+$')",
    ],
)
def test_expressions(when: str) -> None:
    evidence = {
        **{"n": 1, "big": 2**53 - 1, "f": 1e308, "s": "é日本🙄", "list": [1, 2, 3]},
        **{"nothing": None, "map": {"inner": 1}},
    }
    assert matches(when, evidence)


# ------------------------------------------------------------------------------------ cel: errors fail closed


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("evidence.s > 1", "not defined for values of these types"),
        ("evidence.s + 1 == 2", "string + int"),
        ("evidence.n.startsWith('x')", "startsWith() is not defined for a value of this type"),
        ("evidence.n / 0 == 1", "division by zero"),
        ("evidence.n + 9223372036854775807 > 0", "overflow"),
        ("evidence.n", "gives int 1, not true or false"),
        ("evidence.s", "gives str 'true', not true or false"),
        ("null", "gives NoneType None"),
        ("evidence.s.matches('(')", "regex"),
        ("evidence.list[-1] == 1", "index"),
    ],
)
def test_error_does_not_match_and_is_reported(when: str, said: str) -> None:
    judgement = policy(rule(when)).judge(incident({"s": "true", "n": 1, "list": []}))
    assert judgement.choice is None
    assert [diagnostic.rule for diagnostic in judgement.diagnostics] == [1]
    assert said in str(judgement.diagnostics[0])
    assert "\n" not in str(judgement.diagnostics[0])


@pytest.mark.parametrize(
    "when", ["evidence.x == 1", "!(evidence.x > 5)", "has(evidence.x.y)", "evidence.l[3] == 1"]
)
def test_missing_key_does_not_match_and_is_no_error(when: str) -> None:
    subject = policy(rule(when, "reject"), rule("true"))
    judgement = subject.judge(incident({"l": []}))
    assert judgement.choice == Choice(APPROVE, "because"), "a later rule goes on as if nothing had been"
    assert [diagnostic.missing for diagnostic in judgement.diagnostics] == [True]


@pytest.mark.parametrize("vote", ["reject", "abstain", "none"])
def test_after_a_broken_guard_nothing_approves(vote: str) -> None:
    """A proposer that writes "lots" for a number must not get rid of the rule that would have said no."""
    subject = policy(rule("evidence.risk > 5", vote), rule("true"))
    judgement = subject.judge(incident({"risk": "lots"}))
    assert judgement.choice is None
    assert "rule 1 before it could not be evaluated" in str(judgement.diagnostics[-1])
    assert subject.decide(incident({"risk": 1})) == Choice(APPROVE, "because")


def test_broken_guard_withholds_an_approving_default() -> None:
    subject = policy(
        rule("evidence.x > 1", "reject"), head="default = { vote = 'approve', reason = 'fine' }\n"
    )
    assert subject.decide(incident({"x": "?"})) is None
    assert subject.decide(incident({"x": 0})) == Choice(APPROVE, "fine")


def test_broken_guard_does_not_withhold_a_rejection() -> None:
    subject = policy(rule("evidence.x > 1", "none"), rule("true", "reject"))
    assert subject.decide(incident({"x": "?"})) == Choice(REJECT, "because")


def test_broken_approving_rule_bars_nothing() -> None:
    assert policy(rule("evidence.x > 1"), rule("true")).decide(incident({"x": "?"})) == Choice(
        APPROVE, "because"
    )


def test_panic_of_the_engine_is_an_error_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # as PyO3 names it; it is no Exception there either
        pass

    class Panics:
        def variables(self) -> list[str]:
            return []

        functions = variables

        def execute(self, context: object) -> bool:
            raise PanicException("index out of bounds")

    monkeypatch.setattr(cel, "compile", lambda source: Panics())
    judgement = policy(rule("true")).judge(incident())
    assert (judgement.choice, "index out of bounds" in str(judgement.diagnostics[0])) == (None, True)


def test_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cel, "compile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        policy(rule("true"))


def test_evidence_that_cel_cannot_hold() -> None:
    judgement = policy(rule("true")).judge(incident({"s": "\ud800"}))
    assert judgement.choice is None
    assert "not fit for rules" in str(judgement.diagnostics[0])


# ------------------------------------------------------------------------------------------ cel: hostile cost


def test_evidence_is_data_only() -> None:
    evidence = {
        "a": "true",
        "b": "evidence.a == 'true'",
        "c": "__import__('os')",
        "size": "size",
        "action": "release",
    }
    assert not matches("evidence.a", evidence)
    assert not matches("evidence.b", evidence)
    assert not matches("action == 'release'", evidence)


def test_pattern_from_evidence_is_refused_at_load() -> None:
    for when in ("target.matches(evidence.p)", "target.matches('a' + evidence.p)", "'a'.matches ( action )"):
        with pytest.raises(
            PolicyError, match=r"rule 1: when .* matches\(\) takes a pattern written out in quotes"
        ):
            policy(rule(when))


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(a|a)*b", "(.*)(.*)(.*)(.*)[1-9]x", "(a|aa)+$"])
def test_catastrophic_patterns_are_linear_here(pattern: str) -> None:
    started = time.thread_time()  # CEL runs in this thread; what other processes take does not count
    policy(rule(f"evidence.s.matches('{pattern}')")).judge(incident({"s": "a" * 60_000 + "!"}))
    assert time.thread_time() - started < 1  # a backtracking engine would outlast the universe


EXPENSIVE = [
    "evidence.l.exists(x, evidence.m.exists(y, x + y < 0))",
    "evidence.l.map(x, x).size() < 0",
    "evidence.l.filter(x, x >= 0).size() < 0",
    "evidence.l.exists(x, -1 in evidence.m)",
    "evidence.l.exists(x, evidence.l == evidence.m && x < 0)",
    "evidence.l.exists(x, (evidence.l + evidence.m).size() < 0)",
    "')' == '//' || evidence.l . exists ( x, evidence\n.m.all(y, y > x))",
    '// """\nevidence.l.map(x, x).size() < 0 // """',
    'evidence.l // ))) \' "\n.map(x, x) == [\')\', ")", r\'\\\', \'it\\\'s )\', """" ) """]',
]


@pytest.mark.parametrize("when", EXPENSIVE)
def test_expensive_rule_is_not_run_on_large_evidence(when: str) -> None:
    subject = policy(rule(when, "reject"), rule("true"))
    large, small = ({"l": list(range(size)), "m": list(range(size))} for size in (15_000, 20))
    started = time.thread_time()
    judgement = subject.judge(incident(large))
    assert time.thread_time() - started < 1  # about 0.04 s; if it were run, many times that
    assert judgement.choice is None, "an attacker cannot buy an approval with bulk"
    assert "steps, too many" in str(judgement.diagnostics[0])
    assert subject.judge(incident(small)).rule == 2


def test_linear_rules_run_on_the_largest_evidence() -> None:
    evidence = {"l": list(range(32_000))}
    assert matches(
        "evidence.l.exists(x, x == 31999) && evidence.l.all(x, x >= 0) && size(evidence.l) > 1", evidence
    )


def test_all_rules_share_one_budget() -> None:
    side = int(MAX_STEPS**0.5) // 2
    each = rule("evidence.l.map(x, x).size() < 0")
    diagnostics = policy(each * 10).judge(incident({"l": list(range(side))})).diagnostics
    assert 0 < len(diagnostics) < 10


def test_worst_case_within_the_budget_is_short() -> None:
    """The costliest forms at the largest evidence let through; CEL holds the interpreter lock meanwhile."""
    for when in EXPENSIVE[:6]:
        subject = policy(rule(when))
        side = int(MAX_STEPS**0.5) // 2 - 5
        evidence = {"l": list(range(side)), "m": list(range(side))}
        started = time.thread_time()
        assert subject.judge(incident(evidence)).diagnostics == ()
        assert time.thread_time() - started < 1  # 0.01 to 0.1 s


def test_macros_nested_too_deeply_are_refused_at_load() -> None:
    deep = "evidence.a.all(w, w.all(x, x.all(y, y.all(z, z > 0))))"
    with pytest.raises(PolicyError, match="nested too deeply"):
        policy(rule(deep))


def test_text_counts_towards_the_size() -> None:
    assert evidence_size({}) == 1
    assert evidence_size({"a": [1, "x", {"b": None}]}) == 6
    assert evidence_size({"a": "x" * 6400}) == 102
    assert evidence_size({"k" * 6400: 1}) == 102


def test_evidence_depth_is_bounded() -> None:
    assert evidence_size(nested(MAX_EVIDENCE_DEPTH))
    assert matches("true", nested(MAX_EVIDENCE_DEPTH))
    judgement = policy(rule("true")).judge(incident(nested(MAX_EVIDENCE_DEPTH + 2)))
    assert judgement.choice is None
    assert "levels deep" in str(judgement.diagnostics[0])


def test_python_policy_gets_no_deeper_evidence_than_a_cel_policy() -> None:
    judgement = returning("approve").judge(incident(nested(MAX_EVIDENCE_DEPTH + 2)))
    assert judgement.choice is None
    assert "levels deep" in str(judgement.diagnostics[0])


def test_deep_evidence_does_not_kill_the_process() -> None:
    """Without the bound, the engine's recursion overflows the native stack: the process ends with SIGSEGV."""
    script = (
        "from replication.node.policies import *\n"
        "evidence = {}\n"
        "for _ in range(100_000): evidence = {'a': evidence}\n"
        "paper = Incident('p', 'a', 't', evidence, False, 0, 0, 0, 'v')\n"
        'rules = parse_cel_policy(\'[[rule]]\\nwhen = "true"\\nvote = "approve"\\nreason = "x"\\n\', \'x\')\n'
        "code = PythonPolicy(lambda paper: 'approve', 'x')\n"
        "print(rules.decide(paper), code.decide(paper), flush=True)\n"
        "import os; os._exit(0)\n"  # taking the evidence apart again is Python's own affair
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "None None"), done.stderr


def test_usable_from_another_thread() -> None:
    subject, results = policy(rule("evidence.x == 1")), []
    thread = threading.Thread(target=lambda: results.append(subject.decide(incident({"x": 1}))))
    thread.start()
    thread.join()
    assert results == [Choice(APPROVE, "because")]


# -------------------------------------------------------------------------------------- cel: bad policy files

GOOD = rule("true")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [", "test.toml is not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "test.toml is not valid TOML"),
        ("", "no rules and no default"),
        ("rule = 1", "two brackets"),
        ("rule = [1]", "two brackets"),
        ("[rule]\nwhen = 'true'", "two brackets"),
        ("defualt = 1\n" + GOOD, "unknown key 'defualt'; did you mean \"default\"?"),
        ("default = 'reject'\n" + GOOD, "default must be a table"),
        (
            "default = { vote = 'maybe' }\n" + GOOD,
            "default: vote must be one of approve, reject, abstain, none",
        ),
        ("default = { vote = 'none', wen = 1 }\n" + GOOD, "default: unknown key 'wen'"),
        (GOOD + "default = { vote = 'none' }\n", "rule 1: default belongs to the whole file"),
        (GOOD + "[[rule]]\nvote = 'reject'\n", "rule 2: when must be given"),
        ("[[rule]]\nwhen = true\nvote = 'reject'\n", "rule 1: when must be given"),
        ("[[rule]]\nwhen = ' '\nvote = 'reject'\n", "rule 1: when must be given"),
        (
            "[[rule]]\nwhen = 'true'\nvotes = 'reject'\n",
            "rule 1: unknown key 'votes'; did you mean \"vote\"?",
        ),
        ("[[rule]]\nwhen = 'true'\n", "rule 1: vote must be one of"),
        ("[[rule]]\nwhen = 'true'\nvote = 'Approve'\n", "rule 1: vote must be one of"),
        ("[[rule]]\nwhen = 'true'\nvote = ['approve']\n", "rule 1: vote must be one of"),
        ("[[rule]]\nwhen = 'true'\nvote = 'approve'\n", "rule 1: reason must say why"),
        ("[[rule]]\nwhen = 'true'\nvote = 'approve'\nreason = 7\n", "rule 1: reason must be text"),
        (rule("true", reason="é" * 513), "rule 1: reason must be text of at most 1024 bytes"),
        (rule("evidence.x ==="), "rule 1: when is not a usable CEL expression: 1:14: Syntax error"),
        (rule("1 +"), "rule 1: when is not a usable CEL expression: 1:4: Syntax error"),
        (
            GOOD + rule("evidense.x == 1"),
            "rule 2: when is not a usable CEL expression: there is no 'evidense'; did",
        ),
        (rule("window_ms > 1"), "there is no 'window_ms'"),
        (rule("evidence.s.lowerAscii() == 'x'"), "there is no function 'lowerAscii'"),
        (rule("evidence.l.exist(x, x > 1)"), "there is no"),
        (rule("x > 1 && [1].exists(y, y > 1)"), "there is no 'x'"),
        (rule("(" * 1000 + "true" + ")" * 1000), "rule 1: when is not a usable CEL expression"),
        (rule("true" + " || true" * 600), "longer than 4096 characters"),
        (GOOD * 257, "257 rules; at most 256"),
    ],
)
def test_bad_policy_names_rule_key_and_reason(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_cel_policy(text, "test.toml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("test.toml")
    assert len(str(caught.value)) < 600


def test_policy_error_is_the_operators() -> None:
    assert issubclass(PolicyError, OperatorError)
    assert PolicyError.reason == "POLICY_INVALID"


def test_policy_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load_cel_policy(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(PolicyError, match="not UTF-8"):
        load_cel_policy(tmp_path / "latin.toml")
    (tmp_path / "large.toml").write_text("# " + "x" * policies.MAX_POLICY_BYTES + "\n" + GOOD)
    with pytest.raises(PolicyError, match="larger than"):
        load_cel_policy(tmp_path / "large.toml")


# ----------------------------------------------------------------------------------------------------- python


def returning(result: object) -> PythonPolicy:
    return PythonPolicy(lambda paper: result, "test:policy")


@pytest.mark.parametrize(
    ("result", "choice"),
    [
        (None, None),
        ("none", None),
        ("approve", Choice(APPROVE)),
        ("abstain", Choice(ABSTAIN)),
        (REJECT, Choice(REJECT)),
        (Choice(APPROVE, "why"), Choice(APPROVE, "why")),
    ],
)
def test_python_results(result: object, choice: Choice | None) -> None:
    judgement = returning(result).judge(incident())
    assert (judgement.choice, judgement.diagnostics) == (choice, ())


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


async def asynchronous(paper: Incident) -> str:
    return "approve"


BAD_VALUE: Any = "approve"  # a string where a VoteValue belongs
BAD_REASON: Any = 7


@pytest.mark.parametrize(
    "result",
    [
        *(True, 1, "Approve", "", ("approve", "why"), {"vote": "approve"}, [], Unprintable()),
        *(Choice(BAD_VALUE, "x"), Choice(APPROVE, BAD_REASON)),
    ],
)
def test_other_python_results_are_no_vote(result: object) -> None:
    judgement = returning(result).judge(incident())
    assert judgement.choice is None
    assert "a policy returns a Choice" in str(judgement.diagnostics[0])


def test_coroutine_is_no_vote() -> None:
    judgement = PythonPolicy(lambda paper: asynchronous(paper), "x").judge(incident())
    assert (judgement.choice, len(judgement.diagnostics)) == (None, 1)


@pytest.mark.parametrize(
    "error", [ValueError("bad"), SystemExit(3), GeneratorExit(), RecursionError(), KeyError("x")]
)
def test_exception_in_python_policy_is_no_vote(error: BaseException) -> None:
    def fail(paper: Incident) -> None:
        raise error

    judgement = PythonPolicy(fail, "x").judge(incident())
    assert judgement.choice is None
    assert type(error).__name__ in str(judgement.diagnostics[0])


def test_interrupt_in_python_policy_goes_on() -> None:
    def interrupt(paper: Incident) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PythonPolicy(interrupt, "x").judge(incident())


def test_python_policy_gets_a_copy_of_the_evidence() -> None:
    evidence = {"list": [1]}

    def meddle(paper: Incident) -> None:
        paper.evidence["list"].append(2)

    PythonPolicy(meddle, "x").decide(incident(evidence))
    assert evidence == {"list": [1]}


def test_long_or_broken_reason_is_made_legal() -> None:
    choice = returning(Choice(APPROVE, "é" * 600)).decide(incident())
    assert choice is not None
    assert choice.reason.endswith("é…")
    assert MAX_REASON_BYTES - 2 <= len(choice.reason.encode()) <= MAX_REASON_BYTES
    assert returning(Choice(APPROVE, "a\ud800b")).decide(incident()) == Choice(APPROVE, "a?b")


def test_loading_a_python_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acp_test_policy.py").write_text(
        "def decide(paper): return 'reject'\nasync def later(paper): return None\n"
        "class Holder: decide = decide\nN = 1\n"
    )
    (tmp_path / "acp_test_broken.py").write_text("raise SystemExit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)

    def load(entry: str) -> Policy:
        return load_policy(PolicySettings("python", entry=entry), tmp_path)

    assert load("acp_test_policy:decide").decide(incident()) == Choice(REJECT)
    assert load("acp_test_policy:Holder.decide").decide(incident()) == Choice(REJECT)
    for entry, said in {
        "acp_test_policy:later": "async function",
        "acp_test_policy:N": "not a function",
        "acp_test_policy:absent": "has no 'absent'",
        "acp_test_absent:decide": "cannot be imported: ModuleNotFoundError",
        "acp_test_broken:decide": "cannot be imported: SystemExit",
    }.items():
        with pytest.raises(PolicyError, match=said):
            load(entry)


# ---------------------------------------------------------------------------------------------------- loading


def test_load_policy(tmp_path: Path) -> None:
    (tmp_path / "policy.cel.toml").write_text(GOOD)
    manual = load_policy(PolicySettings(), tmp_path)
    rules = load_policy(PolicySettings("cel", file="policy.cel.toml"), tmp_path)
    absolute = load_policy(PolicySettings("cel", file=str(tmp_path / "policy.cel.toml")), Path("/nowhere"))
    assert isinstance(manual, ManualPolicy)
    assert (manual.decide(incident()), manual.judge(incident()).choice) == (None, None)
    for loaded in (manual, rules, absolute, returning(None)):
        assert isinstance(loaded, Policy)
    assert [each.kind for each in (manual, rules, returning(None))] == ["manual", "cel", "python"]
    assert rules.decide(incident()) == absolute.decide(incident()) == Choice(APPROVE, "because")


@pytest.mark.parametrize(
    "settings", [PolicySettings("cel"), PolicySettings("python"), PolicySettings("magic")]
)
def test_settings_that_name_no_policy(settings: PolicySettings, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="a policy needs kind"):
        load_policy(settings, tmp_path)


# ---------------------------------------------------------------------------------------------------- the log


def test_one_short_warning_for_all_errors_of_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hostile = "x\nERROR forged line \x1b[31m" + "y" * 5000
    broken = rule("evidence.x > 1")
    policy(broken, broken, broken).decide(incident({"x": "?"}, target=hostile, action=hostile))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    message = caplog.records[0].getMessage()
    assert "test.toml" in message
    assert "rule 1" in message
    assert "(and 2 more)" in message
    assert len(message) < 1000
    assert message.isprintable()


def test_missing_keys_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    policy(rule("evidence.absent > 1")).decide(incident())
    assert caplog.records == []


def test_key_named_by_evidence_cannot_forge_a_line() -> None:
    judgement = policy(rule("evidence[evidence.k] == 1")).judge(incident({"k": "a\nb" + "c" * 1000}))
    assert str(judgement.diagnostics[0]).isprintable()
    assert len(str(judgement.diagnostics[0])) < 300


def test_python_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    returning(1).decide(incident())
    assert "test:policy" in caplog.text
