"""The alphabet of identifiers, shared by members, requests, statements and certificates.

An identifier matches ``[A-Za-z0-9._-]{1,64}``. It is ASCII on purpose: two identifiers that look alike to a
person are then (nearly) always the same bytes, and every identifier is safe in a log line, a URI and a file
name.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["ID_MAX_LENGTH", "is_id", "is_member_id", "require_id"]

ID_MAX_LENGTH: Final = 64
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def is_id(text: object) -> bool:
    """Whether `text` is a legal identifier."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_member_id(text: object) -> bool:
    """Whether `text` may name a member or a certificate.

    As `is_id`, but not ``.`` or ``..``: tools make a folder for each member, and those two lead out of it.
    """
    return is_id(text) and text not in (".", "..")


def require_id(text: object, what: str) -> str:
    """Return `text` if it is an identifier, else raise `ValueError` that names the field `what`."""
    if not isinstance(text, str) or _ID.fullmatch(text) is None:
        raise ValueError(
            f"{what} must be 1 to {ID_MAX_LENGTH} characters of A-Z a-z 0-9 . _ -, not {text!r:.80}"
        )
    return text
