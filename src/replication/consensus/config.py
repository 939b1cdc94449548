"""The settings of a voting session, checked when they are made."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction

from replication.consensus.approval import NOTHING_MORE, ApprovalRules
from replication.consensus.errors import InvalidConfigError, shown
from replication.consensus.rules import VotingRules, require_share

__all__ = ["ConsensusConfig", "require_seconds"]


@dataclass(frozen=True, slots=True)
class ConsensusConfig:
    """How votes are decided. A bad field raises `InvalidConfigError`, naming it, its value and legal range.

    * `quorum_fraction`: share of all voters who must approve or reject, in (0, 1]; never fewer than 2f + 1
      voters.
    * `majority_threshold`, `supermajority_threshold`: share of the non-abstaining weight that must approve an
      ordinary or a critical action, in (0, 1]; meeting it exactly is enough. A float means the simplest
      fraction that rounds to it, so the default is two thirds exactly.
    * `default_expiry_seconds`: lifetime of a proposal that does not set its own, finite and >= 0; 0 is no
      expiry.
    * `allow_vote_change`: whether a voter may vote again while the proposal is open; the last vote counts.
    * `max_active_proposals`: how many proposals may be open at once, an integer >= 1.
    * `approval`: what approval needs beside the shares (`replication.consensus.approval`). Times in it are
      for clusters.
    """

    quorum_fraction: float | Fraction = 0.5
    majority_threshold: float | Fraction = 0.5
    supermajority_threshold: float | Fraction = 2 / 3
    default_expiry_seconds: float = 0
    allow_vote_change: bool = False
    max_active_proposals: int = 10
    approval: ApprovalRules = NOTHING_MORE

    def __post_init__(self) -> None:
        for name in ("quorum_fraction", "majority_threshold", "supermajority_threshold"):
            _require_share_number(name, getattr(self, name))
        require_seconds("default_expiry_seconds", self.default_expiry_seconds)
        _require_flag("allow_vote_change", self.allow_vote_change)
        _require_count("max_active_proposals", self.max_active_proposals)
        if not isinstance(self.approval, ApprovalRules):
            raise InvalidConfigError(f"approval must be ApprovalRules, got {shown(self.approval)}")
        self.rules()

    def rules(self) -> VotingRules:
        """Return the exact voting rules of this configuration."""
        return VotingRules(
            quorum_fraction=require_share("quorum_fraction", self.quorum_fraction),
            majority_threshold=require_share("majority_threshold", self.majority_threshold),
            supermajority_threshold=require_share("supermajority_threshold", self.supermajority_threshold),
            approval=self.approval,
        )


def require_seconds(name: str, value: object) -> None:
    """Raise `InvalidConfigError` unless `value` is a finite number of seconds, at least 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max:
        return  # a comparison, unlike math.isfinite(), takes integers of any size; NaN fails it
    raise InvalidConfigError(
        f"{name} must be a finite number of seconds, at least 0 (0 = never), got {shown(value)}"
    )


def _require_share_number(name: str, value: object) -> None:
    if not isinstance(value, int | float | Fraction):  # text is for files; a program has numbers
        raise InvalidConfigError(f"{name} must be a number greater than 0 and at most 1, got {shown(value)}")
    require_share(name, value)


def _require_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidConfigError(f"{name} must be True or False, got {shown(value)}")


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidConfigError(f"{name} must be an integer of at least 1, got {shown(value)}")
