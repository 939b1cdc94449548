"""The export: a whole record as lines of canonical JSON, which `ledger.verify.verify_export` checks.

The first line says how far the record reaches; then comes each block with its header and commit certificate,
followed by its entries; the last line repeats where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from replication.consensus.canonical import canonical_json
from replication.consensus.model import AuditEntry
from replication.ordering.blocks import BlockHeader
from replication.ordering.certificates import Certificate

if TYPE_CHECKING:
    from .reading import RecordReading

__all__ = [
    "EXPORT_FORMAT",
    "certificate_object",
    "entry_object",
    "export_lines",
    "export_part",
    "header_object",
]

EXPORT_FORMAT: Final = "agent-consensus/audit/1"

Json = dict[str, Any]


def export_lines(record: RecordReading) -> Iterator[bytes]:
    """Yield the lines of an export of the whole record, as it is now, with their newlines."""
    end = record.totals().height
    return export_part(record, 0, end, end)


def export_part(record: RecordReading, first: int, last: int, end: int) -> Iterator[bytes]:
    """Yield the lines of the blocks `first` to `last` of an export that reaches to height `end`.

    With block 0 comes the first line of the file, with block `end` its last line. So a record can be
    exported piece by piece while it grows.
    """
    top, _ = record.block(end)
    shape = {"height": end, "audit_size": top.header.audit_size}
    if first == 0:
        cluster_id = top.header.cluster_id.hex()
        yield _line({"type": "audit-export", "format": EXPORT_FORMAT, "cluster_id": cluster_id, **shape})
    for height in range(first, last + 1):
        yield from block_lines(record, height)
    if last == end:
        head = {"audit_head": top.header.audit_head.hex(), "block_hash": top.hash.hex()}
        yield _line({"type": "end", **shape, **head})


def block_lines(record: RecordReading, height: int) -> Iterator[bytes]:
    """The lines of one block: the block itself, then its entries."""
    block, certificate = record.block(height)
    yield _line(
        {
            "type": "block",
            "header": header_object(block.header),
            "hash": block.hash.hex(),
            "certificate": None if certificate is None else certificate_object(certificate),
        }
    )
    for entry, _ in record.query_entries("WHERE height = ? ORDER BY entries.sequence", height):
        yield _line({"type": "entry", **entry_object(entry)})


def header_object(header: BlockHeader) -> Json:
    """A header as it stands in files."""
    return {
        "cluster_id": header.cluster_id.hex(),
        "epoch": header.epoch,
        "height": header.height,
        "parent": header.parent.hex(),
        "time_ms": header.time_ms,
        "commands_root": header.commands_root.hex(),
        "entries_root": header.entries_root.hex(),
        "audit_size": header.audit_size,
        "audit_head": header.audit_head.hex(),
    }


def certificate_object(certificate: Certificate) -> Json:
    """A commit certificate as it stands in files."""
    key = certificate.key
    return {
        "phase": key.phase.value,
        "epoch": key.epoch,
        "view": key.view,
        "height": key.height,
        "block_hash": key.block_hash.hex(),
        "signatures": [
            {"signer": signer, "signature": signature.hex()} for signer, signature in certificate.signatures
        ],
    }


def entry_object(entry: AuditEntry) -> Json:
    """An entry as it stands in files."""
    return {
        "sequence": entry.sequence,
        "event_type": entry.event_type,
        "proposal_id": entry.proposal_id or "",
        "actor_id": entry.actor_id or "",
        "data": entry.data,
        "timestamp": entry.timestamp,
        "prev_hash": entry.prev_hash,
        "hash": entry.hash,
    }


def _line(value: Json) -> bytes:
    return canonical_json(value) + b"\n"
