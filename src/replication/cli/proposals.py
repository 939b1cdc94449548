"""`acp proposals` and `acp show`: what was proposed, and what became of it."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.completion import among
from replication.cli.options import Connection
from replication.cli.output import console, print_json, show_proposal, table, time_text

__all__ = ["proposals", "show"]


def proposals(
    options: Connection,
    status: Annotated[
        str | None,
        typer.Option(
            help="Only open, decided, executed or expired ones.",
            show_default=False,
            autocompletion=among("open", "decided", "executed", "expired"),
        ),
    ] = None,
    unconfirmed: Annotated[
        bool, typer.Option("--unconfirmed", help="Only approved ones that nobody has executed with success.")
    ] = False,
) -> None:
    """List proposals, oldest first."""
    with options.open() as client:
        found = list(
            client.list_proposals(
                status, unconfirmed=unconfirmed, timeout_seconds=options.timeout, node=options.node
            )
        )
    if options.json:
        print_json(found)
        return
    rows = [
        (
            item.id,
            item.action,
            item.target,
            item.status,
            item.decision,
            item.proposer_id,
            time_text(item.decided_ms),
        )
        for item in found
    ]
    columns = ("id", "action", "target", "status", "decision", "proposer", "decided")
    console().print(table("", columns, rows))


def show(
    options: Connection,
    proposal_id: Annotated[str, typer.Argument(metavar="ID", help="The proposal, such as prop-0001.")],
) -> None:
    """Show one proposal with its evidence, votes, tally and receipts."""
    with options.open() as client:
        proposal = client.get_proposal(proposal_id, timeout_seconds=options.timeout, node=options.node)
    if options.json:
        print_json(proposal)
    else:
        show_proposal(proposal)
