"""`acp execute`: report how the execution of an approved proposal ended."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.options import Connection
from replication.cli.output import print_json, show_proposal

__all__ = ["execute"]


def execute(
    options: Connection,
    proposal_id: Annotated[str, typer.Argument(metavar="ID", help="The proposal, such as prop-0001.")],
    outcome: Annotated[str, typer.Option(help="succeeded, failed or partial.")] = "succeeded",
    detail: Annotated[str, typer.Option(help="What was done, at most 1 KiB.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(help="Repeating a request with the same id does nothing twice.", show_default=False),
    ] = None,
) -> None:
    """Record a signed receipt for an approved proposal."""
    with options.open() as client:
        proposal = client.execute(
            proposal_id,
            outcome,
            detail,
            request_id=request_id,
            timeout_seconds=options.timeout,
            node=options.node,
        )
    if options.json:
        print_json(proposal)
    else:
        show_proposal(proposal)
