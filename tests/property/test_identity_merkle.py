"""Merkle trees against a dumb oracle: the recursive definition of RFC 6962, section 2.1, word for word."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from replication.identity import merkle

leaf_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def split(size: int) -> int:
    """The largest power of two below `size`."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def oracle_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + oracle_root(leaves[:k]) + oracle_root(leaves[k:])).digest()


def oracle_path(leaves: list[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*oracle_path(leaves[:k], index), oracle_root(leaves[k:])]
    return [*oracle_path(leaves[k:], index - k), oracle_root(leaves[:k])]


@given(leaf_lists)
def test_roots_and_paths_are_the_oracles(leaves: list[bytes]) -> None:
    assert merkle.merkle_root(leaves) == oracle_root(leaves)
    paths = merkle.inclusion_paths(leaves)
    assert paths == [oracle_path(leaves, index) for index in range(len(leaves))]
    assert paths == [merkle.inclusion_path(leaves, index) for index in range(len(leaves))]


@given(leaf_lists)
def test_every_path_leads_to_the_root(leaves: list[bytes]) -> None:
    root = oracle_root(leaves)
    for index, path in enumerate(merkle.inclusion_paths(leaves)):
        assert merkle.root_from_path(leaves[index], index, len(leaves), path) == root


@given(leaf_lists, st.data())
def test_a_tampered_proof_never_leads_to_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    size, root = len(leaves), oracle_root(leaves)
    index = data.draw(st.integers(0, size - 1), label="index")
    path = oracle_path(leaves, index)
    assert merkle.root_from_path(leaves[index] + b"\x00", index, size, path) != root
    if path:
        height = data.draw(st.integers(0, len(path) - 1), label="height")
        bit = data.draw(st.integers(0, 255), label="bit")
        node = bytearray(path[height])
        node[bit // 8] ^= 1 << bit % 8
        assert (
            merkle.root_from_path(
                leaves[index], index, size, [*path[:height], bytes(node), *path[height + 1 :]]
            )
            != root
        )


@given(st.integers(1, 70), st.data())
def test_a_proof_does_not_hold_at_another_place(size: int, data: st.DataObject) -> None:
    leaves = [number.to_bytes(2, "big") for number in range(size)]
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    if index == other:
        return
    try:
        root = merkle.root_from_path(leaves[index], other, size, oracle_path(leaves, index))
    except ValueError:
        return
    assert root != oracle_root(leaves)
