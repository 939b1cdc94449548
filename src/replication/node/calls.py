"""The calls that a node answers: how many of each ended with which status, how long they took, and how many
are under way.

`CallMeter` is the outermost interceptor, so that what the gate refuses counts too. Only methods that the node
serves are counted, whatever strangers ask for: the numbers stay as many as there are methods.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import perf_counter_ns
from typing import Any, Final

import grpc

from replication.node.histogram import Histogram

__all__ = ["CallMeter", "MethodCalls"]

Context = grpc.aio.ServicerContext[Any, Any]

GRAVE: Final = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
"""Statuses that must not happen. They are shown from the first call on, so that an increase can be seen."""


class MethodCalls:
    """Calls of one method. `ended` counts them by the name of their status, `times` how long they took; it is
    None where the answer or the request is a stream, which lasts as long as its caller likes."""

    __slots__ = ("ended", "times", "under_way")

    def __init__(self, *, is_stream: bool) -> None:
        self.ended = dict.fromkeys(("OK", *GRAVE), 0)
        self.times = None if is_stream else Histogram()
        self.under_way = 0

    def end(self, status: str, duration_us: int) -> None:
        """One of those under way has ended."""
        self.under_way -= 1
        self.ended[status] = self.ended.get(status, 0) + 1
        if self.times is not None:
            self.times.add(duration_us)


class CallMeter(grpc.aio.ServerInterceptor):
    """Counts the calls of one server."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodCalls] = {}
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    @property
    def methods(self) -> Mapping[str, MethodCalls]:
        """What was called so far, by ``Service.Method``. It goes on counting."""
        return self._methods

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The counted handler of a call. Each is made once: what is registered does not change."""
        path = handler_call_details.method
        counted = self._handlers.get(path)
        if counted is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # gRPC answers UNIMPLEMENTED
            calls = MethodCalls(is_stream=handler.request_streaming or handler.response_streaming)
            self._methods[_label(path)] = calls
            counted = self._handlers[path] = _counted(handler, calls)
        return counted


def _label(path: str) -> str:
    """``/replication.v1.VotingService/Watch`` as ``VotingService.Watch``."""
    service, _, method = path.removeprefix("/").partition("/")
    return f"{service.rpartition('.')[2]}.{method}"


def _counted(handler: Any, calls: MethodCalls) -> grpc.RpcMethodHandler[Any, Any]:
    codecs = (handler.request_deserializer, handler.response_serializer)
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_streaming(handler.stream_stream, calls), *codecs)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(_unary(handler.stream_unary, calls), *codecs)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_streaming(handler.unary_stream, calls), *codecs)
    return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, calls), *codecs)


def _unary(inner: Callable[[Any, Context], Awaitable[Any]], calls: MethodCalls) -> Any:
    async def behaviour(request: Any, context: Context) -> Any:
        began_ns = perf_counter_ns()
        calls.under_way += 1
        status = "OK"
        try:
            return await inner(request, context)
        except BaseException as error:
            status = _status_of(error, context)
            raise
        finally:
            calls.end(status, (perf_counter_ns() - began_ns) // 1000)

    return behaviour


def _streaming(inner: Callable[[Any, Context], Any], calls: MethodCalls) -> Any:
    """Handlers of streams are generators, or coroutines that write."""

    async def responses(request: Any, context: Context) -> AsyncIterator[Any]:
        calls.under_way += 1
        status = "OK"
        try:
            async for response in inner(request, context):
                yield response
        except BaseException as error:
            status = _status_of(error, context)
            raise
        finally:
            calls.end(status, 0)

    return responses if inspect.isasyncgenfunction(inner) else _unary(inner, calls)


def _status_of(error: BaseException, context: Context) -> str:
    """The status with which a call ends that raises `error`: what it was aborted with, else that its caller
    went away or had no time left."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code().name
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        remaining = context.time_remaining()
        return "CANCELLED" if remaining is None or remaining > 0 else "DEADLINE_EXCEEDED"
    return "UNKNOWN"
