"""The genesis file: the JSON text that all nodes start from, and the only thing that a verifier trusts.

The cluster's id is the SHA-256 of the file's exact bytes, so a node with another file, or one byte changed,
is in another cluster, and nothing that it signs counts here.

The parser is strict, because two nodes must never read two meanings into one file: keys that are unknown,
missing or given twice, values of the wrong type and numbers out of range are all refused, with the place and
the fix named. Every public key is admitted and every proof of possession verified, each time that the file is
read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final

from replication.consensus.approval import ApprovalRules
from replication.errors import OperatorError
from replication.identity.approval_text import approval_to_json, read_approval
from replication.identity.keys import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, KeyRefusedError
from replication.identity.members import (
    MAX_WEIGHT,
    Executor,
    Member,
    MemberSet,
    MemberSetError,
    admit_member_key,
)
from replication.identity.names import is_member_id
from replication.identity.rules import MAX_ACTIVE_PROPOSALS, MAX_EXACT_INTEGER, Rules
from replication.identity.signbytes import DIGEST_SIZE
from replication.identity.tls import CertificateError, check_authority

__all__ = [
    "GENESIS_FORMAT",
    "MAX_GENESIS_BYTES",
    "Genesis",
    "GenesisError",
    "Rules",
    "build_genesis",
    "is_address",
    "load_genesis",
    "parse_genesis",
]

GENESIS_FORMAT: Final = "agent-consensus/genesis/1"

MAX_GENESIS_BYTES: Final = 1024 * 1024
"""A hundred members take some 50 KiB."""

MAX_NAME_LENGTH: Final = 64

_FRACTION: Final = re.compile(r"[0-9]{1,9}/[0-9]{1,9}|[0-9]{1,9}(?:\.[0-9]{1,18})?", re.ASCII)
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII)
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}", re.ASCII)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)

_FILE_KEYS: Final = ("format", "name", "created_ms", "nonce", "members", "rules", "ca_certificate")
_OPTIONAL_KEYS: Final = ("executors",)
_EXECUTOR_KEYS: Final = ("id", "public_key", "possession")
_MEMBER_KEYS: Final = ("id", "address", "public_key", "weight", "possession")
_OPTIONAL_RULE_KEYS: Final = ("approval",)
_RULE_KEYS: Final = (
    "quorum_fraction",
    "majority_threshold",
    "supermajority_threshold",
    "default_window_ms",
    "default_expiry_ms",
    "allow_vote_change",
    "max_active_proposals",
)


class GenesisError(OperatorError):
    """The genesis file cannot be used; the message names the key and says what to do."""

    reason: ClassVar[str] = "GENESIS_REFUSED"


@dataclass(frozen=True, slots=True)
class Genesis:
    """A genesis file that was read and judged. `raw` are its exact bytes, `cluster_id` their SHA-256."""

    name: str
    created_ms: int
    nonce: bytes
    members: MemberSet
    rules: Rules
    ca_certificate: bytes
    cluster_id: bytes
    raw: bytes


def is_address(value: object) -> bool:
    """Whether `value` is a legal address of a member: host:port, an IPv6 address in brackets."""
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    return bool(_HOST.fullmatch(host) and _PORT.fullmatch(port)) and int(port) <= 65535


def load_genesis(path: str | os.PathLike[str]) -> Genesis:
    """Read and judge a genesis file.

    Raises:
        GenesisError: it cannot be read, or as `parse_genesis`; the message starts with the path.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_GENESIS_BYTES + 1)
    except OSError as error:
        raise GenesisError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    try:
        return parse_genesis(raw)
    except GenesisError as error:
        raise GenesisError(f"{path}: {error}") from error


def parse_genesis(raw: bytes) -> Genesis:
    """Judge the bytes of a genesis file.

    Raises:
        GenesisError: not strict JSON of the one legal shape; a bad key, proof or authority.
    """
    content = _Object("", _decode(raw), _FILE_KEYS, _OPTIONAL_KEYS)
    if content.text("format") != GENESIS_FORMAT:
        raise content.error("format", f'must be "{GENESIS_FORMAT}"; use the program that wrote this file')
    nonce = content.hex("nonce", DIGEST_SIZE)
    members = _member_set(content, nonce)
    rules = _rules(_Object("rules", content.value("rules"), _RULE_KEYS, _OPTIONAL_RULE_KEYS))
    try:
        rules.require_satisfiable(members)
    except ValueError as error:
        raise GenesisError(f"rules.{error}; correct the rule") from error
    return Genesis(
        name=_name(content),
        created_ms=content.number("created_ms", 0, MAX_EXACT_INTEGER),
        nonce=nonce,
        members=members,
        rules=rules,
        ca_certificate=_authority(content),
        cluster_id=sha256(raw).digest(),
        raw=raw,
    )


def build_genesis(
    *,
    name: str,
    created_ms: int,
    nonce: bytes,
    members: Sequence[Member],
    executors: Sequence[Executor] = (),
    possessions: Mapping[str, bytes],
    rules: Rules,
    ca_certificate: bytes,
) -> bytes:
    """The bytes of a new genesis file: the same for the same arguments, and known to parse.

    Args:
        name: the cluster's name, for people.
        created_ms: when it was made, milliseconds since the epoch.
        nonce: 32 random bytes, those that the proofs of possession were made for.
        members: the members, in the order that coordinators take turns.
        executors: who acts on decisions and signs receipts.
        possessions: for each member's and executor's id, its proof (`members.prove_possession`).
        rules: the voting rules.
        ca_certificate: the authority's certificate, PEM.

    Raises:
        GenesisError: the arguments do not make a legal genesis file.
    """
    named = [member.id for member in members] + [executor.id for executor in executors]
    missing = [one for one in named if one not in possessions]
    if missing:
        raise GenesisError(
            f"no proof of possession was given for {', '.join(missing)}; each member makes its own"
        )
    content: dict[str, Any] = {
        "format": GENESIS_FORMAT,
        "name": name,
        "created_ms": created_ms,
        "nonce": nonce.hex(),
        "members": [
            {
                "id": member.id,
                "address": member.address,
                "public_key": member.public_key.hex(),
                "weight": member.weight,
                "possession": possessions[member.id].hex(),
            }
            for member in members
        ],
        "rules": {
            "quorum_fraction": str(rules.quorum_fraction),
            "majority_threshold": str(rules.majority_threshold),
            "supermajority_threshold": str(rules.supermajority_threshold),
            "default_window_ms": rules.default_window_ms,
            "default_expiry_ms": rules.default_expiry_ms,
            "allow_vote_change": rules.allow_vote_change,
            "max_active_proposals": rules.max_active_proposals,
        },
        "ca_certificate": ca_certificate.decode("ascii", "replace"),
    }
    approval = approval_to_json(rules.approval)
    if approval:
        content["rules"]["approval"] = approval
    if executors:
        content["executors"] = [
            {
                "id": executor.id,
                "public_key": executor.public_key.hex(),
                "possession": possessions[executor.id].hex(),
            }
            for executor in executors
        ]
    raw = json.dumps(content, indent=2, ensure_ascii=True).encode("ascii") + b"\n"
    parse_genesis(raw)
    return raw


# ------------------------------------------------------------------------------------------ parts of the file


def _name(content: _Object) -> str:
    name = content.text("name")
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise content.error("name", f"must be 1 to {MAX_NAME_LENGTH} printable characters")
    return name


def _member_set(content: _Object, nonce: bytes) -> MemberSet:
    items = content.value("members")
    if not isinstance(items, list):
        raise content.error("members", f"must be a list of members, not {_kind(items)}")
    if not items:
        raise content.error("members", "must not be empty; a cluster has at least one member")
    objects = [_Object(f"members[{index}]", item, _MEMBER_KEYS) for index, item in enumerate(items)]
    members = [_member(item) for item in objects]
    executor_objects = _executor_objects(content)
    executors = [_executor(item) for item in executor_objects]
    try:
        member_set = MemberSet(0, tuple(members), tuple(executors))
    except MemberSetError as error:
        raise GenesisError(f"members: {error}") from error
    _refuse_shared_addresses(members)
    for item, member in zip(objects, members, strict=True):
        _admit(item, member, nonce)
    for item, executor in zip(executor_objects, executors, strict=True):
        _admit(item, executor, nonce)
    return member_set


def _executor_objects(content: _Object) -> list[_Object]:
    if not content.has("executors"):
        return []
    items = content.value("executors")
    if not isinstance(items, list) or not items:
        raise content.error("executors", "must be a list of executors; leave it out where there are none")
    return [_Object(f"executors[{index}]", item, _EXECUTOR_KEYS) for index, item in enumerate(items)]


def _executor(item: _Object) -> Executor:
    try:
        return Executor(item.text("id"), item.hex("public_key", PUBLIC_KEY_SIZE))
    except MemberSetError as error:
        raise GenesisError(f"executors: {error}") from error


def _member(item: _Object) -> Member:
    member_id = item.text("id")
    if not is_member_id(member_id):
        raise item.error("id", "must be 1 to 64 characters of A-Z a-z 0-9 . _ - and not . or ..")
    return Member(
        id=member_id,
        public_key=item.hex("public_key", PUBLIC_KEY_SIZE),
        weight=item.number("weight", 1, MAX_WEIGHT),
        address=_address(item),
    )


def _address(item: _Object) -> str:
    address = item.text("address")
    if not is_address(address):
        raise item.error("address", "must be host:port with a port from 1 to 65535, IPv6 as [address]:port")
    return address


def _refuse_shared_addresses(members: Sequence[Member]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        other = seen.setdefault(member.address.lower(), member.id)
        if other != member.id:
            raise GenesisError(
                f"members: {other} and {member.id} share the address {member.address}; give each its own"
            )


def _admit(item: _Object, member: Member | Executor, nonce: bytes) -> None:
    possession = item.hex("possession", SIGNATURE_SIZE)
    try:
        admit_member_key(member.id, member.public_key, nonce, possession)
    except KeyRefusedError as error:
        raise item.error("public_key", f"of {member.id}: {error}") from error
    except MemberSetError as error:
        raise item.error("possession", f"of {member.id}: {error}") from error


def _rules(item: _Object) -> Rules:
    try:
        return Rules(
            quorum_fraction=item.fraction("quorum_fraction"),
            majority_threshold=item.fraction("majority_threshold"),
            supermajority_threshold=item.fraction("supermajority_threshold"),
            default_window_ms=item.number("default_window_ms", 0, MAX_EXACT_INTEGER),
            default_expiry_ms=item.number("default_expiry_ms", 0, MAX_EXACT_INTEGER),
            allow_vote_change=item.boolean("allow_vote_change"),
            max_active_proposals=item.number("max_active_proposals", 1, MAX_ACTIVE_PROPOSALS),
            approval=read_approval(item.value("approval")) if item.has("approval") else ApprovalRules(),
        )
    except ValueError as error:
        raise GenesisError(f"rules.{error}; correct the value") from error


def _authority(content: _Object) -> bytes:
    try:
        pem = content.text("ca_certificate").encode("ascii")
    except UnicodeEncodeError as error:
        raise content.error("ca_certificate", "must be PEM, which is ASCII") from error
    try:
        # Not its dates: a record is verified with this file long after the authority has expired.
        check_authority(pem)
    except CertificateError as error:
        raise content.error("ca_certificate", str(error)) from error
    return pem


# ------------------------------------------------------------------------------------------------ strict JSON


class _Object:
    """A JSON object with exactly the keys it should have, and typed access that names the place in errors."""

    def __init__(self, place: str, value: object, keys: Sequence[str], optional: Sequence[str] = ()) -> None:
        self._place = place
        if not isinstance(value, dict):
            raise GenesisError(f"{place or 'the genesis file'} must be a JSON object, not {_kind(value)}")
        known = (*keys, *optional)
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise self.error(unknown[0], f"is not a known key; remove it (known are {', '.join(known)})")
        missing = [key for key in keys if key not in value]
        if missing:
            raise self.error(missing[0], "is missing; add it")
        self._values: dict[str, Any] = value

    def error(self, key: str, problem: str) -> GenesisError:
        """An error about one key of this object."""
        place = f"{self._place}.{key}" if self._place else key
        return GenesisError(f"{place[:200]} {problem}")

    def has(self, key: str) -> bool:
        """Whether an optional key is there."""
        return key in self._values

    def value(self, key: str) -> object:
        """The value as JSON gave it."""
        return self._values[key]

    def text(self, key: str) -> str:
        """A string."""
        value = self._values[key]
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {_kind(value)}")
        return value

    def number(self, key: str, lowest: int, highest: int) -> int:
        """A whole number within bounds."""
        value = self._values[key]
        if type(value) is not int:
            raise self.error(key, f"must be a whole number, not {_kind(value)}")
        if not lowest <= value <= highest:
            raise self.error(key, f"must be from {lowest} to {highest}, not {value!r:.40}")
        return value

    def boolean(self, key: str) -> bool:
        """true or false."""
        value = self._values[key]
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_kind(value)}")
        return value

    def hex(self, key: str, size: int) -> bytes:
        """`size` bytes as lower-case hex digits."""
        text = self.text(key)
        if len(text) != 2 * size or _HEX.fullmatch(text) is None:
            raise self.error(key, f"must be {size} bytes as {2 * size} lower-case hex digits")
        return bytes.fromhex(text)

    def fraction(self, key: str) -> Fraction:
        """An exact number, written "a/b" or as a decimal in a string."""
        text = self.text(key)
        if _FRACTION.fullmatch(text) is None:
            raise self.error(key, f'must be a string such as "2/3" or "0.75", not {text!r:.40}')
        try:
            return Fraction(text)
        except ZeroDivisionError:
            raise self.error(key, f"divides by zero: {text!r:.40}") from None


def _decode(raw: bytes) -> object:
    if len(raw) > MAX_GENESIS_BYTES:
        raise GenesisError(
            f"the genesis file is larger than {MAX_GENESIS_BYTES} bytes; check that it is the right file"
        )
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
        )
    except (ValueError, RecursionError) as error:
        raise GenesisError(
            f"the genesis file is not valid JSON: {error}. Copy it again from its source."
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise GenesisError(f"the key {key!r:.80} is given twice in one object; remove one of the two")
        content[key] = value
    return content


def _refuse_float(text: str) -> object:
    raise GenesisError(
        f'the number {text:.40} is not whole; fractions are written as strings, "2/3" or "0.75"'
    )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a number"}
    return names[type(value)]
