"""The clients against servers with mTLS: who is asked, what is retried where, and what failures look like."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.cli.fake_cluster import HEAD, FakeCluster

from replication.client import (
    AsyncClient,
    Client,
    ClusterHandle,
    Endpoint,
    UsageError,
    call_id,
    open_folder,
    resolve,
)
from replication.client.errors import (
    ConflictError,
    ConnectionRefusedByNodeError,
    DeadlineExceededError,
    NotFoundError,
    PermissionDeniedError,
    ResponseError,
    UnavailableError,
    UnknownMemberError,
)
from replication.identity.roles import CertificateForeignError
from replication.ledger.verify import VerificationError
from replication.node.local.provision import provision_cluster


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def client(fake: FakeCluster) -> Iterator[Client]:
    with Client(open_folder(fake.directory), rounds=2) as opened:
        yield opened


def asked(fake: FakeCluster, method: str) -> list[str]:
    """The nodes that got a call, in order."""
    return [node for name, node in fake.calls if name == method]


def test_every_method_has_a_blocking_twin() -> None:
    public = {name for name in dir(AsyncClient) if not name.startswith("_")}
    assert public == {name for name in dir(Client) if not name.startswith("_")}


def test_propose_vote_close_execute(fake: FakeCluster, client: Client) -> None:
    proposal = client.propose("restrict", "agent-1", {"n": 1}, window_ms=0, expiry_ms=5)
    assert (proposal.id, proposal.closes_ms, proposal.expires_ms) == ("prop-0001", 0, 5)
    assert client.propose("restrict").closes_ms == 7, "left out means the cluster's default"
    cast = client.vote(proposal.id, "reject", "because", node="node-3")
    assert (cast.vote.voter_id, cast.vote.reason) == ("node-3", "because")
    assert client.close(proposal.id).decision == "no_quorum"
    assert client.execute(proposal.id, "partial", "half").receipts[0].outcome == "partial"
    assert [vote.vote.value for vote in client.history("node-3")] == ["reject"]
    assert all(deadline is not None and deadline < 11 for deadline in fake.state.deadlines)


def test_reads(client: Client) -> None:
    client.propose("restrict", wait_for_decision=True)
    assert client.get_proposal("prop-0001").approved
    assert client.summary().bft_quorum == 3
    assert client.blocs(0.5).blocs == (("node-1", "node-2"),)
    assert client.agreement().rate("node-1", "node-2") == 0.5
    assert client.audit_head().audit_head == HEAD
    assert client.verify_chain().valid
    assert list(client.export_chain()) == ['{"type":"audit-export"}', '{"type":"block"}', '{"type":"end"}']
    assert [entry.sequence for entry in client.audit_entries(2, 3).entries] == [2, 3, 4]
    assert client.audit_entries(7).entries == ()
    assert client.status(node="node-2").node_id == "node-2"
    assert sorted(client.survey()) == ["node-1", "node-2", "node-3", "node-4"]


def test_clocks_are_compared_around_each_answer(fake: FakeCluster, client: Client) -> None:
    """A node that hangs makes a survey last, and nobody's clock wrong."""
    fake.state.hanging.add("node-4")
    fake.state.clock_offsets_ms = {"node-2": -61_000, "node-3": 61_000}
    answers = client.survey(timeout_seconds=3.0)
    assert sorted(answers) == ["node-1", "node-2", "node-3"]
    assert answers["node-1"].clock_skew_ms == 0
    assert -61_000 <= answers["node-2"].clock_skew_ms < -57_000
    assert 57_000 < answers["node-3"].clock_skew_ms <= 61_000


def test_listings_are_paged(fake: FakeCluster, client: Client) -> None:
    for _ in range(5):
        client.propose("restrict")
    assert [item.id for item in client.list_proposals(page_size=2)] == [f"prop-000{n}" for n in range(1, 6)]
    assert len(asked(fake, "ListProposals")) == 3
    assert list(client.list_proposals("decided")) == []


def test_watch_goes_on_at_the_next_node(fake: FakeCluster, client: Client) -> None:
    entries = client.watch(2)
    assert [next(entries).sequence for _ in range(7)] == [2, 3, 4, 5, 6, 7, 8]
    entries.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(asked(fake, "Watch")) == 3


def test_reads_and_proposals_move_on_to_the_next_node(fake: FakeCluster, client: Client) -> None:
    fake.fail_next("Propose", grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", node="node-1")
    assert client.propose("restrict").proposer_id == "node-2"
    client.get_proposal("prop-0001")
    assert asked(fake, "Propose") == ["node-1", "node-2"]
    assert asked(fake, "GetProposal") == ["node-2"], "the node that answered is asked first from then on"


def test_asking_one_member_changes_nothing_for_the_next_calls(fake: FakeCluster, client: Client) -> None:
    client.summary(node="node-3")
    client.survey()
    client.summary()
    assert asked(fake, "GetSummary") == ["node-3", "node-1"]


def test_a_dead_node_is_left_for_the_next_one(fake: FakeCluster, client: Client) -> None:
    fake.stop("node-1")
    fake.stop("node-2")
    assert client.summary().bft_quorum == 3
    assert asked(fake, "GetSummary") == ["node-3"]


def test_a_retry_carries_the_same_request_id(fake: FakeCluster, client: Client) -> None:
    first = client.propose("restrict", request_id="mine")
    assert client.propose("restrict", request_id="mine").id == first.id
    assert len(fake.state.proposals) == 1


def test_a_vote_never_moves_to_another_node(fake: FakeCluster, client: Client) -> None:
    client.propose("restrict")
    fake.stop("node-1")
    with pytest.raises(UnavailableError, match="node-1"):
        client.vote("prop-0001", "approve")
    assert asked(fake, "CastVote") == []
    fake.fail_next("CastVote", grpc.StatusCode.UNAVAILABLE, node="node-2")
    assert client.vote("prop-0001", "approve", node="node-2").vote.voter_id == "node-2"
    assert asked(fake, "CastVote") == ["node-2", "node-2"]


def test_a_close_goes_to_the_proposer(fake: FakeCluster, client: Client) -> None:
    client.propose("restrict", node="node-3")
    client.close("prop-0001")
    assert asked(fake, "CloseProposal") == ["node-3"]


def test_a_receipt_stays_with_the_node_that_may_have_it(fake: FakeCluster, client: Client) -> None:
    client.propose("restrict", wait_for_decision=True)
    fake.fail_next("Execute", grpc.StatusCode.UNAVAILABLE, reason="BUSY")
    assert client.execute("prop-0001").receipts[0].executor_id == "node-1"
    assert asked(fake, "Execute") == ["node-1", "node-1"]


def test_a_receipt_moves_on_when_nothing_was_sent(fake: FakeCluster, client: Client) -> None:
    client.propose("restrict", wait_for_decision=True)
    fake.stop("node-1")
    client.summary()  # a read finds out first; else the receipt might go out on a connection that is gone
    assert client.execute("prop-0001").receipts[0].executor_id == "node-2"


def test_answers_of_nodes_that_are_errors_are_not_retried(fake: FakeCluster, client: Client) -> None:
    fake.fail_next("CastVote", grpc.StatusCode.PERMISSION_DENIED, reason="ROLE_NOT_ALLOWED", message="viewer")
    with pytest.raises(PermissionDeniedError, match="viewer") as denied:
        client.vote("prop-0001", "approve")
    assert (denied.value.reason, denied.value.status) == ("ROLE_NOT_ALLOWED", "PERMISSION_DENIED")
    with pytest.raises(NotFoundError) as missing:
        client.get_proposal("prop-0001")
    assert missing.value.reason == "PROPOSAL_UNKNOWN"
    client.propose("restrict")
    client.vote("prop-0001", "approve")
    with pytest.raises(ConflictError, match="voted already"):
        client.vote("prop-0001", "approve")


def test_with_no_node_at_all_every_one_is_named(fake: FakeCluster, client: Client) -> None:
    for node in list(fake.servers):
        fake.stop(node)
    with pytest.raises(UnavailableError) as failure:
        client.summary()
    for member in fake.genesis.members.members:
        assert f"{member.id} at {member.address}" in str(failure.value)
    assert client.survey() == {}


def test_without_a_round_limit_a_client_waits_for_nodes_to_come_back(fake: FakeCluster) -> None:
    for member in list(fake.servers):
        fake.stop(member)
    with Client(open_folder(fake.directory)) as patient:
        back = threading.Timer(0.3, fake.start, ["node-4"])
        back.start()
        assert patient.summary(timeout_seconds=60).bft_quorum == 3
        back.join()


def test_a_write_without_an_answer_says_how_to_find_out(fake: FakeCluster, client: Client) -> None:
    fake.fail_next("Propose", grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(DeadlineExceededError, match="request id mine") as failure:
        client.propose("restrict", request_id="mine", wait_for_decision=True)
    assert failure.value.metadata["request_id"] == "mine"


def test_an_answer_that_is_not_right_is_refused(fake: FakeCluster, client: Client) -> None:
    client.propose("restrict")
    fake.state.corrupt = True
    with pytest.raises(ResponseError, match="digest"):
        client.get_proposal("prop-0001")


def test_a_certificate_is_verified_when_the_genesis_is_known(fake: FakeCluster, client: Client) -> None:
    client.propose("restrict", wait_for_decision=True)
    with pytest.raises(VerificationError):
        client.certificate("prop-0001")
    parts = fake.directory / "clients"
    handle = resolve(
        endpoints=[fake.genesis.members.members[0].address],
        certificate=parts / "viewer.crt",
        key=parts / "viewer.key",
        authority=fake.directory / "ca" / "ca.crt",
        environment={},
    )
    with Client(handle) as blind:
        assert not blind.certificate("prop-0001").verified


def test_a_foreign_certificate_is_explained_before_dialling(fake: FakeCluster, tmp_path: Path) -> None:
    provision_cluster(tmp_path / "other", nodes=1)
    other = tmp_path / "other" / "clients"
    handle = resolve(directory=fake.directory, certificate=other / "admin.crt", key=other / "admin.key")
    with Client(handle) as client, pytest.raises(CertificateForeignError):
        client.summary()
    assert fake.calls == []


def test_a_node_that_refuses_our_certificate_is_explained(
    fake: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `test_a_foreign_certificate_is_explained_before_dialling`, but found by the node."""
    provision_cluster(tmp_path / "other", nodes=1)
    other = tmp_path / "other" / "clients"
    handle = resolve(directory=fake.directory, certificate=other / "admin.crt", key=other / "admin.key")
    monkeypatch.setattr(ClusterHandle, "check", lambda self: None)
    with (
        Client(handle, rounds=1) as client,
        pytest.raises(ConnectionRefusedByNodeError, match="does not accept"),
    ):
        client.summary()


def test_a_node_that_is_another_member_is_refused(fake: FakeCluster) -> None:
    address = fake.genesis.members.members[1].address
    handle = resolve(directory=fake.directory, endpoints=[f"node-1={address}"])
    with Client(handle, rounds=1) as client, pytest.raises(ConnectionRefusedByNodeError):
        client.summary()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_every_call_has_a_possible_deadline(client: Client, timeout: float) -> None:
    with pytest.raises(UsageError, match="time limit"):
        client.summary(timeout_seconds=timeout)


def test_bad_arguments_reach_no_node(fake: FakeCluster, client: Client) -> None:
    with pytest.raises(UsageError, match="approve, reject, abstain"):
        client.vote("prop-0001", "maybe")
    with pytest.raises(UsageError, match="succeeded"):
        client.execute("prop-0001", "perhaps")
    with pytest.raises(UsageError, match="open"):
        list(client.list_proposals("closed"))
    with pytest.raises(UsageError, match="window_ms"):
        client.propose("restrict", window_ms=-1)
    with pytest.raises(UsageError, match="JSON"):
        client.propose("restrict", evidence={"x": float("nan")})
    with pytest.raises(UsageError, match="JSON"):
        client.propose("restrict", evidence={"x": object()})
    with pytest.raises(UsageError, match="UTF-8"):
        client.propose("restrict", "\ud800")
    with pytest.raises(UsageError, match="threshold"):
        client.blocs(0)
    with pytest.raises(UsageError, match="page"):
        client.audit_entries(0, 501)
    assert fake.calls == []


def test_a_member_that_nobody_knows(fake: FakeCluster, client: Client) -> None:
    """It may have come later, so all are asked; then it is said."""
    with pytest.raises(UnknownMemberError, match="There is no member 'node-9'"):
        client.summary(node="node-9")
    assert sorted(fake.calls) == [("GetStatus", f"node-{number}") for number in range(1, 5)]
    fake.calls.clear()
    narrow = open_folder(fake.directory).only("node-1")
    with Client(narrow) as alone, pytest.raises(UnknownMemberError):
        alone.summary(node="node-2")
    assert fake.calls == []


def test_many_threads_share_one_client(fake: FakeCluster, client: Client) -> None:
    threads = [threading.Thread(target=client.propose, args=("restrict",)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake.state.proposals) == 12


def test_a_closed_client_says_so(fake: FakeCluster) -> None:
    client = Client(open_folder(fake.directory))
    client.disconnect()
    client.disconnect()
    with pytest.raises(UsageError, match="closed"):
        client.summary()


def test_the_asyncio_client_alone(fake: FakeCluster) -> None:
    async def work() -> list[str]:
        async with AsyncClient(open_folder(fake.directory)) as client:
            await asyncio.gather(*(client.propose("restrict") for _ in range(3)))
            return [item.id async for item in client.list_proposals()]

    assert asyncio.run(work()) == ["prop-0001", "prop-0002", "prop-0003"]


def test_endpoints_print_as_people_write_them() -> None:
    assert [str(Endpoint("h:1", "a")), str(Endpoint("h:1"))] == ["a at h:1", "h:1"]


def test_when_the_time_is_up_the_reason_that_a_node_gave_is_told(fake: FakeCluster, client: Client) -> None:
    fake.fail_next("Propose", grpc.StatusCode.UNAVAILABLE, reason="NO_QUORUM_OF_NODES", message="too few")
    fake.fail_next("Propose", grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(UnavailableError, match="too few") as failure:
        client.propose("restrict", request_id="mine", node="node-2")
    assert failure.value.reason == "NO_QUORUM_OF_NODES"


def test_an_error_names_the_call(fake: FakeCluster, client: Client) -> None:
    fake.fail_next("GetProposal", grpc.StatusCode.NOT_FOUND, reason="UNKNOWN_PROPOSAL")
    with pytest.raises(NotFoundError) as caught:
        client.get_proposal("prop-0001")
    assert caught.value.call_id == fake.state.call_ids[-1]
    assert f"call={fake.state.call_ids[-1]}" in caught.value.__notes__[0]


def test_a_call_carries_the_id_that_is_given_wherever_it_goes(fake: FakeCluster, client: Client) -> None:
    for node in ("node-1", "node-2"):
        fake.fail_next("GetSummary", grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", node=node)
    with call_id("web-4711"):
        client.summary()
        list(client.export_chain())
    assert fake.state.call_ids == ["web-4711"] * 4
    client.summary()
    client.summary()
    assert len(set(fake.state.call_ids)) == 3, "a new one for each call"
    with pytest.raises(UsageError, match="1 to 64"), call_id("no spaces"):
        pass
