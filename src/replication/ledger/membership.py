"""Changes of the member set: their one JSON form, and what each makes of the set.

A change is a canonical JSON object with the key `change`, one of::

    {"change":"add","member":{"address":A,"id":I,"possession":P,"public_key":K,"weight":W}}
    {"change":"remove","id":I}
    {"change":"replace","id":I,"member":{...as above...}}     takes the same place in the order
    {"change":"reweight","id":I,"weight":W}
    {"change":"rejoin","id":I,"nonce":N}                      never proposed: a member asks for itself
    {"change":"add-executor","executor":{"id":I,"possession":P,"public_key":K}}
    {"change":"remove-executor","id":I}

K (32 bytes), P (64) and N (32) are lower-case hex; P is the proof of possession for the nonce of the genesis
file (`identity.members.prove_possession`). A replacement may keep the id, and then changes the key, the
weight or the address. Votes, and proof of being faulty, belong to an id with its key: they end when either
does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from replication.consensus.canonical import canonical_json
from replication.errors import CallerError
from replication.identity.genesis import is_address
from replication.identity.keys import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, KeyRefusedError
from replication.identity.members import Executor, Member, MemberSet, MemberSetError, admit_member_key
from replication.identity.names import is_member_id
from replication.identity.signbytes import DIGEST_SIZE

__all__ = ["MAX_CHANGE_BYTES", "Change", "ChangeError", "apply_change", "parse_change"]

MAX_CHANGE_BYTES: Final = 2048
"""The longest legal change, a replacement with a long host name, takes about 900."""

_KEYS: Final = {
    "add": frozenset({"change", "member"}),
    "remove": frozenset({"change", "id"}),
    "replace": frozenset({"change", "id", "member"}),
    "reweight": frozenset({"change", "id", "weight"}),
    "rejoin": frozenset({"change", "id", "nonce"}),
    "add-executor": frozenset({"change", "executor"}),
    "remove-executor": frozenset({"change", "id"}),
}
_EXECUTOR_KEYS: Final = frozenset({"id", "public_key", "possession"})
_MEMBER_KEYS: Final = frozenset({"id", "public_key", "weight", "address", "possession"})


class ChangeError(CallerError):
    """A change of the member set is malformed, or cannot be made to this set."""

    reason: ClassVar[str] = "MEMBERSHIP_REFUSED"


@dataclass(frozen=True)
class Change:
    """A change that was read. `id` is whom it is about; `member` the new one (add, replace), `executor`
    likewise (add-executor)."""

    kind: str
    id: str
    member: Member | None = None
    executor: Executor | None = None
    possession: bytes = b""
    weight: int = 0
    nonce: bytes = b""


def parse_change(raw: bytes) -> Change:
    """Read a change. Raises ChangeError unless it is canonical JSON of one of the legal shapes."""
    if len(raw) > MAX_CHANGE_BYTES:
        raise ChangeError(f"a change of the member set has at most {MAX_CHANGE_BYTES} bytes, not {len(raw)}")
    try:
        value = json.loads(raw)
        canonical = canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise ChangeError(f"a change of the member set must be JSON: {error!s:.200}") from error
    if canonical != raw or not isinstance(value, dict):
        raise ChangeError("a change of the member set must be an object in canonical JSON (RFC 8785)")
    kind = value.get("change")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ChangeError(f"change must be one of {', '.join(_KEYS)}, not {kind!r:.40}")
    if value.keys() != _KEYS[kind]:
        raise ChangeError(f"a change of kind {kind} has exactly the keys {', '.join(sorted(_KEYS[kind]))}")
    return _read(kind, value)


def _read(kind: str, value: dict[str, Any]) -> Change:
    if "executor" in value:
        executor, possession = _executor(value["executor"])
        return Change(kind, executor.id, executor=executor, possession=possession)
    member, possession = _member(value["member"]) if "member" in value else (None, b"")
    subject = member.id if kind == "add" and member is not None else value.get("id")
    if not isinstance(subject, str) or not is_member_id(subject):
        raise ChangeError(f"id must be that of a member, not {subject!r:.80}")
    if kind == "reweight":
        return Change(kind, subject, weight=_weight(subject, value["weight"]))
    nonce = _hex("nonce", value["nonce"], DIGEST_SIZE) if kind == "rejoin" else b""
    return Change(kind, subject, member, possession=possession, nonce=nonce)


def _executor(value: object) -> tuple[Executor, bytes]:
    if not isinstance(value, dict) or value.keys() != _EXECUTOR_KEYS:
        raise ChangeError(f"executor must be an object with exactly {', '.join(sorted(_EXECUTOR_KEYS))}")
    key = _hex("executor.public_key", value["public_key"], PUBLIC_KEY_SIZE)
    possession = _hex("executor.possession", value["possession"], SIGNATURE_SIZE)
    try:
        return Executor(value["id"], key), possession
    except MemberSetError as error:
        raise ChangeError(f"executor: {error}") from error


def _member(value: object) -> tuple[Member, bytes]:
    if not isinstance(value, dict) or value.keys() != _MEMBER_KEYS:
        raise ChangeError(f"member must be an object with exactly {', '.join(sorted(_MEMBER_KEYS))}")
    if not is_address(value["address"]):
        raise ChangeError(f"member.address must be host:port, not {value['address']!r:.80}")
    key = _hex("member.public_key", value["public_key"], PUBLIC_KEY_SIZE)
    possession = _hex("member.possession", value["possession"], SIGNATURE_SIZE)
    try:
        return Member(value["id"], key, value["weight"], value["address"]), possession
    except MemberSetError as error:
        raise ChangeError(f"member: {error}") from error


def _weight(member: str, value: object) -> int:
    try:
        return Member(member, bytes(PUBLIC_KEY_SIZE), value, "").weight  # type: ignore[arg-type]  # it judges
    except MemberSetError as error:
        raise ChangeError(str(error)) from error


def _hex(name: str, value: object, size: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * size or value.strip("0123456789abcdef"):
        raise ChangeError(f"{name} must be {size} bytes as {2 * size} lower-case hex digits")
    return bytes.fromhex(value)


def apply_change(members: MemberSet, change: Change, nonce: bytes) -> MemberSet:
    """The members of the next epoch. `nonce` is that of the genesis file.

    Raises ChangeError when the change cannot be made: an unknown member, one that exists, an address or key
    in use, a key that is weak or not proven, nothing that would change, or nobody left.
    """
    if change.kind.endswith("-executor"):
        return _apply_to_executors(members, change, nonce)
    position = members.index_of(change.id) if change.id in members else -1
    if (position < 0) != (change.kind == "add"):
        raise ChangeError(f"{change.id} is {'already' if position >= 0 else 'not'} a member")
    listed = list(members.members)
    if change.kind == "add" and change.member is not None:
        listed.append(change.member)
    elif change.kind == "remove":
        del listed[position]
    elif change.kind == "replace" and change.member is not None:
        listed[position] = change.member
    elif change.kind == "reweight":
        listed[position] = replace(listed[position], weight=change.weight)
    if change.kind != "rejoin" and tuple(listed) == members.members:
        raise ChangeError("this change would change nothing")
    if change.member is not None:
        _admit(listed, change.member, change.possession, nonce)
    try:
        return MemberSet(members.epoch + 1, tuple(listed), members.executors)
    except MemberSetError as error:
        raise ChangeError(str(error)) from error


def _apply_to_executors(members: MemberSet, change: Change, nonce: bytes) -> MemberSet:
    others = tuple(one for one in members.executors if one.id != change.id)
    is_known = len(others) < len(members.executors)
    try:
        if change.executor is None:
            if not is_known:
                raise ChangeError(f"{change.id} is not an executor")
            return MemberSet(members.epoch + 1, members.members, others)
        if is_known:
            raise ChangeError(f"{change.id} is already an executor")
        admit_member_key(change.id, change.executor.public_key, nonce, change.possession)
        return MemberSet(members.epoch + 1, members.members, (*others, change.executor))
    except (KeyRefusedError, MemberSetError) as error:
        raise ChangeError(str(error)) from error


def _admit(listed: list[Member], member: Member, possession: bytes, nonce: bytes) -> None:
    """Judge a new member beside the others of its set."""
    others = [other for other in listed if other is not member]
    if any(other.address.lower() == member.address.lower() for other in others):
        raise ChangeError(f"another member has the address {member.address}; give each its own")
    try:
        admit_member_key(member.id, member.public_key, nonce, possession)
    except (KeyRefusedError, MemberSetError) as error:
        raise ChangeError(str(error)) from error
