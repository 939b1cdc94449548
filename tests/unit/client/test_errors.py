"""gRPC failures as exceptions: every status, the details of nodes, the handshake that has no status."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types
from grpc.aio import AioRpcError, Metadata

from replication.cli.main import ExitCode, exit_code
from replication.client import errors
from replication.client.connection import Endpoint
from replication.client.transport import explain
from replication.errors import CallerError, OperatorError, ReplicationError, StorageError

TABLE = [
    ("CANCELLED", errors.CallCancelledError, ExitCode.UNAVAILABLE),
    ("UNKNOWN", errors.ServerFailureError, ExitCode.INTERNAL),
    ("INVALID_ARGUMENT", errors.InvalidRequestError, ExitCode.USAGE),
    ("DEADLINE_EXCEEDED", errors.DeadlineExceededError, ExitCode.UNAVAILABLE),
    ("NOT_FOUND", errors.NotFoundError, ExitCode.NOT_FOUND),
    ("ALREADY_EXISTS", errors.ConflictError, ExitCode.CONFLICT),
    ("PERMISSION_DENIED", errors.PermissionDeniedError, ExitCode.DENIED),
    ("RESOURCE_EXHAUSTED", errors.ResourceExhaustedError, ExitCode.UNAVAILABLE),
    ("FAILED_PRECONDITION", errors.ConflictError, ExitCode.CONFLICT),
    ("ABORTED", errors.ConflictError, ExitCode.CONFLICT),
    ("OUT_OF_RANGE", errors.InvalidRequestError, ExitCode.USAGE),
    ("UNIMPLEMENTED", errors.UnsupportedCallError, ExitCode.OPERATOR),
    ("INTERNAL", errors.ServerFailureError, ExitCode.INTERNAL),
    ("UNAVAILABLE", errors.UnavailableError, ExitCode.UNAVAILABLE),
    ("DATA_LOSS", errors.RecordDamagedError, ExitCode.STORAGE),
    ("UNAUTHENTICATED", errors.UnauthenticatedError, ExitCode.DENIED),
]


def failure(
    code: grpc.StatusCode, text: str = "words", *details: object, raw: bytes | None = None
) -> AioRpcError:
    """A failed call whose trailing metadata holds `details`, or the bytes `raw`."""
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)  # type: ignore[arg-type]  # messages of a package without types
        packed.append(item)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    value = raw if raw is not None else status.SerializeToString()
    trailing = Metadata(("grpc-status-details-bin", value)) if details or raw is not None else Metadata()
    return AioRpcError(code, Metadata(), trailing, text, text)


def info(reason: str, domain: str = errors.ERROR_DOMAIN) -> object:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"proposal_id": "prop-0001"})


def test_the_table_covers_every_status() -> None:
    assert {name for name, _, _ in TABLE} == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize(("name", "kind", "code"), TABLE, ids=lambda value: getattr(value, "__name__", value))
def test_each_status_has_its_class_and_exit_code(
    name: str, kind: type[errors.RemoteError], code: ExitCode
) -> None:
    error = errors.translate(failure(grpc.StatusCode[name], "the words", info("SPECIAL")), "h:1")
    assert type(error) is kind
    assert isinstance(error, ReplicationError)
    assert (error.reason, error.status, str(error), error.endpoint) == ("SPECIAL", name, "the words", "h:1")
    assert error.metadata == {"proposal_id": "prop-0001"}
    assert exit_code(error) is code


def test_a_reason_of_one_error_does_not_stick_to_the_class() -> None:
    errors.translate(failure(grpc.StatusCode.NOT_FOUND, "x", info("VOTER_UNKNOWN")))
    assert errors.NotFoundError("x").reason == "NOT_FOUND"


def test_errors_without_details_name_the_node_and_what_happened() -> None:
    error = errors.translate(failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), "n at h:1")
    assert str(error) == "the answer did not come in time (asked n at h:1)"
    assert error.reason == "DEADLINE_EXCEEDED"


def test_an_empty_text_still_gives_a_message() -> None:
    assert "NOT_FOUND" in str(errors.translate(failure(grpc.StatusCode.NOT_FOUND, "")))


def test_reasons_of_other_domains_are_not_believed() -> None:
    error = errors.translate(failure(grpc.StatusCode.NOT_FOUND, "x", info("SPECIAL", "googleapis.com")))
    assert error.reason == "NOT_FOUND"


def test_field_violations_are_kept() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="reason", description="too long")
    bad = error_details_pb2.BadRequest(field_violations=[violation])
    error = errors.translate(failure(grpc.StatusCode.INVALID_ARGUMENT, "x", info("BAD_FIELD"), bad))
    assert error.fields == (("reason", "too long"),)


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x1a\x05\x0a\x03abc", b""])
def test_details_that_are_garbage_are_ignored(raw: bytes) -> None:
    assert errors.translate(failure(grpc.StatusCode.NOT_FOUND, "x", raw=raw)).reason == "NOT_FOUND"


@pytest.mark.parametrize(
    ("text", "was_ready", "kind"),
    [
        ("Socket closed", False, errors.ConnectionRefusedByNodeError),
        ("Socket closed", True, errors.UnavailableError),
        (
            "last error: UNKNOWN: ipv4:1.2.3.4:5: Tls handshake failed",
            False,
            errors.ConnectionRefusedByNodeError,
        ),
        ("recvmsg:Connection reset by peer", False, errors.ConnectionRefusedByNodeError),
        ("Failed to connect to remote host: Connection refused", False, errors.UnavailableError),
        ("DNS resolution failed for nowhere:1", False, errors.UnavailableError),
    ],
)
def test_a_refused_certificate_is_told_from_a_node_that_is_down(
    text: str, was_ready: bool, kind: type[errors.RemoteError]
) -> None:
    error = explain(failure(grpc.StatusCode.UNAVAILABLE, text), Endpoint("h:1", "node-1"), was_ready)
    assert type(error) is kind
    assert "h:1" in str(error)


def test_unavailable_with_a_reason_of_the_node_keeps_its_words() -> None:
    error = explain(
        failure(grpc.StatusCode.UNAVAILABLE, "no coordinator", info("NO_COORDINATOR")), Endpoint("h:1"), False
    )
    assert (str(error), error.reason) == ("no coordinator", "NO_COORDINATOR")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), ExitCode.USAGE),
        (errors.UnknownMemberError("x"), ExitCode.USAGE),
        (errors.ConnectionSettingsError("x"), ExitCode.OPERATOR),
        (errors.ConnectionRefusedByNodeError("x"), ExitCode.DENIED),
        (errors.ResponseError("x"), ExitCode.INTERNAL),
        (CallerError("x"), ExitCode.USAGE),
        (OperatorError("x"), ExitCode.OPERATOR),
        (StorageError("x"), ExitCode.STORAGE),
        (PermissionError(13, "no"), ExitCode.OPERATOR),
        (ZeroDivisionError(), ExitCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_local_errors_have_exit_codes_too(error: Exception, code: ExitCode) -> None:
    assert exit_code(error) is code
