"""The demonstration's work: decide incidents on a running cluster, act on approvals, and check every proof.

It does what an operator, an enforcement point and an auditor would do, each with the certificate of its own
role: it proposes, verifies the decision certificate offline before anything is executed, reports the
execution, and at the end exports the record from every node and verifies each export with nothing but the
genesis file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from replication.cli.audit import write_lines
from replication.cli.incidents import Incident
from replication.client import AsyncClient, open_folder, wait_until_settled
from replication.client.model import Proposal, ProposalStatus, to_json
from replication.errors import ReplicationError
from replication.ledger.verify import VerificationError, read_lines, verify_certificate, verify_export

__all__ = ["Check", "Outcome", "Rehearsal", "Report"]

CALL_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 60.0

Progress = Callable[[str], None]
"""Told what was just finished, once for each step that counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one incident.

    `latency_ms` is from propose to the decision; `problems` is empty when all is well.
    """

    incident: Incident
    proposal: Proposal | None
    latency_ms: float
    problems: tuple[str, ...]

    def as_document(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        proposal = None if self.proposal is None else to_json(self.proposal)
        return {
            "incident": self.incident.name,
            "expected": {"decision": self.incident.decision.value, "status": self.incident.status.value},
            "proposal": proposal,
            "latency_ms": round(self.latency_ms, 3),
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, whether it does, and the facts."""

    name: str
    passed: bool
    detail: str


@dataclass(slots=True)
class Report:
    """Everything that was found out."""

    outcomes: list[Outcome] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every incident came out as expected and every check holds."""
        return all(not outcome.problems for outcome in self.outcomes) and all(
            check.passed for check in self.checks
        )


class Rehearsal:
    """One run on the cluster in `directory`, which is up."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        self._directory = directory
        self._progress = progress
        self._verified = 0
        handle = open_folder(directory, "operator")
        if handle.genesis is None:
            raise RuntimeError("a cluster folder always has a genesis file")
        self._genesis = handle.genesis
        self._operator = AsyncClient(handle)
        self._auditor = AsyncClient(open_folder(directory, "viewer"))

    async def run(self, incidents: Sequence[Incident]) -> Report:
        """Decide all incidents, then check the record."""
        try:
            report = Report(outcomes=await self._decide_all(incidents))
            report.checks += self._check_outcomes(report.outcomes)
            report.checks += await self._check_record(len(incidents))
            return report
        finally:
            for client in (self._operator, self._auditor):
                await client.disconnect()

    async def _decide_all(self, incidents: Sequence[Incident]) -> list[Outcome]:
        """Those that wait for their time to be up run beside the others, which come one after another."""
        waiting = {
            index: asyncio.create_task(self._decide(incident))
            for index, incident in enumerate(incidents)
            if incident.takes_time
        }
        try:
            outcomes = {
                index: await self._decide(incident)
                for index, incident in enumerate(incidents)
                if index not in waiting
            }
            for index, task in waiting.items():
                outcomes[index] = await task
        finally:
            for task in waiting.values():
                task.cancel()
        return [outcomes[index] for index in sorted(outcomes)]

    async def _decide(self, incident: Incident) -> Outcome:
        """Propose, wait for the decision, verify its certificate, and execute if it is to be executed."""
        begin = time.perf_counter()
        try:
            proposal = await self._operator.propose(
                incident.action,
                incident.target,
                incident.evidence,
                window_ms=incident.window_ms,
                expiry_ms=incident.expiry_ms,
                wait_for_decision=True,
                timeout_seconds=CALL_SECONDS,
                node=incident.proposer,
            )
        except ReplicationError as error:
            self._progress(incident.name)
            return Outcome(incident, None, (time.perf_counter() - begin) * 1000, (f"no decision: {error}",))
        latency_ms = (time.perf_counter() - begin) * 1000
        problems = _differences(incident, proposal)
        try:
            authorised = await self._authorised(proposal)
            if incident.execute and authorised:
                proposal = await self._execute(incident, proposal)
                problems += _receipt_problems(proposal)
            elif incident.execute:
                problems.append("not executed, since the certificate does not authorise it")
        except ReplicationError as error:
            problems.append(str(error))
        self._progress(incident.name)
        return Outcome(incident, proposal, latency_ms, tuple(problems))

    async def _authorised(self, proposal: Proposal) -> bool:
        """Save the certificate of a decision, then verify the file without the network, as an enforcement
        point must.
        """
        certificate = await self._operator.certificate(proposal.id)
        path = self._directory / "certificates" / f"{proposal.id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(certificate.text, encoding="utf-8")
        proof = verify_certificate(path.read_bytes(), self._genesis)
        same = (proof.proposal_id, proof.digest, proof.decision) == (
            proposal.id,
            proposal.digest,
            proposal.decision.value,
        )
        if not same:
            raise VerificationError(
                "the certificate proves another decision than the node reported", where=proposal.id
            )
        self._verified += 1
        return proof.authorises

    async def _execute(self, incident: Incident, proposal: Proposal) -> Proposal:
        detail = f"{incident.action} carried out on {incident.target or 'nobody in particular'}"
        return await self._operator.execute(proposal.id, "succeeded", detail, timeout_seconds=CALL_SECONDS)

    def _check_outcomes(self, outcomes: Sequence[Outcome]) -> list[Check]:
        failed = [outcome for outcome in outcomes if outcome.problems]
        verified, total = self._verified, len(outcomes)
        executed = sum(
            outcome.proposal is not None and outcome.proposal.status is ProposalStatus.EXECUTED
            for outcome in outcomes
        )
        wanted = sum(outcome.incident.execute for outcome in outcomes)
        return [
            Check("decisions as expected", not failed, f"{total - len(failed)} of {total}"),
            Check("certificates verified offline", verified == total, f"{verified} of {total}"),
            Check("executions with a signed receipt", executed == wanted, f"{executed} of {wanted}"),
        ]

    async def _check_record(self, proposals: int) -> list[Check]:
        """Export from every node, verify each export, and compare what they prove."""
        settled = await wait_until_settled(self._auditor, SETTLE_SECONDS)
        heads: dict[str, tuple[int, int, str, str]] = {}
        problems: dict[str, str] = {}
        signatures = 0
        for member in self._genesis.members.ids:
            try:
                path = await self._export(member)
                with path.open("rb") as stream:
                    proof = await asyncio.to_thread(verify_export, read_lines(stream), self._genesis)
            except (ReplicationError, OSError) as error:
                problems[member] = str(error)
                continue
            signatures = proof.signatures
            heads[member] = (proof.height, proof.audit_size, proof.audit_head.hex(), proof.block_hash.hex())
            if proof.proposals != proposals:
                problems[member] = f"{proof.proposals} proposals instead of {proposals}"
            self._progress(f"record of {member}")
        n = self._genesis.members.n
        equal = len(heads) == n and len(set(heads.values())) == 1
        height, size, head, _ = next(iter(heads.values()), (0, 0, "", ""))
        return [
            Check("nodes came to rest on one record", settled is not None, f"{n} nodes"),
            Check(
                "exported records verified offline",
                not problems,
                "; ".join(f"{member}: {problem}" for member, problem in problems.items())
                or f"{n} nodes, {signatures} signatures each",
            ),
            Check(
                "audit heads byte-equal on all nodes",
                equal,
                f"{size} entries, height {height}, head {head}" if equal else f"they differ: {heads}",
            ),
        ]

    async def _export(self, member: str) -> Path:
        path = self._directory / "exports" / f"{member}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [line async for line in self._auditor.export_chain(node=member)]
        write_lines(path, lines)
        return path


def _differences(incident: Incident, proposal: Proposal) -> list[str]:
    problems = []
    if proposal.decision is not incident.decision:
        problems.append(f"decision {proposal.decision.value}, expected {incident.decision.value}")
    if proposal.status is not incident.status:
        problems.append(f"status {proposal.status.value}, expected {incident.status.value}")
    if proposal.tally is None:
        problems.append("there is no tally")
    return problems


def _receipt_problems(proposal: Proposal) -> list[str]:
    if proposal.status is not ProposalStatus.EXECUTED or not proposal.receipts:
        return [f"executed, but its status is {proposal.status.value} with {len(proposal.receipts)} receipts"]
    return []
