"""How drills look at the terminal: what there is, how one is going, and what it came to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from replication.cli.output import console, note, table

if TYPE_CHECKING:
    from rich.status import Status

    from replication.faults.harness.fault import Kind
    from replication.faults.harness.outcome import RunResult
    from replication.faults.harness.scenario import Scenario
    from replication.faults.harness.settings import Setting

__all__ = [
    "Progress",
    "fault_counts",
    "kinds_document",
    "results_document",
    "scenario_document",
    "show_kinds",
    "show_results",
    "show_scenarios",
]

SHOWN_FAULTS = 3
"""How many faults of a scenario are named in the list."""


class Progress:
    """Shows how one run is going: a live line at a terminal, else a line for each event.

    Use as a context manager.
    """

    def __init__(self, title: str, seconds: float) -> None:
        self._title = title
        self._seconds = seconds
        self._stage = ""
        self._live: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._live = console(stderr=True).status(self._title)
            self._live.start()
        else:
            note(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def stage(self, text: str) -> None:
        """A new stage of the run."""
        self._stage = text
        self._update("")

    def event(self, at_ms: int, text: str) -> None:
        """Something happened in the cluster."""
        line = f"  {at_ms / 1000:7.2f} s  {text}"
        if self._live is not None:
            self._live.console.print(line, style="dim")
        else:
            note(line)

    def tick(self, at_ms: int, decisions: int, faults: Sequence[str]) -> None:
        """How things are."""
        broken = f"; {'; '.join(faults)}" if faults else ""
        self._update(f"{at_ms / 1000:.1f} of {self._seconds:g} s, {decisions} decisions{broken}")

    def done(self, result: RunResult) -> None:
        """The run is over."""
        text = f"{self._title}: {result.verdict.value.upper()} ({result.seconds:.1f} s)"
        if self._live is not None:
            self._live.stop()
        note(text)
        for reason in result.reasons:
            note(f"  {reason}")

    def _update(self, text: str) -> None:
        if self._live is not None:
            self._live.update(f"{self._title}: {self._stage}{f', {text}' if text else ''}")


def show_scenarios(scenarios: Iterable[Scenario]) -> None:
    """The ready drills."""
    rows = [
        (
            scenario.group.value,
            scenario.name,
            _fault_names(scenario),
            f"{scenario.workload.seconds:g} s",
            scenario.summary,
        )
        for scenario in scenarios
    ]
    console().print(table("Drills", ("group", "name", "faults", ">load", "what is shown"), rows))


def scenario_document(scenario: Scenario) -> dict[str, Any]:
    """A scenario as JSON values."""
    return {
        "name": scenario.name,
        "group": scenario.group.value,
        "summary": scenario.summary,
        "nodes": scenario.cluster.nodes,
        "seconds": scenario.workload.seconds,
        "seed": scenario.seed,
        "faults": sorted({fault.kind for fault in scenario.all_faults}),
        "namespaces": scenario.cluster.namespaces,
    }


def show_kinds(kinds: Iterable[Kind]) -> None:
    """The kinds of faults, with their settings."""
    rows = [
        (kind.group.value, kind.name, "\n".join(map(_setting, kind.settings.items())), kind.summary)
        for kind in kinds
    ]
    console().print(table("Kinds of faults", ("group", "kind", "settings", "what it does"), rows))


def kinds_document(kinds: Iterable[Kind]) -> list[dict[str, Any]]:
    """The kinds of faults as JSON values."""
    return [
        {
            "kind": kind.name,
            "group": kind.group.value,
            "summary": kind.summary,
            "settings": {name: _default(setting) for name, setting in kind.settings.items()},
            "needs": sorted(need.value for need in kind.needs),
        }
        for kind in kinds
    ]


def show_results(results: Sequence[RunResult]) -> None:
    """The summary: one line a run, and what is to be said about those that did not pass."""
    rows = []
    for result in results:
        seen = sum(bool(fault["took_effect"]) for fault in result.faults)
        rows.append(
            (
                result.verdict.value.upper(),
                result.name,
                result.seed,
                f"{seen} of {len(result.faults)}",
                result.figures.get("decisions", ""),
                _milliseconds(result.figures.get("latency_p99_ms")),
                result.figures.get("view_changes", ""),
                _milliseconds(result.figures.get("first_decision_after_healing_ms")),
                f"{result.seconds:.1f} s",
            )
        )
    columns = (
        *("verdict", "drill", ">seed", ">faults seen", ">decisions", ">p99", ">view changes"),
        *(">recovered in", ">took"),
    )
    screen = console()
    screen.print(table("", columns, rows))
    for result in results:
        for check in result.checks:
            for violation in check.violations:
                screen.print(f"{result.name}: {check.name} ({check.promise}): {violation}")
        if not any(check.violations for check in result.checks):
            for reason in result.reasons:
                screen.print(f"{result.name}: {result.verdict.value.upper()}: {reason}")
    total = sum(result.seconds for result in results)
    counts: dict[str, int] = {}
    for result in results:
        counts[result.verdict.value] = counts.get(result.verdict.value, 0) + 1
    screen.print(f"{', '.join(f'{count} {verdict}' for verdict, count in counts.items())} in {total:.0f} s")
    hits = fault_counts(results)
    screen.print(
        f"faults seen, by members hit: {', '.join(f'{count} {kind}' for kind, count in hits.items())}"
    )


def fault_counts(results: Iterable[RunResult]) -> dict[str, int]:
    """How many members each kind of fault has hit in all these runs, and how many of them as coordinators."""
    hits: Counter[str] = Counter()
    for result in results:
        for fault in result.faults:
            if fault["took_effect"]:
                hits[fault["kind"]] += len(fault["members"])
                if {"coordinator", "all"} & set(fault["targets"]):
                    hits[f"{fault['kind']} of the coordinator"] += 1
    return dict(sorted(hits.items()))


def results_document(results: Sequence[RunResult]) -> dict[str, Any]:
    """The results as JSON values."""
    from replication.faults.harness.outcome import total_verdict

    return {
        "verdict": total_verdict(results).value,
        "seconds": round(sum(result.seconds for result in results), 3),
        "hits": fault_counts(results),
        "runs": [result.as_document() for result in results],
    }


def _fault_names(scenario: Scenario) -> str:
    names = list(dict.fromkeys(fault.kind for fault in scenario.all_faults))
    more = len(names) - SHOWN_FAULTS
    return ", ".join(names[:SHOWN_FAULTS]) + (f" and {more} more" if more > 0 else "")


def _setting(item: tuple[str, Setting]) -> str:
    name, default = item[0], _default(item[1])
    return name if default is None else f"{name} = {default}"


def _default(setting: Setting) -> Any:
    from replication.faults.harness.settings import REQUIRED

    if setting.default is REQUIRED or setting.default is None:
        return None
    return list(setting.default) if isinstance(setting.default, tuple) else setting.default


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"
