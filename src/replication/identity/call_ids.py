"""The id that a call carries from a client to a node, and into the logs of both.

It is for people who look for what became of a call. It decides nothing, and has nothing to do with the
request id of a proposal, which makes a repetition harmless: each repetition may be another call.
"""

from __future__ import annotations

import secrets
from typing import Final

__all__ = ["CALL_ID_KEY", "new_call_id"]

CALL_ID_KEY: Final = "acp-call-id"
"""The metadata of a call, and of the end of its answer, that holds the id (see `names.is_id`)."""


def new_call_id() -> str:
    """An id that no other call has."""
    return secrets.token_hex(8)
