"""The proxy: bytes pass unchanged and in order, late, slowly, in bursts or not at all, as it was told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from replication.faults.harness.proxy import Impairment, LinkProxy, combine

SOON = 20.0
A_WHILE = 0.15
"""Long enough to see that nothing comes; a test that is wrong about this passes too easily, never falsely
fails.
"""


class Echo:
    """A server that sends back what it gets, and counts."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while chunk := await reader.read(65536):
                self.received += chunk
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[LinkProxy, Echo]]:
    echo = Echo()
    await echo.start()
    proxy = LinkProxy("a", "b", ("127.0.0.1", echo.port))
    await proxy.start()
    try:
        yield proxy, echo
    finally:
        await proxy.stop()
        await echo.stop()


def run(work: Callable[[LinkProxy, Echo], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), linked() as (proxy, echo):
            await work(proxy, echo)

    asyncio.run(main())


async def dial(proxy: LinkProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ping(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> float:
    """Send and await the echo; how long it took."""
    reader, writer = connection
    began = time.monotonic()
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), SOON) == data
    return time.monotonic() - began


async def silent(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> None:
    """Send, and see that nothing comes back for a while."""
    reader, writer = connection
    writer.write(data)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), A_WHILE)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


def test_without_an_impairment_all_bytes_pass() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        data = bytes(range(256)) * 4_000
        await ping(connection, data)
        assert echo.received == data
        assert proxy.counters.bytes == 2 * len(data)
        assert proxy.counters.connections == proxy.open_connections == 1
        connection[1].close()
        await until(lambda: proxy.open_connections == 0)

    run(work)


def test_the_end_of_a_connection_passes() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        reader, writer = await dial(proxy)
        writer.write(b"last words")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), SOON) == b"last words"

    run(work)


@pytest.mark.parametrize("forward", [True, False])
def test_a_stalled_direction_holds_its_bytes_and_lets_them_go(forward: bool) -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        await ping(connection, b"before")
        proxy.impose("x", Impairment(stall_forward=forward, stall_backward=not forward))
        await silent(connection, b"meanwhile")
        await until(lambda: proxy.counters.stalled_bytes >= len(b"meanwhile"))
        assert (echo.received == b"before") is forward
        assert proxy.waiting_bytes == len(b"meanwhile")
        proxy.lift("x")
        assert await asyncio.wait_for(connection[0].readexactly(9), SOON) == b"meanwhile"
        assert echo.received == b"beforemeanwhile"

    run(work)


def test_a_stall_bounds_what_it_takes_in() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        reader, writer = await dial(proxy)
        proxy.impose("x", Impairment(stall_forward=True))
        writer.write(bytes(20_000_000))
        await until(lambda: proxy.waiting_bytes > 100_000)
        await asyncio.sleep(A_WHILE)
        assert proxy.waiting_bytes < 1_000_000
        proxy.lift("x")
        await until(lambda: len(echo.received) > 1_000_000)
        writer.transport.abort()
        assert reader is not None

    run(work)


def test_a_clogged_direction_takes_everything_in() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        _, writer = await dial(proxy)
        proxy.impose("x", Impairment(stall_forward=True, clog=True))
        writer.write(bytes(3_000_000))
        await until(lambda: proxy.waiting_bytes == 3_000_000)
        assert echo.received == b""
        writer.transport.abort()

    run(work)


def test_delays_keep_the_order() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        proxy.impose("x", Impairment(delay_ms=60, jitter_ms=40))
        assert await ping(connection, b"x") >= 0.12  # both ways
        for number in range(50):
            connection[1].write(b"%03d" % number)
            await asyncio.sleep(0)
        expected = b"".join(b"%03d" % number for number in range(50))
        assert await asyncio.wait_for(connection[0].readexactly(150), SOON) == expected
        assert proxy.counters.late_chunks >= 2

    run(work)


def test_a_narrow_line_takes_its_time() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        proxy.impose("x", Impairment(bytes_per_second=100_000))
        assert await ping(connection, bytes(20_000)) >= 0.38  # 0.2 s each way

    run(work)


def test_losses_make_some_bytes_late_and_lose_none() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        proxy.impose("x", Impairment(loss_share=1.0, loss_pause_ms=50))
        assert await ping(connection, b"hello") >= 0.1
        assert proxy.counters.lost_chunks == 2

    run(work)


def test_a_refusing_link_breaks_connections_and_takes_no_new_ones() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        await ping(connection, b"x")
        proxy.impose("x", Impairment(refuse=True))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(connection[0].readexactly(1), SOON)
        reader, _ = await dial(proxy)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), SOON)
        assert (proxy.counters.reset, proxy.counters.refused, echo.connections) == (1, 1, 1)
        proxy.lift("x")
        await ping(await dial(proxy), b"again")

    run(work)


def test_a_reset_breaks_what_is_open_and_nothing_else() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connections = [await dial(proxy) for _ in range(3)]
        for connection in connections:
            await ping(connection, b"x")
        assert proxy.reset() == 3
        for reader, _ in connections:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.readexactly(1), SOON)
        await ping(await dial(proxy), b"again")

    run(work)


def test_a_target_that_is_down_is_unreachable() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        proxy.upstream = ("127.0.0.1", 1)
        reader, _ = await dial(proxy)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), SOON)
        assert proxy.counters.unreachable == 1

    run(work)


def test_through_a_partition_not_even_the_break_of_a_connection_is_heard() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        await ping(connection, b"x")
        proxy.impose("x", Impairment(stall_forward=True, stall_backward=True))
        proxy.upstream = ("127.0.0.1", 1)
        late = await dial(proxy)  # its way on is refused, but that is not heard here
        await silent(late, b"anybody there?")
        proxy.lift("x")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(late[0].readexactly(1), SOON)
        await ping(connection, b"still open")

    run(work)


def test_impairments_add_up() -> None:
    both = combine(
        [
            Impairment(delay_ms=10, jitter_ms=1, bytes_per_second=500, stall_forward=True),
            Impairment(delay_ms=20, bytes_per_second=300, loss_share=0.5, loss_pause_ms=9, clog=True),
        ]
    )
    assert both == Impairment(
        delay_ms=30,
        jitter_ms=1,
        bytes_per_second=300,
        stall_forward=True,
        loss_share=0.5,
        loss_pause_ms=9,
        clog=True,
    )
    assert combine([]) == Impairment()


def test_one_impairment_is_lifted_and_the_other_stays() -> None:
    async def work(proxy: LinkProxy, echo: Echo) -> None:
        connection = await dial(proxy)
        proxy.impose("one", Impairment(stall_forward=True))
        proxy.impose("two", Impairment(stall_forward=True))
        proxy.lift("one")
        await silent(connection, b"x")
        proxy.lift("two")
        assert await asyncio.wait_for(connection[0].readexactly(1), SOON) == b"x"

    run(work)
