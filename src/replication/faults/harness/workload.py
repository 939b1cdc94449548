"""Load on a cluster while it is being broken: proposers, voters, readers and executors, each a client of its
own.

All they do goes through the public client and into the history. A client never trusts its memory about what
happened: what was not answered is *unknown*, and sometimes asked again under the same request id, as a
careful caller does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from replication.client import (
    AsyncClient,
    ClusterHandle,
    RemoteError,
    ResponseError,
    new_request_id,
    open_folder,
)
from replication.client.errors import (
    CallCancelledError,
    DeadlineExceededError,
    ServerFailureError,
    UnavailableError,
    UsageError,
)
from replication.client.model import Proposal, ProposalStatus, VoteValue
from replication.faults.harness.history import History, Operation, Outcome
from replication.faults.harness.scenario import Scenario
from replication.ledger.verify import VerificationError

__all__ = ["Workload"]

ACTIONS: Final = ("quarantine", "restrict", "release", "terminate", "escalate")
ERROR_PAUSE_SECONDS: Final = 0.1
VOTER_PAUSE_SECONDS: Final = 0.1
READER_PAUSE_SECONDS: Final = 0.05
KNOWN_PROPOSALS: Final = 500
"""Readers ask for one of the newest so many."""

_UNKNOWN_ERRORS: Final = (
    UnavailableError,
    DeadlineExceededError,
    CallCancelledError,
    ServerFailureError,
    ResponseError,
)
"""After these nobody knows whether it happened. All others say that it did not."""


class Workload:
    """The clients of one run. They work until `stop`."""

    def __init__(self, directory: Path, scenario: Scenario, history: History, seed: int) -> None:
        self._plan = scenario.workload
        self._history = history
        self._seed = seed
        self._operator = open_folder(directory, "operator")
        self._members = [endpoint.member_id or "" for endpoint in self._operator.endpoints]
        policies = {**dict.fromkeys(self._members, scenario.cluster.policy), **scenario.cluster.policies}
        self._manual = [member for member in self._members if policies[member] == "manual"]
        self._known: list[str] = []
        self._proposers: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.crashes: list[Exception] = []

    def start(self) -> None:
        """Start all clients."""
        for number in range(self._plan.proposers):
            self._proposers.append(
                self._spawn(f"proposer-{number + 1}", self._propose_all, self._operator.starting_at(number))
            )
        for number in range(self._plan.readers):
            self._others.append(self._spawn(f"reader-{number + 1}", self._read_all, self._operator))
        for member in self._manual:
            own = self._operator.only(member)
            self._others.append(self._spawn(f"voter-of-{member}", self._vote_all, own))

    async def stop(self) -> None:
        """Let every client finish what it is at, and end. Voters go last: proposers wait for their votes."""
        self._stopping.set()
        await asyncio.gather(*self._proposers, return_exceptions=True)
        await self.abandon()

    async def abandon(self) -> None:
        """Stop every client where it is. What one of them broke on is kept in `crashes`."""
        tasks = [*self._proposers, *self._others]
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        self.crashes = [result for result in done if isinstance(result, Exception)]

    def _spawn(
        self,
        process: str,
        work: Callable[[str, AsyncClient, random.Random], Coroutine[Any, Any, None]],
        handle: ClusterHandle,
    ) -> asyncio.Task[None]:
        async def run() -> None:
            async with AsyncClient(handle) as client:
                await work(process, client, random.Random(f"{self._seed} {process}"))

        return asyncio.create_task(run(), name=process)

    async def _rest(self, seconds: float) -> None:
        """Pause, but not beyond the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    # ------------------------------------------------------------------------------------------- proposers

    async def _propose_all(self, process: str, client: AsyncClient, draw: random.Random) -> None:
        number = 0
        async with AsyncClient(self._operator) as executor:
            while not self._stopping.is_set():
                number += 1
                request = {
                    "request_id": new_request_id(),
                    "action": draw.choice(ACTIONS),
                    "target": f"{process}-agent-{number}",
                    "score": round(draw.random(), 3),
                }
                proposal = await self._propose(process, client, request)
                if proposal is None or draw.random() < self._plan.repeat_share:
                    await self._rest(ERROR_PAUSE_SECONDS if proposal is None else 0.0)
                    proposal = await self._propose(process, client, request) or proposal
                if proposal is not None and proposal.approved and draw.random() < self._plan.execute_share:
                    await self._execute(process, executor, proposal.id)
                await self._rest(self._plan.pause_ms / 1000)

    async def _propose(
        self, process: str, client: AsyncClient, request: Mapping[str, Any]
    ) -> Proposal | None:
        operation = self._history.invoke(process, "propose", "", request)
        proposal: Proposal | None = await self._call(
            operation,
            client.propose(
                request["action"],
                request["target"],
                {"score": request["score"], "drill": process},
                request_id=request["request_id"],
                wait_for_decision=True,
                timeout_seconds=self._plan.call_seconds,
            ),
            proposal_answer,
        )
        if proposal is not None:
            self._known.append(proposal.id)
        return proposal

    async def _execute(self, process: str, client: AsyncClient, proposal_id: str) -> None:
        request = {"request_id": new_request_id(), "proposal_id": proposal_id}
        operation = self._history.invoke(process, "execute", "", request)
        await self._call(
            operation,
            client.execute(
                proposal_id,
                "succeeded",
                "drill",
                request_id=request["request_id"],
                timeout_seconds=self._plan.call_seconds,
            ),
            proposal_answer,
        )

    # ---------------------------------------------------------------------------------------------- voters

    async def _vote_all(self, process: str, client: AsyncClient, draw: random.Random) -> None:
        """Vote on whatever is open, once on each, as a person at this node would."""
        member = process.removeprefix("voter-of-")
        done: set[str] = set()
        while True:
            for proposal_id in await self._open_proposals(client, member):
                if proposal_id not in done:
                    value = draw.choice((VoteValue.APPROVE, VoteValue.APPROVE, VoteValue.REJECT))
                    if await self._vote(process, client, member, proposal_id, value):
                        done.add(proposal_id)
            await asyncio.sleep(VOTER_PAUSE_SECONDS)

    async def _open_proposals(self, client: AsyncClient, member: str) -> list[str]:
        try:
            listing = client.list_proposals(ProposalStatus.OPEN, node=member, timeout_seconds=2.0)
            return [proposal.id async for proposal in listing]
        except (RemoteError, ResponseError):
            return []

    async def _vote(
        self, process: str, client: AsyncClient, member: str, proposal_id: str, value: VoteValue
    ) -> bool:
        """Cast one vote; whether that is settled, one way or the other."""
        request = {"proposal_id": proposal_id, "value": value.value}
        operation = self._history.invoke(process, "vote", member, request)
        await self._call(
            operation,
            client.vote(proposal_id, value, "drill", timeout_seconds=self._plan.call_seconds, node=member),
            lambda cast: {
                "proposal_id": proposal_id,
                "voter": cast.vote.voter_id,
                "value": cast.vote.value.value,
                "revision": cast.vote.revision,
            },
        )
        return operation.outcome is not Outcome.UNKNOWN

    # --------------------------------------------------------------------------------------------- readers

    async def _read_all(self, process: str, client: AsyncClient, draw: random.Random) -> None:
        """Read from one node after another, whatever state it is in."""
        while True:
            member = draw.choice(self._members)
            choice = draw.random()
            if choice < 0.4 or not self._known:
                await self._read_head(process, client, member)
            elif choice < 0.85:
                await self._read_proposal(process, client, member, self._known_proposal(draw))
            else:
                await self._read_certificate(process, client, member, self._known_proposal(draw))
            await asyncio.sleep(READER_PAUSE_SECONDS)

    def _known_proposal(self, draw: random.Random) -> str:
        return draw.choice(self._known[-KNOWN_PROPOSALS:])

    async def _read_head(self, process: str, client: AsyncClient, member: str) -> None:
        operation = self._history.invoke(process, "head", member, {})
        await self._call(
            operation,
            client.audit_head(node=member, timeout_seconds=2.0),
            lambda head: {
                "height": head.height,
                "block_hash": head.block_hash.hex(),
                "audit_size": head.audit_size,
                "audit_head": head.audit_head,
            },
        )

    async def _read_proposal(self, process: str, client: AsyncClient, member: str, proposal_id: str) -> None:
        operation = self._history.invoke(process, "read", member, {"proposal_id": proposal_id})
        await self._call(
            operation,
            client.get_proposal(proposal_id, node=member, timeout_seconds=2.0),
            proposal_answer,
        )

    async def _read_certificate(
        self, process: str, client: AsyncClient, member: str, proposal_id: str
    ) -> None:
        """The client verifies what it gets. One that does not verify is an answer: the checkers judge it."""
        operation = self._history.invoke(process, "certificate", member, {"proposal_id": proposal_id})
        try:
            await self._call(
                operation,
                client.certificate(proposal_id, node=member, timeout_seconds=2.0),
                lambda certificate: {"proposal_id": proposal_id, "text": certificate.text, "problem": ""},
            )
        except VerificationError as error:
            self._history.ok(operation, {"proposal_id": proposal_id, "text": "", "problem": str(error)})

    async def _call(
        self,
        operation: Operation,
        call: Awaitable[Any],
        answer: Callable[[Any], Mapping[str, Any]],
    ) -> Any:
        """Await a call and write down how it ended; its result if it was answered."""
        try:
            result = await call
        except _UNKNOWN_ERRORS as error:
            self._history.failed(operation, Outcome.UNKNOWN, f"{type(error).__name__}: {error}")
        except (RemoteError, UsageError) as error:
            self._history.failed(operation, Outcome.REFUSED, f"{error.reason}: {error}")
        else:
            self._history.ok(operation, answer(result))
            return result
        return None


def proposal_answer(proposal: Proposal) -> dict[str, Any]:
    """What a node said about a proposal."""
    return {
        "proposal_id": proposal.id,
        "digest": proposal.digest.hex(),
        "proposer": proposal.proposer_id,
        "request_id": proposal.request_id,
        "action": proposal.action,
        "target": proposal.target,
        "status": proposal.status.value,
        "decision": proposal.decision.value,
        "votes": {vote.voter_id: vote.value.value for vote in proposal.votes},
        "receipts": len(proposal.receipts),
    }
