"""Behaviours as faults (armed in running nodes), and a second process with a copy of a node's home: its
twin.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from replication.faults.harness.behaviour import Behaviour
from replication.faults.harness.behaviours import BEHAVIOURS
from replication.faults.harness.fault import Fault, Kind, Need, NotPossibleError, Planned
from replication.faults.harness.inside import Armed
from replication.faults.harness.process_faults import END_SECONDS, StoppingFault, describe_code
from replication.faults.harness.scenario import Group
from replication.node.config import NodeConfig, read_config, write_config
from replication.node.local.processes import log_tail, spawn_node
from replication.node.local.provision import pick_free_ports

if TYPE_CHECKING:
    import subprocess

    from replication.faults.harness.site import Site

__all__ = ["BEHAVIOUR_FAULTS", "behaviour_fault"]


class BehaviourFault(StoppingFault):
    """A behaviour, armed from the beginning of the fault to its end."""

    behaviour: ClassVar[Behaviour]

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        super().__init__(planned, members, site, draw)
        self._ends: dict[str, int] = {}

    async def begin(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            if node.inside is None:
                raise NotPossibleError(f"{member} does not run under the wrapper")
            self._ends[member] = len(node.exits)
            if self.behaviour.ends:
                node.allow_end(self.who)
            node.inside.arm(Armed(self._key(member), self.behaviour.name, self.planned.settings))

    async def observe(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            for text in [] if node.inside is None else node.inside.effects(self._key(member)):
                self.effect(f"{member}: {text}")
            node.notice_end()
            if self.behaviour.ends and len(node.exits) > self._ends[member]:
                self.effect(f"{member}: ended ({describe_code(node.exits[-1].code)})")

    async def end(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            if node.inside is not None:
                node.inside.disarm(self._key(member))
        await self.observe()
        if self.behaviour.ends:
            for member in self.members:
                await self._start_again(member)
            for member in self.members:
                await self.wait_up(member)
        self._require_parts()

    @property
    def is_complete(self) -> bool:
        return self.took_effect and not self._missing_parts()

    def _missing_parts(self) -> list[str]:
        seen = [effect.text for effect in self.effects]
        return [
            part
            for part in self.behaviour.parts(self.planned.settings)
            if not any(text.endswith(part) or f"{part}:" in text for text in seen)
        ]

    def _require_parts(self) -> None:
        """What was to happen and did not makes the run NOT RUN, whatever else happened."""
        if missing := self._missing_parts():
            raise NotPossibleError(f"it never came to: {', '.join(missing)}")

    async def _start_again(self, member: str) -> None:
        """Wait until the process has ended, if the behaviour has struck, and start it again."""
        node = self.site.nodes[member]
        struck = node.inside is not None and bool(node.inside.effects(self._key(member)))
        if struck and len(node.exits) == self._ends[member]:
            await node.wait_end(END_SECONDS * self.site.pace)
            await self.observe()
            if len(node.exits) == self._ends[member]:
                self.violation(f"{member} goes on after {self.behaviour.name}, and has to stop")
        node.forbid_end(self.who)
        node.start()

    def _key(self, member: str) -> str:
        return f"{self.planned.number} {member}"


def behaviour_fault(behaviour: Behaviour) -> type[Fault]:
    """The kind of fault that arms a behaviour."""
    kind = Kind(
        behaviour.name,
        behaviour.group,
        behaviour.summary,
        settings=behaviour.settings,
        needs=frozenset({Need.INSIDE}),
        blames=behaviour.lies,
    )
    return type(f"{behaviour.name.title()}Fault", (BehaviourFault,), {"kind": kind, "behaviour": behaviour})


class Twin(Fault):
    """A second process with the same key and a copy of everything: two nodes that both think they are the
    member.

    """

    kind: ClassVar[Kind] = Kind(
        "twin",
        Group.VOTER,
        "a second process with a copy of the node's home and key, at another port: it may contradict itself",
        blames=True,
    )

    async def begin(self) -> None:
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        for member in self.members:
            node = self.site.nodes[member]
            if not node.pause(self._who):
                raise NotPossibleError(f"{member} does not run")
            home = self.site.directory / f"twin-{self.planned.number}" / member
            await asyncio.to_thread(shutil.copytree, node.home.path, home)
            node.resume(self._who)
            (home / "node.log").unlink(missing_ok=True)
            config = read_config(home / "config.toml")
            write_config(home / "config.toml", _at_another_port(config))
            self._children[home] = spawn_node(home)

    async def observe(self) -> None:
        for home, child in self._children.items():
            code = child.poll()
            if code is not None:
                self.effect(
                    f"the twin of {home.name} ended ({describe_code(code)}): {log_tail(home, 1).strip()}"
                )
            elif "stream is open" in log_tail(home, 50):
                self.effect(f"the twin of {home.name} (pid {child.pid}) is connected to others")

    async def end(self) -> None:
        for home, child in self._children.items():
            child.kill()
            give_up = time.monotonic() + 5.0
            while child.poll() is None and time.monotonic() < give_up:
                await asyncio.sleep(0.02)
            shutil.rmtree(home, ignore_errors=True)

    @property
    def _who(self) -> str:
        return f"twin {self.planned.number}"


def _at_another_port(config: NodeConfig) -> NodeConfig:
    host = config.listen.rpartition(":")[0]
    (port,) = pick_free_ports(1)
    return NodeConfig(
        config.id, f"{host}:{port}", config.policy, config.timing, config.log_level, config.peers
    )


BEHAVIOUR_FAULTS: Final[tuple[type[Fault], ...]] = (
    *(behaviour_fault(behaviour) for behaviour in BEHAVIOURS.values()),
    Twin,
)
