"""Commands and webhooks: what they are given, and what becomes of what they answer."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from replication.client import UsageError
from replication.client.acting import run_command, send_webhook
from replication.client.executor import AT_ONCE, Act, Order, Result
from replication.client.model import ExecutionOutcome

ORDER = Order("ab" * 32, "prop-0007", "quarantine", "agent-7", {"score": 1}, 9, 5, "{}", 3)
DONE, FAILED, PARTIAL = (
    ExecutionOutcome.SUCCEEDED,
    ExecutionOutcome.FAILED,
    ExecutionOutcome.PARTIAL,
)


def run(program: str, seconds: float = 60.0) -> Result:
    return asyncio.run(_act(run_command([sys.executable, "-c", program], seconds)))


async def _act(act: Act) -> Result:
    return await act(ORDER)


def test_a_command_gets_the_order() -> None:
    result = run(
        "import json, os, sys; order = json.load(sys.stdin);"
        "print(order['target'], order['idempotency_key'] == os.environ['ACP_IDEMPOTENCY_KEY'],"
        "os.environ['ACP_ACTION'], os.environ['ACP_PROPOSAL_ID'])"
    )
    assert result == Result(DONE, "agent-7 True quarantine prop-0007")


def test_what_exit_codes_mean() -> None:
    assert run("print('half'); raise SystemExit(75)") == Result(PARTIAL, "half")
    assert run("import sys; sys.stderr.write('why'); raise SystemExit(3)") == Result(
        FAILED, "exit code 3: why"
    )


def test_a_command_that_is_not_there() -> None:
    result = asyncio.run(_act(run_command(["/nowhere/at-all"], 5)))
    assert result.outcome is FAILED
    assert "cannot be run" in result.detail


def test_a_command_that_does_not_end_is_killed_with_its_children() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    result = run(child, 1.0)
    assert result == Result(FAILED, "did not end within 1 s, and was killed")


def test_a_command_that_reads_nothing_and_prints_without_end_is_cut() -> None:
    result = run("for _ in range(300000): print('x' * 9)")
    assert result.outcome is DONE
    assert len(result.detail) <= 64 * 1024


class Hook(BaseHTTPRequestHandler):
    """Answers with the status that the path names; with 200 to /together once all of them have asked, else
    with 500."""

    seen: list[tuple[str, Any]] = []  # noqa: RUF012  # reset by the fixture
    together = threading.Barrier(AT_ONCE)

    def do_POST(self) -> None:  # the name is http.server's
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers["Idempotency-Key"], body))
        self.send_response(self.status())
        self.send_header("Location", "/200")
        self.end_headers()
        self.wfile.write(b"noted")

    def status(self) -> int:
        if self.path != "/together":
            return int(self.path.strip("/"))
        try:
            self.together.wait(50)
        except threading.BrokenBarrierError:
            return 500
        return 200

    def log_message(self, *_arguments: object) -> None:
        """Silence."""


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Result(DONE, "noted")),
        (202, Result(PARTIAL, "HTTP 202: noted")),
        (302, Result(FAILED, "HTTP 302: noted")),
        (500, Result(FAILED, "HTTP 500: noted")),
    ],
)
def test_what_a_webhooks_status_means(hook: str, status: int, result: Result) -> None:
    assert asyncio.run(_act(send_webhook(f"{hook}/{status}", 60))) == result
    ((key, body),) = Hook.seen
    assert (key, body["target"], body["certificate"]) == (ORDER.key, "agent-7", "{}")


def test_as_many_webhooks_at_a_time_as_actions(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the machine is."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    act = send_webhook(f"{hook}/together", 60)

    async def all_at_once() -> list[Result]:
        return list(await asyncio.gather(*(act(ORDER) for _ in range(AT_ONCE))))

    assert asyncio.run(all_at_once()) == [Result(DONE, "noted")] * AT_ONCE


def test_a_webhook_that_is_not_there() -> None:
    result = asyncio.run(_act(send_webhook("http://127.0.0.1:9/", 5)))
    assert result.outcome is FAILED
    assert "did not answer" in result.detail


@pytest.mark.parametrize("url", ["ftp://x/", "file:///etc/passwd", "agent", "http://"])
def test_what_is_no_webhook(url: str) -> None:
    with pytest.raises(UsageError, match="is not a webhook"):
        send_webhook(url, 5)
