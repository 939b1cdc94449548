"""Families of scenarios: each seed again draws everything, but of one kind.

A fault that is drawn once in a hundred seeds is looked for in a family where it is drawn each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from replication.consensus.rules import max_byzantine_faults
from replication.faults.simulation.scenario import (
    CrashFaults,
    Faulty,
    Healing,
    NetworkFaults,
    Scenario,
    draw_mixed,
    towards_disks,
    towards_views,
)

__all__ = ["FAMILIES"]

Family = Callable[[int], Scenario]


def _drawn(seed: int, name: str, lowest: int = 4, highest: int = 7) -> tuple[random.Random, Scenario]:
    rng = random.Random(f"family/{name}/{seed}")
    return rng, draw_mixed(rng, seed, lowest, highest)


def _views(seed: int) -> Scenario:
    """Many views, and faulty members that want a fork."""
    rng, scenario = _drawn(seed, "views", 4, 4)
    return towards_views(rng, scenario)


def _quorums(seed: int) -> Scenario:
    """The same where 2f + 1 is not a safe quorum, with the network in two halves."""
    rng, scenario = _drawn(seed, "quorums", 5, 9)
    members = rng.choice((5, 6, 8, 9))
    rng, scenario = _drawn(seed, "quorums", members, members)
    return towards_views(rng, scenario)


def _forgers(seed: int) -> Scenario:
    """Faulty members that forge, one of them the first coordinator."""
    rng, scenario = _drawn(seed, "forgers", 4, 5)
    chosen = ("short-certificates", "impersonate", "mutate", "bad-timeout", "replay", "witness")
    attacks = tuple(sorted({"short-certificates", *rng.sample(chosen, rng.randint(1, 4))}))
    changed = towards_views(rng, scenario)
    position = rng.choice((0, 0, 1, 2))
    return replace(changed, faulty=(Faulty(position, attacks),), healing=_without(rng, changed, position))


def _neighbours(seed: int) -> Scenario:
    """A faulty member that has what all of them signed in another cluster."""
    rng, scenario = _drawn(seed, "neighbours", 4, 4)
    position = rng.randrange(4)
    healing = _without(rng, scenario, position)
    return replace(scenario, faulty=(Faulty(position, ("other-cluster",)),), healing=healing)


def _liars(seed: int) -> Scenario:
    """A first coordinator whose blocks lie."""
    return _faulty_coordinator(seed, "liars", ("bad-block", "certificates", "vote-all"))


def _clocks(seed: int) -> Scenario:
    """A first coordinator whose blocks come from the future and the past."""
    return _faulty_coordinator(seed, "clocks", ("bad-time", "certificates", "vote-all"))


def _censors(seed: int) -> Scenario:
    """A first coordinator that leaves out whom it likes, and goes on doing so after the faults."""
    scenario = _faulty_coordinator(seed, "censors", ("censor",))
    healing = scenario.healing
    return replace(scenario, healing=None if healing is None else replace(healing, others="active"))


def _epochs(seed: int) -> Scenario:
    """Changes of the member set, and statements for other epochs."""
    rng, scenario = _drawn(seed, "epochs")
    while not scenario.epochs:
        rng, scenario = _drawn(seed, f"epochs/{rng.random()}")
    faulty = tuple(replace(item, attacks=("vote-all", "wrong-epoch")) for item in scenario.faulty)
    return replace(scenario, faulty=faulty)


def _epoch_crashes(seed: int) -> Scenario:
    """Changes of the member set, and crashes at every turn."""
    scenario = _epochs(seed)
    return replace(scenario, faulty=(), crashes=CrashFaults(chance=0.3, max_down_ms=20))


def _storms(seed: int) -> Scenario:
    """Faulty members complain about everyone, and are gone when the rest has to go on."""
    rng, scenario = _drawn(seed, "storms", 4, 4)
    position = rng.randrange(4)
    changed = towards_views(rng, scenario)
    healing = replace(_without(rng, scenario, position), others="gone")
    return replace(changed, faulty=(Faulty(position, ("storm",)),), healing=healing)


def _disks(kind: str) -> Family:
    def family(seed: int) -> Scenario:
        rng, scenario = _drawn(seed, f"disks/{kind}")
        return towards_disks(rng, scenario, kind)

    return family


def _lossy(seed: int) -> Scenario:
    """A network that loses much, and no faulty member."""
    rng, scenario = _drawn(seed, "lossy")
    network = NetworkFaults(
        max_delay_us=20_000, drop_chance=rng.choice((0.1, 0.3)), slow_chance=0.1, slow_us=400_000
    )
    return replace(towards_views(rng, scenario), faulty=(), network=network, healing=_without(rng, scenario))


def _mixed(seed: int) -> Scenario:
    """A bit of everything."""
    return _drawn(seed, "mixed")[1]


def _beyond(seed: int) -> Scenario:
    """More than f members have twins and vote for everything: then the cluster must fork, or the checkers
    are blind."""
    rng, scenario = _drawn(seed, "beyond", 4, 4)
    changed = towards_views(rng, scenario)
    attacks = ("certificates", "equivocate", "hide-lock", "choose-floor", "twins", "vote-all")
    chosen = sorted({0, *rng.sample(range(1, 4), 1)})
    faulty = tuple(Faulty(position, tuple(sorted(attacks))) for position in chosen)
    return replace(changed, faulty=faulty, healing=None)


def _faulty_coordinator(seed: int, name: str, attacks: tuple[str, ...]) -> Scenario:
    rng, scenario = _drawn(seed, name)
    count = rng.randint(1, max_byzantine_faults(scenario.members))
    others = rng.sample(range(1, scenario.members), count - 1)
    faulty = tuple(Faulty(position, attacks) for position in sorted({0, *others}))
    return replace(scenario, faulty=faulty, spares=0, epochs=(), healing=_without(rng, scenario, 0, *others))


def _without(rng: random.Random, scenario: Scenario, *faulty: int) -> Healing:
    correct = [position for position in range(scenario.members) if position not in faulty]
    rng.shuffle(correct)
    return Healing(tuple(correct), others=rng.choice(("gone", "active")))


FAMILIES: Final[dict[str, Family]] = {
    "views": _views,
    "quorums": _quorums,
    "forgers": _forgers,
    "neighbours": _neighbours,
    "liars": _liars,
    "clocks": _clocks,
    "censors": _censors,
    "epochs": _epochs,
    "epoch-crashes": _epoch_crashes,
    "crashes": _disks("crashes"),
    "wipes": _disks("wipes"),
    "restores": _disks("restores"),
    "lossy": _lossy,
    "storms": _storms,
    "mixed": _mixed,
    "beyond": _beyond,
}
