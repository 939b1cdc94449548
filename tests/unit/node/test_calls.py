"""Counts of the calls of a real gRPC server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from tests.support.node_cluster import eventually

from replication.identity.call_ids import CALL_ID_KEY
from replication.identity.names import is_id
from replication.node.calls import LINE_BURST, CallMeter
from replication.node.failures import RefusedError, abort, failure_of
from replication.node.logs import CALL_ID, LineFormatter

SERVICE = "replication.v1.VotingService"


class Served:
    """A server with a call of each way to end, behind a meter."""

    def __init__(self) -> None:
        self.meter = CallMeter()
        self.released = asyncio.Event()

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
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
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
                ("wait", "DEADLINE_EXCEEDED"),
            ):
                call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
                assert await status_of(call(b"x", timeout=0.5)) == status
                found = served.meter.methods[f"VotingService.{name}"]
                await eventually(partial(served.has_ended, name, status))
                assert found.times is not None
                assert (found.times.count, found.under_way) == (1, 0)
                assert (found.times.total_us > 300_000) == (name == "wait")

    asyncio.run(work())


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
                        b"x", timeout=5, metadata=() if given is None else ((CALL_ID_KEY, given),)
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


def test_failed_calls_of_one_client_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        served = Served()
        async with served.running() as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/refuse")
            await asyncio.gather(*(status_of(call(b"x", timeout=10)) for _ in range(3 * LINE_BURST)))

    with caplog.at_level(logging.INFO, "replication.node.calls"):
        asyncio.run(work())
    assert LINE_BURST // 2 <= len(caplog.records) < 2 * LINE_BURST
