"""A network of its own for each node, with real interfaces, where the machine allows it.

The whole drill runs in a fresh network namespace (see `isolated`), so that nothing of the host's network is
touched, and everything vanishes with the last process. In it, a bridge connects one pair of virtual
interfaces for each node; the node's end is in a namespace of the node's own, which a sleeping process keeps
alive. The drill's clients sit at the bridge.

A cable is pulled by taking the bridge's end down; packets from one node to another are lost by a blackhole
route. Unlike behind a proxy, the node's own kernel sees all that: retransmissions, time-outs, unreachable
hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from replication.faults.harness.fault import NotPossibleError

__all__ = ["Namespaces", "fresh_network_command", "why_not"]

BRIDGE: Final = "acp0"
SUBNET: Final = "10.77.0"
"""Private, and inside a namespace of its own: it cannot clash with anything."""

PORT: Final = 7001
TOOL_SECONDS: Final = 10.0
_TOOLS: Final = ("ip", "unshare", "nsenter", "cat")


def fresh_network_command() -> list[str]:
    """The beginning of a command that runs the rest of it in a fresh network namespace."""
    command = ["unshare", "--net"]
    return command if os.geteuid() == 0 else [*command, "--user", "--map-root-user"]


def why_not() -> str | None:
    """Why nodes cannot have networks of their own on this machine; None when they can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"the program {missing[0]} is not installed"
    problem = _run([*fresh_network_command(), "ip", "link", "add", BRIDGE, "type", "bridge"])
    return f"network namespaces with a bridge cannot be made here: {problem}" if problem else None


@dataclass(slots=True)
class _Place:
    """One node's namespace: the process that keeps it, the names of both ends of its cable, and its
    address.

    """

    keeper: subprocess.Popen[bytes]
    outside: str
    inside: str
    address: str


class Namespaces:
    """The networks of all members. Only inside of a fresh network namespace."""

    def __init__(self, members: Sequence[str]) -> None:
        self.members = tuple(members)
        self._places: dict[str, _Place] = {}

    @staticmethod
    def hosts(nodes: int) -> list[str]:
        """The addresses that the nodes will have."""
        return [f"{SUBNET}.{number}" for number in range(1, nodes + 1)]

    def start(self) -> None:
        """Make bridge, cables and namespaces. Raises `NotPossibleError`."""
        for command in (
            "ip link set lo up",
            f"ip link add {BRIDGE} type bridge",
            f"ip addr add {SUBNET}.254/24 dev {BRIDGE}",
            f"ip link set {BRIDGE} up",
        ):
            _must(command.split())
        for number, (member, address) in enumerate(
            zip(self.members, self.hosts(len(self.members)), strict=True), 1
        ):
            self._places[member] = self._make(number, address)

    def stop(self) -> None:
        """End the processes that keep the namespaces."""
        for place in self._places.values():
            place.keeper.kill()
            place.keeper.wait(TOOL_SECONDS)

    def command(self, member: str, command: Sequence[str]) -> list[str]:
        """`command`, to be run in the member's network."""
        return [*self._enter(self._places[member]), *command]

    def set_cable(self, member: str, *, up: bool) -> None:
        """Plug the member's cable in or out, at the bridge."""
        _must(["ip", "link", "set", self._places[member].outside, "up" if up else "down"])

    def set_route(self, source: str, target: str, *, lost: bool) -> None:
        """Lose all packets from one member to another, or stop losing them."""
        what = "add" if lost else "del"
        route = ["ip", "route", what, "blackhole", f"{self._places[target].address}/32"]
        _must([*self._enter(self._places[source]), *route])

    def set_queue(self, member: str, settings: Sequence[str]) -> None:
        """Let the kernel's netem mistreat what the member sends; without settings, no longer."""
        place = self._places[member]
        what = (
            ["add", "dev", place.inside, "root", "netem", *settings]
            if settings
            else ["del", "dev", place.inside, "root"]
        )
        _must([*self._enter(place), "tc", "qdisc", *what])

    def traffic(self, member: str) -> tuple[int, int]:
        """Bytes that went to and came from the member, at the bridge's end of its cable."""
        answer = subprocess.run(  # noqa: S603  # a fixed tool, no shell
            ["ip", "-j", "-s", "link", "show", "dev", self._places[member].outside],  # noqa: S607
            capture_output=True, timeout=TOOL_SECONDS, check=True,
        )  # fmt: skip
        link: Any = json.loads(answer.stdout)[0]
        return link["stats64"]["tx"]["bytes"], link["stats64"]["rx"]["bytes"]

    def _make(self, number: int, address: str) -> _Place:
        # The keeper prints once it is in its namespace; before, the cable would be put into ours. It lives
        # for as long as our end of its standard input, so that it cannot outlive us.
        keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if keeper.stdout is not None:
            keeper.stdout.readline()
        place = _Place(keeper, f"acp-out-{number}", "acp-in", address)
        enter = self._enter(place)
        for command in (
            [
                "ip",
                "link",
                "add",
                place.outside,
                "type",
                "veth",
                "peer",
                "name",
                place.inside,
                "netns",
                str(keeper.pid),
            ],
            ["ip", "link", "set", place.outside, "master", BRIDGE, "up"],
            [*enter, "ip", "link", "set", "lo", "up"],
            [*enter, "ip", "addr", "add", f"{address}/24", "dev", place.inside],
            [*enter, "ip", "link", "set", place.inside, "up"],
        ):
            _must(command)
        return place

    @staticmethod
    def _enter(place: _Place) -> list[str]:
        return ["nsenter", f"--net=/proc/{place.keeper.pid}/ns/net", "--"]


def _must(command: Sequence[str]) -> None:
    problem = _run(command)
    if problem:
        raise NotPossibleError(f"{' '.join(command[-6:])}: {problem}")


def _run(command: Sequence[str]) -> str:
    """Run a tool; empty if it did well, else what it said."""
    try:
        done = subprocess.run(  # noqa: S603  # fixed tools, no shell
            list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    words = (done.stderr or done.stdout).decode(errors="replace").strip()
    return "" if done.returncode == 0 else words.splitlines()[-1] if words else f"exit code {done.returncode}"
