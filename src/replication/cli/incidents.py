"""Incidents for the demonstration and for policies that are tried: what is proposed, and what must come of
it. One JSON object a line.

`action` and `evidence` are needed; `target`, `name`, `proposer`, `window_seconds`, `expiry_seconds` may be
there. What must come of it is said by `expect`, the decision and status of the whole cluster
(``{"decision": "approved", "status": "decided"}``) or the vote of whoever is asked (``"reject"``), and by
`votes`, the votes of voters by name. A vote is approve, reject, abstain or none. `execute` is for the
demonstration, which needs the decision as well as a name and a target.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replication.cli.options import to_milliseconds
from replication.cli.propose import MAX_EVIDENCE_BYTES, read_json
from replication.client.errors import UsageError
from replication.client.model import Decision, ProposalStatus
from replication.consensus import VoteValue
from replication.consensus.canonical import canonical_json, copy_evidence
from replication.consensus.errors import InvalidRequestError
from replication.errors import OperatorError
from replication.node.policies import Incident as PolicyIncident
from replication.node.policy_trial import NO_VOTE, Case

__all__ = ["VOTES", "Incident", "find_examples", "load_cases", "load_incidents"]

_KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "name": str,
    "action": str,
    "target": str,
    "evidence": dict,
    "proposer": str,
    "window_seconds": (int, float),
    "expiry_seconds": (int, float),
    "expect": (dict, str),
    "votes": dict,
    "execute": bool,
}
PROPOSER: Final = "node-1"
"""Who proposes what names nobody."""

VOTES: Final = (*(value.value for value in VoteValue), NO_VOTE)
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
    found = []
    for place, data in _lines(path, _REQUIRED):
        if not isinstance(data["expect"], dict):
            raise OperatorError(f"{place}: expect needs a decision and a status, not one vote.")
        decision, status = _outcome(data["expect"], place)
        found.append(
            Incident(
                name=data["name"],
                action=data["action"],
                target=data["target"],
                evidence=data["evidence"],
                proposer=data.get("proposer", PROPOSER),
                window_ms=_milliseconds(data, "window_seconds", place),
                expiry_ms=_milliseconds(data, "expiry_seconds", place),
                decision=decision,
                status=status,
                execute=data.get("execute", False),
            )
        )
    return found


def load_cases(path: Path, voter: str, is_critical: Callable[[str], bool]) -> list[Case]:
    """Read a file of incidents as `voter` would see them, with the vote expected of it where the file names
    one: by `votes`, or for every voter by an `expect` that is a vote. Raises as `load_incidents`."""
    now_ms = time.time_ns() // 1_000_000
    found = []
    for place, data in _lines(path, ("action", "evidence")):
        expect = data.get("expect")
        if isinstance(expect, dict):
            _outcome(expect, place)
            expect = None
        votes = data.get("votes", {})
        for vote in (*votes.values(), *([] if expect is None else [expect])):
            if vote not in VOTES:
                raise OperatorError(f"{place}: {vote!r:.80} is no vote. Expect one of {', '.join(VOTES)}.")
        incident = PolicyIncident(
            proposer=data.get("proposer", PROPOSER),
            action=data["action"],
            target=data.get("target", ""),
            evidence=data["evidence"],
            critical=is_critical(data["action"]),
            window_ms=_milliseconds(data, "window_seconds", place),
            expiry_ms=_milliseconds(data, "expiry_seconds", place),
            created_ms=now_ms,
            voter=voter,
        )
        found.append(Case(data.get("name", place), incident, expected=votes.get(voter, expect)))
    return found


def _lines(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line with its place. Evidence is as it arrives at a voter: 1.0 has become 1."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"The incidents {path} cannot be read: {error}.") from error
    is_empty = True
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            is_empty = False
            place = f"{path}, line {number}"
            yield place, _checked(line, place, required)
    if is_empty:
        raise OperatorError(f"{path} holds no incidents. Write one JSON object a line.")


def _checked(line: str, place: str, required: Sequence[str]) -> dict[str, Any]:
    try:
        data = read_json(line)
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{place}: not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise OperatorError(f"{place}: not a JSON object.")
    for key, value in data.items():
        if key not in _KEYS:
            raise OperatorError(f"{place}: unknown key {key!r:.80}. Known are {', '.join(_KEYS)}.")
        if not isinstance(value, _KEYS[key]):
            raise OperatorError(f"{place}: {key} has the wrong type ({type(value).__name__}).")
    missing = [key for key in required if key not in data]
    if missing:
        raise OperatorError(f"{place}: {missing[0]} is missing.")
    try:
        raw = canonical_json(copy_evidence(data["evidence"]))
    except InvalidRequestError as error:
        raise OperatorError(f"{place}: {error}.") from error
    if len(raw) > MAX_EVIDENCE_BYTES:
        raise OperatorError(f"{place}: the evidence has more than {MAX_EVIDENCE_BYTES} bytes.")
    data["evidence"] = json.loads(raw)
    return data


def _outcome(expect: Mapping[str, Any], place: str) -> tuple[Decision, ProposalStatus]:
    try:
        return Decision(expect["decision"]), ProposalStatus(expect["status"])
    except (KeyError, ValueError) as error:
        raise OperatorError(f"{place}: expect needs a decision and a status that exist ({error}).") from error


def _milliseconds(data: Mapping[str, Any], key: str, place: str) -> int:
    try:
        return to_milliseconds(data.get(key, 0), key) or 0
    except UsageError as error:
        raise OperatorError(f"{place}: {error}") from error
