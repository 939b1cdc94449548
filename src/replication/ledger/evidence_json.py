"""The evidence of a proposal: canonical JSON of an object, read so that writing it gives the same bytes."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from replication.consensus.canonical import MAX_EVIDENCE_DEPTH, MAX_SAFE_INTEGER, canonical_json

__all__ = ["MAX_EVIDENCE_BYTES", "parse_evidence"]

MAX_EVIDENCE_BYTES: Final = 64 * 1024

_LONGEST_EXACT: Final = 19  # digits and a sign; longer integers are beyond 2**53 and only doubles


def parse_evidence(raw: bytes) -> dict[str, Any]:
    """The object that canonical JSON stands for.

    Raises ValueError unless `raw` is at most `MAX_EVIDENCE_BYTES` of canonical JSON (RFC 8785) of an object,
    nested at most `MAX_EVIDENCE_DEPTH` deep. In RFC 8785 numbers are doubles: an integer beyond 2**53 - 1 is
    read as one, and is legal only in the form in which a double is written.
    """
    if len(raw) > MAX_EVIDENCE_BYTES:
        raise ValueError(f"evidence has {len(raw)} bytes; at most {MAX_EVIDENCE_BYTES} are allowed")
    try:
        value = json.loads(raw.decode("utf-8"), parse_int=_number, parse_constant=_refuse)
        canonical = canonical_json(value)
    except RecursionError:
        raise ValueError("evidence is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"evidence must be JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise ValueError("evidence must be a JSON object")
    if canonical != raw:
        raise ValueError("evidence must be canonical JSON (RFC 8785): sorted keys, no spare white space")
    if _depth_exceeds(value, MAX_EVIDENCE_DEPTH):
        raise ValueError(f"evidence is nested more than {MAX_EVIDENCE_DEPTH} deep")
    return value


def _number(text: str) -> int | float:
    value = int(text) if len(text) <= _LONGEST_EXACT else float(text)
    return value if abs(value) <= MAX_SAFE_INTEGER else float(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _depth_exceeds(value: object, limit: int) -> bool:
    if isinstance(value, dict):
        return limit <= 0 or any(_depth_exceeds(child, limit - 1) for child in value.values())
    if isinstance(value, list):
        return limit <= 0 or any(_depth_exceeds(child, limit - 1) for child in value)
    return False
