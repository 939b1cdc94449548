"""A finished drill made up for tests of the checkers: records with real signatures, and clients that saw just
that.

Everything fits together, so that all checks pass; a test then plants one lie and sees who finds it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.support.record_factory import RecordFactory, SealedRecord

from replication.faults.harness.checks import Material, Record, read_record
from replication.faults.harness.history import Operation, Outcome
from replication.faults.harness.scenario import Bounds
from replication.identity import signbytes

__all__ = ["HEALED_MS", "DrillRun", "changed_record", "log_lines"]

HEALED_MS = 1_000.0
PROPOSALS = 4


class DrillRun:
    """Four members, four proposals, one of them executed and one asked for twice; two faults were healed."""

    def __init__(self) -> None:
        self.factory = factory = RecordFactory(4)
        for number in range(PROPOSALS):
            factory.block(500)
            name = factory.propose(
                factory.ids[number], target=f"agent-{number}", request_id=f"request-{number}"
            )
            for voter in factory.ids[:3]:
                factory.vote(name, voter)
            factory.tally(name, "approved")
        factory.block(500)
        factory.execute("prop-0001", "node-2")
        self.sealed: SealedRecord = factory.seal()
        self.record: Record = read_record(self.sealed.lines())
        self.operations: list[Operation] = []
        for number in range(PROPOSALS):
            self.propose(number)
        self.propose(0)  # the same request again, and the same answer
        self.add(
            "execute",
            {"request_id": "receipt", "proposal_id": "prop-0001"},
            self.proposal_answer(0, receipts=1),
        )
        self.add("read", {"proposal_id": "prop-0002"}, self.proposal_answer(1), node="node-2")
        self.add("head", {}, self.head(3), node="node-2")
        self.add("head", {}, self.head(5), node="node-2")
        certificate = json.dumps(self.sealed.certificate("prop-0003"))
        self.certificate = canonical_line(certificate)
        self.add(
            "certificate",
            {"proposal_id": "prop-0003"},
            {"proposal_id": "prop-0003", "text": self.certificate, "problem": ""},
            node="node-3",
        )
        self.signed = {member: log_lines(factory, member, honest_statements()) for member in factory.ids}

    def propose(self, number: int, **changes: Any) -> Operation:
        """A client proposed and was told the decision."""
        request = {
            "request_id": f"request-{number}",
            "action": "quarantine",
            "target": f"agent-{number}",
            "score": 1,
        }
        return self.add("propose", request, {**self.proposal_answer(number), **changes})

    def proposal_answer(self, number: int, *, receipts: int = 0) -> dict[str, Any]:
        """What an honest node says about a proposal."""
        name = f"prop-{number + 1:04d}"
        return {
            "proposal_id": name,
            "digest": self.factory.digest(name).hex(),
            "proposer": self.factory.ids[number],
            "request_id": f"request-{number}",
            "action": "quarantine",
            "target": f"agent-{number}",
            "status": "decided",
            "decision": "approved",
            "votes": dict.fromkeys(self.factory.ids[:3], "approve"),
            "receipts": receipts,
        }

    def head(self, height: int) -> dict[str, Any]:
        """What an honest node shows as its head after this block."""
        block = self.record.blocks[height]
        return {
            "height": height,
            "block_hash": block.hash,
            "audit_size": block.header["audit_size"],
            "audit_head": block.header["audit_head"],
        }

    def add(
        self,
        kind: str,
        request: dict[str, Any],
        answer: dict[str, Any],
        *,
        node: str = "",
        outcome: Outcome = Outcome.OK,
    ) -> Operation:
        """An operation after the last one; 100 ms from start to end."""
        start = 100.0 + 200.0 * len(self.operations)
        operation = Operation(
            len(self.operations), "client", kind, node, request, start, start + 100.0, outcome, answer
        )
        self.operations.append(operation)
        return operation

    def material(self, **changes: Any) -> Material:
        """The run as the checkers get it."""
        everything: dict[str, Any] = {
            "genesis": self.factory.genesis,
            "operations": self.operations,
            "records": dict.fromkeys(self.factory.ids, self.record),
            "bounds": Bounds(decisions_after_healing=1, recover_seconds=5.0),
            "healed_ms": 0.0,
            "end_ms": 2_000.0,
            "signed": self.signed,
            "certificates": {("prop-0003", "node-1"): self.certificate},
        }
        return Material(**{**everything, **changes})

    def records_with(self, member: str, record: Record) -> dict[str, Record]:
        """The records of all members, one of them another one."""
        return {**dict.fromkeys(self.factory.ids, self.record), member: record}


def canonical_line(text: str) -> str:
    """A certificate's text as nodes give it."""
    from tests.support.record_factory import dumps

    return dumps(json.loads(text)).decode() + "\n"


def changed_record(record: Record, sequence: int, **changes: Any) -> Record:
    """The same record with an entry whose data is another. Hashes stay: the checkers compare, and do not
    trust them.
    """
    entries = list(record.entries)
    entry = entries[sequence]
    entries[sequence] = {**entry, "data": {**entry["data"], **changes}}
    return replace(record, entries=tuple(entries))


def honest_statements() -> list[tuple[str, dict[str, Any]]]:
    """What a member signs in two heights of one view, a view change, and one height more."""
    one, two, three = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
    return [
        ("prepare", {"view": 0, "height": 1, "block_hash": one}),
        ("commit", {"view": 0, "height": 1, "block_hash": one}),
        ("prepare", {"view": 0, "height": 2, "block_hash": two}),
        ("commit", {"view": 0, "height": 2, "block_hash": two}),
        ("timeout", {"view": 0, "committed_height": 1, "has_lock": True, "lock_view": 0, "lock_hash": two}),
        ("newview", {"view": 1, "tc_digest": three}),
        ("propose", {"view": 1, "height": 2, "block_hash": two}),
        ("prepare", {"view": 1, "height": 2, "block_hash": two}),
        ("commit", {"view": 1, "height": 2, "block_hash": two}),
    ]


def log_lines(
    factory: RecordFactory,
    member: str,
    statements: Sequence[tuple[str, dict[str, Any]]],
    *,
    epoch: int = 7,
    sent: bool = True,
) -> list[str]:
    """A log of signatures, as the wrapper writes it. Epoch 7, so that nothing clashes with the records."""
    lines = []
    for kind, fields in statements:
        if kind in ("propose", "prepare", "commit"):
            message = signbytes.statement_bytes(kind, factory.cluster_id, epoch, signer=member, **fields)
        elif kind == "timeout":
            message = signbytes.timeout_bytes(factory.cluster_id, epoch, signer=member, **fields)
        else:
            message = signbytes.newview_bytes(factory.cluster_id, epoch, signer=member, **fields)
        signature = factory.key(member).sign(message)
        lines.append(f"s {message.hex()} {signature.hex()}")
        if sent:
            lines.append(f"r {signature.hex()}")
    return lines
