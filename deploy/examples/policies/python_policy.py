"""A voter policy in Python. In config.toml, with this folder on PYTHONPATH:

    [policy]
    kind = "python"
    entry = "python_policy:decide"

The function gets an `Incident` (proposer, action, target, evidence, critical, window_ms, expiry_ms,
created_ms, voter) and returns a `Choice`, "approve", "reject", "abstain", or None to leave the vote to a
person. An exception means no vote. It must answer within the node's time limit and must not wait for the
network: an answer that comes too late is not counted. Evidence is written by the proposer: check its types
before you rely on it.
"""

from __future__ import annotations

from replication.consensus import VoteValue
from replication.node.policies import Choice, Incident

__all__ = ["decide"]

WEIGHTS = {"self_replication": 5, "sandbox_escape": 5, "data_exfiltration": 4, "credential_access": 3}
"""How grave each signal is. A critical action needs `GRAVE_ENOUGH` points, any other one half of them."""

GRAVE_ENOUGH = 5


def decide(incident: Incident) -> Choice | None:
    """Vote by the weight of the signal and the number of monitors that confirm it."""
    if incident.target == incident.voter:
        return Choice(VoteValue.ABSTAIN, "I am the one accused")
    if incident.action == "release":
        return None  # a person decides
    signal = incident.evidence.get("signal")
    if not isinstance(signal, str) or signal not in WEIGHTS:
        return None
    points = WEIGHTS[signal] + _confirmations(incident)
    needed = GRAVE_ENOUGH if incident.critical else GRAVE_ENOUGH / 2
    if points >= needed:
        return Choice(VoteValue.APPROVE, f"{signal}: {points} points")
    return Choice(VoteValue.REJECT, f"{signal}: {points} points of {needed}")


def _confirmations(incident: Incident) -> int:
    """How many others confirm it; nobody counts twice, nor the proposer itself."""
    names = incident.evidence.get("confirmed_by")
    if not isinstance(names, list):
        return 0
    return len({name for name in names if isinstance(name, str)} - {incident.proposer})
