"""Every exception becomes a status that a program can tell apart, and that says nothing it should not."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from replication.client.errors import translate
from replication.consensus.errors import UnknownProposalError
from replication.errors import (
    CallerError,
    InvariantError,
    OperatorError,
    PeerError,
    ReplicationError,
    StorageError,
)
from replication.identity.roles import CertificateExpiredError
from replication.ledger.outcomes import Reason
from replication.node.driver_terms import NodeStoppingError, NoQuorumError, NotSigningError
from replication.node.failures import (
    ERROR_DOMAIN,
    STATUS_BY_REASON,
    Failure,
    RefusedError,
    bad_field,
    failure_of,
    rich_status,
    trailing_metadata,
)

Status = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RefusedError("UNKNOWN_PROPOSAL", "no"), Status.NOT_FOUND, "UNKNOWN_PROPOSAL"),
        (RefusedError("REQUEST_ID_REUSED", "no"), Status.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
        (RefusedError("TOO_MANY_PROPOSALS", "no"), Status.RESOURCE_EXHAUSTED, "TOO_MANY_PROPOSALS"),
        (RefusedError("SOMETHING_NEW", "no"), Status.INVALID_ARGUMENT, "SOMETHING_NEW"),
        (UnknownProposalError("prop-1"), Status.NOT_FOUND, "UNKNOWN_PROPOSAL"),
        (CertificateExpiredError("old"), Status.UNAUTHENTICATED, "CERTIFICATE_EXPIRED"),
        (CallerError("no"), Status.INVALID_ARGUMENT, "BAD_REQUEST"),
        (PeerError("no"), Status.INVALID_ARGUMENT, "BAD_PEER_MESSAGE"),
        (OperatorError("no"), Status.FAILED_PRECONDITION, "OPERATOR_ACTION_NEEDED"),
        (StorageError("disk"), Status.DATA_LOSS, "STORAGE_FAILED"),
        (InvariantError("two blocks"), Status.INTERNAL, "INVARIANT_BROKEN"),
        (ReplicationError("?"), Status.INTERNAL, "INTERNAL"),
        (ValueError("secret"), Status.INTERNAL, "INTERNAL"),
        (DecodeError("secret"), Status.INTERNAL, "INTERNAL"),
    ],
)
def test_each_error_has_its_status_and_reason(error: Exception, code: grpc.StatusCode, reason: str) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.reason) == (code, reason)


def test_every_refusal_of_the_application_has_a_status_of_its_own() -> None:
    """Outcomes carry reasons as text; none of them may fall through to "the request is malformed"."""
    assert {reason.value for reason in Reason if reason is not Reason.DUPLICATE} <= STATUS_BY_REASON.keys()


@pytest.mark.parametrize("kind", [NoQuorumError, NodeStoppingError, NotSigningError])
def test_what_passes_by_itself_may_be_tried_again(kind: type[ReplicationError]) -> None:
    assert failure_of(kind("later")).code is Status.UNAVAILABLE


def test_what_is_unknown_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        failure = failure_of(KeyError("/home/me/keys/signing.pem"))
    assert "signing.pem" not in failure.message
    number = failure.message.partition("(error ")[2].partition(")")[0]
    assert len(number) == 8
    assert number in caplog.text
    assert "signing.pem" in caplog.text


def test_details_come_back_as_they_went() -> None:
    error = RefusedError(
        "TOO_LARGE", "evidence is too large", fields=(("evidence_json", "has 9 bytes"),), metadata={"k": "v"}
    )
    failure = failure_of(error)
    [(key, raw)] = trailing_metadata(failure)
    status = status_pb2.Status.FromString(raw)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.domain, info.reason, dict(info.metadata)) == (ERROR_DOMAIN, "TOO_LARGE", {"k": "v"})
    assert [(item.field, item.description) for item in bad.field_violations] == [
        ("evidence_json", "has 9 bytes")
    ]
    remote = translate(
        grpc.aio.AioRpcError(
            failure.code, grpc.aio.Metadata(), grpc.aio.Metadata((key, raw)), failure.message
        )
    )
    assert (remote.reason, remote.metadata, remote.fields) == ("TOO_LARGE", {"k": "v"}, error.fields)


def test_a_bad_field_names_itself_in_text_and_details() -> None:
    failure = failure_of(bad_field("voter_id", "must not be empty"))
    assert failure.message == "voter_id must not be empty"
    assert failure.fields == (("voter_id", "must not be empty"),)
    assert failure.reason == "INVALID_ARGUMENT"


def test_a_status_always_fits_into_trailers() -> None:
    huge = RefusedError("X", "ä" * 100_000, fields=tuple((f"f{n}", "p" * 9_999) for n in range(99)))
    assert len(rich_status(failure_of(huge)).SerializeToString()) < 6_000


def test_text_without_utf8_form_is_no_second_failure() -> None:
    failure = failure_of(RefusedError("X", "half a pair: \ud800"))
    assert rich_status(failure).message == "half a pair: ?"


def test_cancellation_is_not_an_answer() -> None:
    """A cancelled handler must end as cancelled; the gate catches `Exception`, which it is not."""
    assert not issubclass(asyncio.CancelledError, Exception)


def test_a_failure_without_details_has_none() -> None:
    assert (
        rich_status(Failure(Status.NOT_FOUND, "R", "m")).details[0].type_url.endswith("google.rpc.ErrorInfo")
    )
    assert len(rich_status(Failure(Status.NOT_FOUND, "R", "m")).details) == 1
