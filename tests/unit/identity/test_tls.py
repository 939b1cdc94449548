"""Transport certificates: their shape, the identity in them, and every ground for refusing one."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from replication.errors import OperatorError
from replication.identity import roles, tls
from replication.identity.pem import MAX_AUTHORITIES
from replication.identity.tls import (
    CertificateError,
    CertificateExpiredError,
    CertificateForeignError,
    CertificateMalformedError,
    CertificateNotYetValidError,
    CertificateWrongRoleError,
    Identity,
    Role,
    authority_of,
    authority_with_key,
    check_authorities,
    check_authority,
    check_certificate,
    create_authority,
    identity_from_certificate,
    identity_from_sans,
    issue,
    require_key_pair,
)

Authority = tuple[bytes, bytes]

CLUSTER = bytes(range(32))
URI = f"acp://{CLUSTER.hex()}/node/node-1"
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


def san(pem: bytes) -> x509.SubjectAlternativeName:
    names = extension(x509.load_pem_x509_certificate(pem), x509.SubjectAlternativeName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    return names


# ---------------------------------------------------------------------------------------- the shape of things


def test_the_authority_may_sign_leaves_and_nothing_else(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority[0])
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.digital_signature) == (True, False)


def test_the_shape_of_a_nodes_certificate(authority: Authority) -> None:
    pem, key_pem = issue(
        *authority, CLUSTER, Role.NODE, "node-1", ["a.example", "10.0.0.7", "fd00::7", "localhost"]
    )
    certificate = x509.load_pem_x509_certificate(pem)
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign) == (True, False)
    assert set(extension(certificate, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    names = san(pem)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [URI]
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "localhost", "node-1"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("10.0.0.7", "fd00::7", "127.0.0.1", "::1")
    ]
    authority_key = x509.load_pem_x509_certificate(authority[0])
    assert (
        extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(authority_key, x509.SubjectKeyIdentifier).value.digest
    )
    require_key_pair(pem, key_pem)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.NODE])
def test_clients_only_connect_and_have_no_hosts(authority: Authority, role: Role) -> None:
    pem, _ = issue(*authority, CLUSTER, role, "alice")
    certificate = x509.load_pem_x509_certificate(pem)
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert list(san(pem)) == [x509.UniformResourceIdentifier(f"acp://{CLUSTER.hex()}/{role.value}/alice")]
    with pytest.raises(CertificateMalformedError, match="only nodes serve"):
        issue(*authority, CLUSTER, role, "alice", ["host"])


@pytest.mark.parametrize(
    ("name", "listed"), [("node-1", True), ("n_1", False), ("-n", False), ("a..b", False)]
)
def test_the_members_id_is_a_host_name_where_it_can_be(authority: Authority, name: str, listed: bool) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.NODE, name)
    assert (name in san(pem).get_values_for_type(x509.DNSName)) is listed
    assert identity_from_certificate(pem).name == name


@pytest.mark.parametrize(
    "host", ["", "a b", "host:7400", "http://host", URI, "a..b", "-a", "x" * 64, "é", "*.a", "a\n"]
)
def test_an_illegal_host_is_refused(authority: Authority, host: str) -> None:
    with pytest.raises(CertificateMalformedError, match="neither an IP address nor a DNS name"):
        issue(*authority, CLUSTER, Role.NODE, "node-1", [host])


@pytest.mark.parametrize("name", ["", "a/b", "a b", ".", "..", "x" * 65, "a\n"])
def test_an_illegal_name_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(CertificateMalformedError, match="name in a certificate"):
        issue(*authority, CLUSTER, Role.NODE, name)


@pytest.mark.parametrize("cluster_id", [b"", bytes(31), CLUSTER.hex()])
def test_an_illegal_cluster_id_is_refused(authority: Authority, cluster_id: Any) -> None:
    with pytest.raises(CertificateMalformedError, match="32 raw bytes"):
        issue(*authority, cluster_id, Role.NODE, "node-1")


def test_a_role_is_one_of_the_known(authority: Authority) -> None:
    root: Any = "root"
    with pytest.raises(CertificateMalformedError, match="'root' is not a role; known are viewer, operator"):
        issue(*authority, CLUSTER, root, "node-1")


def test_a_long_name_still_makes_a_certificate(authority: Authority) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "x" * 64)
    assert identity_from_certificate(pem).name == "x" * 64


def test_an_authority_without_a_name_is_refused() -> None:
    with pytest.raises(CertificateMalformedError, match="cannot name a certificate"):
        create_authority("")


# --------------------------------------------------------------------------------------------------- validity


def dates(pem: bytes) -> tuple[dt.datetime, dt.datetime]:
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def test_validity_begins_a_little_earlier_for_clocks_that_are_behind(authority: Authority) -> None:
    before = dt.datetime.now(dt.UTC)
    first, last = dates(issue(*authority, CLUSTER, Role.ADMIN, "alice", days=2)[0])
    after = dt.datetime.now(dt.UTC)
    second = dt.timedelta(seconds=1)  # certificates hold whole seconds
    assert before - dt.timedelta(minutes=6) < first < after - dt.timedelta(minutes=3)
    assert before + 2 * DAY - second <= last <= after + 2 * DAY


def test_validity_can_be_given(authority: Authority) -> None:
    start = dt.datetime(2031, 5, 1, tzinfo=dt.UTC)
    pem, _ = issue(*authority, CLUSTER, Role.ADMIN, "alice", days=0.5, not_before=start)
    assert dates(pem) == (start, start + DAY / 2)


@pytest.mark.parametrize("days", [0, -1, float("nan")])
def test_days_are_positive(authority: Authority, days: float) -> None:
    with pytest.raises(CertificateMalformedError, match="more than 0 days"):
        issue(*authority, CLUSTER, Role.ADMIN, "alice", days=days)
    with pytest.raises(CertificateMalformedError, match="more than 0 days"):
        create_authority("x", days=days)


def test_no_certificate_outlives_the_authority() -> None:
    authority = create_authority("short", days=3)
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1", days=365)
    assert dates(pem)[1] == dates(authority[0])[1]


def test_an_expired_authority_issues_nothing() -> None:
    authority = create_authority("old", days=1, not_before=NOW - 3 * DAY)
    with pytest.raises(CertificateExpiredError, match="Nothing can be issued"):
        issue(*authority, CLUSTER, Role.NODE, "node-1")


def test_times_without_a_zone_are_refused(authority: Authority) -> None:
    naive = dt.datetime(2031, 5, 1)
    with pytest.raises(ValueError, match="not_before must carry a time zone"):
        issue(*authority, CLUSTER, Role.NODE, "node-1", not_before=naive)
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1")
    with pytest.raises(ValueError, match="now must carry a time zone"):
        check_certificate(pem, authority[0], naive)


def test_issuing_needs_the_authoritys_own_key(authority: Authority) -> None:
    _, other_key = create_authority("other")
    with pytest.raises(CertificateMalformedError, match="not a pair"):
        issue(authority[0], other_key, CLUSTER, Role.NODE, "node-1")
    leaf = issue(*authority, CLUSTER, Role.NODE, "node-1")
    with pytest.raises(CertificateMalformedError, match="must say that it is one"):
        issue(*leaf, CLUSTER, Role.NODE, "node-2")
    with pytest.raises(CertificateMalformedError, match="not an unencrypted PEM key"):
        issue(authority[0], b"nonsense", CLUSTER, Role.NODE, "node-1")


# ------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("role", Role)
def test_an_identity_is_read_back(role: Role) -> None:
    identity = Identity(CLUSTER, role, "a.b-C_9")
    assert identity_from_sans([identity.uri]) == identity
    assert (
        identity_from_sans([b"localhost", b"127.0.0.1", identity.uri.encode(), "\xff".encode("latin1")])
        == identity
    )


@pytest.mark.parametrize(
    "sans",
    [
        [],
        ["localhost"],
        [URI, URI],
        [URI, URI.replace("node/", "admin/")],
        [URI, "ACP://x"],
        [URI.upper()],
        [URI.replace("acp:", "Acp:")],
        [URI.replace(CLUSTER.hex(), CLUSTER.hex().upper())],
        [URI.replace(CLUSTER.hex(), CLUSTER.hex()[2:])],
        [URI.replace("/node/", "/root/")],
        [URI.replace("/node/", "/NODE/")],
        [URI.replace("/node/", "//")],
        [URI + "/"],
        [URI + "\n"],
        [URI + "?x"],
        [URI + "%20"],
        [URI + "é"],
        [URI.removesuffix("node-1")],
        [URI.removesuffix("node-1") + ".."],
        [URI + "x" * 64],
        ["acp:" + URI.removeprefix("acp://")],
        [" " + URI],
        [URI.encode() + b"\xff"],
    ],
    ids=repr,
)
def test_what_is_not_exactly_one_identity_is_refused(sans: list[str | bytes]) -> None:
    with pytest.raises(CertificateMalformedError):
        identity_from_sans(sans)


# --------------------------------------------------------------------------------------- judging certificates


def check(pem: bytes, authority: Authority, **expected: Any) -> Identity:
    # Not `NOW`, when the tests were collected: certificates begin five minutes before they are made.
    now = expected.pop("now", None) or dt.datetime.now(dt.UTC)
    return check_certificate(pem, authority[0], now, **expected)


def test_a_good_certificate_gives_its_identity(authority: Authority) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.ADMIN, "alice")
    identity = Identity(CLUSTER, Role.ADMIN, "alice")
    assert check(pem, authority) == identity
    assert check(pem, authority, cluster_id=CLUSTER, roles={Role.ADMIN, Role.NODE}, name="alice") == identity


def test_expired_and_not_yet_valid_are_told_apart(authority: Authority) -> None:
    start = dt.datetime.now(dt.UTC).replace(microsecond=0)
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1", days=1, not_before=start)
    assert check(pem, authority, now=start)
    assert check(pem, authority, now=start + DAY)
    with pytest.raises(CertificateNotYetValidError, match="Check the clock, or wait") as early:
        check(pem, authority, now=start - dt.timedelta(seconds=1))
    with pytest.raises(
        CertificateExpiredError, match=f"the certificate expired on {start + DAY:%Y-%m-%d}"
    ) as late:
        check(pem, authority, now=start + DAY + dt.timedelta(seconds=1))
    assert early.value.reason == "CERTIFICATE_NOT_YET_VALID"
    assert late.value.reason == "CERTIFICATE_EXPIRED"


def test_the_authoritys_own_dates_count() -> None:
    authority = create_authority("short", days=2, not_before=NOW - DAY)
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1", days=1)
    assert check(pem, authority)
    with pytest.raises(CertificateExpiredError, match="authority's certificate expired"):
        check(pem, authority, now=NOW + 3 * DAY)
    with pytest.raises(CertificateNotYetValidError, match="authority's certificate is valid from"):
        check(pem, authority, now=NOW - 3 * DAY)
    with pytest.raises(CertificateExpiredError):
        check_authority(authority[0], NOW + 3 * DAY)
    check_authority(authority[0])


def test_another_authoritys_certificate_is_foreign_even_under_the_same_name(authority: Authority) -> None:
    pem, _ = issue(*create_authority("test cluster"), CLUSTER, Role.NODE, "node-1")
    with pytest.raises(CertificateForeignError, match="not issued by this cluster's authority") as caught:
        check(pem, authority)
    assert caught.value.reason == "CERTIFICATE_FOREIGN"


def test_one_authority_follows_another(authority: Authority) -> None:
    """Under the same name, as it is in a cluster: the issuer is known by its key."""
    follower, stranger = create_authority("test cluster"), create_authority("test cluster")
    both = follower[0] + b"what people write between them\n" + authority[0]
    for issuer in (authority, follower):
        pem, _ = issue(*issuer, CLUSTER, Role.NODE, "node-1")
        assert check(pem, (both, b"")).name == "node-1"
        assert authority_of(pem, both) == issuer[0] == authority_with_key(issuer[1], both)
        again, _ = issue(both, issuer[1], CLUSTER, Role.NODE, "node-1")
        assert authority_of(again, both) == issuer[0], "the one whose key is given issues"
    for judge in (check, lambda pem, trusted: authority_of(pem, trusted[0])):
        with pytest.raises(CertificateForeignError):
            judge(issue(*stranger, CLUSTER, Role.NODE, "node-1")[0], (both, b""))
        with pytest.raises(CertificateForeignError):
            judge(issue(*authority, CLUSTER, Role.NODE, "node-1")[0], (follower[0], b""))
    with pytest.raises(CertificateMalformedError, match="not a pair"):
        authority_with_key(stranger[1], both)
    assert check_authorities(both) == follower[0] + authority[0]


def test_only_the_issuers_dates_count(authority: Authority) -> None:
    ended = create_authority("test cluster", days=1, not_before=NOW - 3 * DAY)
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1")
    assert check(pem, (ended[0] + authority[0], b""))
    old, _ = issue(*ended, CLUSTER, Role.NODE, "node-1", days=1, not_before=NOW - 3 * DAY)
    with pytest.raises(CertificateExpiredError, match="authority's certificate expired"):
        check(old, (ended[0] + authority[0], b""))


def test_what_is_trusted_is_authorities_and_only_so_many(authority: Authority) -> None:
    leaf, _ = issue(*authority, CLUSTER, Role.NODE, "node-1")
    for bad in (b"", b"nothing", authority[0] + leaf, leaf):
        with pytest.raises(CertificateMalformedError):
            check_authorities(bad)
        with pytest.raises(CertificateMalformedError):
            check(leaf, (bad, b""))
    assert check_authorities(authority[0] * MAX_AUTHORITIES)
    with pytest.raises(CertificateMalformedError, match="at most 4 authorities"):
        check_authorities(authority[0] * (MAX_AUTHORITIES + 1))
    with pytest.raises(CertificateMalformedError, match="one certificate is expected, not 2"):
        check_authority(authority[0] * 2)  # a genesis file has one


def test_a_certificate_for_another_cluster_is_foreign(authority: Authority) -> None:
    pem, _ = issue(*authority, bytes(32), Role.NODE, "node-1")
    with pytest.raises(CertificateForeignError, match=f"for cluster {'00' * 32}, this is {CLUSTER.hex()}"):
        check(pem, authority, cluster_id=CLUSTER)


def test_a_certificate_for_another_role_or_name_is_refused(authority: Authority) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.VIEWER, "alice")
    with pytest.raises(CertificateWrongRoleError, match="role viewer, not for admin or node") as caught:
        check(pem, authority, roles=[Role.NODE, Role.ADMIN])
    assert caught.value.reason == "CERTIFICATE_WRONG_ROLE"
    with pytest.raises(CertificateWrongRoleError, match="for alice, but must be for bob"):
        check(pem, authority, name="bob")
    with pytest.raises(CertificateWrongRoleError):
        check(pem, authority, roles=[])


def test_the_authoritys_certificate_is_no_identity(authority: Authority) -> None:
    with pytest.raises(CertificateMalformedError, match="this one names 0"):
        check(authority[0], authority)


@pytest.mark.parametrize(
    "pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_refused(authority: Authority, pem: bytes) -> None:
    with pytest.raises(CertificateMalformedError, match="not a certificate in PEM"):
        check(pem, authority)
    with pytest.raises(CertificateMalformedError, match="not a certificate in PEM"):
        check_authority(pem)
    with pytest.raises(CertificateMalformedError):
        identity_from_certificate(pem)


def test_a_certificate_of_an_unknown_version_is_refused(authority: Authority) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1")
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    version = b"\xa0\x03\x02\x01"
    changed = der.replace(version + b"\x02", version + b"\x03", 1)
    assert changed != der
    body = base64.encodebytes(changed)
    with pytest.raises(CertificateMalformedError, match="not a certificate in PEM"):
        check(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n", authority)


def test_two_certificates_in_one_file_are_refused(authority: Authority) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1")
    with pytest.raises(CertificateMalformedError, match="one certificate is expected, not 2"):
        check(pem + authority[0], authority)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    pem, _ = issue(*authority, CLUSTER, Role.NODE, "node-1")
    with pytest.raises(CertificateMalformedError, match="not a pair"):
        require_key_pair(pem, authority[1])
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(CertificateMalformedError, match="must be ECDSA P-256"):
        require_key_pair(pem, key)


Mutation = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def forge(authority: Authority, *, key: Any = None, **extensions: x509.ExtensionType | None) -> bytes:
    """A certificate signed by the real authority, with extensions that `issue` never writes."""
    signer = serialization.load_pem_private_key(authority[1], None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = key or ec.generate_private_key(ec.SECP256R1())
    parts: dict[str, x509.ExtensionType | None] = {
        "constraints": x509.BasicConstraints(ca=False, path_length=None),
        "purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        "names": x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)]),
        **extensions,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")]))
        .issuer_name(x509.load_pem_x509_certificate(authority[0]).subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
    )
    for part in parts.values():
        if part is not None:
            builder = builder.add_extension(part, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_forger_can_make_a_good_certificate(authority: Authority) -> None:
    assert check(forge(authority), authority) == Identity(CLUSTER, Role.NODE, "node-1")


@pytest.mark.parametrize(
    ("extensions", "problem"),
    [
        ({"constraints": x509.BasicConstraints(ca=True, path_length=0)}, "one of an authority"),
        ({"constraints": None}, "one of an authority"),
        ({"purposes": None}, "uses are not those of the role node"),
        ({"purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])}, "uses are not those"),
        ({"purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])}, "uses are not those"),
        ({"names": None}, "names 0"),
        ({"names": x509.SubjectAlternativeName([x509.DNSName(URI)])}, "names 0"),
        ({"names": x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)] * 2)}, "names 2"),
        (
            {"names": x509.SubjectAlternativeName([x509.UniformResourceIdentifier("acp://x")])},
            "is not an identity",
        ),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, "must be ECDSA P-256"),
        ({"key": ed25519.Ed25519PrivateKey.generate()}, "must be ECDSA P-256"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_certificate_of_another_shape_is_refused(
    authority: Authority, extensions: dict[str, Any], problem: str
) -> None:
    with pytest.raises(CertificateMalformedError, match=problem):
        check(forge(authority, **extensions), authority)


def test_a_client_certificate_that_may_serve_is_refused(authority: Authority) -> None:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI.replace("/node/", "/viewer/"))])
    with pytest.raises(CertificateMalformedError, match="uses are not those of the role viewer"):
        check(forge(authority, names=names), authority)


def self_signed(constraints: x509.BasicConstraints | None, *, signs: bool, signer: Any = None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(tls._key_usage(signs_certificates=signs), critical=True)
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_an_authority_has_the_shape_of_one() -> None:
    good = x509.BasicConstraints(ca=True, path_length=0)
    check_authority(self_signed(good, signs=True), dt.datetime.now(dt.UTC))
    for constraints in (
        None,
        x509.BasicConstraints(ca=False, path_length=None),
        x509.BasicConstraints(ca=True, path_length=1),
        x509.BasicConstraints(ca=True, path_length=None),
    ):
        with pytest.raises(CertificateMalformedError, match="must say that it is one, with path length 0"):
            check_authority(self_signed(constraints, signs=True))
    with pytest.raises(CertificateMalformedError, match="must allow its key to sign certificates"):
        check_authority(self_signed(good, signs=False))
    with pytest.raises(CertificateMalformedError, match="must be signed by its own key"):
        check_authority(self_signed(good, signs=True, signer=ec.generate_private_key(ec.SECP256R1())))


def test_all_refusals_are_the_operators_and_have_reasons_of_their_own() -> None:
    kinds = [getattr(roles, name) for name in roles.__all__ if name.startswith("Certificate")]
    assert len({kind.reason for kind in kinds}) == len(kinds) == 6
    assert all(issubclass(kind, CertificateError) and issubclass(kind, OperatorError) for kind in kinds)
