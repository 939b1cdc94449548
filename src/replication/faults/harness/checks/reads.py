"""Is what nodes presented as committed really so, and did no node ever go back on it?

A node may be behind: reads are of its own record, and a cut-off node's record is old. But what it shows must
be a piece of the one record, it must not lose what it has shown, and it must show what it has acknowledged
itself.
"""

from __future__ import annotations

from collections import defaultdict

from replication.faults.harness.checks.material import CheckResult, Material, verdict_of
from replication.faults.harness.history import Operation

__all__ = ["check_reads"]


def check_reads(material: Material) -> CheckResult:
    """Reads show committed state only, never go backwards at one node, and include what that node
    acknowledged.
    """
    heads = [item for item in material.operations if item.is_ok and item.kind == "head"]
    reads = [item for item in material.operations if item.is_ok and item.kind == "read"]
    violations = [*_off_the_chain(heads, material), *_uncommitted(reads, material)]
    violations += [*_backwards(heads, material.robbed), *_forgotten(reads, material.robbed)]
    return verdict_of(
        "reads show committed state, and never go back",
        "A4 A6",
        violations,
        f"{len(heads)} heads and {len(reads)} proposals read",
        looked_at=len(heads) + len(reads),
    )


def _off_the_chain(heads: list[Operation], material: Material) -> list[str]:
    """Every head that a node showed must be a link of the final chain, and its block one of the final
    blocks.
    """
    hashes = [entry["hash"] for entry in material.longest.entries]
    blocks = {block.height: block.hash for block in material.longest.blocks}
    violations = []
    for operation in heads:
        answer = operation.answer
        size, place = answer["audit_size"], f"{operation.node} (operation {operation.id})"
        if size > len(hashes) or hashes[size - 1] != answer["audit_head"]:
            violations.append(
                f"{place} showed head {answer['audit_head'][:16]} at {size}, which is not in the record"
            )
        if blocks.get(answer["height"]) != answer["block_hash"]:
            violations.append(
                f"{place} showed block {answer['block_hash'][:16]} at height {answer['height']}"
            )
    return violations


def _uncommitted(reads: list[Operation], material: Material) -> list[str]:
    """Every proposal, vote, receipt and decision that was shown must be in the final record."""
    record = material.longest
    digests = {entry["proposal_id"]: entry["data"]["digest"] for entry in record.of_type("propose")}
    decided = {entry["proposal_id"] for entry in record.of_type("tally", "expired")}
    votes = {
        (entry["proposal_id"], entry["actor_id"], entry["data"]["value"]) for entry in record.of_type("vote")
    }
    receipts: dict[str, int] = defaultdict(int)
    for entry in record.of_type("execute"):
        receipts[entry["proposal_id"]] += 1
    violations = []
    for operation in reads:
        answer = operation.answer
        name, place = answer["proposal_id"], f"{operation.node} (operation {operation.id})"
        if digests.get(name) != answer["digest"]:
            violations.append(f"{place} showed {name} with a digest that is not in the record")
        if answer["decision"] != "pending" and name not in decided:
            violations.append(f"{place} showed {name} as {answer['decision']}, which was never decided")
        for voter, value in answer["votes"].items():
            if (name, voter, value) not in votes:
                violations.append(f"{place} showed a vote of {voter} on {name} that is not in the record")
        if answer["receipts"] > receipts[name]:
            violations.append(
                f"{place} showed {answer['receipts']} receipts of {name}, the record has {receipts[name]}"
            )
    return violations


def _backwards(heads: list[Operation], robbed: frozenset[str]) -> list[str]:
    """A head read after another one was read at the same node must not be shorter."""
    violations = []
    by_node: dict[str, list[Operation]] = defaultdict(list)
    for operation in heads:
        if operation.node not in robbed:
            by_node[operation.node].append(operation)
    for node, operations in by_node.items():
        highest, seen = 0, None
        # A read counts from its end; one that began after that must not see less.
        events = sorted(
            [(item.start_ms, 1, item) for item in operations]
            + [(item.end_ms or item.start_ms, 0, item) for item in operations],
            key=lambda event: event[:2],
        )
        floors: dict[int, tuple[int, Operation | None]] = {}
        for _, begins, item in events:
            size = item.answer["audit_size"]
            if begins:
                floors[item.id] = (highest, seen)
                continue
            floor, earlier = floors.get(item.id, (0, None))
            if size < floor and earlier is not None:
                violations.append(
                    f"{node} showed {size} entries in operation {item.id}, {floor} before, in {earlier.id}"
                )
            if size > highest:
                highest, seen = size, item
    return violations


def _forgotten(reads: list[Operation], robbed: frozenset[str]) -> list[str]:
    """A decision that a node showed must still be shown by that node later."""
    violations = []
    shown: dict[tuple[str, str], Operation] = {}
    for operation in sorted(reads, key=lambda item: item.end_ms or 0.0):
        key = (operation.node, operation.answer["proposal_id"])
        earlier = shown.get(key)
        if operation.node in robbed:
            continue
        if operation.answer["decision"] != "pending":
            shown.setdefault(key, operation)
        elif earlier is not None and (earlier.end_ms or 0.0) < operation.start_ms:
            violations.append(
                f"{operation.node} showed {key[1]} as undecided in operation {operation.id}, "
                f"after it had shown its decision in operation {earlier.id}"
            )
    return violations
