"""`acp summary`: counts over the whole record."""

from __future__ import annotations

from replication.cli.options import Connection
from replication.cli.output import console, pairs, print_json

__all__ = ["summary"]


def summary(options: Connection) -> None:
    """Count voters, proposals by state, and audit entries."""
    from replication.client.model import to_json

    with options.open() as client:
        counts = client.summary(timeout_seconds=options.timeout, node=options.node)
    if options.json:
        print_json(counts)
        return
    console().print(pairs({name.replace("_", " "): value for name, value in to_json(counts).items()}))
