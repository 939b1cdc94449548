"""The votes of this member that are not on record yet, and the ballots that carry them.

A vote that was signed once is never signed differently: whoever holds two could prove this member faulty. So
a vote is remembered from the moment it is made until its proposal is finished, and it is on disk (in a
ballot that the journal keeps) from before it leaves until it is on record or can never count. In between it
is

* *ready*: to go into the next ballot;
* *pending*: in a ballot that the replica repeats until it is ordered;
* *dormant*: not sent, but kept, because its proposal did not come. It may: then the same vote becomes ready
again.

The cluster orders a ballot once all its proposals are known. If some are and some are not, those votes are
separated: the same votes in ballots of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from replication.identity.members import MemberSet
from replication.ledger.application import VotingApplication
from replication.ledger.commands import BallotCommand, VoteItem, decode_command, make_ballot
from replication.ledger.history import History, OpenProposal, RecordedVote
from replication.ledger.outcomes import Outcome
from replication.ordering.application import CommandError, command_digest
from replication.ordering.limits import PENDING_LIFETIME_MS
from replication.ordering.signing import Signer

__all__ = ["Ballots", "Fate"]

MAX_BALLOT_VOTES: Final = 128
"""With reasons of 1 KiB this stays below the largest command."""

FIRST_LOOK_MS: Final = 250
"""How long a ballot waits before it is looked at for the first time. Several blocks take less."""

MAX_REST_MS: Final = 5_000
"""The longest time between two looks at one ballot."""


class Fate(Enum):
    """What can become of a vote."""

    RECORDED = "it is on record"
    DEAD = "it can never count: the proposal is finished"
    LIVE = "it can count now"
    EARLY = "its proposal is not committed"


@dataclass(slots=True)
class _Vote:
    """The last vote on a proposal. `ballot` is the digest of the ballot that it is pending in, `dormant`
    that of the ballot that keeps it on disk otherwise; both may be empty. `is_recorded`: it is on record."""

    item: VoteItem
    ballot: bytes = b""
    dormant: bytes = b""
    is_refused: bool = False
    is_recorded: bool = False


@dataclass(slots=True)
class _Ballot:
    """A pending ballot. `due_ms`: when to look at it."""

    command: bytes
    items: tuple[VoteItem, ...]
    since_ms: int
    due_ms: int


class Ballots:
    """By digest of the proposal. Times are milliseconds since the Unix epoch.

    `withdrawn` collects digests of ballots that the replica need not repeat; `settled` those that the
    journal need not keep either. The driver empties both.
    """

    def __init__(
        self,
        *,
        member: str,
        cluster_id: bytes,
        members: MemberSet,
        key: Signer,
        application: VotingApplication,
        history: History,
    ) -> None:
        self.withdrawn: list[bytes] = []
        self.settled: list[bytes] = []
        self._member = member
        self._cluster_id = cluster_id
        self._members = members
        self._key = key
        self._application = application
        self._history = history
        self._votes: dict[bytes, _Vote] = {}
        self._ballots: dict[bytes, _Ballot] = {}
        self._dormant: dict[bytes, set[bytes]] = {}
        self._ready: dict[bytes, None] = {}
        self._ready_early: dict[bytes, None] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._votes

    @property
    def is_ready(self) -> bool:
        """Whether there are votes to put into ballots."""
        return bool(self._ready or self._ready_early)

    @property
    def has_pending(self) -> bool:
        """Whether there are ballots that `sweep` has to look after."""
        return bool(self._ballots)

    # What was said.

    def cast(self, item: VoteItem) -> None:
        """Say something new on a proposal."""
        self._votes[item.proposal_digest] = _Vote(item)
        self._ready[item.proposal_digest] = None

    def last(self, digest: bytes) -> VoteItem | None:
        """The last vote on a proposal that is not finished, as far as this process knows."""
        vote = self._votes.get(digest)
        return None if vote is None else vote.item

    def pending_in(self, digest: bytes) -> bytes | None:
        """The ballot that the last vote on a proposal is pending in."""
        vote = self._votes.get(digest)
        ballot = self._ballots.get(vote.ballot) if vote is not None else None
        return None if ballot is None else ballot.command

    def sign_alone(self, digest: bytes, now_ms: int) -> bytes:
        """A ballot with the last vote on one proposal, which must be there."""
        self._ready.pop(digest, None)
        self._ready_early.pop(digest, None)
        return self._sign((self._votes[digest].item,), now_ms)

    # What becomes of it.

    def came_up(self, digest: bytes) -> None:
        """A proposal was announced or committed: a dormant vote on it is ready again."""
        vote = self._votes.get(digest)
        if vote is None or vote.is_recorded or vote.ballot:
            return
        if digest in self._ready or digest in self._ready_early:
            return
        if self.fate(vote.item) in (Fate.LIVE, Fate.EARLY):
            self._ready[digest] = None

    def refused(self, digest: bytes, now_ms: int) -> None:
        """A proposal was ordered and refused; it may be ordered again, but nobody waits for that."""
        vote = self._votes.get(digest)
        if vote is None or vote.is_refused:
            return
        vote.is_refused = True
        if vote.ballot in self._ballots:
            self._separate(vote.ballot, now_ms)

    def finished(self, digest: bytes) -> None:
        """A proposal is decided or expired, or can never be committed: forget the vote."""
        vote = self._votes.pop(digest, None)
        self._ready.pop(digest, None)
        self._ready_early.pop(digest, None)
        if vote is not None:
            self._wake(digest, vote)

    def forget(self, before_ms: int) -> None:
        """Forget dormant votes that were cast before then: the caller knows that nobody will be asked
        again."""
        for digest in [digest for digest, vote in self._votes.items() if vote.dormant]:
            item = self._votes[digest].item
            if item.voted_ms < before_ms and self.fate(item) is Fate.EARLY:
                self.finished(digest)

    def ordered(self, outcomes: Mapping[bytes, Sequence[Outcome]]) -> None:
        """A block is durable; `outcomes` has those of each vote of its ballots. Own ballots among them are
        done.

        One that was ordered too early had no effect on what it came too early for: those votes go again.
        """
        for ballot_digest in [digest for digest in outcomes if digest in self._ballots]:
            ballot = self._ballots.pop(ballot_digest)
            lost = {
                item.proposal_digest
                for item, outcome in zip(ballot.items, outcomes[ballot_digest], strict=True)
                if not outcome.accepted
            }
            again: set[bytes] = set()
            for item, vote in self._carried_by(ballot_digest, ballot):
                vote.ballot = b""
                vote.is_recorded = item.proposal_digest not in lost
                fate = Fate.RECORDED if vote.is_recorded else self.fate(item)
                if fate in (Fate.LIVE, Fate.EARLY):
                    (self._ready if fate is Fate.LIVE else self._ready_early)[item.proposal_digest] = None
                    again.add(item.proposal_digest)
            self._shelve(ballot_digest, again)

    def begin_epoch(self, members: MemberSet) -> None:
        """All ballots of the old epoch are void. Votes on open proposals are signed again, the others are
        dropped."""
        self._members = members
        self.withdrawn += self._ballots
        self.settled += [*self._ballots, *self._dormant]
        self._ballots.clear()
        self._dormant.clear()
        self._ready.clear()
        self._ready_early.clear()
        for digest, vote in list(self._votes.items()):
            vote.ballot = vote.dormant = b""
            fate = self.fate(vote.item)
            vote.is_recorded = fate is Fate.RECORDED
            if fate is Fate.LIVE:
                self._ready[digest] = None
            elif not vote.is_recorded:
                del self._votes[digest]

    # What goes out.

    def take(self, now_ms: int) -> list[bytes]:
        """Signed ballots of all votes that are ready. They are pending from now on."""
        ready, self._ready = self._ready, {}
        early, self._ready_early = self._ready_early, {}
        if self._member not in self._members:
            return []
        return [*self._sign_all(ready, now_ms), *self._sign_all(early, now_ms)]

    def sweep(self, now_ms: int) -> list[bytes]:
        """Look at ballots that have waited for a while. Returns those to give to the replica again, in case
        it has dropped them."""
        again = []
        for digest in [digest for digest, ballot in self._ballots.items() if ballot.due_ms <= now_ms]:
            ballot = self._ballots[digest]
            ballot.due_ms = now_ms + min(now_ms - ballot.since_ms, MAX_REST_MS)
            fates = {self.fate(item) for item in ballot.items}
            has_late = Fate.EARLY in fates and (
                len(fates) > 1 or now_ms - ballot.since_ms >= PENDING_LIFETIME_MS
            )
            if has_late or not fates & {Fate.LIVE, Fate.EARLY}:
                self._separate(digest, now_ms)
            else:
                again.append(ballot.command)
        return again

    # At start.

    def restore(self, commands: Iterable[bytes], now_ms: int) -> list[bytes]:
        """Take up the commands that were kept on disk. Returns those that the replica has to repeat: not
        ballots that are void, nor those whose proposals did not come in their time."""
        active = []
        for raw in commands:
            try:
                command = decode_command(raw)
            except CommandError:
                continue
            if not isinstance(command, BallotCommand):
                active.append(raw)
            elif command.epoch != self._members.epoch:
                self.settled.append(command_digest(raw))
            elif self._restore_ballot(raw, command.votes, now_ms):
                active.append(raw)
        return active

    def _restore_ballot(self, raw: bytes, items: Sequence[VoteItem], now_ms: int) -> bool:
        digest = command_digest(raw)
        open_items = [item for item in items if self.fate(item) in (Fate.LIVE, Fate.EARLY)]
        if not open_items:
            self.settled.append(digest)
            return False
        is_dormant = all(
            self.fate(item) is Fate.EARLY and now_ms - item.voted_ms > PENDING_LIFETIME_MS
            for item in open_items
        )
        newest = [item for item in open_items if self._is_newest(item)]
        for item in newest:
            self._votes[item.proposal_digest] = _Vote(item, ballot=b"" if is_dormant else digest)
        if is_dormant:
            self._shelve(digest, {item.proposal_digest for item in newest})
        else:
            self._ballots[digest] = _Ballot(raw, tuple(items), now_ms, now_ms + FIRST_LOOK_MS)
        return not is_dormant

    def _is_newest(self, item: VoteItem) -> bool:
        known = self._votes.get(item.proposal_digest)
        return known is None or known.item.revision < item.revision

    # Helpers.

    def fate(self, item: VoteItem) -> Fate:
        """What can become of a vote, by what is on record."""
        proposal = self._application.open_proposal(item.proposal_digest)
        if proposal is not None:
            recorded = self.recorded(proposal)
            is_recorded = recorded is not None and recorded.revision >= item.revision
            return Fate.RECORDED if is_recorded else Fate.LIVE
        if self._history.finished(item.proposal_digest) is None:
            return Fate.EARLY
        return Fate.DEAD if self._history.vote(item.proposal_digest, self._member) is None else Fate.RECORDED

    def recorded(self, proposal: OpenProposal) -> RecordedVote | None:
        """This member's vote on an open proposal, as long as it counts: not if another key has signed it."""
        return next((vote for vote in proposal.votes if vote.voter == self._member), None)

    def _sign_all(self, digests: Iterable[bytes], now_ms: int) -> list[bytes]:
        items = [vote.item for digest in digests if (vote := self._votes.get(digest)) is not None]
        return [
            self._sign(tuple(items[start : start + MAX_BALLOT_VOTES]), now_ms)
            for start in range(0, len(items), MAX_BALLOT_VOTES)
        ]

    def _sign(self, items: tuple[VoteItem, ...], now_ms: int) -> bytes:
        raw = make_ballot(
            self._key.sign, self._cluster_id, self._members.epoch, voter=self._member, votes=items
        )
        digest = command_digest(raw)
        self._revive(digest)
        self._ballots[digest] = _Ballot(raw, items, now_ms, now_ms + FIRST_LOOK_MS)
        for item in items:
            vote = self._votes[item.proposal_digest]
            vote.ballot = digest
            vote.is_refused = False
            self._wake(item.proposal_digest, vote)
        return raw

    def _revive(self, ballot_digest: bytes) -> None:
        """Signatures are deterministic: the same votes make the same ballot again. It is not one that can
        go."""
        for digest in self._dormant.pop(ballot_digest, ()):
            self._votes[digest].dormant = b""
        for unwanted in (self.withdrawn, self.settled):
            if ballot_digest in unwanted:
                unwanted.remove(ballot_digest)

    def _separate(self, ballot_digest: bytes, now_ms: int) -> None:
        """Take a ballot apart: what can count goes again at once, what may come goes apart from it, what did
        not come in its time becomes dormant."""
        ballot = self._ballots.pop(ballot_digest)
        is_late = now_ms - ballot.since_ms >= PENDING_LIFETIME_MS
        waiting: set[bytes] = set()
        for item, vote in self._carried_by(ballot_digest, ballot):
            digest = item.proposal_digest
            vote.ballot = b""
            fate = self.fate(item)
            if fate in (Fate.LIVE, Fate.EARLY):
                waiting.add(digest)
            if fate is Fate.LIVE:
                self._ready[digest] = None
            elif fate is Fate.EARLY and not (is_late or vote.is_refused):
                self._ready_early[digest] = None
        self.withdrawn.append(ballot_digest)
        self._shelve(ballot_digest, waiting)

    def _carried_by(self, ballot_digest: bytes, ballot: _Ballot) -> list[tuple[VoteItem, _Vote]]:
        """The votes of a ballot that are in no later one."""
        votes = ((item, self._votes.get(item.proposal_digest)) for item in ballot.items)
        return [(item, vote) for item, vote in votes if vote is not None and vote.ballot == ballot_digest]

    def _shelve(self, ballot_digest: bytes, waiting: set[bytes]) -> None:
        """A ballot is not pending any more: it stays on disk until other ballots hold what is `waiting` in
        it."""
        if not waiting:
            self.settled.append(ballot_digest)
            return
        self._dormant[ballot_digest] = waiting
        for digest in waiting:
            self._votes[digest].dormant = ballot_digest

    def _wake(self, digest: bytes, vote: _Vote) -> None:
        """A dormant vote is in another ballot now, or needed no more. Once all of its ballot are, that one
        can go."""
        ballot_digest, vote.dormant = vote.dormant, b""
        waiting = self._dormant.get(ballot_digest)
        if waiting is None:
            return
        waiting.discard(digest)
        if not waiting:
            del self._dormant[ballot_digest]
            self.settled.append(ballot_digest)
