"""The only place that signs statements, and the state that keeps it from signing two.

`SignState` is made durable before a statement leaves (see `effects`). After a restart the same state is loaded
again: a repeated request gets the stored statement, a conflicting one raises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from replication.errors import InvariantError
from replication.ordering.certificates import Certificate
from replication.ordering.statements import Phase, Statement, StatementKey

__all__ = ["GuardedSigner", "SignState", "Signer"]


class Signer(Protocol):
    """A private key."""

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True)
class SignState:
    """The last statement of each phase, and the prepare certificate this member is locked on.

    Each phase's (view, height) only ever grows. A lock for a height that is committed is void.
    """

    propose: Statement | None = None
    prepare: Statement | None = None
    commit: Statement | None = None
    lock: Certificate | None = None

    def last(self, phase: Phase) -> Statement | None:
        """The last statement signed in a phase, or None."""
        return {Phase.PROPOSE: self.propose, Phase.PREPARE: self.prepare, Phase.COMMIT: self.commit}[phase]


class GuardedSigner:
    """Signs each position once. `state` must be durable before what `sign` returned is sent."""

    def __init__(self, member: str, cluster_id: bytes, key: Signer, state: SignState) -> None:
        self._member = member
        self._cluster_id = cluster_id
        self._key = key
        self.state = state

    def may_sign(self, key: StatementKey) -> bool:
        """Whether `sign` would succeed: the position is new, or this very statement was the last one."""
        last = self.state.last(key.phase)
        return last is None or last.key == key or key.position > last.key.position

    def sign(self, key: StatementKey) -> Statement:
        """The statement for this key: the stored one for a repeat, a new one for a higher position.

        Raises InvariantError when the position was already used for something else or lies below the last one.
        """
        last = self.state.last(key.phase)
        if last is not None and last.key == key:
            return last
        if last is not None and key.position <= last.key.position:
            raise InvariantError(
                f"refusing to sign a second {key.phase.value} at (view, height) {key.position}: the last one was at "
                f"{last.key.position} for block {last.key.block_hash.hex()[:16]}"
            )
        statement = Statement(key, self._member, self._key.sign(key.sign_bytes(self._cluster_id, self._member)))
        # The field names of SignState are the phases' values.
        self.state = replace(self.state, **{key.phase.value: statement})
        return statement

    def lock(self, certificate: Certificate) -> None:
        """Remember the prepare certificate that a COMMIT promises to carry into later views."""
        self.state = replace(self.state, lock=certificate)
