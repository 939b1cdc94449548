"""Who the members are, who of them is proven faulty, and which views and incarnations are on record.

What is said of a member belongs to its id with its key: it ends with the epoch in which either goes.
"""

from __future__ import annotations

from collections.abc import Callable

from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet

from .blame import SignedEvidence, check_coordinator
from .epochs import SignedMembership, same_key
from .errors import VerificationError
from .proposals import Approval
from .records import Entry
from .signatures import CurrentEpoch, SignatureChecker

__all__ = ["REJOIN_INTERVAL_MS", "Electorate"]

REJOIN_INTERVAL_MS = 60_000


class Electorate:
    """The state of the members. `current` is what signatures are checked against; it moves with epochs."""

    def __init__(self, genesis: Genesis, current: CurrentEpoch, signatures: SignatureChecker) -> None:
        self.faulty: dict[str, int] = {}
        self.recorded_view = 0
        self._genesis = genesis
        self._current = current
        self._signatures = signatures
        self._incarnations: dict[str, bytes] = {}
        self._rejoined_ms: dict[str, int] = {}
        self._next: SignedMembership | None = None

    @property
    def members(self) -> MemberSet:
        """The members of the current epoch."""
        return self._current.members

    @property
    def is_ending(self) -> bool:
        """Whether this block ends the epoch."""
        return self._next is not None

    def coordinator(self, entry: Entry) -> None:
        """A view change took effect."""
        view = check_coordinator(entry, self.members, self._signatures)
        if view <= self.recorded_view:
            raise VerificationError(
                f"data.view is {view}, but view {self.recorded_view} is on record already"
            )
        self.recorded_view = view

    def evidence(self, entry: Entry) -> SignedEvidence:
        """A member is proven faulty: once, as long as it is a member with this key."""
        evidence = SignedEvidence.read(entry, self._signatures)
        if evidence.accused in self.faulty:
            raise VerificationError(
                f"data.accused {evidence.accused} is proven faulty already, by entry "
                f"{self.faulty[evidence.accused]}"
            )
        self.faulty[evidence.accused] = entry.sequence
        return evidence

    def membership(self, entry: Entry, time_ms: int, approval: Callable[[bytes], Approval | None]) -> None:
        """The members change with the next block."""
        event = SignedMembership.read(entry, self.members, self._genesis.nonce, self._signatures)
        if event.digest is None:
            self._check_rejoin(entry, event, time_ms)
            self._incarnations[event.subject] = event.nonce
            self._rejoined_ms[event.subject] = time_ms
        else:
            self._check_approval(entry, event, approval(event.digest))
        self._next = event

    def _check_rejoin(self, entry: Entry, event: SignedMembership, time_ms: int) -> None:
        member = event.subject
        if entry.proposal_id:
            raise VerificationError("proposal_id must be empty: a member rejoins without a proposal")
        if member in self.faulty:
            raise VerificationError(f"{member} is proven faulty, so it cannot rejoin")
        if self._incarnations.get(member) == event.nonce:
            raise VerificationError(f"data.change.nonce is that of the incarnation of {member} already")
        last_ms = self._rejoined_ms.get(member)
        if last_ms is not None and time_ms < last_ms + REJOIN_INTERVAL_MS:
            raise VerificationError(f"{member} has rejoined {time_ms - last_ms} ms before: that is too soon")

    def _check_approval(self, entry: Entry, event: SignedMembership, approval: Approval | None) -> None:
        if approval is None or entry.proposal_id != approval.proposal_id:
            raise VerificationError(
                f"data.digest is not that of {entry.proposal_id[:80]!r}, approved in this epoch, for a "
                "change of members"
            )
        if approval.change != event.change:
            raise VerificationError(f"data.change is not what {approval.proposal_id} approves")
        needed = 2 * ((self.members.n - 1) // 3) + 1
        if approval.approvals < needed:
            raise VerificationError(
                f"{approval.proposal_id} has {approval.approvals} approvals, but a change of members needs "
                f"{needed}"
            )

    def advance(self) -> MemberSet | None:
        """At the end of a block: begin the next epoch if it is time. Returns the members before, or None."""
        if self._next is None:
            return None
        before, after = self.members, self._next.members

        def stays(member: str) -> bool:
            return same_key(after, member, before.public_key(member))

        self._current.members = after
        self._next = None
        self.recorded_view = 0
        self.faulty = {member: sequence for member, sequence in self.faulty.items() if stays(member)}
        self._incarnations = {member: nonce for member, nonce in self._incarnations.items() if stays(member)}
        self._rejoined_ms = {member: time for member, time in self._rejoined_ms.items() if stays(member)}
        return before
