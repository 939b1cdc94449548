"""`acp audit log|export|verify`: the replicated audit record."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.certificate import GenesisOption, OutputOption, load_trusted
from replication.cli.options import Connection, DirectoryOption, JsonOption
from replication.cli.output import console, note, pairs, print_json, table, time_text

if TYPE_CHECKING:
    from replication.client import Client
    from replication.client.model import AuditEntry

__all__ = ["export", "log", "verify"]

PAGE = 500
EXPORT_SECONDS = 600.0


def log(
    options: Connection,
    start: Annotated[int, typer.Option("--from", help="First sequence number.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="How many entries at most.", min=1)] = 100,
) -> None:
    """Show entries of the audit chain."""
    with options.open() as client:
        entries = _fetch(client, options, start, limit)
    if options.json:
        print_json(entries)
        return
    rows = [
        (
            entry.sequence,
            entry.height,
            time_text(entry.time_ms),
            entry.event_type,
            entry.proposal_id,
            entry.actor_id,
            _gist(entry.data),
            entry.hash[:12],
        )
        for entry in entries
    ]
    columns = (">seq", ">height", "time", "event", "proposal", "actor", "what", "hash")
    console().print(table("", columns, rows))


def export(options: Connection, output: OutputOption = None) -> None:
    """Write the whole record as JSON lines, which `acp audit verify` checks without trusting the node."""
    timeout = max(options.timeout, EXPORT_SECONDS)
    with options.open() as client:
        lines = client.export_chain(timeout_seconds=timeout, node=options.node)
        if output is None:
            for line in lines:
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            return
        count = write_lines(output, lines)
    if options.json:
        print_json({"file": str(output), "lines": count})
    else:
        note(f"Wrote {count} lines to {output}. Check them with: acp audit verify {output} --genesis FILE")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported record; - for stdin.")],
    genesis: GenesisOption = None,
    directory: DirectoryOption = None,
    json: JsonOption = False,
) -> None:
    """Verify an exported record from end to end with nothing but the genesis file.

    Exit code 7 when it fails.
    """
    from replication.errors import OperatorError
    from replication.ledger.verify import read_lines, verify_export

    trusted = load_trusted(genesis, directory)
    try:
        with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as stream:
            report = verify_export(read_lines(stream), trusted)
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}. Check the path.") from error
    facts: dict[str, Any] = {
        "valid": True,
        "cluster_id": report.cluster_id.hex(),
        "height": report.height,
        "block_hash": report.block_hash.hex(),
        "audit_size": report.audit_size,
        "audit_head": report.audit_head.hex(),
        "signatures": report.signatures,
        "proposals": report.proposals,
        "open_proposals": report.open_proposals,
        "executed": report.executed,
        "decisions": dict(report.decisions),
        "events": dict(report.events),
    }
    if json:
        print_json(facts)
        return
    shown = {name.replace("_", " "): _flat(value) for name, value in facts.items()}
    console().print(pairs(shown))
    console().print("The record is whole and every signature, tally and commit in it verifies.")


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines to a file as they come, whole or not at all; return how many. Raises `OperatorError`."""
    from replication.errors import OperatorError

    draft = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(f"{line}\n")
                count += 1
        draft.replace(path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}. Check the folder.") from error
    finally:
        draft.unlink(missing_ok=True)
    return count


def _fetch(client: Client, options: Connection, start: int, limit: int) -> list[AuditEntry]:
    """Up to `limit` entries from `start` on, page by page."""
    entries: list[AuditEntry] = []
    while len(entries) < limit:
        size = min(PAGE, limit - len(entries))
        page = client.audit_entries(
            start + len(entries), size, timeout_seconds=options.timeout, node=options.node
        )
        entries += page.entries
        if not page.entries or start + len(entries) >= page.audit_size:
            break
    return entries


def _gist(data: Any) -> str:
    """The one or two values of an entry that tell what happened."""
    words = [
        str(data[key])
        for key in ("action", "target", "value", "decision", "outcome", "cause", "reason")
        if data.get(key)
    ]
    return " ".join(words)[:80]


def _flat(value: Any) -> Any:
    return json_module.dumps(value, sort_keys=True) if isinstance(value, dict) else value
