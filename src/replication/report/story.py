"""What happened, from the entries of a record: proposals and what became of them, voters, coordinators,
members, liars.

The entries of a live cluster's record come from one node, those of an exported record were verified before.
Both give the same story. It may cover only the newest part of a record: then a proposal that was made before
is shown without what is not known of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from replication.client.errors import ResponseError
from replication.consensus.analysis import AgreementCounts, find_blocs
from replication.consensus.model import VoteValue
from replication.identity.members import MAX_MEMBERS

__all__ = [
    "BACKGROUND",
    "BLOC_THRESHOLD",
    "STATES",
    "Accusation",
    "Case",
    "Change",
    "Event",
    "Receipt",
    "Story",
    "Turn",
    "Voter",
    "tell",
]

STATES: Final = ("approved", "rejected", "no_quorum", "expired", "open")
"""What can become of a proposal, as it is shown."""

MAX_VOTERS: Final = 10 * MAX_MEMBERS
"""Members, past ones included, that can be compared with each other; the work grows with the square."""

BLOC_THRESHOLD: Final = 0.9
"""Agreement from which two members vote alike, as `acp blocs` has it."""

BACKGROUND: Final = ("genesis", "membership", "evidence")
"""Kinds of entries that a story needs from the beginning; of the others only the newest."""


@dataclass(frozen=True, slots=True)
class Event:
    """An audit entry. `time_ms` is the time of its block."""

    sequence: int
    time_ms: int
    kind: str
    proposal_id: str
    actor: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an executor says its action came to."""

    sequence: int
    executor: str
    outcome: str
    detail: str
    time_ms: int


@dataclass(slots=True)
class Case:
    """A proposal. What lies before the entries at hand is empty, or None where it is a time.

    `state` is one of `STATES`; `votes` are those that counted, by voter, once there is a tally.
    """

    id: str
    action: str = ""
    target: str = ""
    proposer: str = ""
    proposed_ms: int | None = None
    decided_ms: int | None = None
    state: str = "open"
    cause: str = ""
    is_critical: bool = False
    counts: tuple[int, int, int] = (0, 0, 0)
    threshold: str = ""
    votes: dict[str, VoteValue] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    sequence: int = -1

    @property
    def took_ms(self) -> int | None:
        """From the block of the proposal to that of its tally."""
        if self.proposed_ms is None or self.decided_ms is None:
            return None
        return self.decided_ms - self.proposed_ms

    @property
    def is_confirmed(self) -> bool:
        """Whether an executor reported success."""
        return any(receipt.outcome == "succeeded" for receipt in self.receipts)

    @property
    def is_unconfirmed(self) -> bool:
        """Whether it was approved, and nobody reported success."""
        return self.state == "approved" and not self.is_confirmed


@dataclass(slots=True)
class Voter:
    """How a member took part in the decided proposals of the time in which it was one."""

    id: str
    is_member: bool = True
    asked: int = 0
    votes: Counter[VoteValue] = field(default_factory=Counter)
    prevailed: int = 0
    delays_ms: list[int] = field(default_factory=list)

    @property
    def sided(self) -> int:
        """How often it approved or rejected."""
        return self.votes[VoteValue.APPROVE] + self.votes[VoteValue.REJECT]

    @property
    def silent(self) -> int:
        """How often it gave no vote in time."""
        return max(0, self.asked - self.votes.total())

    @property
    def median_delay_ms(self) -> int | None:
        """From the block of a proposal to that of its vote; half of its votes took longer."""
        delays = sorted(self.delays_ms)
        return delays[len(delays) // 2] if delays else None


@dataclass(frozen=True, slots=True)
class Turn:
    """A coordinator took over."""

    sequence: int
    time_ms: int
    epoch: int
    view: int
    coordinator: str


@dataclass(frozen=True, slots=True)
class Change:
    """The member set changed, which began an epoch. `what` in words."""

    sequence: int
    time_ms: int
    epoch: int
    what: str
    proposal_id: str


@dataclass(frozen=True, slots=True)
class Accusation:
    """Evidence: two statements of a member that exclude each other."""

    sequence: int
    time_ms: int
    accused: str
    what: str
    proposal_id: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything, in the order of the record. `first` and `size` are the numbers of the first entry at hand
    and the one after the last; `blocs_complete` is False if there may be more blocs."""

    cases: tuple[Case, ...]
    voters: tuple[Voter, ...]
    agreement: Mapping[str, Mapping[str, float]]
    common: Mapping[tuple[str, str], int]
    blocs: tuple[tuple[str, ...], ...]
    blocs_complete: bool
    turns: tuple[Turn, ...]
    changes: tuple[Change, ...]
    accusations: tuple[Accusation, ...]
    first: int
    size: int
    begin_ms: int
    end_ms: int

    def count(self, state: str) -> int:
        """How many proposals came to this."""
        return sum(case.state == state for case in self.cases)

    @property
    def unconfirmed(self) -> tuple[Case, ...]:
        """What was approved, and nobody has carried out with success."""
        return tuple(case for case in self.cases if case.is_unconfirmed)

    @property
    def median_ms(self) -> int | None:
        """From proposal to decision; half of them took longer."""
        took = sorted(case.took_ms for case in self.cases if case.took_ms is not None)
        return took[len(took) // 2] if took else None


def tell(events: Iterable[Event], *, start: int = 0) -> Story:
    """The story of these entries, which are in order.

    Before the entry `start` only those in `BACKGROUND` are given: who the members are, and who lied, is known
    from the beginning, everything else from `start` on.

    Raises ResponseError for an entry that is not what those of its kind are. A node can show anything.
    """
    teller = _Teller()
    last = None
    begin_ms = None
    for event in events:
        if event.sequence >= start and begin_ms is None:
            begin_ms = event.time_ms
        teller.take(event)
        last = event
    size, end_ms = (last.sequence + 1, last.time_ms) if last is not None else (0, 0)
    return teller.story(start, size, end_ms if begin_ms is None else begin_ms, end_ms)


class _Teller:
    def __init__(self) -> None:
        self._cases: dict[str, Case] = {}
        self._voters: dict[str, Voter] = {}
        self._voted: set[tuple[str, str]] = set()
        self._counts = AgreementCounts()
        self._turns: list[Turn] = []
        self._changes: list[Change] = []
        self._accusations: list[Accusation] = []

    def take(self, event: Event) -> None:
        """Learn from one more entry. Kinds that are not known are left out."""
        take = getattr(self, f"_on_{event.kind}", None)
        if take is None:
            return
        try:
            take(event)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ResponseError(
                f"entry {event.sequence} is not what an entry of the kind {event.kind:.40} is: {error!r:.200}"
            ) from error

    def _case(self, event: Event) -> Case:
        return self._cases.setdefault(event.proposal_id, Case(event.proposal_id))

    def _join(self, member: str) -> None:
        if len(self._voters) >= MAX_VOTERS:
            raise ValueError(f"there were more than {MAX_VOTERS} members")
        self._voters.setdefault(member, Voter(member)).is_member = True

    def _on_genesis(self, event: Event) -> None:
        for member in event.data["members"]:
            self._join(member["id"])

    def _on_propose(self, event: Event) -> None:
        data = event.data
        self._cases[event.proposal_id] = Case(
            event.proposal_id,
            action=data["action"],
            target=data["target"],
            proposer=event.actor,
            proposed_ms=event.time_ms,
            sequence=event.sequence,
        )

    def _on_vote(self, event: Event) -> None:
        case = self._case(event)
        if (event.proposal_id, event.actor) not in self._voted:
            self._voted.add((event.proposal_id, event.actor))
            if case.proposed_ms is not None:
                self._voters[event.actor].delays_ms.append(event.time_ms - case.proposed_ms)

    def _on_tally(self, event: Event) -> None:
        self._decide(event, event.data["decision"])

    def _on_expired(self, event: Event) -> None:
        self._decide(event, "expired")

    def _decide(self, event: Event, state: str) -> None:
        case, data = self._case(event), event.data
        case.state, case.decided_ms, case.cause = state, event.time_ms, data["cause"]
        case.counts = (data["approve_count"], data["reject_count"], data["abstain_count"])
        case.is_critical, case.threshold = data["is_critical"], data["threshold_used"]
        case.votes = {member: VoteValue(value) for member, value in data["votes"].items()}
        case.sequence = event.sequence
        for voter in self._voters.values():
            voter.asked += voter.is_member
        won = {"approved": VoteValue.APPROVE, "rejected": VoteValue.REJECT}.get(state)
        for member, value in case.votes.items():
            voter = self._voters[member]
            voter.votes[value] += 1
            voter.prevailed += value is won
        self._counts.record(case.votes)

    def _on_execute(self, event: Event) -> None:
        data = event.data
        receipt = Receipt(event.sequence, event.actor, data["outcome"], data["detail"], data["executed_ms"])
        self._case(event).receipts.append(receipt)

    def _on_coordinator(self, event: Event) -> None:
        data = event.data
        self._turns.append(Turn(event.sequence, event.time_ms, data["epoch"], data["view"], event.actor))

    def _on_evidence(self, event: Event) -> None:
        data = event.data
        first, second = data["first"], data["second"]
        if data["kind"] == "votes":
            what = f"voted {first['value']} and {second['value']}"
        elif "height" in first:
            what = (
                f"signed {first['phase']} for two blocks at height {first['height']} in view {first['view']}"
            )
        else:
            what = f"signed two statements about view {first['view']}"
        accused = data["accused"]
        self._accusations.append(Accusation(event.sequence, event.time_ms, accused, what, event.proposal_id))

    def _on_membership(self, event: Event) -> None:
        data, change = event.data, event.data["change"]
        kind, subject = change["change"], change.get("id") or _new_id(change)
        what = f"{kind} {subject}"
        if kind in ("remove", "replace"):
            self._voters[subject].is_member = False
        if kind in ("add", "replace"):
            self._join(_new_id(change))
        if kind == "replace" and _new_id(change) != subject:
            what += f" by {_new_id(change)}"
        if kind == "reweight":
            what += f" to {change['weight']}"
        self._changes.append(
            Change(event.sequence, event.time_ms, data["epoch"] + 1, what, event.proposal_id)
        )

    def story(self, first: int, size: int, begin_ms: int, end_ms: int) -> Story:
        """What it all came to."""
        voters = tuple(self._voters.values())
        ids = [voter.id for voter in voters]
        matrix = self._counts.matrix(ids)
        blocs, complete = find_blocs(matrix, BLOC_THRESHOLD)
        common = {(a, b): self._counts.counts(a, b)[1] for a in ids for b in ids if a != b}
        return Story(
            cases=tuple(self._cases.values()),
            voters=voters,
            agreement=matrix,
            common=common,
            blocs=tuple(map(tuple, blocs)),
            blocs_complete=complete,
            turns=tuple(self._turns),
            changes=tuple(self._changes),
            accusations=tuple(self._accusations),
            first=first,
            size=size,
            begin_ms=begin_ms,
            end_ms=end_ms,
        )


def _new_id(change: Mapping[str, Any]) -> str:
    """Whom a change brings in: a member or an executor."""
    return str((change.get("member") or change.get("executor") or change)["id"])
