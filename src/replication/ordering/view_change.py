"""Changing the view: suspect, time out, enter, open.

A suspicion binds to nothing; f + 1 of them, or f + 1 timeouts, make a member give up the view: it signs a
TIMEOUT that reports what it has committed and what it is locked on, and nothing more in that view. A commit
quorum of timeouts is a timeout certificate, which moves everyone to the next view and says what its
coordinator must carry on with. A certificate of a later view is proof enough to enter that view.
"""

from __future__ import annotations

from typing import TypeVar

from replication.errors import PeerError
from replication.ordering.application import Execution
from replication.ordering.certificates import Certificate, CertificateError
from replication.ordering.effects import Behind
from replication.ordering.messages import (
    BodyRequest,
    CommandMessage,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.normal_case import NormalCase
from replication.ordering.statements import Lock, Phase, Suspect, Timeout, is_signed_by_member
from replication.ordering.timeouts import (
    Floor,
    TimeoutCertificate,
    TimeoutReport,
    check_timeout_certificate,
    check_timeout_report,
    form_timeout_certificate,
)

__all__ = ["ViewChange"]

E_ = TypeVar("E_", bound=Execution)

_Ground = tuple[int, str, tuple[object, ...]]
"""A time, what may be complained of after it, and the values for its words: most are never said."""


class ViewChange(NormalCase[E_]):
    """How a coordinator is replaced."""

    _complained_ms = 0
    _asked_ms = 0

    # After a restart.

    def _restore_view(self) -> None:
        """The view that the durable state speaks of. Its floor may be unknown; then only certificates move
        on."""
        state = self._signer.state
        if state.epoch != self.members.epoch:
            return
        statements = (state.propose, state.prepare, state.commit)
        views = [0, state.timed_out_view, *(item.key.view for item in statements if item is not None)]
        if state.opened is not None:
            views.append(state.opened.view + 1)
        self.view = max(views)
        if state.opened is not None and state.opened.view + 1 == self.view:
            self._opened, self._floor = state.opened, state.opened.floor
        elif self.view > 0:
            # Entered by a certificate. What was signed here since shows the floor, as the certificate did.
            signed = (item for item in (state.commit, state.prepare) if item is not None)
            keys = [item.key for item in signed if item.key.view == self.view]
            self._floor = Floor(keys[0].height - 1, keys[0].block_hash) if keys else None
        if state.timeout is not None:
            self._pacemaker.add_timeout(state.timeout)

    # Suspicion.

    def _watch_coordinator(self) -> None:
        """Suspect, or repeat what was said before: complaints and timeouts are never sent only once."""
        if self.muted:
            return
        report = self._standing_timeout()
        if report is not None:
            if self._may_complain():
                self._send(None, TimeoutMessage(report))
            return
        if not self._reason_to_suspect():
            return
        if not self._pacemaker.has_suspected(self.member, self.view) or self._may_complain():
            self._complained_ms = self._now_ms
            suspect = self._signer.suspect(self.members.epoch, self.view)
            self._pacemaker.add_suspect(suspect, self._now_ms)
            self._send(None, SuspectMessage(suspect))
            self._consider_timeout()

    def _standing_timeout(self) -> TimeoutReport | None:
        """The TIMEOUT by which this member gave up the view it is in; None while it has not."""
        report = self._signer.state.timeout
        return report if report is not None and report.timeout.view >= self.view else None

    def _may_complain(self) -> bool:
        """Whether it is time to repeat a complaint; if so, it counts as repeated."""
        if self._now_ms - self._complained_ms < self._settings.repeat_ms:
            return False
        self._complained_ms = self._now_ms
        return True

    def _reason_to_suspect(self) -> str:
        """Why the coordinator of this view is suspected; empty when it is not."""
        for due_ms, reason, values in self._grounds():
            if self._now_ms > due_ms:
                return reason.format(*values) if values else reason
        return ""

    def _grounds(self) -> list[_Ground]:
        """What the coordinator may come to be suspected for, each with the time after which it is.

        A block that does not get through is a ground even for the coordinator itself: if members gave up the
        view, nobody else may have reason to complain.
        """
        pacemaker, settings = self._pacemaker, self._settings
        entered, idle, busy = pacemaker.entered_ms, pacemaker.idle_timeout_ms, pacemaker.busy_timeout_ms
        if pacemaker.distrusted:
            return [(entered, pacemaker.distrusted, ())]
        coordinator = self.coordinator
        if self._application.is_faulty(coordinator):
            return [(entered, "{} is proven faulty", (coordinator,))]
        grounds: list[_Ground] = []
        if self._candidate is not None:
            due_ms = max(self._candidate.since_ms, entered) + busy
            grounds.append((due_ms, "block {} is not committed after {} ms", (self.height + 1, busy)))
        if coordinator == self.member:
            return grounds
        due_ms = pacemaker.silent_since(self._now_ms) + idle
        grounds.append((due_ms, "nothing valid came from {} for {} ms", (coordinator, idle)))
        if not (self.view == 0 or self._is_open or self._application.recorded_view >= self.view):
            grounds.append((entered + idle, "{} has not opened view {}", (coordinator, self.view)))
        held, deadline = self._pool.held_since(), self._application.next_deadline_ms()
        if held is not None:
            grounds.append((max(held, entered) + busy, "a command has waited for more than {} ms", (busy,)))
        if deadline is not None:
            # The coordinator's clock may lie behind by as much as it may lie ahead.
            due_ms = max(deadline + settings.clock_ahead_ms, entered) + busy
            grounds.append((due_ms, "a block has been due for more than {} ms", (busy,)))
        return grounds

    @property
    def suspected(self) -> str:
        """Why this member suspects the coordinator now; empty when it does not. For status displays."""
        return "" if self.muted or self.timed_out else self._reason_to_suspect()

    def _watch_due_ms(self) -> int | None:
        """When `_watch_coordinator` has something to do, if nothing changes; None for never."""
        if self.muted:
            return None
        repeat_ms = self._complained_ms + self._settings.repeat_ms
        if self._standing_timeout() is not None:
            return repeat_ms
        grounds = self._grounds()
        if not grounds:
            return None
        due_ms = min(ground[0] for ground in grounds) + 1
        if due_ms > self._now_ms:
            return due_ms
        return repeat_ms if self._pacemaker.has_suspected(self.member, self.view) else due_ms

    def _show_overdue(self) -> None:
        """Half way to suspicion, show all members what the coordinator does not order."""
        half = self._pacemaker.busy_timeout_ms // 2
        if self._now_ms - self._pacemaker.entered_ms < half:
            return
        for command in self._pool.overdue(self._now_ms, half):
            self._send(None, CommandMessage(command, overdue=True))

    def _on_suspect(self, sender: str, suspect: Suspect) -> None:
        if suspect.signer != sender:
            raise PeerError(f"{sender} passed on a complaint of {suspect.signer}")
        if self._is_stale(sender, suspect.epoch, suspect.view):
            return
        is_repeat = self._pacemaker.has_suspected(sender, suspect.view)
        if not is_repeat and not is_signed_by_member(suspect, self._cluster_id, self.members):
            raise PeerError(f"the complaint of {sender} about view {suspect.view} is not signed by it")
        self._pacemaker.add_suspect(suspect, self._now_ms)
        self._consider_timeout()

    def _is_stale(self, sender: str, epoch: int, view: int) -> bool:
        """Answer what belongs to an older view or epoch; what belongs to a later epoch has to wait."""
        if epoch < self.members.epoch:
            self._send_newest_commit(sender)
        elif epoch == self.members.epoch and view < self.view:
            self._send_newest_view(sender)
        return epoch != self.members.epoch or view < self.view

    # Timeouts.

    def _consider_timeout(self) -> None:
        """Give up the view if f + 1 members want to, and move on if a commit quorum has."""
        if not self.muted and not self.timed_out and self._pacemaker.must_time_out(self.view, self._now_ms):
            self._time_out()
        reports = self._pacemaker.quorum_of_timeouts(self.view)
        if reports is not None:
            certificate = form_timeout_certificate(reports, self.members)
            self._enter(certificate.view + 1, certificate.floor, certificate)

    def _time_out(self) -> None:
        lock = self._current_lock()
        timeout = Timeout(
            epoch=self.members.epoch,
            view=self.view,
            committed_height=self.height,
            lock=None if lock is None else Lock(lock.key.view, lock.key.block_hash),
            signer=self.member,
        )
        committed = None if self.height == self._base_height else self._certificate
        report = self._signer.time_out(timeout, committed, lock, self._seen)
        self._complained_ms = self._now_ms
        self._pacemaker.add_timeout(report)
        self._record(report.timeout)
        self._send(None, TimeoutMessage(report))

    def _on_timeout(self, sender: str, report: TimeoutReport) -> None:
        timeout = report.timeout
        if timeout.signer != sender:
            raise PeerError(f"{sender} passed on a timeout of {timeout.signer}")
        if self._is_stale(sender, timeout.epoch, timeout.view):
            return
        if self._pacemaker.knows_timeout(sender, timeout.view):
            if is_signed_by_member(timeout, self._cluster_id, self.members):
                self._record(timeout)  # a second one, with other content, is evidence
            return
        check_timeout_report(report, self._cluster_id, self.members, self._base_height)
        self._pacemaker.add_timeout(report)
        self._record(timeout)
        self._learn_from_report(sender, report)
        self._consider_timeout()

    def _learn_from_report(self, sender: str, report: TimeoutReport) -> None:
        seen = report.seen
        if (
            seen is not None
            and seen.key.phase is Phase.PROPOSE
            and is_signed_by_member(seen, self._cluster_id, self.members)
        ):
            self._record(seen)
        self._learn_from_proofs(sender, report.committed, report.lock)

    def _learn_from_proofs(
        self, sender: str | None, committed: Certificate | None, lock: Certificate | None
    ) -> None:
        """Checked certificates that came with a timeout: catch up, and raise one's own lock."""
        for certificate in (committed, lock):
            if certificate is not None:
                self._record_certificate(certificate)
        if committed is not None and committed.key.height > self.height:
            if committed.key.height == self.height + 1 and committed.key.block_hash in self._bodies:
                self._decide(committed)
            elif sender is not None:
                self._out.behind.append(Behind(sender, committed.key.height))
        if lock is not None and lock.key.height == self.height + 1:
            own = self._current_lock()
            if own is None or lock.key.view > own.key.view:
                self._signer.lock(lock)

    # Certificates of timeouts, and entering views.

    def _on_timeout_certificate(self, sender: str, certificate: TimeoutCertificate) -> None:
        if not certificate.timeouts:
            raise CertificateError(f"{sender} sent a timeout certificate without timeouts")
        if certificate.epoch != self.members.epoch or certificate.view + 1 < self.view:
            self._is_stale(sender, certificate.epoch, certificate.view + 1)
            return
        if certificate.view + 1 == self.view and self._floor is not None:
            return
        check_timeout_certificate(certificate, self._cluster_id, self.members, self._base_height)
        self._enter_checked(sender, certificate)

    def _enter_checked(self, sender: str, certificate: TimeoutCertificate) -> None:
        for timeout in certificate.timeouts:
            self._record(timeout)
        epoch = self.members.epoch
        self._learn_from_proofs(sender, certificate.committed, certificate.lock)
        if self.members.epoch == epoch:  # what was learnt may have ended the epoch
            self._enter(certificate.view + 1, certificate.floor, certificate)

    def _enter_by(self, certificate: Certificate) -> None:
        """A checked certificate of a later view: enter it. It shows what was prepared there, and so the
        floor."""
        key = certificate.key
        if key.view > self.view:
            self._enter(key.view, Floor(key.height - 1, key.block_hash), None)
            self._is_open = not self.is_coordinator

    def _enter(self, view: int, floor: Floor, opened: TimeoutCertificate | None) -> None:
        """Begin a view. Per-view collections are cleared; the lock never is."""
        self.view = view
        self._floor = floor
        self._opened = opened
        self._is_open = False
        self._opening = self._seen = self._deferred = None
        self._candidate = None
        self._executions.clear()
        self._prepares.clear()
        self._commits.clear()
        self._signer.enter(opened)
        self._pacemaker.entered(self._now_ms)
        if opened is not None:
            self._send(None, TimeoutCertificateMessage(opened))
        own = self._pool.new_view(self._now_ms)
        if not self.is_coordinator:
            for command in own:
                self._send(self.coordinator, CommandMessage(command))
        self._consider_timeout()

    def _send_newest_view(self, to: str) -> None:
        """Show a member of an older view the way into this one."""
        if self._opened is not None and self._opened.view + 1 == self.view:
            self._send(to, TimeoutCertificateMessage(self._opened))
        else:
            self._send_newest_commit(to)

    # Opening a view (the new coordinator's part).

    def _open_view(self) -> None:
        """Announce the view once this member has caught up with what it must carry on with."""
        opened, floor = self._opened, self._floor
        if opened is None or floor is None or not self._has_to_open:
            return
        if self.height < floor.height or not self._has_floor_body(floor):
            self._ask_for_floor(opened, floor)
            return
        self._opening = self._signer.open_view(self.members.epoch, self.view, opened.digest(self._cluster_id))
        self._is_open = True
        self._send(None, NewViewMessage(self._opening, opened))

    @property
    def _has_to_open(self) -> bool:
        """Whether it is this member's turn to open the view, and it may."""
        opened = self._opened
        if opened is None or opened.view + 1 != self.view or self._is_open or not self.is_coordinator:
            return False
        return not self.muted and not self.timed_out

    def _has_floor_body(self, floor: Floor) -> bool:
        return self.height > floor.height or floor.block_hash is None or floor.block_hash in self._bodies

    def _ask_for_floor(self, opened: TimeoutCertificate, floor: Floor) -> None:
        """Fetch what is missing, again and again: any honest member of the certificate has it."""
        if self._now_ms - self._asked_ms < self._settings.repeat_ms and self._asked_ms:
            return
        self._asked_ms = self._now_ms
        if self.height < floor.height:
            ahead = [item for item in opened.timeouts if item.committed_height > self.height]
            for timeout in ahead:
                if timeout.signer != self.member:
                    self._out.behind.append(Behind(timeout.signer, timeout.committed_height))
        elif floor.block_hash is not None:
            self._send(None, BodyRequest(floor.block_hash))

    def _on_new_view(self, sender: str, message: NewViewMessage) -> None:
        opening, certificate = message.statement, message.certificate
        if opening.signer != sender:
            raise PeerError(f"{sender} passed on the opening of a view by {opening.signer}")
        if self._is_stale(sender, opening.epoch, opening.view):
            return
        if opening.view < 1 or self.members.ids[opening.view % self.members.n] != sender:
            raise PeerError(f"{sender} is not the coordinator of view {opening.view}")
        if not certificate.timeouts or certificate.view + 1 != opening.view:
            raise PeerError(
                f"{sender} opens view {opening.view} by a certificate that does not end the one before"
            )
        if certificate.digest(self._cluster_id) != opening.tc_digest:
            raise PeerError(f"{sender} opens view {opening.view} by another certificate than it names")
        if not is_signed_by_member(opening, self._cluster_id, self.members):
            raise PeerError(f"the opening of view {opening.view} is not signed by {sender}")
        if opening.view > self.view or self._floor is None:
            check_timeout_certificate(certificate, self._cluster_id, self.members, self._base_height)
            self._enter_checked(sender, certificate)
        if opening.view == self.view:
            self._is_open = True
            self._pacemaker.heard(self._now_ms)
