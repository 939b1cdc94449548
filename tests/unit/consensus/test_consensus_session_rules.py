"""The rules of approval in a session of the library: reasons, the proposer, groups, locked targets."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import pytest

from replication.consensus import ConsensusConfig, ConsensusProtocol, Decision, VoteValue
from replication.consensus.approval import MAX_ACTIONS, MAX_GROUPS, ActionRules, ApprovalRules, GroupRule
from replication.consensus.errors import InvalidConfigError, ReasonRequiredError, TargetLockedError

A, R, N = VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN
VOTERS = ("anna", "ben", "cleo", "dan")
HUMANS = {"human": frozenset({"cleo", "dan"})}


def session(voters: Iterable[str] = VOTERS, **approval: Any) -> ConsensusProtocol:
    return ConsensusProtocol(voters, config=ConsensusConfig(approval=ApprovalRules(**approval)))


def decide(made: ConsensusProtocol, action: str, *approving: str) -> Decision:
    proposal = made.propose("anna", action, target="agent-7")
    for voter in VOTERS:
        made.vote(proposal, voter, A if voter in approving else R, "seen it")
    return made.tally(proposal).decision


def test_a_vote_for_or_against_gives_a_reason() -> None:
    made = session(reason_required=True, actions={"release": ActionRules(reason_required=False)})
    proposal = made.propose("anna", "quarantine", target="agent-7")
    before = len(made.audit_log)
    for value in (A, R):
        for reason in (None, ""):
            with pytest.raises(ReasonRequiredError, match="needs a reason") as refused:
                made.vote(proposal, "ben", value, reason)
            assert (refused.value.reason, isinstance(refused.value, ValueError)) == ("REASON_REQUIRED", True)
    assert (len(made.audit_log), made.get_proposal(proposal).votes) == (before, {})
    made.vote(proposal, "ben", A, "it scans ports")
    made.vote(proposal, "cleo", N)
    made.vote(made.propose("anna", "release"), "ben", A)  # the action's own rule


def test_a_reason_for_one_action() -> None:
    made = session(actions={"terminate": ActionRules(reason_required=True)})
    made.vote(made.propose("anna", "quarantine"), "ben", A)
    with pytest.raises(ReasonRequiredError):
        made.vote(made.propose("anna", "terminate"), "ben", A)


def test_a_target_has_one_open_proposal() -> None:
    made = session(lock_targets=True)
    first = made.propose("anna", "quarantine", target="agent-7")
    with pytest.raises(TargetLockedError, match=f"{first} on the target 'agent-7' is open") as refused:
        made.propose("ben", "terminate", target="agent-7")
    assert (refused.value.reason, len(made.list_proposals())) == ("TARGET_LOCKED", 1)
    made.propose("ben", "terminate", target="agent-8")
    made.propose("ben", "escalate")
    made.propose("cleo", "escalate")  # no target is none to lock
    made.tally(first)
    made.propose("ben", "terminate", target="agent-7")


def test_targets_are_free_without_the_rule() -> None:
    made = session()
    made.propose("anna", "quarantine", target="agent-7")
    made.propose("ben", "quarantine", target="agent-7")


@pytest.mark.parametrize("counts", [True, False])
def test_the_proposer_may_not_count(counts: bool) -> None:
    made = session(proposer_counts=counts)
    proposal = made.propose("anna", "quarantine")
    for voter in ("anna", "ben", "cleo"):
        made.vote(proposal, voter, A)
    assert made.tally(proposal).decision is (Decision.APPROVED if counts else Decision.NO_QUORUM)


def test_approvals_of_a_group() -> None:
    made = session(groups=HUMANS, requires={"human": 1}, actions={"wipe": ActionRules(requires={"human": 2})})
    assert decide(made, "restrict", "anna", "ben", "cleo") is Decision.APPROVED
    assert decide(made, "wipe", "anna", "ben", "cleo") is Decision.REJECTED
    assert decide(made, "wipe", "ben", "cleo", "dan") is Decision.APPROVED
    made = session([*VOTERS, "eve"], groups=HUMANS, requires={"human": 1})
    proposal = made.propose("anna", "restrict")
    for voter in ("anna", "ben", "eve"):
        made.vote(proposal, voter, A)
    assert made.tally(proposal).decision is Decision.REJECTED


def test_critical_actions_and_shares_of_ones_own() -> None:
    voters = [*VOTERS, "eve"]  # three of five are no two thirds
    made = session(
        voters, critical_actions=frozenset({"wipe"}), actions={"ban": ActionRules(threshold=Fraction(1))}
    )

    def decided(action: str, approving: int) -> Decision:
        proposal = made.propose("anna", action)
        for number, voter in enumerate(voters):
            made.vote(proposal, voter, A if number < approving else R)
        return made.tally(proposal).decision

    assert decided("restrict", 3) is Decision.APPROVED
    assert [decided("wipe", count) for count in (3, 4)] == [Decision.REJECTED, Decision.APPROVED]
    assert [decided("ban", count) for count in (4, 5)] == [Decision.REJECTED, Decision.APPROVED]


def test_the_higher_of_two_rules_on_a_group() -> None:
    rules = ApprovalRules(
        groups=HUMANS, requires={"human": 2}, actions={"wipe": ActionRules(requires={"human": 1})}
    )
    assert rules.group_rules("wipe") == (GroupRule("human", HUMANS["human"], 2),)


@pytest.mark.parametrize(
    ("approval", "said"),
    [
        ({"groups": {f"g{number}": frozenset({"anna"}) for number in range(MAX_GROUPS + 1)}}, "32 groups"),
        ({"actions": {f"a{number}": ActionRules() for number in range(MAX_ACTIONS + 1)}}, "256 actions"),
        ({"groups": {"": frozenset({"anna"})}}, "group '' must have a name and voters"),
        ({"groups": {"human": frozenset()}}, "group 'human' must have a name and voters"),
        ({"groups": HUMANS, "requires": {"human": 3}}, "from 1 to 2, the voters of the group, got 3"),
        ({"groups": HUMANS, "requires": {"human": 0}}, "from 1 to 2"),
        ({"groups": HUMANS, "requires": {"human": True}}, "from 1 to 2"),
        ({"requires": {"human": 1}}, "names the group 'human', and groups does not"),
        ({"actions": {"wipe": ActionRules(requires={"human": 1})}}, r"actions\.wipe\.requires names"),
    ],
)
def test_rules_that_nobody_could_fulfil(approval: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        ApprovalRules(**approval)
