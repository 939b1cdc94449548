"""Two ways to carry out an order: a command of this host, or a webhook. Both may be asked twice for one
decision, with the same idempotency key.

A command gets the order as JSON on its standard input and in its environment (`ACP_IDEMPOTENCY_KEY`,
`ACP_PROPOSAL_ID`, `ACP_ACTION`, `ACP_TARGET`); exit code 0 is succeeded, 75 (EX_TEMPFAIL of sysexits.h)
partial, anything else failed. What it prints is the detail of the receipt.

A webhook gets the order as JSON by POST, with the header ``Idempotency-Key``; a status of 200, 201 or 204 is
succeeded, another 2xx, such as 202 or 207, partial, anything else failed. Its body is the detail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from replication.client.errors import UsageError
from replication.client.executor import AT_ONCE, Act, Order, Result
from replication.client.model import ExecutionOutcome

__all__ = ["run_command", "send_webhook"]

EX_TEMPFAIL: Final = 75
MAX_OUTPUT_BYTES: Final = 64 * 1024
"""Of what a command prints or a webhook answers; a receipt takes its first KiB."""

_SUCCEEDED: Final = frozenset({200, 201, 204})


def run_command(command: Sequence[str], timeout_seconds: float) -> Act:
    """Run `command` for each order. One that does not end in time is killed, with its children."""

    async def act(order: Order) -> Result:
        environment = {
            **os.environ,
            "ACP_IDEMPOTENCY_KEY": order.key,
            "ACP_PROPOSAL_ID": order.proposal_id,
            "ACP_ACTION": order.action,
            "ACP_TARGET": order.target,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Result(ExecutionOutcome.FAILED, f"{command[0]} cannot be run: {error}")
        try:
            async with asyncio.timeout(timeout_seconds):
                output = await _talk(process, json.dumps(order.as_json()).encode())
        except TimeoutError:
            return Result(
                ExecutionOutcome.FAILED, f"did not end within {timeout_seconds:g} s, and was killed"
            )
        finally:
            await _end(process)
        text = output.decode("utf-8", "replace").strip()
        if process.returncode == 0:
            return Result(ExecutionOutcome.SUCCEEDED, text)
        if process.returncode == EX_TEMPFAIL:
            return Result(ExecutionOutcome.PARTIAL, text)
        return Result(ExecutionOutcome.FAILED, f"exit code {process.returncode}: {text}")

    return act


def send_webhook(url: str, timeout_seconds: float) -> Act:
    """POST each order to `url`, which is http or https. Redirects are not followed: a decision goes to whom
    the operator named. Raises UsageError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r:.200} is not a webhook. Give an http:// or https:// address.")
    opener = urllib.request.build_opener(_NoRedirect())
    # The loop's own pool has fewer threads on a small machine, and other uses.
    threads = ThreadPoolExecutor(AT_ONCE, "webhook")

    def post(order: Order) -> Result:
        request = urllib.request.Request(  # noqa: S310  # the scheme was checked above
            url,
            data=json.dumps(order.as_json()).encode(),
            headers={"Content-Type": "application/json", "Idempotency-Key": order.key},
            method="POST",
        )
        try:
            with opener.open(request, timeout=timeout_seconds) as response:
                status, body = response.status, response.read(MAX_OUTPUT_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read(MAX_OUTPUT_BYTES)
        except (OSError, ValueError) as error:
            return Result(ExecutionOutcome.FAILED, f"{parts.hostname} did not answer: {error}")
        text = body.decode("utf-8", "replace").strip()
        if status in _SUCCEEDED:
            return Result(ExecutionOutcome.SUCCEEDED, text)
        outcome = ExecutionOutcome.PARTIAL if 200 <= status < 300 else ExecutionOutcome.FAILED
        return Result(outcome, f"HTTP {status}: {text}")

    async def act(order: Order) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, post, order)

    return act


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: object) -> None:
        """Leave the redirect as the answer."""


async def _talk(process: asyncio.subprocess.Process, order: bytes) -> bytes:
    """Give the order, and read what is printed: the first part is kept, the rest read and dropped."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the command was started without pipes")
    with contextlib.suppress(ConnectionError):  # a command need not read it
        process.stdin.write(order)
        await process.stdin.drain()
    process.stdin.close()
    kept = b""
    while chunk := await process.stdout.read(MAX_OUTPUT_BYTES):
        kept = (kept + chunk)[:MAX_OUTPUT_BYTES]
    await process.wait()
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave nothing of the command behind when it was not waited for."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
