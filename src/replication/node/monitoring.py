"""Metrics and health over plain HTTP, on an address of their own.

* ``/metrics``: Prometheus text.
* ``/livez``: 200 while the node's loop runs and has not failed; a lost quorum is no reason to restart a node.
* ``/readyz``: 200 while the node signs, is in contact with a commit quorum, and is not catching up.

The two probes say why not, as JSON. There is no authentication: listen on loopback or a network of operators.
Threads of the standard library's server take the requests and have the node's loop answer, so that an answer
shows that the loop runs. A connection without a free thread is closed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from replication.errors import OperatorError
from replication.node.config import split_address
from replication.node.driver import DriverStatus
from replication.node.metrics import Snapshot, node_metrics

__all__ = ["Monitoring", "why_not_ready"]

ANSWER_SECONDS: Final = 5.0
"""How long the loop may take. One that takes longer is not alive."""

REQUEST_SECONDS: Final = 10.0
"""How long a client may take to say what it wants."""

CONNECTION_SECONDS: Final = 20.0

MAX_REQUESTS: Final = 16
"""Connections at once; a monitoring system needs one or two."""

MAX_BLOCKS_MISSING: Final = 50
"""More than a busy node has under way between two heartbeats."""

_log = logging.getLogger(__name__)


class MonitoringError(OperatorError):
    """The address for metrics cannot be listened at."""

    reason: ClassVar[str] = "MONITORING_ADDRESS"


def why_not_ready(status: DriverStatus, member: str) -> str:
    """Why a node is not ready to serve; empty when it is."""
    if status.muted:
        return f"{member} signs nothing: {status.muted}"
    if not status.can_progress:
        return f"{member} is not in contact with a commit quorum of members"
    if (missing := _blocks_missing(status)) > MAX_BLOCKS_MISSING:
        return f"{member} is catching up: at least {missing} blocks are missing"
    return ""


def _blocks_missing(status: DriverStatus) -> int:
    """How far this node is behind what f + 1 others say they have: one of them is honest, so that liars
    cannot take healthy nodes out of service."""
    heights = sorted((peer.height for peer in status.peers.values() if peer.reachable), reverse=True)
    faulty = len(status.peers) // 3
    return heights[faulty] - status.height if len(heights) > faulty else 0


class Monitoring:
    """The listener of one node. `look` gives a snapshot, `status` what health depends on; both on the node's
    loop."""

    def __init__(
        self,
        listen: str,
        look: Callable[[], Awaitable[Snapshot]],
        status: Callable[[], DriverStatus],
        member: str,
    ) -> None:
        self._look = look
        self._status = status
        self._member = member
        self._loop = asyncio.get_running_loop()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        host, port = split_address(listen)
        try:
            self._server = _BoundedServer((host, port), self._handler())
        except OSError as error:
            raise MonitoringError(
                f"metrics cannot be served at {listen}: {error.strerror}. Set another monitoring.listen."
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Blocks for a moment."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(ANSWER_SECONDS)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path. Called in a thread of its own."""
        pages = {"/metrics": self._metrics, "/livez": self._live, "/readyz": self._ready}
        page = pages.get(path.partition("?")[0])
        if page is None:
            return _json(404, {"error": f"there is only {', '.join(pages)}"})
        answering = asyncio.run_coroutine_threadsafe(page(), self._loop)
        try:
            return answering.result(ANSWER_SECONDS)
        except TimeoutError:
            answering.cancel()
            return _json(503, {"live": False, "why": f"the loop did not answer in {ANSWER_SECONDS:g} s"})
        except Exception as error:
            _log.exception("%s cannot be answered", path)
            return _json(500, {"error": type(error).__name__})

    async def _metrics(self) -> tuple[int, str, bytes]:
        snapshot = await self._look()
        registry = CollectorRegistry()
        registry.register(_Once(snapshot))
        return 200, CONTENT_TYPE_LATEST, generate_latest(registry) + generate_latest(self._process)

    async def _live(self) -> tuple[int, str, bytes]:
        self._status()
        return _json(200, {"live": True})

    async def _ready(self) -> tuple[int, str, bytes]:
        why = why_not_ready(self._status(), self._member)
        return _json(503 if why else 200, {"ready": not why, "why": why})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:  # the name is http.server's
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Scrapes are not worth a line each."""

        return Handler


class _BoundedServer(ThreadingHTTPServer):
    """Serves `MAX_REQUESTS` connections at a time, each for `CONNECTION_SECONDS` at most."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, if there is one."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In that thread. Who drips its request byte by byte is cut off."""
        guard = threading.Timer(CONNECTION_SECONDS, _hang_up, (request,))
        guard.daemon = True
        guard.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            guard.cancel()
            self._room.release()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Once:
    """A collector of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Any:
        return node_metrics(self._snapshot)


def _json(status: int, value: dict[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode() + b"\n"
