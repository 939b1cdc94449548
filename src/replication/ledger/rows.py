"""Rows of the store as values, and values as rows: blocks, certificates and entries."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from replication.consensus.canonical import MAX_SAFE_INTEGER, canonical_json
from replication.consensus.errors import CanonicalJSONError
from replication.consensus.model import AuditEntry
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate

from .codec import MalformedError
from .entries import data_text
from .history import entry_timestamp
from .schema import RecordDamagedError
from .serial import parse_block, parse_certificate, serialize_block, serialize_certificate

__all__ = [
    "BLOCK_COLUMNS",
    "ENTRY_COLUMNS",
    "RowDamagedError",
    "block_row",
    "entry_row",
    "read_block",
    "read_entry",
    "stored_hash",
]


class RowDamagedError(RecordDamagedError):
    """A row cannot be what was written. Who knows the file says which it is."""


BLOCK_COLUMNS = "height, time_ms, hash, block, certificate, checksum"
ENTRY_COLUMNS = (
    "entries.sequence, entries.event_type, entries.proposal_id, entries.actor_id, entries.data, "
    "entries.prev_hash, entries.hash, entries.height"
)


def block_row(block: Block, certificate: Certificate | None) -> tuple[object, ...]:
    """The row of a block; the checksum covers what no hash of the chain covers: the certificate."""
    raw = serialize_block(block)
    proof = None if certificate is None else serialize_certificate(certificate)
    return (block.height, block.header.time_ms, block.hash, raw, proof, _checksum(block.hash, proof))


def read_block(row: tuple[Any, ...]) -> tuple[Block, Certificate | None]:
    """A block and its certificate. Raises RowDamagedError when the row is not one that was written."""
    height, time_ms, block_hash, raw, proof, checksum = row
    try:
        block = parse_block(raw)
        certificate = None if proof is None else parse_certificate(proof)
    except (MalformedError, TypeError) as error:  # SQLite keeps values of any type in any column
        raise RowDamagedError(f"block {height} cannot be read: {error!s:.200}") from error
    if (block.height, block.header.time_ms, block.hash) != (
        height,
        time_ms,
        block_hash,
    ) or checksum != _checksum(block.hash, proof):
        raise RowDamagedError(f"block {height} is not the one that was written")
    return block, certificate


def entry_row(entry: AuditEntry, height: int) -> tuple[object, ...]:
    """The row of an entry. Its time is that of the block at `height`."""
    return (
        entry.sequence,
        height,
        entry.event_type,
        entry.proposal_id or None,
        entry.actor_id or None,
        data_text(entry),
        entry.prev_hash,
        entry.hash,
    )


def read_entry(row: tuple[Any, ...], time_ms: int) -> AuditEntry:
    """An entry from `ENTRY_COLUMNS` and its block's time. Raises RowDamagedError for data that is no JSON
    object."""
    sequence, event_type, proposal_id, actor_id, data, prev_hash, entry_hash, _ = row
    try:
        value = _decoder.decode(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise RowDamagedError(f"entry {sequence} cannot be read: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise RowDamagedError(f"entry {sequence} holds no object")
    return AuditEntry(
        sequence,
        event_type,
        proposal_id or "",
        actor_id or "",
        value,
        entry_timestamp(time_ms),
        prev_hash,
        entry_hash,
    )


def stored_hash(row: tuple[Any, ...], time_ms: int) -> str:
    """The hash (hex) of an entry from `ENTRY_COLUMNS` and its block's time, over the very text of its data.

    The data is not written anew, which saves half of the work: if the hash is right, its text is the one that
    was hashed, canonical in every byte. Raises RowDamagedError for a row that has no hash.
    """
    sequence, event_type, proposal_id, actor_id, data, prev_hash, _, _ = row
    rest = {
        "event_type": event_type,
        "prev_hash": prev_hash,
        "proposal_id": proposal_id or "",
        "sequence": sequence,
        "timestamp": entry_timestamp(time_ms),
    }
    try:
        first, last = canonical_json({"actor_id": actor_id or ""}), canonical_json(rest)
        content = first[:-1] + b',"data":' + data.encode("utf-8") + b"," + last[1:]
    except (CanonicalJSONError, AttributeError, UnicodeEncodeError) as error:
        raise RowDamagedError(f"entry {sequence} has no hash: {error!s:.200}") from error
    return sha256(content).hexdigest()


def _checksum(block_hash: bytes, proof: bytes | None) -> bytes:
    return sha256(block_hash + (proof or b"")).digest()


def _number(text: str) -> int | float:
    """In canonical JSON all numbers are doubles: beyond 2**53 - 1, digits without a point are one as well."""
    value = int(text) if len(text) < 20 else float(text)
    return value if abs(value) <= MAX_SAFE_INTEGER else float(text)


_decoder = json.JSONDecoder(parse_int=_number)
