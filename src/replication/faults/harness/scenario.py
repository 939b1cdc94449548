"""What a drill is: plain, immutable values. `reading` makes them from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar

from replication.errors import OperatorError
from replication.identity.genesis import Rules

__all__ = [
    "Bounds",
    "ClusterPlan",
    "FaultSpec",
    "Group",
    "RandomFaults",
    "Scenario",
    "ScenarioError",
    "WorkloadPlan",
]


class ScenarioError(OperatorError):
    """A scenario does not say what a scenario must say, or cannot be carried out with this cluster."""

    reason: ClassVar[str] = "SCENARIO_INVALID"


class Group(StrEnum):
    """What is at fault: the groups of the catalogue of faults."""

    VOTER = "voter"
    COORDINATOR = "coordinator"
    CATCH_UP = "catch-up"
    NETWORK = "network"
    PROCESS = "process"
    STORAGE = "storage"


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


def _drill_rules() -> Rules:
    return Rules(default_window_ms=0, max_active_proposals=1_000)


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """The cluster of a drill.

    `policy` is that of every voter that `policies` (by member id) does not name: approve, reject, mixed or
    manual. `timing` overrides settings of the nodes' configuration, in milliseconds. `namespaces` gives each
    node a network of its own with real interfaces. Without `record_signatures`, nodes that no fault needs to
    reach into are started with the very command of production, and nothing is known about what they signed.

    """

    nodes: int = 4
    policy: str = "approve"
    policies: Mapping[str, str] = field(default_factory=_nothing)
    timing: Mapping[str, int] = field(default_factory=_nothing)
    rules: Rules = field(default_factory=_drill_rules)
    namespaces: bool = False
    record_signatures: bool = True


@dataclass(frozen=True, slots=True)
class WorkloadPlan:
    """What clients do meanwhile.

    `proposers` propose and wait for the decision, each with a pause of `pause_ms` in between; `readers` read
    from random nodes; members with a manual policy get a voter each. `repeat_share` of the proposals are sent
    again under their request id, `execute_share` of the approved ones are executed. `seconds` is how long the
    phase of faults lasts, or longer until each fault has had its time; `call_seconds` is how long a client
    waits for an answer."""

    seconds: float = 8.0
    proposers: int = 2
    readers: int = 2
    pause_ms: int = 60
    repeat_share: float = 0.1
    execute_share: float = 0.1
    call_seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One fault as the scenario has it.

    `at_seconds` is from the start of the load, at the earliest: it waits until those that were to end before
    are over, nodes that have to start again included. It lasts for `for_seconds`, and on until it has taken
    effect; without, until everything is healed; if it is `permanent`, it is never healed. `until_replaced`
    makes it last on until another member coordinates, for `for_seconds` stretched like `Bounds` at most.
    `targets` are member ids or selectors such as "coordinator"."""

    kind: str
    targets: tuple[str, ...]
    at_seconds: float = 0.0
    for_seconds: float | None = None
    permanent: bool = False
    until_replaced: bool = False
    settings: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Faults drawn from the seed: one of `choices` after a pause in `every_seconds`, for a time in
    `for_seconds`.

    They lie between `from_seconds` and the end of the phase of faults. At most `at_once` are there at a time,
    until the nodes that they hit are back. When the time is up, those of a kind that was seen are left
    out."""

    choices: tuple[FaultSpec, ...]
    every_seconds: tuple[float, float] = (0.5, 2.0)
    for_seconds: tuple[float, float] = (0.5, 2.0)
    from_seconds: float = 1.0
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """What has to hold beyond what always has to.

    After everything is healed, `decisions_after_healing` proposals made after that moment are decided, and
    all nodes have one record, within `recover_seconds`. `decisions` is how many are needed in the whole run.
    `stall_seconds` is the longest time that may pass without a decision before the healing. `view_changes`
    is the least and the highest number of coordinators that may be replaced. `innocent` says that nobody may
    be accused, not even the nodes that were at fault; `accusations` is how many have to be."""

    recover_seconds: float = 20.0
    decisions_after_healing: int = 10
    decisions: int = 1
    stall_seconds: float | None = None
    view_changes: tuple[int, int | None] = (0, None)
    innocent: bool = False
    accusations: int = 0

    def stretched(self, pace: float) -> Bounds:
        """The same bounds on a machine where everything takes so much longer."""
        stall = None if self.stall_seconds is None else self.stall_seconds * pace
        return replace(self, recover_seconds=self.recover_seconds * pace, stall_seconds=stall)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One drill. `text` is the file it was read from, byte for byte what a replay reads again."""

    name: str
    group: Group
    summary: str
    cluster: ClusterPlan = ClusterPlan()
    workload: WorkloadPlan = WorkloadPlan()
    faults: tuple[FaultSpec, ...] = ()
    random: RandomFaults | None = None
    bounds: Bounds = Bounds()
    seed: int = 1
    text: str = field(default="", repr=False, compare=False)

    @property
    def all_faults(self) -> tuple[FaultSpec, ...]:
        """Every fault that may come, planned or drawn."""
        return self.faults + (self.random.choices if self.random else ())
