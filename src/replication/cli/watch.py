"""`acp watch`: what happens in the cluster, as it happens."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.options import Connection
from replication.cli.output import note, print_lines, time_text

if TYPE_CHECKING:
    from replication.client import Client
    from replication.client.model import AuditEntry

__all__ = ["watch"]


def watch(
    options: Connection,
    approved: Annotated[
        bool, typer.Option("--approved", help="Approved decisions only, each with its verified certificate.")
    ] = False,
    start: Annotated[
        int | None,
        typer.Option("--from", help="Begin with this entry. Default: with what comes next.", min=0),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Stop after so many lines.", min=1)] = None,
) -> None:
    """Show audit entries as they are committed, until stopped. With --json, one JSON document a line.

    When the node goes away, watching goes on at another where it stopped: every entry once, in order."""
    with options.open() as client:
        first = client.audit_head(timeout_seconds=options.timeout, node=options.node).audit_size
        shown = 0
        for entry in client.watch(first if start is None else start, node=options.node):
            line = _approved(client, options, entry) if approved else _entry(options, entry)
            if line is None:
                continue
            print_lines([line])
            shown += 1
            if count is not None and shown >= count:
                return


def _entry(options: Connection, entry: AuditEntry) -> str:
    from replication.client.model import to_json

    if options.json:
        return json.dumps(to_json(entry), ensure_ascii=False)
    about = " ".join(filter(None, (entry.proposal_id, entry.actor_id)))
    when = f"{time_text(entry.time_ms)}  {entry.sequence:>6}"
    return f"{when}  {entry.event_type:<11} {about}  {_gist(entry)}".rstrip()


def _approved(client: Client, options: Connection, entry: AuditEntry) -> str | None:
    if entry.event_type != "tally" or entry.data["decision"] != "approved":
        return None
    found = client.certificate(entry.proposal_id, timeout_seconds=options.timeout)
    certificate: dict[str, Any] = json.loads(found.text)
    if options.json:
        document = {"sequence": entry.sequence, "proposal_id": entry.proposal_id, "verified": found.verified}
        return json.dumps({**document, "certificate": certificate}, ensure_ascii=False)
    proposal = client.get_proposal(entry.proposal_id, timeout_seconds=options.timeout)
    if not found.verified and sys.stderr.isatty():
        note("Not verified: no genesis file is at hand (--dir).")
    what = f"{proposal.action} {proposal.target}".strip()
    checked = "verified" if found.verified else "not verified"
    return (
        f"{time_text(entry.time_ms)}  {entry.sequence:>6}  {entry.proposal_id} APPROVED: {what} ({checked})"
    )


def _gist(entry: AuditEntry) -> str:
    data = entry.data
    match entry.event_type:
        case "propose":
            return f"{data['action']} {data['target']}".strip()
        case "vote":
            return " ".join(filter(None, (data["value"], data["reason"])))
        case "tally" | "expired":
            return f"{data['decision']} ({data['cause']})"
        case "execute":
            return " ".join(filter(None, (data["outcome"], data["detail"])))
        case "coordinator":
            return f"view {data['view']}"
        case "evidence":
            return f"{data['accused']} contradicted itself ({data['kind']})"
        case "membership":
            return json.dumps(data["change"], ensure_ascii=False)
    return ""
