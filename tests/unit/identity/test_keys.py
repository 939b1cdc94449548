"""Ed25519: RFC 8032 vectors, the speccheck cases, admission of keys, key files."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import nacl.bindings
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from replication.errors import OperatorError
from replication.identity import keys
from replication.identity.keys import KeyFileError, KeyRefusedError, SigningKey, admit_public_key, verify
from replication.identity.private_files import write_private

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
KEY = SigningKey.from_seed(b"\x07" * 32)

SPECCHECK: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "ed25519_speccheck.json").read_text(encoding="utf-8")
)["cases"]

# What we say about the 12 cases: why the key is refused (None: admitted), and whether the signature verifies.
SPECCHECK_ANSWERS: list[tuple[str | None, bool]] = [
    ("small order", False),
    ("small order", False),
    ("outside the subgroup", False),
    ("outside the subgroup", True),
    ("outside the subgroup", False),
    ("outside the subgroup", False),
    (None, False),
    (None, False),
    ("outside the subgroup", False),
    ("outside the subgroup", False),
    ("x = 0 with a sign", False),
    ("x = 0 with a sign", False),
]

# RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def encode_point(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def challenge(commitment: bytes, message: bytes) -> int:
    digest = hashlib.sha512(commitment + KEY.public_key + message).digest()
    return int.from_bytes(digest, "little") % L


def secret_scalar() -> int:
    clamped = bytearray(hashlib.sha512(b"\x07" * 32).digest()[:32])
    clamped[0] &= 248
    clamped[31] = clamped[31] & 127 | 64
    return int.from_bytes(clamped, "little")


# ------------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032)
def test_keys_and_signatures_are_those_of_the_rfc(
    seed: str, public_key: str, message: str, signature: str
) -> None:
    key = SigningKey.from_seed(bytes.fromhex(seed))
    assert key.public_key.hex() == public_key
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify(key.public_key, bytes.fromhex(signature), bytes.fromhex(message))


def test_a_changed_signature_message_or_key_does_not_verify() -> None:
    signature = KEY.sign(b"message")
    assert verify(KEY.public_key, signature, b"message")
    assert not verify(KEY.public_key, signature, b"messagf")
    assert not verify(SigningKey.generate().public_key, signature, b"message")
    for byte in range(64):
        changed = bytearray(signature)
        changed[byte] ^= 1
        assert not verify(KEY.public_key, bytes(changed), b"message")


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(33), KEY.public_key + b"\x00", "k" * 32, None])
@pytest.mark.parametrize("message", [b"", b"message"])
def test_a_key_of_the_wrong_shape_is_false_and_no_exception(public_key: Any, message: bytes) -> None:
    assert verify(public_key, KEY.sign(message), message) is False


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 128])
def test_a_signature_of_the_wrong_length_is_false_and_no_exception(length: int) -> None:
    signature = (KEY.sign(b"message") + bytes(64))[:length]
    assert verify(KEY.public_key, signature, b"message") is False


def test_bytes_cannot_move_between_signature_and_message() -> None:
    """The library takes signature and message as one string; the cut must not be the caller's."""
    signature = KEY.sign(b"message")
    assert not verify(KEY.public_key, signature + b"mess", b"age")
    assert not verify(KEY.public_key, signature[:60], signature[60:] + b"message")


@pytest.mark.parametrize("garbage", [None, "text", 1, [], bytearray(64)])
def test_garbage_of_any_type_is_false_and_no_exception(garbage: Any) -> None:
    assert verify(garbage, bytes(64), b"") is False
    assert verify(KEY.public_key, garbage, b"") is False
    assert verify(KEY.public_key, KEY.sign(b""), garbage) is False


def test_a_signature_is_not_malleable() -> None:
    """S + L satisfies the same equation; RFC 8032, section 5.1.7, demands S < L."""
    signature = KEY.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + L
    assert not verify(KEY.public_key, signature[:32] + scalar.to_bytes(32, "little"), b"message")


def test_a_commitment_of_small_order_is_refused_even_where_the_equation_holds() -> None:
    commitment = encode_point(1)  # the identity
    scalar = challenge(commitment, b"message") * secret_scalar() % L
    assert not verify(KEY.public_key, commitment + scalar.to_bytes(32, "little"), b"message")


def test_verifications_are_counted() -> None:
    before = keys.verifications.count
    verify(KEY.public_key, bytes(64), b"")
    verify(b"", b"", b"")
    assert keys.verifications.count == before + 2


def test_signatures_made_here_are_recognised_and_nothing_else_is() -> None:
    key = SigningKey.generate()
    signature = key.sign(b"message")
    assert verify(key.public_key, signature, b"message")
    other = SigningKey.generate().public_key
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    assert not verify(key.public_key, signature, b"massage")
    assert not verify(key.public_key, flipped, b"message")
    assert not verify(other, signature, b"message")
    for number in range(5_000):
        key.sign(number.to_bytes(4, "big"))
    assert len(vars(keys)["_made_here"]) <= 4096
    assert verify(key.public_key, signature, b"message"), "also when it was forgotten"


@pytest.mark.parametrize("case", SPECCHECK, ids=lambda case: f"{case['number']}: {case['about']}")
def test_speccheck(case: dict[str, Any]) -> None:
    refusal, verifies = SPECCHECK_ANSWERS[case["number"]]
    public_key = bytes.fromhex(case["public_key"])
    if refusal is None:
        admit_public_key(public_key)
    else:
        with pytest.raises(KeyRefusedError, match=refusal):
            admit_public_key(public_key)
    assert verify(public_key, bytes.fromhex(case["signature"]), bytes.fromhex(case["message"])) is verifies


def test_no_speccheck_signature_verifies_under_an_admitted_key() -> None:
    assert len(SPECCHECK) == len(SPECCHECK_ANSWERS) == 12
    assert not any(refusal is None and verifies for refusal, verifies in SPECCHECK_ANSWERS)


def test_the_table_in_the_documentation_is_what_is_tested() -> None:
    lines = (keys.__doc__ or "").splitlines()
    rows = [
        line.split()
        for line in lines
        if line[:2].strip().isdigit() and line.endswith(("refused", "accepted"))
    ]
    documented = [(row[-2] == "refused", row[-1] == "accepted") for row in rows]
    assert documented == [(refusal is not None, verifies) for refusal, verifies in SPECCHECK_ANSWERS]


# -------------------------------------------------------------------------------------------------- admission


def test_honest_keys_are_admitted() -> None:
    for number in range(20):
        admit_public_key(SigningKey.from_seed(bytes([number]) * 32).public_key)


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), "k" * 32, None, bytearray(KEY.public_key)])
def test_a_key_of_another_shape_is_refused(raw: Any) -> None:
    with pytest.raises(KeyRefusedError, match="32 raw bytes"):
        admit_public_key(raw)


# y = p + 1 has the residue of the identity; p + 3 ... p + 18 are the other encodings that exceed p.
@pytest.mark.parametrize("y", range(P, 2**255))
@pytest.mark.parametrize("sign", [0, 1])
def test_a_y_that_is_not_reduced_is_refused(y: int, sign: int) -> None:
    with pytest.raises(KeyRefusedError, match="y coordinate is not canonical"):
        admit_public_key(encode_point(y, sign))


@pytest.mark.parametrize("y", [2, 7, 8])
def test_a_y_off_the_curve_is_refused(y: int) -> None:
    with pytest.raises(KeyRefusedError, match="not a point on the curve"):
        admit_public_key(encode_point(y))


@pytest.mark.parametrize("y", [1, P - 1])
def test_zero_has_no_sign(y: int) -> None:
    with pytest.raises(KeyRefusedError, match="x = 0 with a sign"):
        admit_public_key(encode_point(y, sign=1))


# The canonical encodings of the 8 points whose order divides 8: orders 1, 2, 4, 4, 8, 8, 8, 8.
ORDER_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03"
SMALL_ORDER = [
    encode_point(1),
    encode_point(P - 1),
    encode_point(0),
    encode_point(0, sign=1),
    bytes.fromhex(ORDER_8 + "7a"),
    bytes.fromhex(ORDER_8 + "fa"),
    encode_point(P - int.from_bytes(bytes.fromhex(ORDER_8 + "7a"), "little")),
    encode_point(P - int.from_bytes(bytes.fromhex(ORDER_8 + "7a"), "little"), sign=1),
]


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_a_key_of_small_order_is_refused(raw: bytes) -> None:
    with pytest.raises(KeyRefusedError, match="small order"):
        admit_public_key(raw)


@pytest.mark.parametrize("torsion", SMALL_ORDER[1:], ids=bytes.hex)
def test_a_key_of_mixed_order_is_refused(torsion: bytes) -> None:
    mixed = nacl.bindings.crypto_core_ed25519_add(KEY.public_key, torsion)
    with pytest.raises(KeyRefusedError, match="outside the subgroup of prime order"):
        admit_public_key(mixed)


def test_refusals_are_the_operators_to_mend() -> None:
    with pytest.raises(OperatorError, match="Make a new key"):
        admit_public_key(encode_point(1))
    assert KeyRefusedError.reason == "KEY_REFUSED"


# -------------------------------------------------------------------------------------------------- key files


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_saved_key_loads_again(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "key.pem"
    KEY.save(path, passphrase)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) is (passphrase is not None)
    loaded = SigningKey.load(path, passphrase)
    assert loaded.public_key == KEY.public_key
    assert loaded.sign(b"message") == KEY.sign(b"message")


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    KEY.save(path, b"correct")
    with pytest.raises(KeyFileError, match="is encrypted"):
        SigningKey.load(path)
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        SigningKey.load(path, b"wrong")


def test_a_passphrase_that_is_not_needed_is_refused(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem")
    with pytest.raises(KeyFileError, match="is not encrypted"):
        SigningKey.load(tmp_path / "key.pem", b"passphrase")


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="empty passphrase protects nothing"):
        KEY.save(tmp_path / "key.pem", b"")
    assert not (tmp_path / "key.pem").exists()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    KEY.save(path)
    with pytest.raises(KeyFileError, match="only copy of a key"):
        SigningKey.generate().save(path)
    assert SigningKey.load(path).public_key == KEY.public_key


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    write_private(tmp_path / "key.pem", content)
    with pytest.raises(KeyFileError, match="not a PEM private key"):
        SigningKey.load(tmp_path / "key.pem")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(tmp_path / "key.pem", pem)
    with pytest.raises(KeyFileError, match="signs with Ed25519"):
        SigningKey.load(tmp_path / "key.pem")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    KEY.save(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match=rf"chmod 600 {path}"):
        SigningKey.load(path)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(64), "s" * 32])
def test_a_seed_has_32_bytes(seed: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey.from_seed(seed)


def test_generated_keys_differ() -> None:
    assert len({SigningKey.generate().public_key for _ in range(8)}) == 8


def test_a_key_does_not_show_itself() -> None:
    seed = b"\x07" * 32
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert seed.hex() not in text
        assert repr(seed) not in text
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(KEY)
    assert not hasattr(KEY, "__dict__")
