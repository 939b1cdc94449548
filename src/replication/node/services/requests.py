"""The fields of requests, read strictly: size first, then shape; what is wrong is named with its field.

Every function returns the value, or raises `RefusedError` with INVALID_ARGUMENT as status and a reason of its
own. Nothing here looks at the state of the cluster.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from replication.consensus import Decision, ProposalStatus, VoteValue
from replication.consensus.canonical import canonical_json, copy_evidence
from replication.consensus.errors import InvalidRequestError
from replication.identity.names import ID_MAX_LENGTH, is_id
from replication.identity.signbytes import OUTCOME_CODES
from replication.node.failures import RefusedError, bad_field
from replication.v1 import model_pb2

__all__ = [
    "DEFAULT_PAGE_SIZE",
    "MAX_PAGE_SIZE",
    "STATUSES",
    "VOTE_VALUES",
    "evidence",
    "execution_outcome",
    "fixed",
    "member_id",
    "number_token",
    "page_size",
    "proposal_id",
    "proposal_status",
    "request_id",
    "share",
    "text",
    "vote_value",
    "whole_number",
]

T = TypeVar("T")

MAX_EVIDENCE_BYTES: Final = 64 * 1024
"""What voters can take in; also in its canonical form, in which it is signed."""

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 500

_MAX_SHOWN: Final = 80
_MAX_NUMBER_DIGITS: Final = 15
_PROPOSAL_ID: Final = re.compile(r"prop-[0-9]{4,15}", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)

VOTE_VALUES: Final[Mapping[int, VoteValue]] = {
    model_pb2.VOTE_VALUE_APPROVE: VoteValue.APPROVE,
    model_pb2.VOTE_VALUE_REJECT: VoteValue.REJECT,
    model_pb2.VOTE_VALUE_ABSTAIN: VoteValue.ABSTAIN,
}
STATUSES: Final[Mapping[int, ProposalStatus]] = {
    model_pb2.PROPOSAL_STATUS_OPEN: ProposalStatus.OPEN,
    model_pb2.PROPOSAL_STATUS_DECIDED: ProposalStatus.DECIDED,
    model_pb2.PROPOSAL_STATUS_EXECUTED: ProposalStatus.EXECUTED,
    model_pb2.PROPOSAL_STATUS_EXPIRED: ProposalStatus.EXPIRED,
}
DECISIONS: Final[Mapping[int, Decision]] = {
    model_pb2.DECISION_PENDING: Decision.PENDING,
    model_pb2.DECISION_APPROVED: Decision.APPROVED,
    model_pb2.DECISION_REJECTED: Decision.REJECTED,
    model_pb2.DECISION_NO_QUORUM: Decision.NO_QUORUM,
}
OUTCOMES: Final[Mapping[int, str]] = {
    model_pb2.EXECUTION_OUTCOME_UNSPECIFIED: "succeeded",
    model_pb2.EXECUTION_OUTCOME_SUCCEEDED: "succeeded",
    model_pb2.EXECUTION_OUTCOME_FAILED: "failed",
    model_pb2.EXECUTION_OUTCOME_PARTIAL: "partial",
}


def fixed(value: bytes, field: str, size: int) -> bytes:
    """Bytes of a known length."""
    if len(value) != size:
        raise bad_field(field, f"must have {size} bytes, not {len(value)}")
    return value


def request_id(value: str) -> str:
    """A request id: an identifier."""
    if not is_id(value):
        raise bad_field(
            "request_id",
            f"must be 1 to {ID_MAX_LENGTH} characters of A-Z a-z 0-9 . _ -, not {value!r:.{_MAX_SHOWN}}",
            "INVALID_REQUEST_ID",
        )
    return value


def proposal_id(value: str) -> str:
    """The id of a proposal in its one spelling, such as prop-0001 (at least four digits, no more zeros)."""
    if _PROPOSAL_ID.fullmatch(value) is None or value != f"prop-{int(value[5:]):04d}" or not int(value[5:]):
        raise bad_field(
            "proposal_id",
            f"must be an id such as prop-0001, not {value!r:.{_MAX_SHOWN}}",
            "INVALID_PROPOSAL_ID",
        )
    return value


def member_id(value: str, field: str) -> str:
    """The id of a voter, whether there is such a voter or not."""
    if not is_id(value):
        raise bad_field(
            field,
            f"must be 1 to {ID_MAX_LENGTH} characters of A-Z a-z 0-9 . _ -, not {value!r:.{_MAX_SHOWN}}",
            "INVALID_VOTER_ID",
        )
    return value


def text(value: str, field: str, limit_bytes: int, *, empty: bool = True) -> str:
    """Free text of at most `limit_bytes` in UTF-8."""
    size = len(value.encode())
    if size > limit_bytes:
        raise bad_field(
            field, f"has {size} bytes, and at most {limit_bytes} are allowed", f"{field.upper()}_TOO_LONG"
        )
    if not value and not empty:
        raise bad_field(field, "must not be empty", f"{field.upper()}_MISSING")
    return value


def evidence(value: str) -> bytes:
    """The canonical form of a JSON object; empty text means an empty object."""
    size = len(value.encode())
    if size > MAX_EVIDENCE_BYTES:
        raise _too_large(size)
    if not value:
        return b"{}"
    try:
        parsed = json.loads(value, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if not isinstance(parsed, dict):
            raise _bad_evidence("must be a JSON object, with names and values in braces")
        canonical = canonical_json(copy_evidence(parsed))
    except RefusedError:
        raise
    except InvalidRequestError as error:
        raise _bad_evidence(f"cannot be recorded: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _bad_evidence(f"is not valid JSON: {error}") from error
    if len(canonical) > MAX_EVIDENCE_BYTES:
        raise _too_large(len(canonical))
    return canonical


def whole_number(value: int, field: str, highest: int) -> int:
    """An unsigned number of the wire that is not too large for the record."""
    if value > highest:
        raise bad_field(field, f"must be from 0 to {highest}, not {value}", f"INVALID_{field.upper()}")
    return value


def vote_value(value: int) -> VoteValue:
    """What to vote; unspecified is no vote."""
    return _enum(VOTE_VALUES, value, "value", "approve, reject or abstain", "INVALID_VOTE_VALUE")


def proposal_status(value: int) -> ProposalStatus | None:
    """A status to list; unspecified means all."""
    if value == model_pb2.PROPOSAL_STATUS_UNSPECIFIED:
        return None
    return _enum(STATUSES, value, "status", "open, decided, executed or expired", "INVALID_STATUS")


def execution_outcome(value: int) -> str:
    """How an execution ended; unspecified means that it succeeded."""
    return _enum(OUTCOMES, value, "outcome", " or ".join(OUTCOME_CODES), "INVALID_OUTCOME")


def page_size(value: int) -> int:
    """The size of a page; 0 means the default."""
    if value > MAX_PAGE_SIZE:
        raise bad_field("page_size", f"must be at most {MAX_PAGE_SIZE}, not {value}", "INVALID_PAGE_SIZE")
    return value or DEFAULT_PAGE_SIZE


def number_token(value: str) -> int:
    """Where a page begins, from the token that the page before it gave; empty is the beginning."""
    if not value:
        return 0
    if _DIGITS.fullmatch(value) is None:
        raise bad_field(
            "page_token",
            f"must be what the page before this one gave, not {value!r:.{_MAX_SHOWN}}",
            "INVALID_PAGE_TOKEN",
        )
    return int(value)


def share(value: float, default: float) -> float:
    """A share above 0 and up to 1; 0 means the default."""
    if value == 0:
        return default
    if not math.isfinite(value) or not 0 < value <= 1:
        raise bad_field("threshold", f"must be above 0 and at most 1, not {value}", "INVALID_THRESHOLD")
    return value


def _enum(table: Mapping[int, T], value: int, field: str, legal: str, reason: str) -> T:
    found = table.get(value)
    if found is None:
        raise bad_field(field, f"must be {legal}, not the unknown number {value}", reason)
    return found


def _too_large(size: int) -> RefusedError:
    return bad_field(
        "evidence_json",
        f"has {size} bytes, and at most {MAX_EVIDENCE_BYTES} are allowed. Keep what the voters need.",
        "EVIDENCE_TOO_LARGE",
    )


def _bad_evidence(problem: str) -> RefusedError:
    return bad_field("evidence_json", problem[:300], "INVALID_EVIDENCE")


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("a name stands twice in one object")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
