"""The options that every command with a connection shares, declared once.

`with_connection` turns a command written as ``def verb(options: Connection, ...)`` into one whose signature
has the shared options, which is what typer reads."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from replication.cli.completion import among, context_names, member_ids

if TYPE_CHECKING:
    from replication.client import Client, ClusterHandle

__all__ = ["Connection", "DirectoryOption", "JsonOption", "to_milliseconds", "with_connection"]

PANEL: Final = "Connection"
CLIENT_ROUNDS: Final = 3
"""How often a command tries all nodes before it says that none answers: about half a second for a stopped
cluster.
"""

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="ACP_DIR",
        help="Cluster folder, as acp init makes it.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to connect and as whom. The fields are the shared options."""

    directory: DirectoryOption = None
    role: Annotated[
        str,
        typer.Option(
            help="Client certificate to use: viewer, operator, admin, executor.",
            rich_help_panel=PANEL,
            autocompletion=among("viewer", "operator", "admin", "executor"),
        ),
    ] = "admin"
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="[ID=]HOST:PORT of a node; may be repeated.", show_default=False, rich_help_panel=PANEL
        ),
    ] = None
    cert: Annotated[
        Path | None, typer.Option(help="Client certificate (PEM).", show_default=False, rich_help_panel=PANEL)
    ] = None
    key: Annotated[
        Path | None, typer.Option(help="Its private key (PEM).", show_default=False, rich_help_panel=PANEL)
    ] = None
    ca: Annotated[
        Path | None,
        typer.Option(help="The cluster's authority (PEM).", show_default=False, rich_help_panel=PANEL),
    ] = None
    node: Annotated[
        str | None,
        typer.Option(
            help="Ask this member and no other.",
            show_default=False,
            rich_help_panel=PANEL,
            autocompletion=member_ids,
        ),
    ] = None
    timeout: Annotated[float, typer.Option(help="Seconds for the whole call.", rich_help_panel=PANEL)] = 10.0
    context: Annotated[
        str | None,
        typer.Option(
            help="A cluster of acp context list.",
            show_default=False,
            rich_help_panel=PANEL,
            autocompletion=context_names,
        ),
    ] = None
    json: JsonOption = False

    def in_context(self) -> Connection:
        """With what the named context says, or the one in use when no cluster is named. A folder or endpoints
        of the command line win; a named context wins over ``ACP_DIR``. Raises `OperatorError`, `UsageError`.
        """
        from replication.client.contexts import contexts_path, load_contexts

        folder = os.environ.get("ACP_DIR")
        inherited = self.context is not None and folder and self.directory == Path(folder)
        directory = None if inherited else self.directory
        if directory is not None or (self.endpoint and self.context is None):
            return self
        contexts = load_contexts(contexts_path())
        name = contexts.current if self.context is None else self.context
        if not name:
            if self.context is not None:
                contexts.get(name)
            return self
        found = contexts.get(name)
        own = self.cert is not None or self.key is not None
        return replace(
            self,
            directory=Path(found.directory) if found.directory else None,
            endpoint=self.endpoint or list(found.endpoints) or None,
            cert=self.cert if own or not found.cert else Path(found.cert),
            key=self.key if own or not found.key else Path(found.key),
            ca=self.ca or (Path(found.ca) if found.ca else None),
        )

    def handle(self) -> ClusterHandle:
        """The connection that these options describe. Raises what `replication.client.resolve` raises.

        Where a member that came later is, the others are asked."""
        from replication.client import Client, resolve
        from replication.client.errors import UnknownMemberError

        handle = resolve(
            directory=self.directory,
            role=self.role,
            endpoints=self.endpoint or (),
            certificate=self.cert,
            key=self.key,
            authority=self.ca,
        )
        if not self.node:
            return handle
        with suppress(UnknownMemberError):
            return handle.only(self.node)
        with Client(handle, rounds=1) as client:
            endpoint = client.endpoint_of(self.node, timeout_seconds=self.timeout)
        return replace(handle, endpoints=(endpoint,), may_learn=False)

    def open(self) -> Client:
        """A client on that connection."""
        from replication.client import Client

        return Client(self.handle(), rounds=CLIENT_ROUNDS)


def with_connection(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the first parameter of `command` by the fields of `Connection`, at the end of its signature."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    shared = list(inspect.signature(Connection, eval_str=True).parameters.values())
    names = [item.name for item in fields(Connection)]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        options = Connection(**{name: arguments.pop(name) for name in names}).in_context()
        command(options, **arguments)

    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in (*own, *shared)]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    return run


def to_milliseconds(seconds: float | None, option: str) -> int | None:
    """Seconds of the command line as the wire's whole milliseconds; None stays None. Raises `UsageError`."""
    from replication.client import UsageError

    if seconds is None:
        return None
    if not 0 <= seconds <= MAX_SECONDS:
        raise UsageError(
            f"{option} {seconds:g} is not possible. Give seconds from 0 (no limit) to {MAX_SECONDS}."
        )
    return round(seconds * 1000)


MAX_SECONDS: Final = 10 * 365 * 24 * 3600
"""Ten years; longer is a mistake in the unit."""
