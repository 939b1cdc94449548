"""Block headers and audit entries as they stand in a file, with their hashes recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from replication.consensus.canonical import canonical_json
from replication.identity.signbytes import block_bytes

from .errors import VerificationError
from .reading import MAX_TIME_MS, Fields, keys

__all__ = ["ENTRY_KEYS", "Entry", "Header", "parse_entry", "parse_header"]

HEADER_KEYS = keys("cluster_id epoch height parent time_ms commands_root entries_root audit_size audit_head")
ENTRY_KEYS = keys("sequence event_type proposal_id actor_id data timestamp prev_hash hash")


@dataclass(frozen=True, slots=True)
class Header:
    """A block header; `hash` is recomputed from the other fields."""

    epoch: int
    height: int
    parent: bytes
    time_ms: int
    commands_root: bytes
    entries_root: bytes
    audit_size: int
    audit_head: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """An audit entry whose hash is right; what its `data` says is still unchecked."""

    sequence: int
    event_type: str
    proposal_id: str
    actor_id: str
    data: object
    timestamp: int | float
    prev_hash: str
    hash: bytes

    def __str__(self) -> str:
        on = f" on {self.proposal_id[:80]}" if self.proposal_id else ""
        return f"entry {self.sequence} ({self.event_type[:40]}{on})"


def parse_header(value: object, cluster_id: bytes) -> Header:
    """Read a header of the cluster `cluster_id`."""
    fields = Fields(value, HEADER_KEYS, "header")
    fields.fixed("cluster_id", cluster_id.hex(), "the genesis file makes it")
    epoch = fields.integer("epoch")
    height = fields.integer("height")
    parent = fields.digest("parent")
    time_ms = fields.integer("time_ms", MAX_TIME_MS)
    commands_root = fields.digest("commands_root")
    entries_root = fields.digest("entries_root")
    audit_size = fields.integer("audit_size", low=1)
    audit_head = fields.digest("audit_head")
    content = block_bytes(
        cluster_id,
        epoch,
        height=height,
        parent=parent,
        time_ms=time_ms,
        commands_root=commands_root,
        entries_root=entries_root,
        audit_size=audit_size,
        audit_head=audit_head,
    )
    return Header(
        epoch=epoch,
        height=height,
        parent=parent,
        time_ms=time_ms,
        commands_root=commands_root,
        entries_root=entries_root,
        audit_size=audit_size,
        audit_head=audit_head,
        hash=sha256(content).digest(),
    )


def parse_entry(value: object, path: str = "") -> Entry:
    """Read an entry and recompute its hash over all its other fields."""
    fields = Fields(value, ENTRY_KEYS, path)
    sequence = fields.integer("sequence")
    event_type = fields.text("event_type")
    proposal_id = fields.text("proposal_id")
    actor_id = fields.text("actor_id")
    data = fields.mapping("data")
    timestamp = fields.raw("timestamp")
    if (
        isinstance(timestamp, bool)
        or not isinstance(timestamp, int | float)
        or not 0 <= timestamp <= MAX_TIME_MS / 1000
    ):
        raise VerificationError(f"{fields.name('timestamp')} must be seconds, up to the year 9999")
    prev_hash = fields.text("prev_hash")
    if prev_hash or sequence:
        fields.digest("prev_hash")
    given = fields.digest("hash")
    content = canonical_json(
        {
            "sequence": sequence,
            "event_type": event_type,
            "proposal_id": proposal_id,
            "actor_id": actor_id,
            "data": data,
            "timestamp": timestamp,
            "prev_hash": prev_hash,
        }
    )
    actual = sha256(content).digest()
    if given != actual:
        raise VerificationError(f"{fields.name('hash')} is not that of its fields, {actual.hex()}")
    return Entry(sequence, event_type, proposal_id, actor_id, data, timestamp, prev_hash, actual)
