"""The demonstration's checks, on servers that decide at once and with a verifier that says what it is told.

What matters here is that a wrong outcome is never reported as a right one; that the real verifier and real
nodes agree is for the tests with a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fake_cluster import FakeCluster

from replication.cli import rehearsal
from replication.cli.demo import _document, _show
from replication.cli.incidents import Incident
from replication.cli.rehearsal import Report
from replication.client.model import Decision, ProposalStatus
from replication.identity.genesis import Genesis
from replication.ledger.verify import VerificationError


@dataclass
class Verifier:
    """Stands in for the offline verifier. `proves` is the decision that every certificate proves."""

    fake: FakeCluster
    proves: str = "approved"
    broken: bool = False
    heads: int = 1
    exports: int = 0

    def certificate(self, text: bytes, genesis: Genesis) -> Any:
        """A report on the newest proposal."""
        if self.broken:
            raise VerificationError("broken on purpose")
        proposal = list(self.fake.state.proposals.values())[-1]
        return Proof(proposal.id, bytes(proposal.digest), self.proves, self.proves == "approved")

    def export(self, lines: object, genesis: Genesis) -> Any:
        """A report on an export; `heads` is how many different ones there are."""
        self.exports += 1
        return Record(len(self.fake.state.proposals), bytes([self.exports % self.heads]) * 32)


@dataclass
class Proof:
    proposal_id: str
    digest: bytes
    decision: str
    authorises: bool


@dataclass
class Record:
    proposals: int
    audit_head: bytes
    height: int = 3
    audit_size: int = 7
    block_hash: bytes = bytes(32)
    signatures: int = 9


@pytest.fixture
def verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Verifier]:
    with FakeCluster(tmp_path / "cluster") as fake:
        stand_in = Verifier(fake)
        monkeypatch.setattr(rehearsal, "verify_certificate", stand_in.certificate)
        monkeypatch.setattr("replication.ledger.verify.verify_certificate", stand_in.certificate)
        monkeypatch.setattr(rehearsal, "verify_export", stand_in.export)
        yield stand_in


def incident(decision: Decision = Decision.APPROVED, *, execute: bool = True) -> Incident:
    return Incident(
        "a case", "restrict", "agent-1", {}, "node-2", 0, 0, decision, ProposalStatus.DECIDED, execute
    )


def rehearse(verifier: Verifier, *incidents: Incident) -> Report:
    steps: list[str] = []
    work = rehearsal.Rehearsal(verifier.fake.directory, steps.append)
    report = asyncio.run(work.run(incidents))
    assert len(steps) == len(incidents) + 4
    return report


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def test_when_all_is_well_it_passes(verifier: Verifier, capsys: pytest.CaptureFixture[str]) -> None:
    report = rehearse(verifier, incident(), incident(execute=False))
    assert report.passed
    first, second = (outcome.proposal for outcome in report.outcomes)
    assert first is not None
    assert second is not None
    assert (first.proposer_id, first.status, second.status) == ("node-2", "executed", "decided")
    assert _document(report, 1.0)["passed"] is True
    _show(report, 1.0)
    out = capsys.readouterr().out
    assert "Everything came out as expected." in out
    assert "FAILED" not in out


def test_another_decision_than_expected_fails(verifier: Verifier, capsys: pytest.CaptureFixture[str]) -> None:
    report = rehearse(verifier, incident(), incident(Decision.REJECTED, execute=False))
    assert not report.passed
    assert report.outcomes[1].problems == ("decision approved, expected rejected",)
    _show(report, 1.0)
    assert "NOT everything" in capsys.readouterr().out


def test_without_a_proof_nothing_is_executed(verifier: Verifier) -> None:
    verifier.broken = True
    report = rehearse(verifier, incident())
    assert "broken on purpose" in report.outcomes[0].problems[0]
    assert [method for method, _ in verifier.fake.calls if method == "Execute"] == []
    assert {"certificates verified offline", "executions with a signed receipt"} <= failed(report)


def test_a_certificate_that_proves_something_else_is_found(verifier: Verifier) -> None:
    verifier.proves = "rejected"
    report = rehearse(verifier, incident())
    assert "another decision" in report.outcomes[0].problems[0]
    assert [method for method, _ in verifier.fake.calls if method == "Execute"] == []


def test_different_heads_are_found(verifier: Verifier) -> None:
    verifier.heads = 2
    assert failed(rehearse(verifier, incident())) == {"audit heads byte-equal on all nodes"}
