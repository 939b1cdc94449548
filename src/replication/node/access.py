"""Who may call what, and the one gate that every call passes.

The role comes from the certificate of the connection (a SAN, see `identity.roles`), the rights from `ACCESS`:
one row for each call that a node serves. A call without a row is refused, to everybody.

`Gate` is a gRPC interceptor. In this order, and before the request is parsed, it checks: the certificate
(cluster, expiry; a connection may outlive its certificate), the role, how many calls and streams are under
way, and that a unary call has a deadline. It turns every exception of a handler into a status (`failures`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NoReturn

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.protobuf.message import DecodeError

from replication.identity.members import MAX_MEMBERS
from replication.identity.roles import (
    CertificateError,
    CertificateExpiredError,
    CertificateForeignError,
    CertificateMalformedError,
    Identity,
    Role,
    identity_from_sans,
)
from replication.node.failures import RefusedError, abort, failure_of
from replication.node.pacing import Pacer

__all__ = [
    "ACCESS",
    "MAX_CALLS",
    "MAX_CALLS_PER_CALLER",
    "MAX_STREAMS",
    "MAX_STREAMS_PER_CALLER",
    "Caller",
    "Gate",
    "MayVote",
    "caller_of",
]

MAX_CALLS_PER_CALLER: Final = 1024
"""Calls of one identity under way at once: each waiting one holds a request and a task, 100 KiB at worst."""

MAX_CALLS: Final = 2048
"""The same of all clients together. Nodes are not counted: no flood of clients may keep members apart."""

MAX_CALLS_PER_MEMBER: Final = 64
"""Calls of one member under way at once, which count for nobody else. It needs a stream and a page or two."""

MAX_STREAMS_PER_CALLER: Final = 8
"""Answers that are streams (watching, exports) of one identity at once. Each may hold a page of entries and
what the connection buffers, half a MiB mostly, and each watcher is told of every entry, which a busy node
has to send."""

MAX_STREAMS: Final = 128
"""The same of all clients together."""

REFUSALS_PER_SECOND: Final = 100
REFUSAL_BURST: Final = 500
LONGEST_REFUSAL_SECONDS: Final = 5.0
MAX_REFUSALS_HELD: Final = 1024
"""Refused calls of one identity that are answered at once. More are answered late, so that who only sends
rubbish waits most of the time. Each one held takes some 20 KiB; beyond the last number none is held."""

_READERS: Final = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.EXECUTOR, Role.NODE})
_OPERATORS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_VOTERS: Final = _OPERATORS | {Role.NODE}
"""Of the nodes, each for itself only (`MayVote`)."""

_EXECUTORS: Final = frozenset({Role.EXECUTOR, Role.ADMIN})
_NODES: Final = frozenset({Role.NODE})
_ADMINS: Final = frozenset({Role.ADMIN})


def _rows(service: str, roles: frozenset[Role], methods: str) -> dict[str, frozenset[Role]]:
    return {f"/{service}/{method}": roles for method in methods.split()}


ACCESS: Final[Mapping[str, frozenset[Role]]] = MappingProxyType(
    {
        **_rows("replication.v1.VotingService", _OPERATORS, "Propose CloseProposal Execute"),
        **_rows("replication.v1.VotingService", _VOTERS, "CastVote"),
        **_rows("replication.v1.VotingService", _EXECUTORS, "ReportExecution"),
        **_rows("replication.v1.VotingService", _READERS, "GetProposal ListProposals Watch GetHistory"),
        **_rows("replication.v1.VotingService", _READERS, "GetAgreement GetBlocs GetSummary GetCertificate"),
        **_rows("replication.v1.AuditService", _READERS, "ListEntries GetHead VerifyChain ExportChain"),
        **_rows("replication.v1.ClusterService", _READERS, "GetStatus ListMembers"),
        **_rows("replication.v1.ClusterService", _ADMINS, "ChangeMembers SetLogLevel"),
        **_rows("replication.v1.PeerService", _NODES, "Exchange FetchBlocks"),
        **_rows("grpc.health.v1.Health", _READERS, "Check Watch"),
        **_rows("grpc.reflection.v1alpha.ServerReflection", _READERS, "ServerReflectionInfo"),
    }
)
"""The roles that may make each call, by its full name."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end, until when its certificate is good (seconds since the epoch), and the
    SHA-256 of that certificate."""

    identity: Identity
    valid_until: float
    fingerprint: bytes


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
    valid_until = certificate.not_valid_after_utc.timestamp()
    return Caller(identity, valid_until, certificate.fingerprint(hashes.SHA256()))


class MayVote:
    """Who may have this member vote, of those whose role lets them ask.

    If any operator could, one stolen certificate would cast every vote. So a node may have a list of `names`
    (None: all operators and administrators). Whoever shows its `own` certificate of now is on its host, and
    may always; a certificate of the same name that somebody had issued does not help.
    """

    def __init__(self, member: str, names: Collection[str] | None, own: Callable[[], bytes]) -> None:
        self._member = member
        self._names = names
        self._own = own

    def require(self, caller: Caller) -> None:
        """Raise RefusedError (ROLE_NOT_ALLOWED, MAY_NOT_VOTE) unless `caller` may."""
        identity = caller.identity
        if caller.fingerprint == _fingerprint(self._own()):
            return
        if identity.role is Role.NODE:
            raise RefusedError(
                "ROLE_NOT_ALLOWED",
                f"the certificate of {identity.name} is not the one that {self._member} uses: a node has "
                "only itself vote.",
            )
        if self._names is not None and identity.name not in self._names:
            raise RefusedError(
                "MAY_NOT_VOTE",
                f"{identity.name} may not have {self._member} vote. Vote on its own host (acp vote --home), "
                "or have its operator put the name into may_vote of its config.toml.",
                metadata={"member": self._member},
            )


@lru_cache(maxsize=4)
def _fingerprint(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())


class _Room:
    """Counts what is under way, for each identity and in all."""

    def __init__(self, what: str, reason: str) -> None:
        self._what = what
        self._reason = reason
        self._counts: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def taken(self, identity: Identity, most_each: int, most: int) -> Iterator[None]:
        """One more of `identity`. Raises RefusedError."""
        key = identity.uri
        if self._total >= most or self._counts[key] >= most_each:
            raise RefusedError(
                self._reason,
                f"{self._counts[key]} {self._what} of {identity.name} and {self._total} of all clients are "
                "under way at this node. Wait for answers before you ask more, or ask another node.",
            )
        self._counts[key] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class Gate(grpc.aio.ServerInterceptor):
    """The interceptor of one node. `clock` gives seconds since the epoch."""

    def __init__(self, cluster_id: bytes, clock: Callable[[], float] = time.time) -> None:
        self._cluster_id = cluster_id
        self._clock = clock
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._calls = _Room("calls", "TOO_MANY_CALLS")
        self._calls_of_members = _Room("calls", "TOO_MANY_CALLS")
        self._refusals = Pacer(REFUSALS_PER_SECOND, REFUSAL_BURST, LONGEST_REFUSAL_SECONDS)
        self._held = 0
        self._streams = _Room("streams", "TOO_MANY_STREAMS")

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
    def _counted(self, identity: Identity, *, stream: bool) -> Iterator[None]:
        """Count a call as under way. Raises RefusedError (TOO_MANY_CALLS, TOO_MANY_STREAMS)."""
        if identity.role is Role.NODE:
            with self._calls_of_members.taken(
                identity, MAX_CALLS_PER_MEMBER, MAX_CALLS_PER_MEMBER * MAX_MEMBERS
            ):
                yield
            return
        with self._calls.taken(identity, MAX_CALLS_PER_CALLER, MAX_CALLS):
            if not stream:
                yield
                return
            with self._streams.taken(identity, MAX_STREAMS_PER_CALLER, MAX_STREAMS):
                yield

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
        stream: bool = False,
    ) -> Any:
        async def behaviour(request: Any, context: Context) -> Any:
            try:
                caller = self.admit(method, context)
                with self._counted(caller.identity, stream=stream):
                    if deadline:
                        _require_deadline(context)
                    return await inner(_parsed(request, parse), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._refuse(context, error)

        return behaviour

    def _streaming(
        self, method: str, inner: Callable[[Any, Context], Any], parse: Callable[[bytes], Any] | None
    ) -> Any:
        """Handlers of streams are generators, or coroutines that write (the health service's)."""

        async def responses(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                caller = self.admit(method, context)
                with self._counted(caller.identity, stream=True):
                    async for response in inner(_parsed(request, parse), context):
                        self.require_valid(caller)
                        yield response
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._refuse(context, error)

        if inspect.isasyncgenfunction(inner):
            return responses
        return self._unary(method, inner, parse, deadline=False, stream=True)

    async def _refuse(self, context: Context, error: Exception) -> NoReturn:
        """End a call with an error; late, if its caller has had many."""
        with suppress(CertificateError):
            seconds = self._refusals.delay(caller_of(context).identity.uri, time.monotonic())
            if seconds and self._held < MAX_REFUSALS_HELD:
                self._held += 1
                try:
                    await asyncio.sleep(seconds)
                finally:
                    self._held -= 1
        await abort(context, failure_of(error))


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
