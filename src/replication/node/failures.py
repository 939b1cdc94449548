"""Errors as clients get them: a gRPC status with `google.rpc` details, made from any exception.

Every status carries an ErrorInfo of the domain ``agent-consensus`` whose reason is stable (UPPER_SNAKE), and
a BadRequest that names the fields at fault where there are any; the text is for people. `failure_of` is
total. What it does not know becomes INTERNAL with a number to look for in the node's log, and nothing of the
exception itself: its text could hold anything.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from replication.errors import (
    CallerError,
    InvariantError,
    OperatorError,
    PeerError,
    ReplicationError,
    StorageError,
)
from replication.identity.roles import CertificateError

__all__ = [
    "ERROR_DOMAIN",
    "STATUS_BY_REASON",
    "Failure",
    "RefusedError",
    "abort",
    "bad_field",
    "failure_of",
    "rich_status",
    "trailing_metadata",
]

ERROR_DOMAIN: Final = "agent-consensus"

MAX_MESSAGE_CHARACTERS: Final = 1_000
"""A status travels in HTTP/2 trailers, twice; peers refuse trailers of more than 8 KiB."""

_DETAILS_KEY: Final = "grpc-status-details-bin"

STATUS_BY_REASON: Final[Mapping[str, grpc.StatusCode]] = MappingProxyType(
    {
        # The caller is at fault.
        "DEADLINE_REQUIRED": grpc.StatusCode.INVALID_ARGUMENT,
        "UNKNOWN_PROPOSAL": grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_VOTER": grpc.StatusCode.NOT_FOUND,
        "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
        "REVISION_OUT_OF_ORDER": grpc.StatusCode.INVALID_ARGUMENT,
        "ROLE_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
        "MAY_NOT_VOTE": grpc.StatusCode.PERMISSION_DENIED,
        # The state of the cluster does not allow it.
        "ALREADY_EXECUTED": grpc.StatusCode.FAILED_PRECONDITION,
        "ALREADY_VOTED": grpc.StatusCode.FAILED_PRECONDITION,
        "TARGET_LOCKED": grpc.StatusCode.FAILED_PRECONDITION,
        "REASON_REQUIRED": grpc.StatusCode.INVALID_ARGUMENT,
        "MEMBERSHIP_REFUSED": grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_ALONE": grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_APPROVED": grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_DECIDED": grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_PROPOSER": grpc.StatusCode.FAILED_PRECONDITION,
        "PROPOSAL_EXPIRED": grpc.StatusCode.FAILED_PRECONDITION,
        "PROPOSAL_NOT_OPEN": grpc.StatusCode.FAILED_PRECONDITION,
        "REJOIN_REFUSED": grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_RECEIPTS": grpc.StatusCode.FAILED_PRECONDITION,
        "VIEW_RECORDED": grpc.StatusCode.FAILED_PRECONDITION,
        "WRONG_CLUSTER": grpc.StatusCode.FAILED_PRECONDITION,
        "WRONG_PROTOCOL_VERSION": grpc.StatusCode.FAILED_PRECONDITION,
        # Limits.
        "TOO_MANY_CALLS": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_PENDING": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_PROPOSALS": grpc.StatusCode.RESOURCE_EXHAUSTED,
        # Later, or elsewhere, it may work.
        "EPOCH_OVER": grpc.StatusCode.UNAVAILABLE,
        "NOT_SIGNING": grpc.StatusCode.UNAVAILABLE,
        "NO_QUORUM_OF_NODES": grpc.StatusCode.UNAVAILABLE,
        "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    }
)
"""The status of each reason that has one of its own; for all others the class of the error decides."""

# The first class that fits counts, so special ones stand before their families.
_STATUS_BY_CLASS: Final[tuple[tuple[type[ReplicationError], grpc.StatusCode], ...]] = (
    (CertificateError, grpc.StatusCode.UNAUTHENTICATED),
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (PeerError, grpc.StatusCode.INVALID_ARGUMENT),
    (OperatorError, grpc.StatusCode.FAILED_PRECONDITION),
    (StorageError, grpc.StatusCode.DATA_LOSS),
    (InvariantError, grpc.StatusCode.INTERNAL),
)

_log = logging.getLogger(__name__)


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call: status, stable reason, text, the fields at fault (name, problem), further facts."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=_nothing)


class RefusedError(CallerError):
    """A request that cannot be carried out; the reason decides on the status (`STATUS_BY_REASON`).

    `fields` are the fields at fault with what is wrong with each; `metadata` are further facts as text.
    """

    reason: ClassVar[str] = "INVALID_ARGUMENT"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        fields: tuple[tuple[str, str], ...] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        vars(self)["reason"] = reason  # the class attribute stays the default of the class
        self.fields = fields
        self.metadata = dict(metadata or {})


def bad_field(name: str, problem: str, reason: str = RefusedError.reason) -> RefusedError:
    """The error for one malformed field of a request; `problem` follows the name in a sentence."""
    return RefusedError(reason, f"{name} {problem}", fields=((name, problem),))


def failure_of(error: BaseException) -> Failure:
    """What a client is told about `error`. Never raises; unknown exceptions are logged with a number."""
    if not isinstance(error, ReplicationError):
        return _internal(error)
    code = STATUS_BY_REASON.get(error.reason) or next(
        (code for kind, code in _STATUS_BY_CLASS if isinstance(error, kind)), grpc.StatusCode.INTERNAL
    )
    if code is grpc.StatusCode.INTERNAL:
        return _internal(error)
    return Failure(
        code,
        error.reason,
        _bounded(str(error)),
        tuple((name, _bounded(problem, 300)) for name, problem in getattr(error, "fields", ())[:8]),
        getattr(error, "metadata", None) or {},
    )


def rich_status(failure: Failure) -> status_pb2.Status:
    """The failure as `google.rpc.Status`."""
    info = error_details_pb2.ErrorInfo(
        reason=failure.reason, domain=ERROR_DOMAIN, metadata=dict(failure.metadata)
    )
    details = [_packed(info)]
    if failure.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=problem)
            for name, problem in failure.fields
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    number: int = failure.code.value[0]
    return status_pb2.Status(code=number, message=failure.message, details=details)


def trailing_metadata(failure: Failure) -> tuple[tuple[str, bytes], ...]:
    """The metadata by which gRPC carries the details of a status."""
    return ((_DETAILS_KEY, rich_status(failure).SerializeToString()),)


async def abort(context: grpc.aio.ServicerContext[Any, Any], failure: Failure) -> NoReturn:
    """End the call with this failure. Raises what gRPC wants to see raised."""
    # Given trailing metadata replaces what was set before, such as the id of the call.
    before = context.trailing_metadata() or ()
    await context.abort(failure.code, failure.message, (*before, *trailing_metadata(failure)))
    raise InvariantError("abort came back")  # for the type checker: it always raises


def _internal(error: BaseException) -> Failure:
    number = secrets.token_hex(4)
    _log.error("internal error %s while answering a call", number, exc_info=error)
    reason = error.reason if isinstance(error, ReplicationError) else "INTERNAL"
    message = f"the node failed inside (error {number}). Look for this number in its log and report it."
    return Failure(grpc.StatusCode.INTERNAL, reason, message)


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _bounded(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    # Half a surrogate pair, from a file name say, has no UTF-8 form and would fail the answer itself.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"
