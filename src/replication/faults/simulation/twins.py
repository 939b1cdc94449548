"""Twins: every canonical scenario of four members, one of which has a twin, over a few rounds.

The method is that of Bano and others, "Twins: BFT Systems Made Robust" (OPODIS 2021): a faulty member is two
correct processes with one key; each round has a coordinator and a partition of the five processes into at
most two blocks, within which everything is delivered and across which nothing is. Two twins in different
blocks equivocate without anyone having written an attack. Scenarios that differ only by the names of the
correct members, or by which twin is which, are the same: of 64³ there remain 25,740 with three rounds.

A round here: first the prepare certificates of the round before are delivered within the blocks, and what
follows from them, but no commit certificate. Then all processes give up the view; each hears the time-outs
of its own block first, so that different blocks form different timeout certificates. The coordinator of the
round (both twins, when it is the faulty member) opens its view and proposes, and the members of its block
prepare. So each partition comes between the two phases of a view, and a coordinator may be alone with what
it has committed. After the last round its certificates are delivered too. Scenarios with a common beginning
share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any, Final

from replication.errors import InvariantError, PeerError
from replication.faults.simulation.copying import duplicate
from replication.faults.simulation.describe import describe
from replication.faults.simulation.judge import clash
from replication.faults.simulation.kit import ToyKit, make_people
from replication.faults.simulation.signatures import FastKey, fast_signatures
from replication.faults.simulation.toy import Directory, toy_command
from replication.identity.members import MemberSet
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.effects import Effects
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    Message,
    NewViewMessage,
    TimeoutMessage,
)
from replication.ordering.replica import Replica, Restored
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Signed

__all__ = [
    "CANONICAL",
    "Round",
    "TwinsReport",
    "canonical_prefixes",
    "jobs",
    "run_job",
    "run_prefix",
    "run_rounds",
]

MEMBERS: Final = 4
PROCESSES: Final = MEMBERS + 1
"""Processes 0 and 4 are the twins; 1, 2 and 3 are correct. (Of `run_rounds` with two twins: also 1 and 5.)"""

CANONICAL: Final = 25_740
"""How many scenarios of three rounds there are, by Burnside's lemma; the enumeration must come to the
same."""

START_MS: Final = 1_700_000_000_000
_DELIVERED = (BlockProposal, Acknowledgement, NewViewMessage, BodyRequest, BodyMessage)
_SHARED: Final = (FastKey, Directory, MemberSet)


@dataclass(frozen=True)
class Round:
    """Who coordinates, and which processes are in the same block as process 0."""

    coordinator: int
    with_first: frozenset[int]

    def __str__(self) -> str:
        return f"coordinator {self.coordinator}, {sorted(self.with_first)} apart from the others"


@dataclass
class TwinsReport:
    """What some scenarios came to."""

    scenarios: int = 0
    commits: int = 0
    view_changes: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: TwinsReport) -> None:
        """Add the report of other scenarios."""
        self.scenarios += other.scenarios
        self.commits += other.commits
        self.view_changes += other.view_changes
        self.failures += other.failures


# -------------------------------------------------------------------------------- scenarios and symmetry

_Symmetry = tuple[int, ...]


def _all_rounds() -> list[Round]:
    rest = range(1, PROCESSES)
    blocks = [
        frozenset({0, *(process for process, chosen in zip(rest, choice, strict=True) if chosen)})
        for choice in product((False, True), repeat=PROCESSES - 1)
    ]
    return [Round(coordinator, block) for coordinator in range(MEMBERS) for block in blocks]


def _symmetries() -> list[_Symmetry]:
    """Renamings of processes under which a scenario stays the same: correct ones, and the twins."""
    return [
        (twins[0], *correct, twins[1])
        for correct in permutations(range(1, MEMBERS))
        for twins in permutations((0, MEMBERS))
    ]


def _renamed(item: Round, symmetry: _Symmetry) -> Round:
    block = frozenset(symmetry[process] for process in item.with_first)
    if 0 not in block:
        block = frozenset(range(PROCESSES)) - block
    coordinator = symmetry[item.coordinator] if item.coordinator else 0
    return Round(coordinator, block)


def _order(item: Round) -> tuple[int, list[int]]:
    return (item.coordinator, sorted(item.with_first))


def _representatives(symmetries: Sequence[_Symmetry]) -> list[tuple[Round, list[_Symmetry]]]:
    """One round of each orbit, with the symmetries that leave it as it is."""
    found = []
    for item in sorted(_all_rounds(), key=_order):
        images = [(_renamed(item, symmetry), symmetry) for symmetry in symmetries]
        if all(_order(item) <= _order(image) for image, _ in images):
            found.append((item, [symmetry for image, symmetry in images if image == item]))
    return found


def canonical_prefixes(length: int) -> list[tuple[tuple[Round, ...], list[_Symmetry]]]:
    """The canonical beginnings of `length` rounds, with the symmetries that each leaves for what follows."""
    prefixes: list[tuple[tuple[Round, ...], list[_Symmetry]]] = [((), _symmetries())]
    for _ in range(length):
        prefixes = [
            ((*rounds, item), rest)
            for rounds, symmetries in prefixes
            for item, rest in _representatives(symmetries)
        ]
    return prefixes


# -------------------------------------------------------------------------------- running


@dataclass
class _Process:
    """One process: a replica, what it has committed, and what it has said lately."""

    index: int
    member: str
    replica: Replica[Any]
    is_twin: bool
    blocks: list[tuple[Block, Certificate]] = field(default_factory=list)
    said: list[Signed] = field(default_factory=list)


class _Cluster:
    """All processes between two rounds."""

    def __init__(self, processes: list[_Process], view: int, kit: ToyKit, lines: list[str] | None) -> None:
        self.processes = processes
        self.view = view
        self.kit = kit
        self.lines = lines
        self.failures: list[str] = []
        self._queue: deque[tuple[int, str | None, Message]] = deque()
        self._held: list[tuple[int, str | None, Message]] = []
        self._holds = True
        self._block_of: dict[int, frozenset[int]] = {}

    def copy(self) -> _Cluster:
        """An independent copy."""
        processes = [duplicate(process, _SHARED) for process in self.processes]
        made = _Cluster(processes, self.view, self.kit, self.lines)
        made._held = list(self._held)
        return made

    # One round.

    def play(self, item: Round, *, is_first: bool) -> None:
        """Finish the round before under this round's partition, change the view, and let everyone prepare."""
        every = frozenset(range(len(self.processes)))
        other = every - item.with_first
        self._block_of = {
            process: (item.with_first if process in item.with_first else other) for process in every
        }
        self._note(f"ROUND after view {self.view}: {item}")
        self.finish()
        if not is_first or item.coordinator:
            self._change_view(item)
        for index in self.coordinators(item):
            process = self.processes[index]
            if self.view == 0:
                self._feed(
                    process, process.replica.submit(self._first_command(process), self._now_ms(process))
                )
            for _ in range(3):
                self._tick(process)
                self._settle()
                if process.replica._is_open or self.view == 0 or self.failures:
                    break

    def finish(self) -> None:
        """Deliver the prepare certificates of the round before, and the answers to them."""
        self._queue.extend(self._held)
        self._held.clear()
        self._holds = False
        self._settle()
        self._holds = True
        self._held.clear()

    def coordinators(self, item: Round) -> range:
        """The processes that coordinate a round: both twins, when its member has one."""
        return range(item.coordinator, len(self.processes), MEMBERS)

    def _change_view(self, item: Round) -> None:
        """All give up the view, and go on to the next one that this round's member coordinates.

        Views in between are left without anything happening in them: nobody remembers them. The processes
        beside the coordinator wait for its opening; all others enter by the time-outs they hear.
        """
        ending = self.view + 1
        while ending % MEMBERS != item.coordinator:
            ending += 1
        self.view = ending
        reports: list[tuple[int, Message]] = []
        for process in self.processes:
            process.replica.view = ending - 1
            process.replica._now_ms = self._now_ms(process)
            try:
                process.replica._time_out()
            except InvariantError as error:
                self._fail(process, f"invariant: {error}")
                return
            effects = process.replica._flush()
            reports += [
                (process.index, sent.message)
                for sent in effects.send
                if isinstance(sent.message, TimeoutMessage)
            ]
            self._feed(process, effects)
        self._queue.clear()
        coordinators = self.coordinators(item)
        beside = frozenset[int]().union(*(self._block_of[index] for index in coordinators))
        for process in self.processes:
            if process.index in coordinators or process.index not in beside:
                self._enter(process, reports)
        self._queue.clear()

    def _enter(self, process: _Process, reports: list[tuple[int, Message]]) -> None:
        """Hear time-outs, those of one's own block first, until they are enough."""
        near = self._block_of[process.index]
        ordered = sorted(reports, key=lambda report: report[0] not in near)
        for index, message in ordered:
            if process.replica.view == self.view:
                return  # the rest comes too late to change anything
            if self.processes[index].member != process.member:
                self._deliver(process, self.processes[index].member, message, range(len(self.processes)))

    # Delivery.

    def _settle(self) -> None:
        while self._queue and not self.failures:
            source, to, message = self._queue.popleft()
            sender = self.processes[source].member
            for index in sorted(self._block_of[source]):
                process = self.processes[index]
                if index != source and process.member != sender and to in (None, process.member):
                    self._deliver(process, sender, message, fetch_from=sorted(self._block_of[index]))

    def _deliver(
        self, process: _Process, sender: str, message: Message, fetch_from: Sequence[int] | range
    ) -> None:
        if self.lines is not None:
            self._note(f"{sender}>{process.index} {describe(message)}")
        try:
            effects = process.replica.receive(sender, message, self._now_ms(process))
        except PeerError as error:
            self._note(f"  refused: {error}")
            return
        except InvariantError as error:
            self._fail(process, f"invariant: {error}")
            return
        self._feed(process, effects)
        if effects.behind:
            self._catch_up(process, fetch_from)
        if process.replica._deferred is not None:
            self._tick(process)

    def _tick(self, process: _Process) -> None:
        try:
            self._feed(process, process.replica.tick(self._now_ms(process)))
        except PeerError as error:
            self._note(f"  refused: {error}")

    def _catch_up(self, process: _Process, fetch_from: Sequence[int] | range) -> None:
        for index in fetch_from:
            for block, certificate in self.processes[index].blocks[process.replica.height :]:
                try:
                    self._feed(process, process.replica.receive_committed("peer", block, certificate))
                except PeerError as error:
                    self._note(f"  refused: {error}")
                    break

    def _feed(self, process: _Process, effects: Effects[Any]) -> None:
        """Carry out effects: what is committed is compared, what is said is judged, what is sent is
        queued."""
        for applied in effects.committed:
            self._note(f"  {process.index} COMMITS h{applied.block.height} {applied.block.hash[:4].hex()}")
            process.blocks.append((applied.block, applied.certificate))
            self._compare(process)
        for item in effects.send:
            message = item.message
            if isinstance(message, CertificateMessage):
                if message.certificate.key.phase is Phase.PREPARE:
                    (self._held if self._holds else self._queue).append((process.index, item.to, message))
            elif isinstance(message, _DELIVERED):
                self._queue.append((process.index, item.to, message))
            if not process.is_twin:
                self._judge(process, message)

    def _compare(self, process: _Process) -> None:
        if process.is_twin:
            return
        height = len(process.blocks)
        for other in self.processes:
            if other.is_twin or len(other.blocks) < height:
                continue
            if other.blocks[height - 1][0].hash != process.blocks[-1][0].hash:
                self._fail(process, f"agreement: {other.index} has committed another block {height}")

    def _judge(self, process: _Process, message: Message) -> None:
        said: Signed
        if isinstance(message, Acknowledgement | BlockProposal):
            said = message.statement
        elif isinstance(message, TimeoutMessage):
            said = message.report.timeout
        else:
            return
        for earlier in process.said:
            why = clash(earlier, said)
            if why is not None:
                self._fail(process, f"one signature: {why}")
        process.said.append(said)

    # Helpers.

    def _now_ms(self, process: _Process) -> int:
        return START_MS + 1_000 * self.view + process.index

    def _first_command(self, process: _Process) -> bytes:
        sign = self.kit.people.keys[process.member].sign
        return toy_command(sign, self.kit.cluster_id, "note", process.member, f"of process {process.index}")

    def _fail(self, process: _Process, what: str) -> None:
        self._note(f"FAILURE at process {process.index}: {what}")
        self.failures.append(f"process {process.index}, view {self.view}: {what}")

    def _note(self, line: str) -> None:
        if self.lines is not None:
            self.lines.append(line)


def _root(lines: list[str] | None, twins: int = 1) -> _Cluster:
    """The cluster before the first round, in which the first `twins` members are two processes each.

    Everyone has heard from everyone, as after a start without faults.
    """
    people = make_people(MEMBERS, 0, real=False)
    kit = ToyKit(people, 60_000)
    processes = []
    for index in range(MEMBERS + twins):
        member = people.names[index % MEMBERS]
        application, head, certificate, base = kit.restore(())
        restored = Restored(head, certificate, SignState(), base_height=base)
        replica = Replica(
            member, kit.cluster_id, application.members, people.keys[member], application, restored
        )
        processes.append(_Process(index, member, replica, is_twin=index % MEMBERS < twins))
        replica.start(START_MS)
        if processes[-1].is_twin:
            setattr(replica._signer, "mute", _shameless)  # noqa: B010  # a method of a stranger
    for process in processes:
        for peer in people.names:
            if peer != process.member:
                for item in process.replica.greet(peer, START_MS).send:
                    for other in processes:
                        if other.member == peer:
                            other.replica.receive(process.member, item.message, START_MS)
    return _Cluster(processes, 0, kit, lines)


def _shameless(_reason: str) -> None:
    """Twins do not fall silent when they are found out."""


def run_prefix(prefix: tuple[Round, ...], symmetries: Sequence[_Symmetry]) -> TwinsReport:
    """Run all canonical scenarios that begin with these rounds and have one more."""
    report = TwinsReport()
    with fast_signatures():
        cluster = _root(None)
        for number, item in enumerate(prefix):
            cluster.play(item, is_first=number == 0)
        for item, _ in _representatives(symmetries):
            last = cluster.copy()
            last.failures += cluster.failures
            if not last.failures:
                last.play(item, is_first=False)
                last.finish()
            report.scenarios += 1
            report.view_changes += len(prefix)
            report.commits += sum(len(process.blocks) for process in last.processes if not process.is_twin)
            for failure in last.failures[:1]:
                report.failures.append(f"{'; '.join(map(str, (*prefix, item)))}: {failure}")
    return report


def run_job(job: tuple[tuple[Round, ...], list[_Symmetry]]) -> TwinsReport:
    """`run_prefix` for one of `jobs`."""
    return run_prefix(*job)


def run_rounds(rounds: Sequence[Round], twins: int = 1) -> tuple[list[str], list[str]]:
    """Run one scenario and tell what happened: failures, and the trace. More than one twin is more than
    four members can bear."""
    lines: list[str] = []
    with fast_signatures():
        cluster = _root(lines, twins)
        for number, item in enumerate(rounds):
            if not cluster.failures:
                cluster.play(item, is_first=number == 0)
        cluster.finish()
    return cluster.failures, lines


def jobs(rounds: int = 3) -> Iterator[tuple[tuple[Round, ...], list[_Symmetry]]]:
    """Shares of work for `run_prefix`."""
    yield from canonical_prefixes(rounds - 1)
