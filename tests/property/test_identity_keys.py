"""Admission of keys against libsodium's own check, and `verify` against garbage."""

from __future__ import annotations

import nacl.bindings
from hypothesis import given
from hypothesis import strategies as st

from replication.identity.keys import KeyRefusedError, SigningKey, admit_public_key, verify

ORDER_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
raw_keys = st.binary(min_size=32, max_size=32)


def admitted(raw: bytes) -> bool:
    try:
        admit_public_key(raw)
    except KeyRefusedError:
        return False
    return True


@given(raw_keys)
def test_any_bytes_are_judged_as_libsodium_does(raw: bytes) -> None:
    assert admitted(raw) is bool(nacl.bindings.crypto_core_ed25519_is_valid_point(raw))


@given(raw_keys, st.integers(0, 7))
def test_points_are_admitted_only_without_torsion(seed: bytes, torsion: int) -> None:
    point = SigningKey.from_seed(seed).public_key
    for _ in range(torsion):
        point = nacl.bindings.crypto_core_ed25519_add(point, ORDER_8)
    assert admitted(point) is (torsion == 0)


@given(raw_keys)
def test_every_honest_key_is_admitted(seed: bytes) -> None:
    assert admitted(SigningKey.from_seed(seed).public_key)


@given(st.binary(max_size=70), st.binary(max_size=140), st.binary(max_size=140))
def test_garbage_never_verifies_and_never_raises(public_key: bytes, signature: bytes, message: bytes) -> None:
    assert verify(public_key, signature, message) is False


@given(raw_keys, st.binary(max_size=200))
def test_what_was_signed_verifies(seed: bytes, message: bytes) -> None:
    key = SigningKey.from_seed(seed)
    assert verify(key.public_key, key.sign(message), message)
