"""One seed draws every parameter of a simulation; a scenario is what was drawn, and can be printed and
changed."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from replication.consensus.rules import max_byzantine_faults
from replication.ordering.quorum import commit_quorum

__all__ = [
    "ATTACKS",
    "CrashFaults",
    "EpochChange",
    "Faulty",
    "Healing",
    "NetworkFaults",
    "Partition",
    "Scenario",
    "draw",
    "draw_mixed",
    "healing_quorum",
    "towards_disks",
    "towards_views",
]

ATTACKS: Final = (
    "silent", "omit", "delay", "twins", "vote-all", "mutate", "hide-lock", "equivocate", "certificates",
    "short-certificates", "choose-floor", "bad-block", "bad-time", "censor", "storm", "replay", "impersonate",
    "wrong-epoch", "witness", "bad-fetch", "flood", "amnesia", "rollback", "false-evidence", "stall",
    "bad-timeout", "rejoin-storm",
)  # fmt: skip
"""Names of what a faulty member may do; a member does several of them."""

PROTOCOL_ATTACKS: Final = ("vote-all", "hide-lock", "equivocate", "certificates", "choose-floor")
"""What a faulty member does that wants a fork: attacks on the protocol itself, which help each other."""

VOTING_SHARE: Final = 0.05
"""How many scenarios run the real application: it costs more, and most of what is tested here is below it."""

_PARTITIONS: Final = ("halves", "isolate", "one-way", "ring", "bridge", "coordinator", "coordinator")


@dataclass(frozen=True)
class Faulty:
    """A faulty member (by its position) and what it does."""

    position: int
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class NetworkFaults:
    """Delays in microseconds, chances from 0 to 1. `fifo`: links keep their order, as streams do."""

    min_delay_us: int = 100
    max_delay_us: int = 2_000
    slow_chance: float = 0.0
    slow_us: int = 500_000
    drop_chance: float = 0.0
    duplicate_chance: float = 0.0
    fifo: bool = True


@dataclass(frozen=True)
class Partition:
    """Directed pairs of positions that cannot talk for a while. Times in milliseconds from the start."""

    kind: str
    start_ms: int
    end_ms: int
    blocked: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CrashFaults:
    """Chances for each write to disk, and the times that members stay down. `at_once`: the whole cluster at
    a time."""

    chance: float = 0.0
    min_down_ms: int = 5
    max_down_ms: int = 1_500
    all_at_ms: tuple[int, ...] = ()
    pauses: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class EpochChange:
    """At `at_ms`, the members become those at these positions, in this order."""

    at_ms: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Healing:
    """After the faults: a commit quorum out of `quorum` (positions) is whole and well connected, and so are
    those of `returning`. `others`: gone, or connected and active."""

    quorum: tuple[int, ...]
    returning: tuple[int, ...] = ()
    others: str = "gone"
    decisions: int = 10


@dataclass(frozen=True)
class Scenario:
    """Everything about one run. Times in milliseconds unless the name says otherwise.

    `wipes`: (when, whose disk) of correct members, beyond the faulty ones: they must not sign until they
    have rejoined. `restores`: (when a backup is made, when it is put back, whose) of correct members with
    nothing else going on: their peers must keep them from signing.
    """

    seed: int
    members: int
    spares: int = 0
    faulty: tuple[Faulty, ...] = ()
    wiretap: bool = False
    application: str = "toy"
    real_signatures: bool = False
    network: NetworkFaults = field(default_factory=NetworkFaults)
    partitions: tuple[Partition, ...] = ()
    crashes: CrashFaults = field(default_factory=CrashFaults)
    clock_offsets_ms: tuple[int, ...] = ()
    clock_drifts_ppm: tuple[int, ...] = ()
    clock_steps: tuple[tuple[int, int, int], ...] = ()
    sync_us: tuple[int, int] = (200, 2_000)
    batch: int = 8
    commands: int = 20
    window_ms: int = 5_000
    heartbeat_ms: int = 200
    max_backoff: int = 3
    epochs: tuple[EpochChange, ...] = ()
    fault_ms: int = 4_000
    max_events: int = 20_000
    wipes: tuple[tuple[int, int], ...] = ()
    restores: tuple[tuple[int, int, int], ...] = ()
    healing: Healing | None = None

    @property
    def max_faulty(self) -> int:
        """How many faulty members this cluster survives."""
        return max_byzantine_faults(self.members)

    def as_document(self) -> dict[str, Any]:
        """All parameters, for printing."""
        return asdict(self)

    def describe(self) -> str:
        """All parameters that differ from a calm run, in a few lines."""
        calm = Scenario(self.seed, self.members)
        shown = [
            f"{item.name}={getattr(self, item.name)}"
            for item in fields(self)
            if item.name in ("seed", "members") or getattr(self, item.name) != getattr(calm, item.name)
        ]
        return "\n  ".join(["scenario", *shown])


# ------------------------------------------------------------------------------------------ drawing


def draw(seed: int, *, lowest: int = 1, highest: int = 31) -> Scenario:
    """The scenario of a seed, with between `lowest` and `highest` members.

    Half of them are a bit of everything; a third is all about changing views under members that want a fork;
    the rest is about disks: crashes, wipes and restored backups.
    """
    rng = random.Random(f"scenario/{seed}")
    flavour = rng.choices(("mixed", "views", "disks"), (0.5, 0.35, 0.15))[0]
    is_voting = rng.random() < VOTING_SHARE
    scenario = draw_mixed(rng, seed, lowest, highest)
    if is_voting:
        scenario = replace(scenario, application="voting", spares=0, epochs=())
    if flavour == "views":
        return towards_views(rng, scenario)
    if flavour == "disks":
        return towards_disks(rng, scenario)
    return scenario


def draw_mixed(rng: random.Random, seed: int, lowest: int, highest: int) -> Scenario:
    """A bit of everything."""
    members = _draw_members(rng, lowest, highest)
    large = members > 10
    fault_ms = rng.choice((800, 1_500, 3_000)) if not large else 1_000
    spares = rng.choice((0, 0, 0, 1, 2)) if members > 1 and not large else 0
    people = members + spares
    faulty = _draw_faulty(rng, members)
    epochs = _draw_epochs(rng, members, spares, faulty, fault_ms)
    return Scenario(
        seed=seed,
        members=members,
        spares=spares,
        faulty=faulty,
        wiretap=rng.random() < 0.5,
        real_signatures=rng.random() < 0.01 and not large,
        network=_draw_network(rng),
        partitions=_draw_partitions(rng, members, fault_ms, (20, 200, 1_000, 3_000)),
        crashes=_draw_crashes(rng, members, fault_ms),
        clock_offsets_ms=tuple(_draw_offset(rng) for _ in range(people)),
        clock_drifts_ppm=tuple(rng.choice((0, 0, 100, -100, 20_000, -20_000)) for _ in range(people)),
        clock_steps=_draw_steps(rng, members, fault_ms),
        sync_us=rng.choice(((0, 0), (100, 1_000), (500, 20_000))),
        batch=rng.choice((1, 2, 8, 32)),
        commands=rng.choice((3, 8, 20)) if not large else 4,
        window_ms=rng.choice((300, 2_000, 60_000)),
        heartbeat_ms=rng.choice((50, 100, 200)) if not large else 400,
        max_backoff=rng.choice((2, 3, 4)),
        epochs=epochs,
        fault_ms=fault_ms,
        max_events=8_000 if not large else 25_000,
        healing=_draw_healing(rng, members, faulty, epochs),
    )


def towards_views(rng: random.Random, scenario: Scenario) -> Scenario:
    """Many views, partitions and late messages, and all faulty members want a fork."""
    members = scenario.members
    limit = max_byzantine_faults(members)
    chosen = sorted(rng.sample(range(members), limit))
    faulty = tuple(Faulty(position, _draw_protocol_attacks(rng)) for position in chosen)
    fault_ms = 2_000 if members <= 10 else 1_000
    return replace(
        scenario,
        spares=0,
        faulty=faulty,
        wiretap=True,
        network=NetworkFaults(
            min_delay_us=100,
            max_delay_us=rng.choice((1_000, 10_000, 40_000)),
            slow_chance=rng.choice((0.0, 0.05, 0.2)),
            slow_us=rng.choice((100_000, 400_000)),
            drop_chance=rng.choice((0.0, 0.02, 0.1)),
            fifo=rng.random() < 0.3,
        ),
        partitions=_draw_partitions(rng, members, fault_ms, (5, 20, 80, 300), counts=(6, 12, 24)),
        crashes=rng.choice((CrashFaults(), CrashFaults(chance=0.01, max_down_ms=200))),
        clock_steps=(),
        heartbeat_ms=rng.choice((20, 50)) if members <= 10 else 200,
        epochs=(),
        fault_ms=fault_ms,
        healing=_draw_healing(rng, members, faulty, ()),
    )


def towards_disks(rng: random.Random, scenario: Scenario, wanted: str = "") -> Scenario:
    """Crashes at every turn, disks that are wiped, or a coordinator whose backup is put back."""
    members = scenario.members
    kind = wanted or rng.choice(("crashes", "wipes", "restores")) if members > 1 else "crashes"
    if kind == "restores":
        backup = rng.randint(100, 500)
        return replace(
            scenario,
            spares=0,
            faulty=(),
            network=NetworkFaults(),
            partitions=(),
            crashes=CrashFaults(),
            clock_steps=(),
            commands=20,
            epochs=(),
            fault_ms=1_500,
            restores=((backup, backup + rng.randint(50, 700), 0),),
            healing=_draw_healing(rng, members, (), (), {0}) if members != 2 else None,
        )
    crashes = CrashFaults(
        chance=rng.choice((0.02, 0.1, 0.3)),
        max_down_ms=rng.choice((10, 100)),
        all_at_ms=tuple(sorted(rng.randrange(scenario.fault_ms) for _ in range(rng.choice((0, 2, 5))))),
    )
    if kind == "crashes":
        return replace(scenario, crashes=crashes)
    bad = {item.position for item in scenario.faulty}
    correct = [position for position in range(members) if position not in bad]
    chosen = sorted(rng.sample(correct, rng.randint(1, max(1, len(correct) // 2))))
    wipes = tuple((rng.randrange(scenario.fault_ms), position) for position in chosen)
    can_go_on = len(bad) + len(chosen) <= members - commit_quorum(members)
    return replace(
        scenario,
        spares=0,
        epochs=(),
        wipes=wipes,
        crashes=rng.choice((CrashFaults(), crashes)),
        healing=_draw_healing(rng, members, scenario.faulty, (), set(chosen)) if can_go_on else None,
    )


def _draw_members(rng: random.Random, lowest: int, highest: int) -> int:
    """Small clusters mostly: they have all the problems, and cost little."""
    sizes = list(range(lowest, highest + 1))
    weights = [_weight(size) for size in sizes]
    return rng.choices(sizes, weights)[0]


def _weight(size: int) -> float:
    if size == 4:
        return 60.0
    if size in (5, 6, 7):
        return 12.0
    if size < 4:
        return 3.0
    return 1.2 if size <= 10 else 0.12


def _draw_faulty(rng: random.Random, members: int) -> tuple[Faulty, ...]:
    limit = max_byzantine_faults(members)
    count = rng.choice((limit, limit, rng.randint(0, limit))) if rng.random() < 0.8 else 0
    chosen = sorted(rng.sample(range(members), count))
    return tuple(Faulty(position, _draw_attacks(rng)) for position in chosen)


def _draw_attacks(rng: random.Random) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(ATTACKS, rng.choice((1, 2, 3, 5, 8)))))


def _draw_protocol_attacks(rng: random.Random) -> tuple[str, ...]:
    chosen = {attack for attack in PROTOCOL_ATTACKS if rng.random() < 0.8}
    chosen |= {"twins"} if rng.random() < 0.3 else set()
    chosen |= set(rng.sample(ATTACKS, rng.choice((0, 0, 1, 2)))) - {"silent", "amnesia"}
    return tuple(sorted(chosen or {"vote-all"}))


def _draw_network(rng: random.Random) -> NetworkFaults:
    if rng.random() < 0.2:
        return NetworkFaults()
    return NetworkFaults(
        min_delay_us=rng.choice((50, 500, 5_000)),
        max_delay_us=rng.choice((1_000, 10_000, 40_000)) + 5_000,
        slow_chance=rng.choice((0.0, 0.0, 0.02, 0.1)),
        slow_us=rng.choice((100_000, 700_000, 3_000_000)),
        drop_chance=rng.choice((0.0, 0.01, 0.05, 0.2)),
        duplicate_chance=rng.choice((0.0, 0.02, 0.2)),
        fifo=rng.random() < 0.5,
    )


def _draw_partitions(
    rng: random.Random,
    members: int,
    fault_ms: int,
    lengths_ms: tuple[int, ...],
    counts: tuple[int, ...] = (0, 0, 1, 2, 4, 8),
) -> tuple[Partition, ...]:
    if members == 1:
        return ()
    found = []
    for _ in range(rng.choice(counts)):
        start = rng.randrange(fault_ms)
        kind = rng.choice(_PARTITIONS)
        found.append(Partition(kind, start, start + rng.choice(lengths_ms), _blocked(rng, kind, members)))
    return tuple(found)


def _blocked(rng: random.Random, kind: str, members: int) -> tuple[tuple[int, int], ...]:
    """Pairs that cannot talk. For "coordinator" they follow when it is known who that is."""
    everyone = list(range(members))
    pairs = [(a, b) for a in everyone for b in everyone if a != b]
    one = rng.randrange(members)
    if kind == "halves":
        side = {position for position in everyone if rng.random() < 0.5}
        return tuple(pair for pair in pairs if (pair[0] in side) != (pair[1] in side))
    if kind == "isolate":
        return tuple(pair for pair in pairs if one in pair)
    if kind == "coordinator":
        return ()
    if kind == "one-way":
        incoming = rng.random() < 0.5
        return tuple(pair for pair in pairs if pair[incoming] == one)
    if kind == "ring":
        return tuple(pair for pair in pairs if (pair[0] - pair[1]) % members not in (1, members - 1))
    side = {position for position in everyone if position != one and rng.random() < 0.5}
    return tuple(pair for pair in pairs if one not in pair and (pair[0] in side) != (pair[1] in side))


def _draw_crashes(rng: random.Random, members: int, fault_ms: int) -> CrashFaults:
    if rng.random() < 0.4:
        return CrashFaults()
    together = tuple(sorted(rng.randrange(fault_ms) for _ in range(rng.choice((0, 0, 1, 2)))))
    pauses = tuple(
        (rng.randrange(fault_ms), rng.randrange(members), rng.choice((100, 1_000, 3_000)))
        for _ in range(rng.choice((0, 0, 1, 2)))
    )
    return CrashFaults(
        chance=rng.choice((0.0, 0.005, 0.02, 0.08)),
        max_down_ms=rng.choice((10, 300, 2_000)),
        all_at_ms=together,
        pauses=pauses,
    )


def _draw_offset(rng: random.Random) -> int:
    return rng.choice((0, 0, rng.randint(-50, 50), rng.randint(-1_500, 1_500)))


def _draw_steps(rng: random.Random, members: int, fault_ms: int) -> tuple[tuple[int, int, int], ...]:
    """(when, whose clock, by how much)"""
    return tuple(
        (rng.randrange(fault_ms), rng.randrange(members), rng.choice((-1_000, -100, 100, 1_000)))
        for _ in range(rng.choice((0, 0, 0, 1, 3)))
    )


def _draw_epochs(
    rng: random.Random, members: int, spares: int, faulty: tuple[Faulty, ...], fault_ms: int
) -> tuple[EpochChange, ...]:
    """Changes of the member set under which the faulty members stay few enough."""
    bad = {item.position for item in faulty}
    current = list(range(members))
    changes = []
    for _ in range(rng.choice((0, 0, 0, 1, 2)) if members > 1 else 0):
        proposed = list(current)
        outside = [position for position in range(members + spares) if position not in current]
        action = rng.choice(("shuffle", "add", "remove", "swap"))
        if action in ("add", "swap") and outside:
            proposed.insert(rng.randrange(len(proposed) + 1), rng.choice(outside))
        if action in ("remove", "swap") and len(proposed) > 2:
            proposed.remove(rng.choice(current))
        if action == "shuffle":
            rng.shuffle(proposed)
        if len(bad & set(proposed)) > max_byzantine_faults(len(proposed)):
            continue
        current = proposed
        changes.append((rng.randrange(fault_ms), tuple(current)))
    times = sorted(at for at, _ in changes)
    return tuple(EpochChange(at, now) for at, (_, now) in zip(times, changes, strict=True))


def _draw_healing(
    rng: random.Random,
    members: int,
    faulty: tuple[Faulty, ...],
    epochs: tuple[EpochChange, ...],
    returning: set[int] | None = None,
) -> Healing:
    """Whom to heal is drawn now; the quorum is cut from it for the epoch that is reached then.

    Members whose disks were lost or rolled back are healed beside the quorum: they cannot be part of it, but
    they must find their way back.
    """
    bad = {item.position for item in faulty} | (returning or set())
    last = max((max(change.positions) for change in epochs), default=members - 1)
    correct = [position for position in range(max(members, last + 1)) if position not in bad]
    rng.shuffle(correct)
    others = rng.choice(("gone", "gone", "active")) if members <= 10 else "gone"
    return Healing(tuple(correct), tuple(sorted(returning or ())), others)


def healing_quorum(healing: Healing, positions: tuple[int, ...]) -> tuple[int, ...]:
    """The members that are healed when the members are those at `positions`: exactly a commit quorum of
    them."""
    quorum = commit_quorum(len(positions))
    return tuple(position for position in healing.quorum if position in positions)[:quorum]
