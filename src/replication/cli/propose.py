"""`acp propose`: ask the cluster for a decision."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from replication.cli.completion import among
from replication.cli.options import Connection, to_milliseconds
from replication.cli.output import print_json, show_proposal

__all__ = ["MAX_EVIDENCE_BYTES", "parse_evidence", "propose", "read_json"]

MAX_EVIDENCE_BYTES = 64 * 1024
"""As much evidence as a proposal can hold."""


def propose(
    options: Connection,
    action: Annotated[
        str,
        typer.Argument(
            help="quarantine, terminate, escalate, release, restrict, or any other.",
            autocompletion=among("quarantine", "terminate", "escalate", "release", "restrict"),
        ),
    ],
    target: Annotated[str, typer.Argument(help="The suspect; leave out if there is none.")] = "",
    evidence: Annotated[
        str, typer.Option(help="A JSON object, @FILE, or - for stdin.", metavar="JSON|@FILE|-")
    ] = "",
    window: Annotated[
        float | None,
        typer.Option(
            help="Seconds to collect votes; 0: no limit. Default: the cluster's.", show_default=False
        ),
    ] = None,
    expiry: Annotated[
        float | None,
        typer.Option(help="Seconds until it is void; 0: never. Default: the cluster's.", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is decided or expired.")] = False,
    request_id: Annotated[
        str | None,
        typer.Option(help="Repeating a request with the same id does nothing twice.", show_default=False),
    ] = None,
) -> None:
    """Propose ACTION against TARGET; the node asked is the proposer."""
    content = parse_evidence(evidence) if evidence else None
    window_ms, expiry_ms = to_milliseconds(window, "--window"), to_milliseconds(expiry, "--expiry")
    with options.open() as client:
        proposal = client.propose(
            action,
            target,
            content,
            window_ms=window_ms,
            expiry_ms=expiry_ms,
            request_id=request_id,
            wait_for_decision=wait,
            timeout_seconds=options.timeout,
            node=options.node,
        )
    if options.json:
        print_json(proposal)
    else:
        show_proposal(proposal)


def parse_evidence(text: str) -> dict[str, Any]:
    """The JSON object in `text`, in the file after an ``@``, or on stdin for ``-``.

    Raises `UsageError` for anything that is not a JSON object of at most 64 KiB, `OperatorError` for a bad
    file."""
    from replication.client import UsageError

    raw, source = _read_evidence(text)
    if len(raw) > MAX_EVIDENCE_BYTES:
        raise UsageError(
            f"The evidence in {source} has more than {MAX_EVIDENCE_BYTES} bytes. Keep what the voters need."
        )
    try:
        value = read_json(raw.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"The evidence in {source} is not valid JSON: {error}. Give an object such as "
            f"'{{\"score\": 0.97}}'."
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"The evidence in {source} is {_kind(value)}, not a JSON object. Write names and values in "
            f"braces."
        )
    return value


def read_json(text: str) -> Any:
    """The JSON value in `text`. Raises `ValueError` also for a name that stands twice in one object and for
    what is not JSON but Python reads, and `RecursionError`."""
    return json_module.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def _read_evidence(text: str) -> tuple[bytes, str]:
    from replication.errors import OperatorError

    if text == "-":
        return sys.stdin.buffer.read(MAX_EVIDENCE_BYTES + 1), "stdin"
    if not text.startswith("@"):
        return text.encode(errors="surrogateescape"), "--evidence"
    path = Path(text[1:])
    try:
        with path.open("rb") as file:
            return file.read(MAX_EVIDENCE_BYTES + 1), str(path)
    except OSError as error:
        raise OperatorError(f"The evidence file {path} cannot be read: {error.strerror}.") from error


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.80} stands twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
