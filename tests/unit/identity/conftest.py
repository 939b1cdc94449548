"""An authority, keys and a genesis file that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replication.identity.genesis import Rules, build_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.tls import create_authority

NONCE = bytes(range(32))


@pytest.fixture(scope="session")
def authority() -> tuple[bytes, bytes]:
    """Certificate and key of an authority, PEM."""
    return create_authority("test cluster")


@pytest.fixture(scope="session")
def make_genesis(authority: tuple[bytes, bytes]) -> Callable[[int], bytes]:
    """Makes the genesis file of a cluster of n members, always the same one."""

    def make(n: int) -> bytes:
        keys = {f"node-{number}": SigningKey.from_seed(bytes([number]) * 32) for number in range(1, n + 1)}
        return build_genesis(
            name="test cluster",
            created_ms=1_735_689_600_000,
            nonce=NONCE,
            members=[Member(name, key.public_key, 1, f"{name}.example:7400") for name, key in keys.items()],
            possessions={name: prove_possession(key, name, NONCE) for name, key in keys.items()},
            rules=Rules(),
            ca_certificate=authority[0],
        )

    return make
