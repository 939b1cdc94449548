"""Scenario files: what a good one says, and that nothing wrong in one is passed over."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from replication.errors import OperatorError
from replication.faults.harness.catalogue import FAULTS, KINDS
from replication.faults.harness.reading import parse_scenario, read_scenario, with_nodes
from replication.faults.harness.scenario import Bounds, FaultSpec, Group, ScenarioError, WorkloadPlan
from replication.faults.harness.scenario_files import find_library, find_scenario, load_library
from replication.faults.harness.selectors import SELECTORS

HEAD = 'name = "a-drill"\ngroup = "process"\nsummary = "What it shows."\n'
KILL = '[[faults]]\nkind = "kill"\n'
FULL = (
    HEAD
    + """
seed = 7

[cluster]
nodes = 7
policy = "mixed"
policies = { node-2 = "manual" }
timing = { idle_timeout_ms = 400 }
rules = { quorum_fraction = "2/3", max_active_proposals = 50 }

[workload]
seconds = 12
proposers = 3
pause_ms = 0

[[faults]]
kind = "kill"
target = ["coordinator", "node-7"]
at_seconds = 2
for_seconds = 3.5

[[faults]]
kind = "partition"
shape = "ring"
at_seconds = 6
permanent = true

[random]
from_seconds = 2
every_seconds = [0.5, 1]
for_seconds = [1, 2]
at_once = 2

[[random.faults]]
kind = "pause"
target = "minority"

[bounds]
recover_seconds = 9
decisions_after_healing = 3
stall_seconds = 2.5
view_changes = [1, 4]
innocent = true
"""
)


def test_everything_that_a_file_can_say() -> None:
    scenario = parse_scenario(FULL, "file")
    assert (scenario.name, scenario.group, scenario.seed) == ("a-drill", Group.PROCESS, 7)
    assert (scenario.cluster.nodes, scenario.cluster.policy) == (7, "mixed")
    assert dict(scenario.cluster.policies) == {"node-2": "manual"}
    assert dict(scenario.cluster.timing) == {"idle_timeout_ms": 400}
    assert scenario.cluster.rules.quorum_fraction == Fraction(2, 3)
    assert scenario.cluster.rules.max_active_proposals == 50
    assert scenario.workload == WorkloadPlan(seconds=12.0, proposers=3, pause_ms=0)
    kill, partition = scenario.faults
    assert kill == FaultSpec("kill", ("coordinator", "node-7"), 2.0, 3.5, settings={})
    assert (partition.targets, partition.permanent) == (("random",), True)
    assert dict(partition.settings) == {"shape": "ring", "direction": "both", "how": "stall"}
    assert scenario.random is not None
    assert (scenario.random.every_seconds, scenario.random.at_once) == ((0.5, 1.0), 2)
    assert scenario.random.choices == (FaultSpec("pause", ("minority",), settings={}),)
    assert scenario.bounds == Bounds(9.0, 3, 1, 2.5, (1, 4), True)
    assert scenario.text == FULL


def test_little_needs_to_be_said() -> None:
    scenario = parse_scenario(HEAD + KILL, "file")
    assert scenario.cluster.nodes == 4
    assert scenario.cluster.rules.default_window_ms == 0
    assert scenario.bounds == Bounds()
    assert scenario.random is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is not valid TOML"),
        (KILL, "name is missing"),
        (HEAD, "there are no faults"),
        (HEAD.replace("a-drill", "A Drill") + KILL, "name = 'A Drill' is not legal"),
        (HEAD.replace("process", "weather") + KILL, "group = 'weather' is not legal"),
        (HEAD + "speed = 1\n" + KILL, "unknown key 'speed'; did you mean 'seed'?"),
        (HEAD + '[cluster]\nnodes = "four"\n' + KILL, "cluster.nodes = 'four' is not legal"),
        (HEAD + "[cluster]\nnodes = 0\n" + KILL, "whole number from 1 to 31"),
        (HEAD + "[cluster]\nnodes = true\n" + KILL, "cluster.nodes = True is not legal"),
        (HEAD + '[cluster]\npolicy = "yes"\n' + KILL, "must be one of approve, reject, mixed, manual"),
        (HEAD + '[cluster]\npolicies = { node-9 = "manual" }\n' + KILL, "node-9: the cluster has 4 members"),
        (HEAD + '[cluster]\npolicies = { all = "manual" }\n' + KILL, "policies.all: it must be a member"),
        (
            HEAD + "[cluster]\ntiming = { idle_timeout = 5 }\n" + KILL,
            "unknown key 'idle_timeout'; did you mean",
        ),
        (HEAD + "[cluster]\ntiming = { idle_timeout_ms = 1 }\n" + KILL, "idle_timeout_ms = 1 is not legal"),
        (HEAD + '[cluster]\nrules = { quorum_fraction = "2/0" }\n' + KILL, "cluster.rules"),
        (HEAD + '[cluster]\nrules = { quorum_fraction = "7/2" }\n' + KILL, "quorum_fraction must be"),
        (HEAD + "cluster = 5\n" + KILL, "cluster must be a table"),
        (HEAD + "[workload]\nseconds = -1\n" + KILL, "workload.seconds = -1 is not legal"),
        (HEAD + "[workload]\nrepeat_share = 2\n" + KILL, "it must be a number from 0 to 1"),
        (HEAD + "faults = 3\n", "faults must be a list of tables"),
        (HEAD + "[[faults]]\nat_seconds = 1\n", "faults[1].kind is missing"),
        (HEAD + '[[faults]]\nkind = "kil"\n', "is not a kind of fault; did you mean 'kill'?"),
        (HEAD + KILL + 'target = "node-5"\n', "target 'node-5': the cluster has 4 members"),
        (HEAD + KILL + 'target = "leader"\n', "it must be a member such as node-1, or one of"),
        (HEAD + KILL + "target = 3\n", "target = 3 is not legal"),
        (HEAD + KILL + "shape = 3\n", "faults[1]: unknown key 'shape'"),
        (HEAD + KILL + "at_seconds = 7\nfor_seconds = 2\n", "ends 9 s after the start"),
        (HEAD + KILL + "permanent = true\nfor_seconds = 2\n", "either permanent or ends"),
        (HEAD + KILL + "until_replaced = true\n", "until_replaced needs for_seconds"),
        (HEAD + '[[faults]]\nkind = "start-twice"\nfor_seconds = 2\n', "is over at once"),
        (HEAD + '[[faults]]\nkind = "partition"\nshape = "star"\n', "shape = 'star' is not legal"),
        (HEAD + '[[faults]]\nkind = "silent"\nmessages = ["vote"]\n', "'vote' is not among"),
        (HEAD + '[[faults]]\nkind = "silent"\nmessages = []\n', "a list of words that is not empty"),
        (HEAD + '[[faults]]\nkind = "censor"\n', "faults[1].authors is missing"),
        (HEAD + '[[faults]]\nkind = "cable"\n', "set cluster.namespaces = true"),
        (HEAD + '[cluster]\nnamespaces = true\n[[faults]]\nkind = "delay"\n', "works on proxies"),
        (HEAD + "[random]\nat_once = 1\n", "random.faults is missing"),
        (HEAD + '[random]\n[[random.faults]]\nkind = "kill"\nat_seconds = 2\n', "unknown key 'at_seconds'"),
        (
            HEAD + '[random]\nfrom_seconds = 99\n[[random.faults]]\nkind = "kill"\n',
            "not before workload.seconds",
        ),
        (
            HEAD + '[random]\nevery_seconds = [3, 1]\n[[random.faults]]\nkind = "kill"\n',
            "the shortest comes first",
        ),
        (HEAD + '[random]\nfor_seconds = 3\n[[random.faults]]\nkind = "kill"\n', "[shortest, longest]"),
        (HEAD + KILL + "[bounds]\nview_changes = [3, 1]\n", "no number lies between these"),
        (HEAD + KILL + "[bounds]\nview_changes = 3\n", "write [least] or [least, most]"),
        (HEAD + KILL + "[bounds]\nstall_seconds = 0\n", "stall_seconds = 0 is not legal"),
        (HEAD + KILL + "[bounds]\nrecover = 5\n", "unknown key 'recover'; did you mean 'recover_seconds'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(text, "file")
    assert words in str(refused.value)
    assert str(refused.value).startswith("file")


def test_files_that_cannot_be_scenarios(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_scenario(tmp_path / "nothing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="is not UTF-8"):
        read_scenario(tmp_path / "bytes.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * 300_000)
    with pytest.raises(ScenarioError, match="is larger than"):
        read_scenario(tmp_path / "large.toml")


def test_another_number_of_nodes_has_to_make_sense() -> None:
    scenario = parse_scenario(HEAD + KILL + 'target = "node-4"\n', "file")
    assert with_nodes(scenario, 7).cluster.nodes == 7
    with pytest.raises(ScenarioError, match="target 'node-4'"):
        with_nodes(scenario, 3)
    with pytest.raises(ScenarioError, match="Choose 1 to 31"):
        with_nodes(scenario, 32)


# ---------------------------------------------------------------------------------------------- the library


def test_every_ready_scenario_is_one() -> None:
    scenarios = load_library(find_library())
    assert len({scenario.name for scenario in scenarios}) == len(scenarios) > 20
    assert all(len(scenario.summary) > 40 for scenario in scenarios)


def test_the_library_covers_every_group_of_faults() -> None:
    assert {scenario.group for scenario in load_library(find_library())} == set(Group)


def test_the_library_uses_nearly_every_kind_of_fault() -> None:
    used = {fault.kind for scenario in load_library(find_library()) for fault in scenario.all_faults}
    # Not reliable enough for a verdict (what a process does without memory), or not on every kernel (netem).
    assert set(KINDS) - used <= {"little-memory", "packets"}


def test_the_library_runs_in_the_time_it_is_meant_to() -> None:
    """Every scenario runs on every change: ten minutes of load, of the forty that a change may take."""
    assert sum(scenario.workload.seconds for scenario in load_library(find_library())) <= 600


def test_a_scenario_is_found_by_name_and_by_file() -> None:
    library = find_library()
    found = find_scenario("coordinator-killed")
    assert found == find_scenario(str(library / "coordinator-killed.toml"))
    with pytest.raises(OperatorError, match="did you mean 'coordinator-killed'"):
        find_scenario("coordinator-kiled")


def test_a_file_must_have_the_name_of_its_scenario(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(HEAD + KILL)
    with pytest.raises(ScenarioError, match="but the file is called other"):
        load_library(tmp_path)
    with pytest.raises(OperatorError, match="is not a folder"):
        find_library(tmp_path / "nowhere")


def test_every_kind_is_described_and_has_a_class_of_its_own() -> None:
    assert len(set(FAULTS.values())) == len(FAULTS) > 30
    for name, kind in KINDS.items():
        assert kind.name == name
        assert len(kind.summary) > 10
        assert kind.default_target in SELECTORS
