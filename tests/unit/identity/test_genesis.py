"""The genesis file: what is read from it, and every way in which it can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from replication.errors import OperatorError
from replication.identity.genesis import (
    MAX_GENESIS_BYTES,
    GenesisError,
    Rules,
    build_genesis,
    load_genesis,
    parse_genesis,
)
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.roles import Role
from replication.identity.tls import issue

Json = dict[str, Any]
MakeGenesis = Callable[[int], bytes]


@pytest.fixture(scope="module")
def raw(make_genesis: MakeGenesis) -> bytes:
    return make_genesis(4)


def change(raw: bytes, path: str, value: Any) -> bytes:
    """The file with one value replaced, or removed if it is Ellipsis. The path is as in error messages."""
    content = json.loads(raw)
    *parents, last = path.replace("[", ".").replace("]", "").split(".")
    place = content
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content).encode()


# ---------------------------------------------------------------------------------------------- the good file


def test_what_was_built_is_read_back(raw: bytes, authority: tuple[bytes, bytes]) -> None:
    genesis = parse_genesis(raw)
    assert genesis.name == "test cluster"
    assert genesis.created_ms == 1_735_689_600_000
    assert genesis.nonce == bytes(range(32))
    assert genesis.members.epoch == 0
    assert genesis.members.ids == ("node-1", "node-2", "node-3", "node-4")
    assert genesis.members.public_key("node-2") == SigningKey.from_seed(b"\x02" * 32).public_key
    first = genesis.members.get("node-1")
    assert first is not None
    assert first.address == "node-1.example:7400"
    assert genesis.rules == Rules()
    assert genesis.ca_certificate == authority[0]
    assert genesis.raw == raw


def test_the_cluster_id_is_the_hash_of_the_exact_bytes(raw: bytes) -> None:
    assert parse_genesis(raw).cluster_id == sha256(raw).digest()
    assert parse_genesis(raw + b"\n").cluster_id == sha256(raw + b"\n").digest()


def test_building_is_deterministic_and_readable(make_genesis: MakeGenesis) -> None:
    assert make_genesis(4) == make_genesis(4)
    assert make_genesis(4).startswith(b'{\n  "format": "agent-consensus/genesis/1",\n')
    assert make_genesis(4).endswith(b"}\n")


@pytest.mark.parametrize("n", [1, 100])
def test_the_smallest_and_the_largest_cluster(make_genesis: MakeGenesis, n: int) -> None:
    assert parse_genesis(make_genesis(n)).members.n == n


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2/3", Fraction(2, 3)),
        ("4/6", Fraction(2, 3)),
        ("0.1", Fraction(1, 10)),
        ("1", Fraction(1)),
        ("1.0", Fraction(1)),
    ],
)
def test_fractions_are_exact(raw: bytes, text: str, value: Fraction) -> None:
    rules = parse_genesis(change(raw, "rules.supermajority_threshold", text)).rules
    assert rules.supermajority_threshold == value


@pytest.mark.parametrize("address", ["10.0.0.1:1", "[::1]:65535", "node_1.svc:443", "localhost:7400"])
def test_addresses_that_are_legal(raw: bytes, address: str) -> None:
    member = parse_genesis(change(raw, "members[0].address", address)).members.get("node-1")
    assert member is not None
    assert member.address == address


def test_a_file_is_loaded_by_its_path(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    path.write_bytes(raw)
    assert load_genesis(path) == parse_genesis(raw)
    path.write_bytes(raw[:-2])
    with pytest.raises(GenesisError, match=r"genesis\.json: the genesis file is not valid JSON"):
        load_genesis(path)
    with pytest.raises(GenesisError, match=r"nothing\.json cannot be read: No such file"):
        load_genesis(tmp_path / "nothing.json")
    with pytest.raises(GenesisError, match="cannot be read"):
        load_genesis(tmp_path)


# -------------------------------------------------------------------------------------------------- bad files

KEYS = [
    *("format", "name", "created_ms", "nonce", "members", "rules", "ca_certificate"),
    *(f"members[2].{key}" for key in ("id", "address", "public_key", "weight", "possession")),
    *(f"rules.{key}" for key in ("quorum_fraction", "majority_threshold", "supermajority_threshold")),
    *(f"rules.{key}" for key in ("default_window_ms", "default_expiry_ms")),
    *(f"rules.{key}" for key in ("allow_vote_change", "max_active_proposals")),
]


def refused(raw: bytes, *parts: str) -> str:
    """Parse and expect a refusal whose message holds these parts."""
    with pytest.raises(GenesisError) as caught:
        parse_genesis(raw)
    message = str(caught.value)
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(raw: bytes, key: str) -> None:
    assert refused(change(raw, key, ...)) == f"{key} is missing; add it"


@pytest.mark.parametrize("place", ["", "members[1].", "rules."])
def test_an_unknown_key_is_named(raw: bytes, place: str) -> None:
    assert refused(change(raw, f"{place}extra", 1), "remove it").startswith(
        f"{place}extra is not a known key"
    )


@pytest.mark.parametrize("key", ["name", "possession", "weight", "default_window_ms"])
def test_a_key_given_twice_is_refused_even_with_one_value(raw: bytes, key: str) -> None:
    line = next(line for line in raw.splitlines(keepends=True) if f'"{key}"'.encode() in line)
    doubled = raw.replace(line, line.rstrip(b",\n") + b",\n" + line, 1)
    refused(doubled, f"'{key}' is given twice")


KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a number"}
KINDS[type(None)] = "null"
RIGHT_TYPES: dict[str, type] = {
    "created_ms": int,
    "members": list,
    "members[2].weight": int,
    "rules": dict,
    "rules.default_window_ms": int,
    "rules.default_expiry_ms": int,
    "rules.allow_vote_change": bool,
    "rules.max_active_proposals": int,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key in KEYS
        for value in (None, [1], {"a": 1}, "text", 7, True)
        if type(value) is not RIGHT_TYPES.get(key, str)
    ],
)
def test_a_value_of_the_wrong_type_is_named(raw: bytes, key: str, value: Any) -> None:
    message = refused(change(raw, key, value))
    assert message.startswith(f"{key} must be ")
    assert message.endswith(f", not {KINDS[type(value)]}")


BIG = 2**53

TABLE: list[tuple[str, Any, str]] = [
    ("format", "agent-consensus/genesis/2", 'format must be "agent-consensus/genesis/1"'),
    ("name", "x" * 65, "name must be 1 to 64 printable characters"),
    ("name", "two\nlines", "name must be 1 to 64 printable"),
    ("name", "\ud800", "name must be 1 to 64 printable"),
    ("created_ms", -1, f"created_ms must be from 0 to {BIG - 1}, not -1"),
    ("created_ms", BIG, f"created_ms must be from 0 to {BIG - 1}"),
    ("nonce", "00" * 31, "nonce must be 32 bytes as 64 lower-case hex digits"),
    ("nonce", "0" * 63 + "G", "nonce must be 32 bytes"),
    ("nonce", "AB" * 32, "nonce must be 32 bytes as 64 lower-case"),
    ("nonce", " " + "0" * 63, "nonce must be 32 bytes"),
    ("nonce", "٣" * 64, "nonce must be 32 bytes"),
    ("members", [], "members must not be empty"),
    ("members", {"id": 1}, "members must be a list"),
    ("members", ["node-1"], "members[0] must be a JSON object, not a string"),
    ("members[0].id", "a b", "members[0].id must be 1 to 64 characters"),
    ("members[0].id", "..", "members[0].id must be 1 to 64 characters of A-Z a-z 0-9 . _ - and not . or .."),
    ("members[0].id", "node-2", "members: two members have the id node-2; give each its own"),
    ("members[1].address", "node-1.example:7400", "members: node-1 and node-2 share the address"),
    ("members[1].address", "NODE-1.example:7400", "members: node-1 and node-2 share the address"),
    ("members[0].address", "host", "members[0].address must be host:port"),
    ("members[0].address", ":7400", "members[0].address must be host:port"),
    ("members[0].address", "host:", "members[0].address must be host:port"),
    ("members[0].address", "host:0", "members[0].address must be host:port"),
    ("members[0].address", "host:65536", "members[0].address must be host:port"),
    ("members[0].address", "host:07400", "members[0].address must be host:port"),
    ("members[0].address", "host:٣", "members[0].address must be host:port"),
    ("members[0].address", "http://host:80", "members[0].address must be host:port"),
    ("members[0].address", "::1:7400", "members[0].address must be host:port"),
    ("members[0].address", "host:7400\n", "members[0].address must be host:port"),
    ("members[0].weight", 0, "members[0].weight must be from 1 to 1000000, not 0"),
    ("members[0].weight", 1_000_001, "members[0].weight must be from 1 to 1000000"),
    ("members[0].public_key", "00" * 31, "members[0].public_key must be 32 bytes"),
    ("members[0].public_key", "01" + "00" * 31, "members[0].public_key of node-1"),
    ("members[0].public_key", "02" + "00" * 31, "not a point on the curve"),
    ("members[0].possession", "00" * 63, "members[0].possession must be 64 bytes"),
    ("members[0].possession", "00" * 64, "members[0].possession of node-1: the proof of possession"),
    ("rules", [], "rules must be a JSON object, not a list"),
    ("ca_certificate", "PEM", "ca_certificate this is not a certificate in PEM"),
    ("ca_certificate", "é", "ca_certificate must be PEM, which is ASCII"),
]
SHARES = ["quorum_fraction", "majority_threshold", "supermajority_threshold"]
TABLE += [
    (f"rules.{share}", text, f"rules.{share} {problem}")
    for share in SHARES
    for text, problem in [
        ("0", "must be a fraction above 0 and up to 1"),
        ("0/5", "must be a fraction above 0"),
        ("1.1", "must be a fraction above 0 and up to 1, not 11/10; correct the value"),
        ("4/3", "must be a fraction above 0 and up to 1, not 4/3"),
        ("1/0", "divides by zero"),
        ("-1/2", 'must be a string such as "2/3"'),
        ("+1/2", "must be a string such as"),
        ("1 / 2", "must be a string such as"),
        ("1e-1", "must be a string such as"),
        (".5", "must be a string such as"),
        ("1.", "must be a string such as"),
        ("1_0/20", "must be a string such as"),
        ("٣/4", "must be a string such as"),
        ("half", "must be a string such as"),
        ("1/2\n", "must be a string such as"),
        ("1/" + "9" * 10, "must be a string such as"),
    ]
]
TABLE += [
    (f"rules.{field}", value, f"rules.{field} must be from {lowest} to {highest}")
    for field, lowest, highest in [
        ("default_window_ms", 0, BIG - 1),
        ("default_expiry_ms", 0, BIG - 1),
        ("max_active_proposals", 1, 100_000),
    ]
    for value in (lowest - 1, highest + 1)
]


@pytest.mark.parametrize(("key", "value", "problem"), TABLE, ids=lambda part: repr(part)[:40])
def test_a_bad_value_is_named_with_the_fix(raw: bytes, key: str, value: Any, problem: str) -> None:
    refused(change(raw, key, value), problem)


@pytest.mark.parametrize("field", ["default_window_ms", "default_expiry_ms", "max_active_proposals"])
def test_the_bounds_themselves_are_legal(raw: bytes, field: str) -> None:
    lowest, highest = (1, 100_000) if field == "max_active_proposals" else (0, BIG - 1)
    for value in (lowest, highest):
        assert getattr(parse_genesis(change(raw, f"rules.{field}", value)).rules, field) == value


def test_keys_are_unique(raw: bytes) -> None:
    shared = json.loads(raw)["members"][0]["public_key"]
    refused(
        change(raw, "members[1].public_key", shared),
        "members: members node-1 and node-2 have the same public key",
    )


def test_a_proof_is_bound_to_the_nonce(raw: bytes) -> None:
    refused(change(raw, "nonce", "00" * 32), "members[0].possession", "must sign for this id")


def test_proofs_cannot_be_swapped(raw: bytes) -> None:
    other = json.loads(raw)["members"][1]["possession"]
    refused(change(raw, "members[0].possession", other), "members[0].possession of node-1")


def test_more_than_100_members_are_refused(make_genesis: MakeGenesis) -> None:
    content = json.loads(make_genesis(100))
    extra = {**content["members"][0], "id": "node-101", "public_key": "00" * 32}
    refused(
        json.dumps({**content, "members": [*content["members"], extra]}).encode(), "1 to 100 members, not 101"
    )


def test_a_leaf_certificate_is_no_authority(raw: bytes, authority: tuple[bytes, bytes]) -> None:
    leaf, _ = issue(*authority, bytes(32), Role.NODE, "node-1")
    refused(
        change(raw, "ca_certificate", leaf.decode()), "ca_certificate an authority's certificate must say"
    )


@pytest.mark.parametrize("number", ["1.0", "1e3", "NaN", "Infinity", "-Infinity"])
def test_numbers_are_whole(raw: bytes, number: str) -> None:
    refused(raw.replace(b"1735689600000", number.encode()), number, "fractions are written as strings")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"name": "\xff"}',
        b"{} {}",
        b'{"created_ms": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    refused(text, "the genesis file is not valid JSON")


@pytest.mark.parametrize("text", [b"[]", b"null", b'"text"', b"7", b"true"])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    refused(text, "the genesis file must be a JSON object, not ")


def test_a_huge_file_is_refused_before_it_is_parsed(raw: bytes, tmp_path: Path) -> None:
    padding = b" " * (MAX_GENESIS_BYTES - len(raw))
    assert parse_genesis(raw + padding).members.n == 4
    refused(raw + padding + b" ", "larger than 1048576 bytes")
    (tmp_path / "genesis.json").write_bytes(raw + padding + b" ")
    with pytest.raises(GenesisError, match="larger than"):
        load_genesis(tmp_path / "genesis.json")


def test_refusals_are_the_operators_to_mend() -> None:
    assert issubclass(GenesisError, OperatorError)
    assert GenesisError.reason == "GENESIS_REFUSED"


# --------------------------------------------------------------------------------------------------- building


def build(authority: tuple[bytes, bytes], **changes: Any) -> bytes:
    key = SigningKey.from_seed(b"\x01" * 32)
    fields: Json = {
        "name": "small",
        "created_ms": 0,
        "nonce": bytes(32),
        "members": [Member("a", key.public_key, 1, "localhost:1")],
        "possessions": {"a": prove_possession(key, "a", bytes(32))},
        "rules": Rules(),
        "ca_certificate": authority[0],
    }
    return build_genesis(**{**fields, **changes})


def test_all_rules_are_carried(authority: tuple[bytes, bytes]) -> None:
    rules = Rules(
        Fraction(1, 3), Fraction(3, 5), Fraction(7, 7), 1, 2, allow_vote_change=True, max_active_proposals=3
    )
    assert parse_genesis(build(authority, rules=rules)).rules == rules


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"possessions": {}}, "no proof of possession was given for a"),
        ({"possessions": {"a": bytes(64)}}, "members\\[0\\].possession"),
        ({"nonce": bytes(31)}, "nonce"),
        ({"name": ""}, "name"),
        ({"members": []}, "members must not be empty"),
        ({"ca_certificate": b"\xff"}, "ca_certificate"),
    ],
    ids=lambda part: repr(part)[:20],
)
def test_nothing_is_built_that_would_not_parse(
    authority: tuple[bytes, bytes], changes: Json, problem: str
) -> None:
    with pytest.raises(GenesisError, match=problem):
        build(authority, **changes)


def test_a_certificate_in_der_is_not_taken_for_pem(authority: tuple[bytes, bytes]) -> None:
    der = x509.load_pem_x509_certificate(authority[0]).public_bytes(serialization.Encoding.DER)
    with pytest.raises(GenesisError, match="ca_certificate"):
        build(authority, ca_certificate=der)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (share, bad)
            for share in SHARES
            for bad in (Fraction(0), Fraction(-1, 2), Fraction(3, 2), 0.5, 1, "1/2")
        ),
        *(("default_window_ms", bad) for bad in (-1, 2**53, 1.0, True)),
        *(("default_expiry_ms", bad) for bad in (-1, 2**53, 1.0, True)),
        *(("max_active_proposals", bad) for bad in (0, 100_001, 1.0, True)),
        *(("allow_vote_change", bad) for bad in (0, 1, None, "true")),
    ],
)
def test_rules_check_themselves(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        Rules(**{field: value})
