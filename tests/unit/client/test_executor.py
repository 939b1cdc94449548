"""An executor among nodes of which some lie: one node's word is not enough, nor is anything done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.record_factory import RecordFactory, dumps

from replication.client import executor as module
from replication.client.action_log import ActionLog
from replication.client.async_client import AsyncClient
from replication.client.errors import ConflictError, Explanation
from replication.client.executor import Executor, Order, Result
from replication.client.gate import Gate, GateFiles, GateState
from replication.client.model import ExecutionOutcome, ExecutorInfo, Membership
from replication.identity.keys import SigningKey
from replication.ledger.verify import verify_certificate

KEY = SigningKey.from_seed(b"\x07" * 32)
NODES = ("node-1", "node-2", "node-3", "node-4")
LIAR, HONEST = "node-1", "node-2"


@dataclass
class Nodes:
    """Stands for `AsyncClient`: four nodes with one record, and what `LIAR` does instead."""

    factory: RecordFactory = field(default_factory=RecordFactory)
    certificates: dict[str, str] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    proposals: list[Any] = field(default_factory=list)
    confirmed: set[bytes] = field(default_factory=set)
    forged: bool = False
    hidden: bool = False
    full: bool = False
    reports: list[tuple[str | None, ExecutionOutcome]] = field(default_factory=list)
    fetched: list[tuple[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handle = SimpleNamespace(
            genesis=self.factory.genesis, endpoints=[SimpleNamespace(member_id=node) for node in NODES]
        )

    def decide(self, action: str, target: str) -> str:
        factory = self.factory
        factory.block()
        proposal_id = factory.propose("node-1", action, target)
        for voter in factory.ids:
            factory.vote(proposal_id, voter, "approve")
        factory.tally(proposal_id, "approved")
        return proposal_id

    def seal(self) -> None:
        record = self.factory.seal()
        for proposal_id in self.factory.proposals:
            text = dumps(record.certificate(proposal_id)).decode() + "\n"
            report = verify_certificate(text, self.factory.genesis)
            self.certificates[proposal_id] = text
            self.places[proposal_id] = report.tally_sequence
            self.proposals.append(
                SimpleNamespace(
                    id=proposal_id,
                    action=report.action,
                    target=report.target,
                    approved=True,
                    digest=report.digest,
                )
            )

    async def members(self, *, node: str | None = None) -> Membership:
        return Membership(0, 0, (), (ExecutorInfo("fence-1", KEY.public_key),))

    async def audit_head(self, *, node: str | None = None) -> Any:
        return SimpleNamespace(audit_size=max(self.places.values(), default=0) + 1)

    async def audit_entries(self, start: int, *, event_type: str, node: str | None) -> Any:
        assert event_type == "tally"
        found = [
            SimpleNamespace(proposal_id=proposal_id, sequence=place)
            for proposal_id, place in self.places.items()
            if place >= start
        ]
        return SimpleNamespace(entries=[] if self.hidden and node == LIAR else found)

    async def list_proposals(
        self, *, unconfirmed: bool = False, node: str | None = None
    ) -> AsyncIterator[Any]:
        for proposal in list(self.proposals):
            if not (unconfirmed and proposal.digest in self.confirmed) and not (self.hidden and node == LIAR):
                yield proposal

    async def certificate(self, proposal_id: str, *, node: str | None = None) -> Any:
        self.fetched.append((proposal_id, node))
        text = self.certificates[proposal_id]
        return SimpleNamespace(text=text.replace('"approve"', '"reject"') if self.lies(node) else text)

    def lies(self, node: str | None) -> bool:
        return self.forged and node in (LIAR, None)

    async def report_execution(self, receipt: Any, *, node: str | None = None) -> None:
        self.reports.append((node, receipt.outcome))
        if self.full:
            raise ConflictError("full", explanation=Explanation(reason="TOO_MANY_RECEIPTS"))
        if node == LIAR:
            return  # and nothing comes of it
        if receipt.outcome is ExecutionOutcome.SUCCEEDED:
            self.confirmed.add(receipt.proposal_digest)


@dataclass
class Bench:
    """The executor, its nodes, and what it did."""

    nodes: Nodes
    executor: Executor
    gate: Gate
    files: GateFiles
    acts: list[str]
    outcome: ExecutionOutcome = ExecutionOutcome.SUCCEEDED

    def rounds(self, *nodes: str) -> None:
        for node in nodes:
            asyncio.run(self.executor.round(node))

    def follow(self, *nodes: str) -> None:
        for node in nodes:
            asyncio.run(self.executor._follow(self.files, node))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.0)
    nodes = Nodes()
    files = GateFiles(nodes.factory.genesis, tmp_path / "gate")
    acts: list[str] = []

    async def act(order: Order) -> Result:
        acts.append(order.target)
        return Result(made.outcome)

    with ActionLog.open(tmp_path / "log") as log:
        executor = Executor(cast("AsyncClient", nodes), "fence-1", KEY, log, act)
        made = Bench(nodes, executor, Gate(nodes.factory.genesis, tmp_path / "gate"), files, acts)
        yield made


def test_a_forged_certificate_is_not_acted_upon_and_holds_up_nothing(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.nodes.forged = True
    bench.rounds(LIAR)
    assert bench.acts == []
    bench.rounds(HONEST)
    assert bench.acts == ["agent-7"]


def test_a_node_that_swallows_a_receipt_has_nothing_done_again(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.rounds(LIAR, LIAR)
    assert (bench.acts, bench.nodes.confirmed) == (["agent-7"], set())
    bench.rounds(HONEST, LIAR)
    assert (bench.acts, len(bench.nodes.confirmed)) == (["agent-7"], 1)


def test_a_proposal_that_takes_no_more_receipts_is_acted_upon_once(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.nodes.full = True
    bench.rounds(*NODES)
    assert bench.acts == ["agent-7"]


def test_giving_up_is_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.outcome = ExecutionOutcome.FAILED
    bench.rounds(*[HONEST] * 6)
    assert bench.acts == ["agent-7"] * module.MAX_ATTEMPTS
    assert caplog.text.count("is given up") == 1


def test_the_gate_learns_from_others_what_one_node_hides(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.nodes.hidden = True
    bench.follow(LIAR)
    assert bench.gate.check("agent-7").state is GateState.FREE
    bench.follow(HONEST)
    assert bench.gate.check("agent-7").state is GateState.QUARANTINED


def test_a_certificate_that_verified_is_not_fetched_from_every_node(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.follow(*NODES)
    assert bench.nodes.fetched == [("prop-0001", "node-1")]
