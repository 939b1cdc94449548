"""What the checkers get to see, and what they say. Nothing here comes from a node's own code.

Exports are read as what they are, lines of JSON: a checker that used the node's reader would share its
mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from replication.faults.harness.history import Operation
from replication.faults.harness.scenario import Bounds
from replication.identity.genesis import Genesis

__all__ = ["CheckResult", "Material", "Record", "RecordedBlock", "Verdict", "read_record", "verdict_of"]

SHOWN_VIOLATIONS: Final = 20
"""More of one kind say nothing new."""


class Verdict(StrEnum):
    """What a check, a drill, or all drills came to."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. `detail` says how much it looked at; `violations` are the first of them."""

    name: str
    promise: str
    verdict: Verdict
    detail: str
    violations: tuple[str, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "name": self.name,
            "promise": self.promise,
            "verdict": self.verdict.value,
            "detail": self.detail,
            "violations": list(self.violations),
        }


def verdict_of(
    name: str, promise: str, violations: Sequence[str], detail: str, *, looked_at: int
) -> CheckResult:
    """The result of a check that looked at so many things. One that saw nothing was not run."""
    if violations:
        more = len(violations) - SHOWN_VIOLATIONS
        shown = [*violations[:SHOWN_VIOLATIONS], *([f"and {more} more"] if more > 0 else [])]
        return CheckResult(name, promise, Verdict.FAILED, detail, tuple(shown))
    return CheckResult(name, promise, Verdict.PASSED if looked_at else Verdict.NOT_RUN, detail)


@dataclass(frozen=True, slots=True)
class RecordedBlock:
    """A block of an export: its header and certificate as JSON, and its hash as the export gives it."""

    height: int
    hash: str
    header: Mapping[str, Any]
    certificate: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Record:
    """One node's exported record. `raw` are the lines, for the offline verifier."""

    blocks: tuple[RecordedBlock, ...]
    entries: tuple[Mapping[str, Any], ...]
    raw: tuple[bytes, ...] = field(default=(), repr=False)

    def of_type(self, *types: str) -> list[Mapping[str, Any]]:
        """The entries of these types, in order."""
        return [entry for entry in self.entries if entry["event_type"] in types]


def read_record(lines: Iterable[bytes]) -> Record:
    """Read an export. What is no line of an export makes a `ValueError`."""
    raw = tuple(lines)
    blocks: list[RecordedBlock] = []
    entries: list[Mapping[str, Any]] = []
    for line in raw:
        item = json.loads(line)
        if item["type"] == "block":
            header = item["header"]
            blocks.append(RecordedBlock(header["height"], item["hash"], header, item["certificate"]))
        elif item["type"] == "entry":
            entries.append(item)
    return Record(tuple(blocks), tuple(entries), raw)


@dataclass(frozen=True, slots=True)
class Material:
    """A finished run.

    `records` are the exports of the members that answered at the end; `missing` says of the others why there
    is none. `healed_ms` is when the last fault was over, `end_ms` when all nodes had one record again, None
    if they never had. `lags` are times, as beginning and end, in which the machine itself stood still.
    `culprits` are the members that the scenario made contradict themselves, `robbed` those whose record it
    took away or set back. `signed` are the logs of signatures by member, None where nodes ran without.
    `certificates` were fetched at the end, by proposal and node. `unexpected_ends` are processes that ended
    by themselves, `unmet` what nodes failed to do about the faults that hit them.
    """

    genesis: Genesis
    operations: Sequence[Operation]
    records: Mapping[str, Record]
    bounds: Bounds
    healed_ms: float
    end_ms: float | None
    lags: Sequence[tuple[float, float]] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    culprits: frozenset[str] = frozenset()
    robbed: frozenset[str] = frozenset()
    signed: Mapping[str, Sequence[str]] | None = None
    certificates: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unexpected_ends: Sequence[str] = ()
    unmet: Sequence[str] = ()

    @property
    def longest(self) -> Record:
        """The record that goes furthest; an empty one if there is none."""
        return max(self.records.values(), key=lambda record: len(record.blocks), default=Record((), ()))
