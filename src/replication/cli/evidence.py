"""`acp evidence`: who has contradicted itself, and the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replication.cli.options import Connection
from replication.cli.output import console, print_json, table, time_text

if TYPE_CHECKING:
    from replication.client import Client
    from replication.client.model import AuditEntry

__all__ = ["evidence"]

PAGE = 500


def evidence(options: Connection) -> None:
    """List the evidence on record. To check it without trusting any node, export the record and verify
    that."""
    with options.open() as client:
        found = _all(client, options)
    if options.json:
        print_json(found)
        return
    rows = [
        (
            entry.sequence,
            entry.data.get("accused", ""),
            entry.data.get("kind", ""),
            entry.proposal_id,
            entry.height,
            time_text(entry.time_ms),
        )
        for entry in found
    ]
    screen = console()
    screen.print(table("Evidence", (">entry", "accused", "kind", "proposal", ">height", "time"), rows))
    screen.print("Offline: acp audit export -o audit.jsonl; acp audit verify audit.jsonl --genesis GENESIS")


def _all(client: Client, options: Connection) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    start = 0
    while True:
        page = client.audit_entries(
            start, PAGE, event_type="evidence", timeout_seconds=options.timeout, node=options.node
        )
        if not page.entries:
            return entries
        entries += page.entries
        start = page.entries[-1].sequence + 1
