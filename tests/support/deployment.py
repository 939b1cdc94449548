"""Executes deploy/README.md, word for word, on hosts that have a network each.

Run as a program inside a fresh network namespace: ``python -m tests.support.deployment FOLDER``. Hosts are
folders and namespaces; `scp` and `systemctl` are programs of ours: the one copies between the folders, the
other keeps a process for each node. Says on stderr what it does; prints JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from replication.client import Client, ClusterPicture, RemoteError, merge, open_folder
from replication.client.model import Proposal
from replication.faults.harness.namespaces import PORT, Namespaces

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "deploy" / "README.md"
FOUNDERS: Final = ("node-1", "node-2", "node-3", "node-4")
LATER: Final = "node-5"
NODES: Final = (*FOUNDERS, LATER)
EXECUTOR: Final = "executor-1"
AUTHORITY: Final = "authority"
WAIT_SECONDS: Final = 60.0

ACT: Final = "--run 'tee -a carried-out.json'"
"""What the executor's unit is told to do, as in the README's bring-up."""

SCP: Final = """#!/bin/sh
# scp FILE HOST: where hosts are folders beside each other
set -eu
cp "$1" "$HOSTS/${2%:}/"
"""
SYSTEMCTL: Final = f"""#!/bin/sh
# systemctl start|stop|restart UNIT@NAME, on its own host
exec {sys.executable} -m tests.support.deployment systemctl "$1" "$2"
"""

_SECTION: Final = re.compile(r"^##+ (.*)\n((?:(?!##).*\n)*)", re.M)
_BLOCK: Final = re.compile(r"^```sh (authority|node|voter|host|executor)( service)?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of the README: where they run, and whether they keep running."""

    where: str
    service: bool
    code: str


def sections() -> dict[str, list[Block]]:
    """The commands under each heading of the README that has some."""
    found = {
        title: [Block(where, bool(service), code) for where, service, code in _BLOCK.findall(text)]
        for title, text in _SECTION.findall(README.read_text(encoding="utf-8"))
    }
    return {title: blocks for title, blocks in found.items() if blocks}


def systemctl(verb: str, instance: str) -> None:
    """Start or stop what the unit in deploy/systemd runs, with this folder for /var/lib/acp."""
    unit, _, name = instance.partition("@")
    text = (ROOT / "deploy" / "systemd" / f"{unit}@.service").read_text(encoding="utf-8")
    started = next(line for line in text.splitlines() if line.startswith("ExecStart=/opt/acp/bin/"))
    started = started.removeprefix("ExecStart=/opt/acp/bin/").replace("/var/lib/acp/%i", name)
    command = shlex.split(started.replace("$ACP_ACT", ACT))
    note = Path("service.pid")
    if verb in ("stop", "restart"):
        end(note, signal.SIGTERM)
    if verb in ("start", "restart"):
        with Path("service.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        note.write_text(str(process.pid), encoding="ascii")


def end(note: Path, how: signal.Signals) -> None:
    """End the process group that the file names, and wait until all of it has ended."""
    if not note.exists():
        return
    group = int(note.read_text(encoding="ascii"))
    note.unlink()
    give_up = time.monotonic() + WAIT_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)
    while running(group):
        if time.monotonic() > give_up:
            os.killpg(group, signal.SIGKILL)
            raise SystemExit(f"process group {group} does not end")
        time.sleep(0.05)


def running(group: int) -> bool:
    """Whether a process of the group runs: one that nobody has waited for yet (a zombie) does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text(encoding="utf-8").rpartition(") ")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


class Rehearsal:
    """The hosts, and what runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.networks = Namespaces([*NODES, EXECUTOR])
        (folder / "bin").mkdir()
        for name, program in (("scp", SCP), ("systemctl", SYSTEMCTL)):
            (folder / "bin" / name).write_text(program, encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        for host in (AUTHORITY, *NODES, EXECUTOR):
            (folder / host).mkdir()
        self.started: list[subprocess.Popen[bytes]] = []

    def environment(self, host: str, **more: str) -> dict[str, str]:
        number = (*NODES, EXECUTOR, AUTHORITY).index(host)
        address = [*Namespaces.hosts(len(NODES) + 1), ""][number]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ACP_")}
        own = {"NAME": host, "HOST": address, "ADDRESS": f"{address}:{PORT}", "HOSTS": str(self.folder)}
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**kept, **own, "PATH": path, "PYTHONPATH": str(ROOT), **more}

    def start(self, host: str, code: str, environment: dict[str, str], **options: Any) -> Any:
        command = ["sh", "-eu", "-c", code]
        if host != AUTHORITY:  # which stands where the cables meet
            command = self.networks.command(host, command)
        return subprocess.Popen(
            command, cwd=self.folder / host, env=environment, start_new_session=True, **options
        )

    def run(self, hosts: tuple[str, ...], code: str, **more: str) -> None:
        """Run commands on hosts, at the same time."""
        started = [
            (host, self.start(host, code, self.environment(host, **more), stdout=sys.stderr))
            for host in hosts
        ]
        for host, process in started:
            if process.wait(120):
                raise SystemExit(f"{host}: exit code {process.returncode} of:\n{code}")

    def serve(self, hosts: tuple[str, ...], code: str) -> None:
        """Start what keeps running, in the foreground of a shell."""
        for host in hosts:
            with (self.folder / host / "service.log").open("ab") as log:
                process = self.start(host, code, self.environment(host), stdout=log, stderr=log)
            (self.folder / host / "service.pid").write_text(str(process.pid), encoding="ascii")
            self.started.append(process)

    def ask(self, *arguments: str) -> Any:
        """Ask the cluster as the authority's administrator, in the words of a shell."""
        done = subprocess.run(
            ["acp", *arguments, "--dir", AUTHORITY, "--json"],
            cwd=self.folder / AUTHORITY,
            env=self.environment(AUTHORITY),
            capture_output=True,
            timeout=60,
            check=False,
        )
        return json.loads(done.stdout)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        give_up = time.monotonic() + WAIT_SECONDS
        while not (answer := condition()):
            if time.monotonic() > give_up:
                raise SystemExit(f"not within {WAIT_SECONDS:g} s: {what}")
            time.sleep(0.1)
        return answer

    def stop(self) -> None:
        """End all that runs, and the networks."""
        try:
            for host in (*NODES, EXECUTOR):
                end(self.folder / host / "service.pid", signal.SIGTERM)
        finally:
            self.networks.stop()


class Operator:
    """Works through the README. What it notes down comes out at the end."""

    def __init__(self, hosts: Rehearsal) -> None:
        self.hosts = hosts
        self.members = list(FOUNDERS)
        self.performed: list[str] = []
        self.seen: dict[str, Any] = {}
        self.began = time.monotonic()

    @cached_property
    def client(self) -> Client:
        """For what a person would do with their eyes: looking until something is there."""
        return Client(open_folder(self.hosts.folder / AUTHORITY / AUTHORITY, "admin"))

    def renew_client(self) -> None:
        """Connect again, with the files that are there now."""
        self.client.disconnect()
        del self.client

    def bring_up(self) -> None:
        """Execute the bring-up on all hosts."""
        places = {
            "authority": (AUTHORITY,),
            "node": FOUNDERS,
            "voter": FOUNDERS[:3],
            "executor": (EXECUTOR,),
        }
        served = False
        for block in sections()["Bring-up"]:
            if block.service:
                self.hosts.serve(places[block.where], block.code)
                served = True
                continue
            if served:  # a person waits until it has started, too
                self.settle()
            self.hosts.run(places[block.where], block.code)
        self.seen["incident"] = self.receipt("prop-0001")
        self.note("Bring-up")

    def perform(self, title: str, node: str) -> None:
        """Execute a section of the runbook for one node, and wait until all is well again."""
        others = tuple(voter for voter in FOUNDERS if voter != node)
        places = {
            "authority": (AUTHORITY,),
            "node": (node,),
            "voter": others[:3],
            "host": (*FOUNDERS, EXECUTOR),
            "executor": (EXECUTOR,),
        }
        for block in sections()[title]:
            more = {"NAME": node, "ACP_DIR": AUTHORITY} if block.where == AUTHORITY else {}
            if "$PROPOSAL" in block.code:
                more["PROPOSAL"] = self.hosts.until(partial(self.newest, others[:3]), "the voters have it")
            self.hosts.run(places[block.where], block.code, **more)
        self.settle()
        self.note(title, node)

    def note(self, title: str, node: str = "all") -> None:
        sys.stderr.write(f"--- {time.monotonic() - self.began:.1f} s: done: {title}: {node}\n")
        self.performed.append(title)

    def picture(self) -> ClusterPicture | None:
        answers = self.client.survey()
        return merge(answers) if answers else None

    def settle(self) -> None:
        """Wait until each member answers for itself, hears the others, signs, and has their record."""

        def is_well() -> bool:
            picture = self.picture()
            return (
                picture is not None
                and sorted(member.id for member in picture.members) == sorted(self.members)
                and picture.all_connected
                and picture.settled
                and not picture.muted
            )

        self.hosts.until(is_well, f"all of {', '.join(self.members)} are well")

    def decide(self, target: str) -> None:
        """An incident, decided by three founders that run, ends in a receipt."""
        proposal = self.client.propose("quarantine", target, timeout_seconds=WAIT_SECONDS)

        def running() -> list[str]:
            answers = self.client.survey()
            voters = [str(node) for node in FOUNDERS if node in answers and not answers[node].muted][:3]
            return voters if len(voters) == 3 and self.has(proposal, *voters) else []

        voters = self.hosts.until(running, "three founders run, sign, and have the proposal")
        self.hosts.run(tuple(voters), f"acp vote {proposal.id} approve --home $NAME")
        self.seen[target] = self.receipt(proposal.id)

    def newest(self, voters: Sequence[str]) -> str | None:
        """The id of the newest proposal, once it is the same at all these nodes."""
        found = {[*self.client.list_proposals(node=voter)][-1].id for voter in voters}
        return found.pop() if len(found) == 1 else None

    def has(self, proposal: Proposal, *nodes: str) -> bool:
        try:
            return all(self.client.get_proposal(proposal.id, node=node) for node in nodes)
        except RemoteError:
            return False

    def receipt(self, proposal_id: str) -> Any:
        def executed() -> Any:
            found = self.client.get_proposal(proposal_id)
            return found if found.status == "executed" else None

        found = self.hosts.until(executed, f"a receipt for {proposal_id}")
        return {
            "target": found.target,
            "decision": found.decision,
            "executors": [receipt.executor_id for receipt in found.receipts],
        }

    def kill(self, node: str) -> None:
        end(self.hosts.folder / node / "service.pid", signal.SIGKILL)

    def lose(self, node: str) -> Path:
        """The host is lost: its node dies, and its disk is gone. What was on it is kept aside."""
        self.kill(node)
        aside = self.hosts.folder / f"{node}-lost"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(self.hosts.folder / node, aside)
        (self.hosts.folder / node).mkdir()
        return aside


def work_through(operator: Operator) -> None:
    """The whole README, in an order in which each section has something to do."""
    hosts = operator.hosts
    operator.bring_up()
    for node in FOUNDERS[:2]:  # of which one is not the coordinator
        operator.perform("Watch", node)
    for node in FOUNDERS[2:]:
        operator.perform("Upgrade", node)
    coordinator_dies(operator)
    operator.perform("Rotate transport certificates", "node-1")
    operator.perform("Replace the authority", "node-1")
    operator.renew_client()
    operator.decide("agent-of-the-new-authority")
    operator.members.append(LATER)
    operator.perform("Add a node", LATER)
    operator.lose("node-3")
    operator.perform("Replace a node", "node-3")

    for node in ("node-1", "node-2"):
        operator.perform("Back up", node)
    operator.decide("agent-after-the-backup")
    aside = operator.lose("node-1")
    shutil.copy(aside / "node-1.backup", hosts.folder / "node-1")
    operator.perform("Restore a host that is lost", "node-1")
    operator.perform("Restore a record that is damaged", "node-2")
    operator.perform("Go on without a backup", "node-4")

    quorum_is_lost(operator)
    operator.decide("agent-at-the-end")
    operator.perform("Read the evidence", "node-1")


def coordinator_dies(operator: Operator) -> None:
    """What status, doctor, report and metrics show of a coordinator that was killed."""
    hosts = operator.hosts
    before = hosts.ask("status")
    dead = before["coordinator"]
    other = next(node for node in FOUNDERS[:2] if node != dead)
    address = hosts.environment(other)["HOST"]
    operator.kill(dead)
    operator.decide("agent-without-coordinator")

    def metric(name: str) -> float:
        with urlopen(f"http://{address}:9101/metrics", timeout=10) as response:  # of the namespaces
            lines = response.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])

    reachable = f'acp_member_reachable{{member="{dead}"}}'
    hosts.until(lambda: metric(reachable) == 0, f"{reachable} is 0 at {other}")

    def successor() -> Any:
        """The newest turn in the report, once it is one after the death."""
        turns = hosts.ask("report")["coordinators"]
        was = before["epoch"], before["view"]
        return next((turn for turn in turns[-1:] if (turn["epoch"], turn["view"]) > was), None)

    turn = hosts.until(successor, "a change of coordinators in the report")
    status, report = hosts.ask("status"), hosts.ask("report")
    operator.seen["death"] = {
        "dead": dead,
        "view": [before["view"], status["view"], metric("acp_view ")],
        "coordinator": [status["coordinator"], turn["coordinator"]],
        "unreachable": [member["id"] for member in status["members"] if not member["reachable"]],
        "doctor": [finding["what"] for finding in hosts.ask("doctor") if finding["subject"] == dead],
        "can_decide": [status["can_decide"], report["can_decide"]],
    }
    operator.perform("Upgrade", dead)  # which starts it again


def quorum_is_lost(operator: Operator) -> None:
    """Two of five nodes are stopped: the cluster says so, and goes on by itself when they are back."""
    away = ("node-4", LATER)
    operator.hosts.run(away, "systemctl stop acp-node@$NAME")
    operator.hosts.until(
        lambda: (picture := operator.picture()) and not picture.can_decide, "no quorum, and all know"
    )
    status = operator.hosts.ask("status")
    operator.seen["without quorum"] = {
        "can_decide": status["can_decide"],
        "unreachable": [member["id"] for member in status["members"] if not member["reachable"]],
    }
    operator.hosts.run(away, "systemctl start acp-node@$NAME")
    operator.settle()


def main(folder: Path) -> None:
    """Work through the README; then say what came out."""
    rehearsal = Rehearsal(folder)
    operator = Operator(rehearsal)
    try:
        rehearsal.networks.start()
        work_through(operator)
        carried_out = (folder / EXECUTOR / "carried-out.json").read_text(encoding="utf-8")
        answer = {"performed": operator.performed, "seen": operator.seen, "carried_out": carried_out}
        sys.stdout.write(json.dumps(answer) + "\n")
    finally:
        rehearsal.stop()


if __name__ == "__main__":
    if sys.argv[1] == "systemctl":
        systemctl(*sys.argv[2:])
    else:
        main(Path(sys.argv[1]).resolve())
