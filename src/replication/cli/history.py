"""`acp history`: how one member voted."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.completion import member_ids
from replication.cli.options import Connection
from replication.cli.output import console, print_json, table, time_text

__all__ = ["history"]


def history(
    options: Connection,
    voter_id: Annotated[
        str, typer.Argument(metavar="VOTER", help="A member, such as node-2.", autocompletion=member_ids)
    ],
) -> None:
    """List the votes of one member, oldest first."""
    with options.open() as client:
        items = list(client.history(voter_id, timeout_seconds=options.timeout, node=options.node))
    if options.json:
        print_json(items)
        return
    rows = [
        (
            item.proposal_id,
            item.vote.value,
            item.vote.reason,
            item.vote.revision,
            time_text(item.vote.voted_ms),
        )
        for item in items
    ]
    console().print(table("", ("proposal", "vote", "reason", ">revision", "voted"), rows))
