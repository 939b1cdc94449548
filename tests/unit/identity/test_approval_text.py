"""Rules of approval as text: what is legal, and that every mistake is named."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.support.record_factory import RecordFactory

from replication.consensus.approval import ActionRules, ApprovalRules
from replication.errors import OperatorError
from replication.identity.approval_text import approval_to_json, read_approval
from replication.identity.genesis import Genesis, GenesisError, Rules, parse_genesis
from replication.node.local.rules_file import read_rules

EVERYTHING = ApprovalRules(
    reason_required=True,
    proposer_counts=False,
    lock_targets=True,
    critical_actions=frozenset({"wipe"}),
    groups={"human": frozenset({"node-1", "node-2"})},
    requires={"human": 1},
    actions={
        "wipe": ActionRules(Fraction(3, 4), {"human": 2}, reason_required=False, window_ms=0, expiry_ms=5_000)
    },
)


def genesis_with(approval: ApprovalRules, n: int = 4) -> Genesis:
    return RecordFactory(n, rules=Rules(approval=approval)).genesis


def test_there_and_back() -> None:
    assert read_approval(approval_to_json(EVERYTHING)) == EVERYTHING
    assert approval_to_json(ApprovalRules()) == {}
    assert read_approval({}) == ApprovalRules()
    genesis = genesis_with(EVERYTHING)
    assert genesis.rules.approval == EVERYTHING
    assert parse_genesis(genesis.raw) == genesis


def test_without_rules_the_file_is_what_it_was_before_there_were_any() -> None:
    assert b"approval" not in genesis_with(ApprovalRules()).raw


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "approval must be a table"),
        ({"reasons": True}, "approval.reasons is not known"),
        ({"reason_required": 1}, "reason_required must be true or false"),
        ({"critical_actions": "wipe"}, "critical_actions must be a list"),
        ({"critical_actions": [""]}, "cannot be an action"),
        ({"groups": {"a b": ["node-1"]}}, "groups.a b must have a name"),
        ({"groups": {"human": []}}, "groups.human must name at least one member"),
        ({"groups": {"human": ["node-1", "node-1"]}}, "and each once"),
        ({"groups": {"human": [7]}}, "groups.human must be a list of members' ids"),
        ({"requires": {"human": 1}}, "requires names the group 'human', and groups does not"),
        ({"groups": {"human": ["node-1"]}, "requires": {"human": 2}}, "from 1 to 1"),
        ({"groups": {"human": ["node-1"]}, "requires": {"human": "1"}}, "a whole number of approvals"),
        ({"actions": {"wipe": {"threshold": 0.75}}}, "actions.wipe.threshold must be a string"),
        ({"actions": {"wipe": {"threshold": "most"}}}, "actions.wipe.threshold .*'most'"),
        ({"actions": {"wipe": {"window_ms": -1}}}, "actions.wipe.window_ms must be a whole number"),
        ({"actions": {"wipe": {"why": 1}}}, "actions.wipe.why is not known"),
    ],
)
def test_what_is_refused(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_approval(value)


@pytest.mark.parametrize(
    ("approval", "problem"),
    [
        (ApprovalRules(groups={"human": frozenset({"node-9"})}, requires={"human": 1}), "0 of the group are"),
        (ApprovalRules(actions={"terminate": ActionRules(threshold=Fraction(1, 2))}), "must be from 2/3"),
    ],
)
def test_rules_that_nothing_could_satisfy_or_that_ask_for_less(approval: ApprovalRules, problem: str) -> None:
    with pytest.raises((GenesisError, ValueError), match=problem):
        genesis_with(approval)


def test_a_quorum_without_the_proposer() -> None:
    genesis_with(ApprovalRules(proposer_counts=False), 4)
    with pytest.raises(GenesisError, match="1 members cannot reach the quorum of 1"):
        genesis_with(ApprovalRules(proposer_counts=False), 1)


def test_a_rules_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        'supermajority_threshold = "3/4"\ndefault_window_ms = 5000\n[approval]\nlock_targets = true\n'
        '[approval.groups]\nhuman = ["node-1"]\n[approval.actions.terminate]\nrequires = { human = 1 }\n'
    )
    rules = read_rules(file)
    assert (rules.supermajority_threshold, rules.default_window_ms) == (Fraction(3, 4), 5000)
    assert rules.approval.lock_targets
    assert rules.approval.group_rules("terminate")[0].voters == {"node-1"}
    assert rules.window_ms("terminate") == 5000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = ", "Correct the rule"),
        ("quorum = 1", "quorum is not known"),
        ("majority_threshold = 0.5", "must be a string"),
        ('majority_threshold = "2"', "majority_threshold must be"),
        ("max_active_proposals = true", "max_active_proposals must be"),
        ("[approval]\nlock = true", "approval.lock is not known"),
    ],
)
def test_a_rules_file_with_a_mistake(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text)
    with pytest.raises(OperatorError, match=problem):
        read_rules(file)
