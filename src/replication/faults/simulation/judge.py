"""What contradicts what: the rules of blame, written down a second time, for the simulator alone.

An oracle shares no code with what it judges: nothing of `replication.ordering` is called here but its
vocabulary.
"""

from __future__ import annotations

from replication.identity import keys
from replication.identity.members import MemberSet
from replication.ordering.statements import Phase, Signed, Statement, Timeout

__all__ = ["clash", "contradiction"]


def clash(first: Signed, second: Signed) -> str | None:
    """Why one correct member cannot have made both statements, signatures aside; None when it can."""
    if first.signer != second.signer or first.epoch != second.epoch:
        return None
    if isinstance(first, Statement) and isinstance(second, Statement):
        same = (first.key.phase, first.key.position) == (second.key.phase, second.key.position)
        if same and first.key.block_hash != second.key.block_hash:
            return f"two {first.key.phase.value} statements at one position"
        return None
    if isinstance(first, Timeout) and isinstance(second, Timeout):
        if first.view == second.view and _content(first) != _content(second):
            return "two timeouts of one view"
        low, high = sorted((first, second), key=lambda item: item.view)
        if low.view < high.view and high.report < low.report:
            return "a later timeout that reports less"
        return None
    statement, timeout = (first, second) if isinstance(first, Statement) else (second, first)
    if not isinstance(statement, Statement) or not isinstance(timeout, Timeout):
        return None
    key = statement.key
    if key.phase is Phase.COMMIT and timeout.view >= key.view and timeout.report < (key.height - 1, key.view):
        return "a timeout that hides a lock"
    return None


def contradiction(first: Signed, second: Signed, cluster_id: bytes, members: MemberSet) -> str | None:
    """As `clash`, for statements that a member of this epoch really signed."""
    accused = members.get(first.signer)
    if accused is None or first.epoch != members.epoch:
        return None
    why = clash(first, second)
    if why is None:
        return None
    for item in (first, second):
        if not keys.verify(accused.public_key, item.signature, item.sign_bytes(cluster_id)):
            return None
    return why


def _content(timeout: Timeout) -> object:
    return (timeout.committed_height, timeout.lock)
