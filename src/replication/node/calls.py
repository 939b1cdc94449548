"""The calls that a node answers: how many of each ended with which status, how long they took, and how many
are under way. Each has an id, the client's or a new one, which the node answers and has in its log.

`CallMeter` is the outermost interceptor, so that what the gate refuses counts too. Only methods that the node
serves are counted, whatever strangers ask for: the numbers stay as many as there are methods.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc

from replication.identity.call_ids import CALL_ID_KEY, new_call_id
from replication.identity.names import is_id
from replication.identity.roles import CertificateError
from replication.node.access import caller_of
from replication.node.histogram import Histogram
from replication.node.logs import CALL_ID
from replication.node.pacing import Pacer
from replication.node.tracing import Traces

__all__ = ["CallMeter", "MethodCalls"]

Context = grpc.aio.ServicerContext[Any, Any]

GRAVE: Final = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
"""Statuses that must not happen. They are shown from the first call on, so that an increase can be seen."""


TRACED: Final = frozenset(
    f"VotingService.{method}"
    for method in ("Propose", "CastVote", "CloseProposal", "Execute", "ReportExecution")
)
"""Calls that write, and whose answer has the proposal."""

ROUNDED_UP: Final = 0.01
ON_THE_WAY_SECONDS: Final = 0.02
"""A client that ends its call at its deadline is heard a little before the deadline here: gRPC sends what is
left of it rounded up, by one percent at most, and the request was on its way for longer than the end.
"""

LINES_PER_SECOND: Final = 5
LINE_BURST: Final = 50
LONGEST_SILENCE_SECONDS: Final = 10.0
"""Failed calls of one identity that are logged: a client cannot fill the log."""

_log = logging.getLogger(__name__)


class MethodCalls:
    """Calls of one method. `ended` counts them by the name of their status, `times` how long they took; it is
    None where the answer or the request is a stream, which lasts as long as its caller likes."""

    __slots__ = ("ended", "name", "times", "under_way")

    def __init__(self, name: str, *, is_stream: bool) -> None:
        self.name = name
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
    """Counts the calls of one server. `traces` are told of those that write about a proposal."""

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces
        self._methods: dict[str, MethodCalls] = {}
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._lines = Pacer(LINES_PER_SECOND, LINE_BURST, LONGEST_SILENCE_SECONDS)

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
            calls = MethodCalls(
                _label(path), is_stream=handler.request_streaming or handler.response_streaming
            )
            self._methods[calls.name] = calls
            counted = self._handlers[path] = self._counted(handler, calls)
        return counted

    def _counted(self, handler: Any, calls: MethodCalls) -> grpc.RpcMethodHandler[Any, Any]:
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.stream_stream, calls), *codecs
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary(handler.stream_unary, calls), *codecs)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler.unary_stream, calls), *codecs)
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, calls), *codecs)

    def _unary(self, inner: Callable[[Any, Context], Awaitable[Any]], calls: MethodCalls) -> Any:
        async def behaviour(request: Any, context: Context) -> Any:
            with self._metered(context, calls) as began_ns:
                response = await inner(request, context)
            if self._traces is not None and calls.name in TRACED:
                self._trace(self._traces, calls.name, response, began_ns)
            return response

        return behaviour

    def _streaming(self, inner: Callable[[Any, Context], Any], calls: MethodCalls) -> Any:
        """Handlers of streams are generators, or coroutines that write."""

        async def responses(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._metered(context, calls):
                async for response in inner(request, context):
                    yield response

        return responses if inspect.isasyncgenfunction(inner) else self._unary(inner, calls)

    @contextmanager
    def _metered(self, context: Context, calls: MethodCalls) -> Iterator[int]:
        """Count what happens inside as one call; gives the time at which it began."""
        began_ns = _begin(context, calls)
        status = "OK"
        try:
            yield began_ns
        except BaseException as error:
            status = _status_of(error, context, (time.perf_counter_ns() - began_ns) / 1e9)
            raise
        finally:
            self._end(context, calls, status, began_ns)

    def _trace(self, traces: Traces, name: str, response: Any, began_ns: int) -> None:
        began_unix_ns = time.time_ns() - (time.perf_counter_ns() - began_ns)
        traces.called(name, response.proposal.digest, began_unix_ns, CALL_ID.get())

    def _end(self, context: Context, calls: MethodCalls, status: str, began_ns: int) -> None:
        """Count a call that has ended, and log it if it failed; at debug level also what went well."""
        duration_us = (time.perf_counter_ns() - began_ns) // 1000
        calls.end(status, duration_us)
        level = logging.DEBUG if status in ("OK", "CANCELLED") else logging.INFO
        if not _log.isEnabledFor(level):
            return
        caller = _caller(context)
        if level == logging.DEBUG or not self._lines.delay(caller, time.monotonic()):
            text = f"{status}: {context.details()}" if level == logging.INFO else status
            _log.log(level, "%s of %s ended after %d ms: %s", calls.name, caller, duration_us // 1000, text)


def _label(path: str) -> str:
    """``/replication.v1.VotingService/Watch`` as ``VotingService.Watch``."""
    service, _, method = path.removeprefix("/").partition("/")
    return f"{service.rpartition('.')[2]}.{method}"


def _begin(context: Context, calls: MethodCalls) -> int:
    """Name and count a call that begins now; the time. It has a task of its own, which keeps the name."""
    given = next((value for key, value in context.invocation_metadata() or () if key == CALL_ID_KEY), None)
    call_id = str(given) if is_id(given) else new_call_id()
    CALL_ID.set(call_id)
    context.set_trailing_metadata(((CALL_ID_KEY, call_id),))
    calls.under_way += 1
    return time.perf_counter_ns()


def _caller(context: Context) -> str:
    try:
        return caller_of(context).identity.name
    except CertificateError:
        return "a stranger"


def _status_of(error: BaseException, context: Context, seconds: float) -> str:
    """The status with which a call ends that raises `error` after so many seconds: what it was aborted with,
    else that its caller went away or had no time left."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code().name
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        left = context.time_remaining()
        is_over = left is not None and left <= ROUNDED_UP * (seconds + left) + ON_THE_WAY_SECONDS
        return "DEADLINE_EXCEEDED" if is_over else "CANCELLED"
    return "UNKNOWN"
