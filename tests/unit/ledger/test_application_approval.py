"""Rules of approval in the replicated application, each checked by the independent verifier as well."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.record_factory import RecordFactory

from replication.consensus.approval import ActionRules, ApprovalRules
from replication.identity.genesis import Rules
from replication.ledger.verify import VerificationError, verify_export

HUMAN = {"human": frozenset({"node-3", "node-4"})}


def rules(**approval: Any) -> Rules:
    return Rules(default_window_ms=0, approval=ApprovalRules(**approval))


def made(**approval: Any) -> LedgerCluster:
    return LedgerCluster(4, rules=rules(**approval))


def reasons(cluster: LedgerCluster, *commands: bytes) -> list[str]:
    """Why each command of a block has no effect; empty for one that has."""
    execution = cluster.block(*commands)
    return [outcome.reason for outcome in execution.outcomes.values()]


def decision(cluster: LedgerCluster, number: int = 1) -> str:
    finished = cluster.history.finished_by_id(f"prop-{number:04d}")
    return "open" if finished is None else finished.decision.value


def missing(cluster: LedgerCluster) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(lack.condition, lack.count, lack.voters) for lack in cluster.application.missing("prop-0001")]


def test_a_group_has_to_approve() -> None:
    cluster = made(groups=HUMAN, requires={"human": 1})
    proposal = cluster.propose()
    cluster.block(proposal, cluster.vote("node-1", proposal), cluster.vote("node-2", proposal))
    assert missing(cluster) == [("quorum", 1, ("node-3", "node-4")), ("group human", 1, ("node-3", "node-4"))]
    cluster.block(cluster.vote("node-3", proposal, "reject"))
    assert (decision(cluster), missing(cluster)) == ("open", [("group human", 1, ("node-4",))])
    cluster.block(cluster.vote("node-4", proposal))
    assert decision(cluster) == "approved"
    cluster.verify()
    cluster.check_certificates()


def test_a_group_that_can_agree_no_more_settles_it() -> None:
    cluster = made(groups=HUMAN, actions={"wipe": ActionRules(requires={"human": 2})})
    proposal = cluster.propose(action="wipe")
    votes = [cluster.vote(f"node-{number}", proposal) for number in (1, 2)]
    cluster.block(proposal, *votes, cluster.vote("node-3", proposal, "reject"))
    assert decision(cluster) == "rejected"
    other = cluster.propose(action="restrict")
    cluster.block(other, *(cluster.vote(f"node-{number}", other) for number in (1, 2, 3)))
    assert decision(cluster, 2) == "approved"
    cluster.verify()
    cluster.check_certificates()


def test_the_proposer_does_not_count() -> None:
    cluster = made(proposer_counts=False)
    proposal = cluster.propose("node-1")
    cluster.block(proposal, *(cluster.vote(f"node-{number}", proposal) for number in (1, 2, 3)))
    assert missing(cluster) == [("quorum", 1, ("node-4",))]
    cluster.block(cluster.vote("node-4", proposal))
    assert decision(cluster) == "approved"
    cluster.verify()
    cluster.check_certificates()


def test_votes_need_a_reason() -> None:
    cluster = made(reason_required=True, actions={"release": ActionRules(reason_required=False)})
    proposal = cluster.propose()
    cluster.block(proposal)
    silent = cluster.vote("node-1", proposal)
    assert reasons(cluster, silent) == ["REASON_REQUIRED"]
    spoken = cluster.vote("node-1", proposal, reason="score 0.99")
    assert reasons(cluster, spoken, cluster.vote("node-2", proposal, "abstain")) == ["", ""]
    other = cluster.propose(action="release")
    assert reasons(cluster, other, cluster.vote("node-1", other)) == ["", ""]
    cluster.verify()


def test_a_target_has_one_open_proposal() -> None:
    cluster = made(lock_targets=True)
    first, second = cluster.propose(target="agent-7"), cluster.propose("node-2", target="agent-7")
    elsewhere, nowhere = cluster.propose(target="agent-8"), cluster.propose(target="")
    assert reasons(cluster, first, second, elsewhere, nowhere) == ["", "TARGET_LOCKED", "", ""]
    assert reasons(cluster, second, cluster.propose(target="")) == ["TARGET_LOCKED", ""]
    cluster.decide(first)
    assert reasons(cluster, second) == [""]
    cluster.verify()


def test_actions_have_thresholds_of_their_own() -> None:
    cluster = made(critical_actions=frozenset({"wipe"}), actions={"fine": ActionRules(threshold=Fraction(1))})
    wanted = {"restrict": "approved", "wipe": "approved", "fine": "rejected"}
    for number, (action, expected) in enumerate(wanted.items(), 1):
        proposal = cluster.propose(action=action, target=action)
        values = {"node-1": "approve", "node-2": "approve", "node-3": "approve", "node-4": "reject"}
        cluster.block(proposal, *(cluster.vote(voter, proposal, value) for voter, value in values.items()))
        assert decision(cluster, number) == expected, action
    tally = cluster.executions[2].entries[-1].data
    assert (tally["is_critical"], tally["threshold_used"]) == (True, "2/3")
    cluster.verify()
    cluster.check_certificates()


# ------------------------------------------------------------------------ forged records: one rule ignored
# each


ALL = ("node-1", "node-2", "node-3", "node-4")


def forged(factory: RecordFactory, action: str, against: str = "", voters: tuple[str, ...] = ALL) -> None:
    """A proposal that is approved although these voters decided otherwise."""
    factory.block()
    proposal = factory.propose("node-1", action)
    for voter in voters:
        factory.vote(proposal, voter, "reject" if voter == against else "approve")
    factory.tally(proposal, "approved")


def group_ignored(factory: RecordFactory) -> None:
    forged(factory, "restrict", against="node-4")


def proposer_counted(factory: RecordFactory) -> None:
    forged(factory, "restrict", voters=ALL[:3])


def threshold_lowered(factory: RecordFactory) -> None:
    forged(factory, "wipe", against="node-4")


def reason_left_out(factory: RecordFactory) -> None:
    factory.block()
    factory.vote(factory.propose("node-1"), "node-2", reason="")


def target_shared(factory: RecordFactory) -> None:
    factory.block()
    factory.propose("node-1")
    factory.propose("node-2")


FORGERIES: dict[str, tuple[Rules, Callable[[RecordFactory], None], str]] = {
    "group": (rules(groups=HUMAN, requires={"human": 2}), group_ignored, "decision"),
    "proposer": (rules(proposer_counts=False), proposer_counted, "decision|not settled"),
    "threshold": (rules(actions={"wipe": ActionRules(threshold=Fraction(1))}), threshold_lowered, "decision"),
    "reason": (rules(reason_required=True), reason_left_out, "data.reason is empty"),
    "target": (rules(lock_targets=True), target_shared, "on the same target is open"),
}


@pytest.mark.parametrize("rule", FORGERIES)
def test_a_record_that_ignores_a_rule_is_refused(rule: str) -> None:
    ruled, forge, message = FORGERIES[rule]
    factory = RecordFactory(4, rules=ruled)
    forge(factory)
    record = factory.seal()
    with pytest.raises(VerificationError, match=message):
        verify_export(record.lines(), record.genesis)
    plain = RecordFactory(4)
    forge(plain)
    record = plain.seal()
    verify_export(record.lines(), record.genesis)  # so it is the rule that refuses it
