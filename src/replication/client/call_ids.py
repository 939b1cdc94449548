"""Which call id the calls of a piece of code carry.

Every call has one. The nodes write it into the log lines that belong to the call, and answer it. A program
that has an id of its own (of a web request, say) gives it to all calls that it makes for it:

    with call_id("request-4711"):
        client.propose(...)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from replication.client.errors import UsageError
from replication.identity.call_ids import new_call_id
from replication.identity.names import ID_MAX_LENGTH, is_id

__all__ = ["call_id", "id_for_call"]

_GIVEN: Final[ContextVar[str]] = ContextVar("acp_call_id", default="")


@contextmanager
def call_id(given: str) -> Iterator[None]:
    """Let the calls that are begun inside carry this id, in this task or thread. Raises `UsageError`."""
    if not is_id(given):
        raise UsageError(
            f"{given!r:.80} cannot be the id of a call. "
            f"Give 1 to {ID_MAX_LENGTH} characters of A-Z a-z 0-9 . _ -"
        )
    token = _GIVEN.set(given)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def id_for_call() -> str:
    """The id for a call that begins now: the one given, or a new one."""
    return _GIVEN.get() or new_call_id()
