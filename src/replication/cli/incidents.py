"""Incidents for the demonstration: what is proposed, and what must come of it. One JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replication.client.model import Decision, ProposalStatus
from replication.errors import OperatorError

__all__ = ["Incident", "find_examples", "load_incidents"]

_KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "name": str,
    "action": str,
    "target": str,
    "evidence": dict,
    "proposer": str,
    "window_seconds": (int, float),
    "expiry_seconds": (int, float),
    "expect": dict,
    "execute": bool,
}
_REQUIRED: Final = ("name", "action", "target", "evidence", "expect")


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident.

    Window and expiry are in milliseconds, 0 for none; `execute` asks for a receipt afterwards.
    """

    name: str
    action: str
    target: str
    evidence: Mapping[str, Any]
    proposer: str
    window_ms: int
    expiry_ms: int
    decision: Decision
    status: ProposalStatus
    execute: bool

    @property
    def takes_time(self) -> bool:
        """Whether it may be decided only when its time is up."""
        return bool(self.window_ms or self.expiry_ms)


def find_examples(given: Path | None) -> Path:
    """The folder with the examples: the given one, ``deploy/examples`` here, or that of the source tree."""
    if given is not None:
        return given
    candidates = (Path("deploy/examples"), Path(__file__).parents[3] / "deploy" / "examples")
    for candidate in candidates:
        if (candidate / "incidents.jsonl").is_file():
            return candidate
    raise OperatorError("There are no examples here. Run it in the project's folder, or give --examples DIR.")


def load_incidents(path: Path) -> list[Incident]:
    """Read a file of incidents strictly. Raises `OperatorError` with the line at fault."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"The incidents {path} cannot be read: {error}.") from error
    found = [
        _incident(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise OperatorError(f"{path} holds no incidents. Write one JSON object a line.")
    return found


def _incident(line: str, place: str) -> Incident:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{place}: not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise OperatorError(f"{place}: not a JSON object.")
    for key, value in data.items():
        if key not in _KEYS:
            raise OperatorError(f"{place}: unknown key {key!r:.80}. Known are {', '.join(_KEYS)}.")
        if not isinstance(value, _KEYS[key]):
            raise OperatorError(f"{place}: {key} has the wrong type ({type(value).__name__}).")
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise OperatorError(f"{place}: {missing[0]} is missing.")
    try:
        decision, status = Decision(data["expect"]["decision"]), ProposalStatus(data["expect"]["status"])
    except (KeyError, ValueError) as error:
        raise OperatorError(f"{place}: expect needs a decision and a status that exist ({error}).") from error
    return Incident(
        name=data["name"],
        action=data["action"],
        target=data["target"],
        evidence=data["evidence"],
        proposer=data.get("proposer", "node-1"),
        window_ms=round(data.get("window_seconds", 0) * 1000),
        expiry_ms=round(data.get("expiry_seconds", 0) * 1000),
        decision=decision,
        status=status,
        execute=data.get("execute", False),
    )
