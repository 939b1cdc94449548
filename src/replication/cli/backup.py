"""`acp backup` and `acp restore`: a node's record in a file, and a home made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replication.cli.options import JsonOption
from replication.cli.output import note, print_json

__all__ = ["backup", "restore"]


def backup(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The node's home; it may be running.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to make.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Include the private keys. Then keep the file as secret.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Save a node's record and configuration. What it has signed is never saved: see `acp restore`."""
    from replication.node.local.backups import back_up

    height = back_up(home, file, with_keys=with_keys)
    if json:
        print_json({"file": str(file), "height": height, "with_keys": with_keys})
    else:
        note(f"{file}: the record of {home} up to height {height}.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    home: Annotated[
        Path, typer.Argument(metavar="HOME", help="Home to make, or one that has lost its record.")
    ],
    json: JsonOption = False,
) -> None:
    """Make a home from a backup, every block verified. Its node observes until the others let it back in.

    The backup does not say what the node signed after it was made, so it must not go on as the one it was.
    """
    from replication.node.local.backups import restore as run

    done = run(file, home)
    if json:
        print_json(
            {
                "cluster_id": done.genesis.cluster_id,
                "id": done.member_id,
                "height": done.height,
                "missing": list(done.missing),
                "keeps_journal": done.keeps_journal,
            }
        )
        return
    cluster = done.genesis.cluster_id.hex()
    note(f"{home}: the record of {done.member_id} in cluster {cluster} up to height {done.height}.")
    if done.missing:
        note(f"The backup has no keys. Still missing: {', '.join(done.missing)}.")
    note(f"Make sure that no other node runs as {done.member_id}, then: acp node --home {home}")
