"""What the entries of the record amount to, as rows: proposals and votes.

One function, used when a block is appended and when a record is checked: there the rows are made again from
the entries, in a database of their own, and compared with those in the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from replication.consensus.model import AuditEntry, ProposalStatus
from replication.identity.members import MemberSet

from .history import has_key, read_open

__all__ = ["Projection"]

_INSERT_PROPOSAL = (
    "INSERT INTO proposals (number, id, digest, proposer, request_id, action, status, decision, sequence, "
    "proposed_ms) VALUES (?, ?, ?, ?, ?, ?, 'open', 'pending', ?, ?)"
)
# A vote that does not count any more was not there for the order of first votes.
_RECORD_VOTE = (
    "INSERT INTO votes (proposal, voter, value, first_sequence, sequence, counts) VALUES (?, ?, ?, ?, ?, 1) "
    "ON CONFLICT (proposal, voter) DO UPDATE SET "
    "first_sequence = CASE counts WHEN 1 THEN first_sequence ELSE excluded.first_sequence END, "
    "sequence = excluded.sequence, value = excluded.value, counts = 1"
)
_RECORD_TALLY = (
    "UPDATE proposals SET status = ?, decision = ?, decided_ms = ?, tally_sequence = ?, decided_epoch = ? "
    "WHERE id = ?"
)
_DISCOUNT_VOTES = (
    "UPDATE votes SET counts = 0 WHERE voter = ? AND proposal IN "
    "(SELECT number FROM proposals WHERE status = 'open')"
)


class Projection:
    """Reads and writes the rows of a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def apply(self, entries: Sequence[AuditEntry], time_ms: int, epoch: int) -> None:
        """Take in the entries of one block of `epoch`."""
        for entry in entries:
            if entry.event_type == "propose":
                self._propose(entry, time_ms)
            elif entry.event_type == "vote":
                self._vote(entry)
            elif entry.event_type in ("tally", "expired"):
                self._tally(entry, time_ms, epoch)
            elif entry.event_type == "execute" and entry.data["outcome"] == "succeeded":
                self._execute(
                    "UPDATE proposals SET status = ? WHERE id = ?",
                    (ProposalStatus.EXECUTED.value, entry.proposal_id),
                )

    def change_members(self, old: MemberSet, new: MemberSet) -> None:
        """Votes of members that are gone, or that have another key now, count no more on open proposals."""
        for member in old.members:
            if not has_key(new, member.id, member.public_key):
                self._execute(_DISCOUNT_VOTES, (member.id,))

    def rows(self, first: int, last: int) -> list[tuple[Any, ...]]:
        """All rows about the proposals with these numbers, in order."""
        queries = (
            "SELECT * FROM proposals WHERE number BETWEEN ? AND ? ORDER BY number",
            "SELECT * FROM votes WHERE proposal BETWEEN ? AND ? ORDER BY proposal, voter",
        )
        return [row for query in queries for row in self._execute(query, (first, last)).fetchall()]

    def outside(self, last: int) -> tuple[Any, ...] | None:
        """A row about a proposal that is not numbered from 1 to `last`, if there is one."""
        for query in (
            "SELECT number FROM proposals WHERE number NOT BETWEEN 1 AND ? LIMIT 1",
            "SELECT proposal, voter FROM votes WHERE proposal NOT BETWEEN 1 AND ? LIMIT 1",
        ):
            found: tuple[Any, ...] | None = self._execute(query, (last,)).fetchone()
            if found is not None:
                return found
        return None

    def _propose(self, entry: AuditEntry, time_ms: int) -> None:
        proposal = read_open(entry, time_ms)
        self._execute(
            _INSERT_PROPOSAL,
            (
                proposal.number,
                proposal.id,
                proposal.digest,
                proposal.proposer,
                proposal.request_id,
                proposal.action,
                entry.sequence,
                time_ms,
            ),
        )

    def _vote(self, entry: AuditEntry) -> None:
        number = int((entry.proposal_id or "").removeprefix("prop-"))
        self._execute(
            _RECORD_VOTE, (number, entry.actor_id, entry.data["value"], entry.sequence, entry.sequence)
        )

    def _tally(self, entry: AuditEntry, time_ms: int, epoch: int) -> None:
        status = ProposalStatus.EXPIRED if entry.event_type == "expired" else ProposalStatus.DECIDED
        self._execute(
            _RECORD_TALLY,
            (status.value, entry.data["decision"], time_ms, entry.sequence, epoch, entry.proposal_id),
        )
