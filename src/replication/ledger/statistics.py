"""Counts that would cost a pass over the record, kept up to date: proposals by state, and who votes with
whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from replication.consensus.analysis import AgreementCounts
from replication.consensus.model import AuditEntry, VoteValue

__all__ = ["Statistics"]


class Statistics:
    """Follows from the entries alone. Memory grows with the voters, not with the record."""

    def __init__(self) -> None:
        self.proposals = 0
        self.executed = 0
        self.expired = 0
        self.decisions: Counter[str] = Counter()
        self.agreement = AgreementCounts()

    @property
    def open(self) -> int:
        """Proposals that are neither decided nor expired."""
        return self.proposals - self.expired - self.decisions.total()

    def apply(self, entries: Iterable[AuditEntry]) -> None:
        """Take in the entries of the next block. An expired proposal counts as such, and not by its
        decision."""
        for entry in entries:
            if entry.event_type == "propose":
                self.proposals += 1
            elif entry.event_type in ("tally", "expired"):
                if entry.event_type == "expired":
                    self.expired += 1
                else:
                    self.decisions[entry.data["decision"]] += 1
                votes, excluded = entry.data["votes"], entry.data.get("excluded", {})
                self.agreement.record(
                    {voter: VoteValue(value) for voter, value in votes.items() if voter not in excluded}
                )
            elif entry.event_type == "execute" and entry.data["outcome"] == "succeeded":
                self.executed += 1
