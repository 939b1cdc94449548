"""Every call that a running node serves, by everyone: what the table below does not name fails the test.

The calls are those that the node itself lists (reflection), the table is written by hand: it does not follow
`node.access`, it judges it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # noqa: F401  # registers its calls
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # ships no types
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import Cluster, known, run_acp

from replication.cli.main import ExitCode
from replication.client import Client, RemoteError, open_folder
from replication.identity.roles import Role
from replication.identity.tls import create_authority, issue
from replication.node.config import read_config, write_config
from replication.v1 import (  # noqa: F401  # they register their calls
    audit_service_pb2,
    cluster_service_pb2,
    peer_service_pb2,
    voting_service_pb2,
)

pytestmark = pytest.mark.cluster

EVERYBODY = frozenset({"viewer", "operator", "executor", "admin", "node"})
CALLS = {
    "replication.v1.VotingService/Propose": {"operator", "admin"},
    "replication.v1.VotingService/CastVote": {"operator", "admin"},
    "replication.v1.VotingService/CloseProposal": {"operator", "admin"},
    "replication.v1.VotingService/Execute": {"operator", "admin"},
    "replication.v1.VotingService/ReportExecution": {"executor", "admin"},
    "replication.v1.VotingService/GetProposal": EVERYBODY,
    "replication.v1.VotingService/ListProposals": EVERYBODY,
    "replication.v1.VotingService/Watch": EVERYBODY,
    "replication.v1.VotingService/GetHistory": EVERYBODY,
    "replication.v1.VotingService/GetAgreement": EVERYBODY,
    "replication.v1.VotingService/GetBlocs": EVERYBODY,
    "replication.v1.VotingService/GetSummary": EVERYBODY,
    "replication.v1.VotingService/GetCertificate": EVERYBODY,
    "replication.v1.AuditService/ListEntries": EVERYBODY,
    "replication.v1.AuditService/GetHead": EVERYBODY,
    "replication.v1.AuditService/VerifyChain": EVERYBODY,
    "replication.v1.AuditService/ExportChain": EVERYBODY,
    "replication.v1.ClusterService/GetStatus": EVERYBODY,
    "replication.v1.ClusterService/ListMembers": EVERYBODY,
    "replication.v1.ClusterService/ChangeMembers": {"admin"},
    "replication.v1.ClusterService/SetLogLevel": {"admin"},
    "replication.v1.PeerService/Exchange": {"node"},
    "replication.v1.PeerService/FetchBlocks": {"node"},
    "grpc.health.v1.Health/Check": EVERYBODY,
    "grpc.health.v1.Health/Watch": EVERYBODY,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": EVERYBODY,
}
"""Who may make each call. A new call needs a row here, as it does in `node.access`."""

DENIED = ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
FOREIGN = ("UNAUTHENTICATED", "CERTIFICATE_FOREIGN")
NO_CONNECTION = ("UNAVAILABLE", "")


@pytest.fixture(scope="module")
def channels(manual_cluster: Cluster) -> Iterator[dict[str, grpc.Channel]]:
    """A connection to node-1 for each kind of caller."""
    ca = manual_cluster.directory / "ca"
    authority = ((ca / "ca.crt").read_bytes(), (ca / "ca.key").read_bytes())
    cluster_id = manual_cluster.genesis.cluster_id
    pairs = {role.value: issue(*authority, cluster_id, role, "somebody") for role in Role}
    pairs |= {
        f"{role.value} of another cluster": issue(*authority, bytes(32), role, "somebody") for role in Role
    }
    stranger = issue(*create_authority("stranger"), cluster_id, Role.ADMIN, "somebody")
    with ExitStack() as stack:
        made: dict[str, grpc.Channel] = {
            name: stack.enter_context(connected(manual_cluster, authority[0], pair))
            for name, pair in {**pairs, "stranger": stranger, "nobody": None}.items()
        }
        yield made


@contextmanager
def connected(cluster: Cluster, ca: bytes, pair: tuple[bytes, bytes] | None) -> Iterator[grpc.Channel]:
    certificate, key = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    member = cluster.genesis.members.get("node-1")
    assert member is not None
    options = [("grpc.ssl_target_name_override", "node-1"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(member.address, credentials, options=options) as channel:
        yield channel


def served(channel: grpc.Channel) -> dict[str, MethodDescriptor]:
    """Every call of every service that the node names, and of reflection itself."""
    ask: Any = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(ask(iter([question]), timeout=10))
    names = {service.name for service in answer.list_services_response.service}
    assert any(name.startswith("replication.v1.") for name in names)
    pool = descriptor_pool.Default()
    found = {}
    for name in names | {"grpc.reflection.v1alpha.ServerReflection"}:
        for method in pool.FindServiceByName(name).methods:
            found[f"{name}/{method.name}"] = method
    return found


def outcome(channel: grpc.Channel, path: str, method: MethodDescriptor) -> tuple[str, str]:
    """Status and reason of a call with an empty request. A stream counts with its first answer."""
    arity = (method.client_streaming, method.server_streaming)
    try:
        if arity == (False, False):
            unary: Any = channel.unary_unary(f"/{path}")
            unary(b"", timeout=10)
        elif arity == (False, True):
            stream: Any = channel.unary_stream(f"/{path}")
            call = stream(b"", timeout=10)
            next(call, None)
            call.cancel()
        elif arity == (True, False):
            upload: Any = channel.stream_unary(f"/{path}")
            upload(iter([b""]), timeout=10)
        else:
            both: Any = channel.stream_stream(f"/{path}")
            call = both(iter([b""]), timeout=10)
            next(call, None)
            call.cancel()
    except grpc.RpcError as error:
        return error.code().name, reason_of(error)
    return "OK", ""


def reason_of(error: Any) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            if status_pb2.Status.FromString(value).details[0].Unpack(info):
                return str(info.reason)
    return ""


def test_the_table_names_every_call_that_a_node_serves(channels: dict[str, grpc.Channel]) -> None:
    assert served(channels["viewer"]).keys() == CALLS.keys()


@pytest.mark.parametrize("role", [role.value for role in Role])
def test_every_call_by_every_role(channels: dict[str, grpc.Channel], role: str) -> None:
    for path, method in served(channels["viewer"]).items():
        result = outcome(channels[role], path, method)
        if role in CALLS[path]:
            assert result[0] not in ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "INTERNAL"), path
        else:
            assert result == DENIED, path
        foreign = outcome(channels[f"{role} of another cluster"], path, method)
        assert foreign == FOREIGN, path


@pytest.mark.parametrize("caller", ["nobody", "stranger"])
def test_every_call_without_a_certificate_of_this_authority(
    channels: dict[str, grpc.Channel], caller: str
) -> None:
    for path, method in served(channels["viewer"]).items():
        assert outcome(channels[caller], path, method) == NO_CONNECTION, path


def test_what_was_refused_changed_nothing(manual_cluster: Cluster) -> None:
    manual_cluster.settle()
    with manual_cluster.client() as client:
        for node in manual_cluster.genesis.members.ids:
            found = {entry.event_type for entry in client.audit_entries(0, 500, node=node).entries}
            assert found <= {"genesis", "coordinator"}, "nobody asked for what is on record"


def test_who_may_have_a_node_vote(make_cluster: MakeCluster) -> None:
    """A list of names for one node, nobody for another: whoever is on their hosts always may."""
    cluster = make_cluster(start=False)
    for node, names in (("node-1", ("alice",)), ("node-2", ())):
        file = cluster.home(node) / "config.toml"
        write_config(file, replace(read_config(file), may_vote=names))
    cluster.start()
    ca = cluster.directory / "ca"
    authority = ((ca / "ca.crt").read_bytes(), (ca / "ca.key").read_bytes())
    as_alice = issue(*authority, cluster.genesis.cluster_id, Role.OPERATOR, "alice")
    as_node = issue(*authority, cluster.genesis.cluster_id, Role.NODE, "node-2")  # not the one it uses
    admin = open_folder(cluster.directory)
    with Client(admin) as client:
        made = client.propose("quarantine", "agent-7", node="node-3")
        proposal = made.id
        for node in ("node-1", "node-2"):
            known(client, made, node)
            with pytest.raises(RemoteError, match="acp vote --home") as refused:
                client.vote(proposal, "approve", node=node)
            assert refused.value.reason == "MAY_NOT_VOTE"
        client.vote(proposal, "approve", node="node-3")  # whose list is everybody
        assert len(client.get_proposal(proposal, node="node-3").votes) == 1
    for pair, node, reason in ((as_alice, "node-2", "MAY_NOT_VOTE"), (as_node, "node-2", "ROLE_NOT_ALLOWED")):
        thief = replace(admin, certificate=pair[0], private_key=pair[1]).only(node)
        with Client(thief) as client, pytest.raises(RemoteError) as refused:
            client.vote(proposal, "approve")
        assert refused.value.reason == reason
    with Client(replace(admin, certificate=as_alice[0], private_key=as_alice[1]).only("node-1")) as client:
        client.vote(proposal, "approve")
    answer = run_acp("vote", proposal, "approve", "--home", str(cluster.home("node-2")))
    assert answer.code == ExitCode.OK, answer.err
    assert "node-2 voted approve" in answer.err
    with Client(admin) as client:
        assert client.get_proposal(proposal, node="node-2").approved
