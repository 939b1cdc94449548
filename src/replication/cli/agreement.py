"""`acp agreement` and `acp blocs`: who votes like whom."""

from __future__ import annotations

from typing import Annotated

import typer

from replication.cli.options import Connection
from replication.cli.output import console, note, print_json, table

__all__ = ["agreement", "blocs"]


def agreement(options: Connection) -> None:
    """Show how often each pair of members agreed, from 0 to 1."""
    with options.open() as client:
        matrix = client.agreement(timeout_seconds=options.timeout, node=options.node)
    if options.json:
        rates = {
            voter: dict(zip(matrix.voter_ids, row, strict=True))
            for voter, row in zip(matrix.voter_ids, matrix.rates, strict=True)
        }
        print_json({"voter_ids": matrix.voter_ids, "rates": rates})
        return
    rows = [
        (voter, *(f"{rate:.2f}" for rate in row))
        for voter, row in zip(matrix.voter_ids, matrix.rates, strict=True)
    ]
    console().print(table("", ("", *(f">{voter}" for voter in matrix.voter_ids)), rows))


def blocs(
    options: Connection,
    threshold: Annotated[
        float, typer.Option(help="Agreement from which two members vote alike, up to 1.")
    ] = 0.9,
) -> None:
    """Show groups of members that vote alike."""
    with options.open() as client:
        found = client.blocs(threshold, timeout_seconds=options.timeout, node=options.node)
    if options.json:
        print_json(found)
        return
    rows = [(len(bloc), ", ".join(bloc)) for bloc in found.blocs]
    console().print(table("", (">size", "members"), rows))
    if not found.complete:
        note("There are more blocs than the search lists; raise --threshold to see all of the tightest.")
