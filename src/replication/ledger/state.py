"""The committed state: open proposals in memory, everything else by look-up."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from replication.errors import InvariantError
from replication.identity.genesis import Genesis, Rules
from replication.identity.members import MemberSet

from .history import FinishedProposal, History, OpenProposal, RecordedVote, Totals, has_key
from .polls import OpenPoll, electorate_of, voting_rules_of

__all__ = ["State"]

_UNKNOWN_REMEMBERED = 65_536

_REQUESTS_REMEMBERED = 16_384

_RECENT_REMEMBERED = 1_024
"""Proposals finished last: late votes on them, and questions about them, need no look at the disk."""


class State:
    """What the record amounts to at one height. Changed by `merge` alone."""

    def __init__(self, genesis: Genesis, history: History) -> None:
        self.genesis = genesis
        self.totals: Totals = history.totals()
        self._history = history
        self.voting_rules = voting_rules_of(genesis)
        self.electorate = electorate_of(self.totals.members)
        self._polls: dict[bytes, OpenPoll] = {}
        self._digests: dict[str, bytes] = {}
        self._due: list[tuple[int, int, bytes]] = []
        self._unknown: dict[bytes, None] = {}
        self._recent: OrderedDict[bytes, FinishedProposal] = OrderedDict()
        self._requests: dict[tuple[str, str], bytes | None] = {}
        for proposal in history.open_proposals():
            self._open(self._restored(proposal))
        self._settled_by_epoch = self.begins_epoch and any(poll.is_settled for poll in self._polls.values())

    # What the rulings ask (`rulings.View`).

    @property
    def rules(self) -> Rules:
        """The rules of the cluster."""
        return self.genesis.rules

    @property
    def nonce(self) -> bytes:
        """Nonce of the genesis file."""
        return self.genesis.nonce

    @property
    def members(self) -> MemberSet:
        """Members of the current epoch."""
        return self.totals.members

    @property
    def recorded_view(self) -> int:
        """Highest view of this epoch on record."""
        return self.totals.recorded_view

    @property
    def faulty(self) -> Mapping[str, int]:
        """Members that are proven faulty, with the sequence of the evidence."""
        return self.totals.faulty

    @property
    def incarnations(self) -> Mapping[str, bytes]:
        """Nonces of members that have rejoined."""
        return self.totals.incarnations

    @property
    def rejoined_ms(self) -> Mapping[str, int]:
        """When members last rejoined."""
        return self.totals.rejoined_ms

    @property
    def open_count(self) -> int:
        """How many proposals are open."""
        return len(self._polls)

    def poll(self, digest: bytes) -> OpenPoll | None:
        """The open proposal with this digest; not to be changed."""
        return self._polls.get(digest)

    def finished(self, digest: bytes) -> FinishedProposal | None:
        """The finished proposal with this digest. That there is none is remembered: votes on proposals that
        never come are asked about again and again."""
        recent = self._recent.get(digest)
        if recent is not None:
            return recent
        if digest in self._unknown or digest in self._polls:
            return None
        found = self._history.finished(digest)
        if found is None:
            if len(self._unknown) >= _UNKNOWN_REMEMBERED:
                self._unknown.clear()
            self._unknown[digest] = None
        return found

    def request(self, proposer: str, request_id: str) -> bytes | None:
        """Digest of the proposal on record under a request id. The answer is remembered: a new proposal is
        asked about again and again until it is committed."""
        key = (proposer, request_id)
        if key not in self._requests:
            self._remember_request(key, self._history.request(proposer, request_id))
        return self._requests[key]

    def _remember_request(self, key: tuple[str, str], digest: bytes | None) -> None:
        if len(self._requests) >= _REQUESTS_REMEMBERED:
            self._requests.clear()
        self._requests[key] = digest

    def vote(self, digest: bytes, voter: str) -> RecordedVote | None:
        """The last vote on record of a voter."""
        return self._history.vote(digest, voter)

    # What execution and readers ask.

    @property
    def begins_epoch(self) -> bool:
        """Whether the next block is the first of an epoch other than the first."""
        return self.totals.height == self.totals.base_height and self.totals.height > 0

    def polls(self) -> Iterator[OpenPoll]:
        """All open proposals by number."""
        return iter(self._polls.values())

    def digest_of(self, proposal_id: str) -> bytes | None:
        """Digest of the open proposal with this id."""
        return self._digests.get(proposal_id)

    def due_before(self, time_ms: int) -> Iterator[bytes]:
        """Digests of the proposals whose deadline has passed at this time, by deadline and number."""
        for deadline_ms, _, digest in self._due:
            if deadline_ms >= time_ms:
                return
            yield digest

    @property
    def next_deadline_ms(self) -> int | None:
        """When the cluster has to act by itself: at a deadline, or at once if a new electorate has settled
        something."""
        if self._settled_by_epoch:
            return 0
        return self._due[0][0] if self._due else None

    # The one way in which it changes.

    def merge(
        self, totals: Totals, touched: Mapping[bytes, OpenPoll], finished: Mapping[bytes, FinishedProposal]
    ) -> None:
        """Take in a block: the polls that it opened or touched, and the proposals that it finished or that
        were executed in it."""
        members = self.totals.members
        for digest, poll in touched.items():
            self._remember_request((poll.proposal.proposer, poll.proposal.request_id), digest)
            if digest in self._polls:
                self._polls[digest] = poll
            elif digest not in finished:
                self._open(poll)
        for digest, proposal in finished.items():
            self._close(digest)
            self._recent[digest] = proposal
            self._recent.move_to_end(digest)
        while len(self._recent) > _RECENT_REMEMBERED:
            self._recent.popitem(last=False)
        self.totals = totals
        self._settled_by_epoch = False
        if totals.members.epoch != members.epoch:
            self._begin_epoch(members)

    def _begin_epoch(self, before: MemberSet) -> None:
        """Tally what is open under the new electorate, without the votes of keys that are gone."""
        members = self.members
        self.electorate = electorate_of(members)

        def keeps(voter: str) -> bool:
            return has_key(members, voter, before.public_key(voter))

        for digest, poll in self._polls.items():
            self._polls[digest] = poll.rebuilt(self.electorate, self.voting_rules, self.faulty, keeps)
        self._settled_by_epoch = any(poll.is_settled for poll in self._polls.values())

    def _restored(self, proposal: OpenProposal) -> OpenPoll:
        poll = OpenPoll(proposal, self.electorate, self.voting_rules)
        for vote in proposal.votes:
            if vote.voter not in self.electorate:
                raise InvariantError(f"{proposal.id} counts a vote of {vote.voter}, which is not a member")
            poll.record(vote, is_faulty=vote.voter in self.faulty)
        return poll

    def _open(self, poll: OpenPoll) -> None:
        proposal = poll.proposal
        self._polls[proposal.digest] = poll
        self._digests[proposal.id] = proposal.digest
        self._unknown.pop(proposal.digest, None)
        deadline_ms, _ = poll.deadline
        if deadline_ms:
            insort(self._due, (deadline_ms, proposal.number, proposal.digest))

    def _close(self, digest: bytes) -> None:
        poll = self._polls.pop(digest, None)
        if poll is None:
            self._unknown.pop(digest, None)  # opened and finished in one block
            return
        proposal = poll.proposal
        del self._digests[proposal.id]
        deadline_ms, _ = poll.deadline
        if deadline_ms:
            del self._due[bisect_left(self._due, (deadline_ms, proposal.number, digest))]
