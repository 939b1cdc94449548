"""What became of a command, and the stable names of refusals.

A command that cannot take effect executes as nothing and spoils no block; its author is told why.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Outcome", "Reason", "accepted", "refused", "repeated"]


class Reason(StrEnum):
    """Why a command executed as nothing. `DUPLICATE` alone is not a refusal: the first one took effect."""

    DUPLICATE = "DUPLICATE"
    EPOCH_OVER = "EPOCH_OVER"
    TOO_MANY_PROPOSALS = "TOO_MANY_PROPOSALS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    TARGET_LOCKED = "TARGET_LOCKED"
    REASON_REQUIRED = "REASON_REQUIRED"
    UNKNOWN_PROPOSAL = "UNKNOWN_PROPOSAL"
    PROPOSAL_NOT_OPEN = "PROPOSAL_NOT_OPEN"
    PROPOSAL_EXPIRED = "PROPOSAL_EXPIRED"
    ALREADY_VOTED = "ALREADY_VOTED"
    REVISION_OUT_OF_ORDER = "REVISION_OUT_OF_ORDER"
    NOT_PROPOSER = "NOT_PROPOSER"
    NOT_APPROVED = "NOT_APPROVED"
    ALREADY_EXECUTED = "ALREADY_EXECUTED"
    TOO_MANY_RECEIPTS = "TOO_MANY_RECEIPTS"
    VIEW_RECORDED = "VIEW_RECORDED"
    NOT_ALONE = "NOT_ALONE"
    MEMBERSHIP_REFUSED = "MEMBERSHIP_REFUSED"
    REJOIN_REFUSED = "REJOIN_REFUSED"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command, or of one vote of a ballot.

    `reason` is empty for a command that took effect, else a `Reason`; `message` says the same for a person.
    `proposal_id` is empty, and `entry_sequence` -1, where there is none.
    """

    accepted: bool
    reason: str = ""
    message: str = ""
    proposal_id: str = ""
    entry_sequence: int = -1


def accepted(proposal_id: str, entry_sequence: int) -> Outcome:
    """It took effect, in this entry."""
    return Outcome(True, "", "", proposal_id, entry_sequence)


def repeated(what: str, proposal_id: str, entry_sequence: int) -> Outcome:
    """The same was on record before, in this entry."""
    return Outcome(True, Reason.DUPLICATE.value, f"{what} is on record already", proposal_id, entry_sequence)


def refused(reason: Reason, message: str, proposal_id: str = "", entry_sequence: int = -1) -> Outcome:
    """It has no effect. The message says what, why, and what to do."""
    return Outcome(False, reason.value, message, proposal_id, entry_sequence)
