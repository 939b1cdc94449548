"""Arguments of the client's calls, checked before any node is asked: each returns its argument or raises
`UsageError`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from replication.client.errors import UsageError
from replication.client.model import ExecutionOutcome, ProposalStatus, VoteValue

__all__ = ["count", "duration", "evidence_text", "outcome", "page_size", "status", "text", "vote_value"]

MAX_WIRE_INTEGER: Final = 2**63 - 1
MAX_PAGE_SIZE: Final = 500


def evidence_text(evidence: Mapping[str, Any] | None) -> str:
    if evidence is None:
        return ""
    try:
        return json.dumps(dict(evidence), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"The evidence is not a JSON object: {error}.") from error


def text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{field} has to be text, not {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{field} holds a character that has no UTF-8 form; remove it.") from None
    return value


def duration(value: int | None, field: str) -> int | None:
    return None if value is None else count(value, field)


def count(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_WIRE_INTEGER:
        raise UsageError(f"{field} = {value!r:.80} is not possible. Give a whole number of at least 0.")
    return value


def page_size(value: int) -> int:
    if not 1 <= value <= MAX_PAGE_SIZE:
        raise UsageError(f"A page of {value} is not possible. Ask for 1 to {MAX_PAGE_SIZE}.")
    return value


def vote_value(value: VoteValue | str) -> VoteValue:
    if value not in tuple(VoteValue):
        raise UsageError(f"{value!r:.80} is not a vote. Choose one of: {', '.join(VoteValue)}.")
    return VoteValue(value)


def outcome(value: ExecutionOutcome | str) -> ExecutionOutcome:
    try:
        return ExecutionOutcome(value)
    except ValueError:
        raise UsageError(
            f"{value!r:.80} is not an outcome. Choose one of: {', '.join(ExecutionOutcome)}."
        ) from None


def status(value: ProposalStatus | str) -> ProposalStatus:
    try:
        return ProposalStatus(value)
    except ValueError:
        raise UsageError(
            f"{value!r:.80} is not a status. Choose one of: {', '.join(ProposalStatus)}."
        ) from None
