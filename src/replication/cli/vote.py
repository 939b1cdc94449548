"""`acp vote`: cast the vote of one member."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.completion import among
from replication.cli.options import Connection
from replication.cli.output import note, print_json

__all__ = ["vote"]


def vote(
    options: Connection,
    proposal_id: Annotated[str, typer.Argument(metavar="ID", help="The proposal, such as prop-0001.")],
    value: Annotated[
        str,
        typer.Argument(
            metavar="VOTE",
            help="approve, reject or abstain.",
            autocompletion=among("approve", "reject", "abstain"),
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why, at most 1 KiB.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(help="Repeating a request with the same id does nothing twice.", show_default=False),
    ] = None,
) -> None:
    """Cast a vote. The node asked signs it: choose whose vote it is with --node (default: the first node)."""
    with options.open() as client:
        cast = client.vote(
            proposal_id,
            value,
            reason,
            request_id=request_id,
            timeout_seconds=options.timeout,
            node=options.node,
        )
    if options.json:
        print_json(cast)
        return
    proposal = cast.proposal
    state = f"{proposal.status}, {proposal.decision}"
    note(f"{cast.vote.voter_id} voted {cast.vote.value} on {proposal.id}, which is now {state}.")
