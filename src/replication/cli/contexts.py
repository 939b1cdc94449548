"""`acp context`: names for several clusters, so that commands need no connection options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replication.cli.completion import context_names
from replication.cli.options import JsonOption
from replication.cli.output import console, note, print_json, table

__all__ = ["add", "listing", "remove", "show", "use"]

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the context.", autocompletion=context_names)
]
FileOption = Annotated[Path | None, typer.Option(help="As for every command.", show_default=False)]


def add(
    name: NameArgument,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Cluster folder.", show_default=False)
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="[ID=]HOST:PORT; may be repeated.", show_default=False)
    ] = None,
    cert: FileOption = None,
    key: FileOption = None,
    ca: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Add or replace a context. The first one is in use at once."""
    from replication.client.contexts import Context, contexts_path, load_contexts, save_contexts

    texts = ["" if item is None else str(item.absolute()) for item in (directory, cert, key, ca)]
    context = Context(texts[0], tuple(endpoint or ()), *texts[1:])
    path = contexts_path()
    contexts = load_contexts(path)
    contexts.add(name, context)
    save_contexts(path, contexts)
    _say(f"{name} added to {path}; in use: {contexts.current}.", contexts.current, json)


def use(name: NameArgument, json: JsonOption = False) -> None:
    """Use this context where a command names no cluster."""
    from replication.client.contexts import contexts_path, load_contexts, save_contexts

    contexts = load_contexts(contexts_path())
    contexts.get(name)
    contexts.current = name
    save_contexts(contexts_path(), contexts)
    _say(f"In use: {name}.", name, json)


def listing(json: JsonOption = False) -> None:
    """The contexts, and which one is in use."""
    from replication.client.contexts import contexts_path, load_contexts

    contexts = load_contexts(contexts_path())
    if json:
        print_json({"current": contexts.current, "contexts": contexts.by_name})
        return
    rows = [
        ("*" if name == contexts.current else "", name, context.directory or ", ".join(context.endpoints))
        for name, context in sorted(contexts.by_name.items())
    ]
    console().print(table("Contexts", ("in use", "name", "cluster"), rows))


def remove(name: NameArgument, json: JsonOption = False) -> None:
    """Forget a context. The cluster's files stay as they are."""
    from replication.client.contexts import contexts_path, load_contexts, save_contexts

    contexts = load_contexts(contexts_path())
    contexts.remove(name)
    save_contexts(contexts_path(), contexts)
    _say(f"{name} removed; in use: {contexts.current or 'none'}.", contexts.current, json)


def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Default: the one in use.", autocompletion=context_names)
    ] = "",
    json: JsonOption = False,
) -> None:
    """Show one context."""
    from dataclasses import asdict

    from replication.client.contexts import contexts_path, load_contexts

    contexts = load_contexts(contexts_path())
    name = name or contexts.current
    settings = asdict(contexts.get(name))
    if json:
        print_json({"name": name, **settings})
        return
    rows = [
        (key, ", ".join(value) if key == "endpoints" else value) for key, value in settings.items() if value
    ]
    console().print(table(name, ("setting", "value"), rows))


def _say(text: str, current: str, json: bool) -> None:
    if json:
        print_json({"current": current})
    else:
        note(text)
