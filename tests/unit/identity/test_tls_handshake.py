"""Certificates against the real thing: mutual TLS between gRPC servers and clients on loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from replication.identity.tls import Identity, Role, create_authority, identity_from_sans, issue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Pair = tuple[bytes, bytes]

CLUSTER = b"\x2a" * 32
METHOD = "/test.Identity/Who"
PAST = dt.datetime.now(dt.UTC) - dt.timedelta(days=10)


@pytest.fixture(scope="module")
def node(authority: Pair) -> Pair:
    return issue(*authority, CLUSTER, Role.NODE, "node-1")


async def who(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Answers with the identity that the server sees in the client's certificate."""
    return identity_from_sans(context.auth_context()["x509_subject_alternative_name"]).uri.encode()


@asynccontextmanager
async def serving(pair: Pair, authority: bytes, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Identity", {"Who": handler}),)
    )
    credentials = grpc.ssl_server_credentials(
        [(pair[1], pair[0])], root_certificates=authority, require_client_auth=True
    )
    port = server.add_secure_port(f"{host}:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def ask(target: str, authority: bytes, pair: Pair | None, override: str | None = None) -> str:
    credentials = grpc.ssl_channel_credentials(authority, *((pair[1], pair[0]) if pair else (None, None)))
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if override is not None:
        options.append(("grpc.ssl_target_name_override", override))
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        return (await method(b"", timeout=30)).decode()


def call(
    server: Pair,
    client: Pair | None,
    authority: bytes,
    *,
    client_trusts: bytes | None = None,
    host: str = "127.0.0.1",
    override: str | None = None,
) -> str:
    """Starts a server, asks it who is calling, and gives the answer."""

    async def run() -> str:
        async with serving(server, authority, host) as port:
            return await ask(f"{host}:{port}", client_trusts or authority, client, override)

    return asyncio.run(run())


def refused(*args: Any, **kwargs: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call(*args, **kwargs)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("role", Role)
def test_the_server_reads_the_clients_role(authority: Pair, node: Pair, role: Role) -> None:
    client = issue(*authority, CLUSTER, role, "caller")
    assert call(node, client, authority[0]) == Identity(CLUSTER, role, "caller").uri


@pytest.mark.parametrize("name", ["localhost", "node-1", "a.example"])
def test_the_servers_host_names_are_accepted(authority: Pair, name: str) -> None:
    server = issue(*authority, CLUSTER, Role.NODE, "node-1", ["a.example"])
    assert call(server, server, authority[0], override=name).endswith("/node/node-1")


def test_another_host_name_is_refused(authority: Pair, node: Pair) -> None:
    refused(node, node, authority[0], override="node-2")
    refused(node, node, authority[0], host="127.0.0.2")


def test_a_client_without_a_certificate_is_refused(authority: Pair, node: Pair) -> None:
    refused(node, None, authority[0])


def test_a_client_of_a_foreign_authority_is_refused(authority: Pair, node: Pair) -> None:
    refused(node, issue(*create_authority("test cluster"), CLUSTER, Role.ADMIN, "mallory"), authority[0])


def test_a_server_of_a_foreign_authority_is_refused(authority: Pair, node: Pair) -> None:
    foreign, _ = create_authority("test cluster")
    refused(node, node, authority[0], client_trusts=foreign)


@pytest.mark.parametrize("start", [PAST, PAST + dt.timedelta(days=20)], ids=["expired", "not yet valid"])
def test_certificates_out_of_their_time_are_refused_on_both_sides(
    authority: Pair, node: Pair, start: dt.datetime
) -> None:
    old_authority = create_authority("long", not_before=PAST - dt.timedelta(days=1))
    wrong_time = issue(*old_authority, CLUSTER, Role.NODE, "node-1", days=1, not_before=start)
    good = issue(*old_authority, CLUSTER, Role.NODE, "node-1")
    assert call(good, good, old_authority[0])
    refused(good, wrong_time, old_authority[0])
    refused(wrong_time, good, old_authority[0])


def test_a_clients_certificate_cannot_serve(authority: Pair, node: Pair) -> None:
    viewer = issue(*authority, CLUSTER, Role.VIEWER, "localhost")
    refused(viewer, node, authority[0])
