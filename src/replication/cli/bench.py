"""`acp bench`: how fast a cluster decides, and what a decision costs."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.options import DirectoryOption, JsonOption
from replication.cli.output import console, note, pairs, print_json

if TYPE_CHECKING:
    from replication.cli.load import Measurement
    from replication.client import ClusterHandle

__all__ = ["bench"]

APPROVE_ALL = """\
# A policy for measurements: approves everything.
[[rule]]
when = 'true'
vote = "approve"
reason = "measurement"
"""


def bench(
    nodes: Annotated[int, typer.Option(help="How many voters in a temporary cluster.", min=1, max=100)] = 4,
    clients: Annotated[int, typer.Option(help="How many proposals are under way at once.", min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.1)] = 10.0,
    directory: DirectoryOption = None,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread/--one-node", help="Spread the clients over all nodes, or ask the first one only."
        ),
    ] = True,
    json: JsonOption = False,
) -> None:
    """Measure decisions per second and latency, from propose to the committed decision with automatic votes.

    Without --dir, a temporary cluster is started and removed. With --dir, the running cluster is used; its
    voters must decide by themselves. Exit code 1 when an acknowledged decision is missing on a reachable
    node."""
    from replication.cli.load import measure
    from replication.client import open_folder

    async def run(handle: ClusterHandle) -> Measurement:
        note(f"Measuring for {seconds:g} s with {clients} clients on {len(handle.endpoints)} nodes …")
        return await measure(handle, clients=clients, seconds=seconds, spread=spread)

    if directory is not None:
        measurement = asyncio.run(run(open_folder(directory)))
    else:
        measurement = _on_temporary_cluster(nodes, run)
    if json:
        print_json(measurement.as_document())
    else:
        _show(measurement)
    if not measurement.complete or not measurement.load.decisions:
        raise typer.Exit(1)


def _on_temporary_cluster(nodes: int, run: Any) -> Measurement:
    """Start a cluster that approves everything, measure it, stop it, and remove its files."""
    from replication.client import open_folder, wait_until_ready
    from replication.node.local.processes import LocalCluster, stop_on_signal
    from replication.node.local.provision import PolicyChoice, node_homes, provision_cluster

    async def work(cluster: LocalCluster, directory: Path) -> Measurement:
        handle = open_folder(directory)
        await wait_until_ready(handle, cluster.require_alive)
        pids = ", ".join(f"{home.name} {pid}" for home, pid in cluster.pids().items())
        note(f"Started {nodes} nodes (process ids: {pids}).")
        result: Measurement = await run(handle)
        return result

    with tempfile.TemporaryDirectory(prefix="acp-bench-") as folder, stop_on_signal():
        policy = Path(folder) / "approve.toml"
        policy.write_text(APPROVE_ALL, encoding="utf-8")
        directory = Path(folder) / "cluster"
        provision_cluster(directory, nodes=nodes, name="bench", policy=PolicyChoice("cel", file=policy))
        with LocalCluster(node_homes(directory)) as cluster:
            cluster.start()
            return asyncio.run(work(cluster, directory))


def _show(measurement: Measurement) -> None:
    facts = measurement.as_document()
    per_decision = {
        "signatures verified": facts["signatures_verified_per_decision"],
        "fsyncs": facts["fsyncs_per_decision"],
        "CPU seconds, all processes": facts["cpu_seconds_per_decision"],
        "  of these, nodes": facts["node_cpu_seconds_per_decision"],
        "  of these, this client": facts["client_cpu_seconds_per_decision"],
    }
    screen = console()
    screen.print(
        pairs(
            {
                "nodes": facts["nodes"],
                "clients": facts["clients"],
                "seconds": facts["seconds"],
                "decisions": f"{facts['decisions']} ({_listing(facts['outcomes'])})",
                "decisions per second": facts["decisions_per_second"],
                "latency p50 / p99 / max": (
                    f"{facts['latency_p50_ms']} / {facts['latency_p99_ms']} / {facts['latency_max_ms']} ms"
                ),
                "decisions per block": facts["decisions_per_block"],
                **{f"per decision: {name}": value for name, value in per_decision.items()},
                "errors": _listing(facts["errors"]) or "none",
                "reachable at the end": ", ".join(facts["reachable"]),
                "heads equal": facts["heads_equal"],
            }
        )
    )
    lost = {node: len(ids) for node, ids in measurement.missing.items() if ids}
    if lost:
        screen.print(f"MISSING: acknowledged decisions that a node does not have: {_listing(lost)}")
    elif not measurement.heads_equal:
        screen.print("The nodes did not reach one and the same record in time.")
    else:
        screen.print("Every acknowledged decision is on every reachable node.")


def _listing(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
