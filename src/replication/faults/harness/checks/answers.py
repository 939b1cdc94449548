"""Do the answers that clients got agree with the record, and with each other?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from replication.faults.harness.checks.material import CheckResult, Material, Record, verdict_of
from replication.faults.harness.history import Operation, Outcome

__all__ = ["check_acknowledged", "check_changed", "check_doubled", "check_phantoms"]

_PROPOSAL_FIELDS: Final = ("digest", "proposer", "action", "target", "request_id")
"""What can never change about a proposal once it has an id."""


def check_acknowledged(material: Material) -> CheckResult:
    """What a client was told is committed must be in every node's record (A4)."""
    violations: list[str] = []
    acknowledged = [item for item in material.operations if item.is_ok and item.kind in _EXPECTATIONS]
    for node, record in sorted(material.records.items()):
        facts = _Facts(record)
        for operation in acknowledged:
            for lack in _EXPECTATIONS[operation.kind](operation, facts):
                violations.append(
                    f"{node} has not {lack}, which {operation.process} was told (operation {operation.id})"
                )
    detail = f"{len(acknowledged)} acknowledged writes in the records of {len(material.records)} nodes"
    return verdict_of(
        "acknowledged writes are in every record",
        "A4",
        violations,
        detail,
        looked_at=len(acknowledged) * len(material.records),
    )


def check_phantoms(material: Material) -> CheckResult:
    """What is in the record must have been asked for, with this content, and not been refused (A2). A member
    that lies may propose what it likes: it is a member."""
    asked: dict[str, list[Operation]] = defaultdict(list)
    for operation in material.operations:
        if operation.kind == "propose":
            asked[operation.request["request_id"]].append(operation)
    violations: list[str] = []
    proposals = material.longest.of_type("propose")
    for entry in proposals:
        data, name = entry["data"], entry["proposal_id"]
        operations = asked.get(data["request_id"], [])
        if not operations and entry["actor_id"] in material.culprits:
            continue
        if not operations:
            violations.append(
                f"{name} is in the record, and nobody asked for it (request id {data['request_id']})"
            )
            continue
        for field in ("action", "target"):
            if data[field] != operations[0].request[field]:
                violations.append(
                    f"{name} has {field} {data[field]!r}, but {operations[0].request[field]!r} was asked for"
                )
        if all(operation.outcome is Outcome.REFUSED for operation in operations):
            violations.append(f"{name} is in the record, and its caller was told that it was refused")
    return verdict_of(
        "nothing is in the record that was not asked for",
        "A2",
        violations,
        f"{len(proposals)} recorded proposals",
        looked_at=len(proposals),
    )


def check_changed(material: Material) -> CheckResult:
    """No two answers, and no answer and the record, tell different decisions or contents of one proposal
    (A1).
    """
    facts = _Facts(material.longest)
    violations: list[str] = []
    told: dict[tuple[str, str], tuple[Any, Operation]] = {}
    answers = [item for item in material.operations if item.is_ok and "digest" in item.answer]
    for operation in answers:
        answer, name = operation.answer, operation.answer["proposal_id"]
        fixed = {field: answer[field] for field in _PROPOSAL_FIELDS}
        if answer["decision"] != "pending":
            fixed["decision"] = answer["decision"]
        for field, value in fixed.items():
            before = told.setdefault((name, field), (value, operation))
            if before[0] != value:
                violations.append(
                    f"{name}: {field} was {before[0]!r} in operation {before[1].id}, "
                    f"and {value!r} in {operation.id}"
                )
        recorded = facts.decisions.get(name)
        if "decision" in fixed and recorded is not None and recorded != fixed["decision"]:
            violations.append(
                f"{name}: {fixed['decision']} in operation {operation.id}, {recorded} in the record"
            )
        for voter, value in answer["votes"].items():
            if facts.votes.get((name, voter), value) != value:
                violations.append(f"{name}: operation {operation.id} was told that {voter} voted {value}")
    return verdict_of(
        "decisions and contents never change",
        "A1",
        violations,
        f"{len(answers)} answers about {len({name for name, _ in told})} proposals",
        looked_at=len(answers),
    )


def check_doubled(material: Material) -> CheckResult:
    """One request, one effect: no proposal, vote or execution happens twice (request ids; A2)."""
    record = material.longest
    violations: list[str] = []
    by_request: dict[str, list[str]] = defaultdict(list)
    for entry in record.of_type("propose"):
        by_request[entry["data"]["request_id"]].append(entry["proposal_id"])
    violations += [
        f"request id {request} made {len(names)} proposals: {', '.join(names)}"
        for request, names in by_request.items()
        if len(names) > 1
    ]
    for what, keys in (
        (
            "vote",
            [
                (entry["proposal_id"], entry["actor_id"], entry["data"]["revision"])
                for entry in record.of_type("vote")
            ],
        ),
        ("tally", [(entry["proposal_id"],) for entry in record.of_type("tally", "expired")]),
        ("execution", [(entry["proposal_id"],) for entry in _successes(record)]),
    ):
        violations += [
            f"{what} of {' '.join(map(str, key))} is in the record twice" for key in _repeated(keys)
        ]
    answered: dict[str, set[str]] = defaultdict(set)
    for operation in material.operations:
        if operation.kind == "propose" and operation.is_ok:
            answered[operation.request["request_id"]].add(operation.answer["proposal_id"])
    violations += [
        f"request id {request} was answered with {', '.join(sorted(names))}"
        for request, names in answered.items()
        if len(names) > 1
    ]
    repeats = len([item for item in material.operations if item.kind == "propose"]) - len(
        {item.request["request_id"] for item in material.operations if item.kind == "propose"}
    )
    return verdict_of(
        "no request takes effect twice",
        "A2",
        violations,
        f"{len(by_request)} requests in the record, {repeats} sent again",
        looked_at=len(record.entries),
    )


class _Facts:
    """What a record says, looked up by what answers are about."""

    def __init__(self, record: Record) -> None:
        self.digests = {entry["proposal_id"]: entry["data"]["digest"] for entry in record.of_type("propose")}
        self.decisions = {
            entry["proposal_id"]: entry["data"]["decision"] for entry in record.of_type("tally", "expired")
        }
        # A later vote of the same voter is a changed one, which replaces the first.
        self.votes = {
            (entry["proposal_id"], entry["actor_id"]): entry["data"]["value"]
            for entry in record.of_type("vote")
        }
        self.receipts = {entry["proposal_id"] for entry in record.of_type("execute")}


def _expect_proposal(operation: Operation, facts: _Facts) -> Iterable[str]:
    answer = operation.answer
    name = answer["proposal_id"]
    if facts.digests.get(name) != answer["digest"]:
        yield f"{name} with digest {answer['digest'][:16]}"
    elif answer["decision"] != "pending" and facts.decisions.get(name) != answer["decision"]:
        yield f"decision {answer['decision']} of {name} (it has {facts.decisions.get(name)})"


def _expect_vote(operation: Operation, facts: _Facts) -> Iterable[str]:
    answer = operation.answer
    if (answer["proposal_id"], answer["voter"]) not in facts.votes:
        yield f"the vote of {answer['voter']} on {answer['proposal_id']}"


def _expect_receipt(operation: Operation, facts: _Facts) -> Iterable[str]:
    if operation.answer["proposal_id"] not in facts.receipts:
        yield f"the execution of {operation.answer['proposal_id']}"


_EXPECTATIONS: Final = {"propose": _expect_proposal, "vote": _expect_vote, "execute": _expect_receipt}


def _successes(record: Record) -> list[Mapping[str, Any]]:
    return [entry for entry in record.of_type("execute") if entry["data"]["outcome"] == "succeeded"]


def _repeated(keys: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    seen: set[tuple[Any, ...]] = set()
    twice: list[tuple[Any, ...]] = []
    for key in keys:
        if key in seen:
            twice.append(key)
        seen.add(key)
    return twice
