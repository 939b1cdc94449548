"""Executes the bring-up of deploy/README.md, word for word, on hosts that have a network each.

Run as a program inside a fresh network namespace: ``python -m tests.support.deployment FOLDER``. Hosts are
folders and namespaces; `scp` is a program of ours that copies between the folders. Prints JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from replication.faults.harness.namespaces import PORT, Namespaces

README: Final = Path(__file__).parents[2] / "deploy" / "README.md"
NODES: Final = ("node-1", "node-2", "node-3", "node-4")
EXECUTOR: Final = "executor-1"
AUTHORITY: Final = "authority"
WAIT_SECONDS: Final = 30.0

SCP: Final = """#!/bin/sh
# scp FILE HOST: where hosts are folders beside each other
set -eu
cp "$1" "$HOSTS/${2%:}/"
"""

_BLOCK: Final = re.compile(r"^```sh (authority|node|executor)( service)?\n(.*?)^```$", re.M | re.S)


def blocks() -> list[tuple[str, bool, str]]:
    """The commands of the bring-up: where they run, whether they keep running, and their text."""
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## Bring-up") : text.index("## In containers")]
    return [(where, bool(service), code) for where, service, code in _BLOCK.findall(section)]


class Rehearsal:
    """The hosts, and what runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.networks = Namespaces([*NODES, EXECUTOR])
        self.services: list[subprocess.Popen[bytes]] = []
        (folder / "bin").mkdir()
        (folder / "bin" / "scp").write_text(SCP, encoding="utf-8")
        (folder / "bin" / "scp").chmod(0o755)
        for host in (AUTHORITY, *NODES, EXECUTOR):
            (folder / host).mkdir()

    def environment(self, host: str) -> dict[str, str]:
        number = (*NODES, EXECUTOR, AUTHORITY).index(host)
        address = [*Namespaces.hosts(len(NODES) + 1), ""][number]
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ACP_")}
        return {**kept, "PATH": path, "HOSTS": str(self.folder), "NAME": host, "ADDRESS": f"{address}:{PORT}"}

    def start(self, host: str, code: str, **options: Any) -> subprocess.Popen[bytes]:
        command = ["sh", "-eu", "-c", code]
        if host != AUTHORITY:  # which stands where the cables meet
            command = self.networks.command(host, command)
        return subprocess.Popen(
            command, cwd=self.folder / host, env=self.environment(host), start_new_session=True, **options
        )

    def run(self, hosts: tuple[str, ...], code: str) -> None:
        """Run commands on hosts, at the same time."""
        started = [(host, self.start(host, code, stdout=sys.stderr)) for host in hosts]
        for host, process in started:
            if process.wait(120):
                raise SystemExit(f"{host}: exit code {process.returncode} of:\n{code}")

    def serve(self, hosts: tuple[str, ...], code: str) -> None:
        for host in hosts:
            with (self.folder / host / "service.log").open("wb") as log:
                self.services.append(self.start(host, code, stdout=log, stderr=log))

    def ask(self, *arguments: str) -> Any:
        """Ask the cluster as the authority's administrator."""
        done = subprocess.run(
            ["acp", *arguments, "--dir", AUTHORITY, "--json"],
            cwd=self.folder / AUTHORITY,
            env=self.environment(AUTHORITY),
            capture_output=True,
            timeout=60,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def until(self, condition: Any, what: str) -> Any:
        give_up = time.monotonic() + WAIT_SECONDS
        while not (answer := condition()):
            if time.monotonic() > give_up:
                raise SystemExit(f"not within {WAIT_SECONDS:g} s: {what}")
            time.sleep(0.1)
        return answer

    def stop(self) -> None:
        """End the services: the shell of each and what it started, which are one process group."""
        for process in self.services:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self.services:
            process.wait(20)
            give_up = time.monotonic() + 20
            with contextlib.suppress(ProcessLookupError):  # the whole group has ended
                while time.monotonic() < give_up:
                    os.killpg(process.pid, 0)
                    time.sleep(0.05)
                os.killpg(process.pid, signal.SIGKILL)
        self.networks.stop()


def main(folder: Path) -> None:
    """Execute all blocks; then look at what came out."""
    rehearsal = Rehearsal(folder)
    places = {"authority": (AUTHORITY,), "node": NODES, "executor": (EXECUTOR,)}
    try:
        rehearsal.networks.start()
        served = False
        for where, service, code in blocks():
            if service:
                rehearsal.serve(places[where], code)
                served = True
                continue
            if served:  # a person waits until it has started, too
                rehearsal.until(lambda: rehearsal.ask("members", "list"), "the cluster answers")
                rehearsal.until(lambda: all_reachable(rehearsal), "all members are there")
            rehearsal.run(places[where], code)
        shown = rehearsal.until(lambda: executed(rehearsal), "the executor has reported")
        carried_out = (folder / EXECUTOR / "carried-out.json").read_text(encoding="utf-8")
        sys.stdout.write(json.dumps({"proposal": shown, "carried_out": carried_out}) + "\n")
    finally:
        rehearsal.stop()


def all_reachable(rehearsal: Rehearsal) -> bool:
    status = rehearsal.ask("status")
    return status is not None and json.dumps(status).count('"reachable": true') >= len(NODES)


def executed(rehearsal: Rehearsal) -> Any:
    shown = rehearsal.ask("show", "prop-0001")
    return shown if shown is not None and shown["status"] == "executed" else None


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
