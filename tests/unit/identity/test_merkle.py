"""RFC 6962 trees: the reference vectors, the shape of paths, and everything that must not pass for a path."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from replication.identity import merkle

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "rfc6962_merkle.json").read_text(encoding="utf-8")
)
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]


def test_the_empty_tree_has_the_root_of_the_rfc() -> None:
    assert merkle.EMPTY_ROOT.hex() == VECTORS["empty_root"]
    assert merkle.merkle_root([]) == merkle.EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference(size: int) -> None:
    assert merkle.merkle_root(LEAVES[:size]).hex() == VECTORS["roots"][size - 1]


@pytest.mark.parametrize("case", VECTORS["paths"], ids=lambda case: f"{case['index']} of {case['size']}")
def test_paths_are_those_of_the_reference(case: dict[str, Any]) -> None:
    path = merkle.inclusion_path(LEAVES[: case["size"]], case["index"])
    assert [node.hex() for node in path] == case["path"]


def test_leaves_and_nodes_are_hashed_apart() -> None:
    left, right = merkle.leaf_hash(b"l"), merkle.leaf_hash(b"r")
    assert left == sha256(b"\x00l").digest()
    assert merkle.node_hash(left, right) == sha256(b"\x01" + left + right).digest()
    # The classic attack: a leaf whose data are two child hashes must not have the hash of their parent.
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


@pytest.mark.parametrize("index", [-1, 3, 4])
def test_no_path_for_a_leaf_that_does_not_exist(index: int) -> None:
    with pytest.raises(IndexError, match="does not exist in a tree of 3"):
        merkle.inclusion_path(LEAVES[:3], index)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, -1), (8, 3)])
def test_an_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        merkle.root_from_path(b"", index, size, [])


@pytest.mark.parametrize("size", range(1, 9))
def test_a_path_of_the_wrong_length_is_refused(size: int) -> None:
    for index in range(size):
        path = merkle.inclusion_path(LEAVES[:size], index)
        with pytest.raises(ValueError, match="too long"):
            merkle.root_from_path(LEAVES[index], index, size, [*path, bytes(32)])
        if path:
            with pytest.raises(ValueError, match="too short"):
                merkle.root_from_path(LEAVES[index], index, size, path[:-1])


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_path_holds_hashes_only(length: int) -> None:
    with pytest.raises(ValueError, match="hashes of 32 bytes"):
        merkle.root_from_path(LEAVES[0], 0, 2, [bytes(length)])
