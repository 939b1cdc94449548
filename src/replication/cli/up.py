"""`acp up` and `acp down`: a whole cluster on this machine."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.cli.init import PolicyOption
from replication.cli.options import DirectoryOption, JsonOption
from replication.cli.output import note, print_json

if TYPE_CHECKING:
    from replication.client import ClusterPicture
    from replication.node.local.processes import LocalCluster

__all__ = ["down", "up"]

WATCH_SECONDS = 0.5
"""How often the foreground looks whether a node has ended."""


def up(
    directory: DirectoryOption = None,
    nodes: Annotated[int | None, typer.Option(help="How many voters, for a new cluster (default 4).")] = None,
    policy: PolicyOption = "manual",
    base_port: Annotated[int | None, typer.Option(help="First port, for a new cluster.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the cluster answers.")] = False,
    seconds: Annotated[float, typer.Option(help="How long the cluster may take to be ready.")] = 30.0,
    json: JsonOption = False,
) -> None:
    """Start a cluster on this machine, and make it first if DIR does not exist.

    In the foreground, Ctrl-C stops it. With --detach, `acp down` does.
    """
    from replication.client import UsageError, open_folder, wait_until_ready
    from replication.node.local.processes import LocalCluster, stop_on_signal
    from replication.node.local.provision import node_homes

    if directory is None:
        raise UsageError("No folder is given. Say where the cluster is, or is to be made, with --dir DIR.")
    _make_if_missing(directory, nodes, policy, base_port)
    cluster = LocalCluster(node_homes(directory))
    with stop_on_signal() as stopped:
        try:
            started = cluster.start()
            picture = asyncio.run(wait_until_ready(open_folder(directory), cluster.require_alive, seconds))
        except BaseException:
            cluster.stop(note)
            raise
        _announce(directory, cluster, picture, len(started), detach, json)
        if not detach:
            _keep_running(cluster, stopped)


def down(
    directory: DirectoryOption = None,
    seconds: Annotated[float, typer.Option(help="How long nodes may take before they are killed.")] = 10.0,
    json: JsonOption = False,
) -> None:
    """Stop all nodes of a cluster on this machine."""
    from replication.client import UsageError
    from replication.node.local.processes import running_pid, stop_pids
    from replication.node.local.provision import node_homes

    if directory is None:
        raise UsageError("No folder is given. Say which cluster to stop with --dir DIR.")
    pids = {home: running_pid(home) for home in node_homes(directory)}
    running = {home: pid for home, pid in pids.items() if pid is not None}
    stop_pids(running, seconds=seconds, report=note)
    if json:
        print_json({"stopped": [home.name for home in running]})
    elif running:
        note(f"Stopped {', '.join(home.name for home in running)}.")
    else:
        note(f"No node of {directory} is running on this machine.")


def _make_if_missing(directory: Path, nodes: int | None, policy: str, base_port: int | None) -> None:
    from replication.client import UsageError
    from replication.node.local.provision import node_homes, parse_policy, provision_cluster

    if not (directory / "genesis.json").exists():
        provision_cluster(directory, nodes=nodes or 4, policy=parse_policy(policy), base_port=base_port)
        note(f"Made a new cluster in {directory}.")
        return
    existing = len(node_homes(directory))
    if nodes is not None and nodes != existing:
        raise UsageError(
            f"{directory} holds a cluster of {existing} nodes, not {nodes}. Leave --nodes out, or choose "
            f"another --dir."
        )
    if policy != "manual" or base_port is not None:
        note("The cluster exists; --policy and --base-port are only for new ones and change nothing.")


def _announce(
    directory: Path, cluster: LocalCluster, picture: ClusterPicture, started: int, detach: bool, json: bool
) -> None:
    status = picture.status
    if json:
        pids = {home.name: pid for home, pid in cluster.pids().items()}
        print_json({"cluster_id": status.cluster_id, "directory": str(directory), "started": pids})
        return
    note(f"{started} of {status.n} nodes started; coordinator {status.coordinator}, f = {status.f}.")
    note("Try, in another terminal:" if not detach else "Try:")
    for command in (
        f"export ACP_DIR={directory.resolve()}",
        "acp status",
        """acp propose quarantine agent-7 --evidence '{"score": 0.97}'""",
        "acp vote prop-0001 approve --node node-1      # and so on, for each node with a manual policy",
        "acp show prop-0001",
        "acp certificate prop-0001 -o decision.json",
        f"acp verify decision.json --genesis {directory.resolve()}/genesis.json",
        "acp audit log",
    ):
        note(f"  {command}")
    note(f"Stop it with: acp down --dir {directory}" if detach else "Stop it with Ctrl-C.")


def _keep_running(cluster: LocalCluster, stopped: threading.Event) -> None:
    """Stay until told to stop. A node that ends by itself is reported; the others go on without it."""
    reported: set[Path] = set()
    try:
        while cluster.pids():
            for home, code in cluster.ended().items():
                if home not in reported:
                    reported.add(home)
                    note(f"{home.name} ended with exit code {code}; see {home / 'node.log'}.")
            stopped.wait(WATCH_SECONDS)
    except KeyboardInterrupt:
        note("Stopping …")
    finally:
        cluster.stop(note)
    note("All nodes are stopped.")
