"""Runs that need networks of their own go into a process of their own, in a fresh network namespace.

`start_run` is what callers use: it runs a plan here, or there if it must. The other process tells how it goes
in lines of JSON on its standard output, and leaves the result in the run's folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from replication.errors import OperatorError, ReplicationError
from replication.faults.harness.checks import Verdict
from replication.faults.harness.drill import RunPlan, Watcher, carry_out, read_plan, write_plan
from replication.faults.harness.namespaces import fresh_network_command, why_not
from replication.faults.harness.outcome import FaultLog, RunResult, read_result, write_result

__all__ = ["main", "start_run"]

MAX_LINE_BYTES: Final = 1 << 20


async def start_run(plan: RunPlan, directory: Path, watcher: Watcher, *, keep: bool = False) -> RunResult:
    """Run a plan in a new folder, with a network of its own if its scenario asks for one.

    Where the machine does not allow that, the result is NOT RUN, with the reason. Raises `OperatorError` when
    the cluster cannot be started.
    """
    if not plan.scenario.cluster.namespaces:
        return await carry_out(plan, directory, watcher, keep=keep)
    write_plan(plan, directory)
    reason = await asyncio.to_thread(why_not)
    if reason is not None:
        return _not_run(plan, directory, reason)
    await _run_apart(directory, watcher, keep)
    return read_result(directory)


async def _run_apart(directory: Path, watcher: Watcher, keep: bool) -> None:
    command = [*fresh_network_command(), sys.executable, "-m", "replication.faults.harness.isolated"]
    command += [str(directory), *(["--keep"] if keep else [])]
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        limit=MAX_LINE_BYTES,
        start_new_session=True,
    )
    error = ""
    try:
        if child.stdout is not None:
            async for line in child.stdout:
                error = _pass_on(json.loads(line), watcher) or error
        code = await child.wait()
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
            await child.wait()
    if code:
        raise OperatorError(f"The run in a network of its own failed: {error or f'exit code {code}'}")


def _pass_on(message: dict[str, Any], watcher: Watcher) -> str:
    """Tell the watcher what the other process said; the text of an error."""
    kind = message["what"]
    if kind == "stage":
        watcher.stage(message["text"])
    elif kind == "event":
        watcher.event(message["at_ms"], message["text"])
    elif kind == "tick":
        watcher.tick(message["at_ms"], message["decisions"], message["faults"])
    return str(message["text"]) if kind == "error" else ""


def _not_run(plan: RunPlan, directory: Path, reason: str) -> RunResult:
    logs = [FaultLog(planned, problem=reason) for planned in plan.schedule]
    result = RunResult(
        name=plan.scenario.name,
        group=plan.scenario.group.value,
        summary=plan.scenario.summary,
        seed=plan.seed,
        nodes=plan.scenario.cluster.nodes,
        verdict=Verdict.NOT_RUN,
        reasons=[reason],
        checks=[],
        faults=[log.as_document() for log in logs],
        figures={},
        seconds=0.0,
        directory=str(directory),
    )
    write_result(result, directory)
    return result


class _LineWatcher:
    """Says everything as a line of JSON."""

    def stage(self, text: str) -> None:
        _say({"what": "stage", "text": text})

    def event(self, at_ms: int, text: str) -> None:
        _say({"what": "event", "at_ms": at_ms, "text": text})

    def tick(self, at_ms: int, decisions: int, faults: Sequence[str]) -> None:
        _say({"what": "tick", "at_ms": at_ms, "decisions": decisions, "faults": list(faults)})


def _say(message: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), (json.dumps(message) + "\n").encode("utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The other process: run the plan that is in a folder."""
    parser = argparse.ArgumentParser(prog="isolated")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)

    async def run() -> None:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await carry_out(read_plan(options.directory), options.directory, _LineWatcher(), keep=options.keep)

    began = time.monotonic()
    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        return 130
    except (ReplicationError, OSError) as error:
        _say({"what": "error", "text": f"after {time.monotonic() - began:.0f} s: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
