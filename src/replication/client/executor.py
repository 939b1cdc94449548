"""Carrying out decisions: an executor finds approved proposals, acts once it has verified the proof, and
signs what came of it.

    async with AsyncClient(handle) as client:
        with ActionLog.open(Path("executor.log")) as log:
            await Executor(client, "fence-1", key, log, act).run()

The record itself says what is still to be done: approved proposals without a receipt that says succeeded. So
nothing is missed, however long an executor was away; and since the question goes to one node after another,
no single node can hide a decision for longer than a round. Audit entries are watched only to be quick.

Decisions about one target are carried out in the order of the record, one at a time; those about others go
on meanwhile, so that a slow action holds up nothing but its target. Of those that say whether it may run
(`gate.STATE_BY_ACTION`) one that a later one has overtaken is not tried again: a quarantine that failed must
not come after the release.

An action happens at least once: after a crash between the act and its receipt it happens again, with the
same idempotency key. The log keeps how attempts ended until the record has their receipts, so that a receipt
that could not be delivered is delivered later and the action is not repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from replication.client.action_log import ActionLog, Attempt
from replication.client.async_client import AsyncClient
from replication.client.errors import ConflictError, RemoteError, ResponseError, UsageError
from replication.client.gate import STATE_BY_ACTION, GateFiles
from replication.client.model import ExecutionOutcome, Membership, Proposal, SignedReceipt
from replication.consensus.rules import max_byzantine_faults
from replication.errors import ReplicationError
from replication.identity.genesis import Genesis
from replication.identity.keys import SigningKey
from replication.identity.signbytes import OUTCOME_CODES, receipt_bytes
from replication.ledger.verify import CertificateReport, verify_certificate

__all__ = ["AT_ONCE", "Act", "Executor", "Order", "Result"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0
"""Between two looks at what is unconfirmed, each at another node."""

MAX_ATTEMPTS: Final = 4
"""A proposal can have eight receipts, and one more that says succeeded; two executors that fail can still
both report."""

FIRST_RETRY_SECONDS: Final = 5.0
"""Doubled with every attempt."""

MAX_DETAIL_BYTES: Final = 1024

AT_ONCE: Final = 8
"""Targets whose orders are carried out at a time: a slow one must not hold up the others."""

MAX_LISTED: Final = 10_000
"""What is taken in from one node in one round. It may lie without end."""


@dataclass(frozen=True, slots=True)
class Order:
    """An approved decision whose certificate verified. `key` is the idempotency key: the proposal's digest
    in hex. `place` is that of its tally in the record, for decisions that a later one overtakes; -1 for
    others."""

    key: str
    proposal_id: str
    action: str
    target: str
    evidence: Mapping[str, object]
    height: int
    decided_ms: int
    certificate: str
    place: int

    def as_json(self) -> dict[str, object]:
        """What a command or webhook is given."""
        return {
            "idempotency_key": self.key,
            "proposal_id": self.proposal_id,
            "action": self.action,
            "target": self.target,
            "evidence": dict(self.evidence),
            "height": self.height,
            "decided_ms": self.decided_ms,
            "certificate": self.certificate,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended."""

    outcome: ExecutionOutcome
    detail: str = ""


Act = Callable[[Order], Awaitable[Result]]
"""Carries an order out. What it raises counts as failed."""


class Executor:
    """One executor of one cluster. `actions` limits what it acts on; without, it takes every action.

    `gate` is kept up to date with the certificates of what it handled. `retry` are the ids of proposals that
    get `MAX_ATTEMPTS` more attempts when they are given up. Raises UsageError without a genesis file: an
    executor that cannot verify must not act.
    """

    def __init__(
        self,
        client: AsyncClient,
        name: str,
        key: SigningKey,
        log: ActionLog,
        act: Act,
        *,
        actions: Collection[str] = (),
        gate: GateFiles | None = None,
        retry: Collection[str] = (),
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        if client.handle.genesis is None:
            raise UsageError(
                "An executor needs the genesis file, or it could verify nothing. Give --genesis."
            )
        self._client = client
        self._genesis: Genesis = client.handle.genesis
        self._name = name
        self._key = key
        self._log = log
        self._act = act
        self._actions = frozenset(actions)
        self._gate = gate
        self._retry = set(retry)
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        """Certificates that are asked of a node at a time: one that hangs holds up only what it lists."""
        self._busy: dict[str | None, set[str]] = defaultdict(set)
        """Targets, as each node lists them, whose decisions are being carried out or wait for their turn."""
        self._missed: set[tuple[str | None, str]] = set()
        """Of those, the ones that a later round came upon."""
        self._looking: set[str | None] = set()
        """Nodes that are being asked what is due."""
        self._turned_away: set[str] = set()
        """Targets about which something was to be done while something else was done about them."""
        self._handled: set[str] = set()
        """Digests of what is being handled, and targets that are acted upon, as certificates name them: what
        a node lists twice, or under another target, is done once and in order all the same."""
        self._acted_upon: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._told: set[str] = set()
        self._followed: dict[str | None, int] = {}
        """For the gate, how much of each node's record was looked at."""
        self._asked: set[str | None] = set()
        """The nodes that the gate has followed since the folder last counted as fresh."""
        self._known: OrderedDict[str, None] = OrderedDict()
        """Proposals whose certificates the gate was given, by whichever node."""
        self._reported: OrderedDict[str, Attempt] = OrderedDict()
        """Attempts whose receipts a node says that it took, or can take no more. That is one node's word:
        where another shows the decision as unconfirmed, the receipt is brought again and nothing is done
        again."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._work(group))

    async def round(self, node: str | None = None) -> int:
        """Look once at what is unconfirmed, at one node, and do it; how many receipts were recorded. What an
        earlier round is still about is left to that."""
        due = await self._due(node)
        return sum(await asyncio.gather(*(self._carry_out(*item, node) for item in due.items())))

    async def _due(self, node: str | None) -> dict[str, list[Proposal]]:
        """What a node says is unconfirmed, by target, in the order of the record."""
        membership = await self._client.members(node=node)
        if not self._is_among(membership):
            self._tell(
                "", f"{self._name} is no executor of epoch {membership.epoch} with this key: nothing is done"
            )
            return {}
        found: list[Proposal] = []
        async for proposal in self._client.list_proposals(unconfirmed=True, node=node):
            if not self._actions or proposal.action in self._actions:
                found.append(proposal)
            if len(found) >= MAX_LISTED:
                break
        by_target: dict[str, list[Proposal]] = {}
        for proposal in found:
            by_target.setdefault(proposal.target or proposal.id, []).append(proposal)
        now = time.monotonic()
        self._retry_at = {digest: at for digest, at in self._retry_at.items() if at > now}
        return by_target

    async def _carry_out(self, target: str, proposals: list[Proposal], node: str | None) -> int:
        """Handle the decisions about one target, unless that is going on already; how many receipts were
        recorded."""
        busy = self._busy[node]
        if target in busy:
            self._missed.add((node, target))
            return 0
        if len(busy) >= MAX_LISTED:
            return 0
        busy.add(target)
        try:
            return sum([await self._handle(proposal, node) for proposal in proposals])
        finally:
            busy.discard(target)
            if (node, target) in self._missed:
                self._missed.discard((node, target))
                self._wake.set()

    def _is_among(self, membership: Membership) -> bool:
        public_key = self._key.public_key
        return any(one.id == self._name and one.public_key == public_key for one in membership.executors)

    async def _work(self, group: asyncio.TaskGroup) -> None:
        """Begin what is due, round after round, without waiting; have the gate follow every node."""
        turn, kept = 0, set[str | None]()
        while True:
            self._wake.clear()
            endpoints = self._client.endpoints
            if self._gate is not None:
                for member in {endpoint.member_id for endpoint in endpoints} - kept:
                    kept.add(member)
                    group.create_task(self._keep_gate(self._gate, member))
            node = endpoints[turn % len(endpoints)].member_id
            if node not in self._looking:
                self._looking.add(node)
                group.create_task(self._look(node, group))
            turn += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()

    async def _look(self, node: str | None, group: asyncio.TaskGroup) -> None:
        """Begin what a node says is due. One that is dead or hangs holds up no look at another."""
        try:
            for target, proposals in (await self._due(node)).items():
                group.create_task(self._carry_out(target, proposals, node))
        except (RemoteError, ResponseError) as error:
            logger.warning("looking for decisions failed: %s", error)
        finally:
            self._looking.discard(node)

    async def _keep_gate(self, gate: GateFiles, node: str | None) -> None:
        """Have the gate follow one node's record. Each node has a task, so that one that lies or hangs holds
        up nothing; the folder counts as fresh when enough nodes were asked for one of them to be honest."""
        honest = max_byzantine_faults(len(self._genesis.members.members)) + 1
        while True:
            try:
                await self._follow(gate, node)
                self._asked.add(node)
                if len(self._asked) >= min(honest, len(self._client.endpoints)):
                    gate.checked()
                    self._asked.clear()
            except ReplicationError as error:
                logger.warning("the gate does not follow %s: %s", node, error)
            await asyncio.sleep(self._poll_seconds)

    async def _follow(self, gate: GateFiles, node: str | None) -> None:
        """Learn from a node what was decided since it was asked last, whoever has carried it out."""
        head = (await self._client.audit_head(node=node)).audit_size
        seen = self._followed.get(node)
        if seen is None:  # of each target the newest decision
            newest: dict[str, str] = {}
            async for proposal in self._client.list_proposals(node=node):
                if proposal.approved and proposal.action in STATE_BY_ACTION and proposal.target:
                    newest[proposal.target] = proposal.id
                if len(newest) >= MAX_LISTED:
                    await self._keep(gate, newest.values(), node)
                    newest.clear()
            await self._keep(gate, newest.values(), node)
        while seen is not None and seen < head:
            page = await self._client.audit_entries(seen, event_type="tally", node=node)
            await self._keep(gate, [entry.proposal_id for entry in page.entries], node)
            seen = page.entries[-1].sequence + 1 if page.entries else None
        self._followed[node] = head

    async def _keep(self, gate: GateFiles, proposal_ids: Collection[str], node: str | None) -> None:
        for proposal_id in proposal_ids:
            if proposal_id not in self._known:
                gate.keep((await self._client.certificate(proposal_id, node=node)).text)
                _remember(self._known, proposal_id, None)

    async def _listen(self) -> None:
        """Wake the worker when something is decided. It looks by itself too: nothing depends on this."""
        while True:
            try:
                start = (await self._client.audit_head()).audit_size
                async for entry in self._client.watch(start):
                    if entry.event_type == "tally":
                        self._wake.set()
            except (RemoteError, ResponseError) as error:
                logger.debug("watching failed: %s", error)
            await asyncio.sleep(self._poll_seconds)

    async def _handle(self, proposal: Proposal, node: str | None) -> bool:
        """Act on one proposal if it is time to, and report; whether a receipt was recorded."""
        digest = proposal.digest.hex()
        if digest in self._handled:
            return False
        order = None
        if self._needs_order(proposal, digest):
            async with self._asking[node]:
                order = await self._verified(proposal, node)
            if order is None or digest in self._handled:
                return False
        self._handled.add(digest)
        try:
            return await self._advance(proposal, digest, order, node)
        finally:
            self._handled.discard(digest)

    def _needs_order(self, proposal: Proposal, digest: str) -> bool:
        """Whether `_advance` will act, unless something happens meanwhile."""
        attempts = self._log.attempts(digest)
        return (
            not (attempts and attempts[-1].is_undelivered)
            and time.monotonic() >= self._retry_at.get(digest, 0.0)
            and digest not in self._reported
            and (len(attempts) < MAX_ATTEMPTS or proposal.id in self._retry)
        )

    async def _advance(self, proposal: Proposal, digest: str, order: Order | None, node: str | None) -> bool:
        attempts = self._log.attempts(digest)
        if attempts and attempts[-1].is_undelivered:
            return await self._deliver(digest, attempts[-1], node)
        if time.monotonic() < self._retry_at.get(digest, 0.0):
            return False
        if (reported := self._reported.get(digest)) is not None:
            self._retry_at[digest] = time.monotonic() + FIRST_RETRY_SECONDS
            await self._report(digest, reported, node)
            return False
        if len(attempts) >= MAX_ATTEMPTS and proposal.id not in self._retry:
            return self._give_up(digest, proposal.id, attempts)
        if order is None:
            return False
        if self._gate is not None:
            self._gate.keep(order.certificate)
        where = order.target or order.key
        if where in self._acted_upon:
            self._turned_away.add(where)
            return False
        if 0 <= order.place < self._log.newest(order.target):
            self._tell(digest, f"{order.proposal_id} is not acted upon: a later decision has overtaken it")
            return False
        if len(attempts) >= MAX_ATTEMPTS:
            if order.proposal_id not in self._retry:
                return self._give_up(digest, order.proposal_id, attempts)
            logger.info("%s is tried again, as asked", order.proposal_id)
            self._retry.discard(order.proposal_id)
            self._told.discard(digest)
            self._log.again(digest)
            attempts = ()
        self._acted_upon.add(where)
        try:
            async with self._turns:
                attempt = await self._attempt(order)
        finally:
            self._acted_upon.discard(where)
            if where in self._turned_away:
                self._turned_away.discard(where)
                self._wake.set()
        self._retry_at[digest] = time.monotonic() + FIRST_RETRY_SECONDS * 2 ** len(attempts)
        return await self._deliver(digest, attempt, node)

    def _give_up(self, digest: str, proposal_id: str, attempts: Collection[Attempt]) -> bool:
        self._tell(
            digest,
            f"{proposal_id} is given up: {len(attempts)} attempts failed. Act by hand, or start the executor "
            f"with --retry {proposal_id}.",
        )
        return False

    async def _verified(self, proposal: Proposal, node: str | None) -> Order | None:
        """What the certificate says is to be done; None when it does not verify, or says something else."""
        try:
            text = (await self._client.certificate(proposal.id, node=node)).text
            report: CertificateReport = verify_certificate(text, self._genesis)
        except ReplicationError as error:
            self._tell(proposal.digest.hex(), f"{proposal.id} is not acted upon: {error}")
            return None
        if not report.authorises or report.digest != proposal.digest:
            self._tell(
                proposal.digest.hex(),
                f"{proposal.id} is not acted upon: its certificate says {report.decision} of "
                f"{report.proposal_id}",
            )
            return None
        if self._actions and report.action not in self._actions:
            self._tell(proposal.digest.hex(), f"{proposal.id} is not acted upon: it is about {report.action}")
            return None
        return Order(
            key=report.digest.hex(),
            proposal_id=report.proposal_id,
            action=report.action,
            target=report.target,
            evidence=report.evidence,
            height=report.height,
            decided_ms=report.time_ms,
            certificate=text,
            place=report.tally_sequence if report.action in STATE_BY_ACTION else -1,
        )

    async def _attempt(self, order: Order) -> Attempt:
        logger.info("acting on %s: %s %s", order.proposal_id, order.action, order.target)
        self._log.begin(order.key, order.target, order.place)
        try:
            result = await self._act(order)
        except Exception as error:  # whatever a command or webhook does must not stop the others
            logger.exception("acting on %s raised", order.proposal_id)
            result = Result(ExecutionOutcome.FAILED, f"{type(error).__name__}: {error}")
        detail = _shortened(result.detail)
        logger.info("%s of %s: %s", result.outcome.value, order.proposal_id, detail)
        return self._log.end(order.key, result.outcome, detail, time.time_ns() // 1_000_000)

    async def _deliver(self, digest: str, attempt: Attempt, node: str | None) -> bool:
        """Report an attempt, and note it. Left for the next round, at another node, if this one does not take
        it."""
        if not await self._report(digest, attempt, node):
            return False
        if attempt.outcome is ExecutionOutcome.SUCCEEDED:
            _remember(self._reported, digest, attempt)
        self._log.delivered(digest)
        return True

    async def _report(self, digest: str, attempt: Attempt, node: str | None) -> bool:
        """Have the receipt of an attempt ordered; whether the node says that this is over."""
        try:
            epoch = (await self._client.members(node=node)).epoch
            await self._client.report_execution(self._sign(digest, attempt, epoch), node=node)
        except ConflictError as error:
            logger.warning("the receipt on %s was refused: %s", digest[:16], error)
            return error.reason != "EPOCH_OVER"  # signed for the new one in the next round
        except (RemoteError, ResponseError) as error:
            logger.warning("the receipt on %s waits: %s", digest[:16], error)
            return False
        return True

    def _sign(self, digest: str, attempt: Attempt, epoch: int) -> SignedReceipt:
        signature = self._key.sign(
            receipt_bytes(
                self._genesis.cluster_id,
                epoch,
                executor=self._name,
                digest=bytes.fromhex(digest),
                outcome=OUTCOME_CODES[attempt.outcome.value],
                detail=attempt.detail,
                executed_ms=attempt.ended_ms,
            )
        )
        return SignedReceipt(
            executor_id=self._name,
            epoch=epoch,
            proposal_digest=bytes.fromhex(digest),
            outcome=attempt.outcome,
            detail=attempt.detail,
            executed_ms=attempt.ended_ms,
            signature=signature,
        )

    def _tell(self, digest: str, text: str) -> None:
        """Log once for each proposal."""
        if digest not in self._told:
            if len(self._told) >= MAX_LISTED:
                self._told.clear()
            self._told.add(digest)
            logger.error("%s", text)


def _remember(known: OrderedDict[str, T], key: str, value: T) -> None:
    """Add to what is known, and forget the oldest beyond `MAX_LISTED`."""
    known[key] = value
    if len(known) > MAX_LISTED:
        known.popitem(last=False)


def _shortened(detail: str) -> str:
    """A detail that fits into a receipt: valid text of at most 1 KiB."""
    raw = detail.encode("utf-8", "replace")
    return (
        raw.decode("utf-8")
        if len(raw) <= MAX_DETAIL_BYTES
        else raw[: MAX_DETAIL_BYTES - 3].decode("utf-8", "ignore") + "..."
    )
