"""What services read from the store: bounded pages of proposals, votes and entries, and the two files that
prove."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from replication.consensus.analysis import AgreementCounts
from replication.consensus.model import AuditEntry, Decision, ProposalStatus, VoteValue
from replication.identity.genesis import Genesis
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate

from .exporting import export_lines, export_part
from .history import OpenProposal, RecordedReceipt, RecordedVote, Totals, read_open, read_receipt, read_vote
from .proofs import decision_certificate
from .statistics import Statistics

__all__ = ["Listed", "RecordReading", "StoredEntry", "StoredProposal", "Summary", "VoteItem"]


_UNCONFIRMED: Final = "status = 'decided' AND decision = 'approved' AND action <> 'membership'"
"""As the index of `schema` has it, word for word: so the cost grows with what is unconfirmed."""

_COUNT_UNCONFIRMED: Final = "SELECT COUNT(*) FROM proposals WHERE " + _UNCONFIRMED  # noqa: S608  # constants


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry with the height and time (milliseconds) of its block."""

    entry: AuditEntry
    height: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A proposal with its state. `decided_ms` is 0 while it is open."""

    proposal: OpenProposal
    status: ProposalStatus
    decision: Decision
    decided_ms: int

    @property
    def number(self) -> int:
        """Its number, counted from 1 in commit order."""
        return self.proposal.number


@dataclass(frozen=True, slots=True)
class StoredProposal:
    """A proposal with everything on record about it. `votes` are the last of each voter, in order of their
    first; `tally` is the tally or expired entry, None while it is open."""

    listed: Listed
    votes: tuple[RecordedVote, ...]
    tally: AuditEntry | None
    receipts: tuple[tuple[RecordedReceipt, AuditEntry], ...]


@dataclass(frozen=True, slots=True)
class VoteItem:
    """One vote of a voter's history, with the proposal it is about."""

    proposal_id: str
    vote: RecordedVote

    @property
    def sequence(self) -> int:
        """Of the vote's entry."""
        return self.vote.sequence


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of the whole record. `expired` proposals are not among the decisions."""

    totals: Totals
    proposals: int
    open: int
    approved: int
    rejected: int
    no_quorum: int
    executed: int
    expired: int
    unconfirmed: int


class RecordReading(ABC):
    """Reads of a record. Each costs what it gives back, except the export."""

    genesis: Genesis

    @property
    @abstractmethod
    def statistics(self) -> Statistics:
        """Counts that are kept up to date."""

    @abstractmethod
    def totals(self) -> Totals:
        """Where the record stands."""

    @abstractmethod
    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query."""

    @abstractmethod
    def query_entries(self, condition: str, *values: object) -> list[tuple[AuditEntry, int]]:
        """Entries with the height of their block."""

    @abstractmethod
    def entry(self, sequence: int) -> AuditEntry:
        """One entry."""

    @abstractmethod
    def entries_of(self, proposal_id: str, event_type: str) -> list[AuditEntry]:
        """Entries of one type about a proposal."""

    @abstractmethod
    def block(self, height: int) -> tuple[Block, Certificate | None]:
        """One block with its certificate."""

    # Pages.

    def entries(self, from_sequence: int, limit: int, event_type: str = "") -> list[StoredEntry]:
        """Entries in order from a sequence number on, `limit` at most; with `event_type`, only such."""
        if event_type:
            condition, values = "WHERE event_type = ? AND entries.sequence >= ?", [event_type, from_sequence]
        else:
            condition, values = "WHERE entries.sequence >= ?", [from_sequence]
        found = self.query_entries(f"{condition} ORDER BY entries.sequence LIMIT ?", *values, limit)
        return [StoredEntry(entry, height, round(entry.timestamp * 1000)) for entry, height in found]

    def list_proposals(self, status: ProposalStatus | None, after_number: int, limit: int) -> list[Listed]:
        """Proposals by number, above `after_number`, `limit` at most."""
        condition = "number > ?"
        values: tuple[object, ...] = (after_number,)
        if status is not None:
            condition = "status = ? AND number > ?"
            values = (status.value, after_number)
        return self._listed(f"WHERE {condition} ORDER BY number LIMIT ?", *values, limit)

    def unconfirmed(self, after_number: int, limit: int) -> list[Listed]:
        """Approved proposals that no receipt says were executed with success, by number, above
        `after_number`. A change of members needs no receipt."""
        return self._listed(
            f"WHERE {_UNCONFIRMED} AND number > ? ORDER BY number LIMIT ?", after_number, limit
        )

    def proposal(self, proposal_id: str) -> StoredProposal | None:
        """One proposal with everything on record about it."""
        found = self._listed("WHERE id = ?", proposal_id)
        if not found:
            return None
        listed = found[0]
        votes = self.ask(
            "SELECT sequence FROM votes WHERE proposal = ? ORDER BY first_sequence", listed.number
        )
        receipts = self.entries_of(proposal_id, "execute")
        return StoredProposal(
            listed=listed,
            votes=tuple(read_vote(self.entry(row[0]), self.genesis.cluster_id) for row in votes),
            tally=self._tally_of(proposal_id),
            receipts=tuple((read_receipt(entry, self.genesis.cluster_id), entry) for entry in receipts),
        )

    def history(self, voter: str, after_sequence: int, limit: int) -> list[VoteItem]:
        """The last votes of a voter on each proposal, in order of their entries above `after_sequence`."""
        found = self.query_entries(
            "JOIN votes ON votes.sequence = entries.sequence WHERE voter = ? AND votes.sequence > ? "
            "ORDER BY votes.sequence LIMIT ?",
            voter,
            after_sequence,
            limit,
        )
        return [
            VoteItem(entry.proposal_id or "", read_vote(entry, self.genesis.cluster_id)) for entry, _ in found
        ]

    def _listed(self, condition: str, *values: object) -> list[Listed]:
        rows = self.ask(
            f"SELECT sequence, proposed_ms, status, decision, decided_ms FROM proposals {condition}",  # noqa: S608
            *values,
        )
        return [
            Listed(
                read_open(self.entry(sequence), proposed_ms),
                ProposalStatus(status),
                Decision(decision),
                decided,
            )
            for sequence, proposed_ms, status, decision, decided in rows
        ]

    def _tally_of(self, proposal_id: str) -> AuditEntry | None:
        found = self.ask(
            "SELECT tally_sequence FROM proposals WHERE id = ? AND status <> 'open'", proposal_id
        )
        return self.entry(found[0][0]) if found else None

    # The whole.

    def summary(self) -> Summary:
        """Counts of everything."""
        counts = self.statistics
        return Summary(
            totals=self.totals(),
            proposals=counts.proposals,
            open=counts.open,
            approved=counts.decisions[Decision.APPROVED.value],
            rejected=counts.decisions[Decision.REJECTED.value],
            no_quorum=counts.decisions[Decision.NO_QUORUM.value],
            executed=counts.executed,
            expired=counts.expired,
            unconfirmed=self.ask(_COUNT_UNCONFIRMED)[0][0],
        )

    def agreement(self) -> AgreementCounts:
        """Who voted with whom, open proposals included; a copy of its own."""
        counts = self.statistics.agreement.copy()
        rows = self.ask(
            "SELECT proposal, voter, value FROM votes JOIN proposals ON number = proposal "
            "WHERE status = 'open' AND counts = 1"
        )
        votes: dict[int, dict[str, VoteValue]] = {}
        for number, voter, value in rows:
            votes.setdefault(number, {})[voter] = VoteValue(value)
        for each in votes.values():
            counts.record(each)
        return counts

    def export_lines(self) -> Iterator[bytes]:
        """Lines of the export of the whole record (see `exporting`), read as they are asked for."""
        return export_lines(self)

    def export_part(self, first: int, last: int, end: int) -> Iterator[bytes]:
        """Lines of the blocks `first` to `last` of an export that reaches to height `end`."""
        return export_part(self, first, last, end)

    def certificate_json(self, proposal_id: str) -> str | None:
        """The certificate of a decision, one line of canonical JSON; None for an unknown or open proposal."""
        return decision_certificate(self, proposal_id)
