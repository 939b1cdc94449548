"""Every field of the configuration is checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest

from replication.consensus import ConsensusConfig
from replication.consensus.approval import ApprovalRules

NAN, INF = math.nan, math.inf
HUGE = pytest.param(10**5000, id="huge")
SHARES = ["quorum_fraction", "majority_threshold", "supermajority_threshold"]


def test_the_defaults() -> None:
    config = ConsensusConfig()
    assert config.approval == ApprovalRules()
    assert dataclasses.asdict(config) | {"approval": None} == {
        "quorum_fraction": 0.5,
        "majority_threshold": 0.5,
        "supermajority_threshold": 2 / 3,
        "default_expiry_seconds": 0,
        "allow_vote_change": False,
        "max_active_proposals": 10,
        "approval": None,
    }


def test_floats_mean_the_simplest_fraction() -> None:
    rules = ConsensusConfig(quorum_fraction=0.1, majority_threshold=5 / 6).rules()
    assert rules.quorum_fraction == Fraction(1, 10)
    assert rules.majority_threshold == Fraction(5, 6)
    assert rules.supermajority_threshold == Fraction(2, 3)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize(
    "value", [0, 0.0, -0.1, 1.0000001, 2, HUGE, NAN, INF, -INF, True, "1/2", None, [0.5]]
)
def test_shares_outside_their_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} .*greater than 0.* at most 1") as caught:
        ConsensusConfig(**{name: value})
    assert value == 10**5000 or repr(value) in str(caught.value)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [1, 1.0, 5e-324, Fraction(1, 3)])
def test_shares_inside_their_range(name: str, value: Any) -> None:
    assert getattr(ConsensusConfig(**{name: value}).rules(), name) > 0


@pytest.mark.parametrize("value", [-1, -1e-9, NAN, INF, True, "5", None, HUGE])
def test_expiries_outside_their_range(value: Any) -> None:
    with pytest.raises(
        ValueError, match="default_expiry_seconds must be a finite number of seconds, at least 0"
    ):
        ConsensusConfig(default_expiry_seconds=value)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 3600, 1e300])
def test_expiries_inside_their_range(value: float) -> None:
    assert ConsensusConfig(default_expiry_seconds=value).default_expiry_seconds == value


@pytest.mark.parametrize("value", [0, -1, 1.0, 10.5, NAN, INF, True, "10", None, -(10**400)])
def test_limits_outside_their_range(value: Any) -> None:
    with pytest.raises(ValueError, match="max_active_proposals must be an integer of at least 1, got"):
        ConsensusConfig(max_active_proposals=value)


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_the_flag_is_a_boolean(value: Any) -> None:
    with pytest.raises(ValueError, match="allow_vote_change must be True or False"):
        ConsensusConfig(allow_vote_change=value)


def test_a_configuration_does_not_change_after_its_check() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConsensusConfig().quorum_fraction = 7  # type: ignore[misc]
