"""What a shell offers for the values of arguments: words that are known, contexts, and the members of the
cluster that the command line names. Asks no node, and offers nothing rather than complaining."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import typer

__all__ = ["among", "context_names", "member_ids"]

Completer = Callable[[str], list[str]]

MAX_GENESIS_BYTES: Final = 1 << 20
"""A genesis file of a hundred members has a tenth of this."""


def among(*words: str) -> Completer:
    """Offers these words."""

    def offer(incomplete: str) -> list[str]:
        return _starting(words, incomplete)

    return offer


def context_names(incomplete: str) -> list[str]:
    """The contexts of `acp context list`."""
    from replication.client.contexts import contexts_path, load_contexts
    from replication.errors import ReplicationError

    try:
        return _starting(load_contexts(contexts_path()).by_name, incomplete)
    except ReplicationError:
        return []


def member_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Members of the genesis file in the folder that ``--dir`` or ``ACP_DIR`` names."""
    folder = ctx.params.get("directory") or os.environ.get("ACP_DIR")
    if not folder:
        return []
    try:
        with (Path(folder) / "genesis.json").open("rb") as file:
            members = json.loads(file.read(MAX_GENESIS_BYTES))["members"]
        return _starting([str(member["id"]) for member in members], incomplete)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []


def _starting(words: Iterable[str], incomplete: str) -> list[str]:
    return sorted(word for word in words if word.startswith(incomplete))
