"""The vocabulary: enumerations, records, and the errors' place in both trees."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import pickle

import pytest

import replication.consensus as consensus
from replication.consensus import (
    AuditEntry,
    Decision,
    Proposal,
    ProposalAction,
    ProposalStatus,
    TallyResult,
    Vote,
    VoteValue,
    errors,
)
from replication.errors import CallerError


def test_the_public_names_are_exactly_these() -> None:
    assert consensus.__all__ == [
        "AuditEntry",
        "ConsensusConfig",
        "ConsensusProtocol",
        "Decision",
        "Proposal",
        "ProposalAction",
        "ProposalStatus",
        "TallyResult",
        "Vote",
        "VoteValue",
    ]
    assert all(hasattr(consensus, name) for name in consensus.__all__)


@pytest.mark.parametrize(
    ("enumeration", "names"),
    [
        (VoteValue, "APPROVE REJECT ABSTAIN"),
        (Decision, "APPROVED REJECTED NO_QUORUM PENDING"),
        (ProposalStatus, "OPEN DECIDED EXECUTED EXPIRED"),
        (ProposalAction, "QUARANTINE TERMINATE ESCALATE RELEASE RESTRICT"),
    ],
)
def test_enumeration_values_are_the_lower_case_names(enumeration: type, names: str) -> None:
    members = list(enumeration)  # type: ignore[call-overload]
    assert [member.name for member in members] == names.split()
    assert [member.value for member in members] == names.lower().split()


def test_a_vote_value_that_says_nothing_abstains() -> None:
    assert VoteValue() is VoteValue.ABSTAIN
    assert VoteValue(value="reject") is VoteValue.REJECT
    assert VoteValue("approve") is VoteValue.APPROVE
    assert pickle.loads(pickle.dumps(VoteValue.REJECT)) is VoteValue.REJECT
    assert copy.deepcopy(VoteValue.REJECT) is VoteValue.REJECT
    with pytest.raises(ValueError, match="maybe"):
        VoteValue("maybe")


@pytest.mark.parametrize(
    ("action", "critical"),
    [("terminate", True), ("escalate", True), ("quarantine", False), ("release", False), ("restrict", False)],
)
def test_critical_actions(action: str, critical: bool) -> None:
    assert ProposalAction(action).is_critical() is critical
    assert ProposalAction.is_critical(action) is critical
    assert ProposalAction.is_critical(ProposalAction(action)) is critical
    assert Proposal("prop-0001", "a", action).is_critical is critical


def test_an_unlisted_action_is_not_critical() -> None:
    assert ProposalAction.is_critical("reboot") is False


def test_vote_hash_is_sha256_over_canonical_json_of_the_other_fields() -> None:
    vote = Vote("a", VoteValue.APPROVE, 12.5, "seen")
    text = '{"reason":"seen","timestamp":12.5,"value":"approve","voter_id":"a"}'
    assert vote.hash == hashlib.sha256(text.encode()).hexdigest() == vote.compute_hash()
    assert Vote("a", VoteValue.APPROVE, 12.5).reason is None
    assert Vote("a", VoteValue.APPROVE, 12.5, hash="given").hash == "given"
    with pytest.raises(dataclasses.FrozenInstanceError):
        vote.value = VoteValue.REJECT  # type: ignore[misc]


@pytest.mark.parametrize(
    "other",
    [
        Vote("b", VoteValue.APPROVE, 12.5, "seen"),
        Vote("a", VoteValue.REJECT, 12.5, "seen"),
        Vote("a", VoteValue.APPROVE, 12.6, "seen"),
        Vote("a", VoteValue.APPROVE, 12.5, None),
    ],
)
def test_vote_hash_covers_every_field(other: Vote) -> None:
    assert other.hash != Vote("a", VoteValue.APPROVE, 12.5, "seen").hash


def _result(decision: Decision, approve: int = 0, reject: int = 0, voters: int = 5) -> TallyResult:
    return TallyResult("prop-0001", decision, approve, reject, 0, voters, 3, True, 0.0, 0.0, 0.5)


def test_only_approved_is_approved() -> None:
    assert [decision for decision in Decision if _result(decision).approved] == [Decision.APPROVED]


def test_participation_rate_is_the_share_who_took_a_side() -> None:
    assert _result(Decision.APPROVED, 2, 1).participation_rate == 0.6
    assert _result(Decision.NO_QUORUM, voters=0).participation_rate == 0.0


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _result(Decision.REJECTED).decision = Decision.APPROVED  # type: ignore[misc]


def test_a_new_proposal_is_open() -> None:
    proposal = Proposal("prop-0001", "a", "release")
    assert (proposal.status, proposal.votes, proposal.result) == (ProposalStatus.OPEN, {}, None)


def test_entry_hash_is_sha256_over_canonical_json_of_all_fields_and_the_link() -> None:
    entry = AuditEntry(3, "vote", "prop-0001", None, {"b": 1, "a": [True]}, 7.25, "ignored")
    text = (
        '{"actor_id":null,"data":{"a":[true],"b":1},"event_type":"vote","prev_hash":"linked",'
        '"proposal_id":"prop-0001","sequence":3,"timestamp":7.25}'
    )
    assert entry.compute_hash("linked") == hashlib.sha256(text.encode()).hexdigest()
    assert entry.compute_hash() == entry.compute_hash("")


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_is_a_caller_error_and_the_promised_builtin(name: str) -> None:
    error_class = getattr(errors, name)
    assert issubclass(error_class, CallerError)
    assert issubclass(error_class, KeyError if name == "UnknownProposalError" else ValueError)
    assert error_class.reason not in (CallerError.reason, "")


def test_errors_have_reasons_of_their_own() -> None:
    reasons = [getattr(errors, name).reason for name in errors.__all__ if name.endswith("Error")]
    assert len(set(reasons)) == len(reasons)


def test_a_key_error_prints_without_quotes() -> None:
    error = errors.UnknownProposalError("prop-9")
    assert str(error) == "Unknown proposal 'prop-9': use an id that propose() returned"


@pytest.mark.parametrize("error", [errors.UnknownProposalError("x"), errors.UnknownVoterError("x")])
def test_errors_keep_their_message_on_the_way_to_another_process(error: Exception) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(error, protocol))
        assert (type(twin), str(twin)) == (type(error), str(error))
    assert str(copy.copy(error)) == str(error)
