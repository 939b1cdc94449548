"""Counts of the calls of a real gRPC server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.support.node_cluster import eventually

from replication.faults.harness.proxy import Impairment, LinkProxy
from replication.identity.call_ids import CALL_ID_KEY
from replication.identity.names import is_id
from replication.node import calls
from replication.node.calls import LINE_BURST, CallMeter, _status_of
from replication.node.failures import RefusedError, abort, failure_of
from replication.node.logs import CALL_ID, LineFormatter

SERVICE = "replication.v1.VotingService"


class Served:
    """A server with a call of each way to end, behind a meter."""

    def __init__(self) -> None:
        self.meter = CallMeter()
        self.released = asyncio.Event()
        self.port = 0

    async def answer(self, request: bytes, context: Any) -> bytes:
        return request

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await abort(context, failure_of(RefusedError("TOO_MANY_CALLS", "too many")))

    async def break_down(self, request: bytes, context: Any) -> bytes:
        raise ValueError("nobody foresaw it")

    async def wait(self, request: bytes, context: Any) -> bytes:
        await self.released.wait()
        return request

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await self.released.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[grpc.aio.Channel]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            **{name: unary(getattr(self, name)) for name in ("answer", "refuse", "break_down", "wait")},
            "stream": stream(self.stream),
        }
        server = grpc.aio.server(interceptors=[self.meter])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with channel_to(self.port) as channel:
                yield channel
        finally:
            self.released.set()
            await server.stop(None)

    def has_ended(self, name: str, status: str) -> bool:
        """Whether the one call of this method has ended; it must be with this status."""
        found = self.meter.methods[f"VotingService.{name}"].ended
        seen = {status: count for status, count in found.items() if count}
        assert seen in ({}, {status: 1})
        return bool(seen)


def channel_to(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


@asynccontextmanager
async def linked(port: int) -> AsyncIterator[LinkProxy]:
    """A link to the server on this port, which can be cut without anybody hearing of it."""
    proxy = LinkProxy("client", "server", ("127.0.0.1", port))
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def status_of(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def test_each_way_to_end_is_counted() -> None:
    async def work() -> None:
        served = Served()
        async with served.running() as channel:
            for name, status in (
                ("answer", "OK"),
                ("refuse", "RESOURCE_EXHAUSTED"),
                ("break_down", "UNKNOWN"),
            ):
                call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
                began_ns = time.perf_counter_ns()
                assert await status_of(call(b"x", timeout=30)) == status
                found = served.meter.methods[f"VotingService.{name}"]
                await eventually(partial(served.has_ended, name, status))
                assert found.times is not None
                assert (found.times.count, found.under_way) == (1, 0)
                assert 0 < found.times.total_us <= (time.perf_counter_ns() - began_ns) // 1000

    asyncio.run(work())


def test_a_deadline_is_kept_though_its_client_is_not_heard() -> None:
    """Nothing passes any more once the request has: nobody tells the server that the client gave up."""

    async def work() -> None:
        served, timeout = Served(), 2.0
        async with served.running(), linked(served.port) as proxy, channel_to(proxy.port) as channel:
            await channel.channel_ready()
            call: Any = channel.unary_unary(f"/{SERVICE}/wait")
            began_ns = time.perf_counter_ns()
            answering = asyncio.ensure_future(status_of(call(b"x", timeout=timeout)))
            await eventually(lambda: served.meter.methods)
            (found,) = served.meter.methods.values()
            await eventually(lambda: found.under_way)
            proxy.impose("silence", Impairment(stall_forward=True, stall_backward=True))
            late_us = (time.perf_counter_ns() - began_ns) // 1000
            assert await answering == "DEADLINE_EXCEEDED"
            await eventually(partial(served.has_ended, "wait", "DEADLINE_EXCEEDED"))
            assert found.times is not None
            assert (found.times.count, found.under_way) == (1, 0)
            lasted_us = (time.perf_counter_ns() - began_ns) // 1000
            rounding_us = 10_000
            assert timeout * 1_000_000 - late_us - rounding_us <= found.times.total_us <= lasted_us

    asyncio.run(work())


@pytest.mark.parametrize(
    ("seconds", "left", "status"),
    [
        (0.5, 0.0, "DEADLINE_EXCEEDED"),
        (0.0, 0.0, "DEADLINE_EXCEEDED"),
        (0.5, 0.01, "DEADLINE_EXCEEDED"),  # the request came late, the end in time
        (12.3, 0.1, "DEADLINE_EXCEEDED"),  # 12.301 s are sent as 12.4 s
        (0.5, 0.05, "CANCELLED"),
        (12.3, 0.2, "CANCELLED"),
        (0.0, 30.0, "CANCELLED"),
        (30.0, None, "CANCELLED"),
    ],
)
def test_who_ends_a_call_at_its_deadline_has_no_time_left(
    seconds: float, left: float | None, status: str
) -> None:
    context: Any = SimpleNamespace(time_remaining=lambda: left)
    for error in (asyncio.CancelledError(), GeneratorExit()):
        assert _status_of(error, context, seconds) == status


def test_a_stream_is_under_way_until_its_caller_leaves() -> None:
    async def work() -> None:
        served = Served()
        async with served.running() as channel:
            watch: Any = channel.unary_stream(f"/{SERVICE}/stream")
            call = watch(b"x")
            assert await call.read() == b"x"
            found = served.meter.methods["VotingService.stream"]
            assert (found.under_way, found.times) == (1, None)
            call.cancel()
            await eventually(lambda: found.under_way == 0)
            assert served.has_ended("stream", "CANCELLED")

    asyncio.run(work())


def test_what_is_not_served_is_not_counted() -> None:
    async def work() -> None:
        served = Served()
        async with served.running() as channel:
            for number in range(3):
                call: Any = channel.unary_unary(f"/{SERVICE}/no{number}")
                assert await status_of(call(b"")) == "UNIMPLEMENTED"
        assert served.meter.methods == {}

    asyncio.run(work())


def test_a_call_has_the_id_that_its_client_gave_or_a_new_one(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    caplog.handler.setFormatter(LineFormatter("n"))

    async def work() -> None:
        served = Served()
        async with served.running() as channel:
            for name in ("answer", "refuse"):
                for given, kept in (
                    ("web-4711", True),
                    ("x" * 64, True),
                    ("x" * 65, False),
                    ('a" level=error', False),
                    ("", False),
                    (None, False),
                ):
                    caplog.clear()
                    call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
                    answering = call(
                        b"x", timeout=30, metadata=() if given is None else ((CALL_ID_KEY, given),)
                    )
                    await status_of(answering)
                    [found] = [
                        value for key, value in await answering.trailing_metadata() if key == CALL_ID_KEY
                    ]
                    assert is_id(found)
                    assert (found == given) is kept
                    await eventually(lambda: caplog.text)
                    line = caplog.text  # formatted when it was logged
                    assert f"call={found} msg=" in line
                    lines.append(line)

    with caplog.at_level(logging.DEBUG, "replication.node.calls"):
        asyncio.run(work())
    assert len(set(lines)) == 12
    assert sum("level=info" in line and "RESOURCE_EXHAUSTED: too many" in line for line in lines) == 6
    assert CALL_ID.get() == "", "it ends with the call"


def test_failed_calls_of_one_client_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LINES_PER_SECOND", 0.5)  # the calls may take long

    async def work() -> None:
        served = Served()
        async with served.running() as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/refuse")
            await asyncio.gather(*(status_of(call(b"x", timeout=60)) for _ in range(3 * LINE_BURST)))

    with caplog.at_level(logging.INFO, "replication.node.calls"):
        asyncio.run(work())
    assert LINE_BURST // 2 <= len(caplog.records) < 2 * LINE_BURST
