"""Changes of the executors: each makes exactly one difference, or is refused for its own reason."""

from __future__ import annotations

import pytest

from replication.consensus.canonical import canonical_json
from replication.identity.keys import SigningKey
from replication.identity.members import Member, MemberSet, prove_possession
from replication.ledger.membership import ChangeError, apply_change, parse_change

NONCE = b"\x05" * 32
KEYS = {
    name: SigningKey.from_seed(name.encode().ljust(32, b"\0")) for name in ("node-1", "fence-1", "fence-2")
}
MEMBERS = MemberSet(0, (Member("node-1", KEYS["node-1"].public_key, 1, "a.example:7001"),))


def changed(members: MemberSet, change: dict[str, object]) -> MemberSet:
    return apply_change(members, parse_change(canonical_json(change)), NONCE)


def added(name: str, *, key: str = "", prover: str = "") -> dict[str, object]:
    signing = KEYS[key or name]
    proof = prove_possession(KEYS[prover or key or name], name, NONCE)
    executor = {"id": name, "public_key": signing.public_key.hex(), "possession": proof.hex()}
    return {"change": "add-executor", "executor": executor}


def removed(name: str) -> dict[str, object]:
    return {"change": "remove-executor", "id": name}


def test_executors_come_and_go() -> None:
    two = changed(changed(MEMBERS, added("fence-1")), added("fence-2"))
    assert ([one.id for one in two.executors], two.epoch) == (["fence-1", "fence-2"], 2)
    one = changed(two, removed("fence-1"))
    assert ([item.id for item in one.executors], one.epoch) == (["fence-2"], 3)
    assert one.members == MEMBERS.members


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (removed("fence-2"), "fence-2 is not an executor"),
        (removed("node-1"), "node-1 is not an executor"),
        (added("fence-1"), "fence-1 is already an executor"),
        (added("fence-2", prover="node-1"), "possession"),
        (added("fence-2", key="fence-1"), "key"),
        (added("fence-2", key="node-1"), "key"),
        (added("node-1", key="fence-2"), "node-1"),
    ],
)
def test_what_is_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ChangeError, match=problem):
        changed(changed(MEMBERS, added("fence-1")), change)
