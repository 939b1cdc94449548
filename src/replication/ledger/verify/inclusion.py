"""That an entry is in a block, by a Merkle path (RFC 6962) to the header's `entries_root`."""

from __future__ import annotations

from dataclasses import dataclass

from replication.identity.merkle import root_from_path

from .errors import VerificationError
from .reading import Fields, keys
from .records import Entry, Header

__all__ = ["Place", "check_inclusion"]

_INCLUSION_KEYS = keys("index size path")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands: the sequence of the block's first entry, and whether it is the last."""

    first_sequence: int
    is_last: bool


def check_inclusion(fields: Fields, entry: Entry, name: str, header: Header) -> Place:
    """Check that `fields.inclusion` leads from the entry to the header, and that the entry is in place."""
    inclusion = fields.inner("inclusion", _INCLUSION_KEYS)
    size = inclusion.integer("size", header.audit_size, low=1)
    index = inclusion.integer("index", size - 1)
    try:
        root = root_from_path(entry.hash, index, size, inclusion.digests("path"))
    except ValueError as error:
        raise VerificationError(f"inclusion.path: {error}") from None
    if root != header.entries_root:
        raise VerificationError(f"inclusion does not lead from the {name} entry to header.entries_root")
    first_sequence = header.audit_size - size
    if entry.sequence != first_sequence + index:
        raise VerificationError(
            f"{name}.sequence is {entry.sequence}, but in the block its place is {first_sequence + index}"
        )
    if index == size - 1 and entry.hash != header.audit_head:
        raise VerificationError(f"header.audit_head is not the hash of the {name}, its last entry")
    return Place(first_sequence, index == size - 1)
