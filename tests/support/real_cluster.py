"""Real clusters for tests: node processes on this machine, over mTLS, made and run as `acp` does it.

Everything here waits for conditions, and ends what it started.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import acp_processes

from replication.client import (
    AsyncClient,
    Client,
    ClusterPicture,
    open_folder,
    wait_until_ready,
    wait_until_settled,
)
from replication.client.errors import NotFoundError
from replication.client.model import Proposal
from replication.identity.genesis import Genesis, load_genesis
from replication.ledger.verify import verify_export
from replication.node.local.processes import LocalCluster
from replication.node.local.provision import DEFAULT_RULES, node_homes, provision_cluster

WAIT_SECONDS = 90.0
"""Nothing takes that long, but on a machine that has much else to do."""


@dataclass(frozen=True)
class Answer:
    """What a run of `acp` gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)


class Cluster:
    """A provisioned cluster and its processes."""

    def __init__(self, directory: Path, genesis: Genesis) -> None:
        self.directory = directory
        self.genesis = genesis
        self.local = LocalCluster(node_homes(directory))

    def home(self, node: str) -> Path:
        return self.directory / node

    def start(self) -> ClusterPicture:
        """Start what does not run, and wait until all members hear each other."""
        self.local.start()
        return asyncio.run(
            wait_until_ready(open_folder(self.directory), self.local.require_alive, WAIT_SECONDS)
        )

    def client(self, role: str = "admin") -> Client:
        """A client as people have it: it tries again until its time is up."""
        return Client(open_folder(self.directory, role))

    def pid(self, node: str) -> int:
        return self.local.pids()[self.home(node)]

    def signal(self, node: str, number: signal.Signals) -> None:
        os.kill(self.pid(node), number)

    def kill(self, node: str) -> None:
        """kill -9, and wait until the process is gone."""
        child = self.local.children[self.home(node)]
        child.kill()
        child.wait(WAIT_SECONDS)

    def stop(self, node: str) -> int:
        """SIGTERM; the exit code."""
        child = self.local.children[self.home(node)]
        child.terminate()
        return child.wait(WAIT_SECONDS)

    def start_one(self, node: str) -> None:
        """Start one node that has ended."""
        one = LocalCluster([self.home(node)])
        one.start()
        self.local.children.update(one.children)

    def wait_for_end(self, node: str) -> tuple[int, str]:
        """Wait until a node has ended by itself; its exit code and its log."""
        code = self.local.children[self.home(node)].wait(WAIT_SECONDS)
        return code, self.log(node)

    def log(self, node: str) -> str:
        return (self.home(node) / "node.log").read_text(encoding="utf-8")

    def settle(self, answering: int | None = None) -> ClusterPicture:
        """Wait until all nodes that answer, and at least `answering`, have one record."""

        async def work() -> ClusterPicture:
            async with AsyncClient(open_folder(self.directory), rounds=1) as client:
                needed = answering or self.genesis.members.n
                picture = await wait_until_settled(client, WAIT_SECONDS, needed)
            assert picture is not None, f"no common record within {WAIT_SECONDS:g} s"
            return picture

        return asyncio.run(work())

    def heads(self) -> dict[str, tuple[int, int, str]]:
        """Height, length and head of each node's chain, as it says itself."""
        with self.client("viewer") as client:
            heads = {member: client.audit_head(node=member) for member in self.genesis.members.ids}
        return {member: (head.height, head.audit_size, head.audit_head) for member, head in heads.items()}

    def export(self, node: str) -> list[bytes]:
        """The lines of a node's export."""
        with self.client("viewer") as client:
            return [f"{line}\n".encode() for line in client.export_chain(node=node)]

    def verified_exports(self) -> dict[str, list[bytes]]:
        """Exports of all nodes, each verified with only the genesis file."""
        exports = {member: self.export(member) for member in self.genesis.members.ids}
        for lines in exports.values():
            verify_export(lines, self.genesis)
        return exports

    def acp(self, *arguments: str, stdin: str = "", role: str | None = None) -> Answer:
        """Run `acp` as a program of its own, with this cluster's folder."""
        return run_acp(*arguments, *(("--role", role) if role else ()), directory=self.directory, stdin=stdin)


def run_acp(*arguments: str, directory: Path | None = None, stdin: str = "", seconds: float = 60.0) -> Answer:
    """Run `acp` as a program of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "ACP_DIR"}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    if directory is not None:
        environment["ACP_DIR"] = str(directory)
    return Answer(*acp_processes.run(arguments, environment, stdin, seconds))


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """A cluster that is there already, run, and stopped at the end."""
    cluster = Cluster(directory, load_genesis(directory / "genesis.json"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.local.stop()


@contextmanager
def made_cluster(directory: Path, *, start: bool = True, **options: Any) -> Iterator[Cluster]:
    """Provision a cluster, run it, and stop what is left of it."""
    genesis = provision_cluster(directory, **{"nodes": 4, "rules": DEFAULT_RULES, **options})
    cluster = Cluster(directory, genesis)
    try:
        if start:
            cluster.start()
        yield cluster
    finally:
        for child in cluster.local.children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
        cluster.local.stop()


def known(client: Client, proposal: Proposal, node: str) -> Proposal:
    """Wait until a node has a proposal, and its decision if it is decided; what it says of it.

    An answer means that the node which gave it has the block, and that the others will get it."""

    def look() -> Proposal | None:
        try:
            found = client.get_proposal(proposal.id, node=node)
        except NotFoundError:
            return None
        return found if found.decided or not proposal.decided else None

    found: Proposal = until(look, f"{node} has {proposal.id}")
    return found


def until(condition: Callable[[], Any], what: str = "it", seconds: float = WAIT_SECONDS) -> Any:
    """Wait for a condition; what it gives once that is true of it."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return found
