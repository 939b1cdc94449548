"""`acp close`: end a vote early."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.options import Connection
from replication.cli.output import print_json, show_proposal

__all__ = ["close"]


def close(
    options: Connection,
    proposal_id: Annotated[str, typer.Argument(metavar="ID", help="The proposal, such as prop-0001.")],
) -> None:
    """End the vote on a proposal early. Its proposer's node is asked, since only that one can.

    Closing early approves nothing that the missing votes could still have changed.
    """
    with options.open() as client:
        proposal = client.close(proposal_id, timeout_seconds=options.timeout, node=options.node)
    if options.json:
        print_json(proposal)
    else:
        show_proposal(proposal)
