"""A short session in one process, told as text or JSON. Its clock is made up: every run is the same."""

from __future__ import annotations

import json
from itertools import count
from typing import Any, Final

from replication.consensus.config import ConsensusConfig
from replication.consensus.errors import AlreadyVotedError, InvalidRequestError, shown
from replication.consensus.model import Proposal, VoteValue
from replication.consensus.protocol import ConsensusProtocol

__all__ = ["MAX_DEMO_VOTERS", "run_demo"]

MAX_DEMO_VOTERS: Final = 100
"""As many as a cluster may have."""

_START_SECONDS: Final = 1_700_000_000  # any fixed time: the demo must not read a clock

_CASES: Final[tuple[tuple[str, str, dict[str, Any], VoteValue], ...]] = (
    ("quarantine", "agent-17", {"signal": "credential harvesting", "score": 0.97}, VoteValue.APPROVE),
    ("terminate", "agent-23", {"signal": "self-replication", "score": 0.99}, VoteValue.APPROVE),
    ("release", "agent-17", {"signal": "under investigation", "score": 0.61}, VoteValue.REJECT),
)
"""Action, target, evidence, and how the honest voters judge it."""


def run_demo(voters: int = 5, byzantine: bool = False, as_json: bool = False) -> str:
    """Play three proposals with `voters` voters and return the account of it, as text or as one JSON object.

    With `byzantine`, the f voters that the session tolerates vote against the honest ones and try to vote
    twice. Raises `InvalidRequestError` (a `ValueError`) if `voters` is not from 1 to
    `MAX_DEMO_VOTERS`.
    """
    if type(voters) is not int or not 1 <= voters <= MAX_DEMO_VOTERS:
        raise InvalidRequestError(
            f"voters must be an integer from 1 to {MAX_DEMO_VOTERS}, got {shown(voters)}"
        )
    clock = count(_START_SECONDS)
    voter_ids = [f"monitor-{number}" for number in range(1, voters + 1)]
    session = ConsensusProtocol(voter_ids, config=ConsensusConfig(), clock=lambda: next(clock))
    traitors = voter_ids[voters - session.max_byzantine_faults :] if byzantine else []
    refused: list[str] = []
    for action, target, evidence, honest_view in _CASES:
        proposal_id = session.propose(voter_ids[0], action, target, evidence)
        _vote_all(session, proposal_id, honest_view, traitors, refused)
        session.tally(proposal_id)
        session.execute(proposal_id)
    return _as_json(session, traitors, refused) if as_json else _as_text(session, traitors, refused)


def _vote_all(
    session: ConsensusProtocol,
    proposal_id: str,
    honest_view: VoteValue,
    traitors: list[str],
    refused: list[str],
) -> None:
    opposite = VoteValue.REJECT if honest_view is VoteValue.APPROVE else VoteValue.APPROVE
    for voter_id in session.voter_ids:
        if voter_id not in traitors:
            session.vote(proposal_id, voter_id, honest_view, "evidence reviewed")
            continue
        session.vote(proposal_id, voter_id, opposite)
        try:
            session.vote(proposal_id, voter_id, opposite)
        except AlreadyVotedError as error:
            refused.append(str(error))


def _as_json(session: ConsensusProtocol, traitors: list[str], refused: list[str]) -> str:
    proposals = [_facts(proposal) for proposal in session.list_proposals()]
    account = {
        "voters": session.voter_ids,
        "byzantine": traitors,
        "proposals": proposals,
        "refused": refused,
        "summary": session.summary(),
    }
    return json.dumps(account, indent=2)


def _facts(proposal: Proposal) -> dict[str, Any]:
    result = proposal.result
    return {
        "id": proposal.id,
        "action": proposal.action,
        "target": proposal.target,
        "status": proposal.status.value,
        "is_critical": proposal.is_critical,
        "decision": None if result is None else result.decision.value,
        "approve": 0 if result is None else result.approve_count,
        "reject": 0 if result is None else result.reject_count,
    }


def _as_text(session: ConsensusProtocol, traitors: list[str], refused: list[str]) -> str:
    lines = [f"{session.voter_count} voters; against the honest: {', '.join(traitors) or 'nobody'}", ""]
    for facts in map(_facts, session.list_proposals()):
        rule = "supermajority" if facts["is_critical"] else "majority"
        lines.append(
            f"{facts['id']}  {facts['action']} {facts['target']}: "
            f"{facts['approve']} approve, {facts['reject']} reject -> "
            f"{facts['decision']} by {rule}, {facts['status']}"
        )
    lines += [f"refused: {message}" for message in refused]
    return "\n".join([*lines, "", session.render()])
