"""Was the cluster of use: did it go on, did it come back, did processes end only when they were made to?

And was nobody blamed who had done nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from replication.faults.harness.checks.material import CheckResult, Material, verdict_of

__all__ = ["check_blame", "check_processes", "check_progress", "check_views", "decision_times"]


def check_blame(material: Material) -> CheckResult:
    """Evidence in the record is against members that really contradicted themselves only (A8)."""
    culprits = frozenset[str]() if material.bounds.innocent else material.culprits
    accused = [entry["data"]["accused"] for entry in material.longest.of_type("evidence")]
    violations = [
        f"the record accuses {member}, which had done nothing" for member in accused if member not in culprits
    ]
    if len(accused) < material.bounds.accusations:
        violations.append(
            f"the record accuses {len(accused)} members, and {material.bounds.accusations} provably lied"
        )
    return verdict_of(
        "nobody is blamed without reason",
        "A8",
        violations,
        f"{len(accused)} accusations, {len(culprits)} members at fault",
        looked_at=len(material.longest.entries),
    )


def check_progress(material: Material) -> CheckResult:
    """After the healing, new proposals are decided and all nodes have one record, in time (A7)."""
    bounds = material.bounds
    deadline = material.healed_ms + bounds.recover_seconds * 1000
    fresh = [
        item
        for item in material.operations
        if item.kind == "propose" and item.is_ok and item.start_ms >= material.healed_ms
    ]
    in_time = [
        item for item in fresh if (item.end_ms or 0.0) <= deadline and item.answer["decision"] != "pending"
    ]
    times = decision_times(material)
    violations = []
    if len(in_time) < bounds.decisions_after_healing:
        violations.append(
            f"{len(in_time)} of {bounds.decisions_after_healing} proposals made after the healing were "
            f"decided within {bounds.recover_seconds:g} s"
        )
    if material.end_ms is None or material.end_ms > deadline + _settling(material):
        violations.append(f"the nodes did not come to one record within {bounds.recover_seconds:g} s")
    if len(times) < bounds.decisions:
        violations.append(f"{len(times)} decisions in all, {bounds.decisions} were expected")
    stall = _longest_stall(times, material.healed_ms, material.lags)
    if bounds.stall_seconds is not None and stall > bounds.stall_seconds * 1000:
        violations.append(
            f"no decision for {stall / 1000:.1f} s while there were faults; "
            f"at most {bounds.stall_seconds:g} s are allowed"
        )
    first = min((item.end_ms for item in in_time if item.end_ms is not None), default=None)
    after = (
        "none"
        if first is None
        else f"the first {(first - material.healed_ms) / 1000:.2f} s after the healing"
    )
    return verdict_of(
        "the cluster goes on, and recovers in time",
        "A7",
        violations,
        f"{len(times)} decisions, {len(in_time)} after the healing, {after}; "
        f"longest stall before {stall / 1000:.1f} s",
        looked_at=len(times) or bounds.decisions_after_healing,
    )


def check_views(material: Material) -> CheckResult:
    """A coordinator that had to be replaced was, and none more often than the scenario allows (A7)."""
    least, most = material.bounds.view_changes
    changes = len(material.longest.of_type("coordinator"))
    violations = []
    if changes < least:
        violations.append(f"{changes} coordinators were replaced, at least {least} had to be")
    if most is not None and changes > most:
        violations.append(f"{changes} coordinators were replaced, at most {most} may be")
    return verdict_of(
        "coordinators are replaced when they have to be",
        "A7",
        violations,
        f"{changes} view changes in the record",
        looked_at=len(material.longest.blocks),
    )


def check_processes(material: Material) -> CheckResult:
    """No process ended by itself, and each met a fault as it has to."""
    violations = [*material.unexpected_ends, *material.unmet]
    return verdict_of(
        "processes end only when they have to",
        "A4 A9",
        violations,
        f"{len(material.unexpected_ends)} unexpected ends",
        looked_at=1,
    )


def decision_times(material: Material) -> list[float]:
    """When each decision was told first, in milliseconds since the start of the load."""
    first: dict[str, float] = {}
    for item in material.operations:
        if (
            item.kind == "propose"
            and item.is_ok
            and item.end_ms is not None
            and item.answer["decision"] != "pending"
        ):
            name = item.answer["proposal_id"]
            first[name] = min(item.end_ms, first.get(name, item.end_ms))
    return sorted(first.values())


def _longest_stall(times: list[float], until_ms: float, lags: Sequence[tuple[float, float]]) -> float:
    """The longest time without a decision, from the start of the load to `until_ms`, without those in which
    the machine stood still."""
    points = [0.0, *(time for time in times if time < until_ms), until_ms]
    return max(after - before - _overlap(before, after, lags) for before, after in pairwise(points))


def _overlap(before: float, after: float, lags: Sequence[tuple[float, float]]) -> float:
    return sum(max(min(end, after) - max(begin, before), 0.0) for begin, end in lags)


def _settling(material: Material) -> float:
    """The load went on until the decisions were there; the records may take as long again."""
    return material.bounds.recover_seconds * 1000
