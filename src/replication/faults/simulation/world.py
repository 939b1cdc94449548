"""One simulated cluster: first a phase with faults, then a quorum is healed and must make progress."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from replication.faults.simulation.adversary import Cabal, FaultyHost
from replication.faults.simulation.checkers import Checkers
from replication.faults.simulation.describe import describe
from replication.faults.simulation.engine import Engine, Trace, Violation
from replication.faults.simulation.host import Host
from replication.faults.simulation.kit import Kit, ToyKit, make_people
from replication.faults.simulation.network import Network
from replication.faults.simulation.scenario import Partition, Scenario, healing_quorum
from replication.faults.simulation.signatures import fast_signatures
from replication.faults.simulation.voting_kit import VotingKit
from replication.ordering.application import command_digest
from replication.ordering.messages import Message
from replication.ordering.replica import ReplicaSettings

__all__ = ["Result", "World", "run"]

FETCH_TIMEOUT_US = 400_000
ROUND_MS = 400


@dataclass(frozen=True)
class Result:
    """What came of a run. `progress_ms` is how long the healed quorum took, `views` how many views it went
    through."""

    scenario: Scenario
    violations: tuple[Violation, ...]
    fired: Counter[str]
    digest: str
    height: int
    events: int
    progress_ms: int = 0
    views: int = 0
    lines: tuple[str, ...] = field(default=(), repr=False)
    errors: tuple[Exception, ...] = field(default=(), repr=False)

    @property
    def failed(self) -> bool:
        """Whether a property was broken."""
        return bool(self.violations)


def run(scenario: Scenario, *, readable: bool = False) -> Result:
    """Run a scenario to its end, or to the first violation."""
    with fast_signatures(not scenario.real_signatures):
        return World(scenario, readable=readable).run()


class World:
    """Hosts, network, clients and checkers of one run."""

    def __init__(self, scenario: Scenario, *, readable: bool = False) -> None:
        self.scenario = scenario
        self.engine = Engine(Trace(readable=readable))
        self.rng = random.Random(f"world/{scenario.seed}")
        self.refusals: Counter[str] = Counter()
        self.errors: list[Exception] = []
        self.has_faults = True
        self.kit = make_kit(scenario)
        self.names = self.kit.people.names
        beat = scenario.heartbeat_ms
        self.settings = ReplicaSettings(
            repeat_ms=beat,
            heartbeat_ms=beat,
            idle_timeout_ms=4 * beat,
            busy_timeout_ms=8 * beat,
            max_backoff=scenario.max_backoff,
        )
        self.guilty = frozenset(self.names[item.position] for item in scenario.faulty)
        self.checkers = Checkers(self)
        self.cabal = Cabal(self)
        self.hosts = self._make_hosts()
        self.by_member = {
            name: [host for host in self.hosts.values() if host.member == name] for name in self.names
        }
        self.network = Network(
            engine=self.engine,
            rng=random.Random(f"network/{scenario.seed}"),
            faults=scenario.network,
            endpoints={
                name: tuple(host.endpoint for host in hosts) for name, hosts in self.by_member.items()
            },
            deliver=self._deliver,
            lost=self._lost,
        )
        self._connecting: set[tuple[str, str]] = set()

    def _make_hosts(self) -> dict[str, Host]:
        hosts: dict[str, Host] = {}
        faulty = {item.position: item.attacks for item in self.scenario.faulty}
        for position, name in enumerate(self.names):
            key = self.kit.people.keys[name]
            attacks = faulty.get(position)
            if attacks is None:
                hosts[name] = Host(self, name, name, key, position)
                continue
            for endpoint in (name, f"{name}-twin") if "twins" in attacks else (name,):
                hosts[endpoint] = FaultyHost(self, name, endpoint, key, position, attacks)
        return hosts

    @property
    def correct(self) -> list[Host]:
        """Hosts of members that keep to the protocol."""
        return [host for host in self.hosts.values() if not host.is_faulty]

    def latest_clock_ms(self) -> int:
        """The furthest clock of a correct member."""
        return max(host.local_ms() for host in self.correct)

    # Running.

    def run(self) -> Result:
        """The phase with faults, then the phase of progress."""
        scenario, engine = self.scenario, self.engine
        self._plan()
        for host in self.hosts.values():
            engine.after(self.rng.randrange(5_000), host.boot)
        engine.run(scenario.fault_ms * 1000, max_events=scenario.max_events)
        self.has_faults = False
        progress_ms = views = 0
        if scenario.healing is not None and not engine.violations:
            progress_ms, views = self._heal()
        if not engine.violations:
            self.checkers.finish(self.correct)
        for host in self.correct:
            engine.trace.note(f"end {host.endpoint} {host.disk.height} {host.disk.sign_state!r}")
        return Result(
            scenario=scenario,
            violations=tuple(engine.violations),
            fired=engine.fired,
            digest=engine.trace.digest,
            height=len(self.checkers.chain),
            events=engine.events,
            progress_ms=progress_ms,
            views=views,
            lines=tuple(engine.trace.lines),
            errors=tuple(self.errors),
        )

    def _plan(self) -> None:
        """Put everything that the scenario prescribes on the heap."""
        scenario, engine, hosts = self.scenario, self.engine, list(self.hosts.values())
        for partition in scenario.partitions:
            engine.after(partition.start_ms * 1000, self._split, partition)
        for at_ms, position, step_ms in scenario.clock_steps:
            engine.after(at_ms * 1000, self._step_clock, position, step_ms)
        for at_ms in scenario.crashes.all_at_ms:
            for host in hosts:
                engine.after(at_ms * 1000, self._crash, host, "all at once")
        for at_ms, position, length_ms in scenario.crashes.pauses:
            engine.after(at_ms * 1000, self.hosts[self.names[position]].pause, length_ms * 1000)
        for at_ms, position in scenario.wipes:
            engine.after(at_ms * 1000, self.hosts[self.names[position]].wipe)
        for backup_ms, restore_ms, position in scenario.restores:
            engine.after(backup_ms * 1000, self.hosts[self.names[position]].back_up)
            engine.after(restore_ms * 1000, self.hosts[self.names[position]].restore)
        for _ in range(scenario.commands):
            engine.after(self.rng.randrange(scenario.fault_ms * 1000), self._client)
        for change in scenario.epochs:
            engine.after(change.at_ms * 1000, self._change_members, change.positions, 5)

    def _split(self, partition: Partition) -> None:
        pairs = [(self.names[a], self.names[b]) for a, b in partition.blocked]
        if partition.kind == "coordinator":
            pairs = self._around_coordinator()
        self.engine.trace.note(f"{self.engine.now_us} PARTITION {partition.kind} {pairs}")
        self.engine.fired[f"partition: {partition.kind}"] += 1
        self.network.blocked.update(pairs)
        length_us = 1000 * (partition.end_ms - partition.start_ms)
        self.engine.after(length_us, self._join, partition.kind, pairs)

    def _around_coordinator(self) -> list[tuple[str, str]]:
        """The coordinator of the highest view that a correct member is in, cut off from everyone."""
        views = [
            (host.replica.view, host.replica.coordinator) for host in self.correct if host.replica is not None
        ]
        if not views:
            return []
        one = max(views)[1]
        others = [name for name in self.names if name != one]
        return [(one, other) for other in others] + [(other, one) for other in others]

    def _join(self, kind: str, pairs: list[tuple[str, str]]) -> None:
        """Overlapping partitions end together; what counts is that links come and go."""
        self.engine.trace.note(f"{self.engine.now_us} PARTITION OVER {kind}")
        self.network.blocked.difference_update(pairs)
        for source, target in pairs:
            self._lost(source, target)

    def _step_clock(self, position: int, step_ms: int) -> None:
        self.engine.fired["clock step"] += 1
        for host in self.by_member[self.names[position]]:
            host.clock_step_ms += step_ms

    def _crash(self, host: Host, point: str) -> None:
        if not host.down and self.has_faults:
            host.crash(point)

    def _client(self, among: tuple[str, ...] = ()) -> None:
        """A client's command at some member that is up."""
        names = among or tuple(
            name for name in self.names if any(not host.down for host in self.by_member[name])
        )
        if not names:
            return
        host = self.by_member[self.rng.choice(names)][0]
        if host.replica is not None and host.member in host.replica.members:
            host.submit(self.kit.workload(host.application, host.member, self.rng, host.local_ms()))

    def _change_members(self, positions: tuple[int, ...], attempts: int) -> None:
        names = [self.names[position] for position in positions]
        able = [
            host for host in self.correct if host.replica is not None and host.member in host.replica.members
        ]
        if not able:
            if attempts:
                self.engine.after(200_000, self._change_members, positions, attempts - 1)
            return
        host = self.rng.choice(able)
        command = self.kit.change_members(host.application, host.member, names)
        if command is not None:
            self.engine.fired["epoch change asked for"] += 1
            host.submit(command)

    # What hosts ask of the world.

    def send(self, host: Host, to: str, message: Message) -> None:
        """Carry a message of a host to a member."""
        if self.scenario.wiretap and not host.is_faulty:
            self.cabal.observe(host.member, message)
        self.network.send(host.endpoint, to, message)

    def _deliver(self, sender: str, endpoint: str, message: Message) -> None:
        host = self.hosts[endpoint]
        if host.down:
            return
        self.engine.trace.note(f"{self.engine.now_us} {sender}>{endpoint} {describe(message)}")
        host.receive(sender, message)

    def seen(self, host: Host, command: bytes) -> None:
        """A member's voter is shown a command, and may react a little later."""
        if host.replica is not None and host.member in host.replica.members:
            self.engine.after(self.rng.randint(0, 20_000), host.vote, host.incarnation, command)

    def fetch(self, host: Host, peer: str, from_height: int, number: int) -> None:
        """Ask a peer for blocks."""
        engine = self.engine
        engine.after(FETCH_TIMEOUT_US, host.fetched, number, peer, None)
        delay = self.network.delay_us(host.member, peer)
        if delay is not None and peer in self.by_member:
            engine.after(delay, self._answer_fetch, host, peer, from_height, number)

    def _answer_fetch(self, host: Host, peer: str, from_height: int, number: int) -> None:
        page = self.by_member[peer][0].serve(from_height)
        delay = self.network.delay_us(peer, host.member)
        if page is not None and delay is not None:
            self.engine.fired["fetch answered"] += 1
            self.engine.after(delay, host.fetched, number, peer, page)

    def other_peer(self, host: Host, avoid: str) -> str:
        """Another member to fetch from."""
        members = host.replica.members.ids if host.replica is not None else self.names
        others = [name for name in members if name not in (host.member, avoid)]
        return self.rng.choice(others) if others else avoid

    # Connections: a greeting on both sides each time that one is made.

    def reconnect_all(self, host: Host) -> None:
        """A process has started: it connects to everyone."""
        for other in self.hosts.values():
            if other.member != host.member:
                self._plan_connection(host, other, 1_000)

    def _lost(self, source: str, target: str) -> None:
        """Something between two members was lost, so the stream between them breaks and is made again."""
        for host in self.by_member[source]:
            for other in self.by_member.get(target, ()):
                self._plan_connection(host, other, 150_000)

    def _plan_connection(self, host: Host, other: Host, delay_us: int) -> None:
        low, high = sorted((host.endpoint, other.endpoint))
        if (low, high) not in self._connecting:
            self._connecting.add((low, high))
            self.engine.after(self.rng.randint(delay_us, 4 * delay_us), self._connect, low, high)

    def _connect(self, low: str, high: str) -> None:
        self._connecting.discard((low, high))
        host, other = self.hosts[low], self.hosts[high]
        if host.down or other.down:
            return
        one, two = host.member, other.member
        if self.network.can_talk(one, two) and self.network.can_talk(two, one):
            host.greet(two)
            other.greet(one)
        elif not self.network.calm:
            self._plan_connection(host, other, 100_000)

    # Healing.

    def _heal(self) -> tuple[int, int]:
        """Heal a quorum and demand progress. Returns how long it took in milliseconds, and how many views."""
        engine, healing = self.engine, self.scenario.healing
        if healing is None:
            return 0, 0
        names = self._healed(healing_quorum(healing, self._current_positions()))
        names += [self.names[position] for position in healing.returning if self.names[position] not in names]
        self.network.calm, self.network.alone = frozenset(names), healing.others == "gone"
        engine.trace.note(f"{engine.now_us} HEAL {names}, others {healing.others}")
        hosts = [self.hosts[name] for name in names]
        for host in self.hosts.values():
            if self.network.alone and host not in hosts:
                host.vanish()
        for host in hosts:
            host.paused_until_us = 0
            host.restart()
        for host in hosts:
            self.reconnect_all(host)
        began_us, began_height = engine.now_us, len(self.checkers.chain)
        first_view = max(host.replica.view for host in hosts if host.replica is not None)
        goal = began_height + healing.decisions
        returning = [self.hosts[self.names[position]] for position in healing.returning]
        asked = [(host, digest) for host in hosts for digest in self._ask(host)]
        self._keep_asking(tuple(names), goal)

        def is_reached() -> bool:
            if len(self.checkers.chain) < goal or any(host.told_height < goal for host in hosts):
                return False
            if any(host.replica is None or host.replica.muted for host in returning):
                return False
            return all(digest not in host.mine for host, digest in asked)

        limit_ms = self._progress_limit_ms()
        in_budget = engine.run(
            began_us + limit_ms * 1000,
            max_events=engine.events + 20 * self.scenario.max_events,
            stop=is_reached,
        )
        if not engine.violations and not is_reached():
            states = ", ".join(_state(host) for host in hosts)
            budget = "" if in_budget else " (out of events)"
            lost = sorted(host.endpoint for host, digest in asked if digest in host.mine)
            engine.violate(
                "progress",
                f"goal {goal} was not reached in {limit_ms} ms{budget}; commands of {lost} are not ordered; "
                f"{states}",
            )
        last_view = max(host.replica.view for host in hosts if host.replica is not None)
        return (engine.now_us - began_us) // 1000, max(0, last_view - first_view)

    def _ask(self, host: Host) -> list[bytes]:
        """One command at a healed member, which has to be ordered whatever else goes on."""
        replica = host.replica
        if replica is None or host.member not in replica.members:
            return []
        command = self.kit.workload(host.application, host.member, self.rng, host.local_ms())
        host.submit(command)
        return [command_digest(command)]

    def _current_positions(self) -> tuple[int, ...]:
        members = self.checkers.application.members
        return tuple(self.names.index(name) for name in members.ids)

    def _healed(self, positions: tuple[int, ...]) -> list[str]:
        """A quorum of the newest epoch; but all correct members while some have not reached that epoch, or
        another is about to begin, since then quorums of both epochs are needed."""
        newest = self.checkers.application.members.epoch
        chosen = [self.names[position] for position in positions]
        epochs = {self.hosts[name].disk.sign_state.epoch for name in chosen}
        heights = {self.kit.restore(self.hosts[name].disk.blocks)[0].members.epoch for name in chosen}
        if heights == {newest} and epochs <= {newest, 0} and not self.scenario.epochs:
            return chosen
        return [host.endpoint for host in self.correct]

    def _progress_limit_ms(self) -> int:
        """A bounded number of view timeouts: each of the n coordinators fails twice, at the longest
        patience."""
        settings = self.settings
        longest = settings.busy_timeout_ms << settings.max_backoff
        return 2 * (len(self.names) + 2) * (longest + ROUND_MS) + 10 * ROUND_MS

    def _keep_asking(self, names: tuple[str, ...], goal: int, seen: int = -1, asked_us: int = 0) -> None:
        """Clients of the healed members ask for something after each decision, and again when nothing
        happens."""
        height, now_us = len(self.checkers.chain), self.engine.now_us
        if height >= goal:
            return
        if height != seen or now_us - asked_us > 500_000:
            self._client(names)
            asked_us = now_us
        self.engine.after(20_000, self._keep_asking, names, goal, height, asked_us)


def make_kit(scenario: Scenario) -> Kit:
    """The application that the scenario asks for."""
    people = make_people(scenario.members, scenario.spares, real=scenario.real_signatures)
    if scenario.application == "voting":
        return VotingKit(people, scenario.window_ms)
    return ToyKit(people, scenario.window_ms)


def _state(host: Host) -> str:
    replica: Any = host.replica
    if replica is None:
        return f"{host.endpoint} down"
    return (
        f"{host.endpoint} h{replica.height} v{replica.view} e{replica.members.epoch} "
        f"pending {replica.pending_count}"
        f"{' timed out' if replica.timed_out else ''}{' muted: ' + replica.muted if replica.muted else ''}"
    )
