"""The report as one HTML page that needs nothing else: no scripts, no fonts, no images from anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replication.errors import OperatorError
from replication.faults.harness.charts import Course, draw_course
from replication.faults.harness.checks.material import CheckResult, Verdict
from replication.faults.harness.history import Operation, read_history
from replication.faults.harness.outcome import RunResult, read_result
from replication.faults.harness.sampling import Sample
from replication.report.html import (
    Markup,
    bullets,
    document,
    facts,
    join,
    milliseconds,
    number,
    save,
    table,
    text,
    verdict,
)

__all__ = ["RunView", "load_run", "render_page", "write_page"]


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything of one run that the page shows. `scenario` is the text of its file."""

    result: RunResult
    operations: Sequence[Operation] = ()
    samples: Sequence[Sample] = ()
    scenario: str = ""


def load_run(directory: Path) -> RunView:
    """A run from its folder. What a run that never started does not have is left out.

    Raises `OperatorError` if there is no result, or a file of it cannot be read.
    """
    result = read_result(directory)
    try:
        history = _lines(directory / "history.jsonl")
        samples = [Sample(**json.loads(line)) for line in _lines(directory / "samples.jsonl")]
        scenario = "\n".join(_lines(directory / "scenario.toml"))
        return RunView(result, read_history(history), samples, scenario)
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"The files in {directory} are not those of a run: {error}") from error


def write_page(path: Path, runs: Sequence[RunView]) -> None:
    """Write the report on one or more runs to a file. Raises `OperatorError` if that cannot be done."""
    save(path, render_page(runs))


def render_page(runs: Sequence[RunView]) -> str:
    """The page."""
    title = f"Drill: {runs[0].result.name}" if len(runs) == 1 else f"{len(runs)} drills"
    counts = {word.value: sum(run.result.verdict is word for run in runs) for word in Verdict}
    summary = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    body = [
        Markup(f"<h1>{text(title)}</h1>"),
        Markup(f'<p class="faint">Agent Consensus, faults on real clusters: {text(summary)}.</p>'),
    ]
    if len(runs) > 1:
        body.append(_overview(runs))
    return document(title, [*body, *map(_section, runs)])


def _overview(runs: Sequence[RunView]) -> Markup:
    rows = [
        (
            Markup(f'<a href="#{text(run.result.name)}">{text(run.result.name)}</a>'),
            run.result.group,
            verdict(run.result.verdict.value),
            number(run.result.figures.get("decisions")),
            milliseconds(run.result.figures.get("latency_p99_ms")),
            milliseconds(run.result.figures.get("first_decision_after_healing_ms")),
            f"{run.result.seconds:.1f} s",
        )
        for run in runs
    ]
    heads = ("drill", "group", "verdict", ">decisions", ">p99", ">first decision after healing", ">took")
    return table(heads, rows)


def _section(run: RunView) -> Markup:
    result, figures = run.result, run.result.figures
    shown = {
        "seed": result.seed,
        "nodes": result.nodes,
        "decisions": figures.get("decisions"),
        "operations": figures.get("operations"),
        "median": milliseconds(figures.get("latency_p50_ms")),
        "p99": milliseconds(figures.get("latency_p99_ms")),
        "view changes": figures.get("view_changes"),
        "height": figures.get("height"),
        "pace": figures.get("pace"),
        "the machine stood still": milliseconds(figures.get("stood_still_ms")),
        "one record after healing": milliseconds(figures.get("one_record_after_healing_ms")),
        "took": f"{result.seconds:.1f} s",
    }
    name = text(result.name)
    parts = [
        Markup(f'<h2 id="{name}">{name} {verdict(result.verdict.value)}</h2>'),
        Markup(f"<p>{text(result.summary)}</p>"),
        bullets(result.reasons, result.verdict.value),
        facts(shown),
    ]
    if run.operations:
        parts.append(Markup(f'<div class="scroll">{draw_course(_course(run))}</div>'))
    parts += [Markup("<h3>Faults</h3>"), _faults(result), Markup("<h3>Checks</h3>"), _checks(result.checks)]
    if run.scenario:
        scenario = text(run.scenario)
        parts.append(Markup(f"<details><summary>Scenario</summary><pre>{scenario}</pre></details>"))
    return join(parts)


def _course(run: RunView) -> Course:
    ends = [item.end_ms or item.start_ms for item in run.operations]
    ends += [float(sample.at_ms) for sample in run.samples]
    healed = run.result.figures.get("healed_ms")
    return Course(run.operations, run.samples, run.result.faults, healed, max(ends, default=1.0))


def _faults(result: RunResult) -> Markup:
    rows = []
    for fault in result.faults:
        seen = [f"{effect['at_ms'] / 1000:.2f} s: {effect['text']}" for effect in fault["effects"]]
        settings = ", ".join(f"{name} = {value}" for name, value in fault["settings"].items())
        problem = [fault["problem"]] if fault["problem"] else []
        if not seen and not problem:
            problem = ["it had no effect that could be seen"]
        rows.append(
            (
                Markup(f'{text(fault["kind"])}<br><span class="faint">{text(settings)}</span>'),
                ", ".join(fault["members"] or fault["targets"]),
                _span(fault["began_ms"], fault["ended_ms"]),
                join([bullets(seen), bullets(problem, "not run"), bullets(fault["unmet"], "failed")]),
            )
        )
    return table(("fault", "hit", "from, to", "seen"), rows)


def _checks(checks: Sequence[CheckResult]) -> Markup:
    rows = [
        (
            verdict(check.verdict.value),
            join([check.name, bullets(check.violations, "failed")]),
            check.promise,
            Markup(f'<span class="faint">{text(check.detail)}</span>'),
        )
        for check in checks
    ]
    return table(("verdict", "what must hold", "promise", "looked at"), rows)


def _span(began_ms: int | None, ended_ms: int | None) -> str:
    begin = "never" if began_ms is None else f"{began_ms / 1000:.2f} s"
    end = "" if began_ms is None else "the end" if ended_ms is None else f"{ended_ms / 1000:.2f} s"
    return f"{begin}, {end}" if end else begin


def _lines(path: Path) -> list[str]:
    """The lines of a file; none of a file that is not there."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.") from error
