"""`acp vote`: cast the vote of one member."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.cli.completion import among
from replication.cli.options import CLIENT_ROUNDS, Connection
from replication.cli.output import note, print_json

if TYPE_CHECKING:
    from replication.client import Client

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
    home: Annotated[
        Path | None,
        typer.Option(help="Vote as the node of this home, on its own host.", metavar="DIR"),
    ] = None,
) -> None:
    """Cast a vote. The node asked signs it: choose whose vote it is with --node (default: the first node).

    A node may have a list of those who may have it vote. On its host, --home always works.
    """
    with options.open() if home is None else _on_its_host(home) as client:
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


def _on_its_host(home: Path) -> Client:
    """A client of the node of `home` and no other, with the node's own certificate."""
    from replication.client import Client, resolve
    from replication.node.home import check_home
    from replication.node.local.contact import own_address

    checked = check_home(home)
    handle = resolve(
        endpoints=[f"{checked.config.id}={own_address(checked)}"],
        certificate=checked.home.tls_certificate,
        key=checked.home.tls_key,
        authority=checked.home.tls_authority,
        genesis=checked.home.genesis,
        environment={},
    )
    return Client(handle.only(checked.config.id), rounds=CLIENT_ROUNDS)
