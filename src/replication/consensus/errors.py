"""What the voting library refuses, and why.

Each class is the built-in error that the interface promises (`ValueError` for a wrong request, `KeyError` for
an unknown proposal) and a `CallerError` of the project's tree, so that a caller may catch either. `reason` is
the stable name a program can compare.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from replication.errors import CallerError

__all__ = [
    "AlreadyVotedError",
    "CanonicalJSONError",
    "InvalidConfigError",
    "InvalidEvidenceError",
    "InvalidRequestError",
    "ProposalExpiredError",
    "ProposalLimitError",
    "ProposalNotOpenError",
    "ReasonRequiredError",
    "TargetLockedError",
    "UnknownProposalError",
    "UnknownVoterError",
    "VotingBlocsTruncatedWarning",
    "shown",
]

_SHOWN_CHARACTERS: Final = 100
"""Enough to recognise a value in a message; the value itself may be of any size."""


def shown(value: object) -> str:
    """Return `repr(value)` for a message: shortened, and never failing (very long integers have no repr)."""
    try:
        text = repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _with_message(error_class: type[Exception], message: str) -> Exception:
    """Unpickle an error whose constructor takes an id: calling it would wrap the message in another."""
    return error_class.__new__(error_class, message)


class InvalidRequestError(CallerError, ValueError):
    """An argument has the wrong type or a value outside its legal range; nothing was changed."""

    reason: ClassVar[str] = "INVALID_ARGUMENT"


class ReasonRequiredError(InvalidRequestError):
    """The rules ask for a reason with this vote."""

    reason: ClassVar[str] = "REASON_REQUIRED"


class TargetLockedError(InvalidRequestError):
    """The rules allow one open proposal a target."""

    reason: ClassVar[str] = "TARGET_LOCKED"


class InvalidConfigError(InvalidRequestError):
    """A configuration field, voter id or weight is illegal. The message has its value and legal range."""

    reason: ClassVar[str] = "INVALID_CONFIG"


class CanonicalJSONError(InvalidRequestError):
    """The value has no canonical JSON form (RFC 8785)."""

    reason: ClassVar[str] = "NOT_CANONICAL_JSON"


class InvalidEvidenceError(InvalidRequestError):
    """The evidence of a proposal is not a JSON object."""

    reason: ClassVar[str] = "INVALID_EVIDENCE"


class UnknownVoterError(InvalidRequestError):
    """The named voter is not one of the electorate."""

    reason: ClassVar[str] = "UNKNOWN_VOTER"

    def __init__(self, voter_id: object) -> None:
        super().__init__(f"Unknown voter {shown(voter_id)}: not one of the voters of this session")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_with_message, (type(self), *self.args))


class UnknownProposalError(CallerError, KeyError):
    """There is no proposal with this id."""

    reason: ClassVar[str] = "UNKNOWN_PROPOSAL"

    def __init__(self, proposal_id: object) -> None:
        super().__init__(f"Unknown proposal {shown(proposal_id)}: use an id that propose() returned")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_with_message, (type(self), *self.args))

    def __str__(self) -> str:
        """Return the message as it is; `KeyError` would print it in quotes."""
        return str(self.args[0])


class ProposalNotOpenError(CallerError, ValueError):
    """The proposal takes no votes any more."""

    reason: ClassVar[str] = "PROPOSAL_NOT_OPEN"


class ProposalExpiredError(ProposalNotOpenError):
    """The proposal takes no votes any more, because its time is over."""

    reason: ClassVar[str] = "PROPOSAL_EXPIRED"


class AlreadyVotedError(CallerError, ValueError):
    """The voter has voted on this proposal, and the configuration does not allow a vote to be changed."""

    reason: ClassVar[str] = "ALREADY_VOTED"


class ProposalLimitError(CallerError, ValueError):
    """There are as many open proposals as the configuration allows."""

    reason: ClassVar[str] = "TOO_MANY_PROPOSALS"


class VotingBlocsTruncatedWarning(UserWarning):
    """The search for voting blocs stopped at its step limit; the blocs returned are not all there are."""
