"""What a run came to: the verdict, the checks, the faults with what was seen of them, and the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from replication.errors import OperatorError
from replication.faults.harness.checks.material import CheckResult, Verdict
from replication.faults.harness.fault import Effect, Planned

__all__ = ["RESULT_FILE", "FaultLog", "RunResult", "read_result", "total_verdict", "write_result"]

RESULT_FILE: Final = "result.json"


@dataclass(slots=True)
class FaultLog:
    """One fault as it was: who was hit, when, and what was seen of it. Times as in `Planned`.

    `problem` says why it could not be imposed; `unmet` what the nodes did not do that they have to do.
    """

    planned: Planned
    members: tuple[str, ...] = ()
    began_ms: int | None = None
    ended_ms: int | None = None
    effects: list[Effect] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    problem: str = ""

    @property
    def took_effect(self) -> bool:
        """Whether it was there."""
        return bool(self.effects) and not self.problem

    def as_document(self) -> dict[str, Any]:
        """The log as JSON values."""
        return {
            **self.planned.as_document(),
            "members": list(self.members),
            "began_ms": self.began_ms,
            "ended_ms": self.ended_ms,
            "took_effect": self.took_effect,
            "effects": [{"at_ms": effect.at_ms, "text": effect.text} for effect in self.effects],
            "unmet": list(self.unmet),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run. `reasons` say why the verdict is not PASSED."""

    name: str
    group: str
    summary: str
    seed: int
    nodes: int
    verdict: Verdict
    reasons: Sequence[str]
    checks: Sequence[CheckResult]
    faults: Sequence[Mapping[str, Any]]
    figures: Mapping[str, Any]
    seconds: float
    directory: str = ""

    def as_document(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "name": self.name,
            "group": self.group,
            "summary": self.summary,
            "seed": self.seed,
            "nodes": self.nodes,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "checks": [check.as_document() for check in self.checks],
            "faults": list(self.faults),
            "figures": dict(self.figures),
            "seconds": round(self.seconds, 3),
            "directory": self.directory,
        }


def judge(checks: Sequence[CheckResult], faults: Sequence[FaultLog]) -> tuple[Verdict, list[str]]:
    """The verdict of a run, and why it is not PASSED.

    A violation counts whatever else was the matter. Without one, a fault that was not there, or a check that
    saw nothing, means that nothing was shown. Of the drawn faults of one kind, one has to have been there:
    the draw does not know which members are down already.
    """
    failed = [check for check in checks if check.verdict is Verdict.FAILED]
    if failed:
        return Verdict.FAILED, [f"{check.name}: {check.violations[0]}" for check in failed]
    seen = {log.planned.kind for log in faults if log.took_effect}
    excused = [log for log in faults if log.planned.drawn and log.planned.kind in seen]
    reasons = [_missing(log) for log in faults if not log.took_effect and log not in excused]
    reasons += [f"nothing to check: {check.name}" for check in checks if check.verdict is Verdict.NOT_RUN]
    return (Verdict.NOT_RUN if reasons else Verdict.PASSED), reasons


def total_verdict(results: Sequence[RunResult]) -> Verdict:
    """The verdict of several runs: that of the worst."""
    verdicts = {result.verdict for result in results}
    if Verdict.FAILED in verdicts:
        return Verdict.FAILED
    return Verdict.NOT_RUN if Verdict.NOT_RUN in verdicts or not results else Verdict.PASSED


def write_result(result: RunResult, directory: Path) -> None:
    """Keep the result in a run's folder."""
    text = json.dumps(result.as_document(), indent=2, ensure_ascii=False) + "\n"
    (directory / RESULT_FILE).write_text(text, encoding="utf-8")


def read_result(directory: Path) -> RunResult:
    """The result in a run's folder. Raises `OperatorError` if there is none that can be read."""
    path = directory / RESULT_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        checks = [
            CheckResult(
                item["name"],
                item["promise"],
                Verdict(item["verdict"]),
                item["detail"],
                tuple(item["violations"]),
            )
            for item in data.pop("checks")
        ]
        return RunResult(**{**data, "verdict": Verdict(data["verdict"]), "checks": checks})
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be read: {error.strerror}. Give the folder of a run that has finished."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"{path} is not the result of a run: {error}") from error


def _missing(log: FaultLog) -> str:
    what = f"fault {log.planned.number} ({log.planned.kind})"
    return f"{what}: {log.problem}" if log.problem else f"{what} had no effect that could be seen"
