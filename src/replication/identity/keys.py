"""Ed25519: the one place of the project that signs, verifies, or judges a public key.

Why one place: Ed25519 verifiers disagree on signatures made on purpose (Chalkias, Garillot and Nikolaenko,
"Taming the many EdDSAs"). Two nodes that verify by different code could split over one signature. Everything
here goes through libsodium (PyNaCl), which measured about twice as fast as OpenSSL, refuses public keys and
commitments of small order, non-canonical keys and unreduced scalars, and uses the cofactorless equation.
`cryptography` only reads and writes key files.

Admission of a public key (`admit_public_key`, plain integer arithmetic after RFC 8032, section 5.1.3) is
stricter than verification: canonical encoding, a point on the curve, not of small order, and in the subgroup
of prime order. Every honest key is. With an admitted key the cofactorless and the cofactored equation differ
only for a commitment R of mixed order, which only the owner of the key can make; and since all nodes use the
one equation of this module, not even that splits them. The 12 cases of `ed25519-speccheck`, and what each
function says:

==== ============================================ ============ =========
case public key A; commitment R; scalar S         admission    verify
==== ============================================ ============ =========
0    A small order; R small order                 refused      refused
1    A small order; R mixed order                 refused      refused
2    A mixed order; R small order                 refused      refused
3    A, R mixed order; both equations hold        refused      accepted
4    A, R mixed order; only cofactored holds      refused      refused
5    A mixed order; only cofactored holds         refused      refused
6    S greater than L                             admitted     refused
7    S much greater than L                        admitted     refused
8    A mixed order; R non-canonical, small order  refused      refused
9    A mixed order; R non-canonical, small order  refused      refused
10   A non-canonical, small order; R mixed        refused      refused
11   A non-canonical, small order; R mixed        refused      refused
==== ============================================ ============ =========

So no signature of the table verifies under a key that was admitted.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

import nacl.bindings
import nacl.exceptions
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from replication.errors import OperatorError
from replication.identity.private_files import KeyFileError, read_private, write_private

__all__ = [
    "PUBLIC_KEY_SIZE",
    "SEED_SIZE",
    "SIGNATURE_SIZE",
    "KeyFileError",
    "KeyRefusedError",
    "SigningKey",
    "VerificationCounter",
    "admit_public_key",
    "verifications",
    "verify",
]

PUBLIC_KEY_SIZE: Final = 32
SEED_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64


class KeyRefusedError(OperatorError, ValueError):
    """A public key is malformed or weak, and must not become a member's."""

    reason: ClassVar[str] = "KEY_REFUSED"


class VerificationCounter:
    """How often `verify` was called in this process, for benchmarks and metrics."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


verifications: Final = VerificationCounter()

_MADE_HERE_REMEMBERED: Final = 4096
_made_here: Final[dict[tuple[bytes, bytes], bytes]] = {}
"""Public key and signature to the SHA-256 of the message, for signatures made in this process."""


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) over `message` verifies under `public_key` (32 bytes).

    Never raises: whatever is not a valid signature is False, wrong types and lengths included. What a key of
    this process has signed lately is recognised, and not verified: a member meets its own signatures in every
    certificate.
    """
    verifications.count += 1
    if type(public_key) is not bytes or type(signature) is not bytes or type(message) is not bytes:
        return False
    if len(public_key) != PUBLIC_KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    known = _made_here.get((public_key, signature))
    if known is not None and known == sha256(message).digest():
        return True
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


class SigningKey:
    """An Ed25519 private key. It never shows itself: not in `repr`, and it does not pickle."""

    __slots__ = ("_expanded", "_public_key")

    def __init__(self, seed: bytes) -> None:
        if type(seed) is not bytes or len(seed) != SEED_SIZE:
            raise ValueError(f"the seed of an Ed25519 key has {SEED_SIZE} bytes")
        self._public_key, self._expanded = nacl.bindings.crypto_sign_seed_keypair(seed)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's random numbers."""
        return cls(os.urandom(SEED_SIZE))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key with this 32-byte seed (RFC 8032: the private key); `ValueError` for another length."""
        return cls(seed)

    @classmethod
    def load(cls, path: str | os.PathLike[str], passphrase: bytes | None = None) -> SigningKey:
        """The key in a PKCS8 PEM file.

        Raises:
            KeyFileError: the file is missing, open to group or others, not an Ed25519 key in PEM, or the
                passphrase is missing, wrong or not called for.
        """
        pem = read_private(path)
        try:
            private = serialization.load_pem_private_key(pem, passphrase)
        except TypeError as error:
            if passphrase is None:
                raise KeyFileError(f"{path} is encrypted. Give its passphrase.") from error
            raise KeyFileError(
                f"{path} is not encrypted, but a passphrase was given. Leave the passphrase out."
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path} is not a PEM private key, or the passphrase is wrong.") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(f"{path} holds a key of another kind. A member signs with Ed25519.")
        return cls(private.private_bytes_raw())

    def save(self, path: str | os.PathLike[str], passphrase: bytes | None = None) -> None:
        """Write the key as PKCS8 PEM, atomically, with mode 0600, encrypted if a passphrase is given.

        Raises:
            KeyFileError: the file exists (a key is never overwritten: it may be the only copy), the
                passphrase is empty, or the file could not be written.
        """
        if Path(path).exists():
            raise KeyFileError(f"{path} exists and may be the only copy of a key. Move it away first.")
        if passphrase is not None and not passphrase:
            raise KeyFileError("an empty passphrase protects nothing. Leave it out, or choose one.")
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        private = Ed25519PrivateKey.from_private_bytes(self._expanded[:SEED_SIZE])
        pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        write_private(path, pem)

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes; deterministic (RFC 8032)."""
        signature = nacl.bindings.crypto_sign(message, self._expanded)[:SIGNATURE_SIZE]
        if len(_made_here) >= _MADE_HERE_REMEMBERED:
            _made_here.clear()
        _made_here[self._public_key, signature] = sha256(message).digest()
        return signature

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self._public_key.hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a SigningKey does not pickle: use save")


def admit_public_key(raw: bytes) -> None:
    """Judge a public key before it becomes a member's. Takes about a millisecond; answers are remembered.

    Raises:
        KeyRefusedError: not 32 bytes; y not canonical; not on the curve; the non-canonical zero; small order;
            outside the subgroup of prime order.
    """
    if type(raw) is not bytes or len(raw) != PUBLIC_KEY_SIZE:
        raise KeyRefusedError(f"a public key has {PUBLIC_KEY_SIZE} raw bytes, not {raw!r:.80}")
    flaw = _flaw(raw)
    if flaw is not None:
        raise KeyRefusedError(
            f"public key {raw.hex()} is refused: {flaw}. Make a new key; honest ones never look so."
        )


# The curve of RFC 8032, section 5.1: -x^2 + y^2 = 1 + d x^2 y^2 over the field of P elements.
_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]
"""Extended homogeneous coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x*y = T/Z."""

_IDENTITY: Final[_Point] = (0, 1, 1, 0)


@lru_cache(maxsize=1024)
def _flaw(raw: bytes) -> str | None:
    """What is wrong with an encoded point, or None."""
    encoded = int.from_bytes(raw, "little")
    sign, y = encoded >> 255, encoded & (2**255 - 1)
    if y >= _P:
        return "its y coordinate is not canonical"
    x = _recover_x(y)
    if x is None:
        return "it is not a point on the curve"
    if x == 0 and sign:
        return "it encodes x = 0 with a sign, which is not canonical"
    if x & 1 != sign:
        x = _P - x
    point = (x, y, 1, x * y % _P)
    if _is_identity(_multiply(8, point)):
        return "its point is of small order, so that one signature could verify for any message"
    if not _is_identity(_multiply(_L, point)):
        return "its point is outside the subgroup of prime order"
    return None


def _recover_x(y: int) -> int | None:
    """A root x of the curve equation for this y, or None (RFC 8032, section 5.1.3, steps 2 and 3)."""
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == u:
        return x
    x = x * _SQRT_MINUS_ONE % _P
    return x if v * x * x % _P == u else None


def _add(a: _Point, b: _Point) -> _Point:
    """Sum of two points (RFC 8032, section 5.1.4); complete, so it doubles as well."""
    p, q = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    r, s = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = q - p, s - r, s + r, q + p
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _multiply(scalar: int, point: _Point) -> _Point:
    """[scalar]point by doubling and adding. Not constant-time: for public points only."""
    total = _IDENTITY
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _is_identity(point: _Point) -> bool:
    x, y, z, _ = point
    return x == 0 and (y - z) % _P == 0
