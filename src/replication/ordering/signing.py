"""The only place that signs statements of the protocol, and the state that keeps it from signing two.

`SignState` is made durable before a statement leaves (see `effects`). After a restart the same state is
loaded again: a repeated request gets the stored statement, a conflicting one raises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from replication.errors import InvariantError
from replication.ordering.certificates import Certificate
from replication.ordering.statements import NewView, Phase, Statement, StatementKey, Suspect, Timeout
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport

__all__ = ["GuardedSigner", "SignState", "Signer"]


class Signer(Protocol):
    """A private key, and the public key that verifies what it signs."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True)
class SignState:
    """What a member has promised in one epoch, under one incarnation of its disk.

    `propose`, `prepare` and `commit` are the last statements of each phase, whose (view, height) only ever
    grows; `lock` the prepare certificate it is locked on (void once its height is committed); `timeout` the
    TIMEOUT of the highest view it gave up, as it was sent; `opened` the timeout certificate that opened the
    view it was in, kept for convenience. `nonce` names the incarnation: empty for the disk that was there
    when the cluster was made.
    """

    epoch: int = 0
    nonce: bytes = b""
    propose: Statement | None = None
    prepare: Statement | None = None
    commit: Statement | None = None
    lock: Certificate | None = None
    timeout: TimeoutReport | None = None
    opened: TimeoutCertificate | None = None

    def last(self, phase: Phase) -> Statement | None:
        """The last statement signed in a phase, or None."""
        return {Phase.PROPOSE: self.propose, Phase.PREPARE: self.prepare, Phase.COMMIT: self.commit}[phase]

    @property
    def timed_out_view(self) -> int:
        """The highest view given up; -1 for none."""
        return -1 if self.timeout is None else self.timeout.timeout.view

    @cached_property
    def rests_on(self) -> int:
        """Height up to which this member had committed when it signed this: a record that ends below was
        rolled back."""
        signed = (self.propose, self.prepare, self.commit, self.lock)
        heights = [item.key.height - 1 for item in signed if item is not None]
        if self.timeout is not None:
            heights.append(self.timeout.timeout.committed_height)
        return max(heights, default=0)


class GuardedSigner:
    """Signs each position once. `state` must be durable before what it returned is sent.

    A muted signer signs nothing: this member follows the log, but may not speak (see `mute`).
    """

    def __init__(self, member: str, cluster_id: bytes, key: Signer, state: SignState) -> None:
        self._member = member
        self._cluster_id = cluster_id
        self._key = key
        self.state = state
        self.muted = ""

    def mute(self, reason: str) -> None:
        """Sign nothing from now on, until `begin_epoch` says otherwise. The first reason is kept."""
        self.muted = self.muted or reason

    def may_sign(self, key: StatementKey) -> bool:
        """Whether `sign` would succeed: the position is new, or this very statement was the last one."""
        if self.muted or key.epoch != self.state.epoch:
            return False
        last = self.state.last(key.phase)
        if last is not None and last.key == key:
            return True
        if key.view <= self.state.timed_out_view:
            return False
        return last is None or key.position > last.key.position

    def sign(self, key: StatementKey) -> Statement:
        """The statement for this key: the stored one for a repeat, a new one for a higher position.

        Raises InvariantError when the position was used for something else, lies below the last one, or
        belongs to a view that was given up.
        """
        if not self.may_sign(key):
            raise InvariantError(
                f"refusing to sign {key.phase.value} at (view, height) {key.position} in epoch {key.epoch}: "
                + (
                    self.muted
                    or f"the last one was {self.state.last(key.phase)}, and view "
                    f"{self.state.timed_out_view} was given up"
                )
            )
        last = self.state.last(key.phase)
        if last is not None and last.key == key:
            return last
        statement = Statement(
            key, self._member, self._key.sign(key.sign_bytes(self._cluster_id, self._member))
        )
        match key.phase:
            case Phase.PROPOSE:
                self.state = replace(self.state, propose=statement)
            case Phase.PREPARE:
                self.state = replace(self.state, prepare=statement)
            case Phase.COMMIT:
                self.state = replace(self.state, commit=statement)
        return statement

    def lock(self, certificate: Certificate) -> None:
        """Remember the prepare certificate that a COMMIT promises to carry into later views.

        A lock only ever rises: one of an earlier view, of a height below, or of another epoch changes
        nothing.
        """
        key, held = certificate.key, self.state.lock
        if key.epoch != self.state.epoch:
            return
        if held is None or (key.height, key.view) > (held.key.height, held.key.view):
            self.state = replace(self.state, lock=certificate)

    def time_out(
        self,
        timeout: Timeout,
        committed: Certificate | None,
        lock: Certificate | None,
        seen: Statement | None,
    ) -> TimeoutReport:
        """Sign a TIMEOUT, once a view; the stored one for a view given up already. Raises InvariantError."""
        last = self.state.timeout
        if last is not None and (last.timeout.epoch, last.timeout.view) == (timeout.epoch, timeout.view):
            return last
        if self.muted or timeout.epoch != self.state.epoch or timeout.view < self.state.timed_out_view:
            raise InvariantError(
                f"refusing to time out of view {timeout.view}: {self.muted or self.state.timeout}"
            )
        signed = replace(timeout, signature=self._key.sign(timeout.sign_bytes(self._cluster_id)))
        report = TimeoutReport(signed, committed, lock, seen)
        self.state = replace(self.state, timeout=report)
        return report

    def suspect(self, epoch: int, view: int) -> Suspect:
        """Sign a complaint. It binds to nothing, so that nothing has to be remembered."""
        suspect = Suspect(epoch, view, self._member)
        return replace(suspect, signature=self._key.sign(suspect.sign_bytes(self._cluster_id)))

    def open_view(self, epoch: int, view: int, tc_digest: bytes) -> NewView:
        """Sign the opening of a view. Another certificate may open the same view: each is as safe."""
        opening = NewView(epoch, view, tc_digest, self._member)
        return replace(opening, signature=self._key.sign(opening.sign_bytes(self._cluster_id)))

    def enter(self, opened: TimeoutCertificate | None) -> None:
        """Remember the certificate that opened the view; written with the next promise."""
        if opened is None or opened.epoch == self.state.epoch:
            self.state = replace(self.state, opened=opened)

    def begin_epoch(self, epoch: int) -> None:
        """A new epoch voids every statement of the old one. What was signed in this very epoch, or a later
        one, still holds: then it is the record that was behind."""
        if epoch > self.state.epoch:
            self.state = SignState(epoch, self.state.nonce)
        self.muted = ""
