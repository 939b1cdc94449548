"""A genesis file with real keys, and a policy that is always of one opinion."""

from __future__ import annotations

from functools import lru_cache

from replication.consensus import VoteValue
from replication.identity.genesis import Genesis, Rules, build_genesis, parse_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.tls import create_authority
from replication.node.policies import Choice, Incident, Judgement

__all__ = ["Always", "make_genesis"]


class Always:
    """A policy that says the same to everything; the reason tells how often it was asked."""

    kind = "cel"

    def __init__(self, value: VoteValue = VoteValue.APPROVE) -> None:
        self.value = value
        self.asked = 0

    def judge(self, incident: Incident) -> Judgement:
        return Judgement(self.decide(incident))

    def decide(self, incident: Incident) -> Choice | None:
        self.asked += 1
        return Choice(self.value, f"asked {self.asked} times")


@lru_cache(maxsize=1)
def _authority() -> bytes:
    return create_authority("test authority")[0]


def make_genesis(size: int, rules: Rules) -> tuple[Genesis, dict[str, SigningKey]]:
    """A cluster of node-0, node-1, ... with keys that are the same in every run."""
    keys = {f"node-{number}": SigningKey.from_seed(bytes([number + 1]) * 32) for number in range(size)}
    nonce = bytes(32)
    raw = build_genesis(
        name="test",
        created_ms=1_700_000_000_000,
        nonce=nonce,
        members=[Member(name, key.public_key, 1, f"{name}:7000") for name, key in keys.items()],
        possessions={name: prove_possession(key, name, nonce) for name, key in keys.items()},
        rules=rules,
        ca_certificate=_authority(),
    )
    return parse_genesis(raw), keys
