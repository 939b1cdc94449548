"""Members and member sets, and the gate before them."""

from __future__ import annotations

from typing import Any

import pytest

from replication.errors import OperatorError
from replication.identity.keys import KeyRefusedError, SigningKey
from replication.identity.members import (
    MAX_WEIGHT,
    Member,
    MemberSet,
    MemberSetError,
    admit_member_key,
    prove_possession,
)

NONCE = b"\x05" * 32


def member(number: int, **changes: Any) -> Member:
    fields = {
        "id": f"node-{number}",
        "public_key": number.to_bytes(32, "big"),
        "weight": 1,
        "address": f"h:{number}",
    }
    return Member(**{**fields, **changes})


def members(n: int, epoch: int = 0) -> MemberSet:
    return MemberSet(epoch, tuple(member(number) for number in range(1, n + 1)))


@pytest.mark.parametrize(
    ("n", "faulty"), [(1, 0), (3, 0), (4, 1), (5, 1), (6, 1), (7, 2), (9, 2), (10, 3), (13, 4), (100, 33)]
)
def test_how_many_may_be_faulty(n: int, faulty: int) -> None:
    assert members(n).n == n
    assert members(n).max_faulty == faulty


def test_members_are_found_by_id_and_keep_their_order() -> None:
    everyone = MemberSet(3, (member(2), member(1), member(3)))
    assert everyone.ids == ("node-2", "node-1", "node-3")
    assert [everyone.index_of(name) for name in everyone.ids] == [0, 1, 2]
    assert everyone.get("node-1") == member(1)
    assert everyone.get("node-9") is None
    assert "node-3" in everyone
    assert "node-9" not in everyone
    assert everyone.public_key("node-3") == member(3).public_key
    with pytest.raises(KeyError):
        everyone.index_of("node-9")
    with pytest.raises(KeyError):
        everyone.public_key("node-9")


def test_sets_are_values() -> None:
    assert members(4) == members(4)
    assert hash(members(4)) == hash(members(4))
    assert members(4) != members(4, epoch=1)
    assert members(4) != members(5)
    with pytest.raises(AttributeError):
        members(4).epoch = 2  # type: ignore[misc]


@pytest.mark.parametrize("n", [0, 101])
def test_a_set_has_1_to_100_members(n: int) -> None:
    with pytest.raises(MemberSetError, match=f"1 to 100 members, not {n}"):
        members(n)


@pytest.mark.parametrize("epoch", [-1, 2**64, 1.0, True, None])
def test_an_illegal_epoch_is_refused(epoch: Any) -> None:
    with pytest.raises(MemberSetError, match="epoch must be"):
        members(4, epoch)


def test_ids_and_keys_are_unique() -> None:
    with pytest.raises(MemberSetError, match="two members have the id node-1"):
        MemberSet(0, (member(1), member(2, id="node-1")))
    with pytest.raises(
        MemberSetError, match="node-1 and node-2 have the same public key; make a key for each"
    ):
        MemberSet(0, (member(1), member(2, public_key=member(1).public_key)))


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a/b", ".", "..", "é", "a\n", None, b"a"])
def test_an_illegal_id_is_refused(name: Any) -> None:
    with pytest.raises(MemberSetError, match="id of a member must be"):
        member(1, id=name)


@pytest.mark.parametrize("name", ["a", "A-9_b.c", "...", "a" * 64])
def test_a_legal_id_is_accepted(name: str) -> None:
    assert member(1, id=name).id == name


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(33), "k" * 32, None])
def test_a_public_key_has_32_bytes(public_key: Any) -> None:
    with pytest.raises(MemberSetError, match="public_key of member node-1 must be 32 raw bytes"):
        member(1, public_key=public_key)


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1, 1.0, True, "1", None])
def test_a_weight_is_a_whole_number_in_range(weight: Any) -> None:
    with pytest.raises(MemberSetError, match="weight of member node-1"):
        member(1, weight=weight)
    assert member(1, weight=MAX_WEIGHT).weight == MAX_WEIGHT


def test_a_proof_of_possession_holds_for_one_id_key_and_nonce() -> None:
    key, other = SigningKey.from_seed(b"\x01" * 32), SigningKey.from_seed(b"\x02" * 32)
    proof = prove_possession(key, "node-1", NONCE)
    admit_member_key("node-1", key.public_key, NONCE, proof)
    for name, public_key, nonce, signature in [
        ("node-2", key.public_key, NONCE, proof),
        ("node-1", other.public_key, NONCE, proof),
        ("node-1", key.public_key, bytes(32), proof),
        ("node-1", key.public_key, NONCE, prove_possession(other, "node-1", NONCE)),
        ("node-1", key.public_key, NONCE, b""),
    ]:
        with pytest.raises(MemberSetError, match=f"possession of member {name} does not verify"):
            admit_member_key(name, public_key, nonce, signature)


def test_a_weak_key_is_refused_although_its_proof_verifies() -> None:
    """Speccheck case 3 shows that a signature can verify under a key that must not be admitted."""
    with pytest.raises(KeyRefusedError, match="small order"):
        admit_member_key("node-1", b"\x01" + bytes(31), NONCE, bytes(64))


def test_refusals_are_the_operators_to_mend() -> None:
    assert issubclass(MemberSetError, OperatorError)
    assert MemberSetError.reason == "MEMBER_SET_REFUSED"
