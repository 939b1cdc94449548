"""The examples of the project: every expected outcome is computed again from policies and voting rules."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from replication.consensus import ProposalAction, VoteValue
from replication.consensus.canonical import canonical_json
from replication.consensus.rules import Electorate, Poll, VotingRules, exact_fraction
from replication.node.policies import Choice, Incident, Judgement, PythonPolicy, load_cel_policy

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
NODES = ("node-1", "node-2", "node-3", "node-4")
LINES = (EXAMPLES / "incidents.jsonl").read_text(encoding="utf-8").splitlines()
INCIDENTS: list[dict[str, Any]] = [json.loads(line) for line in LINES]
POLICIES = {node: load_cel_policy(EXAMPLES / "policies" / f"{node}.toml") for node in NODES}
RULES = VotingRules(exact_fraction("1/2"), exact_fraction("1/2"), exact_fraction("2/3"))

by_name = pytest.mark.parametrize("line", INCIDENTS, ids=lambda line: line["name"])


def paper(line: dict[str, Any], voter: str) -> Incident:
    """What the voter's policy sees, after the evidence has travelled as canonical JSON (1.0 arrives as 1)."""
    return Incident(
        proposer=line.get("proposer", "node-1"),
        action=line["action"],
        target=line["target"],
        evidence=json.loads(canonical_json(line["evidence"])),
        critical=ProposalAction.is_critical(line["action"]),
        window_ms=int(line.get("window_seconds", 0) * 1000),
        expiry_ms=int(line.get("expiry_seconds", 0) * 1000),
        created_ms=1_730_000_000_000,
        voter=voter,
    )


def judgements(line: dict[str, Any]) -> dict[str, Judgement]:
    return {node: POLICIES[node].judge(paper(line, node)) for node in NODES}


def outcome(line: dict[str, Any]) -> tuple[str, str, str]:
    """Decision, status and cause, by the rules of the replicated application, if all vote at once."""
    poll = Poll(Electorate(dict.fromkeys(NODES, 1)), RULES, ProposalAction.is_critical(line["action"]))
    for node, judgement in judgements(line).items():
        if judgement.choice is not None:
            poll.cast(node, judgement.choice.value)
    if poll.settled():
        return poll.decision().value, "decided", "settled"
    window, expiry = line.get("window_seconds", 0), line.get("expiry_seconds", 0)
    if expiry and (not window or expiry <= window):
        return "no_quorum", "expired", "expired"
    assert window, "an incident that does not settle by itself needs a window or an expiry"
    return poll.decision().value, "decided", "window"


@by_name
def test_outcome_is_as_expected(line: dict[str, Any]) -> None:
    decision, status, _ = outcome(line)
    assert line["expect"] == {"decision": decision, "status": status}


@by_name
def test_line_has_the_documented_form(line: dict[str, Any]) -> None:
    assert {"name", "action", "target", "evidence", "expect"} <= line.keys()
    assert line.keys() <= {
        *("name", "action", "target", "evidence", "proposer", "window_seconds", "expiry_seconds"),
        *("expect", "execute", "votes"),
    }
    assert isinstance(line["evidence"], dict)
    assert line.get("proposer", "node-1") in NODES
    assert line.get("execute", False) <= (line["expect"]["decision"] == "approved")
    for key in ("window_seconds", "expiry_seconds"):
        assert 1.5 <= line.get(key, 1.5) <= 3, "the demonstration should not have to wait long"


def test_names_are_unique() -> None:
    assert len({line["name"] for line in INCIDENTS}) == len(INCIDENTS) >= 24


def test_variety() -> None:
    assert {line["action"] for line in INCIDENTS} > {action.value for action in ProposalAction}
    assert any(line["evidence"] == {} for line in INCIDENTS)
    seen = Counter(outcome(line) for line in INCIDENTS)
    assert seen.keys() == {
        ("approved", "decided", "settled"),
        ("approved", "decided", "window"),
        ("rejected", "decided", "settled"),
        ("no_quorum", "decided", "settled"),
        ("no_quorum", "decided", "window"),
        ("no_quorum", "expired", "expired"),
    }


def votes(line: dict[str, Any]) -> list[VoteValue | None]:
    return [judgement.choice.value if judgement.choice else None for judgement in judgements(line).values()]


def test_there_are_ties_and_a_bare_supermajority() -> None:
    approve, reject, abstain = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN
    counts = [(line, Counter(votes(line))) for line in INCIDENTS]
    assert [line for line, count in counts if count == {approve: 2, reject: 2}]
    bare = [line for line, count in counts if count == {approve: 2, reject: 1, abstain: 1}]
    assert any(ProposalAction.is_critical(line["action"]) for line in bare), "2 of 3 meets 2/3 exactly"


def test_node_4_is_the_dissenter_in_most() -> None:
    alone = sum(
        votes(line).count(VoteValue.REJECT) == 1 and votes(line)[3] is VoteValue.REJECT for line in INCIDENTS
    )
    assert alone >= len(INCIDENTS) // 3


def test_no_rule_is_dead() -> None:
    """Each rule decides at least one incident; the one about oneself, an incident about oneself."""
    for node, policy in POLICIES.items():
        used = {judgements(line)[node].rule for line in INCIDENTS}
        accused = policy.judge(paper({**INCIDENTS[0], "target": node}, node))
        used.add(accused.rule)
        assert set(range(1, len(policy) + 1)) - used == set(), f"rules of {node} that no incident needs"


def test_rules_break_only_on_the_incident_made_for_it() -> None:
    broken = {
        line["name"]
        for line in INCIDENTS
        for judgement in judgements(line).values()
        if any(not diagnostic.missing for diagnostic in judgement.diagnostics)
    }
    assert broken == {"traffic report with a broken counter"}


def python_policy() -> PythonPolicy:
    spec = importlib.util.spec_from_file_location("python_policy", EXAMPLES / "policies" / "python_policy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return PythonPolicy(module.decide, "python_policy:decide")


@by_name
def test_python_policy_judges_every_incident_without_error(line: dict[str, Any]) -> None:
    assert python_policy().judge(paper(line, "node-1")).diagnostics == ()


def test_python_policy_weighs_confirmations() -> None:
    policy = python_policy()
    evidence = {"signal": "credential_access", "confirmed_by": ["node-2", "node-3", "node-3", 7]}
    line = {"action": "terminate", "target": "x", "evidence": evidence}
    assert policy.decide(paper(line, "node-1")) == Choice(VoteValue.APPROVE, "credential_access: 5 points")
    line["evidence"] = {**evidence, "confirmed_by": ["node-1"]}  # the proposer itself
    assert policy.decide(paper(line, "node-1")) == Choice(
        VoteValue.REJECT, "credential_access: 3 points of 5"
    )
    assert policy.decide(paper({**line, "target": "node-2"}, "node-2")) == Choice(
        VoteValue.ABSTAIN, "I am the one accused"
    )
    assert policy.decide(paper({**line, "action": "release"}, "node-2")) is None
