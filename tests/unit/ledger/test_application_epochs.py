"""The voting application: coordinators, evidence, changes of members, rejoins."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.record_factory import Json

from replication.consensus.model import AuditEntry
from replication.ledger.application import BlockExecution, VotingApplication
from replication.ledger.commands import EpochOverError
from replication.ledger.outcomes import Outcome
from replication.ledger.rulings import REJOIN_INTERVAL_MS
from replication.ordering.application import command_digest
from replication.ordering.statements import (
    Evidence,
    Lock,
    NewView,
    Phase,
    Signed,
    Statement,
    StatementKey,
    Timeout,
)

NONCE = bytes(range(32))


def only(execution: BlockExecution) -> AuditEntry:
    (entry,) = execution.entries
    return entry


def view_command(cluster: LedgerCluster, view: int) -> bytes:
    members = cluster.application.members
    opening = NewView(members.epoch, view, sha256(b"tc").digest(), members.ids[view % members.n])
    signature = cluster.sign(opening.signer)(opening.sign_bytes(cluster.cluster_id))
    return cluster.application.view_command(replace(opening, signature=signature))


def signed(cluster: LedgerCluster, item: Signed) -> Signed:
    return replace(item, signature=cluster.sign(item.signer)(item.sign_bytes(cluster.cluster_id)))


def statement(cluster: LedgerCluster, block: int, signer: str = "node-4", **key: object) -> Signed:
    fields = {"phase": Phase.PREPARE, "epoch": cluster.epoch, "view": 2, "height": 9, **key}
    return signed(cluster, Statement(StatementKey(block_hash=bytes([block]) * 32, **fields), signer, b""))  # type: ignore[arg-type]


def evidence(cluster: LedgerCluster, signer: str = "node-4") -> bytes:
    pair = Evidence(statement(cluster, 1, signer), statement(cluster, 2, signer))
    return cluster.application.evidence_command(pair)


def reason(outcome: Outcome) -> str:
    return outcome.reason or "accepted"


# -------------------------------------------------------------------------------------------- coordinators


def test_new_coordinators_are_recorded_in_order() -> None:
    cluster = LedgerCluster(4)
    second, first = view_command(cluster, 6), view_command(cluster, 5)
    execution = cluster.block(second, view=6)
    entry = only(execution)
    assert (entry.event_type, entry.actor_id, entry.proposal_id) == ("coordinator", "node-3", "")
    assert (entry.data["epoch"], entry.data["view"]) == (0, 6)
    assert (execution.recorded_view, cluster.application.recorded_view) == (6, 6)
    for command in (first, second):
        execution = cluster.block(command, view=6)
        assert reason(execution.outcomes[command_digest(command)]) == "VIEW_RECORDED"
        assert execution.is_empty
        assert execution.recorded_view == 6
    assert cluster.verify().events["coordinator"] == 1


def test_an_epoch_begins_without_a_view_on_record() -> None:
    cluster = LedgerCluster(4)
    cluster.block(view_command(cluster, 6), view=6)
    execution = cluster.block(cluster.rejoin("node-2", NONCE), view=6)
    assert execution.recorded_view == 0
    assert cluster.application.recorded_view == 0
    cluster.block(view_command(cluster, 1), view=1)
    assert cluster.application.recorded_view == 1
    cluster.verify()


# ------------------------------------------------------------------------------------------------ evidence


def test_a_proven_liar_abstains_from_then_on() -> None:
    """Its vote stays on record as it was signed, and counts as an abstention; so do its later ones."""
    cluster = LedgerCluster(4)
    before, after = cluster.propose("node-1", "terminate"), cluster.propose("node-2")
    votes = [cluster.vote(voter, before) for voter in ("node-4", "node-1")]
    cluster.block(before, after, *votes)
    command = evidence(cluster)
    entry = only(cluster.block(command))
    assert (entry.event_type, entry.actor_id, entry.data["accused"]) == ("evidence", "cluster", "node-4")
    assert cluster.application.faulty == {"node-4"}
    assert reason(cluster.outcome(command)) == "DUPLICATE"
    assert reason(cluster.outcome(evidence(cluster))) == "DUPLICATE", "once is enough"
    execution = cluster.block(
        cluster.vote("node-2", before), cluster.vote("node-3", before), cluster.vote("node-4", after)
    )
    tally = execution.entries[-1]
    assert tally.data["decision"] == "approved"
    assert (tally.data["approve_count"], tally.data["abstain_count"]) == (3, 1)
    assert tally.data["votes"]["node-4"] == "approve"
    assert tally.data["excluded"] == {"node-4": entry.sequence}
    open_proposal = cluster.application.open_proposal("prop-0002")
    assert open_proposal is not None
    assert [vote.value.value for vote in open_proposal.votes] == ["approve"]
    cluster.block(*(cluster.vote(voter, after) for voter in cluster.ids[:3]))
    assert cluster.verify().faulty == ("node-4",)
    cluster.check_certificates()


def test_evidence_can_settle_a_proposal() -> None:
    """One of four abstains and another one must: no quorum can come together any more."""
    cluster = LedgerCluster(4)
    proposal = cluster.propose("node-1", "terminate")
    ballots = [cluster.vote("node-1", proposal, "abstain"), cluster.vote("node-4", proposal)]
    cluster.block(proposal, *ballots)
    execution = cluster.block(evidence(cluster))
    assert [entry.event_type for entry in execution.entries] == ["evidence", "tally"]
    assert (execution.entries[1].data["decision"], execution.entries[1].data["cause"]) == (
        "no_quorum",
        "settled",
    )
    cluster.verify()
    cluster.check_certificates()


def test_two_votes_of_one_revision_are_evidence() -> None:
    cluster = LedgerCluster(4)
    proposal, other = cluster.propose(), cluster.propose()
    cluster.block(proposal, other, cluster.ballot("node-4", [(other, "approve"), (proposal, "approve")]))
    second = cluster.vote("node-4", proposal, "approve", reason="the same, said otherwise")
    execution = cluster.block(second)
    entry = only(execution)
    assert (entry.event_type, entry.proposal_id, entry.data["kind"]) == ("evidence", "prop-0001", "votes")
    assert entry.data["first"]["ballot"]["size"] == 2
    assert entry.data["second"]["reason"] == "the same, said otherwise"
    outcome = execution.outcomes[command_digest(second)]
    assert (outcome.accepted, outcome.reason) == (False, "ALREADY_VOTED")
    assert cluster.block(cluster.vote("node-4", proposal, "reject")).is_empty
    assert cluster.block(cluster.vote("node-4", other, "reject")).is_empty
    cluster.verify()


def test_other_contradictions() -> None:
    cluster = LedgerCluster(4)

    def timeout(view: int, height: int, lock: Lock | None, signer: str) -> Signed:
        return signed(cluster, Timeout(0, view, height, lock, signer))

    pairs = [
        (timeout(3, 8, None, "node-1"), timeout(3, 8, Lock(1, bytes(32)), "node-1")),
        (timeout(3, 8, Lock(1, bytes(32)), "node-2"), statement(cluster, 1, "node-2", phase=Phase.COMMIT)),
        (statement(cluster, 1, "node-3", phase=Phase.COMMIT), timeout(2, 7, Lock(5, bytes(32)), "node-3")),
    ]
    for first, second in pairs:
        cluster.block(cluster.application.evidence_command(Evidence(first, second)))
    assert cluster.application.faulty == {"node-1", "node-2", "node-3"}
    assert cluster.verify().events["evidence"] == 3


# ------------------------------------------------------------------------------------- changes of members


def test_a_member_is_added() -> None:
    cluster = LedgerCluster(4)
    change = {"change": "add", "member": cluster.new_member("node-5", weight=3)}
    proposal = cluster.propose("node-2", "membership", evidence=change)
    cluster.decide(proposal)
    execution = cluster.block(cluster.membership("node-3", proposal, change))
    entry = only(execution)
    assert (entry.event_type, entry.actor_id, entry.proposal_id) == ("membership", "node-3", "prop-0001")
    assert entry.data["change"] == change
    members = cluster.application.members
    assert (members.epoch, members.ids[-1], members.members[-1].weight) == (1, "node-5", 3)
    assert cluster.application.base_height == execution.height
    cluster.decide(cluster.propose("node-5"))
    report = cluster.verify()
    assert (report.epoch, report.events["membership"]) == (1, 1)
    cluster.check_certificates()


def test_members_are_removed_replaced_and_reweighted() -> None:
    cluster = LedgerCluster(5)
    cluster.change_members({"change": "remove", "id": "node-2"})
    cluster.change_members({"change": "replace", "id": "node-1", "member": cluster.new_member("node-9")})
    assert cluster.application.members.ids == ("node-9", "node-3", "node-4", "node-5"), "in the same place"
    cluster.change_members({"change": "reweight", "id": "node-4", "weight": 7})
    assert cluster.application.members.members[2].weight == 7
    cluster.decide(cluster.propose("node-9"))
    report = cluster.verify()
    assert report.epoch == 3
    cluster.check_certificates()


def test_votes_go_with_the_key_that_signed_them() -> None:
    """Open proposals are tallied by the new members; a vote of a key that is gone counts no more."""
    cluster = LedgerCluster(4)
    first, second = cluster.propose("node-1", "terminate"), cluster.propose("node-1", "terminate")
    for proposal in (first, second):
        cluster.block(proposal, cluster.vote("node-4", proposal), cluster.vote("node-3", proposal, "reject"))
    old_key = cluster.keys["node-4"]
    member = cluster.new_member("node-4", seed="new")
    new_key, cluster.keys["node-4"] = cluster.keys["node-4"], old_key
    cluster.change_members({"change": "replace", "id": "node-4", "member": member})
    cluster.keys["node-4"] = new_key
    assert [vote.voter for vote in next(cluster.application.open_proposals()).votes] == ["node-3"]
    assert list(cluster.application.open_proposals()) == list(cluster.history.open_proposals())
    cluster.block(*(cluster.vote(voter, first) for voter in ("node-1", "node-2", "node-4")))
    cluster.block(*(cluster.vote(voter, second) for voter in ("node-1", "node-2")))
    tally = cluster.executions[-2].entries[-1]
    assert (tally.data["decision"], list(tally.data["votes"])) == (
        "approved",
        ["node-3", "node-1", "node-2", "node-4"],
    )
    cluster.verify()
    cluster.check_certificates()


def test_a_new_electorate_settles_what_is_open() -> None:
    """Nobody needs to vote again: the first block of the epoch takes the tally, and it is due at once."""
    cluster = LedgerCluster(5)
    proposal = cluster.propose("node-1", "terminate")
    votes = zip(cluster.ids, ["approve", "approve", "approve", "reject"], strict=False)
    cluster.block(proposal, *(cluster.vote(voter, proposal, value) for voter, value in votes))
    assert cluster.application.next_deadline_ms() is None
    cluster.change_members({"change": "remove", "id": "node-5"})
    assert cluster.application.next_deadline_ms() == 0
    assert VotingApplication(cluster.genesis, cluster.history).next_deadline_ms() == 0
    entry = only(cluster.block())
    assert (entry.event_type, entry.data["cause"], entry.data["decision"]) == ("tally", "settled", "approved")
    assert entry.data["total_voters"] == 4
    assert cluster.application.next_deadline_ms() is None
    cluster.verify()
    cluster.check_certificates()


def test_blame_ends_with_the_key() -> None:
    cluster = LedgerCluster(4)
    cluster.block(evidence(cluster))
    cluster.change_members({"change": "reweight", "id": "node-4", "weight": 2})
    assert cluster.application.faulty == {"node-4"}, "another weight makes no better member"
    member = cluster.new_member("node-7")
    cluster.change_members({"change": "replace", "id": "node-4", "member": member})
    assert cluster.application.faulty == frozenset()
    cluster.verify()
    cluster.check_certificates()


def approve(cluster: LedgerCluster, change: Json, **options: object) -> bytes:
    proposal = cluster.propose("node-1", "membership", evidence=change)
    cluster.decide(proposal, **options)  # type: ignore[arg-type]
    return proposal


REMOVE: Json = {"change": "remove", "id": "node-4"}


def test_a_change_needs_the_approval_of_just_this_change() -> None:
    cluster = LedgerCluster(4)
    unknown = cluster.propose("node-1", "membership", evidence=REMOVE)
    rejected = cluster.propose("node-1", "membership", evidence=REMOVE)
    cluster.decide(rejected, "reject")
    other_action = cluster.propose("node-1", "member-ship", evidence=REMOVE)
    cluster.decide(other_action)
    other_change = approve(cluster, {"change": "remove", "id": "node-3"})
    open_one = cluster.propose("node-1", "membership", evidence=REMOVE)
    cluster.block(open_one)
    for proposal, expected in (
        (unknown, "UNKNOWN_PROPOSAL"),
        (rejected, "NOT_APPROVED"),
        (other_action, "NOT_APPROVED"),
        (other_change, "NOT_APPROVED"),
        (open_one, "NOT_APPROVED"),
    ):
        assert reason(cluster.outcome(cluster.membership("node-1", proposal, REMOVE))) == expected
    assert cluster.epoch == 0
    cluster.verify()


def test_a_change_needs_2f_plus_1_approvals_whatever_they_weigh() -> None:
    """With weights, two of four can approve a proposal; they cannot change the members."""
    cluster = LedgerCluster(4, weights=[5, 5, 1, 1])
    proposal = cluster.propose("node-1", "membership", evidence=REMOVE)
    values = zip(cluster.ids, ["approve", "approve", "reject", "reject"], strict=True)
    cluster.block(proposal, *(cluster.vote(voter, proposal, value) for voter, value in values))
    finished = cluster.history.finished_by_id("prop-0001")
    assert finished is not None
    assert finished.decision.value == "approved"
    outcome = cluster.outcome(cluster.membership("node-1", proposal, REMOVE))
    assert (reason(outcome), outcome.message) == (
        "NOT_APPROVED",
        "prop-0001 has 2 approvals; a change of members needs 3",
    )


def test_an_approval_is_of_one_epoch() -> None:
    cluster = LedgerCluster(4)
    proposal = approve(cluster, REMOVE)
    late = cluster.membership("node-1", proposal, REMOVE)
    cluster.block(cluster.rejoin("node-2", NONCE))
    with pytest.raises(EpochOverError):
        cluster.application.check(late)
    verdict = cluster.application.verdict(late)
    assert verdict is not None
    assert not verdict.accepted
    again = cluster.membership("node-1", proposal, REMOVE)
    outcome = cluster.outcome(again)
    assert (reason(outcome), cluster.epoch) == ("NOT_APPROVED", 1)
    assert "approved by the members of epoch 0" in outcome.message


def test_a_change_is_alone_in_its_block() -> None:
    cluster = LedgerCluster(4)
    proposal = approve(cluster, REMOVE)
    command, other = cluster.membership("node-1", proposal, REMOVE), cluster.propose()
    execution = cluster.block(other, command)
    assert reason(execution.outcomes[command_digest(command)]) == "NOT_ALONE"
    assert cluster.application.verdict(command) is None
    assert cluster.epoch == 0
    assert reason(cluster.outcome(command)) == "accepted"
    assert cluster.epoch == 1
    cluster.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"change": "remove", "id": "node-9"}, "node-9 is not a member"),
        ({"change": "reweight", "id": "node-4", "weight": 1}, "would change nothing"),
        ({"change": "add", "member": {"id": "node-4"}}, "node-4 is already a member"),
        ({"change": "add", "member": {"address": "host-node-2:7000"}}, "another member has the address"),
        ({"change": "add", "member": {"possession": "00" * 64}}, "proof of possession of member node-7"),
        ({"change": "add", "member": {"public_key": "01" + "00" * 31}}, "is refused"),
        ({"change": "replace", "id": "node-4", "member": {"id": "node-2"}}, "node-2"),
    ],
)
def test_changes_that_cannot_be_made(change: Json, message: str) -> None:
    """They were approved all the same: members can be wrong, the member set cannot."""
    cluster = LedgerCluster(4)
    if "member" in change:
        change = {**change, "member": {**cluster.new_member("node-7"), **change["member"]}}
    outcome = cluster.outcome(cluster.membership("node-1", approve(cluster, change), change))
    assert reason(outcome) == "MEMBERSHIP_REFUSED"
    assert message in outcome.message
    assert cluster.epoch == 0


def test_commands_of_an_epoch_that_is_over() -> None:
    cluster = LedgerCluster(4)
    proposal, open_one = cluster.propose(), cluster.propose()
    vote, late_vote = cluster.vote("node-1", open_one), cluster.vote("node-2", open_one)
    cluster.decide(proposal)
    cluster.block(open_one, vote)
    cluster.block(cluster.rejoin("node-2", NONCE))
    for command in (proposal, vote, late_vote):
        with pytest.raises(EpochOverError):
            cluster.application.check(command)
    verdicts = [cluster.application.verdict(command) for command in (proposal, vote, late_vote)]
    assert [verdict and reason(verdict) for verdict in verdicts] == ["DUPLICATE", "DUPLICATE", "EPOCH_OVER"]
    assert reason(cluster.outcome(cluster.vote("node-1", open_one))) == "ALREADY_VOTED"
    assert cluster.application.faulty == frozenset(), "signed again for another epoch is not signed twice"
    assert reason(cluster.outcome(cluster.vote("node-2", open_one))) == "accepted"
    cluster.verify()


# ---------------------------------------------------------------------------------------------- rejoining


def test_a_member_rejoins_under_a_fresh_incarnation() -> None:
    cluster = LedgerCluster(4)
    key = cluster.sign("node-3")
    command = cluster.application.rejoin_command("node-3", NONCE, key)
    entry = only(cluster.block(command))
    assert (entry.event_type, entry.actor_id, entry.proposal_id) == ("membership", "node-3", "")
    assert entry.data["change"] == {"change": "rejoin", "id": "node-3", "nonce": NONCE.hex()}
    assert cluster.epoch == 1
    assert cluster.application.members.members == cluster.genesis.members.members
    assert cluster.application.incarnation("node-3") == NONCE
    assert cluster.application.incarnation("node-2") == b""
    again = cluster.application.rejoin_command("node-3", NONCE, key)
    assert reason(cluster.outcome(again)) == "DUPLICATE"
    verdict = cluster.application.verdict(command)
    assert verdict is not None
    assert verdict.accepted
    cluster.change_members({"change": "replace", "id": "node-3", "member": cluster.new_member("node-9")})
    assert cluster.application.incarnation("node-3") == b""
    cluster.verify()


def test_a_member_cannot_stop_the_cluster_by_rejoining() -> None:
    cluster = LedgerCluster(4)
    cluster.block(cluster.rejoin("node-3", NONCE))
    soon = cluster.rejoin("node-3", bytes(32))
    assert reason(cluster.outcome(soon, after_ms=REJOIN_INTERVAL_MS - 1)) == "REJOIN_REFUSED"
    assert cluster.application.verdict(soon) is None
    assert reason(cluster.outcome(soon, after_ms=1)) == "accepted"
    assert cluster.epoch == 2
    assert reason(cluster.outcome(cluster.rejoin("node-2", NONCE))) == "accepted", "others are not held up"
    cluster.verify()


def test_a_proven_liar_does_not_rejoin() -> None:
    cluster = LedgerCluster(4)
    cluster.block(evidence(cluster))
    assert reason(cluster.outcome(cluster.rejoin("node-4", NONCE))) == "REJOIN_REFUSED"
    assert cluster.epoch == 0


def test_a_restart_in_a_later_epoch() -> None:
    cluster = LedgerCluster(5)
    cluster.block(evidence(cluster))
    cluster.block(cluster.rejoin("node-3", NONCE))
    cluster.change_members({"change": "reweight", "id": "node-2", "weight": 4})
    cluster.block(view_command(cluster, 3), view=3)
    proposal = cluster.propose("node-2", "terminate")
    cluster.block(proposal, cluster.vote("node-4", proposal), view=3)
    twin = VotingApplication(cluster.genesis, cluster.history)
    assert twin.members == cluster.application.members
    assert (twin.recorded_view, twin.incarnation("node-3")) == (3, NONCE)
    assert twin.faulty == {"node-4"}
    assert twin.base_height == cluster.application.base_height
    block = [cluster.vote(voter, proposal) for voter in ("node-1", "node-2", "node-3")]
    height, time_ms = len(cluster.executions), cluster.time_ms + 10
    expected = cluster.application.execute(height, time_ms, block)
    assert twin.execute(height, time_ms, block).entries == expected.entries
    assert expected.entries[-1].event_type == "tally"
