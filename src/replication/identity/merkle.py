"""Merkle trees as in RFC 6962, section 2.1, with inclusion paths checked as in RFC 9162, section 2.1.3.2.

Leaves and inner nodes are hashed under different prefixes, so that an inner node can never be passed off as a
leaf. A tree of n leaves splits at the largest power of two below n; equivalently, and that is how it is
computed here, nodes are paired level by level and an odd last node moves up unchanged.

Every function takes the *data* of leaves, not their hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

__all__ = [
    "EMPTY_ROOT",
    "HASH_SIZE",
    "inclusion_path",
    "inclusion_paths",
    "leaf_hash",
    "merkle_root",
    "node_hash",
    "root_from_path",
]

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf with this data: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node over its two children: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree over `leaves` (their data, in order); `EMPTY_ROOT` if there are none."""
    if not leaves:
        return EMPTY_ROOT
    *_, top = _levels(leaves)
    return top[0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Path that proves leaf `index`: the siblings from the leaf up to the root.

    Raises:
        IndexError: there is no leaf with this index (negative indexes do not count from the end).
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} does not exist in a tree of {len(leaves)}")
    path = []
    for level in _levels(leaves):
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index >>= 1
    return path


def inclusion_paths(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Paths of all leaves, in order. The tree is hashed once: n hashes, and n log n list operations."""
    paths: list[list[bytes]] = [[] for _ in leaves]
    for height, level in enumerate(_levels(leaves)):
        for index, path in enumerate(paths):
            sibling = (index >> height) ^ 1
            if sibling < len(level):
                path.append(level[sibling])
    return paths


def root_from_path(leaf_data: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Root that a tree of `size` leaves must have if `leaf_data` is its leaf `index`, by this `path`.

    The caller compares the answer with a root it trusts.

    Raises:
        ValueError: no tree of `size` leaves has such an index, or a path of such a shape.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} does not exist in a tree of {size}")
    position, last, root = index, size - 1, leaf_hash(leaf_data)
    for sibling in path:
        if len(sibling) != HASH_SIZE:
            raise ValueError(f"a path holds hashes of {HASH_SIZE} bytes, not {len(sibling)}")
        if last == 0:
            raise ValueError(f"a path of {len(path)} hashes is too long for leaf {index} of {size}")
        if position & 1 or position == last:
            root = node_hash(sibling, root)
            while not position & 1 and position:
                # An odd last node moved up through these levels without a sibling.
                position, last = position >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ValueError(f"a path of {len(path)} hashes is too short for leaf {index} of {size}")
    return root


def _levels(leaves: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The levels of the tree, from the leaf hashes up to the root; nothing for an empty tree."""
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        yield level
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [*paired, level[-1]] if len(level) % 2 else paired
    if level:
        yield level
