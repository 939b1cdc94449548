"""Who may call what, and the one gate that every call passes.

The role comes from the certificate of the connection (a SAN, see `identity.roles`), the rights from `ACCESS`:
one row for each call that a node serves. A call without a row is refused, to everybody.

`Gate` is a gRPC interceptor. In this order, and before the request is parsed, it checks: the certificate
(cluster, expiry; a connection may outlive its certificate), the role, how many calls are under way, and that
a unary call has a deadline. It turns every exception of a handler into a status (`failures`).
"""

from __future__ import annotations

import datetime as dt
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import grpc
from cryptography import x509
from google.protobuf.message import DecodeError

from replication.identity.roles import (
    CertificateExpiredError,
    CertificateForeignError,
    CertificateMalformedError,
    Identity,
    Role,
    identity_from_sans,
)
from replication.node.failures import RefusedError, abort, failure_of

__all__ = ["ACCESS", "MAX_CALLS", "MAX_CALLS_PER_CALLER", "Caller", "Gate", "caller_of"]

MAX_CALLS_PER_CALLER: Final = 1024
"""Calls of one identity under way at once: each waiting one holds a request and a task, 100 KiB at worst."""

MAX_CALLS: Final = 2048
"""The same of all clients together. Nodes are not counted: no flood of clients may keep members apart."""

_READERS: Final = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.EXECUTOR, Role.NODE})
_OPERATORS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_EXECUTORS: Final = _OPERATORS | {Role.EXECUTOR}
_NODES: Final = frozenset({Role.NODE})
_ADMINS: Final = frozenset({Role.ADMIN})


def _rows(service: str, roles: frozenset[Role], methods: str) -> dict[str, frozenset[Role]]:
    return {f"/{service}/{method}": roles for method in methods.split()}


ACCESS: Final[Mapping[str, frozenset[Role]]] = MappingProxyType(
    {
        **_rows("replication.v1.VotingService", _OPERATORS, "Propose CastVote CloseProposal"),
        **_rows("replication.v1.VotingService", _EXECUTORS, "Execute"),
        **_rows("replication.v1.VotingService", _READERS, "GetProposal ListProposals Watch GetHistory"),
        **_rows("replication.v1.VotingService", _READERS, "GetAgreement GetBlocs GetSummary GetCertificate"),
        **_rows("replication.v1.AuditService", _READERS, "ListEntries GetHead VerifyChain ExportChain"),
        **_rows("replication.v1.ClusterService", _READERS, "GetStatus ListMembers"),
        **_rows("replication.v1.ClusterService", _ADMINS, "ChangeMembers"),
        **_rows("replication.v1.PeerService", _NODES, "Exchange FetchBlocks"),
        **_rows("grpc.health.v1.Health", _READERS, "Check Watch"),
        **_rows("grpc.reflection.v1alpha.ServerReflection", _READERS, "ServerReflectionInfo"),
    }
)
"""The roles that may make each call, by its full name."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end, and until when its certificate is good (seconds since the epoch)."""

    identity: Identity
    valid_until: float


def caller_of(context: Context) -> Caller:
    """The caller of a call that passed the gate.

    Raises:
        CertificateError: the connection has no certificate of the right shape.
    """
    properties = context.auth_context()
    sans = properties.get("x509_subject_alternative_name", ())
    return _caller(tuple(sans), b"".join(properties.get("x509_pem_cert", ())))


@lru_cache(maxsize=4096)
def _caller(sans: tuple[bytes, ...], pem: bytes) -> Caller:
    identity = identity_from_sans(sans)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateMalformedError("the certificate of the connection cannot be read") from error
    return Caller(identity, certificate.not_valid_after_utc.timestamp())


class Gate(grpc.aio.ServerInterceptor):
    """The interceptor of one node. `clock` gives seconds since the epoch."""

    def __init__(self, cluster_id: bytes, clock: Callable[[], float] = time.time) -> None:
        self._cluster_id = cluster_id
        self._clock = clock
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._under_way: Counter[str] = Counter()
        self._total = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The guarded handler of a call. Each is made once: what is registered does not change."""
        method = handler_call_details.method
        guarded = self._handlers.get(method)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # gRPC answers UNIMPLEMENTED
            guarded = self._guard(method, handler)
            self._handlers[method] = guarded
        return guarded

    def admit(self, method: str, context: Context) -> Caller:
        """The caller, if its certificate is good here and its role may make this call.

        Raises:
            CertificateError: the certificate is of another cluster, malformed or expired.
            RefusedError: ROLE_NOT_ALLOWED.
        """
        caller = caller_of(context)
        identity = caller.identity
        if identity.cluster_id != self._cluster_id:
            raise CertificateForeignError(
                f"the certificate of {identity.name} is for cluster {identity.cluster_id.hex()}, this is "
                f"{self._cluster_id.hex()}. Use a certificate that was issued for this cluster."
            )
        self.require_valid(caller)
        allowed = ACCESS.get(method, frozenset())
        if identity.role not in allowed:
            need = " or ".join(sorted(role.value for role in allowed)) or "no role at all"
            raise RefusedError(
                "ROLE_NOT_ALLOWED",
                f"the certificate of {identity.name} has the role {identity.role.value}, but "
                f"{method.rpartition('/')[2]} needs {need}. Use a certificate of such a role.",
                metadata={"role": identity.role.value, "method": method.removeprefix("/")},
            )
        return caller

    def require_valid(self, caller: Caller) -> None:
        """Raise `CertificateExpiredError` if the caller's certificate is no longer good."""
        if self._clock() > caller.valid_until:
            last = dt.datetime.fromtimestamp(caller.valid_until, dt.UTC)
            raise CertificateExpiredError(
                f"the certificate of {caller.identity.name} expired on {last:%Y-%m-%d %H:%M:%S} UTC. "
                "Issue a new one and connect again."
            )

    @contextmanager
    def _counted(self, identity: Identity) -> Iterator[None]:
        """Count a call as under way. Raises RefusedError (TOO_MANY_CALLS)."""
        if identity.role is Role.NODE:
            yield
            return
        key = identity.uri
        if self._total >= MAX_CALLS or self._under_way[key] >= MAX_CALLS_PER_CALLER:
            raise RefusedError(
                "TOO_MANY_CALLS",
                f"{self._under_way[key]} calls of {identity.name} and {self._total} of all clients are under "
                "way at this node. Wait for answers before you ask more, or ask another node.",
            )
        self._under_way[key] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def _guard(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """`handler` behind this gate."""
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, handler.stream_stream, None),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.stream_unary, None, deadline=False),
                handler.request_deserializer,
                handler.response_serializer,
            )
        # The request is parsed behind the gate: whoever may not call is turned away before.
        parse = handler.request_deserializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream, parse), None, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, parse, deadline=True), None, handler.response_serializer
        )

    def _unary(
        self,
        method: str,
        inner: Callable[[Any, Context], Awaitable[Any]],
        parse: Callable[[bytes], Any] | None,
        *,
        deadline: bool,
    ) -> Any:
        async def behaviour(request: Any, context: Context) -> Any:
            try:
                caller = self.admit(method, context)
                with self._counted(caller.identity):
                    if deadline:
                        _require_deadline(context)
                    return await inner(_parsed(request, parse), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, failure_of(error))

        return behaviour

    def _streaming(
        self, method: str, inner: Callable[[Any, Context], Any], parse: Callable[[bytes], Any] | None
    ) -> Any:
        """Handlers of streams are generators, or coroutines that write (the health service's)."""

        async def responses(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                caller = self.admit(method, context)
                with self._counted(caller.identity):
                    async for response in inner(_parsed(request, parse), context):
                        self.require_valid(caller)
                        yield response
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, failure_of(error))

        if inspect.isasyncgenfunction(inner):
            return responses
        return self._unary(method, inner, parse, deadline=False)


def _require_deadline(context: Context) -> None:
    if context.time_remaining() is None:
        raise RefusedError(
            "DEADLINE_REQUIRED",
            "the call has no deadline. Set one, or a lost answer would be waited for without end.",
        )


def _parsed(request: Any, parse: Callable[[bytes], Any] | None) -> Any:
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError as error:
        raise RefusedError(
            "MALFORMED_MESSAGE", f"the request is not the message it must be: {error}"
        ) from error
