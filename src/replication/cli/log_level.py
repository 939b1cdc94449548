"""`acp log-level`: what a running node logs."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.options import Connection
from replication.cli.output import note, print_json

__all__ = ["log_level"]


def log_level(
    options: Connection,
    level: Annotated[str, typer.Argument(metavar="LEVEL", help="debug, info, warning or error.")],
) -> None:
    """Set what the node named by --node logs, until it restarts; config.toml stays as it is. Role: admin."""
    if options.node is None:
        raise typer.BadParameter("name the node whose log level is to change", param_hint="--node")
    with options.open() as client:
        previous = client.set_log_level(level, node=options.node, timeout_seconds=options.timeout)
    if options.json:
        print_json({"node": options.node, "level": level, "previous": previous})
    else:
        note(f"{options.node} logs at {level} (before: {previous}), until it restarts")
