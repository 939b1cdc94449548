"""Every call times every role, enumerated from the service descriptors, over real connections."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.protobuf import empty_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # ships no types
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # ships no types

from replication.identity.roles import Role
from replication.identity.tls import create_authority, identity_from_certificate, issue
from replication.node import access
from replication.node.access import ACCESS, Caller, Gate, MayVote
from replication.node.failures import RefusedError
from replication.v1 import audit_service_pb2, cluster_service_pb2, peer_service_pb2, voting_service_pb2

PROTO = Path(__file__).parents[3] / "proto" / "replication" / "v1"
CLUSTER = bytes(range(32))
READERS = {role.value for role in Role}
# What "Role: x" in the comments of the protos means.
MEANING = {
    "viewer": READERS,
    "operator": {"operator", "admin"},
    "admin": {"admin"},
    "executor or admin": {"executor", "admin"},
    "operator or own node": {"operator", "admin", "node"},
}


def methods() -> Iterator[MethodDescriptor]:
    """Every call that a node serves."""
    for module in (
        *(voting_service_pb2, audit_service_pb2, cluster_service_pb2, peer_service_pb2),
        *(health_pb2, reflection_pb2),
    ):
        descriptor: FileDescriptor = module.DESCRIPTOR
        for service in descriptor.services_by_name.values():
            yield from service.methods


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def documented() -> dict[str, set[str]]:
    """The roles that the comments in the protos promise, by the call's path."""
    found = {}
    for file in PROTO.glob("*_service.proto"):
        service = ""
        comment: list[str] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"service (\w+)", line):
                service = match[1]
            elif match := re.match(r"\s*//\s?(.*)", line):
                comment.append(match[1])
                continue
            elif match := re.match(r"\s*rpc (\w+)", line):
                text = " ".join(comment)
                role = re.search(r"Role: ([a-z ]+)\.", text)
                path = f"/replication.v1.{service}/{match[1]}"
                found[path] = MEANING[role[1]] if role else {"node"} if service == "PeerService" else set()
            comment = []
    return found


def test_every_call_has_a_row_and_every_row_a_call() -> None:
    assert {path_of(method) for method in methods()} == set(ACCESS)


def test_the_rows_are_what_the_protos_promise() -> None:
    promised = documented()
    assert set(promised) == {path for path in ACCESS if path.startswith("/replication")}
    for path, roles in promised.items():
        assert {role.value for role in ACCESS[path]} == roles, path


def test_no_client_role_is_a_member_and_no_member_writes_for_clients() -> None:
    for path, roles in ACCESS.items():
        if "PeerService" in path:
            assert roles == {Role.NODE}
        elif path.endswith("/CastVote"):
            assert roles == {Role.OPERATOR, Role.ADMIN, Role.NODE}  # which is for itself only: `MayVote`
        elif Role.NODE in roles:
            assert roles == set(Role), f"{path}: a member may only read"


class Everything(grpc.GenericRpcHandler):
    """A handler for every known call that answers with nothing."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.known = {path_of(method): method for method in methods()}
        self.known["/replication.v1.VotingService/Unlisted"] = self.known[
            "/replication.v1.VotingService/Propose"
        ]

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        method = self.known.get(path)
        return None if method is None else self.handler(path, method)

    def handler(self, path: str, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        async def one(request: Any, context: Any) -> empty_pb2.Empty:
            self.calls.append(path)
            return empty_pb2.Empty()

        async def many(request: Any, context: Any) -> AsyncIterator[empty_pb2.Empty]:
            self.calls.append(path)
            yield empty_pb2.Empty()

        codec = (empty_pb2.Empty.FromString, empty_pb2.Empty.SerializeToString)
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        made: grpc.RpcMethodHandler[Any, Any] = make(many if method.server_streaming else one, *codec)
        return made


class Node:
    """A server behind the gate, and clients for it."""

    def __init__(self, clock: Any = None) -> None:
        self.authority = create_authority("test")
        self.calls: list[str] = []
        self.gate = Gate(CLUSTER) if clock is None else Gate(CLUSTER, clock)
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        certificate, key = issue(*self.authority, CLUSTER, Role.NODE, "node-1", ["127.0.0.1"])
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], self.authority[0], require_client_auth=True
        )
        server = grpc.aio.server(interceptors=[self.gate])
        server.add_generic_rpc_handlers([Everything(self.calls)])
        self.port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def channel(self, role: Role, cluster: bytes = CLUSTER, **options: Any) -> grpc.aio.Channel:
        certificate, key = issue(
            *self.authority, cluster, role, "node-2" if role is Role.NODE else "me", **options
        )
        credentials = grpc.ssl_channel_credentials(self.authority[0], key, certificate)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials)

    async def call(
        self, channel: Any, path: str, *, timeout: float | None = 30, body: bytes = b""
    ) -> tuple[str, str]:
        """Make a call; the name of its status, and the reason of the error."""
        method = next((item for item in methods() if path_of(item) == path), None)
        arity = (method.client_streaming, method.server_streaming) if method else (False, False)
        try:
            if arity == (False, False):
                await channel.unary_unary(path)(body, timeout=timeout)
            elif arity == (False, True):
                async for _ in channel.unary_stream(path)(body, timeout=timeout):
                    pass
            elif arity == (True, False):
                await channel.stream_unary(path)(iter([body]), timeout=timeout)
            else:
                async for _ in channel.stream_stream(path)(iter([body]), timeout=timeout):
                    pass
        except grpc.aio.AioRpcError as error:
            return error.code().name, reason_of(error)
        return "OK", ""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            if status_pb2.Status.FromString(value).details[0].Unpack(info):
                return str(info.reason)
    return ""


@pytest.mark.parametrize("role", list(Role))
def test_every_call_by_every_role(role: Role) -> None:
    async def work() -> None:
        async with Node().running() as node, node.channel(role) as channel:
            for method in methods():
                path = path_of(method)
                node.calls.clear()
                answer = await node.call(channel, path)
                if role in ACCESS[path]:
                    assert (answer, node.calls) == (("OK", ""), [path])
                else:
                    assert (answer, node.calls) == (("PERMISSION_DENIED", "ROLE_NOT_ALLOWED"), []), path

    asyncio.run(work())


def test_a_call_without_a_row_is_refused_to_everybody() -> None:
    async def work() -> None:
        async with Node().running() as node:
            for role in Role:
                async with node.channel(role) as channel:
                    answer = await node.call(channel, "/replication.v1.VotingService/Unlisted")
                    assert answer == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
                    unknown = await node.call(channel, "/replication.v1.VotingService/Nonsense")
                    assert unknown[0] == "UNIMPLEMENTED"
        assert node.calls == []

    asyncio.run(work())


def test_unary_calls_need_a_deadline() -> None:
    async def work() -> None:
        async with Node().running() as node, node.channel(Role.ADMIN) as channel:
            for method in methods():
                path = path_of(method)
                if Role.ADMIN not in ACCESS[path]:
                    continue
                answer = await node.call(channel, path, timeout=None)
                unary = not (method.client_streaming or method.server_streaming)
                assert answer == (("INVALID_ARGUMENT", "DEADLINE_REQUIRED") if unary else ("OK", "")), path

    asyncio.run(work())


def test_a_certificate_of_another_cluster_or_out_of_date_opens_nothing() -> None:
    now = dt.datetime.now(dt.UTC)
    later = now.timestamp() + 3 * 3600

    async def work() -> None:
        node = Node(clock=lambda: later)
        async with node.running():
            path = "/replication.v1.AuditService/GetHead"
            async with node.channel(Role.ADMIN, cluster=bytes(32)) as foreign:
                assert await node.call(foreign, path) == ("UNAUTHENTICATED", "CERTIFICATE_FOREIGN")
            # Good when the connection was made, over by the clock of the gate.
            async with node.channel(Role.ADMIN, days=2 / 24) as old:
                assert await node.call(old, path) == ("UNAUTHENTICATED", "CERTIFICATE_EXPIRED")
            async with node.channel(Role.ADMIN) as good:
                assert await node.call(good, path) == ("OK", "")
        assert node.calls == [path]

    asyncio.run(work())


def test_strangers_are_turned_away_before_their_bytes_are_parsed() -> None:
    async def work() -> None:
        async with Node().running() as node:
            path, rubbish = "/replication.v1.VotingService/Propose", b"\xff\xff\xff"
            async with node.channel(Role.VIEWER) as viewer:
                answer = await node.call(viewer, path, body=rubbish)
                assert answer == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
            async with node.channel(Role.OPERATOR) as operator:
                answer = await node.call(operator, path, body=rubbish)
                assert answer == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
        assert node.calls == []

    asyncio.run(work())


def test_calls_under_way_are_bounded_for_each_caller_and_nodes_are_never_kept_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "MAX_CALLS_PER_CALLER", 2)
    monkeypatch.setattr(access, "MAX_CALLS", 3)

    async def work() -> None:
        async with Node().running() as node:
            waiting = asyncio.Event()
            entered = asyncio.Semaphore(0)

            async def slow(request: Any, context: Any) -> empty_pb2.Empty:
                entered.release()
                await waiting.wait()
                return empty_pb2.Empty()

            path = "/replication.v1.AuditService/GetHead"
            handler = grpc.unary_unary_rpc_method_handler(
                slow, empty_pb2.Empty.FromString, empty_pb2.Empty.SerializeToString
            )
            vars(node.gate)["_handlers"][path] = node.gate._guard(path, handler)
            async with node.channel(Role.ADMIN) as admin, node.channel(Role.VIEWER) as viewer:
                calls = [asyncio.ensure_future(node.call(admin, path)) for _ in range(2)]
                for _ in calls:
                    await entered.acquire()
                assert await node.call(admin, path) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
                calls.append(asyncio.ensure_future(node.call(viewer, path)))
                await entered.acquire()
                assert await node.call(viewer, path) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
                async with node.channel(Role.NODE) as member:
                    fetch = "/replication.v1.PeerService/FetchBlocks"
                    assert await node.call(member, fetch) == ("OK", "")
                waiting.set()
                assert await asyncio.gather(*calls) == [("OK", "")] * 3
                assert await node.call(admin, path) == ("OK", ""), "the room is free again"

    asyncio.run(work())


def test_streams_are_bounded_for_each_caller_and_members_have_room_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "MAX_STREAMS_PER_CALLER", 2)
    monkeypatch.setattr(access, "MAX_STREAMS", 3)
    monkeypatch.setattr(access, "MAX_CALLS_PER_MEMBER", 4)

    async def work() -> None:
        async with Node().running() as node:

            async def endless(request: Any, context: Any) -> AsyncIterator[empty_pb2.Empty]:
                yield empty_pb2.Empty()
                await asyncio.Event().wait()

            path = "/replication.v1.VotingService/Watch"
            handler = grpc.unary_stream_rpc_method_handler(
                endless, empty_pb2.Empty.FromString, empty_pb2.Empty.SerializeToString
            )
            vars(node.gate)["_handlers"][path] = node.gate._guard(path, handler)

            async def opened(channel: Any, count: int) -> list[Any]:
                streams = [channel.unary_stream(path)(b"") for _ in range(count)]
                for stream in streams:
                    assert await stream.read() == b""
                return streams

            async with (
                node.channel(Role.VIEWER) as viewer,
                node.channel(Role.ADMIN) as admin,
                node.channel(Role.NODE) as member,
            ):
                streams = await opened(viewer, 2)
                assert await node.call(viewer, path) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
                head = "/replication.v1.AuditService/GetHead"
                assert await node.call(viewer, head) == ("OK", ""), "calls have room of their own"
                streams += await opened(admin, 1)
                assert await node.call(admin, path) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
                streams += await opened(member, 4)
                assert await node.call(member, path) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
                for stream in streams:
                    stream.cancel()

                async def is_free() -> bool:
                    return await node.call(viewer, head) == ("OK", "") and not node.gate._streams._total

                while not await is_free():
                    await asyncio.sleep(0.01)

    asyncio.run(work())


def test_who_is_refused_too_often_waits_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "REFUSALS_PER_SECOND", 0.1)  # the calls may take long
    monkeypatch.setattr(access, "REFUSAL_BURST", 3)

    async def work() -> None:
        async with Node().running() as node:
            path, rubbish = "/replication.v1.VotingService/Propose", b"\xff\xff\xff"
            async with node.channel(Role.OPERATOR) as rude, node.channel(Role.ADMIN) as polite:
                for _ in range(3):
                    assert (await node.call(rude, path, body=rubbish))[1] == "MALFORMED_MESSAGE"
                assert (await node.call(rude, path, body=rubbish, timeout=0.5))[0] == "DEADLINE_EXCEEDED"
                assert (await node.call(polite, path, body=rubbish))[1] == "MALFORMED_MESSAGE"
                assert await node.call(rude, path) == ("OK", ""), "what is right is answered at once"

    asyncio.run(work())


def test_an_exception_in_a_stream_is_a_status_too() -> None:
    async def work() -> None:
        async with Node().running() as node:

            async def broken(request: Any, context: Any) -> AsyncIterator[empty_pb2.Empty]:
                yield empty_pb2.Empty()
                raise RefusedError("UNKNOWN_PROPOSAL", "gone")

            path = "/replication.v1.VotingService/Watch"
            handler = grpc.unary_stream_rpc_method_handler(
                broken, empty_pb2.Empty.FromString, empty_pb2.Empty.SerializeToString
            )
            vars(node.gate)["_handlers"][path] = node.gate._guard(path, handler)
            async with node.channel(Role.VIEWER) as viewer:
                assert await node.call(viewer, path) == ("NOT_FOUND", "UNKNOWN_PROPOSAL")

    asyncio.run(work())


def caller(pem: bytes) -> Caller:
    certificate = x509.load_pem_x509_certificate(pem)
    return Caller(identity_from_certificate(pem), 0, certificate.fingerprint(hashes.SHA256()))


def test_who_may_have_a_member_vote() -> None:
    authority = create_authority("test")
    certificates = {
        (role, name): issue(*authority, CLUSTER, role, name)[0]
        for role, name in ((Role.NODE, "node-1"), (Role.NODE, "node-2"), (Role.OPERATOR, "alice"))
    }
    certificates |= {(Role.ADMIN, name): issue(*authority, CLUSTER, Role.ADMIN, name)[0] for name in "bc"}

    own = certificates[Role.NODE, "node-1"]
    forged = issue(*authority, CLUSTER, Role.NODE, "node-1")[0]  # by who has the authority's key
    for names, admitted in ((None, {"alice", "b", "c"}), (("alice", "b"), {"alice", "b"}), ((), set())):
        may_vote = MayVote("node-1", names, lambda: own)
        may_vote.require(caller(own))
        for pem in (certificates[Role.NODE, "node-2"], forged):
            with pytest.raises(RefusedError) as caught:
                may_vote.require(caller(pem))
            assert caught.value.reason == "ROLE_NOT_ALLOWED"
        for name in ("alice", "b", "c"):
            (pem,) = [pem for (_, its_name), pem in certificates.items() if its_name == name]
            if name in admitted:
                may_vote.require(caller(pem))
                continue
            with pytest.raises(RefusedError, match="acp vote --home") as caught:
                may_vote.require(caller(pem))
            assert caught.value.reason == "MAY_NOT_VOTE"


def test_the_certificate_of_now_is_a_members_own() -> None:
    """After a renewal the one before is nobody's, though it is good for a while."""
    authority = create_authority("test")
    old, new = (issue(*authority, CLUSTER, Role.NODE, "node-1")[0] for _ in range(2))
    shown = [old]
    may_vote = MayVote("node-1", (), lambda: shown[0])
    before, after = map(caller, (old, new))
    may_vote.require(before)
    shown[0] = new
    may_vote.require(after)
    with pytest.raises(RefusedError):
        may_vote.require(before)
