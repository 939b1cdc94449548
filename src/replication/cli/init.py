"""`acp init`: the files of a new cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replication.cli.options import JsonOption
from replication.cli.output import note, print_json

__all__ = ["MetricsOption", "PolicyOption", "init"]

PolicyOption = Annotated[
    str,
    typer.Option(
        help="How the voters decide: manual, cel:FILE or python:package.module:callable.", metavar="POLICY"
    ),
]


MetricsOption = Annotated[
    str | None,
    typer.Option(
        help="Serve metrics and health there, HOST:PORT, in plain HTTP without authentication.",
        show_default=False,
    ),
]


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to make; must be empty or missing.")
    ],
    nodes: Annotated[int, typer.Option(help="How many voters. 4 survive one fault, 7 two.")] = 4,
    name: Annotated[str, typer.Option(help="The cluster's name, for people.")] = "agent-consensus",
    hosts: Annotated[
        str,
        typer.Option(
            help="Hosts of the nodes, separated by commas: HOST or HOST:PORT for each node, or one for all."
        ),
    ] = "",
    base_port: Annotated[
        int | None, typer.Option(help="First port. Default: free ports of this machine; 7001 with --hosts.")
    ] = None,
    policy: PolicyOption = "manual",
    rules: Annotated[
        Path | None,
        typer.Option(
            help="Voting rules (TOML): shares, windows, and what approval needs.", show_default=False
        ),
    ] = None,
    executor: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of an executor, who gets a home of its own; may be repeated.", show_default=False
        ),
    ] = None,
    metrics: Annotated[
        bool,
        typer.Option(
            "--metrics",
            help="Nodes serve metrics and health in plain HTTP: on loopback here, at port 9101 with --hosts.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make the files of a new cluster: authority, genesis, node homes, client certificates.

    This machine makes, and has seen, the keys of all nodes. `acp enrol` has each host make its own.
    """
    from replication.node.config import read_config
    from replication.node.local.provision import node_homes, parse_policy, provision_cluster
    from replication.node.local.rules_file import read_rules

    genesis = provision_cluster(
        directory,
        nodes=nodes,
        name=name,
        hosts=[host.strip() for host in hosts.split(",")] if hosts else (),
        base_port=base_port,
        policy=parse_policy(policy),
        executors=executor or (),
        rules=read_rules(rules),
        metrics=metrics,
    )
    members = [{"id": member.id, "address": member.address} for member in genesis.members.members]
    if metrics:
        for member, home in zip(members, node_homes(directory), strict=True):
            member["metrics"] = read_config(home / "config.toml").monitoring or ""
    if json:
        print_json({"cluster_id": genesis.cluster_id, "directory": str(directory), "members": members})
        return
    note(
        f"Cluster {genesis.name} ({genesis.cluster_id.hex()[:16]}…) with {len(members)} nodes in {directory}:"
    )
    for member in members:
        note(f"  {member['id']}  {member['address']}")
    if metrics:
        note("Metrics, in plain HTTP without authentication: only operators should reach these ports.")
        for member in members:
            note(f"  {member['id']}  http://{member['metrics']}/metrics")
    for one in genesis.members.executors:
        note(f"  executor {one.id}: {directory / 'executors' / one.id}")
    note(f"Keep {directory / 'ca' / 'ca.key'} safe and off the nodes.")
    note(f"Start the cluster with: acp up --dir {directory}")
