"""The checkers: what must hold after every drill, judged from outside.

They see what clients were told, what every node exported, what every node signed, and what the drill did.
They share no code with the nodes they judge beyond hashes, canonical JSON and signature primitives; exports
and certificates are verified by the offline verifier, which is written for that. Each is tested against
histories with planted violations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from replication.faults.harness.checks.answers import (
    check_acknowledged,
    check_changed,
    check_doubled,
    check_phantoms,
)
from replication.faults.harness.checks.conduct import (
    check_blame,
    check_processes,
    check_progress,
    check_views,
)
from replication.faults.harness.checks.material import CheckResult, Material, Record, Verdict, read_record
from replication.faults.harness.checks.reads import check_reads
from replication.faults.harness.checks.records import check_certificates, check_exports, check_forks
from replication.faults.harness.checks.signatures import check_signatures

__all__ = ["CHECKS", "CheckResult", "Material", "Record", "Verdict", "read_record", "run_checks"]

CHECKS: Final[Sequence[Callable[[Material], CheckResult]]] = (
    check_forks,
    check_exports,
    check_acknowledged,
    check_phantoms,
    check_changed,
    check_doubled,
    check_reads,
    check_certificates,
    check_signatures,
    check_blame,
    check_progress,
    check_views,
    check_processes,
)


def run_checks(material: Material) -> list[CheckResult]:
    """The results of all checks, in order."""
    return [check(material) for check in CHECKS]
