"""An open proposal as the verifier sees it, and what is kept of an approved one for a change of members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replication.identity.members import MemberSet

from .epochs import same_key
from .tally import Tally, TallyRules

__all__ = ["Approval", "OpenProposal"]


@dataclass(frozen=True, slots=True)
class Approval:
    """A proposal for a change of members that was approved in this epoch."""

    proposal_id: str
    change: bytes
    approvals: int


@dataclass(slots=True)
class OpenProposal:
    """A proposal that is still open. `votes` are as they were signed, with their `revisions` and `marks`."""

    id: str
    number: int
    proposer: str
    action: str
    target: str
    evidence: Mapping[str, object] | None
    digest: bytes
    rules: TallyRules
    closes_ms: int
    expires_ms: int
    votes: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    marks: dict[str, bytes] = field(default_factory=dict)

    def deadline(self) -> tuple[int, str]:
        """When the cluster acts by itself (0: never), and what it then does; at a tie it expires."""
        if self.expires_ms and (not self.closes_ms or self.expires_ms <= self.closes_ms):
            return self.expires_ms, "expired"
        return self.closes_ms, "window"

    def count(self, members: MemberSet, faulty: Mapping[str, int]) -> Tally:
        """The votes, those of the proven faulty as abstentions."""
        return Tally.count(self.votes, members, faulty, self.rules.uncounted)

    def is_settled(self, members: MemberSet, faulty: Mapping[str, int]) -> bool:
        """Whether no vote that is missing can change the decision."""
        return self.count(members, faulty).settled(self.rules) is not None

    def move(self, before: MemberSet, after: MemberSet, rules: TallyRules) -> None:
        """Go on under another electorate: votes of keys that are gone count no more."""
        self.rules = rules
        gone = [voter for voter in self.votes if not same_key(after, voter, before.public_key(voter))]
        for voter in gone:
            del self.votes[voter], self.revisions[voter], self.marks[voter]
