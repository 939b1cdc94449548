"""Scenario files: TOML, read strictly, so that a drill never tests less than it seems to say.

    name = "kill-coordinator"
    group = "coordinator"
    summary = "The coordinator is killed under load; another takes over, and nothing acknowledged is lost."

    [cluster]                       # see scenario.ClusterPlan
    nodes = 4
    timing = { idle_timeout_ms = 400 }

    [workload]                      # see scenario.WorkloadPlan
    seconds = 8

    [[faults]]                      # any number; `acp faults list --kinds` has the kinds and their settings
    kind = "kill"
    target = "coordinator"          # or a list
    at_seconds = 2
    for_seconds = 3
    until_replaced = true           # see scenario.FaultSpec

    [random]                        # see scenario.RandomFaults
    every_seconds = [0.5, 1.5]
    [[random.faults]]               # as above, without times
    kind = "pause"

    [bounds]                        # see scenario.Bounds
    recover_seconds = 15

Unknown keys, values of the wrong type or out of range, unknown kinds and members that do not exist are
refused, each with its place in the file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from replication.faults.harness.catalogue import KINDS
from replication.faults.harness.fault import Kind, Need
from replication.faults.harness.scenario import (
    Bounds,
    ClusterPlan,
    FaultSpec,
    Group,
    RandomFaults,
    Scenario,
    ScenarioError,
    WorkloadPlan,
)
from replication.faults.harness.selectors import problem_with_target
from replication.faults.harness.settings import (
    REQUIRED,
    Choice,
    Flag,
    Number,
    Setting,
    Text,
    Whole,
    did_you_mean,
    read_settings,
)
from replication.identity.genesis import Rules
from replication.node.config import TIMING_RANGES
from replication.node.toml_text import TomlError, parse_toml

__all__ = ["MAX_NODES", "parse_scenario", "read_scenario", "with_nodes"]

MAX_SCENARIO_BYTES: Final = 256 * 1024
MAX_NODES: Final = 31
"""A drill runs all nodes on one machine."""

MAX_SECONDS: Final = 24 * 3600.0
POLICIES: Final = ("approve", "reject", "mixed", "manual")

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TOP: Final = ("name", "group", "summary", "seed", "cluster", "workload", "faults", "random", "bounds")

_CLUSTER: Final[Mapping[str, Setting]] = {
    "nodes": Whole(4, 1, MAX_NODES),
    "policy": Choice("approve", POLICIES),
    "namespaces": Flag(False),
    "record_signatures": Flag(True),
}
_RULES: Final[Mapping[str, Setting]] = {
    "quorum_fraction": Text("1/2"),
    "majority_threshold": Text("1/2"),
    "supermajority_threshold": Text("2/3"),
    "default_window_ms": Whole(0, 0, 2**40),
    "default_expiry_ms": Whole(0, 0, 2**40),
    "allow_vote_change": Flag(False),
    "max_active_proposals": Whole(1_000, 1, 100_000),
}
_WORKLOAD: Final[Mapping[str, Setting]] = {
    "seconds": Number(8.0, 0.1, MAX_SECONDS),
    "proposers": Whole(2, 1, 64),
    "readers": Whole(2, 0, 64),
    "pause_ms": Whole(60, 0, 60_000),
    "repeat_share": Number(0.1, 0.0, 1.0),
    "execute_share": Number(0.1, 0.0, 1.0),
    "call_seconds": Number(6.0, 0.1, 600.0),
}
_BOUNDS: Final[Mapping[str, Setting]] = {
    "recover_seconds": Number(20.0, 0.1, MAX_SECONDS),
    "decisions_after_healing": Whole(10, 0, 1_000_000),
    "decisions": Whole(1, 0, 1_000_000),
    "innocent": Flag(False),
    "accusations": Whole(0, 0, 100),
}
_WHEN: Final[Mapping[str, Setting]] = {
    "at_seconds": Number(0.0, 0.0, MAX_SECONDS),
    "for_seconds": Number(None, 0.01, MAX_SECONDS),
    "permanent": Flag(False),
    "until_replaced": Flag(False),
}
_RANDOM: Final[Mapping[str, Setting]] = {
    "from_seconds": Number(1.0, 0.0, MAX_SECONDS),
    "at_once": Whole(1, 1, MAX_NODES),
}


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ScenarioError: it cannot be read, is not TOML, or holds anything that is not legal.

    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SCENARIO_BYTES + 1)
    except OSError as error:
        raise ScenarioError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    if len(raw) > MAX_SCENARIO_BYTES:
        raise ScenarioError(f"{path} is larger than {MAX_SCENARIO_BYTES} bytes and cannot be a scenario")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path} is not UTF-8 text (byte {error.start})") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, origin: str) -> Scenario:
    """The scenario that `text` describes; `origin` names it in errors. Raises `ScenarioError`."""
    try:
        data = parse_toml(text)
    except TomlError as error:
        raise ScenarioError(f"{origin} is not valid TOML: {error}") from error
    _require_known(data, _TOP, origin)
    top = read_settings(
        {key: data[key] for key in ("name", "group", "summary", "seed") if key in data},
        {
            "name": Text(),
            "group": Choice(REQUIRED, tuple(Group)),
            "summary": Text(),
            "seed": Whole(1, 0, 2**63),
        },
        origin,
    )
    if _NAME.fullmatch(top["name"]) is None:
        raise ScenarioError(
            f"{origin}.name = {top['name']!r:.80} is not legal: use a-z, 0-9 and single hyphens"
        )
    workload = WorkloadPlan(
        **read_settings(_table(data, "workload", origin), _WORKLOAD, f"{origin}: workload")
    )
    scenario = Scenario(
        name=top["name"],
        group=Group(top["group"]),
        summary=" ".join(top["summary"].split()),
        cluster=_cluster(data, origin),
        workload=workload,
        faults=tuple(
            _fault(item, f"{origin}: faults[{index}]") for index, item in _tables(data, "faults", origin)
        ),
        random=_random(data, origin),
        bounds=_bounds(data, origin),
        seed=top["seed"],
        text=text,
    )
    _require_sense(scenario, origin)
    return scenario


def with_nodes(scenario: Scenario, nodes: int) -> Scenario:
    """The same scenario on a cluster of another size. Raises `ScenarioError` if that makes no sense."""
    if not 1 <= nodes <= MAX_NODES:
        raise ScenarioError(f"A drill with {nodes} nodes is not possible. Choose 1 to {MAX_NODES}.")
    changed = replace(scenario, cluster=replace(scenario.cluster, nodes=nodes))
    _require_sense(changed, scenario.name)
    return changed


def _cluster(data: Mapping[str, Any], origin: str) -> ClusterPlan:
    place = f"{origin}: cluster"
    table = _table(data, "cluster", origin)
    plain = read_settings(table, _CLUSTER, place, also=("policies", "timing", "rules"))
    policies = {member: Choice(REQUIRED, POLICIES) for member in _table(table, "policies", place)}
    timing = {name: Whole(None, low, high) for name, (low, high) in TIMING_RANGES.items()}
    chosen = read_settings(_table(table, "timing", place), timing, f"{place}.timing")
    rules = read_settings(_table(table, "rules", place), _RULES, f"{place}.rules")
    return ClusterPlan(
        **plain,
        policies=read_settings(_table(table, "policies", place), policies, f"{place}.policies"),
        timing={name: value for name, value in chosen.items() if value is not None},
        rules=_rules(rules, f"{place}.rules"),
    )


def _rules(values: dict[str, Any], place: str) -> Rules:
    try:
        for name in ("quorum_fraction", "majority_threshold", "supermajority_threshold"):
            values[name] = Fraction(values[name])
        return Rules(**values)
    except (ValueError, ZeroDivisionError) as error:
        raise ScenarioError(f'{place}: {error}; write shares as "2/3" or "0.5"') from error


def _fault(table: Mapping[str, Any], place: str, *, drawn: bool = False) -> FaultSpec:
    kind = _kind(table, place)
    when = {} if drawn else _WHEN
    values = read_settings(table, {**when, **kind.settings}, place, also=("kind", "target"))
    target = table.get("target", kind.default_target)
    targets = tuple(target) if isinstance(target, list) else (target,)
    if not targets or not all(isinstance(item, str) for item in targets):
        raise ScenarioError(
            f"{place}.target = {target!r:.80} is not legal: it must be a word or a list of words"
        )
    spec = FaultSpec(
        kind=kind.name,
        targets=targets,
        at_seconds=values.pop("at_seconds", 0.0),
        for_seconds=values.pop("for_seconds", None),
        permanent=values.pop("permanent", False),
        until_replaced=values.pop("until_replaced", False),
        settings=values,
    )
    if kind.instant and (spec.for_seconds is not None or spec.permanent):
        raise ScenarioError(f"{place}: {kind.name} is over at once; remove for_seconds and permanent")
    if spec.permanent and spec.for_seconds is not None:
        raise ScenarioError(f"{place}: a fault is either permanent or ends after for_seconds")
    if spec.until_replaced and spec.for_seconds is None:
        raise ScenarioError(f"{place}: until_replaced needs for_seconds, how long it lasts at least")
    return spec


def _kind(table: Mapping[str, Any], place: str) -> Kind:
    name = table.get("kind")
    if name is None:
        raise ScenarioError(f"{place}.kind is missing; it must be given")
    if not isinstance(name, str) or name not in KINDS:
        raise ScenarioError(
            f"{place}.kind = {name!r:.60} is not a kind of fault; {did_you_mean(str(name), KINDS)}"
        )
    return KINDS[name]


def _random(data: Mapping[str, Any], origin: str) -> RandomFaults | None:
    if "random" not in data:
        return None
    place = f"{origin}: random"
    table = _table(data, "random", origin)
    values = read_settings(table, _RANDOM, place, also=("every_seconds", "for_seconds", "faults"))
    choices = tuple(
        _fault(item, f"{place}.faults[{index}]", drawn=True)
        for index, item in _tables(table, "faults", place)
    )
    if not choices:
        raise ScenarioError(f"{place}.faults is missing: there is nothing to draw from")
    return RandomFaults(
        choices=choices,
        every_seconds=_range(table, "every_seconds", (0.5, 2.0), place),
        for_seconds=_range(table, "for_seconds", (0.5, 2.0), place),
        **values,
    )


def _bounds(data: Mapping[str, Any], origin: str) -> Bounds:
    place = f"{origin}: bounds"
    table = _table(data, "bounds", origin)
    values = read_settings(table, _BOUNDS, place, also=("view_changes", "stall_seconds"))
    stall = read_settings(
        {key: value for key, value in table.items() if key == "stall_seconds"},
        {"stall_seconds": Number(None, 0.1, MAX_SECONDS)},
        place,
    )
    changes = table.get("view_changes", [0])
    place = f"{place}.view_changes = {changes!r:.80}"
    if (
        not isinstance(changes, list)
        or len(changes) not in (1, 2)
        or not all(type(it) is int for it in changes)
    ):
        raise ScenarioError(f"{place} is not legal: write [least] or [least, most]")
    most = changes[1] if len(changes) == 2 else None
    if changes[0] < 0 or (most is not None and most < changes[0]):
        raise ScenarioError(f"{place} is not legal: no number lies between these")
    return Bounds(**values, **stall, view_changes=(changes[0], most))


def _range(
    table: Mapping[str, Any], key: str, default: tuple[float, float], place: str
) -> tuple[float, float]:
    value = table.get(key, list(default))
    one = Number(REQUIRED, 0.01, MAX_SECONDS)
    try:
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError("it must be [shortest, longest]")
        low, high = one.read(value[0]), one.read(value[1])
        if low > high:
            raise ValueError("the shortest comes first")
    except ValueError as error:
        raise ScenarioError(f"{place}.{key} = {value!r:.80} is not legal: {error}") from None
    return low, high


def _require_sense(scenario: Scenario, origin: str) -> None:
    """Refuse what is legal in each part, and not together."""
    nodes = scenario.cluster.nodes
    for member in scenario.cluster.policies:
        if (problem := problem_with_target(member, nodes)) is not None or not member.startswith("node-"):
            raise ScenarioError(f"{origin}: cluster.policies.{member}: {problem or 'it must be a member'}")
    if not scenario.all_faults:
        raise ScenarioError(f"{origin}: there are no faults; a drill without any proves nothing")
    for fault in scenario.all_faults:
        for target in fault.targets:
            if (problem := problem_with_target(target, nodes)) is not None:
                raise ScenarioError(f"{origin}: fault {fault.kind}: target {target!r:.60}: {problem}")
        _require_network(fault, scenario, origin)
    for fault in scenario.faults:
        end = fault.at_seconds + (fault.for_seconds or 0.0)
        if end > scenario.workload.seconds:
            raise ScenarioError(
                f"{origin}: fault {fault.kind} ends {end:g} s after the start, but workload.seconds is "
                f"{scenario.workload.seconds:g}; faults have to fit in"
            )
    if scenario.random is not None and scenario.random.from_seconds >= scenario.workload.seconds:
        raise ScenarioError(f"{origin}: random.from_seconds is not before workload.seconds")


def _require_network(fault: FaultSpec, scenario: Scenario, origin: str) -> None:
    needs = KINDS[fault.kind].needs
    if Need.NAMESPACES in needs and not scenario.cluster.namespaces:
        raise ScenarioError(
            f"{origin}: fault {fault.kind} works on real interfaces; set cluster.namespaces = true"
        )
    if Need.LINKS in needs and scenario.cluster.namespaces:
        raise ScenarioError(
            f"{origin}: fault {fault.kind} works on proxies, which a cluster with namespaces does not have"
        )


def _table(data: Mapping[str, Any], key: str, origin: str) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise ScenarioError(f"{origin}: {key} must be a table, [{key}]")
    return value


def _tables(data: Mapping[str, Any], key: str, origin: str) -> list[tuple[int, Mapping[str, Any]]]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ScenarioError(f"{origin}: {key} must be a list of tables, [[{key}]]")
    return list(enumerate(value, 1))


def _require_known(data: Mapping[str, Any], known: Collection[str], place: str) -> None:
    for key in data:
        if key not in known:
            raise ScenarioError(f"{place}: unknown key {key!r:.60}; {did_you_mean(key, known)}")
