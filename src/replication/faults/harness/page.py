"""The report as one HTML page that needs nothing else: no scripts, no fonts, no images from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from replication.errors import OperatorError
from replication.faults.harness.charts import Course, draw_course
from replication.faults.harness.checks.material import CheckResult, Verdict
from replication.faults.harness.history import Operation, read_history
from replication.faults.harness.outcome import RunResult, read_result
from replication.faults.harness.sampling import Sample
from replication.faults.harness.style import STYLE

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_page(runs), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{path} could not be written: {error.strerror}. Check the folder.") from error


def render_page(runs: Sequence[RunView]) -> str:
    """The page."""
    title = f"Drill: {runs[0].result.name}" if len(runs) == 1 else f"{len(runs)} drills"
    counts = {verdict.value: sum(run.result.verdict is verdict for run in runs) for verdict in Verdict}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">Agent Consensus, faults on real clusters: {summary}.</p>',
    ]
    if len(runs) > 1:
        body.append(_overview(runs))
    body += [_section(run) for run in runs]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def _overview(runs: Sequence[RunView]) -> str:
    rows = [
        (
            f'<a href="#{escape(run.result.name)}">{escape(run.result.name)}</a>',
            escape(run.result.group),
            _verdict(run.result.verdict.value),
            _number(run.result.figures.get("decisions")),
            _milliseconds(run.result.figures.get("latency_p99_ms")),
            _milliseconds(run.result.figures.get("first_decision_after_healing_ms")),
            f"{run.result.seconds:.1f} s",
        )
        for run in runs
    ]
    heads = ("drill", "group", "verdict", "decisions", "p99", "first decision after healing", "took")
    return _table(heads, rows)


def _section(run: RunView) -> str:
    result, figures = run.result, run.result.figures
    facts = {
        "seed": result.seed,
        "nodes": result.nodes,
        "decisions": figures.get("decisions"),
        "operations": figures.get("operations"),
        "median": _milliseconds(figures.get("latency_p50_ms")),
        "p99": _milliseconds(figures.get("latency_p99_ms")),
        "view changes": figures.get("view_changes"),
        "height": figures.get("height"),
        "pace": figures.get("pace"),
        "one record after healing": _milliseconds(figures.get("one_record_after_healing_ms")),
        "took": f"{result.seconds:.1f} s",
    }
    shown = "".join(f"<span>{escape(name)} <b>{_number(value)}</b></span>" for name, value in facts.items())
    parts = [
        f'<h2 id="{escape(result.name)}">{escape(result.name)} {_verdict(result.verdict.value)}</h2>',
        f"<p>{escape(result.summary)}</p>",
        _list(result.reasons, result.verdict.value),
        f'<div class="facts">{shown}</div>',
    ]
    if run.operations:
        parts.append(f'<div class="scroll">{draw_course(_course(run))}</div>')
    parts += ["<h3>Faults</h3>", _faults(result), "<h3>Checks</h3>", _checks(result.checks)]
    if run.scenario:
        parts.append(f"<details><summary>Scenario</summary><pre>{escape(run.scenario)}</pre></details>")
    return "".join(parts)


def _course(run: RunView) -> Course:
    ends = [item.end_ms or item.start_ms for item in run.operations]
    ends += [float(sample.at_ms) for sample in run.samples]
    healed = run.result.figures.get("healed_ms")
    return Course(run.operations, run.samples, run.result.faults, healed, max(ends, default=1.0))


def _faults(result: RunResult) -> str:
    rows = []
    for fault in result.faults:
        seen = [f"{effect['at_ms'] / 1000:.2f} s: {effect['text']}" for effect in fault["effects"]]
        settings = ", ".join(f"{name} = {value}" for name, value in fault["settings"].items())
        problem = [fault["problem"]] if fault["problem"] else []
        if not seen and not problem:
            problem = ["it had no effect that could be seen"]
        rows.append(
            (
                f"{escape(fault['kind'])}<br><span class='faint'>{escape(settings)}</span>",
                escape(", ".join(fault["members"] or fault["targets"])),
                _span(fault["began_ms"], fault["ended_ms"]),
                _list(seen, "") + _list(problem, "not run") + _list(fault["unmet"], "failed"),
            )
        )
    return _table(("fault", "hit", "from, to", "seen"), rows)


def _checks(checks: Sequence[CheckResult]) -> str:
    rows = [
        (
            _verdict(check.verdict.value),
            escape(check.name) + _list(check.violations, "failed"),
            escape(check.promise),
            f'<span class="faint">{escape(check.detail)}</span>',
        )
        for check in checks
    ]
    return _table(("verdict", "what must hold", "promise", "looked at"), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(items: Sequence[str], style: str) -> str:
    if not items:
        return ""
    inner = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="{style.replace(" ", "-")}">{inner}</ul>'


def _verdict(verdict: str) -> str:
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict.upper()}</span>'


def _span(began_ms: int | None, ended_ms: int | None) -> str:
    begin = "never" if began_ms is None else f"{began_ms / 1000:.2f} s"
    end = "" if began_ms is None else "the end" if ended_ms is None else f"{ended_ms / 1000:.2f} s"
    return f"{begin}, {end}" if end else begin


def _number(value: object) -> str:
    return "-" if value is None else escape(str(value))


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.0f} ms"


def _lines(path: Path) -> list[str]:
    """The lines of a file; none of a file that is not there."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.") from error
