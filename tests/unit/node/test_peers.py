"""Links between members over real mTLS: order, bounds, greeting, reconnecting, and who is let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from replication.identity.keys import SigningKey
from replication.identity.members import Member, MemberSet
from replication.identity.roles import Role
from replication.identity.tls import create_authority, issue
from replication.node import wire
from replication.node.access import Gate
from replication.node.peers import (
    AWAY,
    CONNECTED,
    PROTOCOL_VERSION,
    PeerLinks,
    PeerUnreachableError,
    QueueLimits,
    SendQueue,
    encode_frame,
)
from replication.node.services.peer import PeerService, add_peer_service
from replication.ordering.messages import BodyRequest, CommandMessage, Message
from replication.v1 import peer_service_pb2, peer_service_pb2_grpc

CLUSTER = bytes(range(32))
WAIT_SECONDS = 30.0


def frames(count: int, size: int = 10) -> list[bytes]:
    return [encode_frame(wire.encode(CommandMessage(bytes([n % 256]) * size))) for n in range(count)]


def test_frames_put_together_are_one_request() -> None:
    """Lengths around every step of the variable-length number that precedes a frame."""
    messages = [
        wire.encode(CommandMessage(b"x" * size)) for size in (1, 100, 121, 122, 16_376, 16_377, 70_000)
    ]
    joined = b"".join(encode_frame(message) for message in messages)
    assert joined == peer_service_pb2.ExchangeRequest(messages=messages).SerializeToString()


def test_a_queue_gives_out_in_order_and_in_bounded_pieces() -> None:
    queue, sent = SendQueue(), frames(10, 1000)
    for frame in sent:
        queue.put(frame)
    taken = []
    while len(queue):
        assert queue.filled.is_set()
        piece = queue.take(2500)
        assert len(piece) <= 2500
        taken.append(piece)
    assert b"".join(taken) == b"".join(sent)
    assert not queue.filled.is_set()


def test_a_message_larger_than_a_piece_goes_alone() -> None:
    queue = SendQueue()
    for frame in frames(3, 5000):
        queue.put(frame)
    assert [len(queue.take(100)) > 5000 for _ in range(3)] == [True] * 3


@pytest.mark.parametrize("limits", [QueueLimits(5, 10**9), QueueLimits(10**9, 5 * len(frames(1)[0]))])
def test_a_full_queue_drops_the_oldest(limits: QueueLimits) -> None:
    queue, sent = SendQueue(), frames(20)
    queue.limit(limits)
    for frame in sent:
        queue.put(frame)
    assert len(queue) == 5
    assert queue.dropped == 15
    assert queue.take(10**9) == b"".join(sent[-5:])


def test_the_newest_message_stays_whatever_its_size() -> None:
    queue = SendQueue()
    queue.limit(QueueLimits(10, 100))
    big = frames(1, 5000)[0]
    queue.put(frames(1)[0])
    queue.put(big)
    assert queue.take(1) == big


def test_a_peer_that_is_away_costs_little() -> None:
    queue = SendQueue()
    queue.limit(CONNECTED)
    for frame in frames(2000, 1000):
        queue.put(frame)
    assert len(queue) == 2000
    queue.limit(AWAY)
    assert len(queue.take(10**9)) <= AWAY.size_bytes


class Peer:
    """One member: a server with the peer service, links to others, and what it has received."""

    def __init__(self, net: Net, name: str) -> None:
        self.net = net
        self.name = name
        self.received: list[tuple[str, Message]] = []
        self.connected: list[str] = []
        self.disconnected: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.address = ""
        self.service = PeerService(name, CLUSTER, self)
        certificate, key = issue(*net.authority, CLUSTER, Role.NODE, name, ["127.0.0.1"])
        self.server_credentials = grpc.ssl_server_credentials(
            [(key, certificate)], net.authority[0], require_client_auth=True
        )
        self.links = PeerLinks(
            hello=lambda: net.hello(name),
            credentials=grpc.ssl_channel_credentials(net.authority[0], key, certificate),
            fetch_seconds=2,
        )
        self.server: grpc.aio.Server | None = None

    async def receive(self, sender: str, message: Message) -> None:
        await self.gate.wait()
        self.received.append((sender, message))

    async def read(self, function: Callable[[Any], Any]) -> Any:
        raise NotImplementedError

    def peer_connected(self, peer: str) -> None:
        self.connected.append(peer)

    def peer_disconnected(self, peer: str) -> None:
        self.disconnected.append(peer)

    async def serve(self) -> None:
        self.server = grpc.aio.server(interceptors=[Gate(CLUSTER)], options=[("grpc.so_reuseport", 0)])
        add_peer_service(self.service, self.server)
        port = self.server.add_secure_port(self.address or "127.0.0.1:0", self.server_credentials)
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self) -> None:
        await self.links.stop()
        if self.server is not None:
            await self.server.stop(None)

    def connect(self, *others: Peer) -> None:
        self.links.start(self, {other.name: other.address for other in others})


class Net:
    """Members a, b, c of one cluster on this machine."""

    def __init__(self) -> None:
        self.authority: tuple[bytes, bytes] = create_authority("test")
        names = ("a", "b", "c")
        keys = [SigningKey.from_seed(bytes([n]) * 32) for n in range(3)]
        self.members = MemberSet(
            0, tuple(Member(name, key.public_key, 1, "h:1") for name, key in zip(names, keys, strict=True))
        )
        self.peers = {name: Peer(self, name) for name in names}
        self.cluster = CLUSTER
        self.version = PROTOCOL_VERSION

    def hello(self, name: str) -> peer_service_pb2.Hello:
        return peer_service_pb2.Hello(
            cluster_id=self.cluster, epoch=0, member_id=name, protocol_version=self.version
        )


@asynccontextmanager
async def running(net: Net) -> AsyncIterator[tuple[Peer, Peer, Peer]]:
    for peer in net.peers.values():
        await peer.serve()
    try:
        yield net.peers["a"], net.peers["b"], net.peers["c"]
    finally:
        for peer in net.peers.values():
            await peer.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def command(number: int) -> Message:
    return CommandMessage(str(number).encode())


def test_messages_arrive_in_order_and_under_the_name_of_the_sender() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, c):
            a.connect(b, c)
            b.connect(a, c)
            await until(lambda: a.connected == ["b", "c"] or a.connected == ["c", "b"])
            for number in range(500):
                a.links.send("b" if number % 2 else None, command(number))
            b.links.send("c", BodyRequest(bytes(32)))
            await until(lambda: len(b.received) == 500 and len(c.received) == 251)
            assert b.received == [("a", command(number)) for number in range(500)]
            from_a = [message for sender, message in c.received if sender == "a"]
            assert from_a == [command(number) for number in range(0, 500, 2)]
            assert ("b", BodyRequest(bytes(32))) in c.received

    asyncio.run(work())


def test_what_is_sent_before_the_stream_is_open_arrives() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, _):
            a.connect(b)
            a.links.send("b", command(1))
            await until(lambda: b.received == [("a", command(1))])

    asyncio.run(work())


def test_a_peer_that_comes_back_is_found_again() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, _):
            a.connect(b)
            await until(lambda: a.connected == ["b"])
            assert b.server is not None
            await b.server.stop(None)
            await until(lambda: a.disconnected == ["b"])
            await b.serve()
            await until(lambda: a.connected == ["b", "b"])
            a.links.send("b", command(7))
            await until(lambda: ("a", command(7)) in b.received)

    asyncio.run(work())


def test_a_slow_receiver_fills_a_bounded_queue_and_nothing_else() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, c):
            a.connect(b, c)
            await until(lambda: len(a.connected) == 2)
            b.gate.clear()
            body = CommandMessage(b"x" * 200_000)
            for number in range(100):
                a.links.send(None, body)
                await asyncio.sleep(0)
                if number % 10 == 0:
                    await until(lambda sent=number: len(c.received) > sent)  # type: ignore[misc]
            await until(lambda: len(c.received) == 100)
            assert sum(queue.dropped for queue in a.links.queues.values()) > 0, (
                "20 MB do not fit in the queue for b"
            )
            queue = vars(a.links)["_links"]["b"].queue
            assert sum(len(frame) for frame in queue._frames) <= CONNECTED.size_bytes
            b.gate.set()
            await until(lambda: len(b.received) + queue.dropped == 100)

    asyncio.run(work())


@pytest.mark.parametrize("wrong", ["cluster", "version", "member"])
def test_a_wrong_greeting_is_refused(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        net = Net()
        if wrong == "cluster":
            net.cluster = bytes(32)
        elif wrong == "version":
            net.version = PROTOCOL_VERSION + 1
        else:
            net.hello = lambda name: peer_service_pb2.Hello(  # type: ignore[method-assign]
                cluster_id=CLUSTER, member_id="c", protocol_version=PROTOCOL_VERSION
            )
        async with running(net) as (a, b, _):
            a.connect(b)
            a.links.send("b", command(1))
            words = {"cluster": "genesis file", "version": "release", "member": "certificate"}[wrong]
            await until(lambda: "no stream" in caplog.text and words in caplog.text)
            assert (a.connected, b.received) == ([], [])

    asyncio.run(work())


def test_messages_before_the_greeting_are_refused() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, _):
            channel = vars(a.links)["_credentials"]
            options = [("grpc.ssl_target_name_override", "b")]
            async with grpc.aio.secure_channel(b.address, channel, options=options) as raw:
                stub: Any = peer_service_pb2_grpc.PeerServiceStub(raw)
                rude = peer_service_pb2.ExchangeRequest(messages=[wire.encode(command(1))])
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Exchange(iter([rude]), timeout=WAIT_SECONDS)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert b.received == []

    asyncio.run(work())


def test_a_malformed_message_is_dropped_alone() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, _):
            a.connect(b)
            await until(lambda: a.connected == ["b"])
            queue = vars(a.links)["_links"]["b"].queue
            queue.put(encode_frame(peer_service_pb2.PeerMessage()))
            a.links.send("b", command(1))
            queue.put(encode_frame(peer_service_pb2.PeerMessage(hello=peer_service_pb2.Hello())))
            a.links.send("b", command(2))
            await until(lambda: len(b.received) == 2)
            assert b.service.malformed == 2

    asyncio.run(work())


def test_a_node_of_the_cluster_that_is_not_a_member_is_heard() -> None:
    """The replica tells it how the epochs went."""

    async def work() -> None:
        net = Net()
        newcomer = Peer(net, "d")
        async with running(net) as (_, b, __):
            newcomer.connect(b)
            newcomer.links.send("b", command(1))
            await until(lambda: b.received == [("d", command(1))])
            await newcomer.stop()

    asyncio.run(work())


def test_a_server_with_another_name_is_not_sent_to() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, c):
            a.links.start(a, {"b": c.address})
            a.links.send("b", command(1))
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.5):
                    await until(lambda: bool(a.connected or c.received))
            a.links.set_peers({"b": b.address})
            a.links.send("b", command(2))
            await until(lambda: b.received[-1:] == [("a", command(2))])

    asyncio.run(work())


def test_blocks_of_nobody_and_of_a_silent_peer_are_an_error() -> None:
    async def work() -> None:
        async with running(Net()) as (a, b, c):
            a.connect(b, c)
            await until(lambda: len(a.connected) == 2)
            with pytest.raises(PeerUnreachableError, match="not a member"):
                await a.links.fetch_blocks("z", 1)
            assert b.server is not None
            await b.server.stop(None)
            with pytest.raises(PeerUnreachableError, match="b does not give blocks"):
                await a.links.fetch_blocks("b", 1)

    asyncio.run(work())
