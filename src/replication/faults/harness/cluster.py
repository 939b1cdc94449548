"""The cluster of a drill: made, started, put together with proxies or networks, and cleared away."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from replication.client import AsyncClient, open_folder, wait_until_ready
from replication.errors import OperatorError
from replication.faults.harness.behaviours import BEHAVIOURS
from replication.faults.harness.catalogue import KINDS
from replication.faults.harness.fault import Need
from replication.faults.harness.inside import InsideFolder
from replication.faults.harness.links import Links
from replication.faults.harness.namespaces import PORT, Namespaces
from replication.faults.harness.nodes import NodeExit, NodeUnderTest
from replication.faults.harness.scenario import Scenario
from replication.faults.harness.site import Site
from replication.identity.genesis import Genesis
from replication.node.config import Timing, read_config, write_config
from replication.node.local.provision import PolicyChoice, provision_cluster

__all__ = ["ClusterUnderTest", "pace_of"]

READY_SECONDS: Final = 120.0
"""Nodes of a large drill share few cores, and each has to import everything first."""

START_CPU_SECONDS: Final = 1.5
FIRST_SECONDS: Final = 1.5
"""A node takes so much work until it answers; the connections between nodes take about so long besides."""

LONGEST_PACE: Final = 10.0

POLICY_RULES: Final[Mapping[str, str]] = {
    "approve": '[[rule]]\nwhen = "true"\nvote = "approve"\nreason = "drill"\n',
    "reject": '[[rule]]\nwhen = "true"\nvote = "reject"\nreason = "drill"\n',
    "mixed": (
        '[[rule]]\nwhen = "evidence.score >= 0.4"\nvote = "approve"\nreason = "drill"\n'
        '[[rule]]\nwhen = "true"\nvote = "reject"\nreason = "drill"\n'
    ),
}
"""The rules of the policies that a scenario can name; the workload's evidence has a score from 0 to 1."""


class ClusterUnderTest:
    """One cluster in `run_directory`/cluster. Use as an async context manager: it is running inside."""

    def __init__(
        self,
        scenario: Scenario,
        run_directory: Path,
        seed: int,
        report_end: Callable[[NodeExit], None],
        bug: str = "",
    ) -> None:
        self.scenario = scenario
        self.directory = run_directory / "cluster"
        self._inside = run_directory / "inside"
        self._seed = seed
        self._report_end = report_end
        self._stack = AsyncExitStack()
        needs = frozenset().union(*(KINDS[fault.kind].needs for fault in scenario.all_faults))
        self._needs_links = Need.LINKS in needs
        self._behaviours = sorted({fault.kind for fault in scenario.all_faults} & set(BEHAVIOURS))
        self._bug = bug
        self._is_wrapped = bool(self._behaviours or bug) or scenario.cluster.record_signatures
        self.genesis: Genesis
        self.site: Site

    @property
    def is_wrapped(self) -> bool:
        """Whether the nodes run under the wrapper, so that their signatures are known."""
        return self._is_wrapped

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def signed_logs(self) -> dict[str, Path]:
        """Where each member's signatures were written down."""
        return {
            member: node.inside.signed
            for member, node in self.site.nodes.items()
            if node.inside is not None and node.inside.signed.exists()
        }

    async def _build(self) -> None:
        plan = self.scenario.cluster
        policies = {name: self._policy(name) for name in {plan.policy, *plan.policies.values()}}
        self.genesis = await asyncio.to_thread(
            provision_cluster,
            self.directory,
            nodes=plan.nodes,
            name="drill",
            hosts=Namespaces.hosts(plan.nodes) if plan.namespaces else (),
            base_port=PORT if plan.namespaces else None,
            policy=policies[plan.policy],
            policies={member: policies[name] for member, name in plan.policies.items()},
            rules=plan.rules,
        )
        members = self.genesis.members.ids
        links = await self._make_links()
        networks = self._make_networks(members)
        nodes = {member: self._make_node(member, links, networks) for member in members}
        observer = AsyncClient(open_folder(self.directory, "viewer"))
        self._stack.push_async_callback(observer.disconnect)
        self._stack.push_async_callback(_stop_all, nodes)
        self.site = Site(self.directory, members, nodes, observer, links, networks)
        began = time.monotonic()
        for node in nodes.values():
            node.start()
        await wait_until_ready(observer.handle, self._require_alive, READY_SECONDS)
        self.site.began = time.monotonic()
        self.site.pace = pace_of(self.site.began - began, plan.nodes)
        for node in nodes.values():
            node.pace = self.site.pace

    def _policy(self, name: str) -> PolicyChoice:
        if name == "manual":
            return PolicyChoice()
        path = self.directory.parent / f"policy-{name}.toml"
        path.write_text(POLICY_RULES[name], encoding="utf-8")
        return PolicyChoice("cel", file=path)

    async def _make_links(self) -> Links | None:
        if not self._needs_links:
            return None
        links = Links({member.id: member.address for member in self.genesis.members.members}, self._seed)
        self._stack.push_async_callback(links.stop)
        await links.start()
        return links

    def _make_networks(self, members: tuple[str, ...]) -> Namespaces | None:
        if not self.scenario.cluster.namespaces:
            return None
        networks = Namespaces(members)
        self._stack.callback(networks.stop)
        networks.start()
        return networks

    def _make_node(self, member: str, links: Links | None, networks: Namespaces | None) -> NodeUnderTest:
        home = self.directory / member
        config = read_config(home / "config.toml")
        timing = Timing(**{**_as_dict(config.timing), **self.scenario.cluster.timing})
        peers = config.peers if links is None else links.peers_of(member)
        write_config(home / "config.toml", replace(config, timing=timing, peers=peers))
        inside = InsideFolder(self._inside / member) if self._is_wrapped else None
        command = self._command(home, inside)
        if networks is not None:
            command = networks.command(member, command)
        node = NodeUnderTest(member, home, command, self._report_end)
        node.inside = inside
        return node

    def _command(self, home: Path, inside: InsideFolder | None) -> list[str]:
        if inside is None:
            return [sys.executable, "-m", "replication.cli", "node", "--home", str(home.resolve())]
        command = [sys.executable, "-m", "replication.faults.harness.node_with_faults"]
        command += ["--home", str(home.resolve()), "--inside", str(inside.path.resolve())]
        command += ["--drill", str(os.getpid())]
        for name in self._behaviours:
            command += ["--behaviour", name]
        if self._bug:
            command += ["--bug", self._bug]
        return command

    def _require_alive(self) -> None:
        for node in self.site.nodes.values():
            ended = node.notice_end()
            if ended is not None:
                raise OperatorError(
                    f"{ended.member} ended with code {ended.code} while the cluster was starting. "
                    f"Its log ends with:\n{ended.words}"
                )


def pace_of(start_seconds: float, nodes: int, cores: int | None = None) -> float:
    """How much longer than on an idle machine things take on this one, from how long the nodes took to start.

    Bounds in seconds mean an idle machine: on one that is busy with other things, nothing can be said about
    the cluster from the time that something takes. So they are stretched by this, and the report says so.
    """
    idle_seconds = FIRST_SECONDS + START_CPU_SECONDS * nodes / (cores or os.cpu_count() or 1)
    return min(max(start_seconds / idle_seconds, 1.0), LONGEST_PACE)


async def _stop_all(nodes: Mapping[str, NodeUnderTest]) -> None:
    """End all nodes; whatever happens, none stays behind."""
    try:
        await asyncio.gather(*(node.stop() for node in nodes.values()))
    finally:
        for node in nodes.values():
            node.kill_now()


def _as_dict(timing: Timing) -> dict[str, int]:
    return {name: getattr(timing, name) for name in Timing.__slots__}
