"""Channels to the nodes of one cluster, and calls that move on to the next node when one cannot answer.

A call has a time limit as a whole. Within it, a node that is UNAVAILABLE is left for the next one, round
after round with growing pauses. What may move where depends on the call (`Route`): a read is the same at
every node, but a vote is cast *by* the node asked, so that trying the next node would cast another member's
vote.

One object belongs to one event loop and is not thread-safe; `Client` shows how to share one among threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from replication.client.call_ids import id_for_call
from replication.client.connection import ClusterHandle, Endpoint
from replication.client.errors import (
    ConnectionRefusedByNodeError,
    DeadlineExceededError,
    RemoteError,
    UnavailableError,
    UsageError,
    looks_like_refused_handshake,
    refused_handshake,
    translate,
)
from replication.client.roster import Roster
from replication.identity.call_ids import CALL_ID_KEY
from replication.v1.audit_service_pb2_grpc import AuditServiceStub
from replication.v1.cluster_service_pb2 import GetStatusRequest
from replication.v1.cluster_service_pb2_grpc import ClusterServiceStub
from replication.v1.voting_service_pb2_grpc import VotingServiceStub

if TYPE_CHECKING:  # these exist for the type checker only
    from replication.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from replication.v1.cluster_service_pb2_grpc import ClusterServiceAsyncStub
    from replication.v1.voting_service_pb2_grpc import VotingServiceAsyncStub

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "MAX_MESSAGE_BYTES", "Route", "Stubs", "Transport"]

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The largest message that nodes send or take."""

CONNECT_SECONDS: Final = 2.0
"""How long a node may take to accept a connection while others could be asked instead."""

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Pause after a round in which no node could answer; it doubles from the first to the longest."""

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
MAX_TIMEOUT_SECONDS: Final = 24 * 3600.0

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A node that comes back should be found soon: gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


class Route(Enum):
    """Where a call may go when the node first asked cannot answer."""

    ANY = "any"
    """To every node: reads, and writes whose request id makes a repetition harmless anywhere."""

    UNTIL_SENT = "until sent"
    """To another node only while nothing has been sent; afterwards to the same node only."""

    PINNED = "pinned"
    """To the same node only."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services of one node."""

    voting: VotingServiceAsyncStub
    audit: AuditServiceAsyncStub
    cluster: ClusterServiceAsyncStub


@dataclass(slots=True)
class _Node:
    """One endpoint with its channel. `was_ready` tells a node that went away from one that refuses us."""

    endpoint: Endpoint
    channel: grpc.aio.Channel
    stubs: Stubs
    was_ready: bool = False

    async def connect(self, limit_seconds: float) -> bool:
        """Wait until the channel is up, or has failed, or the limit has passed; return whether it is up."""
        give_up = time.monotonic() + limit_seconds
        state = self.channel.get_state(try_to_connect=True)
        while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
            remaining = give_up - time.monotonic()
            if remaining <= 0:
                break
            try:
                await asyncio.wait_for(self.channel.wait_for_state_change(state), remaining)
            except TimeoutError:
                break
            state = self.channel.get_state(try_to_connect=True)
        ready = state is grpc.ChannelConnectivity.READY
        self.was_ready = self.was_ready or ready
        return ready


class Transport:
    """Calls to the nodes of one cluster.

    `rounds` limits how often all nodes are tried; None: until the deadline.
    """

    def __init__(self, handle: ClusterHandle, *, rounds: int | None = None) -> None:
        self.handle = handle
        self._rounds = rounds
        self._roster = Roster(handle)
        self._nodes: dict[Endpoint, _Node] = {}
        self._preferred: Endpoint | None = None
        self._learning: asyncio.Task[None] | None = None
        self._checked = False
        self._closed = False

    async def close(self) -> None:
        """Close every channel. Calls under way end as cancelled."""
        self._closed = True
        if self._learning is not None:
            self._learning.cancel()
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.channel.close()

    async def unary(
        self,
        pick: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        timeout_seconds: float,
        *,
        route: Route = Route.ANY,
        node: str | None = None,
    ) -> ResponseT:
        """Carry out one call and return its answer; `node` names the member to ask, and then no other is
        asked.

        Raises a `RemoteError` of the kind that `client.errors` has for what went wrong.
        """
        limit = checked_timeout(timeout_seconds)
        targets = await self._targets(route, node, limit)
        call = _Call(self, pick, request, limit, targets, route, rounds=self._rounds)
        answer = await call.run()
        self._answered(call.answered_by, node)
        return answer

    async def ask_once(
        self,
        endpoint: Endpoint,
        pick: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        timeout_seconds: float,
    ) -> ResponseT:
        """Ask this endpoint and no other, once."""
        call = _Call(
            self, pick, request, checked_timeout(timeout_seconds), (endpoint,), Route.PINNED, rounds=1
        )
        return await call.run()

    async def stream(
        self,
        pick: Callable[[Stubs], grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        timeout_seconds: float | None,
        *,
        node: str | None = None,
    ) -> AsyncIterator[ResponseT]:
        """Carry out a streaming call. Another node is tried only until the first message has arrived."""
        failure: RemoteError | None = None
        call_id = id_for_call()
        for endpoint in await self._targets(Route.ANY, node, CONNECT_SECONDS):
            target = self.open(endpoint)
            started = False
            await target.connect(CONNECT_SECONDS)
            call = pick(target.stubs)(request, timeout=timeout_seconds, metadata=((CALL_ID_KEY, call_id),))
            try:
                async for message in call:
                    target.was_ready = started = True
                    yield message
                self._answered(endpoint, node)
                return
            except grpc.aio.AioRpcError as error:
                failure = explain(error, target.endpoint, target.was_ready)
                failure.name_call(call_id)
                if started or not is_unavailable(failure):
                    raise failure from error
            finally:
                call.cancel()  # the reader may have stopped early
        if failure is not None:
            raise failure

    def open(self, endpoint: Endpoint) -> _Node:
        """The channel to an endpoint, made on first use.

        The first of all checks the client's own certificate.
        """
        if self._closed:
            raise UsageError("The client is closed. Make a new one.")
        if not self._checked:
            self.handle.check()
            self._checked = True
        if endpoint not in self._nodes:
            self._nodes[endpoint] = self._dial(endpoint)
        return self._nodes[endpoint]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that are known by now, those that were given first."""
        return self._roster.endpoints

    async def endpoint_of(self, member_id: str, timeout_seconds: float) -> Endpoint:
        """Where a member is. Raises `UnknownMemberError` when nobody knows."""
        await self.find(member_id, timeout_seconds)
        return self._roster.endpoints_of(member_id)[0]

    async def find(self, member_id: str, timeout_seconds: float) -> bool:
        """Whether a member's endpoint is known, or one of the nodes that are known tells it."""
        if not self._roster.lacks(member_id):
            return True
        for endpoint in self._roster.endpoints:
            await self._learn(endpoint, min(CONNECT_SECONDS, timeout_seconds))
            if not self._roster.lacks(member_id):
                return True
        return False

    async def _learn(self, endpoint: Endpoint, timeout_seconds: float) -> None:
        """Ask a node who the members are."""
        try:
            status = await self.ask_once(
                endpoint, lambda stubs: stubs.cluster.GetStatus, GetStatusRequest(), timeout_seconds
            )
        except RemoteError:
            return
        self._roster.learn((member.id, member.address) for member in status.members)

    def _answered(self, endpoint: Endpoint | None, chosen: str | None) -> None:
        """Start the next calls with the endpoint that answered, unless the caller had `chosen` the member; if
        it was long ago that somebody was asked who the members are, ask it."""
        if endpoint is None:
            return
        if chosen is None:
            self._preferred = endpoint
        if self._roster.is_due and (self._learning is None or self._learning.done()):
            self._learning = asyncio.ensure_future(self._learn(endpoint, CONNECT_SECONDS))

    def _dial(self, endpoint: Endpoint) -> _Node:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self.handle.authority,
            private_key=self.handle.private_key,
            certificate_chain=self.handle.certificate,
        )
        options: list[tuple[str, str | int]] = list(_CHANNEL_OPTIONS)
        if endpoint.server_name:
            # The certificate has to name the member, wherever its address leads.
            options.append(("grpc.ssl_target_name_override", endpoint.server_name))
        channel = grpc.aio.secure_channel(endpoint.address, credentials, options=options)
        stubs = Stubs(VotingServiceStub(channel), AuditServiceStub(channel), ClusterServiceStub(channel))
        return _Node(endpoint, channel, stubs)

    async def _targets(self, route: Route, node: str | None, timeout_seconds: float) -> tuple[Endpoint, ...]:
        if node is not None:
            await self.find(node, timeout_seconds)
            return self._roster.endpoints_of(node)
        if route is Route.PINNED:
            return self.handle.endpoints[:1]
        known = self._roster.endpoints
        turn = known.index(self._preferred) if self._preferred in known else 0
        return known[turn:] + known[:turn]


class _Call(Generic[RequestT, ResponseT]):
    """One call on its way through the nodes."""

    def __init__(
        self,
        transport: Transport,
        pick: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        timeout_seconds: float,
        targets: tuple[Endpoint, ...],
        route: Route,
        *,
        rounds: int | None,
    ) -> None:
        self._transport = transport
        self._pick = pick
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._targets = targets
        self._route = route
        self._rounds = rounds
        self._call_id = id_for_call()
        self._sent_to: Endpoint | None = None
        self.answered_by: Endpoint | None = None
        self._failures: dict[Endpoint, RemoteError] = {}

    async def run(self) -> ResponseT:
        try:
            return await self._run()
        except RemoteError as error:
            error.name_call(self._call_id)
            raise

    async def _run(self) -> ResponseT:
        pause, rounds = FIRST_PAUSE_SECONDS, 0
        while True:
            for endpoint in self._targets:
                if self._sent_to not in (None, endpoint):
                    continue  # it may have been carried out there: only that node can tell
                answer = await self._attempt(endpoint)
                if answer is not None:
                    self.answered_by = endpoint
                    return answer
                if self._remaining() <= 0:
                    raise self._failure()
            rounds += 1
            if self._rounds is not None and rounds >= self._rounds:
                raise self._failure()
            await asyncio.sleep(min(pause, max(self._remaining(), 0)))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _attempt(self, endpoint: Endpoint) -> ResponseT | None:
        """Ask one node once. UNAVAILABLE is noted and gives None; every other failure is raised."""
        node = self._transport.open(endpoint)
        alone = len(self._targets) == 1
        up = await node.connect(self._remaining() if alone else min(CONNECT_SECONDS, self._remaining()))
        if not up and node.channel.get_state() is grpc.ChannelConnectivity.CONNECTING:
            # Neither up nor refused: packets get lost on the way. A call would only wait for the same.
            self._failures[endpoint] = unreachable(endpoint, "it does not answer")
            return None
        try:
            answer = await self._pick(node.stubs)(
                self._request,
                timeout=max(self._remaining(), 0.001),
                metadata=((CALL_ID_KEY, self._call_id),),
            )
        except grpc.aio.AioRpcError as error:
            failure = explain(error, endpoint, node.was_ready)
            before = self._failures.get(endpoint)
            if isinstance(failure, DeadlineExceededError) and before is not None:
                raise before from error  # why it could not answer says more than that the time was up
            if not is_unavailable(failure):
                raise failure from error
            self._failures[endpoint] = failure
            if up and self._route is Route.UNTIL_SENT:
                self._sent_to = endpoint
            return None
        node.was_ready = True
        return answer

    def _remaining(self) -> float:
        return self._deadline - time.monotonic()

    def _failure(self) -> RemoteError:
        """One error for all nodes that could not answer."""
        failures = list(self._failures.values())
        if not failures:
            return DeadlineExceededError(f"No answer within {self._timeout_seconds:g} s.")
        refused = [failure for failure in failures if isinstance(failure, ConnectionRefusedByNodeError)]
        if len(failures) == 1 or len(refused) == len(failures):
            return failures[0]
        return UnavailableError(
            "No node could answer:\n" + "\n".join(f"  {failure}" for failure in failures),
            endpoint=", ".join(failure.endpoint for failure in failures),
        )


def checked_timeout(timeout_seconds: float) -> float:
    """The time limit of a call if it is one, else `UsageError`: every unary call must have a deadline."""
    if not 0 < timeout_seconds <= MAX_TIMEOUT_SECONDS:
        raise UsageError(
            f"A time limit of {timeout_seconds} s is not possible. Give more than 0 and at most "
            f"{MAX_TIMEOUT_SECONDS:.0f} s."
        )
    return timeout_seconds


def explain(error: grpc.aio.AioRpcError, endpoint: Endpoint, was_ready: bool) -> RemoteError:
    """The exception for a failed call, which tells a refused certificate from a node that is down."""
    failure = translate(error, str(endpoint))
    if isinstance(failure, UnavailableError) and not was_ready and looks_like_refused_handshake(error):
        return refused_handshake(endpoint.address, endpoint.member_id, error.details() or "no details")
    if isinstance(failure, UnavailableError) and failure.reason == UnavailableError.reason:
        return unreachable(endpoint, _gist(error.details()))
    return failure


def unreachable(endpoint: Endpoint, why: str) -> UnavailableError:
    """The error for a node that cannot be reached at all."""
    return UnavailableError(
        f"{endpoint} cannot be reached ({why}). Is the node running?", endpoint=endpoint.address
    )


def is_unavailable(failure: RemoteError) -> bool:
    """Whether another node, or the same one later, could still answer."""
    return isinstance(failure, UnavailableError | ConnectionRefusedByNodeError)


def _gist(text: str | None) -> str:
    """The end of what gRPC says about a connection, where the cause stands, without its address."""
    lines = (text or "").strip().splitlines()
    cause = lines[0].rpartition("last error: ")[2].rpartition(": ")[2] if lines else ""
    return cause[:200] or "no details"
