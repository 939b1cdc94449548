"""Parsers of files and certificates: whatever comes in, only their own errors come out."""

from __future__ import annotations

import base64
import datetime as dt
import json
from contextlib import suppress
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from replication.identity.genesis import GenesisError, Rules, build_genesis, parse_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.tls import (
    CertificateError,
    Role,
    check_certificate,
    create_authority,
    identity_from_sans,
    issue,
)

NONCE = bytes(32)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1/2", "00" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@cache
def authority() -> tuple[bytes, bytes]:
    return create_authority("test")


@cache
def leaf_der() -> bytes:
    pem, _ = issue(*authority(), bytes(32), Role.NODE, "node-1", ["host.example"])
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


@cache
def genesis() -> bytes:
    key = SigningKey.from_seed(bytes(32))
    return build_genesis(
        name="test",
        created_ms=1,
        nonce=NONCE,
        members=[Member("a", key.public_key, 1, "localhost:1")],
        possessions={"a": prove_possession(key, "a", NONCE)},
        rules=Rules(),
        ca_certificate=authority()[0],
    )


def to_pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@given(st.data())
def test_a_certificate_with_one_bit_changed_is_refused_or_says_the_same(data: st.DataObject) -> None:
    der = bytearray(leaf_der())
    bit = data.draw(st.integers(0, 8 * len(der) - 1))
    der[bit // 8] ^= 1 << bit % 8
    try:
        check_certificate(to_pem(bytes(der)), authority()[0], dt.datetime.now(dt.UTC))
    except CertificateError:
        return
    # DER leaves the count of unused bits after the signature some slack, where those bits are zero anyway.
    before, after = (x509.load_der_x509_certificate(data) for data in (leaf_der(), bytes(der)))
    assert after.tbs_certificate_bytes == before.tbs_certificate_bytes
    assert after.signature == before.signature


@given(st.binary(max_size=300))
def test_garbage_is_no_certificate(garbage: bytes) -> None:
    for pem in (garbage, to_pem(garbage)):
        try:
            check_certificate(pem, authority()[0], dt.datetime.now(dt.UTC))
        except CertificateError:
            continue
        raise AssertionError("accepted")


@given(
    st.lists(st.text(max_size=90) | st.binary(max_size=90) | st.just(f"acp://{'0' * 64}/node/n"), max_size=3)
)
def test_sans_give_an_identity_or_their_own_error(sans: list[str | bytes]) -> None:
    with suppress(CertificateError):
        assert identity_from_sans(sans).uri in sans


@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_no_genesis_file(raw: bytes) -> None:
    try:
        parse_genesis(raw)
    except GenesisError:
        return
    raise AssertionError("accepted")


@given(st.data(), JSON_VALUES)
def test_a_changed_genesis_file_parses_strictly_or_fails_with_its_own_error(
    data: st.DataObject, value: Any
) -> None:
    content = json.loads(genesis())
    place = data.draw(st.sampled_from([content, content["members"][0], content["rules"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = value
    raw = json.dumps(content).encode()
    with suppress(GenesisError):
        assert parse_genesis(raw).raw == raw
