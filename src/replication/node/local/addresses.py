"""Where the nodes of a new cluster listen."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from replication.errors import CallerError, OperatorError
from replication.identity.genesis import is_address
from replication.node.config import split_address

__all__ = [
    "ClusterPlanError",
    "checked_address",
    "is_loopback",
    "pick_free_ports",
    "plan_addresses",
    "plan_metrics",
    "wildcard",
]

DEFAULT_BASE_PORT: Final = 7001
DEFAULT_METRICS_PORT: Final = 9101
LOOPBACK: Final = "127.0.0.1"

PORT_RANGE: Final = range(20_000, 32_000)
"""Below where Linux takes ports for outgoing connections, which could take one of ours before the node
starts.
"""

_HIGHEST_PORT: Final = 65_535


class ClusterPlanError(CallerError):
    """A cluster with these numbers, hosts, ports or policies is not possible; nothing was made."""

    reason: ClassVar[str] = "CLUSTER_PLAN"


def plan_addresses(nodes: int, hosts: Sequence[str], base_port: int | None) -> list[str]:
    """The address of each node. Nodes on one host count their ports up. Raises `ClusterPlanError`."""
    if hosts and len(hosts) not in (1, nodes):
        raise ClusterPlanError(
            f"{len(hosts)} hosts are given for {nodes} nodes. Give one for each, or one for all."
        )
    if not hosts and base_port is None:
        return [f"{LOOPBACK}:{port}" for port in pick_free_ports(nodes)]
    first = DEFAULT_BASE_PORT if base_port is None else base_port
    used: dict[str, int] = {}
    addresses = []
    for index in range(nodes):
        host = hosts[index % len(hosts)] if hosts else LOOPBACK
        if is_address(host) and len(hosts) == nodes:
            addresses.append(checked_address(host))
            continue
        port = used.get(host, first)
        used[host] = port + 1
        if not 1 <= port <= _HIGHEST_PORT:
            raise ClusterPlanError(
                f"Port {port} does not exist. Choose a --base-port from 1 to {_HIGHEST_PORT - nodes + 1}."
            )
        addresses.append(checked_address(f"{host}:{port}"))
    return addresses


def plan_metrics(addresses: Sequence[str]) -> list[str]:
    """Where each node serves metrics, given the address of each. Raises `ClusterPlanError`."""
    taken = {split_address(address) for address in addresses}
    free = iter(pick_free_ports(len(addresses), {port for _, port in taken}))
    planned = []
    for host, _ in (split_address(address) for address in addresses):
        if is_loopback(host):
            planned.append(f"{LOOPBACK}:{next(free)}")
            continue
        port = DEFAULT_METRICS_PORT
        while (host, port) in taken:
            port += 1
        taken.add((host, port))
        planned.append(f"{wildcard(host)}:{port}")
    return planned


def pick_free_ports(count: int, besides: Collection[int] = ()) -> list[int]:
    """`count` ports of this machine that nobody listens on now, none of them in `besides`."""
    order = [port for port in PORT_RANGE if port not in besides]
    secrets.SystemRandom().shuffle(order)
    found: list[int] = []
    for port in order:
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OperatorError(f"Fewer than {count} ports are free on this machine. Choose them with --base-port.")


def checked_address(address: str) -> str:
    try:
        split_address(address)
    except ValueError as error:
        raise ClusterPlanError(f"{address!r:.200} cannot be a node's address: it {error}.") from error
    return address


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def wildcard(host: str) -> str:
    """All interfaces of a host: its name elsewhere may be no address of its own (NAT, containers)."""
    return "[::]" if ":" in host else "0.0.0.0"  # noqa: S104


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
