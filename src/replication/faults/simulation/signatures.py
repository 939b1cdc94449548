"""Cheap signatures for simulations: verification of Ed25519 would be most of the cost of a run.

A signature is SHA-256 over the member's secret and the message. Whoever verifies knows the secrets, which no
real scheme allows, but inside one process it is as good: an adversary without the key object cannot make
one, and every bit of the message counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256

from replication.identity import keys
from replication.identity.keys import SigningKey

__all__ = ["FastKey", "fast_signatures", "fast_verify", "real_key"]

_SCHEME = sha256(b"replication/faults/simulation/signatures/1").digest()


@lru_cache(maxsize=4096)
def _secret(public_key: bytes) -> bytes:
    return sha256(_SCHEME + public_key).digest()


class FastKey:
    """A private key of the cheap scheme."""

    __slots__ = ("_public_key", "_secret")

    def __init__(self, seed: bytes) -> None:
        self._public_key = sha256(b"public" + seed).digest()
        self._secret = _secret(self._public_key)

    @property
    def public_key(self) -> bytes:
        """32 bytes that name the key."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes; deterministic."""
        return sha256(self._secret + message).digest() * 2


def fast_verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` was made by the cheap scheme with the key that `public_key` names."""
    keys.verifications.count += 1
    return sha256(_secret(public_key) + message).digest() * 2 == signature


def real_key(seed: bytes) -> SigningKey:
    """An Ed25519 key from any bytes."""
    return SigningKey.from_seed(sha256(b"ed25519" + seed).digest())


@contextmanager
def fast_signatures(enabled: bool = True) -> Iterator[None]:
    """Make `identity.keys.verify` the cheap scheme's, for the time of a simulation."""
    if not enabled:
        yield
        return
    original = keys.verify
    keys.verify = fast_verify
    try:
        yield
    finally:
        keys.verify = original
