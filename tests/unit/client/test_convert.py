"""Answers of nodes as records: everything arrives, and what a lying node could send is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.client import convert
from replication.client.errors import ResponseError
from replication.client.model import (
    Decision,
    ExecutionOutcome,
    ProposalStatus,
    VoteValue,
    to_json,
)
from replication.v1 import audit_service_pb2, cluster_service_pb2, model_pb2, voting_service_pb2

HEX = "0f" * 32


def decided_proposal() -> model_pb2.Proposal:
    return model_pb2.Proposal(
        id="prop-0001",
        proposer_id="node-1",
        action="terminate",
        target="agent-7",
        evidence_json='{"score":0.97,"tags":["a"]}',
        status=model_pb2.PROPOSAL_STATUS_EXECUTED,
        decision=model_pb2.DECISION_APPROVED,
        digest=bytes(range(32)),
        request_id="r-1",
        created_ms=1,
        closes_ms=2,
        expires_ms=3,
        decided_ms=4,
        votes=[
            model_pb2.Vote(
                voter_id="node-2",
                value=model_pb2.VOTE_VALUE_REJECT,
                reason="no",
                revision=1,
                voted_ms=5,
                entry_sequence=6,
            )
        ],
        tally=model_pb2.TallyResult(
            decision=model_pb2.DECISION_APPROVED,
            approve_count=3,
            reject_count=1,
            total_voters=4,
            quorum_required=3,
            quorum_met=True,
            approve_weight=30,
            reject_weight=10,
            threshold_used="2/3",
            is_critical=True,
            cause="settled",
            entry_sequence=7,
        ),
        receipts=[
            model_pb2.ExecutionReceipt(
                executor_id="node-3",
                outcome=model_pb2.EXECUTION_OUTCOME_PARTIAL,
                detail="half",
                executed_ms=8,
                entry_sequence=9,
            )
        ],
    )


def entry() -> model_pb2.AuditEntry:
    return model_pb2.AuditEntry(
        sequence=5, event_type="vote", actor_id="node-1", data_json="{}", prev_hash=HEX, hash=HEX, height=2
    )


def status() -> cluster_service_pb2.GetStatusResponse:
    members = [cluster_service_pb2.MemberStatus(id="node-1", address="h:1", audit_head=HEX)]
    return cluster_service_pb2.GetStatusResponse(
        cluster_id=bytes(32), coordinator="node-1", node_id="node-1", n=1, members=members
    )


def test_a_proposal_arrives_whole() -> None:
    record = convert.proposal(decided_proposal())
    assert record.evidence == {"score": 0.97, "tags": ["a"]}
    assert (record.status, record.decision) == (ProposalStatus.EXECUTED, Decision.APPROVED)
    assert record.approved
    assert record.decided
    assert record.votes[0].value is VoteValue.REJECT
    assert record.receipts[0].outcome is ExecutionOutcome.PARTIAL
    assert record.tally is not None
    assert (record.tally.threshold_used, record.tally.approve_weight) == ("2/3", 30)
    document = json.loads(json.dumps(to_json(record)))
    assert document["digest"] == bytes(range(32)).hex()
    assert document["votes"][0]["reason"] == "no"


def test_a_listed_proposal_has_no_evidence() -> None:
    message = decided_proposal()
    message.evidence_json = ""
    assert convert.proposal(message, listed=True).evidence is None
    with pytest.raises(ResponseError, match="evidence"):
        convert.proposal(message)


def change(message: Any, path: str, value: object) -> Any:
    """`message` with one field, possibly inside others (a.b, a[0].b), set to `value`."""
    *parents, name = path.replace("[0]", ".0").split(".")
    inner = message
    for parent in parents:
        inner = inner[0] if parent == "0" else getattr(inner, parent)
    setattr(inner, name, value)
    return message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", ""),
        ("proposer_id", ""),
        ("action", ""),
        ("digest", b""),
        ("digest", bytes(31)),
        ("digest", bytes(33)),
        ("status", 0),
        ("status", 99),
        ("status", model_pb2.PROPOSAL_STATUS_OPEN),
        ("decision", 0),
        ("decision", 99),
        ("decision", model_pb2.DECISION_PENDING),
        ("decision", model_pb2.DECISION_REJECTED),
        ("evidence_json", ""),
        ("evidence_json", "[1]"),
        ("evidence_json", "{"),
        ("evidence_json", '{"a":NaN}'),
        ("evidence_json", "[" * 100_000),
        ("votes[0].value", 0),
        ("votes[0].value", 17),
        ("votes[0].voter_id", ""),
        ("tally.decision", 0),
        ("tally.decision", model_pb2.DECISION_PENDING),
        ("tally.cause", "because"),
        ("tally.threshold_used", "0.66"),
        ("tally.threshold_used", "1/0"),
        ("receipts[0].outcome", 0),
        ("receipts[0].executor_id", ""),
    ],
)
def test_a_proposal_that_is_not_one_is_refused(path: str, value: object) -> None:
    with pytest.raises(ResponseError, match=r"cannot be used"):
        convert.proposal(change(decided_proposal(), path, value))


@pytest.mark.parametrize(
    "act",
    [
        lambda: convert.cast_vote(voting_service_pb2.CastVoteResponse()),
        lambda: convert.proposal_of(voting_service_pb2.ProposeResponse()),
        lambda: convert.history_item(voting_service_pb2.HistoryItem(proposal_id="prop-0001")),
        lambda: convert.audit_entry(change(entry(), "prev_hash", "")),
        lambda: convert.audit_entry(change(entry(), "hash", HEX.upper())),
        lambda: convert.audit_entry(change(entry(), "data_json", "null")),
        lambda: convert.audit_entry(change(entry(), "event_type", "")),
        lambda: convert.entry_page(audit_service_pb2.ListEntriesResponse(entries=[entry()]), 4),
        lambda: convert.audit_head(audit_service_pb2.GetHeadResponse(block_hash=bytes(32))),
        lambda: convert.audit_head(audit_service_pb2.GetHeadResponse(audit_head=HEX)),
        lambda: convert.cluster_status(change(status(), "cluster_id", b"x")),
        lambda: convert.cluster_status(change(status(), "coordinator", "")),
        lambda: convert.cluster_status(change(status(), "node_id", "")),
        lambda: convert.cluster_status(change(status(), "members[0].id", "")),
        lambda: convert.cluster_status(change(status(), "members[0].audit_head", "zz")),
        lambda: convert.cluster_status(twice(status())),
        lambda: convert.agreement(voting_service_pb2.GetAgreementResponse(voter_ids=["a"])),
        lambda: convert.agreement(matrix(["a"], [[1.0, 1.0]])),
        lambda: convert.agreement(matrix(["a"], [[1.5]])),
        lambda: convert.agreement(matrix(["a"], [[float("nan")]])),
    ],
)
def test_other_answers_that_are_not_right_are_refused(act: Callable[[], object]) -> None:
    with pytest.raises(ResponseError):
        act()


def twice(message: cluster_service_pb2.GetStatusResponse) -> cluster_service_pb2.GetStatusResponse:
    message.members.append(message.members[0])
    return message


def matrix(voters: list[str], rows: list[list[float]]) -> voting_service_pb2.GetAgreementResponse:
    return voting_service_pb2.GetAgreementResponse(
        voter_ids=voters, rows=[voting_service_pb2.AgreementRow(rates=row) for row in rows]
    )


def test_right_answers_are_taken() -> None:
    assert convert.cluster_status(status()).members[0].audit_head == HEX
    assert convert.audit_entry(entry()).data == {}
    assert convert.entry_page(audit_service_pb2.ListEntriesResponse(entries=[entry()]), 5).entries
    agreement = convert.agreement(matrix(["a", "b"], [[1.0, 0.25], [0.25, 1.0]]))
    assert agreement.rate("a", "b") == 0.25
    with pytest.raises(KeyError):
        agreement.rate("a", "c")


def test_a_bad_chain_always_comes_with_a_problem() -> None:
    check = convert.chain_check(audit_service_pb2.VerifyChainResponse(valid=False))
    assert not check.valid
    assert check.problem


@pytest.mark.parametrize("value", list(VoteValue))
def test_vote_values_go_there_and_back(value: VoteValue) -> None:
    message = model_pb2.Vote(voter_id="a", value=convert.vote_value_to_wire(value))
    assert convert.vote(message).value is value


@given(st.binary(max_size=200))
def test_any_message_gives_a_record_or_a_response_error(data: bytes) -> None:
    message = decided_proposal()
    try:
        message.MergeFromString(data)
    except Exception:  # not a message: gRPC never hands it over
        return
    with contextlib.suppress(ResponseError):
        convert.proposal(message)


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        to_json({1, 2})
