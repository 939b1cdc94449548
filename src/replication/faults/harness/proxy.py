"""A TCP proxy that makes one connection between two nodes as bad as a network can be.

It sees opaque bytes only: TLS is end to end. Whatever it does is what TCP under a bad network does to its
users: bytes come late, slowly, in bursts, or not at all, and connections break or hang; nothing is ever
changed, lost in the middle, or put in another order, since that would only test TLS.

A connection runs from the node that dialled (the source) to the one that listens (the target); *forward* is
what the source sends. Each direction is a pump: a reader that takes in bytes up to a bound, and a writer that
lets them go when their time has come."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Final

__all__ = ["Impairment", "LinkCounters", "LinkProxy", "combine"]

CHUNK_BYTES: Final = 64 * 1024
HELD_BYTES: Final = 256 * 1024
"""How much a stalled direction takes in before the sender feels it: about what socket buffers hold."""

CLOG_BYTES: Final = 32 * 1024 * 1024
"""How much a clogged direction takes in, to let it go in one burst."""

CONNECT_SECONDS: Final = 2.0
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends RST."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What is wrong with a link. Everything at its default: nothing.

    `stall_forward`, `stall_backward`: bytes of this direction wait until it is over. `refuse`: connections
    are reset, open ones and new ones. `delay_ms` with up to `jitter_ms` more, for each chunk, never
    overtaking another. `bytes_per_second`: 0 for no limit. `loss_share`: the share of chunks that wait
    `loss_pause_ms` longer, as lost packets do. `clog`: a stalled direction takes in whatever comes, so that
    it leaves as one burst."""

    stall_forward: bool = False
    stall_backward: bool = False
    refuse: bool = False
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    bytes_per_second: float = 0.0
    loss_share: float = 0.0
    loss_pause_ms: float = 0.0
    clog: bool = False


def combine(impairments: Iterable[Impairment]) -> Impairment:
    """All of them at once: delays add up, the narrowest bandwidth and the highest loss count."""
    items = list(impairments)
    rates = [item.bytes_per_second for item in items if item.bytes_per_second]
    return Impairment(
        stall_forward=any(item.stall_forward for item in items),
        stall_backward=any(item.stall_backward for item in items),
        refuse=any(item.refuse for item in items),
        delay_ms=sum(item.delay_ms for item in items),
        jitter_ms=sum(item.jitter_ms for item in items),
        bytes_per_second=min(rates, default=0.0),
        loss_share=max((item.loss_share for item in items), default=0.0),
        loss_pause_ms=max((item.loss_pause_ms for item in items), default=0.0),
        clog=any(item.clog for item in items),
    )


@dataclass(slots=True)
class LinkCounters:
    """Totals of one link: connections and bytes, and what the impairments did to them."""

    connections: int = 0
    refused: int = 0
    reset: int = 0
    unreachable: int = 0
    bytes: int = 0
    stalled_bytes: int = 0
    late_chunks: int = 0
    lost_chunks: int = 0

    def since(self, before: LinkCounters) -> LinkCounters:
        """The difference to an earlier state."""
        return LinkCounters(
            **{item.name: getattr(self, item.name) - getattr(before, item.name) for item in fields(self)}
        )

    def plus(self, other: LinkCounters) -> LinkCounters:
        """The sum with those of another link."""
        return LinkCounters(
            **{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        )


@dataclass(slots=True, eq=False)
class _Pump:
    """One direction of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    forward: bool
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting_bytes: int = 0
    line_free: float = 0.0
    last_due: float = 0.0
    ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class LinkProxy:
    """The directed link from `source` to `target`, listening on `port` of `host` once it is started."""

    def __init__(self, source: str, target: str, upstream: tuple[str, int], seed: int = 0) -> None:
        self.source = source
        self.target = target
        self.upstream = upstream
        self.port = 0
        self.counters = LinkCounters()
        self.state = Impairment()
        self._imposed: dict[str, Impairment] = {}
        self._draw = random.Random(f"{seed} {source} {target}")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[_Pump] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def __repr__(self) -> str:
        return f"LinkProxy({self.source} -> {self.target})"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `port` 0 takes any."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes are held back or under way now."""
        return sum(pump.waiting_bytes for pump in self._pumps)

    def impose(self, key: str, impairment: Impairment) -> None:
        """Make the link worse, in the name of `key`; a second time replaces the first."""
        self._imposed[key] = impairment
        self._update()

    def lift(self, key: str) -> None:
        """Take back what was imposed in the name of `key`."""
        if self._imposed.pop(key, None) is not None:
            self._update()

    def reset(self) -> int:
        """Break all open connections with RST, as a failed router does; how many there were."""
        count = len(self._open)
        for writer in list(self._writers):
            _abort(writer)
        for task in list(self._open):
            task.cancel()
        self.counters.reset += count
        return count

    def _update(self) -> None:
        self.state = combine(self._imposed.values())
        if self.state.refuse:
            self.reset()
        if self.state.stall_forward or self.state.stall_backward:
            self._flowing.clear()
        else:
            self._flowing.set()
        for pump in self._pumps:
            pump.changed.set()

    def _stalls(self, pump: _Pump) -> bool:
        return self.state.stall_forward if pump.forward else self.state.stall_backward

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self.state.refuse:
            self.counters.refused += 1
            _abort(writer)
            return
        self._open.add(task)
        self._writers.add(writer)
        self.counters.connections += 1
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # reset or stopped; the connection is broken below
        finally:
            self._open.discard(task)
            self._writers.discard(writer)
            _abort(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                far_reader, far_writer = await asyncio.open_connection(*self.upstream, limit=CHUNK_BYTES)
        except (OSError, TimeoutError):
            self.counters.unreachable += 1
            await self._flowing.wait()
            return
        self._writers.add(far_writer)
        pumps = (_Pump(reader, far_writer, True), _Pump(far_reader, writer, False))
        self._pumps.update(pumps)
        for end in (writer, far_writer):
            _no_delay(end)
        tasks = [
            asyncio.ensure_future(work(pump)) for pump in pumps for work in (self._take_in, self._let_go)
        ]
        try:
            # One direction may end before the other, but a broken one takes the whole connection along.
            await asyncio.gather(*tasks)
        except OSError:
            await self._flowing.wait()  # news of the break would not come through either
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._pumps.difference_update(pumps)
            self._writers.discard(far_writer)
            _abort(far_writer)

    async def _take_in(self, pump: _Pump) -> None:
        """Read, and say when each chunk may go on."""
        loop = asyncio.get_running_loop()
        while True:
            while pump.waiting_bytes >= (CLOG_BYTES if self.state.clog else HELD_BYTES):
                pump.changed.clear()
                await pump.changed.wait()
            chunk = await pump.reader.read(CHUNK_BYTES)
            if not chunk:
                pump.ended = True
                pump.changed.set()
                return
            pump.waiting.append((self._due(pump, len(chunk), loop.time()), chunk))
            pump.waiting_bytes += len(chunk)
            pump.changed.set()

    def _due(self, pump: _Pump, size: int, now: float) -> float:
        """When a chunk that came `now` may leave: after the line has carried it, and not before an earlier
        one.

        """
        state = self.state
        pump.line_free = max(now, pump.line_free)
        due = now
        if state.bytes_per_second:
            pump.line_free += size / state.bytes_per_second
            due = pump.line_free
        if state.delay_ms or state.jitter_ms:
            due += (state.delay_ms + self._draw.uniform(0, state.jitter_ms)) / 1000
        if state.loss_share and self._draw.random() < state.loss_share:
            due += state.loss_pause_ms / 1000
            self.counters.lost_chunks += 1
        if due > now:
            self.counters.late_chunks += 1
        pump.last_due = max(pump.last_due, due)
        return pump.last_due

    async def _let_go(self, pump: _Pump) -> None:
        """Write each chunk when its time has come and the direction is not stalled."""
        loop = asyncio.get_running_loop()
        counted = 0
        while True:
            if self._stalls(pump) or not pump.waiting:
                if self._stalls(pump) and pump.waiting_bytes > counted:
                    self.counters.stalled_bytes += pump.waiting_bytes - counted
                    counted = pump.waiting_bytes
                if pump.ended and not pump.waiting:
                    break
                pump.changed.clear()
                await pump.changed.wait()
                continue
            due, chunk = pump.waiting[0]
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
                continue
            pump.waiting.popleft()
            pump.waiting_bytes -= len(chunk)
            counted = max(counted - len(chunk), 0)
            pump.changed.set()
            pump.writer.write(chunk)
            self.counters.bytes += len(chunk)
            await pump.writer.drain()
        with contextlib.suppress(OSError):
            pump.writer.write_eof()


def _no_delay(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Break the connection at once. The other end sees a reset, if it has not ended it before."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport = writer.transport
    if transport is not None:
        transport.abort()
