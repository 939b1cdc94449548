"""Selection: what goes into the next block, what waits, and what is thrown away."""

from __future__ import annotations

from tests.support.ledger_cluster import LedgerCluster

from replication.identity.genesis import Rules
from replication.ordering.application import Selection
from replication.ordering.statements import Evidence, NewView, Phase, Statement, StatementKey


def select(cluster: LedgerCluster, *commands: bytes, after_ms: int = 1) -> Selection:
    return cluster.application.select(commands, cluster.time_ms + after_ms)


def test_nothing_waiting() -> None:
    assert select(LedgerCluster(4)) == Selection((), True, ())


def test_proposals_go_before_the_votes_on_them() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose()
    votes = [cluster.vote(voter, proposal) for voter in cluster.ids[:3]]
    assert select(cluster, *votes, proposal) == Selection((proposal, *votes), True, ())


def test_waiting_gains_something_while_votes_are_missing() -> None:
    cluster = LedgerCluster(4)
    proposal, other = cluster.propose(), cluster.propose("node-2")
    votes = [cluster.vote(voter, proposal) for voter in cluster.ids]
    assert not select(cluster, proposal).complete
    assert not select(cluster, proposal, *votes[:2]).complete
    assert select(cluster, proposal, *votes[:3]).complete
    assert not select(cluster, proposal, other, *votes).complete


def test_a_vote_on_nothing_waits_and_so_does_its_whole_ballot() -> None:
    cluster = LedgerCluster(4)
    known, unknown = cluster.propose(), cluster.propose()
    cluster.block(known)
    ballot = cluster.ballot("node-2", [(known, "approve"), (unknown, "approve")])
    close = cluster.close("node-1", unknown)
    assert select(cluster, ballot, close) == Selection((), True, ())
    assert select(cluster, ballot, close, unknown).commands == (unknown, ballot, close)


def test_what_is_about_open_proposals_goes_before_new_ones() -> None:
    """Nobody's new proposals crowd out a decision that is on its way."""
    cluster = LedgerCluster(4, rules=Rules(default_window_ms=0, max_active_proposals=2))
    proposal = cluster.propose()
    cluster.block(proposal)
    flood = [cluster.propose("node-4") for _ in range(5)]
    late, vote = cluster.propose("node-3"), cluster.vote("node-2", proposal)
    chosen = select(cluster, *flood, late, vote).commands
    assert chosen[0] == vote
    assert chosen.index(late) == 2, "members take turns"
    assert set(chosen[1:]) == {*flood, late}


def test_proposals_that_find_no_room_do_not_make_others_wait() -> None:
    cluster = LedgerCluster(4, rules=Rules(default_window_ms=0, max_active_proposals=1))
    first, second = cluster.propose("node-1"), cluster.propose("node-2")
    votes = [cluster.vote(voter, first) for voter in cluster.ids]
    selection = select(cluster, first, second, *votes)
    assert selection.complete
    assert selection.commands == (first, second, *votes)


def test_repeats_and_late_votes_are_void() -> None:
    cluster = LedgerCluster(4)
    proposal, open_one = cluster.propose(), cluster.propose()
    cluster.decide(proposal)
    vote = cluster.vote("node-1", open_one)
    cluster.block(open_one, vote)
    late = cluster.vote("node-1", proposal, reason="late")
    rejected_close = cluster.close("node-2", open_one)
    waiting = (proposal, open_one, vote, late, rejected_close)
    assert select(cluster, *waiting) == Selection((), True, waiting)


def test_receipts_wait_for_the_decision() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose()
    receipt = cluster.receipt("node-2", proposal)
    assert select(cluster, receipt) == Selection((), True, ())
    cluster.block(proposal)
    assert select(cluster, receipt) == Selection((), True, ())
    cluster.block(*(cluster.vote(voter, proposal) for voter in cluster.ids))
    assert select(cluster, receipt) == Selection((receipt,), True, ())


def test_a_second_vote_is_ordered_once_as_evidence() -> None:
    cluster = LedgerCluster(4)
    proposal = cluster.propose()
    cluster.block(proposal, cluster.vote("node-2", proposal))
    second, third = cluster.vote("node-2", proposal, "reject"), cluster.vote("node-2", proposal, "abstain")
    assert select(cluster, second).commands == (second,)
    cluster.block(second)
    assert select(cluster, second, third) == Selection((), True, (second, third))


def test_evidence_goes_first_and_once_for_a_member() -> None:
    cluster = LedgerCluster(4)

    def evidence(block: int) -> bytes:
        first, second = (
            Statement(StatementKey(Phase.PREPARE, 0, 0, 3, bytes([item]) * 32), "node-3", b"")
            for item in (0, block)
        )
        signed = [
            Statement(item.key, item.signer, cluster.sign("node-3")(item.sign_bytes(cluster.cluster_id)))
            for item in (first, second)
        ]
        return cluster.application.evidence_command(Evidence(signed[0], signed[1]))

    proposal = cluster.propose()
    assert select(cluster, proposal, evidence(1), evidence(2)).commands == (evidence(1), proposal)
    cluster.block(evidence(1))
    assert select(cluster, evidence(2)) == Selection((), True, (evidence(2),))


def test_changes_of_members_go_alone() -> None:
    cluster = LedgerCluster(4)
    change = {"change": "remove", "id": "node-4"}
    proposal = cluster.propose("node-1", "membership", evidence=change)
    command = cluster.membership("node-1", proposal, change)
    other = cluster.propose()
    assert select(cluster, command, other).commands == (other,), "not approved yet, so it waits"
    cluster.decide(proposal)
    assert select(cluster, other, command) == Selection((command,), True, ())
    nonce = bytes(range(32))
    rejoin = cluster.rejoin("node-2", nonce)
    assert select(cluster, other, rejoin) == Selection((rejoin,), True, ())
    cluster.block(rejoin)
    assert select(cluster, command, rejoin) == Selection((), True, (command, rejoin)), "their epoch is over"


def test_a_member_that_rejoins_too_soon_waits() -> None:
    cluster = LedgerCluster(4)
    cluster.block(cluster.rejoin("node-2", bytes(range(32))))
    again = cluster.rejoin("node-2", bytes(32))
    assert select(cluster, again, after_ms=59_999) == Selection((), True, ())
    assert select(cluster, again, after_ms=60_000) == Selection((again,), True, ())


def test_coordinators_make_their_own_commands() -> None:
    """Another's would put a view on record that the block is not of."""
    cluster = LedgerCluster(4)
    opening = NewView(0, 1, bytes(32), "node-2")
    signature = cluster.sign("node-2")(opening.sign_bytes(cluster.cluster_id))
    command = cluster.application.view_command(NewView(0, 1, bytes(32), "node-2", signature))
    assert select(cluster, command) == Selection((), True, (command,))


def test_what_no_member_would_accept_is_void() -> None:
    cluster = LedgerCluster(4)
    forged = cluster.vote("node-1", cluster.propose())[:-1] + b"\xff"
    assert select(cluster, forged, b"junk") == Selection((), True, (forged, b"junk"))
