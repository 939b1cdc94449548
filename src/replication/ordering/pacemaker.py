"""The pacemaker: when a coordinator is to be suspected, and when suspicion is enough to leave its view.

Time outs follow PBFT and Jolteon: one member's suspicion moves nobody; f + 1 suspicions or timeouts, which
hold one of an honest member, make every member give up the view; a commit quorum of timeouts ends it. Up to
f coordinators in a row may be faulty, and no fault of the network: so the first f views after a commit get
the base timeouts. From then on patience doubles with every view, so that members who were apart come to
overlap, and is back at its base with the next commit.
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.identity.members import MemberSet
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Suspect
from replication.ordering.timeouts import TimeoutReport

__all__ = ["Pacemaker", "ReplicaSettings"]


@dataclass(frozen=True)
class ReplicaSettings:
    """Timing in milliseconds.

    `gather_ms`: how long the coordinator holds an incomplete batch so that votes arrive in the block of
    their proposal. `repeat_ms`: how long to wait before sending again. `heartbeat_ms`: a quarter of the idle
    timeout. `idle_timeout_ms`: silence of the coordinator after which it is suspected. `busy_timeout_ms`:
    how long a command that is known to wait may stay uncommitted; after half of it, it is shown to all
    members. `max_backoff`: how often the patience may double. `clock_ahead_ms`: how far a block time may lie
    ahead of one's own clock.
    """

    gather_ms: int = 5
    repeat_ms: int = 200
    heartbeat_ms: int = 200
    idle_timeout_ms: int = 800
    busy_timeout_ms: int = 1_600
    max_backoff: int = 6
    clock_ahead_ms: int = 5_000


class Pacemaker:
    """Timers and collections of one view. Counts what it is given; the caller has checked all signatures."""

    def __init__(self, members: MemberSet, settings: ReplicaSettings) -> None:
        self._members = members
        self._settings = settings
        self._suspects: dict[str, tuple[Suspect, int]] = {}
        self._timeouts: dict[str, TimeoutReport] = {}
        self._views = 0
        self.patience = 1
        """The factor on all timeouts."""
        self._heard_ms: int | None = None
        self.entered_ms = 0
        self.distrusted = ""

    # Patience.

    @property
    def idle_timeout_ms(self) -> int:
        return self._settings.idle_timeout_ms * self.patience

    @property
    def busy_timeout_ms(self) -> int:
        return self._settings.busy_timeout_ms * self.patience

    def entered(self, now_ms: int) -> None:
        """A new view begins: its coordinator gets a full timeout."""
        self._views += 1
        self.patience = 1 << min(max(self._views - self._members.max_faulty, 0), self._settings.max_backoff)
        self._heard_ms = self.entered_ms = now_ms
        self.distrusted = ""

    def committed(self) -> None:
        """A block was committed: patience is back to normal."""
        self._views = 0
        self.patience = 1

    def heard(self, now_ms: int) -> None:
        """Something valid came from the coordinator of this view."""
        self._heard_ms = now_ms

    def silent_since(self, now_ms: int) -> int:
        """When the coordinator was last heard, which begins with the first question."""
        if self._heard_ms is None:
            self._heard_ms = now_ms
        return self._heard_ms

    def distrust(self, reason: str) -> None:
        """The coordinator of this view provably lied: no need to wait."""
        self.distrusted = self.distrusted or reason

    # Suspicion and timeouts of others: for each member the highest.

    def add_suspect(self, suspect: Suspect, now_ms: int) -> None:
        """Keep a suspicion, new or repeated, unless the member has suspected a later view."""
        if not self.has_suspected(suspect.signer, suspect.view + 1):
            self._suspects[suspect.signer] = (suspect, now_ms)

    def knows_timeout(self, signer: str, view: int) -> bool:
        """Whether the member's timeout for this view, or a later one, is here already."""
        known = self._timeouts.get(signer)
        return known is not None and known.timeout.view >= view

    def add_timeout(self, report: TimeoutReport) -> None:
        """Keep a checked report, if it is the member's highest."""
        if not self.knows_timeout(report.timeout.signer, report.timeout.view):
            self._timeouts[report.timeout.signer] = report

    def has_suspected(self, member: str, view: int) -> bool:
        """Whether a member has ever suspected this view or a later one."""
        known = self._suspects.get(member)
        return known is not None and known[0].view >= view

    def must_time_out(self, view: int, now_ms: int) -> bool:
        """Whether f + 1 members suspect the coordinator of `view`, or have given up `view` or a later one.

        The two are counted together: who has given up a view complains about it no more. A suspicion that is
        not repeated has lost its reason: else those of a long view would add up.
        """
        since = now_ms - self.idle_timeout_ms
        suspecting = {
            signer
            for signer, (suspect, heard_ms) in self._suspects.items()
            if suspect.view == view and heard_ms >= since
        }
        gone = {signer for signer, report in self._timeouts.items() if report.timeout.view >= view}
        return len(suspecting | gone) > self._members.max_faulty

    def quorum_of_timeouts(self, at_least: int) -> dict[str, TimeoutReport] | None:
        """Reports of a commit quorum for one and the same view, the highest that is not below `at_least`."""
        by_view: dict[int, dict[str, TimeoutReport]] = {}
        for signer, report in self._timeouts.items():
            if report.timeout.view >= at_least:
                by_view.setdefault(report.timeout.view, {})[signer] = report
        quorum = commit_quorum(self._members.n)
        complete = [view for view, reports in by_view.items() if len(reports) >= quorum]
        return by_view[max(complete)] if complete else None
