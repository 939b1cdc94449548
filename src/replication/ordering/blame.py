"""Blame: the first statement of every member at every position, and what contradicts it.

A star hides equivocation, since no follower sees what the coordinator told another. So each member keeps the
*first* statement it verified for each position, wherever it came from (a message, a certificate, a timeout),
and never replaces it: the first of two contradicting statements is half of the evidence.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from replication.ordering.certificates import Certificate
from replication.ordering.statements import Evidence, Phase, Signed, Statement, Timeout

__all__ = ["FirstStatements", "contradict"]

_KEPT_PER_MEMBER: Final = 192
"""Positions remembered of a member: three phases at the last heights, with room for some views. Older ones
go."""

_Slot = tuple[str, int, int]


def contradict(first: Signed, second: Signed) -> bool:
    """Whether one member signed two statements in one epoch that no correct member signs both.

    Two blocks at one position of one phase; two different timeouts of one view; or a hidden lock: a COMMIT,
    and a timeout of the same or a later view whose report is lower than what the COMMIT promised to carry.
    """
    if first.signer != second.signer or first.epoch != second.epoch:
        return False
    if isinstance(first, Statement) and isinstance(second, Statement):
        one, other = first.key, second.key
        same = (one.phase, one.position) == (other.phase, other.position)
        return same and one.block_hash != other.block_hash
    if isinstance(first, Timeout) and isinstance(second, Timeout):
        return first.view == second.view and (first.committed_height, first.lock) != (
            second.committed_height,
            second.lock,
        )
    if isinstance(first, Statement) and isinstance(second, Timeout):
        return _hides_lock(first, second)
    if isinstance(first, Timeout) and isinstance(second, Statement):
        return _hides_lock(second, first)
    return False


def _hides_lock(statement: Statement, timeout: Timeout) -> bool:
    key = statement.key
    if key.phase is not Phase.COMMIT or timeout.view < key.view:
        return False
    return timeout.report < (key.height - 1, key.view)


class FirstStatements:
    """The first verified statement of each member at each position, in bounded memory."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[_Slot, Signed]] = {}
        self._blamed: set[str] = set()
        self._timed_out: set[str] = set()

    def record(self, item: Signed) -> Evidence | None:
        """Remember a *verified* statement; return evidence the first time its signer contradicts itself."""
        signer = item.signer
        kept = self._kept.setdefault(signer, OrderedDict())
        slot = _slot(item)
        first = kept.setdefault(slot, item)
        if len(kept) > _KEPT_PER_MEMBER:
            kept.popitem(last=False)
        if signer in self._blamed:
            return None
        contradicted = first if first is not item and contradict(first, item) else self._hidden(kept, item)
        if contradicted is None:
            return None
        self._blamed.add(signer)
        return Evidence(contradicted, item)

    def record_certificate(self, certificate: Certificate) -> list[Evidence]:
        """Remember each signature of a checked certificate as the statement that it is."""
        found = (
            self.record(Statement(certificate.key, signer, signature))
            for signer, signature in certificate.signatures
        )
        return [evidence for evidence in found if evidence is not None]

    def newest(self, signer: str) -> tuple[tuple[Statement, ...], Timeout | None]:
        """The newest PREPARE and COMMIT, and the newest timeout, that are known of a member."""
        newest: dict[Phase, Statement] = {}
        timeout: Timeout | None = None
        for item in self._kept.get(signer, {}).values():
            if isinstance(item, Timeout):
                if timeout is None or item.view > timeout.view:
                    timeout = item
            elif item.key.phase not in newest or item.key.position > newest[item.key.phase].key.position:
                newest[item.key.phase] = item
        return tuple(newest.values()), timeout

    def clear(self) -> None:
        """Forget everything: a new epoch has begun."""
        self._kept.clear()
        self._blamed.clear()
        self._timed_out.clear()

    def _hidden(self, kept: OrderedDict[_Slot, Signed], item: Signed) -> Signed | None:
        """A kept statement that makes `item` one half of a hidden lock. Looks only where there can be one."""
        if isinstance(item, Timeout):
            self._timed_out.add(item.signer)
        elif item.key.phase is not Phase.COMMIT or item.signer not in self._timed_out:
            return None
        wanted = Timeout if isinstance(item, Statement) else Statement
        return next(
            (other for other in kept.values() if isinstance(other, wanted) and contradict(other, item)), None
        )


def _slot(item: Signed) -> _Slot:
    if isinstance(item, Timeout):
        return ("timeout", item.view, 0)
    return (item.key.phase.value, item.key.view, item.key.height)
