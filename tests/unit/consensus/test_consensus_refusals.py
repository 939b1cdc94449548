"""What a session refuses: each with the promised error, a message that says why, and nothing changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from replication.consensus import ConsensusConfig, ConsensusProtocol, ProposalStatus, VoteValue
from replication.consensus.errors import (
    AlreadyVotedError,
    InvalidConfigError,
    InvalidEvidenceError,
    InvalidRequestError,
    ProposalExpiredError,
    ProposalLimitError,
    ProposalNotOpenError,
    UnknownProposalError,
    UnknownVoterError,
)

A, R = VoteValue.APPROVE, VoteValue.REJECT
VOTERS = ["a", "b", "c", "d"]
OPEN, DECIDED, APPROVED, EXECUTED, EXPIRED = (f"prop-000{number}" for number in range(1, 6))
HUGE = 10**400


@pytest.fixture
def session() -> ConsensusProtocol:
    """A session with one proposal in each state; `a` has voted on the open one, and no more may be opened."""
    now = [1000.0]
    session = ConsensusProtocol(VOTERS, config=ConsensusConfig(max_active_proposals=5), clock=lambda: now[0])
    for expiry_seconds in (0, 0, 0, 0, 1):
        session.propose("a", "release", expiry_seconds=expiry_seconds)
    session.vote(OPEN, "a", A)
    for proposal_id in (APPROVED, EXECUTED):
        for voter_id in ("a", "b", "c"):
            session.vote(proposal_id, voter_id, A)
        session.tally(proposal_id)
    session.tally(DECIDED)
    session.execute(EXECUTED)
    now[0] = 1002.0
    for _ in range(4):
        session.propose("b", "restrict")
    return session


def content(session: ConsensusProtocol) -> Any:
    """A deep copy of everything that a session shows."""
    return copy.deepcopy(
        (
            session.list_proposals(),
            session.audit_log,
            session.summary(),
            session.voter_agreement_matrix(),
            [session.get_voter_history(voter_id) for voter_id in session.voter_ids],
        )
    )


# Method, arguments, error, and a part of the message.
Case = tuple[str, tuple[Any, ...], type[Exception], str]

CASES: list[Case] = [
    (
        "propose",
        ("a", "x"),
        ProposalLimitError,
        "5 active proposals, and max_active_proposals allows no more",
    ),
    ("propose", ("z", "x"), UnknownVoterError, "Unknown voter 'z': not one of the voters"),
    ("propose", ("a", ""), InvalidRequestError, "action must not be empty"),
    ("vote", (OPEN, "a", A), AlreadyVotedError, f"'a' has already voted approve on {OPEN}, and allow_vote"),
    ("vote", (OPEN, "a", R), AlreadyVotedError, f"'a' has already voted approve on {OPEN}, and allow_vote"),
    ("vote", (DECIDED, "d", A), ProposalNotOpenError, f"{DECIDED} is not open for votes: it is decided"),
    ("vote", (APPROVED, "d", A), ProposalNotOpenError, f"{APPROVED} is not open for votes: it is decided"),
    ("vote", (EXECUTED, "d", A), ProposalNotOpenError, f"{EXECUTED} is not open for votes: it is executed"),
    (
        "vote",
        (EXPIRED, "d", A),
        ProposalExpiredError,
        f"{EXPIRED} expired at 1001.0 s, it takes no more votes",
    ),
]


def cases() -> Iterator[Case]:
    """The cases above, and one for each kind of wrong argument."""
    yield from CASES
    for bad in (None, 5, b"x", "\ud800"):
        yield (
            "propose",
            ("a", bad),
            InvalidRequestError,
            f"action must be text that UTF-8 can encode, got {bad!r}",
        )
    for bad in (5, "\udc00"):
        yield (
            "propose",
            ("a", "x", bad),
            InvalidRequestError,
            f"target must be text that UTF-8 can encode, got {bad!r}",
        )
        yield (
            "vote",
            (OPEN, "b", A, bad),
            InvalidRequestError,
            f"reason must be text that UTF-8 can encode, got {bad!r}",
        )
    evidence: Any
    for evidence in ([], "text", {"k": math.nan}, {"k": {1, 2}}, {1: 2}):
        yield "propose", ("a", "x", None, evidence), InvalidEvidenceError, "evidence must be a JSON object"
    for seconds in (-1, math.nan, math.inf, HUGE, True, "5"):
        message = "expiry_seconds must be a finite number of seconds, at least 0"
        yield "propose", ("a", "x", None, None, seconds), InvalidConfigError, message
    for stranger in ("z", "", None, 7, ["a"]):
        message = f"Unknown voter {stranger!r}: not one of the voters"
        yield "vote", (OPEN, stranger, A), UnknownVoterError, message
        yield "get_voter_history", (stranger,), UnknownVoterError, message
    for value in ("yes", "APPROVE", "", None, 1, True, ["approve"]):
        message = f"one of approve, reject, abstain, got {value!r}"
        yield "vote", (OPEN, "b", value), InvalidRequestError, message
    for unknown in ("prop-0099", "", None, 1, ["prop-0001"], "\ud800"):
        message = f"Unknown proposal {unknown!r}: use an id that propose() returned"
        yield "vote", (unknown, "a", A), UnknownProposalError, message
        for method in ("tally", "execute", "get_proposal"):
            yield method, (unknown,), UnknownProposalError, message
    for status in ("closed", "", 5, ["open"]):
        message = f"status must be one of open, decided, executed, expired, got {status!r}"
        yield "list_proposals", (status,), InvalidRequestError, message
    for threshold in (0, -0.5, 1.01, math.nan, True, "much", None):
        yield "detect_voting_blocs", (threshold,), InvalidConfigError, "Threshold"


def name_of(case: Case) -> str:
    return f"{case[0]}({', '.join(ascii(argument)[:20] for argument in case[1])})"


@pytest.mark.parametrize(
    ("method", "arguments", "error", "message"), list(cases()), ids=map(name_of, cases())
)
def test_a_refused_request_says_why_and_changes_nothing(
    session: ConsensusProtocol, method: str, arguments: Any, error: type[Exception], message: str
) -> None:
    before = content(session)
    with pytest.raises(error) as caught:
        getattr(session, method)(*arguments)
    assert type(caught.value) is error
    assert message in str(caught.value)
    assert isinstance(caught.value, KeyError if error is UnknownProposalError else ValueError)
    assert content(session) == before


def test_a_refusal_of_a_late_vote_records_that_the_proposal_expired() -> None:
    now = [0.0]
    session = ConsensusProtocol(VOTERS, clock=lambda: now[0])
    proposal_id = session.propose("a", "release", expiry_seconds=5)
    now[0] = 5.5
    with pytest.raises(ProposalExpiredError):
        session.vote(proposal_id, "a", A)
    proposal = session.get_proposal(proposal_id)
    assert (proposal.status, proposal.votes) == (ProposalStatus.EXPIRED, {})
    assert [entry.event_type for entry in session.audit_log] == ["propose", "expired"]


def test_a_change_of_vote_is_refused_like_any_other_after_the_decision() -> None:
    session = ConsensusProtocol(VOTERS, config=ConsensusConfig(allow_vote_change=True))
    proposal_id = session.propose("a", "release")
    for voter_id in VOTERS:
        session.vote(proposal_id, voter_id, A)
    result = session.tally(proposal_id)
    with pytest.raises(ProposalNotOpenError):
        session.vote(proposal_id, "a", R)
    assert session.tally(proposal_id) is result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"voter_ids": []}, "At least one voter is needed, got none"),
        ({"voter_ids": "abc"}, "voter_ids must be a collection of voter ids, got 'abc'"),
        ({"voter_ids": None}, "voter_ids must be a collection of voter ids, got None"),
        ({"voter_ids": ["a", ""]}, "voter_ids must be non-empty text, got ''"),
        ({"voter_ids": ["a", 5]}, "voter_ids must be non-empty text, got 5"),
        ({"voter_ids": ["a", ["b"]]}, "voter_ids must be non-empty text"),
        ({"voter_ids": ["a", "\ud800"]}, "voter_ids must be non-empty text"),
        ({"voter_ids": ["a", "b", "a"]}, "Duplicate voter 'a' in voter_ids"),
        ({"weights": {"z": 1}}, "Unknown voter 'z' in weights"),
        ({"weights": [1, 2]}, "weights must map voter ids to numbers"),
        *(
            ({"weights": {"a": weight}}, r"weights\['a'\] must be a positive, finite number .*> 0.*, got ")
            for weight in (0, 0.0, -1, Fraction(-1, 2), math.nan, math.inf, True, "1", None)
        ),
        ({"weights": {"a": HUGE}}, "weights must be finite"),
        ({"weights": {"a": 1.5e308, "b": 1.5e308}}, "weights must be finite, also their sum"),
        ({"config": {"quorum_fraction": 0.5}}, "config must be a ConsensusConfig or None"),
    ],
)
def test_what_a_session_cannot_be_made_of(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        ConsensusProtocol(**{"voter_ids": VOTERS, **arguments})


@pytest.mark.parametrize("reading", [math.nan, math.inf, -math.inf, True, None, "0", HUGE])
def test_a_broken_clock_changes_nothing(reading: Any) -> None:
    readings: list[Any] = [0]
    session = ConsensusProtocol(VOTERS, clock=lambda: readings[0])
    proposal_id = session.propose("a", "release", expiry_seconds=5)
    session.vote(proposal_id, "a", A)
    before = content(session)
    readings[0] = reading
    for request in (
        lambda: session.propose("a", "release"),
        lambda: session.vote(proposal_id, "b", A),
        lambda: session.tally(proposal_id),
        lambda: session.execute(proposal_id),
    ):
        with pytest.raises(InvalidRequestError, match="clock must return a finite number of seconds"):
            request()
    readings[0] = 0
    assert content(session) == before


def test_an_expiry_beyond_all_times_is_refused() -> None:
    session = ConsensusProtocol(VOTERS, clock=lambda: 1.7e308)
    with pytest.raises(InvalidRequestError, match="expiry_seconds must end at a finite time"):
        session.propose("a", "release", expiry_seconds=1.7e308)
    assert session.audit_log == []


def test_times_that_are_large_integers_are_recorded() -> None:
    session = ConsensusProtocol(VOTERS, clock=lambda: 2**60)
    proposal_id = session.propose("a", "release", expiry_seconds=2**70)
    session.vote(proposal_id, "a", A)
    assert session.get_proposal(proposal_id).expires_at == 2.0**70 + 2.0**60
    assert session.verify_audit_chain()
