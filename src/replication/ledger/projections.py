"""What the entries of the record amount to, as rows: proposals and votes.

One function, used when a block is appended and when a file is opened: there the rows are made again from the
entries and compared with those in the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from replication.consensus.model import AuditEntry, ProposalStatus
from replication.identity.members import MemberSet

from .history import has_key, read_open

__all__ = ["PROJECTED_TABLES", "Projection"]

PROJECTED_TABLES = ("proposals", "votes")


class Projection:
    """Writes rows into the tables of one schema of a connection."""

    def __init__(self, connection: sqlite3.Connection, schema: str = "main") -> None:
        self._execute = connection.execute
        self._schema = schema

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
                    f"UPDATE {self._schema}.proposals SET status = ? WHERE id = ?",  # noqa: S608
                    (ProposalStatus.EXECUTED.value, entry.proposal_id),
                )

    def change_members(self, old: MemberSet, new: MemberSet) -> None:
        """Votes of members that are gone, or that have another key now, count no more on open proposals."""
        gone = [member.id for member in old.members if not has_key(new, member.id, member.public_key)]
        for voter in gone:
            self._execute(
                f"UPDATE {self._schema}.votes SET counts = 0 WHERE voter = ? AND proposal IN "  # noqa: S608
                f"(SELECT number FROM {self._schema}.proposals WHERE status = 'open')",
                (voter,),
            )

    def _propose(self, entry: AuditEntry, time_ms: int) -> None:
        proposal = read_open(entry, time_ms)
        self._execute(
            f"INSERT INTO {self._schema}.proposals (number, id, digest, proposer, request_id, status, "  # noqa: S608
            "decision, sequence, proposed_ms) VALUES (?, ?, ?, ?, ?, 'open', 'pending', ?, ?)",
            (
                proposal.number,
                proposal.id,
                proposal.digest,
                proposal.proposer,
                proposal.request_id,
                entry.sequence,
                time_ms,
            ),
        )

    def _vote(self, entry: AuditEntry) -> None:
        number = int((entry.proposal_id or "").removeprefix("prop-"))
        self._execute(
            f"INSERT INTO {self._schema}.votes (proposal, voter, first_sequence, sequence, counts) "  # noqa: S608
            "VALUES (?, ?, ?, ?, 1) ON CONFLICT (proposal, voter) DO UPDATE SET "
            "first_sequence = CASE counts WHEN 1 THEN first_sequence ELSE excluded.first_sequence END, "
            "sequence = excluded.sequence, counts = 1",
            (number, entry.actor_id, entry.sequence, entry.sequence),
        )

    def _tally(self, entry: AuditEntry, time_ms: int, epoch: int) -> None:
        status = ProposalStatus.EXPIRED if entry.event_type == "expired" else ProposalStatus.DECIDED
        self._execute(
            f"UPDATE {self._schema}.proposals SET status = ?, decision = ?, decided_ms = ?, "  # noqa: S608
            "tally_sequence = ?, decided_epoch = ? WHERE id = ?",
            (status.value, entry.data["decision"], time_ms, entry.sequence, epoch, entry.proposal_id),
        )
