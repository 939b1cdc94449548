"""What can go wrong between a client and the cluster, as exceptions a program can tell apart.

A node answers an error with a gRPC status, a text, and a `google.rpc.ErrorInfo` whose reason is stable.
`translate` turns these into one class a status, sorted into the tree of `replication.errors` by who has to
act. Each error has

* `reason`: the stable name (UPPER_SNAKE), the node's where it gave one;
* `status`: the name of the gRPC status, such as ``NOT_FOUND``;
* `metadata`: further facts from the node, as text;
* `fields`: for a bad request, the fields at fault and what is wrong with each;
* `endpoint`: the address of the node that was asked;
* `call_id`: the id of the call, to look for in the logs of nodes; a traceback shows it.

A refused client certificate has no status of its own: the node closes the connection during the handshake,
and gRPC reports UNAVAILABLE, as it does for a node that is down. `AsyncClient` knows whether the connection
was ever up and asks `refused_handshake` for the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from replication.errors import (
    CallerError,
    InvariantError,
    OperatorError,
    PeerError,
    ReplicationError,
    StorageError,
)

__all__ = [
    "ERROR_DOMAIN",
    "CallCancelledError",
    "ConflictError",
    "ConnectionRefusedByNodeError",
    "ConnectionSettingsError",
    "DeadlineExceededError",
    "Explanation",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "RecordDamagedError",
    "RemoteError",
    "ResourceExhaustedError",
    "ResponseError",
    "ServerFailureError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownMemberError",
    "UnsupportedCallError",
    "UsageError",
    "refused_handshake",
    "translate",
    "unknown_outcome",
]

ERROR_DOMAIN: Final = "agent-consensus"
"""The domain of the ErrorInfo that nodes attach; reasons of other domains say nothing to us."""

_DETAILS_KEY: Final = "grpc-status-details-bin"

_HANDSHAKE_TEXTS: Final = (
    "socket closed",
    "hostname verification",
    "connection reset",
    "handshake",
    "ssl",
    "broken pipe",
    "endpoint closing",
    "connection closed",
    "eof",
)
"""How gRPC words a connection that the other side ended before it was usable, in lower case."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The details of one error as the node gave them."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()


class RemoteError(ReplicationError):
    """A call to a node failed. Subclasses say how; `status` is the gRPC status."""

    default_status: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        status: str = "",
        explanation: Explanation | None = None,
        endpoint: str = "",
    ) -> None:
        super().__init__(message)
        details = explanation or Explanation()
        if details.reason:
            vars(self)["reason"] = details.reason  # the class attribute stays the default of the class
        self.status = status or self.default_status
        self.metadata = dict(details.metadata)
        self.fields = details.fields
        self.endpoint = endpoint
        self.call_id = ""

    def name_call(self, call_id: str) -> None:
        """Say which call failed."""
        if not self.call_id:
            self.call_id = call_id
            self.add_note(f"call {call_id}: the log of the node has it as call={call_id}")


class InvalidRequestError(RemoteError, CallerError):
    """The request is malformed or out of range; sent again unchanged it fails again."""

    reason: ClassVar[str] = "INVALID_ARGUMENT"
    default_status: ClassVar[str] = "INVALID_ARGUMENT"


class NotFoundError(RemoteError, CallerError):
    """There is no such proposal, voter or entry."""

    reason: ClassVar[str] = "NOT_FOUND"
    default_status: ClassVar[str] = "NOT_FOUND"


class ConflictError(RemoteError, CallerError):
    """The state of the cluster does not allow it: voted already, decided already, request id used for other
    content.
    """

    reason: ClassVar[str] = "FAILED_PRECONDITION"
    default_status: ClassVar[str] = "FAILED_PRECONDITION"


class PermissionDeniedError(RemoteError, OperatorError):
    """The role in the client certificate does not allow this call."""

    reason: ClassVar[str] = "PERMISSION_DENIED"
    default_status: ClassVar[str] = "PERMISSION_DENIED"


class UnauthenticatedError(RemoteError, OperatorError):
    """The node does not accept the client's certificate as one of its cluster."""

    reason: ClassVar[str] = "UNAUTHENTICATED"
    default_status: ClassVar[str] = "UNAUTHENTICATED"


class ConnectionRefusedByNodeError(UnauthenticatedError):
    """The connection was closed during the TLS handshake; one of the two sides refuses the other's
    certificate.
    """

    reason: ClassVar[str] = "TLS_HANDSHAKE_REFUSED"


class UnavailableError(RemoteError):
    """No node could be reached, or none could carry out the call now. Trying again later may work."""

    reason: ClassVar[str] = "UNAVAILABLE"
    default_status: ClassVar[str] = "UNAVAILABLE"


class DeadlineExceededError(RemoteError):
    """The answer did not come in time.

    A write may or may not have been carried out: repeat it with its request id.
    """

    reason: ClassVar[str] = "DEADLINE_EXCEEDED"
    default_status: ClassVar[str] = "DEADLINE_EXCEEDED"


class CallCancelledError(RemoteError):
    """The call was cancelled, by this process or by a node that is shutting down."""

    reason: ClassVar[str] = "CANCELLED"
    default_status: ClassVar[str] = "CANCELLED"


class ResourceExhaustedError(RemoteError):
    """A limit is reached: too much is pending, or a message is too large."""

    reason: ClassVar[str] = "RESOURCE_EXHAUSTED"
    default_status: ClassVar[str] = "RESOURCE_EXHAUSTED"


class UnsupportedCallError(RemoteError, OperatorError):
    """The node does not know this call: the versions of client and node differ."""

    reason: ClassVar[str] = "UNIMPLEMENTED"
    default_status: ClassVar[str] = "UNIMPLEMENTED"


class RecordDamagedError(RemoteError, StorageError):
    """The node's record is damaged, or its disk failed."""

    reason: ClassVar[str] = "DATA_LOSS"
    default_status: ClassVar[str] = "DATA_LOSS"


class ServerFailureError(RemoteError, InvariantError):
    """The node failed inside; its log says more."""

    reason: ClassVar[str] = "INTERNAL"
    default_status: ClassVar[str] = "INTERNAL"


class ResponseError(PeerError):
    """A node's answer is not what the protocol allows: it lies, is damaged, or has another version."""

    reason: ClassVar[str] = "BAD_RESPONSE"


class UsageError(CallerError):
    """What was asked makes no sense before any node is asked."""

    reason: ClassVar[str] = "USAGE"


class UnknownMemberError(UsageError):
    """The named member is not among those known to this client."""

    reason: ClassVar[str] = "UNKNOWN_MEMBER"


class ConnectionSettingsError(OperatorError):
    """Certificates, keys or addresses for the connection are missing or do not belong together."""

    reason: ClassVar[str] = "CONNECTION_SETTINGS"


_BY_STATUS: Final[Mapping[grpc.StatusCode, type[RemoteError]]] = {
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNKNOWN: ServerFailureError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedCallError,
    grpc.StatusCode.INTERNAL: ServerFailureError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: RecordDamagedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
}

_PLAIN_TEXTS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "the answer did not come in time",
    grpc.StatusCode.CANCELLED: "the call was cancelled",
    grpc.StatusCode.UNIMPLEMENTED: "the node does not know this call; its version differs from this client's",
}
"""Said where gRPC itself ended the call, whose own words ("Deadline Exceeded") tell a person nothing."""


def translate(error: grpc.aio.AioRpcError, endpoint: str = "") -> RemoteError:
    """The exception for a failed call to the node at `endpoint`.

    Total: any status and any details give an error.
    """
    code = error.code()
    explanation = _explanation(error)
    kind = _BY_STATUS.get(code, ServerFailureError)
    text = error.details() or ""
    if not explanation.reason and code in _PLAIN_TEXTS:
        text = _PLAIN_TEXTS[code]
    message = text or f"the node answered {code.name} and gave no reason"
    if not explanation.reason and endpoint:
        message = f"{message} (asked {endpoint})"
    return kind(message, status=code.name, explanation=explanation, endpoint=endpoint)


def looks_like_refused_handshake(error: grpc.aio.AioRpcError) -> bool:
    """Whether the text of an UNAVAILABLE, on a connection that was never up, points at TLS and not at the
    network.
    """
    text = f"{error.details() or ''} {error.debug_error_string() or ''}".lower()
    if "connection refused" in text and "handshake" not in text:
        return False
    return any(part in text for part in _HANDSHAKE_TEXTS)


def refused_handshake(endpoint: str, member_id: str | None, text: str) -> ConnectionRefusedByNodeError:
    """The error for a node that is there but ends every connection before it is up."""
    expected = f" as member {member_id}" if member_id else ""
    return ConnectionRefusedByNodeError(
        f"{endpoint} is listening{expected} but closes the connection during the TLS handshake ({text}). "
        "Either it does not accept this client's certificate (it belongs to another cluster, or the node's "
        "clock is "
        "wrong), or its own certificate is not one of this cluster's CA for that name. Compare --cert, --key "
        "and --ca "
        "with the files of the cluster, and look in the node's log.",
        status="UNAVAILABLE",
        endpoint=endpoint,
    )


def _explanation(error: grpc.aio.AioRpcError) -> Explanation:
    """What the node attached to the error; nothing if it attached nothing readable."""
    status = _rich_status(error)
    if status is None:
        return Explanation()
    reason, metadata, fields = "", dict[str, str](), list[tuple[str, str]]()
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        try:
            if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                fields += [(violation.field, violation.description) for violation in bad.field_violations]
        except DecodeError:
            continue
    return Explanation(reason, metadata, tuple(fields))


def _rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def unknown_outcome(
    error: DeadlineExceededError | UnavailableError, what: str, request_id: str, timeout_seconds: float
) -> RemoteError:
    """The same error with what a caller has to know about a write without an answer."""
    kind = type(error)
    text = (
        f"{what[0].upper()}{what[1:]} within {timeout_seconds:g} s"
        if kind is DeadlineExceededError
        else str(error)
    )
    advice = (
        f"{text.rstrip('.')}. The proposal may be committed all the same; ask again with the same content "
        f"and request "
        f"id {request_id} to find out without proposing it twice."
    )
    details = Explanation(error.reason, {**error.metadata, "request_id": request_id})
    told = kind(advice, status=error.status, explanation=details, endpoint=error.endpoint)
    told.name_call(error.call_id)
    return told
