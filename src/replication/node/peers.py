"""Connections to the other members: one outgoing stream to each, with a bounded queue in front of it.

A link keeps one `PeerService.Exchange` stream open for as long as the peer is there, and opens it again,
after 50 ms at first and 1 s at most, when it is not. Everything that waits is sent as one message, so that a
burst costs one write. A message for all members is encoded once.

Queues are bounded, and the oldest message goes first: the protocol says again what matters. What a peer that
is away would have got is mostly stale when it returns, so its queue is kept short.

The receiving half is `services.peer`; who connected is proven by TLS there and here: a peer has to show a
certificate for its member id, wherever its address leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from replication.errors import PeerError
from replication.ledger import codec
from replication.node import wire
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import Message
from replication.v1 import peer_service_pb2

__all__ = [
    "CHANNEL_OPTIONS",
    "FETCH_BYTES",
    "MAX_MESSAGE_BYTES",
    "PROTOCOL_VERSION",
    "WELCOME",
    "PeerLinks",
    "PeerListener",
    "PeerUnreachableError",
    "SendQueue",
]

PROTOCOL_VERSION: Final = 1
"""Raised with each change that older nodes would not understand."""

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The largest message that nodes send or take: a full block (2 MiB) with its certificates fits."""

MAX_BATCH_BYTES: Final = 1024 * 1024
"""What one write carries at most, unless a single message is larger: large writes delay those behind them."""

FETCH_BYTES: Final = 2 * 1024 * 1024
"""What a page of blocks asks for. The largest block still comes, with room for its certificate."""

WELCOME: Final = ("acp-welcome", "1")
"""Metadata by which the receiving side says that it takes a stream."""

HELLO_SECONDS: Final = 3.0
"""How long a peer may take to accept the stream."""

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Pause before a stream is opened again; it doubles from the first to the longest."""

KEEPALIVE_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
"""A peer whose host vanished without a word is noticed after both. Servers have to allow it (`server`)."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

_EXCHANGE: Final = "/replication.v1.PeerService/Exchange"
_FETCH: Final = "/replication.v1.PeerService/FetchBlocks"

# A member id can be checked as a host name only where it is one.
_DNS_NAME: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", re.ASCII
)

_Fetch = Callable[..., Awaitable[peer_service_pb2.FetchBlocksResponse]]

_log = logging.getLogger(__name__)


class PeerUnreachableError(PeerError):
    """A peer does not answer."""

    reason: ClassVar[str] = "PEER_UNREACHABLE"


class PeerListener(Protocol):
    """Told when a peer can be sent to, and when it no longer can."""

    def peer_connected(self, peer: str) -> None: ...

    def peer_disconnected(self, peer: str) -> None: ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much a queue holds, in messages and bytes."""

    messages: int
    size_bytes: int


CONNECTED: Final = QueueLimits(4096, 8 * 1024 * 1024)
"""Room for a few full blocks, for a peer that reads slowly."""

AWAY: Final = QueueLimits(256, 256 * 1024)
"""While there is no stream: enough for what is sent while a connection is made."""


class SendQueue:
    """Encoded messages that wait for one peer. `dropped` counts those that found no room."""

    __slots__ = ("_frames", "_limits", "_size", "dropped", "filled")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._limits = AWAY
        self.dropped = 0
        self.filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes) -> None:
        """Add a message; the oldest ones make room if they must."""
        self._frames.append(frame)
        self._size += len(frame)
        self._trim()
        self.filled.set()

    def limit(self, limits: QueueLimits) -> None:
        """Change the limits."""
        self._limits = limits
        self._trim()

    def take(self, size_bytes: int) -> bytes:
        """The next messages, up to `size_bytes` but at least one, as the body of an ExchangeRequest."""
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and size + len(self._frames[0]) <= size_bytes:
            size += len(self._frames[0])
            taken.append(self._frames.popleft())
        self._size -= size
        if not self._frames:
            self.filled.clear()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _trim(self) -> None:
        """Drop from the front; the newest message stays, whatever its size."""
        while len(self._frames) > 1 and (
            len(self._frames) > self._limits.messages or self._size > self._limits.size_bytes
        ):
            self._size -= len(self._frames.popleft())
            self.dropped += 1


def encode_frame(message: peer_service_pb2.PeerMessage) -> bytes:
    """`message` as one element of `ExchangeRequest.messages` (field 1, wire type 2).

    Frames put one behind the other are an ExchangeRequest, so that what goes to many is serialised once.
    """
    body = message.SerializeToString()
    head = bytearray(b"\x0a")
    rest = len(body)
    while rest > 0x7F:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    head.append(rest)
    return bytes(head) + body


class PeerLinks:
    """The links of one node to all others: the driver's `Transport`.

    `hello` gives the greeting of each new stream, which names the epoch of the moment. `credentials` are this
    node's transport certificate and the cluster's authority.
    """

    def __init__(
        self,
        *,
        hello: Callable[[], peer_service_pb2.Hello],
        credentials: grpc.ChannelCredentials,
        fetch_seconds: float = 5.0,
    ) -> None:
        self._hello = hello
        self._credentials = credentials
        self._fetch_seconds = fetch_seconds
        self._links: dict[str, _Link] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._listener: PeerListener | None = None

    def start(self, listener: PeerListener, peers: Mapping[str, str]) -> None:
        """Connect to `peers` (member id to address) and tell `listener` about it. Needs a running loop."""
        self._listener = listener
        self.set_peers(peers)

    @property
    def is_started(self) -> bool:
        """Whether `start` was called."""
        return self._listener is not None

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """Have links to exactly these members: those that are gone or moved are closed, new ones opened."""
        if self._listener is None:
            raise ValueError("the links are not started")
        for peer, link in list(self._links.items()):
            if peers.get(peer) != link.address:
                task = asyncio.ensure_future(self._links.pop(peer).close())
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
        for peer, address in peers.items():
            if peer not in self._links:
                self._links[peer] = _Link(peer, address, self._credentials, self._hello, self._listener)

    async def renew(self, credentials: grpc.ChannelCredentials) -> None:
        """Connect anew with other credentials, one link after the other.

        What is queued for a peer is lost, as when its stream breaks; the protocol says again what matters.
        """
        self._credentials = credentials
        for peer, link in list(self._links.items()):
            await link.close()
            if self._links.get(peer) is link and self._listener is not None:
                self._links[peer] = _Link(peer, link.address, credentials, self._hello, self._listener)

    async def stop(self) -> None:
        """Close all links. What is queued is not sent any more."""
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links), *self._ending)

    def send(self, to: str | None, message: Message) -> None:
        """Queue a message for one member, or for all others when `to` is None. Never blocks."""
        if to is None:
            frame = encode_frame(wire.encode(message))
            for link in self._links.values():
                link.queue.put(frame)
        elif to in self._links:
            self._links[to].queue.put(encode_frame(wire.encode(message)))

    async def fetch_blocks(self, peer: str, from_height: int) -> tuple[list[tuple[Block, Certificate]], int]:
        """A page of committed blocks from `from_height` on, and the peer's height.

        Raises:
            PeerUnreachableError: the peer does not answer in time.
            PeerError: its answer cannot be decoded.
        """
        link = self._links.get(peer)
        if link is None:
            raise PeerUnreachableError(f"there is no connection to {peer}, which is not a member now")
        request = peer_service_pb2.FetchBlocksRequest(from_height=from_height, max_bytes=FETCH_BYTES)
        try:
            response = await link.fetch(request, timeout=self._fetch_seconds)
        except grpc.aio.AioRpcError as error:
            raise PeerUnreachableError(f"{peer} does not give blocks: {_gist(error)}") from error
        except DecodeError as error:
            raise PeerError(f"{peer} answered with something that is no page of blocks: {error}") from error
        return (
            [
                (codec.block_from_pb(item.block), codec.certificate_from_pb(item.certificate))
                for item in response.blocks
            ],
            response.height,
        )

    @property
    def queues(self) -> dict[str, SendQueue]:
        """What waits for each peer."""
        return {peer: link.queue for peer, link in self._links.items()}


class _Link:
    """The stream to one peer, kept open by a task of its own."""

    def __init__(
        self,
        peer: str,
        address: str,
        credentials: grpc.ChannelCredentials,
        hello: Callable[[], peer_service_pb2.Hello],
        listener: PeerListener,
    ) -> None:
        options: list[tuple[str, str | int]] = list(CHANNEL_OPTIONS)
        if _DNS_NAME.fullmatch(peer):
            options.append(("grpc.ssl_target_name_override", peer))
        self.peer = peer
        self.address = address
        self.queue = SendQueue()
        self._hello = hello
        self._listener = listener
        self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        # Frames are encoded already.
        self._exchange: Any = self._channel.stream_unary(_EXCHANGE, request_serializer=None)
        self.fetch: Callable[..., Awaitable[peer_service_pb2.FetchBlocksResponse]] = (
            self._channel.unary_unary(
                _FETCH,
                request_serializer=peer_service_pb2.FetchBlocksRequest.SerializeToString,
                response_deserializer=peer_service_pb2.FetchBlocksResponse.FromString,
            )
        )
        self._problem = ""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """End the stream and the connection."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._channel.close()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._channel.channel_ready()
            call = self._exchange()
            connected = False
            try:
                await self._greet(call)
                connected = True
                self._report("")
                self.queue.limit(CONNECTED)
                self._listener.peer_connected(self.peer)
                pause = FIRST_PAUSE_SECONDS
                await self._pump(call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                self._report(await _reason(call, error))
            finally:
                call.cancel()
                self.queue.limit(AWAY)
                if connected:
                    self._listener.peer_disconnected(self.peer)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _greet(self, call: Any) -> None:
        """Send the Hello and wait until the peer has accepted it, with `WELCOME`.

        A refusal has initial metadata too, but others, and a status behind them.
        """
        hello = peer_service_pb2.PeerMessage(hello=self._hello())
        async with asyncio.timeout(HELLO_SECONDS):
            await call.write(encode_frame(hello))
            if WELCOME not in tuple(await call.initial_metadata() or ()):
                await call.code()
                raise asyncio.InvalidStateError("refused")

    async def _pump(self, call: Any) -> None:
        """Write what is queued until the stream ends, which raises."""
        queue = self.queue
        call.add_done_callback(lambda _: queue.filled.set())
        while True:
            await queue.filled.wait()
            if call.done():
                raise asyncio.InvalidStateError("ended")
            if len(queue):
                await call.write(queue.take(MAX_BATCH_BYTES))
            else:
                queue.filled.clear()  # set by a stream that is gone

    def _report(self, problem: str) -> None:
        """Log a change of the link's state, once."""
        if problem != self._problem:
            if problem:
                _log.warning("peer %s at %s: no stream: %s", self.peer, self.address, problem)
            else:
                _log.info("peer %s at %s: stream is open again", self.peer, self.address)
        elif not problem:
            _log.info("peer %s at %s: stream is open", self.peer, self.address)
        self._problem = problem


async def _reason(call: Any, error: BaseException) -> str:
    """Why a stream ended, in the words of the peer where it gave any."""
    if isinstance(error, TimeoutError):
        return f"it did not accept the stream within {HELLO_SECONDS:g} s"
    if isinstance(error, grpc.aio.AioRpcError):
        return _gist(error)
    if call.done():
        details = await call.details()
        return f"{(await call.code()).name}: {details or 'it ended the stream'}"[:300]
    return str(error) or type(error).__name__


def _gist(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or 'no details'}"[:300]
