"""Is there one record, does it verify offline, and do the certificates that nodes hand out?"""

from __future__ import annotations

from itertools import combinations

from replication.faults.harness.checks.material import CheckResult, Material, Record, verdict_of
from replication.ledger.verify import VerificationError, verify_certificate, verify_export

__all__ = ["check_certificates", "check_exports", "check_forks", "fork_between"]


def check_forks(material: Material) -> CheckResult:
    """No two nodes have different blocks at one height, or different entries at one place (A1, A6)."""
    violations = []
    for (node, record), (other, its) in combinations(sorted(material.records.items()), 2):
        fork = fork_between(record, its)
        if fork:
            violations.append(f"{node} and {other}: {fork}")
    pairs = len(material.records) * (len(material.records) - 1) // 2
    height = len(material.longest.blocks) - 1
    return verdict_of(
        "all nodes have one record",
        "A1 A6",
        violations,
        f"{len(material.records)} records compared block by block, up to height {height}",
        looked_at=pairs,
    )


def fork_between(first: Record, second: Record) -> str:
    """Where two records part; empty if one begins the other."""
    for block, other in zip(first.blocks, second.blocks, strict=False):
        if (block.height, block.hash) != (other.height, other.hash):
            return f"height {block.height} is block {block.hash[:16]} in one, {other.hash[:16]} in the other"
    for mine, its in zip(first.entries, second.entries, strict=False):
        if mine != its:
            return f"entry {mine['sequence']} is {mine['hash'][:16]} in one, {its['hash'][:16]} in the other"
    return ""


def check_exports(material: Material) -> CheckResult:
    """Every node's export must verify with nothing but the genesis file; each node must give one (A6)."""
    violations = [f"{node}: no export: {why}" for node, why in sorted(material.missing.items())]
    signatures = 0
    for node, record in sorted(material.records.items()):
        try:
            signatures += verify_export(record.raw, material.genesis).signatures
        except VerificationError as error:
            violations.append(f"{node}: {error}")
    return verdict_of(
        "every export verifies offline",
        "A6",
        violations,
        f"{len(material.records)} exports, {signatures} signatures",
        looked_at=len(material.records),
    )


def check_certificates(material: Material) -> CheckResult:
    """Every certificate verifies offline, and proves what the record says (A2)."""
    tallies = {
        entry["proposal_id"]: entry["data"]["decision"]
        for entry in material.longest.of_type("tally", "expired")
    }
    texts = dict(material.certificates)
    violations = []
    for operation in material.operations:
        if operation.kind == "certificate" and operation.is_ok:
            name = operation.answer["proposal_id"]
            if operation.answer["problem"]:
                violations.append(f"{operation.node}: certificate of {name}: {operation.answer['problem']}")
            else:
                texts[f"{name} (operation {operation.id})", operation.node] = operation.answer["text"]
    for (name, node), text in texts.items():
        try:
            proof = verify_certificate(text, material.genesis)
        except VerificationError as error:
            violations.append(f"{node}: certificate of {name}: {error}")
            continue
        if tallies.get(proof.proposal_id) != proof.decision or not name.startswith(proof.proposal_id):
            violations.append(
                f"{node}: the certificate of {name} proves {proof.decision} of {proof.proposal_id}, "
                f"the record says {tallies.get(proof.proposal_id)}"
            )
    return verdict_of(
        "certificates verify offline and agree with the record",
        "A2 A3",
        violations,
        f"{len(texts)} certificates",
        looked_at=len(texts),
    )
