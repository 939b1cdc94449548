"""Everything that can be wrong with a request or with a node's home: each gets its own status and reason (and
exit code at the command line), and none of it changes anything."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import Cluster, known, run_acp, until

from replication.cli.main import ExitCode
from replication.client import Client, ClusterHandle, open_folder
from replication.client.errors import ConnectionRefusedByNodeError
from replication.identity.roles import Role
from replication.identity.tls import issue
from replication.node.config import Timing
from replication.node.local.provision import provision_cluster
from replication.v1 import audit_service_pb2, cluster_service_pb2, model_pb2, voting_service_pb2

pytestmark = pytest.mark.cluster

VOTING = "/replication.v1.VotingService/"
DEADLINE_SECONDS = 10.0


@pytest.fixture
def client(manual_cluster: Cluster) -> Iterator[Client]:
    with manual_cluster.client() as opened:
        yield opened


@pytest.fixture
def unchanged(manual_cluster: Cluster) -> Iterator[None]:
    """The record of every node is the same afterwards."""
    manual_cluster.settle()
    before = content(manual_cluster)
    yield
    manual_cluster.settle()
    assert content(manual_cluster) == before, "what was refused has changed something"


def content(cluster: Cluster) -> dict[str, list[tuple[str, str, str, str]]]:
    """Type, proposal, actor and data of the entries that each node has. Who coordinates may change at any
    time, if the machine stands still for a second: that is left out."""
    found = {}
    with cluster.client("viewer") as client:
        for node in cluster.genesis.members.ids:
            page = client.audit_entries(0, 500, node=node)
            assert len(page.entries) == page.audit_size, "there are more"
            found[node] = [
                (entry.event_type, entry.proposal_id, entry.actor_id, repr(entry.data))
                for entry in page.entries
                if entry.event_type != "coordinator"
            ]
    return found


@contextmanager
def raw_channel(cluster: Cluster, node: str = "node-1", role: str = "admin") -> Iterator[grpc.Channel]:
    """A bare channel, for requests that the client library would not send."""
    folder = cluster.directory / "clients"
    credentials = grpc.ssl_channel_credentials(
        (cluster.directory / "ca" / "ca.crt").read_bytes(),
        (folder / f"{role}.key").read_bytes(),
        (folder / f"{role}.crt").read_bytes(),
    )
    member = cluster.genesis.members.get(node)
    assert member is not None
    with grpc.secure_channel(
        member.address, credentials, options=[("grpc.ssl_target_name_override", node)]
    ) as channel:
        yield channel


def refusal(
    cluster: Cluster,
    method: str,
    request: Any,
    *,
    role: str = "admin",
    timeout: float | None = DEADLINE_SECONDS,
) -> tuple[str, str, list[str]]:
    """Status, reason and fields at fault of a call that must fail."""
    with raw_channel(cluster, role=role) as channel:
        path = method if method.startswith("/") else VOTING + method
        call: Any = channel.unary_unary(path, request_serializer=type(request).SerializeToString)
        with pytest.raises(grpc.RpcError) as failed:
            call(request, timeout=timeout)
    error: Any = failed.value
    assert error.details(), "it says nothing to a person"
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return error.code().name, *explained(value)
    return error.code().name, "", []


def explained(raw: bytes) -> tuple[str, list[str]]:
    reason, fields = "", []
    for detail in status_pb2.Status.FromString(raw).details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == "agent-consensus"
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return reason, fields


def propose(**fields: Any) -> voting_service_pb2.ProposeRequest:
    return voting_service_pb2.ProposeRequest(**{"request_id": "bad", "action": "restrict", **fields})


def cast(**fields: Any) -> voting_service_pb2.CastVoteRequest:
    defaults = {"request_id": "bad", "proposal_id": "prop-0001", "value": model_pb2.VOTE_VALUE_APPROVE}
    return voting_service_pb2.CastVoteRequest(**{**defaults, **fields})


def execute(**fields: Any) -> voting_service_pb2.ExecuteRequest:
    return voting_service_pb2.ExecuteRequest(**{"request_id": "bad", "proposal_id": "prop-0001", **fields})


def listing(**fields: Any) -> voting_service_pb2.ListProposalsRequest:
    return voting_service_pb2.ListProposalsRequest(**fields)


INVALID = "INVALID_ARGUMENT"
DEEP = '{"a":' * 60 + "1" + "}" * 60


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("Propose", propose(request_id=""), (INVALID, "INVALID_REQUEST_ID", ["request_id"])),
        ("Propose", propose(request_id="a b"), (INVALID, "INVALID_REQUEST_ID", ["request_id"])),
        ("Propose", propose(request_id="a" * 65), (INVALID, "INVALID_REQUEST_ID", ["request_id"])),
        ("Propose", propose(action=""), (INVALID, "ACTION_MISSING", ["action"])),
        ("Propose", propose(action="x" * 9999), (INVALID, "ACTION_TOO_LONG", ["action"])),
        ("Propose", propose(target="x" * 9999), (INVALID, "TARGET_TOO_LONG", ["target"])),
        ("Propose", propose(window_ms=2**63), (INVALID, "INVALID_WINDOW_MS", ["window_ms"])),
        ("Propose", propose(expiry_ms=2**64 - 1), (INVALID, "INVALID_EXPIRY_MS", ["expiry_ms"])),
        ("Propose", propose(evidence_json="{"), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        ("Propose", propose(evidence_json="[1]"), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        ("Propose", propose(evidence_json='"text"'), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        ("Propose", propose(evidence_json='{"a":1,"a":2}'), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        ("Propose", propose(evidence_json='{"a":NaN}'), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        ("Propose", propose(evidence_json='{"a":1e999}'), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        (
            "Propose",
            propose(evidence_json='{"a":"\\ud800"}'),
            (INVALID, "INVALID_EVIDENCE", ["evidence_json"]),
        ),
        ("Propose", propose(evidence_json=DEEP), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        ("Propose", propose(evidence_json="[" * 60_000), (INVALID, "INVALID_EVIDENCE", ["evidence_json"])),
        (
            "Propose",
            propose(evidence_json=json.dumps({"a": "x" * 65_536})),
            (INVALID, "EVIDENCE_TOO_LARGE", ["evidence_json"]),
        ),
        ("CastVote", cast(proposal_id="prop-9999"), ("NOT_FOUND", "UNKNOWN_PROPOSAL", [])),
        ("CastVote", cast(proposal_id=""), (INVALID, "INVALID_PROPOSAL_ID", ["proposal_id"])),
        ("CastVote", cast(proposal_id="0001"), (INVALID, "INVALID_PROPOSAL_ID", ["proposal_id"])),
        ("CastVote", cast(proposal_id="prop-1"), (INVALID, "INVALID_PROPOSAL_ID", ["proposal_id"])),
        ("CastVote", cast(proposal_id="prop-00001"), (INVALID, "INVALID_PROPOSAL_ID", ["proposal_id"])),
        ("CastVote", cast(value=0), (INVALID, "INVALID_VOTE_VALUE", ["value"])),
        ("CastVote", cast(value=99), (INVALID, "INVALID_VOTE_VALUE", ["value"])),
        ("CastVote", cast(reason="ä" * 513), (INVALID, "REASON_TOO_LONG", ["reason"])),
        (
            "CloseProposal",
            voting_service_pb2.CloseProposalRequest(request_id="c", proposal_id="prop-9999"),
            ("NOT_FOUND", "UNKNOWN_PROPOSAL", []),
        ),
        (
            "Execute",
            voting_service_pb2.ExecuteRequest(request_id="e", proposal_id="prop-9999"),
            ("NOT_FOUND", "UNKNOWN_PROPOSAL", []),
        ),
        (
            "Execute",
            execute(outcome=77),
            (INVALID, "INVALID_OUTCOME", ["outcome"]),
        ),
        (
            "Execute",
            execute(detail="x" * 1025),
            (INVALID, "DETAIL_TOO_LONG", ["detail"]),
        ),
        (
            "GetProposal",
            voting_service_pb2.GetProposalRequest(proposal_id="prop-9999"),
            ("NOT_FOUND", "UNKNOWN_PROPOSAL", []),
        ),
        (
            "GetCertificate",
            voting_service_pb2.GetCertificateRequest(proposal_id="prop-9999"),
            ("NOT_FOUND", "UNKNOWN_PROPOSAL", []),
        ),
        (
            "GetHistory",
            voting_service_pb2.GetHistoryRequest(voter_id="node-9"),
            ("NOT_FOUND", "UNKNOWN_VOTER", []),
        ),
        (
            "GetHistory",
            voting_service_pb2.GetHistoryRequest(voter_id="../x"),
            (INVALID, "INVALID_VOTER_ID", ["voter_id"]),
        ),
        (
            "ListProposals",
            listing(status=42),
            (INVALID, "INVALID_STATUS", ["status"]),
        ),
        (
            "ListProposals",
            voting_service_pb2.ListProposalsRequest(page_size=501),
            (INVALID, "INVALID_PAGE_SIZE", ["page_size"]),
        ),
        (
            "ListProposals",
            voting_service_pb2.ListProposalsRequest(page_token="' OR 1=1"),
            (INVALID, "INVALID_PAGE_TOKEN", ["page_token"]),
        ),
        (
            "GetBlocs",
            voting_service_pb2.GetBlocsRequest(threshold=1.5),
            (INVALID, "INVALID_THRESHOLD", ["threshold"]),
        ),
        (
            "GetBlocs",
            voting_service_pb2.GetBlocsRequest(threshold=float("nan")),
            (INVALID, "INVALID_THRESHOLD", ["threshold"]),
        ),
        (
            "/replication.v1.AuditService/ListEntries",
            audit_service_pb2.ListEntriesRequest(page_size=10**6),
            (INVALID, "INVALID_PAGE_SIZE", ["page_size"]),
        ),
    ],
)
def test_malformed_requests(
    manual_cluster: Cluster, method: str, request_: Any, expected: tuple[str, str, list[str]]
) -> None:
    assert refusal(manual_cluster, method, request_) == expected


def test_votes_that_come_twice_or_too_late(manual_cluster: Cluster, client: Client) -> None:
    voted = client.propose("restrict", "agent-1", window_ms=0)
    client.vote(voted.id, "approve", node="node-1")
    decided = client.propose("restrict", "agent-2", window_ms=0)
    for node in ("node-2", "node-3", "node-4"):
        known(client, decided, node)
        client.vote(decided.id, "reject", node=node)
    expired = client.propose("restrict", "agent-3", window_ms=0, expiry_ms=1, wait_for_decision=True)
    assert expired.status == "expired"
    closed = client.close(client.propose("restrict", "agent-4", window_ms=0).id)
    manual_cluster.settle()
    before = content(manual_cluster)
    for proposal, value, reason in (
        (voted, model_pb2.VOTE_VALUE_APPROVE, "ALREADY_VOTED"),
        (voted, model_pb2.VOTE_VALUE_REJECT, "ALREADY_VOTED"),
        (decided, model_pb2.VOTE_VALUE_APPROVE, "PROPOSAL_NOT_OPEN"),
        (expired, model_pb2.VOTE_VALUE_APPROVE, "PROPOSAL_EXPIRED"),
        (closed, model_pb2.VOTE_VALUE_APPROVE, "PROPOSAL_NOT_OPEN"),
    ):
        answer = refusal(
            manual_cluster, "CastVote", cast(proposal_id=proposal.id, value=value, request_id=f"r{value}")
        )
        assert answer == ("FAILED_PRECONDITION", reason, [])
        vote = {1: "approve", 2: "reject"}[value]
        run = manual_cluster.acp("vote", proposal.id, vote, "--node", "node-1")
        assert (run.code, run.out) == (ExitCode.CONFLICT, "")
        assert f"[{reason}]" in run.err
    for call, request, reason in (
        (
            "CloseProposal",
            voting_service_pb2.CloseProposalRequest(request_id="x", proposal_id=decided.id),
            "PROPOSAL_NOT_OPEN",
        ),
        (
            "Execute",
            voting_service_pb2.ExecuteRequest(request_id="x", proposal_id=decided.id),
            "NOT_APPROVED",
        ),
        (
            "Execute",
            voting_service_pb2.ExecuteRequest(request_id="x", proposal_id=expired.id),
            "NOT_APPROVED",
        ),
        ("GetCertificate", voting_service_pb2.GetCertificateRequest(proposal_id=voted.id), "NOT_DECIDED"),
        ("Execute", voting_service_pb2.ExecuteRequest(request_id="x", proposal_id=voted.id), "NOT_APPROVED"),
    ):
        assert refusal(manual_cluster, call, request)[:2] == ("FAILED_PRECONDITION", reason)
    foreign = client.propose("restrict", "agent-5", window_ms=0, node="node-2")
    known(client, foreign, "node-1")
    request = voting_service_pb2.CloseProposalRequest(request_id="x", proposal_id=foreign.id)
    assert refusal(manual_cluster, "CloseProposal", request)[:2] == ("FAILED_PRECONDITION", "NOT_PROPOSER")
    client.close(foreign.id)
    manual_cluster.settle()
    for node, entries in content(manual_cluster).items():
        assert entries[:-2] == before[node], "only the last proposal and its tally were added"
        assert [(kind, proposal) for kind, proposal, *_ in entries[-2:]] == [
            ("propose", foreign.id),
            ("tally", foreign.id),
        ]
    client.close(voted.id)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("propose", "restrict", "x", "--evidence", "[1]"), ExitCode.USAGE, "USAGE"),
        (("propose", "restrict", "x", "--evidence", "{"), ExitCode.USAGE, "USAGE"),
        (
            ("propose", "restrict", "x", "--evidence", "@/nonexistent"),
            ExitCode.OPERATOR,
            "OPERATOR_ACTION_NEEDED",
        ),
        (("propose", "", "x"), ExitCode.USAGE, "ACTION_MISSING"),
        (("propose", "restrict", "x", "--request-id", "a b"), ExitCode.USAGE, "INVALID_REQUEST_ID"),
        (("vote", "prop-9999", "approve"), ExitCode.NOT_FOUND, "UNKNOWN_PROPOSAL"),
        (("vote", "nonsense", "approve"), ExitCode.USAGE, "INVALID_PROPOSAL_ID"),
        (("vote", "prop-0001", "maybe"), ExitCode.USAGE, "USAGE"),
        (("vote", "prop-0001", "approve", "--node", "node-9"), ExitCode.USAGE, "UNKNOWN_MEMBER"),
        (("vote", "prop-0001", "approve", "--reason", "x" * 1025), ExitCode.USAGE, "REASON_TOO_LONG"),
        (("show", "prop-9999"), ExitCode.NOT_FOUND, "UNKNOWN_PROPOSAL"),
        (("certificate", "prop-9999"), ExitCode.NOT_FOUND, "UNKNOWN_PROPOSAL"),
        (("history", "nobody"), ExitCode.NOT_FOUND, "UNKNOWN_VOTER"),
        (("proposals", "--status", "closed"), ExitCode.USAGE, "USAGE"),
        (("propose", "restrict", "x", "--role", "viewer"), ExitCode.DENIED, "ROLE_NOT_ALLOWED"),
        (("vote", "prop-0001", "approve", "--role", "executor"), ExitCode.DENIED, "ROLE_NOT_ALLOWED"),
        (("close", "prop-0001", "--role", "viewer", "--node", "node-1"), ExitCode.DENIED, "ROLE_NOT_ALLOWED"),
        (("execute", "prop-0001", "--role", "viewer"), ExitCode.DENIED, "ROLE_NOT_ALLOWED"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_the_command_line_says_what_is_wrong(
    manual_cluster: Cluster, arguments: tuple[str, ...], code: ExitCode, reason: str
) -> None:
    run = manual_cluster.acp(*arguments)
    assert (run.code, run.out) == (code, "")
    assert run.err.startswith("error: ")
    assert f"[{reason}]" in run.err


@pytest.mark.usefixtures("unchanged")
def test_calls_without_a_deadline_and_with_too_much(manual_cluster: Cluster) -> None:
    answer = refusal(manual_cluster, "Propose", propose(), timeout=None)
    assert answer[:2] == (INVALID, "DEADLINE_REQUIRED")
    status = refusal(
        manual_cluster,
        "/replication.v1.ClusterService/GetStatus",
        cluster_service_pb2.GetStatusRequest(),
        timeout=None,
    )
    assert status[:2] == (INVALID, "DEADLINE_REQUIRED")
    huge = refusal(manual_cluster, "Propose", propose(evidence_json="x" * (4 * 1024 * 1024)))
    assert huge[0] == "RESOURCE_EXHAUSTED"
    for method in ("/replication.v1.PeerService/FetchBlocks", "/replication.v1.VotingService/Nonsense"):
        code = refusal(manual_cluster, method, propose())[0]
        assert code == ("PERMISSION_DENIED" if "Peer" in method else "UNIMPLEMENTED")


def with_certificate(cluster: Cluster, certificate: bytes, key: bytes, role: str = "admin") -> ClusterHandle:
    return replace(open_folder(cluster.directory, role), certificate=certificate, private_key=key)


@pytest.mark.usefixtures("unchanged")
def test_certificates_that_are_expired_foreign_or_of_another_cluster(
    manual_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = (
        (manual_cluster.directory / "ca" / "ca.crt").read_bytes(),
        (manual_cluster.directory / "ca" / "ca.key").read_bytes(),
    )
    cluster_id = manual_cluster.genesis.cluster_id
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    monkeypatch.setattr(ClusterHandle, "check", lambda self, now=None: None)  # let the nodes find out
    other = provision_cluster(tmp_path / "other", nodes=1)
    folder = tmp_path / "other" / "clients"
    expired = issue(*authority, cluster_id, Role.ADMIN, "me", days=1, not_before=long_ago)
    foreign = ((folder / "admin.crt").read_bytes(), (folder / "admin.key").read_bytes())
    for pair in (expired, foreign):
        with Client(with_certificate(manual_cluster, *pair), rounds=1) as client:
            with pytest.raises(ConnectionRefusedByNodeError) as refused:
                client.summary(node="node-1")
            assert refused.value.reason == "TLS_HANDSHAKE_REFUSED"
    # Issued by the right authority, but for another genesis file: TLS is content, the node is not.
    stray = issue(*authority, other.cluster_id, Role.ADMIN, "me")
    with Client(with_certificate(manual_cluster, *stray), rounds=1) as client:
        with pytest.raises(Exception, match="is for cluster") as refused_by_node:
            client.summary(node="node-1")
        assert getattr(refused_by_node.value, "reason", "") == "CERTIFICATE_FOREIGN"


@pytest.mark.usefixtures("unchanged")
def test_expired_and_foreign_certificates_at_the_command_line(
    manual_cluster: Cluster, tmp_path: Path
) -> None:
    authority = (
        (manual_cluster.directory / "ca" / "ca.crt").read_bytes(),
        (manual_cluster.directory / "ca" / "ca.key").read_bytes(),
    )
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = issue(
        *authority, manual_cluster.genesis.cluster_id, Role.ADMIN, "me", days=1, not_before=long_ago
    )
    provision_cluster(tmp_path / "other", nodes=1)
    folder = tmp_path / "other" / "clients"
    (tmp_path / "old.crt").write_bytes(expired[0])
    (tmp_path / "old.key").write_bytes(expired[1])
    (tmp_path / "old.key").chmod(0o600)
    for certificate, key, reason in (
        (tmp_path / "old.crt", tmp_path / "old.key", "CERTIFICATE_EXPIRED"),
        (folder / "admin.crt", folder / "admin.key", "CERTIFICATE_FOREIGN"),
    ):
        run = manual_cluster.acp("summary", "--cert", str(certificate), "--key", str(key))
        assert (run.code, run.out) == (ExitCode.OPERATOR, "")
        assert f"[{reason}]" in run.err
    run = run_acp("summary", directory=tmp_path / "other")
    assert run.code == ExitCode.UNAVAILABLE, "the other cluster is not running"


# ----------------------------------------------------------------------------------- a home that is not right


@pytest.fixture
def stopped(make_cluster: MakeCluster) -> Cluster:
    """One node with a decided proposal in its record, stopped."""
    cluster = make_cluster(nodes=1)
    with cluster.client() as client:
        proposal = client.propose("restrict", "agent-1", window_ms=0)
        client.vote(proposal.id, "approve")
    assert cluster.stop("node-1") == 0
    return cluster


def start_fails(cluster: Cluster, code: ExitCode, reason: str, *words: str) -> None:
    """`acp node` on the home ends with this exit code, reason and words, and leaves the record alone."""
    data = cluster.home("node-1") / "data"
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
    run = run_acp("node", "--home", str(cluster.home("node-1")))
    assert (run.code, run.out) == (code, "")
    assert f"[{reason}]" in run.err
    for word in words:
        assert word in run.err
    assert "Traceback" not in run.err
    after = {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
    assert after == before
    assert not (cluster.home("node-1") / "node.pid").exists()


def starts(cluster: Cluster) -> None:
    """The home is right again: the node runs, with what it had."""
    cluster.start()
    with cluster.client() as client:
        assert client.get_proposal("prop-0001").approved


def test_a_genesis_file_of_another_cluster(stopped: Cluster, tmp_path: Path) -> None:
    genesis = stopped.home("node-1") / "genesis.json"
    right = genesis.read_bytes()
    provision_cluster(tmp_path / "other", nodes=1)
    genesis.write_bytes((tmp_path / "other" / "genesis.json").read_bytes())
    start_fails(stopped, ExitCode.OPERATOR, "SIGNING_KEY_MISMATCH")
    # The same members under another name: only what is bound to the cluster does not fit.
    genesis.write_bytes(right.replace(b'"agent-consensus"', b'"agent-consensus-2"'))
    start_fails(stopped, ExitCode.OPERATOR, "CERTIFICATE_FOREIGN")
    genesis.write_bytes(right[:-20])
    start_fails(stopped, ExitCode.OPERATOR, "GENESIS_REFUSED", "genesis.json")
    genesis.write_bytes(right)
    starts(stopped)


def test_data_of_another_cluster(stopped: Cluster, make_cluster: MakeCluster) -> None:
    other = make_cluster("other", nodes=1)
    other.stop("node-1")
    ours, theirs = stopped.home("node-1") / "data", other.home("node-1") / "data"
    shutil.move(ours / "sign.journal", ours / "kept")
    shutil.copy(theirs / "sign.journal", ours / "sign.journal")
    start_fails(stopped, ExitCode.OPERATOR, "JOURNAL_FOREIGN")
    shutil.move(ours / "kept", ours / "sign.journal")
    starts(stopped)


def test_a_private_key_that_others_can_read(stopped: Cluster) -> None:
    for key in (stopped.home("node-1") / "keys" / "signing.pem", stopped.home("node-1") / "tls" / "node.key"):
        key.chmod(0o640)
        start_fails(stopped, ExitCode.OPERATOR, "KEY_FILE_REFUSED", key.name, "chmod")
        key.chmod(0o600)
    starts(stopped)


def test_an_unknown_configuration_key(stopped: Cluster) -> None:
    config = stopped.home("node-1") / "config.toml"
    right = config.read_text(encoding="utf-8")
    config.write_text(right.replace("idle_timeout_ms", "idle_timeuot_ms"), encoding="utf-8")
    start_fails(stopped, ExitCode.OPERATOR, "CONFIG_INVALID", "idle_timeuot_ms", "did you mean")
    config.write_text(right.replace(f"= {Timing().repeat_ms}", "= 0"), encoding="utf-8")
    start_fails(stopped, ExitCode.OPERATOR, "CONFIG_INVALID", "repeat_ms")
    config.write_text(right, encoding="utf-8")
    starts(stopped)


def test_a_policy_that_cannot_be_loaded(stopped: Cluster) -> None:
    config = stopped.home("node-1") / "config.toml"
    right = config.read_text(encoding="utf-8")
    config.write_text(right.replace('"manual"', '"cel"\nfile = "missing.toml"'), encoding="utf-8")
    start_fails(stopped, ExitCode.OPERATOR, "POLICY_INVALID", "missing.toml")
    config.write_text(right, encoding="utf-8")
    starts(stopped)


def test_a_port_that_is_in_use(stopped: Cluster) -> None:
    member = stopped.genesis.members.members[0]
    host, port = member.address.rsplit(":", 1)
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((host, int(port)))
        squatter.listen()
        start_fails(stopped, ExitCode.OPERATOR, "PORT_IN_USE", member.address)
    starts(stopped)


def test_a_second_process_on_one_home(manual_cluster: Cluster) -> None:
    run = run_acp("node", "--home", str(manual_cluster.home("node-2")))
    assert (run.code, run.out) == (ExitCode.OPERATOR, "")
    assert "[HOME_IN_USE]" in run.err
    assert str(manual_cluster.pid("node-2")) in run.err


def test_a_corrupt_record(stopped: Cluster) -> None:
    ledger = stopped.home("node-1") / "data" / "ledger.db"
    right = ledger.read_bytes()
    middle = right.index(b'"request_id"') if b'"request_id"' in right else right.index(b"agent-1")
    ledger.write_bytes(right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1 :])
    run = run_acp("node", "--home", str(stopped.home("node-1")))
    assert (run.code, run.out) == (ExitCode.STORAGE, "")
    assert "ledger.db" in run.err
    ledger.write_bytes(right[: len(right) // 2])
    assert run_acp("node", "--home", str(stopped.home("node-1"))).code == ExitCode.STORAGE
    ledger.write_bytes(b"no database at all" * 100)
    assert run_acp("node", "--home", str(stopped.home("node-1"))).code == ExitCode.STORAGE
    ledger.write_bytes(right)
    starts(stopped)


def test_a_row_that_was_edited_is_found(stopped: Cluster) -> None:
    """The database is whole to SQLite; only the chain tells."""
    ledger = stopped.home("node-1") / "data" / "ledger.db"
    right = ledger.read_bytes()
    with sqlite3.connect(ledger) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert "entries" in tables
        database.execute("DELETE FROM entries WHERE rowid = (SELECT MAX(rowid) FROM entries)")
    database.close()
    run = run_acp("node", "--home", str(stopped.home("node-1")))
    assert (run.code, run.out) == (ExitCode.STORAGE, "")
    ledger.write_bytes(right)
    starts(stopped)


def test_a_corrupt_journal(stopped: Cluster) -> None:
    journal = stopped.home("node-1") / "data" / "sign.journal"
    right = journal.read_bytes()
    middle = len(right) // 2
    journal.write_bytes(right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1 :])
    start_fails(stopped, ExitCode.STORAGE, "JOURNAL_DAMAGED", "sign.journal")
    journal.write_bytes(right)
    starts(stopped)


def test_a_missing_record_is_fetched_again_and_nothing_is_signed_twice(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with cluster.client() as client:
        proposal = client.propose("restrict", "agent-1", window_ms=0)
        for node in ("node-1", "node-2", "node-3"):
            known(client, proposal, node)
            client.vote(proposal.id, "approve", node=node)
        cluster.settle()
        cluster.stop("node-4")
        for path in (cluster.home("node-4") / "data").glob("ledger.db*"):
            path.unlink()
        cluster.start_one("node-4")
        until(lambda: len(set(cluster.heads().values())) == 1)
        assert client.get_proposal(proposal.id, node="node-4").approved
        assert client.verify_chain(node="node-4").valid
