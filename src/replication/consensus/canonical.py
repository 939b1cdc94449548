"""Canonical JSON (RFC 8785): the one byte form of a value, so that its hash is the same on every node.

Most values of an audit chain are small objects of plain strings, integers and fractional numbers. For those
the standard library's C encoder writes the same bytes as RFC 8785 and is many times faster than a Python one.
A walk over the value decides: where anything falls outside the domain in which the two agree (integral or
very large or very small floats, keys beyond U+FFFF, subclasses), the `rfc8785` package does the work.
"""

from __future__ import annotations

import json
from typing import Any, Final

import rfc8785

from replication.consensus.errors import CanonicalJSONError, InvalidEvidenceError

__all__ = [
    "MAX_DEPTH",
    "MAX_EVIDENCE_DEPTH",
    "MAX_SAFE_INTEGER",
    "canonical_json",
    "copy_evidence",
    "is_text",
]

MAX_DEPTH: Final = 64
"""Deepest nesting of containers. A fixed bound, since Python's own depends on how deep the caller stands, and
all nodes must agree on what is acceptable."""

MAX_EVIDENCE_DEPTH: Final = 32
"""Deepest nesting of evidence: well below `MAX_DEPTH`, since records wrap evidence in their own objects."""

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""Largest integer in canonical JSON, whose numbers are IEEE 754 doubles (RFC 8785 section 3.2.2.3)."""

_PLAIN_FLOAT_MIN: Final = 1e-4  # below, repr() switches to exponents and ECMAScript does not yet
_PLAIN_FLOAT_MAX: Final = 1e16  # from here, repr() uses exponents and ECMAScript does not until 1e21
_ALWAYS_PLAIN: Final = frozenset({str, bool, type(None)})
_LAST_OF_ONE_UNIT: Final = "\uffff"
"""RFC 8785 sorts keys by UTF-16 code units, Python by code points: the same up to here."""

_encode = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
).encode


def canonical_json(value: object) -> bytes:
    """Return the RFC 8785 encoding of `value` as UTF-8.

    `value` is built from dict (string keys), list, tuple, str, int, float, bool and None.

    Raises `CanonicalJSONError` for any other type, NaN and infinities, integers beyond ±(2**53 - 1), strings
    with lone surrogates, and nesting deeper than `MAX_DEPTH` (which includes containers that hold
    themselves).
    """
    try:
        if _is_plain(value, MAX_DEPTH):
            return _encode(value).encode("utf-8")
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # checks the type itself, at run time
    except CanonicalJSONError:
        raise
    except ValueError as error:
        raise CanonicalJSONError(f"No canonical JSON form (RFC 8785): {error}") from error


def is_text(value: object) -> bool:
    """Return whether `value` is a string that can be encoded as UTF-8 (no lone surrogates)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def copy_evidence(evidence: object) -> dict[str, Any]:
    """Return a deep copy of `evidence` in plain JSON types (tuples become lists).

    Raises `InvalidEvidenceError` if it is not a JSON object with a canonical form, or is nested deeper than
    `MAX_EVIDENCE_DEPTH`.
    """
    if not isinstance(evidence, dict):
        raise InvalidEvidenceError(
            f"evidence must be a JSON object (a dict) or None, got {type(evidence).__name__}"
        )
    try:
        copy = _copy_object(evidence, MAX_EVIDENCE_DEPTH)
        canonical_json(copy)
    except CanonicalJSONError as error:
        raise InvalidEvidenceError(f"evidence must be a JSON object: {error}") from error
    return copy


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether the C encoder writes `value` as RFC 8785 does.

    Exact types only, since subclasses may print otherwise. Visits everything, so that the depth is checked
    for either encoder. Lone surrogates show when text is encoded.
    """
    kind = type(value)
    if kind in _ALWAYS_PLAIN:
        return True
    if kind is int:
        return bool(-MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER)
    if kind is float:
        return bool(_PLAIN_FLOAT_MIN <= abs(value) < _PLAIN_FLOAT_MAX and not value.is_integer())
    if isinstance(value, dict):
        _require_depth(depth)
        plain = kind is dict
        for key, child in value.items():
            if type(key) is not str or not (key.isascii() or max(key) <= _LAST_OF_ONE_UNIT):
                plain = False
            if type(child) not in _ALWAYS_PLAIN and not _is_plain(child, depth - 1):
                plain = False
        return plain
    if isinstance(value, list | tuple):
        _require_depth(depth)
        plain = kind is list or kind is tuple
        for child in value:
            if type(child) not in _ALWAYS_PLAIN and not _is_plain(child, depth - 1):
                plain = False
        return plain
    return False


def _require_depth(depth: int) -> None:
    if depth <= 0:
        raise CanonicalJSONError("nested too deeply, or a container that holds itself")


def _copy_object(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    _require_depth(depth)
    return {_copy_value(key, 0): _copy_value(child, depth - 1) for key, child in value.items()}


def _copy_value(value: Any, depth: int) -> Any:
    """Copy one JSON value. What is not JSON is left in place, for `canonical_json` to refuse."""
    if isinstance(value, str):
        return str.__str__(value)  # a subclass (an enum, say) becomes the plain text it encodes as
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        return _copy_object(value, depth)
    if isinstance(value, list | tuple):
        _require_depth(depth)
        return [_copy_value(child, depth - 1) for child in value]
    return value
