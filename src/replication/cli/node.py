"""`acp node`: run one voter in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["node"]


def node(
    home: Annotated[Path, typer.Option(help="The node's home, DIR/node-K.", show_default=False)],
) -> None:
    """Run one voter until it is told to stop (SIGTERM, Ctrl-C)."""
    from replication.errors import OperatorError

    if not home.is_dir():
        raise OperatorError(f"{home} does not exist. Give a home that acp init made, such as DIR/node-1.")
    from replication.node.server import run

    code = run(home)
    if code:
        raise typer.Exit(code)
