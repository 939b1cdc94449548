"""Hostile clients and members: programs of their own that flood one node until they are ended.

    python -m tests.support.floods KIND CLUSTER_DIR [--node node-1]

prints `started` when the flood is under way, and a line of JSON with what the node answered when it gets
SIGTERM. Members use the keys of the last node of the cluster, which must not run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import grpc

from replication.identity.genesis import Genesis, load_genesis
from replication.identity.keys import SigningKey
from replication.node import wire
from replication.node.peers import PROTOCOL_VERSION
from replication.ordering.messages import Acknowledgement, Message, SuspectMessage, TimeoutMessage
from replication.ordering.statements import Phase, Statement, StatementKey, Suspect, Timeout
from replication.ordering.timeouts import TimeoutReport
from replication.v1 import log_pb2, peer_service_pb2, voting_service_pb2

VOTING: Final = "/replication.v1.VotingService/"
PEER: Final = "/replication.v1.PeerService/"
OVERSIZE_BYTES: Final = 5 * 1024 * 1024
LINES: Final = 32
"""Calls of a flood that are under way at once."""


@dataclass
class Attacker:
    """Everything an attacker has: the address, and the keys of a client and of one member."""

    directory: Path
    node: str
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def genesis(self) -> Genesis:
        return genesis_of(self.directory)

    @property
    def member(self) -> str:
        """The member whose keys were taken."""
        return self.genesis.members.ids[-1]

    @property
    def key(self) -> SigningKey:
        return key_of(self.directory / self.member)

    @property
    def address(self) -> str:
        member = self.genesis.members.get(self.node)
        assert member is not None
        return member.address

    def channel(self, role: str = "operator") -> grpc.aio.Channel:
        """A connection of its own as a client of a role, as the member, or as nobody."""
        authority = (self.directory / "ca" / "ca.crt").read_bytes()
        if role == "nobody":
            credentials = grpc.ssl_channel_credentials(authority)
        elif role == "member":
            tls = self.directory / self.member / "tls"
            credentials = grpc.ssl_channel_credentials(
                authority, (tls / "node.key").read_bytes(), (tls / "node.crt").read_bytes()
            )
        else:
            folder = self.directory / "clients"
            credentials = grpc.ssl_channel_credentials(
                authority, (folder / f"{role}.key").read_bytes(), (folder / f"{role}.crt").read_bytes()
            )
        options = [
            ("grpc.ssl_target_name_override", self.node),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        return grpc.aio.secure_channel(self.address, credentials, options=options)

    async def note(self, call: Awaitable[Any]) -> str:
        """Await a call and count its status, which is returned."""
        try:
            await call
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        self.answers[code] += 1
        return code


@lru_cache
def genesis_of(directory: Path) -> Genesis:
    return load_genesis(directory / "genesis.json")


@lru_cache
def key_of(home: Path) -> SigningKey:
    return SigningKey.load(home / "keys" / "signing.pem")


async def calls(attacker: Attacker, path: str, body: bytes, role: str = "operator") -> None:
    """The same call over and over, on some lines at once."""
    async with attacker.channel(role) as channel:
        call: Any = channel.unary_unary(path)

        async def line() -> None:
            while True:
                await attacker.note(call(body, timeout=10))

        await asyncio.gather(*(line() for _ in range(LINES)))


async def oversize(attacker: Attacker) -> None:
    """Requests larger than any message may be."""
    await calls(attacker, f"{VOTING}Propose", b"\x00" * OVERSIZE_BYTES)


async def malformed(attacker: Attacker) -> None:
    """Requests that are no protobuf."""
    await calls(attacker, f"{VOTING}Propose", b"\xff" * 2_000)


async def propose(attacker: Attacker) -> None:
    """Proposals as fast as they are answered, half of them with wrong types and unknown fields."""
    async with attacker.channel() as channel:
        call: Any = channel.unary_unary(f"{VOTING}Propose")

        async def line(number: int) -> None:
            for count in range(10**9):
                request = voting_service_pb2.ProposeRequest(
                    request_id=f"flood-{os.getpid()}-{number}-{count}", action="restrict", target="x" * 500
                )
                body = request.SerializeToString()
                if count % 2:
                    body += b"\x0a\x02{}" if count % 4 == 1 else b"\xa2\x06\x03abc\x18\x05"
                await attacker.note(call(body, timeout=10))

        await asyncio.gather(*(line(number) for number in range(2 * LINES)))


async def watch(attacker: Attacker) -> None:
    """Thousands of streams that nobody reads, on several connections."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(attacker.channel("viewer")) for _ in range(4)]
        body = voting_service_pb2.WatchRequest().SerializeToString()

        async def line(channel: grpc.aio.Channel) -> None:
            method: Any = channel.unary_stream(f"{VOTING}Watch")
            while True:
                call = method(body)
                try:
                    if await call.read() is grpc.aio.EOF:
                        await asyncio.sleep(0.5)
                    else:
                        attacker.answers["STREAM"] += 1
                        await asyncio.sleep(3600)
                except grpc.aio.AioRpcError as error:
                    attacker.answers[error.code().name] += 1
                    await asyncio.sleep(0.5)

        await asyncio.gather(*(line(channels[number % 4]) for number in range(2_400)))


async def connections(attacker: Attacker) -> None:
    """Hundreds of connections that say nothing, opened again as they are closed."""
    await _half_open(attacker, b"")


async def handshakes(attacker: Attacker) -> None:
    """Hundreds of TLS handshakes that stop after the first bytes, and go on a byte at a time."""
    await _half_open(attacker, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")


async def _half_open(attacker: Attacker, first: bytes) -> None:
    host, _, port = attacker.address.rpartition(":")

    async def line() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except OSError as error:
                attacker.answers[type(error).__name__] += 1
                await asyncio.sleep(0.2)
                continue
            attacker.answers["OPENED"] += 1
            with contextlib.suppress(OSError):
                writer.write(first)
                waiting = asyncio.ensure_future(reader.read())
                while first and not waiting.done():
                    await asyncio.sleep(0.5)
                    writer.write(b"\x00")
                await waiting
                writer.close()
            attacker.answers["CLOSED_BY_NODE"] += 1

    await asyncio.gather(*(line() for _ in range(600)))


async def anonymous(attacker: Attacker) -> None:
    """Whole TLS handshakes without a certificate."""

    async def line() -> None:
        while True:
            async with attacker.channel("nobody") as channel:
                call: Any = channel.unary_unary("/replication.v1.AuditService/GetHead")
                await attacker.note(call(b"", timeout=2))

    await asyncio.gather(*(line() for _ in range(8)))


async def fetch(attacker: Attacker) -> None:
    """Absurd ranges of blocks."""
    async with attacker.channel("member") as channel:
        call: Any = channel.unary_unary(f"{PEER}FetchBlocks")
        ranges = [
            (height, size) for height in (0, 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1) for size in (0, 2**32 - 1)
        ]

        async def line() -> None:
            while True:
                for height, size in ranges:
                    request = peer_service_pb2.FetchBlocksRequest(from_height=height, max_bytes=size)
                    await attacker.note(call(request.SerializeToString(), timeout=10))

        await asyncio.gather(*(line() for _ in range(4)))


# ------------------------------------------------------------------------------------- streams of a member


async def stream(attacker: Attacker, requests: Callable[[], AsyncIterator[bytes]], name: str = "") -> None:
    """Exchange streams, one after the other: a Hello, then what `requests` gives."""
    hello = peer_service_pb2.Hello(
        cluster_id=attacker.genesis.cluster_id,
        member_id=name or attacker.member,
        protocol_version=PROTOCOL_VERSION,
    )
    first = peer_service_pb2.ExchangeRequest(messages=[peer_service_pb2.PeerMessage(hello=hello)])

    async def everything() -> AsyncIterator[bytes]:
        yield first.SerializeToString()
        async for body in requests():
            attacker.answers["SENT"] += 1
            yield body

    while True:
        async with attacker.channel("member") as channel:
            method: Any = channel.stream_unary(f"{PEER}Exchange")
            await attacker.note(method(everything()))
        await asyncio.sleep(0.02)


def batch(messages: list[Message]) -> bytes:
    return peer_service_pb2.ExchangeRequest(
        messages=[wire.encode(message) for message in messages]
    ).SerializeToString()


def statement(
    attacker: Attacker, view: int, *, signer: str = "", signature: bytes | None = None
) -> Statement:
    """A COMMIT for a block that nobody knows, signed by the member unless a signature is given."""
    key = StatementKey(Phase.COMMIT, 0, view, view + 1, sha256(str(view).encode()).digest())
    signer = signer or attacker.member
    made = signature or attacker.key.sign(key.sign_bytes(attacker.genesis.cluster_id, signer))
    return Statement(key, signer, made)


async def signatures(attacker: Attacker) -> None:
    """Statements with signatures that do not verify."""

    async def requests() -> AsyncIterator[bytes]:
        for view in range(0, 10**9, 100):
            yield batch(
                [
                    Acknowledgement(statement(attacker, number % 3, signature=random.randbytes(64)))
                    for number in range(view, view + 100)
                ]
            )

    await stream(attacker, requests)


async def views(attacker: Attacker) -> None:
    """Well-signed statements and timeouts for a million future views."""

    async def requests() -> AsyncIterator[bytes]:
        for start in range(5, 1_000_000, 50):
            made: list[Message] = []
            for view in range(start, start + 50):
                made.append(Acknowledgement(statement(attacker, view)))
                timeout = Timeout(0, view, 0, None, attacker.member)
                signature = attacker.key.sign(timeout.sign_bytes(attacker.genesis.cluster_id))
                made.append(TimeoutMessage(TimeoutReport(replace(timeout, signature=signature), None, None)))
                suspect = Suspect(0, view, attacker.member)
                signature = attacker.key.sign(suspect.sign_bytes(attacker.genesis.cluster_id))
                made.append(SuspectMessage(replace(suspect, signature=signature)))
            yield batch(made)
        await asyncio.sleep(3600)

    await stream(attacker, requests)


async def names(attacker: Attacker) -> None:
    """Statements in another member's name, and a Hello in it."""
    other = attacker.genesis.members.ids[1]

    async def requests() -> AsyncIterator[bytes]:
        for number in range(10**9):
            yield batch(
                [
                    Acknowledgement(statement(attacker, number % 50, signer=other)),
                    Acknowledgement(statement(attacker, number % 50, signer="nobody")),
                ]
            )

    await asyncio.gather(stream(attacker, requests), stream(attacker, requests, other))


async def garbage(attacker: Attacker) -> None:
    """Bytes that are no message, and messages that hold nothing right."""
    rng = random.Random(7)

    async def requests() -> AsyncIterator[bytes]:
        for number in range(10**9):
            body = rng.randbytes(2_000)
            if number % 3:  # an envelope of a known kind around noise
                envelope = peer_service_pb2.PeerMessage(
                    statement=log_pb2.Statement(phase=rng.choice((0, 1, 2, 3)), signature=body)  # type: ignore[arg-type]  # numbers of the enumeration
                )
                body = peer_service_pb2.ExchangeRequest(messages=[envelope] * 20).SerializeToString()
            yield body

    await stream(attacker, requests)


async def witnesses(attacker: Attacker) -> None:
    """Witness messages with lists of thousands of statements."""
    one = wire.encode(Acknowledgement(statement(attacker, 1))).statement
    many = peer_service_pb2.PeerMessage(witness=peer_service_pb2.Witness(statements=[one] * 15_000))
    body = peer_service_pb2.ExchangeRequest(messages=[many]).SerializeToString()

    async def requests() -> AsyncIterator[bytes]:
        while True:
            yield body

    await stream(attacker, requests)


async def empties(attacker: Attacker) -> None:
    """Requests of a million empty envelopes, and certificates of a million empty signatures."""
    parts = [b"\x0a\x00" * 1_000_000, bomb(4, 6, 900_000), bomb(11, 1, 900_000)]

    async def requests() -> AsyncIterator[bytes]:
        while True:
            for part in parts:
                yield part

    await stream(attacker, requests)


def bomb(kind: int, repeated: int, count: int) -> bytes:
    """A request with one envelope of a kind, in which the repeated field has `count` empty parts."""
    return _field(1, _field(kind, bytes([repeated << 3 | 2, 0]) * count))


def _field(number: int, body: bytes) -> bytes:
    size, head = len(body), bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(head) + bytes([size]) + body


FLOODS: Final[dict[str, Callable[[Attacker], Awaitable[None]]]] = {
    flood.__name__: flood
    for flood in (
        *(oversize, malformed, propose, watch, connections, handshakes, anonymous, fetch),
        *(signatures, views, names, garbage, witnesses, empties),
    )
}
OF_MEMBERS: Final = frozenset({"fetch", "signatures", "views", "names", "garbage", "witnesses", "empties"})
"""Floods with the keys of the last member, which must be stopped."""


# ----------------------------------------------------------------------------------------- for the other side


class Flood:
    """A flood in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.answers: dict[str, int] = {}

    def require_running(self) -> None:
        """The attacker must not have given up."""
        assert self._process.poll() is None, "the flood has ended by itself"

    def end(self) -> None:
        self.require_running()
        self._process.terminate()
        out, _ = self._process.communicate(timeout=60)
        self.answers = json.loads(out.splitlines()[-1])


@contextmanager
def flooding(
    kind: str, directory: Path, answers: Collection[str] = (), node: str = "node-1"
) -> Iterator[Flood]:
    """Flood a node, from when it has given all these answers (any, if none is named), for a minute at most;
    the `answers` of the flood are there when it is over."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.floods", kind, str(directory), *answers, "--node", node],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n", "the flood did not begin"
        flood = Flood(process)
        yield flood
        flood.end()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} is gone")


async def _main(kind: str, attacker: Attacker, wanted: Collection[str]) -> None:
    os.nice(10)  # it would have a machine of its own; what is measured is what it costs the node
    task = asyncio.ensure_future(FLOODS[kind](attacker))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    give_up = time.monotonic() + 60
    while not (attacker.answers and attacker.answers.keys() >= set(wanted)):
        if task.done() or time.monotonic() > give_up:
            break
        await asyncio.sleep(0.01)
    print("started", flush=True)
    waiting = asyncio.ensure_future(ended.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    print(json.dumps(attacker.answers), flush=True)
    os._exit(0)  # thousands of calls are under way: closing them takes longer than anybody waits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(FLOODS))
    parser.add_argument("directory", type=Path)
    parser.add_argument("answers", nargs="*")
    parser.add_argument("--node", default="node-1")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.kind, Attacker(arguments.directory, arguments.node), arguments.answers))
