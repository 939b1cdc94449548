"""Results, verdicts, and the page: what people and programs read after a drill."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.html_page import Page

from replication.errors import OperatorError
from replication.faults.harness.checks import CheckResult, Verdict
from replication.faults.harness.fault import Effect, Planned
from replication.faults.harness.history import History, Outcome, read_history
from replication.faults.harness.outcome import (
    FaultLog,
    RunResult,
    judge,
    read_result,
    total_verdict,
    write_result,
)
from replication.faults.harness.page import RunView, load_run, render_page, write_page
from replication.faults.harness.sampling import Sample

PASSED = CheckResult("all is one", "A1", Verdict.PASSED, "4 records")
FAILED = CheckResult("nothing is lost", "A4", Verdict.FAILED, "9 writes", ("node-1 has lost <it>",))
UNSEEN = CheckResult("certificates verify", "A2", Verdict.NOT_RUN, "0 certificates")
PLANNED = Planned(1, "kill", ("coordinator",), 1_000, 3_000, False, {})
EVIL = '<script>alert("x")</script>'


def log(*, effect: bool = True, problem: str = "") -> FaultLog:
    effects = [Effect(1_010, "process 7 ended")] if effect else []
    return FaultLog(PLANNED, ("node-2",), 1_001, 3_005, effects, [], problem)


def result(verdict: Verdict = Verdict.PASSED, **changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "name": "a-drill",
        "group": "process",
        "summary": f"It shows {EVIL}.",
        "seed": 5,
        "nodes": 4,
        "verdict": verdict,
        "reasons": [],
        "checks": [PASSED],
        "faults": [log().as_document()],
        "figures": {"decisions": 12, "latency_p99_ms": 1250.5, "healed_ms": 4000},
        "seconds": 9.25,
    }
    return RunResult(**{**values, **changes})


@pytest.mark.parametrize(
    ("checks", "logs", "verdict", "words"),
    [
        ([PASSED], [log()], Verdict.PASSED, None),
        ([PASSED], [log(effect=False)], Verdict.NOT_RUN, "fault 1 (kill) had no effect that could be seen"),
        ([PASSED], [log(problem="no netem here")], Verdict.NOT_RUN, "fault 1 (kill): no netem here"),
        ([PASSED], [log(), log(effect=False)], Verdict.NOT_RUN, "no effect"),
        ([PASSED, UNSEEN], [log()], Verdict.NOT_RUN, "nothing to check: certificates verify"),
        ([PASSED, FAILED], [log()], Verdict.FAILED, "nothing is lost: node-1 has lost <it>"),
        ([FAILED], [log(effect=False)], Verdict.FAILED, "node-1 has lost"),
    ],
)
def test_verdicts(
    checks: list[CheckResult], logs: list[FaultLog], verdict: Verdict, words: str | None
) -> None:
    found, reasons = judge(checks, logs)
    assert found is verdict
    assert words is None or any(words in reason for reason in reasons)
    assert bool(reasons) == (verdict is not Verdict.PASSED)


def test_a_drawn_fault_is_excused_by_another_one_of_its_kind() -> None:
    absent = FaultLog(replace(PLANNED, number=2, drawn=True))
    assert judge([PASSED], [log(), absent])[0] is Verdict.PASSED
    assert judge([PASSED], [absent])[0] is Verdict.NOT_RUN
    other = FaultLog(replace(PLANNED, number=3, kind="pause", drawn=True))
    assert judge([PASSED], [log(), other])[0] is Verdict.NOT_RUN
    planned = FaultLog(replace(PLANNED, number=4))
    assert judge([PASSED], [log(), planned])[0] is Verdict.NOT_RUN


def test_the_worst_run_decides() -> None:
    good, unseen, bad = result(), result(Verdict.NOT_RUN), result(Verdict.FAILED)
    assert total_verdict([good, good]) is Verdict.PASSED
    assert total_verdict([good, unseen]) is Verdict.NOT_RUN
    assert total_verdict([unseen, bad, good]) is Verdict.FAILED
    assert total_verdict([]) is Verdict.NOT_RUN


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = result(Verdict.FAILED, checks=[PASSED, FAILED], reasons=["it gave way"])
    write_result(written, tmp_path)
    assert read_result(tmp_path).as_document() == written.as_document()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"verdict": "fine", "checks": []}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(OperatorError, match="is not the result of a run"):
        read_result(tmp_path)
    with pytest.raises(OperatorError, match="folder of a run that has finished"):
        read_result(tmp_path / "nowhere")


def write_history(path: Path) -> None:
    with History(path, began=0.0) as history:
        first = history.invoke("proposer-1", "propose", "", {"request_id": "a"})
        second = history.invoke("proposer-2", "propose", "", {"request_id": "b"})
        history.failed(second, Outcome.UNKNOWN, f"TimeoutError: {EVIL}")
        history.ok(first, {"proposal_id": "prop-0001", "decision": "approved"})
        history.invoke("proposer-1", "propose", "", {"request_id": "c"})
        refused = history.invoke("reader-1", "read", "node-1", {"proposal_id": "prop-0009"})
        history.failed(refused, Outcome.REFUSED, "NOT_FOUND: no such proposal")


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write_history(path)
    first, second, third, fourth = read_history(path.read_text(encoding="utf-8").splitlines())
    assert (first.outcome, first.answer["decision"]) == (Outcome.OK, "approved")
    assert first.latency_ms is not None
    assert (second.outcome, second.latency_ms) == (Outcome.UNKNOWN, None)
    assert (third.outcome, third.end_ms) == (Outcome.UNKNOWN, None)
    assert (fourth.outcome, fourth.node) == (Outcome.REFUSED, "node-1")
    assert [item.id for item in (first, second, third, fourth)] == [0, 1, 2, 3]


def view(tmp_path: Path, **changes: Any) -> RunView:
    write_history(tmp_path / "history.jsonl")
    samples = [
        Sample(at, f"node-{node}", None if at == 500 else at // 500, at, "node-1", 90_000)
        for at in range(0, 2_000, 250)
        for node in range(1, 5)
    ]
    lines = [json.dumps({name: getattr(sample, name) for name in Sample.__slots__}) for sample in samples]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    (tmp_path / "scenario.toml").write_text(f'name = "a-drill" # {EVIL}')
    write_result(result(**changes), tmp_path)
    return load_run(tmp_path)


def test_the_page_shows_the_run_and_needs_nothing_else(tmp_path: Path) -> None:
    run = view(tmp_path, verdict=Verdict.FAILED, checks=[PASSED, FAILED], reasons=["it gave way"])
    text = render_page([run])
    page = Page(text)
    assert page.loads == []
    assert "script" not in page.tags
    assert "http" not in re.sub(r"<title>.*?</title>", "", text).replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert page.tags.count("svg") == 1
    for words in (
        "FAILED",
        "node-1 has lost <it>",
        "process 7 ended",
        "1.25 s",
        "it gave way",
        "healed",
        "A4",
    ):
        assert words in page.text, words
    assert text.count("&lt;script&gt;") == 3  # summary, error, scenario: shown, never run


def test_a_page_of_several_runs_begins_with_an_overview(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    run = view(tmp_path / "one")
    target = tmp_path / "reports" / "all.html"
    write_page(target, [run, RunView(result(Verdict.NOT_RUN, name="b-drill", figures={}, faults=[]))])
    page = Page(target.read_text(encoding="utf-8"))
    assert "2 drills" in page.text
    assert "1 passed" in page.text
    assert "1 not run" in page.text
    assert page.tags.count("svg") == 1  # the other one has nothing to draw


def test_a_fault_that_was_not_there_is_said_to_be_absent(tmp_path: Path) -> None:
    text = render_page([view(tmp_path, faults=[log(effect=False).as_document()])])
    assert 'class="fault absent"' in text
    assert "it had no effect that could be seen" in text


def test_a_page_that_cannot_be_written_is_an_error_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="could not be written"):
        write_page(tmp_path / "file" / "report.html", [RunView(result())])
