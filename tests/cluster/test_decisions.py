"""Four real nodes over mTLS decide together: one chain on all of them, and proofs that verify offline."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, known, until

from replication.cli.load import Measurement, measure
from replication.client import AsyncClient, Client, open_folder
from replication.client.errors import (
    ConflictError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from replication.client.model import AuditEntry, CastVote, Decision, Proposal, ProposalStatus
from replication.identity.genesis import Rules
from replication.ledger.verify import verify_certificate, verify_export
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

TARGETS = (f"agent-{number}" for number in itertools.count(1))


@pytest.fixture
def client(manual_cluster: Cluster) -> Iterator[Client]:
    with manual_cluster.client() as opened:
        yield opened


def vote(client: Client, proposal: Proposal, votes: str) -> Proposal:
    """Cast votes in the order of the nodes: y, n, a, or - for none. The last answer's proposal."""
    words = {"y": "approve", "n": "reject", "a": "abstain"}
    for number, letter in enumerate(votes, start=1):
        if letter != "-":
            known(client, proposal, f"node-{number}")
            proposal = client.vote(proposal.id, words[letter], f"by {letter}", node=f"node-{number}").proposal
    return proposal


@pytest.mark.parametrize(
    ("action", "votes", "decision", "cause"),
    [
        ("quarantine", "yyy-", "approved", "settled"),
        ("quarantine", "yynn", "rejected", "settled"),
        ("quarantine", "nnn-", "rejected", "settled"),
        ("terminate", "yyny", "approved", "settled"),
        ("terminate", "ynyn", "rejected", "settled"),
        ("restrict", "aa--", "no_quorum", "settled"),
        ("anything at all", "yyyy", "approved", "settled"),
    ],
)
def test_votes_decide(client: Client, action: str, votes: str, decision: str, cause: str) -> None:
    proposal = client.propose(
        action, next(TARGETS), {"score": 0.97, "nested": {"list": [1, "ä", None]}}, window_ms=0
    )
    assert (proposal.status, proposal.decision, proposal.votes) == ("open", "pending", ())
    settled = votes.rstrip("-")
    for length in range(len(settled)):
        state = vote(client, proposal, "-" * length + settled[length])
        if state.decided:
            break
    assert state.tally is not None
    assert (state.status, state.decision, state.tally.cause) == ("decided", decision, cause)
    assert state.tally.quorum_required == 3
    for node in ("node-1", "node-4"):
        assert known(client, state, node).decision == decision


def test_all_four_nodes_hold_one_chain_and_every_proof_verifies(
    manual_cluster: Cluster, client: Client
) -> None:
    proposal = vote(client, client.propose("quarantine", next(TARGETS), window_ms=0), "yyyy"[:3])
    known(client, proposal, "node-2")
    client.execute(proposal.id, detail="done", node="node-2")
    until(lambda: len(set(manual_cluster.heads().values())) == 1)
    exports = manual_cluster.verified_exports()
    # A commit certificate holds whichever quorum its coordinator heard first, so certificates are compared by
    # what they prove and everything else byte for byte.
    entries = {node: [line for line in lines if b'"type":"entry"' in line] for node, lines in exports.items()}
    assert len({tuple(lines) for lines in entries.values()}) == 1
    for node in manual_cluster.genesis.members.ids:
        text = client.certificate(proposal.id, node=node).text
        report = verify_certificate(text, manual_cluster.genesis)
        assert (report.proposal_id, report.decision, report.authorises) == (proposal.id, "approved", True)
        assert report.digest == proposal.digest
        assert client.verify_chain(node=node).valid


def test_a_client_reads_its_own_writes_at_the_node_it_asked(client: Client) -> None:
    for number in range(1, 5):
        node = f"node-{number}"
        proposal = client.propose("restrict", next(TARGETS), window_ms=0, node=node)
        assert proposal.proposer_id == node
        assert client.get_proposal(proposal.id, node=node) == proposal
        cast = client.vote(proposal.id, "reject", node=node)
        assert client.get_proposal(proposal.id, node=node).votes == (cast.vote,)
        assert client.close(proposal.id, node=node).decision == "no_quorum"


def test_a_window_and_an_expiry_end_by_themselves(client: Client) -> None:
    windowed = client.propose("release", next(TARGETS), window_ms=400)
    expiring = client.propose("release", next(TARGETS), window_ms=0, expiry_ms=400)
    decided = client.propose("release", next(TARGETS), window_ms=500, wait_for_decision=True)
    assert (decided.status, decided.decision, decided.tally and decided.tally.cause) == (
        "decided",
        "no_quorum",
        "window",
    )

    def state(proposal: Proposal) -> Proposal:
        return client.get_proposal(proposal.id)

    assert state(windowed).tally is not None, "it closed before the other one"
    until(lambda: state(expiring).status is ProposalStatus.EXPIRED)
    assert state(expiring).decision is Decision.NO_QUORUM
    assert client.certificate(expiring.id).text != ""


async def cast(client: AsyncClient, proposal_id: str, node: str) -> CastVote:
    """Vote at a node once it has the proposal."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await client.vote(proposal_id, "approve", node=node)
        except NotFoundError:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.02)


def test_waiting_for_a_decision_answers_when_it_is_taken(manual_cluster: Cluster) -> None:
    async def work() -> tuple[Proposal, Proposal]:
        async with AsyncClient(open_folder(manual_cluster.directory)) as client:
            target = next(TARGETS)
            waiting = asyncio.ensure_future(
                client.propose(
                    "restrict",
                    target,
                    window_ms=0,
                    wait_for_decision=True,
                    node="node-3",
                    timeout_seconds=WAIT_SECONDS,
                )
            )
            found = None
            while found is None:
                listed = [item async for item in client.list_proposals("open", node="node-3")]
                found = next((item for item in listed if item.target == target), None)
            assert not waiting.done()
            for number in (1, 2, 3):
                last = await cast(client, found.id, f"node-{number}")
            return await waiting, last.proposal

    waited, voted = asyncio.run(work())
    assert waited.decision is Decision.APPROVED
    assert waited.id == voted.id


def test_watchers_see_every_entry_once_and_in_order(manual_cluster: Cluster, client: Client) -> None:
    head = client.audit_head()
    entries = client.watch(head.audit_size, node="node-4")
    proposal = vote(client, client.propose("escalate", next(TARGETS), window_ms=0), "yyyy"[:3])
    seen: list[AuditEntry] = []
    while not seen or seen[-1].event_type != "tally":
        seen.append(next(entries))
    entries.close()  # type: ignore[attr-defined]  # it is a generator
    assert [entry.sequence for entry in seen] == list(range(head.audit_size, head.audit_size + len(seen)))
    own = [entry.event_type for entry in seen if entry.proposal_id == proposal.id]
    assert own == ["propose", "vote", "vote", "vote", "tally"]
    assert seen[0].prev_hash == head.audit_head


def test_lists_history_and_statistics(manual_cluster: Cluster, client: Client) -> None:
    first = vote(client, client.propose("restrict", next(TARGETS), window_ms=0), "yyy")
    second = vote(client, client.propose("restrict", next(TARGETS), window_ms=0), "nnn")
    still_open = client.propose("restrict", next(TARGETS), window_ms=0)
    manual_cluster.settle()
    decided = {item.id for item in client.list_proposals("decided", page_size=2)}
    assert {first.id, second.id} <= decided
    assert still_open.id not in decided
    listed = [item.id for item in client.list_proposals(page_size=3)]
    assert listed == sorted(listed)
    assert still_open.id in [item.id for item in client.list_proposals("open")]
    history = {item.proposal_id: item.vote.value for item in client.history("node-2", page_size=2)}
    assert (history[first.id], history[second.id]) == ("approve", "reject")
    assert client.agreement().rate("node-1", "node-2") > 0.5
    assert client.agreement().rate("node-1", "node-1") == 1.0
    assert any({"node-1", "node-2"} <= set(bloc) for bloc in client.blocs(0.5).blocs)
    summary = client.summary()
    assert summary.total_proposals == len(listed)
    assert summary.open + summary.approved + summary.rejected + summary.no_quorum + summary.expired >= len(
        listed
    )
    assert (summary.voter_count, summary.max_byzantine_faults, summary.bft_quorum) == (4, 1, 3)
    client.close(still_open.id)


def test_entries_page_by_page_are_the_chain(client: Client) -> None:
    size = client.audit_head().audit_size
    sequence, previous = 0, ""
    while sequence < size:
        page = client.audit_entries(sequence, 7)
        for entry in page.entries:
            assert (entry.sequence, entry.prev_hash) == (sequence, previous)
            sequence, previous = sequence + 1, entry.hash
    assert client.audit_entries(page.audit_size, 5).entries == ()


def test_requests_are_idempotent(client: Client) -> None:
    first = client.propose("restrict", "agent-x", {"a": 1}, window_ms=0, request_id="once", node="node-2")
    again = client.propose("restrict", "agent-x", {"a": 1}, window_ms=0, request_id="once", node="node-2")
    assert again == first
    with pytest.raises(ConflictError) as reused:
        client.propose("restrict", "agent-y", {"a": 1}, window_ms=0, request_id="once", node="node-2")
    assert (reused.value.reason, reused.value.status) == ("REQUEST_ID_REUSED", "ALREADY_EXISTS")
    known(client, first, "node-1")
    cast = client.vote(first.id, "approve", request_id="vote-1", node="node-1")
    assert client.vote(first.id, "approve", request_id="vote-1", node="node-1").vote == cast.vote
    with pytest.raises(ConflictError) as changed:
        client.vote(first.id, "reject", request_id="vote-1", node="node-1")
    assert changed.value.reason == "REQUEST_ID_REUSED"
    closed = client.close(first.id, request_id="close-1")
    assert client.close(first.id, request_id="close-1") == closed


def test_the_same_request_at_another_node_is_not_proposed_twice(client: Client) -> None:
    """What a client does whose node went away after it had passed the proposal on."""
    first = client.propose("restrict", "agent-m", {"b": 2}, window_ms=0, request_id="moved", node="node-1")
    before = client.summary().total_proposals
    again = client.propose("restrict", "agent-m", {"b": 2}, window_ms=0, request_id="moved", node="node-3")
    assert again.id == first.id
    known(client, first, "node-3")
    assert client.summary(node="node-3").total_proposals == before
    client.close(first.id)


def test_receipts_and_execution(client: Client) -> None:
    proposal = vote(client, client.propose("quarantine", next(TARGETS), window_ms=0), "yyy")
    partial = client.execute(proposal.id, "partial", "half of it")
    assert partial.status is ProposalStatus.DECIDED
    until(lambda: client.get_proposal(proposal.id, node="node-4").receipts)
    done = client.execute(proposal.id, "succeeded", "all of it", node="node-4", request_id="done")
    assert done.status is ProposalStatus.EXECUTED
    assert [receipt.outcome for receipt in done.receipts] == ["partial", "succeeded"]
    assert client.execute(proposal.id, "succeeded", "all of it", node="node-4", request_id="done") == done
    with pytest.raises(ConflictError) as again:
        client.execute(proposal.id, "succeeded", "once more", node="node-4")
    assert again.value.reason == "ALREADY_EXECUTED"


def test_policies_decide_without_anybody(approving_cluster: Cluster) -> None:
    with approving_cluster.client() as client:
        proposal = client.propose("terminate", "agent-7", {"score": 1}, wait_for_decision=True)
        assert proposal.approved
        report = verify_certificate(client.certificate(proposal.id).text, approving_cluster.genesis)
        assert report.authorises


def test_load_from_many_clients_is_complete_on_every_node(approving_cluster: Cluster) -> None:
    def load() -> Measurement:
        handle = open_folder(approving_cluster.directory)
        return asyncio.run(measure(handle, clients=16, seconds=2.0, spread=True))

    decisions: dict[str, Decision] = {}
    while len(decisions) <= 50:
        measured = load()
        assert measured.complete
        assert not measured.load.errors
        decisions |= measured.load.decisions
    assert set(decisions.values()) == {Decision.APPROVED}
    approving_cluster.settle()
    report = verify_export(approving_cluster.export("node-2"), approving_cluster.genesis)
    assert report.decisions["approved"] >= len(decisions)


def test_too_many_open_proposals(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(nodes=1, rules=Rules(max_active_proposals=2))
    with cluster.client() as client:
        opened = [client.propose("restrict", window_ms=0) for _ in range(2)]
        with pytest.raises(ResourceExhaustedError) as refused:
            client.propose("restrict", window_ms=0)
        assert refused.value.reason == "TOO_MANY_PROPOSALS"
        client.close(opened[0].id)
        assert client.propose("restrict", window_ms=0).id == "prop-0003"


def test_a_changed_vote_counts_where_the_rules_allow_it(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(nodes=4, rules=Rules(allow_vote_change=True))
    with cluster.client() as client:
        proposal = client.propose("restrict", window_ms=0)
        assert client.vote(proposal.id, "reject", node="node-1").vote.revision == 0
        assert client.vote(proposal.id, "approve", node="node-1").vote.revision == 1
        state = vote(client, proposal, "-yy-")
        assert (state.decision, state.tally and state.tally.approve_count) == ("approved", 3)
    verify_export(cluster.export("node-3"), cluster.genesis)


def test_without_a_quorum_a_write_says_so_and_a_read_still_works(
    make_cluster: MakeCluster, approving: PolicyChoice
) -> None:
    cluster = make_cluster(policy=approving)
    with cluster.client() as client:
        known = client.propose("restrict", wait_for_decision=True, node="node-1")
        cluster.kill("node-3")
        cluster.kill("node-4")
        until(lambda: sum(member.reachable for member in client.status(node="node-1").members) == 2)
        with (
            Client(open_folder(cluster.directory), rounds=1) as hasty,
            pytest.raises(UnavailableError) as stuck,
        ):
            hasty.propose("restrict", request_id="later", node="node-1", timeout_seconds=WAIT_SECONDS)
        assert stuck.value.reason == "NO_QUORUM_OF_NODES"
        assert client.get_proposal(known.id, node="node-1").approved
        cluster.start_one("node-3")
        # The command was kept; the same request finds it, and nothing is proposed twice.
        decided = client.propose(
            "restrict",
            request_id="later",
            node="node-1",
            wait_for_decision=True,
            timeout_seconds=WAIT_SECONDS,
        )
        assert decided.approved
        listed = list(client.list_proposals(node="node-1"))
        assert [item.request_id for item in listed].count("later") == 1
