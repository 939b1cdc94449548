"""`acp health`: whether the node of a home works, for probes that run beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replication.cli.options import JsonOption
from replication.cli.output import note, print_json

__all__ = ["health"]


def health(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The node's home.")],
    service: Annotated[
        str, typer.Option(help="live: the process answers. ready: it can also serve clients.")
    ] = "live",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.1)] = 5.0,
    json: JsonOption = False,
) -> None:
    """Ask the node of HOME, with its own certificate, whether it works; exit code 6 if it does not.

    For a supervisor. That a quorum is missing is no reason to restart a node, so `live` does not ask for one.
    """
    from replication.node.home import check_home
    from replication.node.local.contact import ask_health

    answer = ask_health(check_home(home), service, timeout)
    if json:
        print_json({"home": str(home), "service": service, "answer": answer})
    else:
        note(f"{home}: {service}: {answer}")
    if answer != "SERVING":
        raise typer.Exit(6)
