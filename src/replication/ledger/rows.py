"""Rows of the store as values, and values as rows: blocks, certificates and entries."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from replication.consensus.canonical import MAX_SAFE_INTEGER, canonical_json
from replication.consensus.model import AuditEntry
from replication.errors import PeerError
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.v1 import log_pb2

from .codec import block_from_pb, block_to_pb, certificate_from_pb, certificate_to_pb
from .history import entry_timestamp
from .schema import RecordDamagedError

__all__ = [
    "BLOCK_COLUMNS",
    "ENTRY_COLUMNS",
    "RowDamagedError",
    "block_row",
    "entry_row",
    "read_block",
    "read_entry",
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
    raw = block_to_pb(block).SerializeToString(deterministic=True)
    proof = (
        None if certificate is None else certificate_to_pb(certificate).SerializeToString(deterministic=True)
    )
    return (block.height, block.header.time_ms, block.hash, raw, proof, _checksum(block.hash, proof))


def read_block(row: tuple[Any, ...]) -> tuple[Block, Certificate | None]:
    """A block and its certificate. Raises RowDamagedError when the row is not one that was written."""
    height, time_ms, block_hash, raw, proof, checksum = row
    try:
        block = block_from_pb(log_pb2.Block.FromString(raw))
        certificate = None if proof is None else certificate_from_pb(log_pb2.Certificate.FromString(proof))
    except (PeerError, ValueError, TypeError) as error:  # DecodeError is a ValueError
        raise RowDamagedError(f"block {height} cannot be read: {error!s:.200}") from error
    except Exception as error:  # whatever protobuf makes of bytes that are none of its own
        raise RowDamagedError(f"block {height} cannot be read: {type(error).__name__}") from error
    if (block.height, block.header.time_ms, block.hash) != (
        height,
        time_ms,
        block_hash,
    ) or checksum != _checksum(block.hash, proof):
        raise RowDamagedError(f"block {height} is not the one that was written")
    return block, certificate


def entry_row(entry: AuditEntry, height: int) -> tuple[object, ...]:
    """The row of an entry. Its time is that of the block at `height`."""
    data = canonical_json(entry.data).decode("utf-8")
    return (
        entry.sequence,
        height,
        entry.event_type,
        entry.proposal_id or None,
        entry.actor_id or None,
        data,
        entry.prev_hash,
        entry.hash,
    )


def read_entry(row: tuple[Any, ...], time_ms: int) -> AuditEntry:
    """An entry from `ENTRY_COLUMNS` and its block's time. Raises RowDamagedError for data that is no JSON
    object."""
    sequence, event_type, proposal_id, actor_id, data, prev_hash, entry_hash, _ = row
    try:
        value = json.loads(data, parse_int=_number)
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


def _checksum(block_hash: bytes, proof: bytes | None) -> bytes:
    return sha256(block_hash + (proof or b"")).digest()


def _number(text: str) -> int | float:
    """In canonical JSON all numbers are doubles: beyond 2**53 - 1, digits without a point are one as well."""
    value = int(text) if len(text) < 20 else float(text)
    return value if abs(value) <= MAX_SAFE_INTEGER else float(text)
