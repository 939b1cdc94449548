"""PeerService: what other members send, and the blocks that they fetch.

The gate has checked that the caller has the role node in this cluster, and the Hello that begins a stream
must name the caller of the certificate. Whether it is a member is not asked here: who was one, or is about to
be, learns from the replica how the epochs went. Messages are handed to the driver in order; the driver makes
a stream wait that brings more than its share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar

import grpc

from replication.errors import InvariantError, PeerError
from replication.ledger import codec
from replication.node import wire
from replication.node.access import caller_of
from replication.node.failures import RefusedError
from replication.node.pacing import Pacer
from replication.node.peers import FETCH_BYTES, PROTOCOL_VERSION, WELCOME
from replication.ordering.messages import Message
from replication.v1 import log_pb2, peer_service_pb2

if TYPE_CHECKING:
    from replication.ledger.store import Store

__all__ = ["PeerService", "Receiver", "add_peer_service"]

T_ = TypeVar("T_")
Context = grpc.aio.ServicerContext[Any, Any]

HELLO_SECONDS: Final = 5.0
"""How long a caller may take to say who it is."""

FRAMES_AT_ONCE: Final = 64
"""Envelopes of one stream before others get their turn: some milliseconds of decoding."""

MESSAGES_PER_SECOND: Final = 5_000
MESSAGE_BURST: Final = 10_000
LONGEST_MESSAGE_SECONDS: Final = 1.0
"""Messages that are taken from one member. Two for each decision and one for each block is what a member that
works sends; more have to wait on the line, so that a flood of them costs a fifth of the node's time."""

MALFORMED_PAUSE_SECONDS: Final = 0.01
"""How long a stream is not read after a malformed message. No member that works sends any; one that sends
nothing else gets a hundred a second looked at."""

PAGES_PER_SECOND: Final = 20
PAGE_BURST: Final = 40
LONGEST_PAGE_SECONDS: Final = 2.0
"""Pages of blocks that one member gets: 40 MiB a second, more than it can check. More have to wait."""

_SERVICE: Final = "replication.v1.PeerService"

_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """What this service needs of the driver."""

    async def receive(self, sender: str, message: Message) -> None: ...

    async def read(self, function: Callable[[Store], T_]) -> T_: ...


def add_peer_service(service: PeerService, server: grpc.aio.Server) -> None:
    """Serve it. Requests of streams come as bytes, so that each message is judged before it is parsed."""
    handlers = {
        "Exchange": grpc.stream_unary_rpc_method_handler(
            service.Exchange, None, peer_service_pb2.ExchangeResponse.SerializeToString
        ),
        "FetchBlocks": grpc.unary_unary_rpc_method_handler(
            service.FetchBlocks,
            peer_service_pb2.FetchBlocksRequest.FromString,
            peer_service_pb2.FetchBlocksResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))


class PeerService:
    """The peer service of `member`."""

    def __init__(self, member: str, cluster_id: bytes, receiver: Receiver) -> None:
        self._member = member
        self._cluster_id = cluster_id
        self._receiver = receiver
        self._streams: dict[str, asyncio.Task[Any]] = {}
        self._pages = Pacer(PAGES_PER_SECOND, PAGE_BURST, LONGEST_PAGE_SECONDS)
        self._messages = Pacer(MESSAGES_PER_SECOND, MESSAGE_BURST, LONGEST_MESSAGE_SECONDS)
        self.malformed = 0

    async def stop(self) -> None:
        """End all streams. They would go on for as long as their senders live."""
        streams = list(self._streams.values())
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def Exchange(  # noqa: N802  # the name of the call
        self, request_iterator: AsyncIterator[bytes], context: Context
    ) -> peer_service_pb2.ExchangeResponse:
        """Take in the messages of one node until its stream ends. A new stream ends the one before."""
        sender = self._sender(context)
        requests = aiter(request_iterator)
        await self._meet(requests, sender)
        own = asyncio.current_task()
        if own is None:
            raise InvariantError("a call that no task carries out")
        before = self._streams.get(sender)
        if before is not None:
            before.cancel()
        self._streams[sender] = own
        try:
            await context.send_initial_metadata((WELCOME,))
            async for request in requests:
                await self._take_in(sender, request)
        finally:
            if self._streams.get(sender) is own:
                del self._streams[sender]
        return peer_service_pb2.ExchangeResponse()

    async def FetchBlocks(  # noqa: N802  # the name of the call
        self, request: peer_service_pb2.FetchBlocksRequest, context: Context
    ) -> peer_service_pb2.FetchBlocksResponse:
        """A page of committed blocks. It proves itself, so that any node of the cluster may have it."""
        limit = min(request.max_bytes or FETCH_BYTES, FETCH_BYTES)
        first = min(request.from_height, codec.MAX_INTEGER)  # above any height, and what SQLite can hold

        def page(store: Store) -> peer_service_pb2.FetchBlocksResponse:
            blocks = [
                log_pb2.CommittedBlock(
                    block=codec.block_to_pb(block), certificate=codec.certificate_to_pb(certificate)
                )
                for block, certificate in store.blocks(first, limit)
            ]
            return peer_service_pb2.FetchBlocksResponse(blocks=blocks, height=store.totals().height)

        seconds = self._pages.delay(caller_of(context).identity.name, time.monotonic())
        if seconds:
            await asyncio.sleep(seconds)
        return await self._receiver.read(page)

    async def _take_in(self, sender: str, request: bytes) -> None:
        """Hand over the messages of one request."""
        number = 0
        for number, frame in enumerate(wire.frames(request), start=1):
            if number % FRAMES_AT_ONCE == 0:
                await asyncio.sleep(self._messages.delay(sender, time.monotonic(), FRAMES_AT_ONCE))
            message = self._decoded(sender, frame)
            if message is None:
                await asyncio.sleep(MALFORMED_PAUSE_SECONDS)
            else:
                await self._receiver.receive(sender, message)
        seconds = self._messages.delay(sender, time.monotonic(), number % FRAMES_AT_ONCE)
        if seconds:
            await asyncio.sleep(seconds)

    def _decoded(self, sender: str, frame: bytes) -> Message | None:
        """One message. A malformed one is dropped alone: those beside it may be good."""
        try:
            return wire.decode(wire.parse(frame))
        except PeerError as error:
            self.malformed += 1
            if self.malformed & (self.malformed - 1) == 0:  # at 1, 2, 4, 8, ...: a peer cannot fill the log
                _log.warning("malformed message %d, from %s: %s", self.malformed, sender, error)
            return None

    def _sender(self, context: Context) -> str:
        sender = caller_of(context).identity.name
        if sender == self._member:
            _refuse("SELF_CONNECTION", f"the caller is {sender}, and so is this node. Look at the addresses.")
        return sender

    async def _meet(self, requests: AsyncIterator[bytes], sender: str) -> None:
        """Check the Hello that a stream begins with."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            first = None
        greetings = [wire.parse(frame) for frame in islice(wire.frames(first or b""), 2)]
        if len(greetings) != 1 or not greetings[0].HasField("hello"):
            _refuse(
                "HELLO_MISSING", "a stream must begin with one message that holds a Hello and nothing else"
            )
        hello = greetings[0].hello
        if hello.cluster_id != self._cluster_id:
            _refuse(
                "WRONG_CLUSTER",
                f"{sender} is of the cluster {hello.cluster_id.hex()[:64]}, this node of "
                f"{self._cluster_id.hex()}. Give both the same genesis file.",
            )
        if hello.protocol_version != PROTOCOL_VERSION:
            _refuse(
                "WRONG_PROTOCOL_VERSION",
                f"{sender} speaks version {hello.protocol_version}, this node version {PROTOCOL_VERSION}. "
                "Run the same release on all nodes.",
            )
        if hello.member_id != sender:
            _refuse(
                "WRONG_MEMBER",
                f"the certificate is that of {sender}, but the Hello says {hello.member_id[:64]!r}",
            )


def _refuse(reason: str, message: str) -> NoReturn:
    raise RefusedError(reason, message)
