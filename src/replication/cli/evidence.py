"""`acp evidence`: who has contradicted itself, and the proof, checked here."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from replication.cli.certificate import GenesisOption, load_trusted
from replication.cli.options import Connection
from replication.cli.output import console, note, print_json, table, time_text

if TYPE_CHECKING:
    from replication.client import Client
    from replication.client.model import AuditEntry
    from replication.identity.genesis import Genesis

__all__ = ["evidence"]

PAGE = 500
NOT_VERIFIED_CODE = 7


@dataclass(frozen=True, slots=True)
class _Checked:
    """An entry and what became of its check: `is_valid` is None where no genesis file is at hand."""

    entry: AuditEntry
    is_valid: bool | None
    problem: str = ""

    @property
    def verdict(self) -> str:
        if self.is_valid is None:
            return "not checked"
        return "VERIFIED" if self.is_valid else f"NOT VERIFIED: {self.problem}"


def evidence(options: Connection, genesis: GenesisOption = None) -> None:
    """List the evidence on record. With the genesis file at hand (--dir, --genesis) both signatures of each
    entry are verified here, without trusting any node.

    Evidence of a later epoch is verified with the whole record, which says who the members were.
    Exit code 7 when something does not verify.
    """
    trusted = None
    if genesis is not None or options.directory is not None:
        trusted = load_trusted(genesis, options.directory)
    with options.open() as client:
        found = _all(client, options)
        checked = [_Checked(entry, None) for entry in found]
        if trusted is not None:
            checked = _check(found, trusted, client, options)
    if options.json:
        print_json([_document(item) for item in checked])
    else:
        _show(checked, is_checked=trusted is not None)
    if any(item.is_valid is False for item in checked):
        raise typer.Exit(NOT_VERIFIED_CODE)


def _check(found: list[AuditEntry], trusted: Genesis, client: Client, options: Connection) -> list[_Checked]:
    """The signatures of the first epoch are checked one by one; the others within the record."""
    later = [entry for entry in found if entry.data.get("epoch") != trusted.members.epoch]
    proven, problem = _proven_by_record(trusted, client, options) if later else ({}, "")
    checked = []
    for entry in found:
        if entry not in later:
            checked.append(_check_alone(entry, trusted))
        elif entry.sequence in proven and proven[entry.sequence] == entry.data:
            checked.append(_Checked(entry, True))
        else:
            checked.append(_Checked(entry, False, problem or "the exported record says otherwise"))
    return checked


def _check_alone(entry: AuditEntry, trusted: Genesis) -> _Checked:
    from replication.ledger.verify import VerificationError, verify_evidence

    try:
        verify_evidence(entry.data, trusted.cluster_id, trusted.members)
    except VerificationError as error:
        return _Checked(entry, False, str(error))
    return _Checked(entry, True)


def _proven_by_record(trusted: Genesis, client: Client, options: Connection) -> tuple[dict[int, Any], str]:
    """The data of all evidence in an exported record that verifies, by entry, else why it does not."""
    from replication.ledger.verify import VerificationError, verify_export

    proven: dict[int, Any] = {}

    def lines() -> Iterator[bytes]:
        for line in client.export_chain(node=options.node):
            yield f"{line}\n".encode()
            value = json_module.loads(line)  # the verifier has read it and asks for more
            if value.get("event_type") == "evidence":
                proven[value["sequence"]] = value["data"]

    try:
        verify_export(lines(), trusted)
    except VerificationError as error:
        return {}, f"the record does not verify: {error}"
    return proven, ""


def _document(item: _Checked) -> dict[str, Any]:
    from replication.client.model import to_json

    return {**to_json(item.entry), "verified": item.is_valid, "problem": item.problem}


def _show(checked: list[_Checked], *, is_checked: bool) -> None:
    rows = [
        (
            item.entry.sequence,
            item.entry.data.get("accused", ""),
            item.entry.data.get("kind", ""),
            item.entry.proposal_id,
            item.entry.height,
            time_text(item.entry.time_ms),
            item.verdict,
        )
        for item in checked
    ]
    columns = (">entry", "accused", "kind", "proposal", ">height", "time", "signatures")
    console().print(table("Evidence", columns, rows))
    if not is_checked:
        note("To have the signatures checked here, give the genesis file: --genesis FILE or --dir DIR.")


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
