"""An executor among nodes of which some lie: one node's word is not enough, nor is anything done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.record_factory import RecordFactory, dumps

from replication.client import executor as module
from replication.client.action_log import ActionLog
from replication.client.async_client import AsyncClient
from replication.client.errors import ConflictError, Explanation, UsageError
from replication.client.executor import Act, Executor, Order, Result
from replication.client.gate import Gate, GateFiles, GateState
from replication.client.model import ExecutionOutcome, ExecutorInfo, Membership
from replication.errors import StorageError
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
    renamed: str = ""
    stalled: asyncio.Event | None = None
    reports: list[tuple[str | None, ExecutionOutcome]] = field(default_factory=list)
    fetched: list[tuple[str, str | None]] = field(default_factory=list)
    listings: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handle = SimpleNamespace(
            genesis=self.factory.genesis, endpoints=[SimpleNamespace(member_id=node) for node in NODES]
        )
        self.endpoints = self.handle.endpoints

    def decide(self, action: str, target: str, *, approve: bool = True) -> str:
        factory = self.factory
        factory.block()
        proposal_id = factory.propose("node-1", action, target)
        for voter in factory.ids:
            factory.vote(proposal_id, voter, "approve" if approve else "reject")
        factory.tally(proposal_id, "approved" if approve else "rejected")
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

    async def watch(self, start: int) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield start

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
        self.listings.append(node)
        for proposal in list(self.proposals):
            if not (unconfirmed and proposal.digest in self.confirmed) and not (self.hidden and node == LIAR):
                if self.renamed and node == LIAR:
                    yield SimpleNamespace(**{**vars(proposal), "target": self.renamed})
                else:
                    yield proposal

    async def certificate(self, proposal_id: str, *, node: str | None = None) -> Any:
        self.fetched.append((proposal_id, node))
        text = self.certificates[proposal_id]
        return SimpleNamespace(text=text.replace('"approve"', '"reject"') if self.lies(node) else text)

    def lies(self, node: str | None) -> bool:
        return self.forged and node in (LIAR, None)

    async def report_execution(self, receipt: Any, *, node: str | None = None) -> None:
        self.reports.append((node, receipt.outcome))
        if self.stalled is not None:
            await self.stalled.wait()
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
    log: ActionLog
    outcome: ExecutionOutcome = ExecutionOutcome.SUCCEEDED

    async def act(self, order: Order) -> Result:
        self.acts.append(order.target)
        return Result(self.outcome)

    def another(
        self,
        act: Act | None = None,
        *,
        key: SigningKey = KEY,
        actions: Collection[str] = (),
        retry: Collection[str] = (),
        gated: bool = False,
        poll_seconds: float = 0.02,
    ) -> Executor:
        """An executor with the same log, as after a restart."""
        return Executor(
            cast("AsyncClient", self.nodes),
            "fence-1",
            key,
            self.log,
            act or self.act,
            actions=actions,
            gate=self.files if gated else None,
            retry=retry,
            poll_seconds=poll_seconds,
        )

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
    with ActionLog.open(tmp_path / "log") as log:
        made = Bench(
            nodes, cast("Executor", None), Gate(nodes.factory.genesis, tmp_path / "gate"), files, [], log
        )
        made.executor = made.another()
        yield made


def test_a_forged_certificate_is_not_acted_upon_and_holds_up_nothing(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.nodes.forged = True
    bench.rounds(LIAR)
    assert bench.acts == []
    bench.rounds(HONEST)
    assert bench.acts == ["agent-7"]


def test_a_decision_that_was_not_approved_is_not_acted_upon(bench: Bench) -> None:
    """The node lists it as approved, and its certificate is in order."""
    bench.nodes.decide("quarantine", "agent-7", approve=False)
    bench.nodes.seal()
    bench.rounds(LIAR, HONEST)
    assert bench.acts == []
    assert len(bench.nodes.fetched) == 2


def test_the_certificate_of_another_decision_is_not_acted_upon(bench: Bench) -> None:
    one, other = bench.nodes.decide("quarantine", "agent-7"), bench.nodes.decide("quarantine", "agent-8")
    bench.nodes.seal()
    bench.nodes.certificates[one] = bench.nodes.certificates[other]
    bench.nodes.proposals = [item for item in bench.nodes.proposals if item.id == one]
    bench.rounds(LIAR, HONEST)
    assert (bench.acts, bench.nodes.reports) == ([], [])


def test_what_an_executor_is_not_for_is_not_acted_upon(bench: Bench) -> None:
    """Whatever a node lists it as: the certificate says what it is."""
    bench.nodes.decide("terminate", "agent-7")
    bench.nodes.decide("quarantine", "agent-8")
    bench.nodes.seal()
    bench.nodes.proposals[0].action = "quarantine"
    asyncio.run(bench.another(actions=["quarantine"]).round(LIAR))
    assert bench.acts == ["agent-8"]


def test_an_older_decision_does_not_follow_a_newer_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = decided(bench, "quarantine agent-7", "release agent-7")
    for shown in (newer, older):
        bench.nodes.proposals = [shown]
        bench.rounds(HONEST)
    assert bench.acts == ["agent-7"]
    assert "a later decision has overtaken it" in caplog.text


def test_only_an_executor_of_the_record_acts(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    stranger = bench.another(key=SigningKey.from_seed(b"\x08" * 32))
    assert asyncio.run(stranger.round(HONEST)) == 0
    assert (bench.acts, bench.nodes.fetched) == ([], [])
    assert "fence-1 is no executor of epoch 0 with this key" in caplog.text
    bench.nodes.handle.genesis = None
    with pytest.raises(UsageError, match="needs the genesis file"):
        bench.another()


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


def test_what_is_given_up_is_tried_again_when_somebody_asks(bench: Bench) -> None:
    for target in ("agent-7", "agent-8"):
        bench.nodes.decide("quarantine", target)
    bench.nodes.seal()
    bench.outcome = ExecutionOutcome.FAILED
    bench.rounds(*[HONEST] * 6)
    bench.acts.clear()
    again = bench.another(retry=["prop-0001", "prop-0099"])
    for _ in range(6):
        asyncio.run(again.round(HONEST))
    assert bench.acts == ["agent-7"] * module.MAX_ATTEMPTS, "once, and nothing else"
    bench.acts.clear()
    bench.outcome = ExecutionOutcome.SUCCEEDED
    asyncio.run(bench.another().round(HONEST))
    assert bench.acts == []
    asyncio.run(bench.another(retry=["prop-0002"]).round(HONEST))
    assert bench.acts == ["agent-8"]
    assert len(bench.nodes.confirmed) == 1


def test_another_proposal_under_the_name_that_is_to_be_tried_again(bench: Bench) -> None:
    """The certificate says which proposal it is, not the list of a node."""
    for target in ("agent-7", "agent-8"):
        bench.nodes.decide("quarantine", target)
    bench.nodes.seal()
    bench.outcome = ExecutionOutcome.FAILED
    bench.rounds(*[HONEST] * 6)
    bench.acts.clear()
    first, second = bench.nodes.proposals
    bench.nodes.certificates["prop-0002"] = bench.nodes.certificates["prop-0001"]
    bench.nodes.proposals = [SimpleNamespace(**{**vars(first), "id": second.id})]
    asyncio.run(bench.another(retry=["prop-0002"]).round(HONEST))
    assert bench.acts == []


@dataclass
class Floor:
    """Actions that go on until they are let go, by action and target."""

    acting: dict[str, asyncio.Event] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)

    async def act(self, order: Order) -> Result:
        name = f"{order.action} {order.target}"
        self.begun.append(name)
        assert order.target not in {other.split()[1] for other in self.acting}, "two at once on one target"
        self.acting[name] = asyncio.Event()
        try:
            await self.acting[name].wait()
        finally:
            del self.acting[name]
        return Result(ExecutionOutcome.SUCCEEDED)


async def comes(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def at_work(executor: Executor) -> AsyncIterator[None]:
    work = asyncio.create_task(executor.run())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def decided(bench: Bench, *what: str) -> list[Any]:
    """Proposals of which none is listed yet."""
    for line in what:
        bench.nodes.decide(*line.split())
    bench.nodes.seal()
    hidden, bench.nodes.proposals = bench.nodes.proposals, []
    return hidden


def test_a_slow_action_holds_up_only_its_target(bench: Bench) -> None:
    first, release, other, last = decided(
        bench, "quarantine agent-1", "release agent-1", "quarantine agent-2", "quarantine agent-3"
    )
    floor, listed = Floor(), bench.nodes.proposals

    async def run() -> None:
        async with at_work(bench.another(floor.act, gated=True)):
            listed.append(first)
            await comes(lambda: floor.begun == ["quarantine agent-1"])
            listed.extend([release, other])
            await comes(lambda: "quarantine agent-2" in floor.acting)
            floor.acting["quarantine agent-2"].set()
            await comes(lambda: other.digest in bench.nodes.confirmed)
            listed.append(last)
            await comes(lambda: bench.gate.check("agent-3").state is GateState.QUARANTINED)
            await comes(lambda: "quarantine agent-3" in floor.acting)
            assert floor.begun == [f"quarantine agent-{number}" for number in (1, 2, 3)]
            floor.acting["quarantine agent-1"].set()
            await comes(lambda: "release agent-1" in floor.acting)
            floor.acting["release agent-1"].set()
            await comes(lambda: {first.digest, release.digest} <= bench.nodes.confirmed)

    asyncio.run(run())
    assert sorted(floor.begun) == sorted({*floor.begun}), "nothing is done twice"


def test_a_lie_about_the_target_lets_nothing_overtake(bench: Bench) -> None:
    """Release and quarantine under another target: neither begins while the quarantine runs."""
    first, release = decided(bench, "quarantine agent-1", "release agent-1")
    floor, nodes = Floor(), bench.nodes
    nodes.renamed = "agent-x"
    executor = bench.another(floor.act)

    async def run() -> None:
        nodes.proposals.append(first)
        honest = asyncio.create_task(executor.round(HONEST))
        await comes(lambda: floor.acting)
        nodes.proposals.append(release)
        assert await executor.round(LIAR) == 0
        assert await executor.round(HONEST) == 0
        assert floor.begun == ["quarantine agent-1"]
        floor.acting["quarantine agent-1"].set()
        assert await honest == 1
        again = asyncio.create_task(executor.round(LIAR))
        await comes(lambda: "release agent-1" in floor.acting)
        floor.acting["release agent-1"].set()
        await again

    asyncio.run(run())
    assert floor.begun == ["quarantine agent-1", "release agent-1"]


def test_a_receipt_that_is_on_its_way_is_not_sent_by_another_round(bench: Bench) -> None:
    listed = decided(bench, "quarantine agent-1")
    nodes = bench.nodes
    nodes.proposals.extend(listed)
    nodes.renamed = "agent-x"

    async def run() -> None:
        nodes.stalled = asyncio.Event()
        honest = asyncio.create_task(bench.executor.round(HONEST))
        await comes(lambda: nodes.reports)
        other = asyncio.create_task(bench.executor.round(LIAR))
        await comes(lambda: LIAR in nodes.listings)
        nodes.stalled.set()
        assert (await honest, await other) == (1, 0)

    asyncio.run(run())
    assert nodes.reports == [(HONEST, ExecutionOutcome.SUCCEEDED)]
    assert bench.acts == ["agent-1"]


def test_what_was_decided_meanwhile_follows_at_once(bench: Bench) -> None:
    first, release = decided(bench, "quarantine agent-1", "release agent-1")
    floor, nodes = Floor(), bench.nodes
    nodes.proposals.append(first)
    executor = bench.another(floor.act, poll_seconds=600)

    async def run() -> None:
        async with at_work(executor):
            await comes(lambda: floor.acting)
            nodes.proposals.append(release)
            executor._wake.set()  # as the listener does
            await comes(lambda: len(nodes.listings) == 2)
            floor.acting["quarantine agent-1"].set()
            await comes(lambda: "release agent-1" in floor.acting)

    asyncio.run(run())


def test_so_many_actions_at_a_time_and_no_more(bench: Bench) -> None:
    count = module.AT_ONCE + 3
    listed = decided(bench, *(f"quarantine agent-{number}" for number in range(count)))
    floor, nodes = Floor(), bench.nodes

    async def run() -> None:
        async with at_work(bench.another(floor.act)):
            nodes.proposals.extend(listed)
            await comes(lambda: len(floor.acting) == module.AT_ONCE)
            rounds, tasks = len(nodes.listings), len(asyncio.all_tasks())
            await comes(lambda: len(nodes.listings) > rounds + 2)
            # What has to wait does so once, however often it is listed.
            await comes(lambda: len(asyncio.all_tasks()) <= tasks)
            assert len(floor.begun) == module.AT_ONCE
            while len(nodes.confirmed) < count:
                await comes(lambda: floor.acting or len(nodes.confirmed) == count)
                for event in floor.acting.values():
                    event.set()
                await asyncio.sleep(0)

    asyncio.run(run())
    assert len(floor.begun) == count


def test_a_node_that_lists_without_end_makes_nothing_grow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    listed = decided(bench, "quarantine agent-1")
    floor, nodes = Floor(), bench.nodes
    nodes.proposals.extend(listed)
    executor = bench.another(floor.act)

    async def run() -> None:
        rounds = [asyncio.create_task(executor.round(HONEST))]
        await comes(lambda: floor.acting)
        nodes.renamed = "agent-x"
        rounds.append(asyncio.create_task(executor.round(LIAR)))
        await comes(lambda: LIAR in nodes.listings)
        nodes.renamed = "agent-y"
        assert await asyncio.wait_for(executor.round(LIAR), 60) == 0, "not waited for: enough wait already"
        floor.acting["quarantine agent-1"].set()
        assert [await each for each in rounds] == [1, 0]

    asyncio.run(run())
    assert floor.begun == ["quarantine agent-1"]


def test_a_disk_that_fails_during_an_action_ends_the_executor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cannot note what was done must not go on."""
    listed = decided(bench, "quarantine agent-1")
    bench.nodes.proposals.extend(listed)

    def refuse(*_arguments: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(ActionLog, "end", refuse)
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(asyncio.wait_for(bench.executor.run(), 60))
    assert caught.group_contains(StorageError)


def test_the_gate_learns_from_others_what_one_node_hides(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.nodes.hidden = True
    bench.follow(LIAR)
    assert bench.gate.check("agent-7").state is GateState.FREE
    bench.follow(HONEST)
    assert bench.gate.check("agent-7").state is GateState.QUARANTINED


def test_the_gate_follows_members_that_come_later(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[str] = []

    async def keep(_self: Executor, _gate: GateFiles, node: str) -> None:
        followed.append(node)

    async def listen(_self: Executor) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Executor, "_keep_gate", keep)
    monkeypatch.setattr(Executor, "_listen", listen)

    async def work() -> None:
        with ActionLog.open(tmp_path / "another") as log:
            client = cast("AsyncClient", bench.nodes)
            executor = Executor(client, "fence-1", KEY, log, refuse, gate=bench.files, poll_seconds=0.001)
            running = asyncio.ensure_future(executor.run())
            async with asyncio.timeout(60):
                while len(followed) < len(NODES):
                    await asyncio.sleep(0.001)
                bench.nodes.endpoints.append(SimpleNamespace(member_id="node-5"))
                while "node-5" not in followed:
                    await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.wait({running})

    asyncio.run(work())
    assert sorted(followed) == [*NODES, "node-5"]


async def refuse(_order: Order) -> Result:
    raise AssertionError("nothing is to be done")


def test_a_certificate_that_verified_is_not_fetched_from_every_node(bench: Bench) -> None:
    bench.nodes.decide("quarantine", "agent-7")
    bench.nodes.seal()
    bench.follow(*NODES)
    assert bench.nodes.fetched == [("prop-0001", "node-1")]


def test_a_node_that_lists_what_is_not_and_hangs_holds_up_nothing(bench: Bench) -> None:
    (real,) = decided(bench, "quarantine agent-1")
    nodes, honest = bench.nodes, bench.nodes.certificate
    hung: list[str] = []

    async def hangs(proposal_id: str, *, node: str | None = None) -> Any:
        if node == LIAR:
            hung.append(proposal_id)
            await asyncio.Event().wait()
        return await honest(proposal_id, node=node)

    async def run() -> None:
        copies = [
            SimpleNamespace(**{**vars(real), "target": f"agent-{number}"})
            for number in range(1, 2 * module.AT_ONCE)
        ]
        nodes.proposals = copies
        lies = asyncio.create_task(bench.executor.round(LIAR))
        await comes(lambda: len(hung) == module.AT_ONCE)
        nodes.proposals = [real]
        assert await asyncio.wait_for(bench.executor.round(HONEST), 60) == 1
        lies.cancel()
        await asyncio.gather(lies, return_exceptions=True)

    nodes.certificate = hangs  # type: ignore[method-assign]
    asyncio.run(run())
    assert bench.acts == ["agent-1"]


def test_a_node_that_hangs_when_it_is_asked_what_is_due_holds_up_nothing(bench: Bench) -> None:
    decided_already = decided(bench, "quarantine agent-1")
    nodes, honest = bench.nodes, bench.nodes.members
    asked: list[str | None] = []

    async def hangs(*, node: str | None = None) -> Membership:
        asked.append(node)
        if node == LIAR:
            await asyncio.Event().wait()
        return await honest(node=node)

    async def run() -> None:
        nodes.proposals.extend(decided_already)
        async with at_work(bench.executor):
            await comes(lambda: bench.acts == ["agent-1"])
            await comes(lambda: asked.count(HONEST) > 2)

    nodes.members = hangs  # type: ignore[method-assign]
    asyncio.run(run())
    assert asked.count(LIAR) == 1, "who has not answered yet is not asked again"
