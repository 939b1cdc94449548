"""PeerService: what other members send, and the blocks that they fetch.

The gate has checked that the caller has the role node in this cluster, and the Hello that begins a stream
must name the caller of the certificate. Whether it is a member is not asked here: who was one, or is about to
be, learns from the replica how the epochs went. Messages are handed to the driver in order; the driver makes
a stream wait that brings more than its share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar

import grpc

from replication.errors import InvariantError, PeerError
from replication.ledger import codec
from replication.node import wire
from replication.node.access import caller_of
from replication.node.failures import RefusedError
from replication.node.peers import FETCH_BYTES, PROTOCOL_VERSION, WELCOME
from replication.ordering.messages import Message
from replication.v1 import log_pb2, peer_service_pb2, peer_service_pb2_grpc

if TYPE_CHECKING:
    from replication.ledger.store import Store

__all__ = ["PeerService", "Receiver"]

T_ = TypeVar("T_")
Context = grpc.aio.ServicerContext[Any, Any]

HELLO_SECONDS: Final = 5.0
"""How long a caller may take to say who it is."""

_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """What this service needs of the driver."""

    async def receive(self, sender: str, message: Message) -> None: ...

    async def read(self, function: Callable[[Store], T_]) -> T_: ...


class PeerService(peer_service_pb2_grpc.PeerServiceServicer):
    """The peer service of `member`."""

    def __init__(self, member: str, cluster_id: bytes, receiver: Receiver) -> None:
        self._member = member
        self._cluster_id = cluster_id
        self._receiver = receiver
        self._streams: dict[str, asyncio.Task[Any]] = {}
        self.malformed = 0

    async def stop(self) -> None:
        """End all streams. They would go on for as long as their senders live."""
        streams = list(self._streams.values())
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def Exchange(  # noqa: N802  # the name of the call
        self, request_iterator: AsyncIterator[peer_service_pb2.ExchangeRequest], context: Context
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
                for message in request.messages:
                    await self._take_in(sender, message)
        finally:
            if self._streams.get(sender) is own:
                del self._streams[sender]
        return peer_service_pb2.ExchangeResponse()

    async def FetchBlocks(  # noqa: N802  # the name of the call
        self, request: peer_service_pb2.FetchBlocksRequest, context: Context
    ) -> peer_service_pb2.FetchBlocksResponse:
        """A page of committed blocks. It proves itself, so that any node of the cluster may have it."""
        limit = min(request.max_bytes or FETCH_BYTES, FETCH_BYTES)

        def page(store: Store) -> peer_service_pb2.FetchBlocksResponse:
            blocks = [
                log_pb2.CommittedBlock(
                    block=codec.block_to_pb(block), certificate=codec.certificate_to_pb(certificate)
                )
                for block, certificate in store.blocks(request.from_height, limit)
            ]
            return peer_service_pb2.FetchBlocksResponse(blocks=blocks, height=store.totals().height)

        return await self._receiver.read(page)

    async def _take_in(self, sender: str, message: peer_service_pb2.PeerMessage) -> None:
        """Hand one message over. A malformed one is dropped alone: those beside it may be good."""
        try:
            decoded = wire.decode(message)
        except PeerError as error:
            self.malformed += 1
            if self.malformed & (self.malformed - 1) == 0:  # at 1, 2, 4, 8, ...: a peer cannot fill the log
                _log.warning("malformed message %d, from %s: %s", self.malformed, sender, error)
            return
        await self._receiver.receive(sender, decoded)

    def _sender(self, context: Context) -> str:
        sender = caller_of(context).identity.name
        if sender == self._member:
            _refuse("SELF_CONNECTION", f"the caller is {sender}, and so is this node. Look at the addresses.")
        return sender

    async def _meet(self, requests: AsyncIterator[peer_service_pb2.ExchangeRequest], sender: str) -> None:
        """Check the Hello that a stream begins with."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            first = None
        if first is None or len(first.messages) != 1 or not first.messages[0].HasField("hello"):
            _refuse(
                "HELLO_MISSING", "a stream must begin with one message that holds a Hello and nothing else"
            )
        hello = first.messages[0].hello
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
