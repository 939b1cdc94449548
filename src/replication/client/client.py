"""The blocking client: the methods of `AsyncClient` for code without an event loop.

    with Client(open_folder(Path("cluster"))) as client:
        proposal = client.propose("restrict", "agent-3", wait_for_decision=True)

The work is done by one `AsyncClient` on an event loop in a thread of its own, so that a `Client` may be used
by many threads at once. Iterators fetch as they are read. Do not call it from a coroutine: it would block the
loop there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from replication.client.async_client import DEFAULT_TIMEOUT_SECONDS, EXPORT_TIMEOUT_SECONDS, AsyncClient
from replication.client.connection import ClusterHandle, Endpoint
from replication.client.errors import UsageError
from replication.client.model import (
    Agreement,
    AuditEntry,
    AuditHead,
    Blocs,
    CastVote,
    Certificate,
    ChainCheck,
    ClusterStatus,
    EntryPage,
    ExecutionOutcome,
    HistoryItem,
    Membership,
    Proposal,
    ProposalStatus,
    SignedReceipt,
    Summary,
    VoteValue,
)

__all__ = ["Client"]

T = TypeVar("T")

STOP_SECONDS = 5.0
"""How long the loop's thread may take to end."""


class Client:
    """A connection to one cluster for blocking code.

    See `AsyncClient` for arguments and errors of each method.
    """

    def __init__(self, handle: ClusterHandle, *, rounds: int | None = None) -> None:
        self.handle = handle
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replication-client", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._closed = False
        self._client = AsyncClient(handle, rounds=rounds)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connections and end the thread. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def propose(
        self,
        action: str,
        target: str = "",
        evidence: Mapping[str, Any] | None = None,
        *,
        window_ms: int | None = None,
        expiry_ms: int | None = None,
        request_id: str | None = None,
        wait_for_decision: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """See `AsyncClient.propose`."""
        return self._run(
            self._client.propose(
                action,
                target,
                evidence,
                window_ms=window_ms,
                expiry_ms=expiry_ms,
                request_id=request_id,
                wait_for_decision=wait_for_decision,
                timeout_seconds=timeout_seconds,
                node=node,
            )
        )

    def vote(
        self,
        proposal_id: str,
        value: VoteValue | str,
        reason: str = "",
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> CastVote:
        """See `AsyncClient.vote`."""
        return self._run(
            self._client.vote(
                proposal_id, value, reason, request_id=request_id, timeout_seconds=timeout_seconds, node=node
            )
        )

    def close(
        self,
        proposal_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """See `AsyncClient.close`: ends the vote on a proposal. `disconnect` ends the client."""
        return self._run(
            self._client.close(proposal_id, request_id=request_id, timeout_seconds=timeout_seconds, node=node)
        )

    def execute(
        self,
        proposal_id: str,
        outcome: ExecutionOutcome | str = ExecutionOutcome.SUCCEEDED,
        detail: str = "",
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """See `AsyncClient.execute`."""
        return self._run(
            self._client.execute(
                proposal_id,
                outcome,
                detail,
                request_id=request_id,
                timeout_seconds=timeout_seconds,
                node=node,
            )
        )

    def get_proposal(
        self, proposal_id: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Proposal:
        """See `AsyncClient.get_proposal`."""
        return self._run(self._client.get_proposal(proposal_id, timeout_seconds=timeout_seconds, node=node))

    def list_proposals(
        self,
        status: ProposalStatus | str | None = None,
        *,
        unconfirmed: bool = False,
        page_size: int = 100,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Iterator[Proposal]:
        """See `AsyncClient.list_proposals`."""
        return self._iterate(
            self._client.list_proposals(
                status,
                unconfirmed=unconfirmed,
                page_size=page_size,
                timeout_seconds=timeout_seconds,
                node=node,
            )
        )

    def report_execution(
        self,
        receipt: SignedReceipt,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """See `AsyncClient.report_execution`."""
        return self._run(self._client.report_execution(receipt, timeout_seconds=timeout_seconds, node=node))

    def watch(
        self, from_sequence: int = 0, *, timeout_seconds: float | None = None, node: str | None = None
    ) -> Iterator[AuditEntry]:
        """See `AsyncClient.watch`.

        Blocks while nothing happens; end it by closing the iterator or the client.
        """
        return self._iterate(self._client.watch(from_sequence, timeout_seconds=timeout_seconds, node=node))

    def history(
        self,
        voter_id: str,
        *,
        page_size: int = 100,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Iterator[HistoryItem]:
        """See `AsyncClient.history`."""
        return self._iterate(
            self._client.history(voter_id, page_size=page_size, timeout_seconds=timeout_seconds, node=node)
        )

    def agreement(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Agreement:
        """See `AsyncClient.agreement`."""
        return self._run(self._client.agreement(timeout_seconds=timeout_seconds, node=node))

    def blocs(
        self,
        threshold: float = 0.9,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Blocs:
        """See `AsyncClient.blocs`."""
        return self._run(self._client.blocs(threshold, timeout_seconds=timeout_seconds, node=node))

    def summary(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Summary:
        """See `AsyncClient.summary`."""
        return self._run(self._client.summary(timeout_seconds=timeout_seconds, node=node))

    def certificate(
        self, proposal_id: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Certificate:
        """See `AsyncClient.certificate`."""
        return self._run(self._client.certificate(proposal_id, timeout_seconds=timeout_seconds, node=node))

    def audit_entries(
        self,
        from_sequence: int = 0,
        page_size: int = 100,
        *,
        event_type: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> EntryPage:
        """See `AsyncClient.audit_entries`."""
        return self._run(
            self._client.audit_entries(
                from_sequence, page_size, event_type=event_type, timeout_seconds=timeout_seconds, node=node
            )
        )

    def members(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Membership:
        """See `AsyncClient.members`."""
        return self._run(self._client.members(timeout_seconds=timeout_seconds, node=node))

    def change_members(
        self,
        proposal_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> int:
        """See `AsyncClient.change_members`."""
        return self._run(
            self._client.change_members(
                proposal_id, request_id=request_id, timeout_seconds=timeout_seconds, node=node
            )
        )

    def audit_head(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> AuditHead:
        """See `AsyncClient.audit_head`."""
        return self._run(self._client.audit_head(timeout_seconds=timeout_seconds, node=node))

    def verify_chain(
        self, *, timeout_seconds: float = EXPORT_TIMEOUT_SECONDS, node: str | None = None
    ) -> ChainCheck:
        """See `AsyncClient.verify_chain`."""
        return self._run(self._client.verify_chain(timeout_seconds=timeout_seconds, node=node))

    def export_chain(
        self, *, timeout_seconds: float = EXPORT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Iterator[str]:
        """See `AsyncClient.export_chain`."""
        return self._iterate(self._client.export_chain(timeout_seconds=timeout_seconds, node=node))

    def status(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> ClusterStatus:
        """See `AsyncClient.status`."""
        return self._run(self._client.status(timeout_seconds=timeout_seconds, node=node))

    def set_log_level(
        self, level: str, *, node: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> str:
        """See `AsyncClient.set_log_level`."""
        return self._run(self._client.set_log_level(level, node=node, timeout_seconds=timeout_seconds))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """See `AsyncClient.endpoints`."""
        return self._client.endpoints

    def endpoint_of(self, member_id: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Endpoint:
        """See `AsyncClient.endpoint_of`."""
        return self._run(self._client.endpoint_of(member_id, timeout_seconds=timeout_seconds))

    def survey(self, *, timeout_seconds: float = 2.0) -> dict[str, ClusterStatus]:
        """See `AsyncClient.survey`."""
        return self._run(self._client.survey(timeout_seconds=timeout_seconds))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closed:
                work.close()
                raise UsageError("The client is closed. Make a new one.")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C must not leave the call running
            raise

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator, each fetched when it is asked for."""
        try:
            while True:
                try:
                    item = self._run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            aclose = getattr(items, "aclose", None)
            if aclose is not None and not self._closed:
                self._run(aclose())

    async def _wind_up(self) -> None:
        await self._client.disconnect()
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)
