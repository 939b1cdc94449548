"""What clients asked and what they were told, as it happened: one JSON object a line.

    {"at_ms": 1203.4, "event": "invoke", "id": 7, "process": "proposer-1", "kind": "propose", "node": "",
    "request": {…}} {"at_ms": 1251.0, "event": "ok", "id": 7, "answer": {…}}

An invocation is written before anything is sent, its end as soon as it is known. There are three ends: *ok*,
with the answer; *refused*, when the cluster said for good that nothing was done; *unknown*, when nothing can
be said: the operation may have happened, may happen later, or never. An operation without an end is unknown
too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

__all__ = ["History", "Operation", "Outcome", "read_history"]


class Outcome(StrEnum):
    """How an operation ended."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Operation:
    """One call of a client. Times are milliseconds since the start of the load; `end_ms` is None without an
    end.

    `node` is the member that was asked, empty for any.
    """

    id: int
    process: str
    kind: str
    node: str
    request: Mapping[str, Any]
    start_ms: float
    end_ms: float | None = None
    outcome: Outcome = Outcome.UNKNOWN
    answer: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return self.outcome is Outcome.OK

    @property
    def latency_ms(self) -> float | None:
        """How long the answer took; None without one."""
        return None if self.end_ms is None or not self.is_ok else self.end_ms - self.start_ms


class History:
    """The operations of a run, written down as they happen. Times count from `began` (monotonic)."""

    def __init__(self, path: Path, began: float) -> None:
        self.operations: list[Operation] = []
        self._began = began
        self._file: TextIO = path.open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def now_ms(self) -> float:
        """Milliseconds since the start of the load."""
        return round((time.monotonic() - self._began) * 1000, 3)

    def invoke(self, process: str, kind: str, node: str, request: Mapping[str, Any]) -> Operation:
        """An operation is about to be sent."""
        operation = Operation(len(self.operations), process, kind, node, dict(request), self.now_ms())
        self.operations.append(operation)
        self._write(
            {
                "at_ms": operation.start_ms,
                "event": "invoke",
                "id": operation.id,
                "process": process,
                "kind": kind,
                "node": node,
                "request": operation.request,
            }
        )
        return operation

    def ok(self, operation: Operation, answer: Mapping[str, Any]) -> None:
        """It was answered."""
        operation.answer = dict(answer)
        self._end(operation, Outcome.OK, {"answer": operation.answer})

    def failed(self, operation: Operation, outcome: Outcome, error: str) -> None:
        """It was refused, or nobody knows."""
        operation.error = error[:300]
        self._end(operation, outcome, {"error": operation.error})

    def _end(self, operation: Operation, outcome: Outcome, more: Mapping[str, Any]) -> None:
        operation.outcome, operation.end_ms = outcome, self.now_ms()
        self._write({"at_ms": operation.end_ms, "event": outcome.value, "id": operation.id, **more})

    def _write(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_history(lines: Iterable[str]) -> list[Operation]:
    """The operations of a history file."""
    operations: dict[int, Operation] = {}
    for line in lines:
        item = json.loads(line)
        if item["event"] == "invoke":
            operations[item["id"]] = Operation(
                item["id"], item["process"], item["kind"], item["node"], item["request"], item["at_ms"]
            )
            continue
        operation = operations[item["id"]]
        operation.outcome, operation.end_ms = Outcome(item["event"]), item["at_ms"]
        operation.answer, operation.error = item.get("answer", {}), item.get("error", "")
    return list(operations.values())
