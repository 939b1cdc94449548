"""The simulated network: delay, loss, duplication, reordering, partitions and resets, for each directed
link."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from replication.faults.simulation.engine import Engine
from replication.faults.simulation.scenario import NetworkFaults
from replication.ordering.messages import Message

__all__ = ["Network"]


@dataclass
class Network:
    """Carries messages between endpoints. A member has one endpoint; one with a twin has two.

    `routes` says to which endpoints of a member what comes from an endpoint goes. `calm` names the members
    among whom the network is healed.
    """

    engine: Engine
    rng: random.Random
    faults: NetworkFaults
    endpoints: Mapping[str, tuple[str, ...]]
    deliver: Callable[[str, str, Message], None]
    lost: Callable[[str, str], None]
    owner: dict[str, str] = field(init=False)
    blocked: set[tuple[str, str]] = field(default_factory=set)
    calm: frozenset[str] = frozenset()
    alone: bool = False
    _last_us: dict[tuple[str, str], int] = field(default_factory=dict)
    sides: dict[tuple[str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner = {end: member for member, ends in self.endpoints.items() for end in ends}

    def send(self, source: str, member: str, message: Message) -> None:
        """Send from an endpoint to a member."""
        sender = self.owner[source]
        for target in self.endpoints.get(member, ()):
            if target != source and self._is_connected(source, target):
                self._carry(source, sender, target, member, message)

    def can_talk(self, source: str, target: str) -> bool:
        """Whether two members can reach each other now, in this direction."""
        if self.calm:
            if source in self.calm and target in self.calm:
                return True
            if self.alone:
                return False
        return (source, target) not in self.blocked

    def delay_us(self, sender: str, member: str) -> int | None:
        """How long something takes now; None when it is lost."""
        if not self.can_talk(sender, member):
            self.engine.fired["network: partition"] += 1
            return None
        faults, rng = self.faults, self.rng
        if sender in self.calm and member in self.calm:
            return rng.randint(100, 2_000)
        if faults.drop_chance and rng.random() < faults.drop_chance:
            self.engine.fired["network: drop"] += 1
            return None
        delay = rng.randint(faults.min_delay_us, faults.max_delay_us)
        if faults.slow_chance and rng.random() < faults.slow_chance:
            self.engine.fired["network: slow"] += 1
            delay += rng.randrange(faults.slow_us)
        return delay

    def _is_connected(self, source: str, target: str) -> bool:
        """A twin talks with those on its side only."""
        return self.sides.get((source, target), True)

    def _carry(self, source: str, sender: str, target: str, member: str, message: Message) -> None:
        delay = self.delay_us(sender, member)
        if delay is None:
            self.lost(sender, member)
            return
        engine, faults = self.engine, self.faults
        arrival = engine.now_us + delay
        if faults.fifo or sender in self.calm:
            link = (source, target)
            arrival = max(arrival, self._last_us.get(link, 0))
            self._last_us[link] = arrival
        elif delay > faults.max_delay_us:
            engine.fired["network: reorder"] += 1
        engine.after(arrival - engine.now_us, self.deliver, sender, target, message)
        if faults.duplicate_chance and not self.calm and self.rng.random() < faults.duplicate_chance:
            engine.fired["network: duplicate"] += 1
            engine.after(arrival - engine.now_us + delay, self.deliver, sender, target, message)
