"""The audit chain: every entry carries the hash of the one before, so that an edit shows in all that follow.

A chain of hashes alone cannot show that its end was cut off, or that someone rewrote it from some entry on.
So the length and the last hash are kept apart from the entries, in a `ChainGuard`, and compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from replication.consensus.errors import CanonicalJSONError
from replication.consensus.model import AuditEntry, entry_hash

__all__ = ["GENESIS_PREV_HASH", "AuditEntry", "ChainGuard", "entry_hash", "make_entry", "verify_entries"]

GENESIS_PREV_HASH: Final = ""
"""The `prev_hash` of the first entry."""


def make_entry(
    sequence: int,
    event_type: str,
    proposal_id: str | None,
    actor_id: str | None,
    data: Mapping[str, Any],
    timestamp: float,
    prev_hash: str,
) -> AuditEntry:
    """Return an entry with its hash filled in. `timestamp` is in seconds.

    Raises `CanonicalJSONError` if a field has no canonical form.
    """
    entry = AuditEntry(sequence, event_type, proposal_id, actor_id, dict(data), timestamp, prev_hash)
    entry.hash = entry.compute_hash(prev_hash)
    return entry


def verify_entries(entries: Sequence[AuditEntry], start: int = 0, prev_hash: str = GENESIS_PREV_HASH) -> bool:
    """Return whether `entries[start:]` is an unbroken chain that begins behind `prev_hash`.

    Recomputes every hash and checks every link and sequence number (entry i has sequence i). Never raises: an
    entry that cannot be hashed is a broken one.
    """
    for sequence in range(start, len(entries)):
        entry = entries[sequence]
        if not _is_intact(entry, sequence, prev_hash):
            return False
        prev_hash = entry.hash
    return True


def _is_intact(entry: object, sequence: int, prev_hash: str) -> bool:
    if not isinstance(entry, AuditEntry):
        return False
    try:
        linked = entry.sequence == sequence and entry.prev_hash == prev_hash
        return linked and entry.hash == entry.compute_hash(prev_hash)
    except (AttributeError, CanonicalJSONError):  # a field was deleted, or is nothing that can be hashed
        return False


class ChainGuard:
    """Extends a list of entries, and remembers what the list must look like.

    The list belongs to the caller. The guard holds the number of entries and the last hash, and up to where
    `verify_new` has checked.
    """

    __slots__ = ("_checked_count", "_checked_head", "_count", "_head")

    def __init__(self) -> None:
        self._count = 0
        self._head = GENESIS_PREV_HASH
        self._checked_count = 0
        self._checked_head = GENESIS_PREV_HASH

    def extend(
        self,
        log: list[AuditEntry],
        event_type: str,
        proposal_id: str | None,
        actor_id: str | None,
        data: Mapping[str, Any],
        timestamp: float,
    ) -> AuditEntry:
        """Append an event to `log`. Raises `CanonicalJSONError`, with `log` unchanged, if it has no hash."""
        entry = make_entry(self._count, event_type, proposal_id, actor_id, data, timestamp, self._head)
        log.append(entry)
        self._count += 1
        self._head = entry.hash
        return entry

    def verify(self, log: Sequence[AuditEntry]) -> bool:
        """Return whether `log` is the chain that was written: every hash, every link, length and end."""
        return self._ends_right(log) and verify_entries(log)

    def verify_new(self, log: Sequence[AuditEntry]) -> bool:
        """Return the same, trusting the entries that an earlier call found right. Costs O(new entries).

        Entries that are found broken are checked again next time, so one broken entry is not forgotten.
        """
        if not self._ends_right(log) or not verify_entries(log, self._checked_count, self._checked_head):
            return False
        self._checked_count, self._checked_head = self._count, self._head
        return True

    def _ends_right(self, log: Sequence[AuditEntry]) -> bool:
        if len(log) != self._count:
            return False
        return self._count == 0 or getattr(log[-1], "hash", None) == self._head
