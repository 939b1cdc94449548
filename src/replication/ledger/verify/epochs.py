"""Epochs: what a membership event says, and which members it leaves. Read and applied a second time, apart
from the nodes' own code.

A membership event is the last of its epoch that a command caused. The next block begins the next epoch. Its
data says what changed::

    {"change": CHANGE, "digest": D, "epoch": E, "signature": S}   an approved change: by the actor, on the
                                                                  proposal with digest D
    {"change": REJOIN, "epoch": E, "signature": S}                a member under a fresh incarnation

with CHANGE one of ``{"change":"add","member":M}``, ``{"change":"remove","id":I}``,
``{"change":"replace","id":I,"member":M}``, ``{"change":"reweight","id":I,"weight":W}``, REJOIN
``{"change":"rejoin","id":I,"nonce":N}``, and M ``{"address","id","possession","public_key","weight"}``.
Executors come and go by ``{"change":"add-executor","executor":{"id","possession","public_key"}}`` and
``{"change":"remove-executor","id":I}``.
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.consensus.canonical import canonical_json
from replication.identity.genesis import is_address
from replication.identity.keys import KeyRefusedError
from replication.identity.members import (
    MAX_WEIGHT,
    Executor,
    Member,
    MemberSet,
    MemberSetError,
    admit_member_key,
)
from replication.identity.signbytes import membership_bytes, rejoin_bytes

from .errors import VerificationError
from .reading import Fields, keys
from .records import Entry
from .signatures import SignatureChecker

__all__ = ["SignedMembership", "same_key"]

_APPROVED_KEYS = keys("epoch change digest signature")
_REJOIN_KEYS = keys("epoch change signature")
_CHANGE_KEYS = {
    "add": keys("change member"),
    "remove": keys("change id"),
    "replace": keys("change id member"),
    "reweight": keys("change id weight"),
    "rejoin": keys("change id nonce"),
    "add-executor": keys("change executor"),
    "remove-executor": keys("change id"),
}
_EXECUTOR_KEYS = keys("id public_key possession")
_MEMBER_KEYS = keys("id public_key weight address possession")


def same_key(members: MemberSet, member_id: str, public_key: bytes) -> bool:
    """Whether this member is in the set with this very key: votes and blame end with either."""
    return member_id in members and members.public_key(member_id) == public_key


@dataclass(frozen=True, slots=True)
class SignedMembership:
    """A membership event whose signature is right, and the members it makes of those before.

    `digest` is that of the proposal that it rests on, None for a rejoin; `change` its canonical JSON; `nonce`
    the fresh incarnation of a rejoin.
    """

    subject: str
    members: MemberSet
    change: bytes
    digest: bytes | None
    nonce: bytes

    @classmethod
    def read(
        cls, entry: Entry, before: MemberSet, genesis_nonce: bytes, signatures: SignatureChecker
    ) -> SignedMembership:
        """Read a membership entry of the epoch of `before`, and check its signature and its effect."""
        is_rejoin = isinstance(entry.data, dict) and "digest" not in entry.data
        fields = Fields(entry.data, _REJOIN_KEYS if is_rejoin else _APPROVED_KEYS, "data")
        fields.fixed("epoch", before.epoch, "the block's epoch is")
        change = _change(fields)
        raw = canonical_json(fields.raw("change"))
        digest = None if is_rejoin else fields.digest("digest")
        nonce = b""
        if is_rejoin:
            change.fixed("change", "rejoin", "without a proposal there is only")
            change.fixed("id", entry.actor_id, "a member rejoins by itself, and the actor is")
            nonce = change.digest("nonce")
        elif change.text("change") == "rejoin":
            raise VerificationError("data.change: a member rejoins without a proposal")
        try:
            message = (
                rejoin_bytes(signatures.cluster_id, before.epoch, member=entry.actor_id, nonce=nonce)
                if digest is None
                else membership_bytes(
                    signatures.cluster_id, before.epoch, member=entry.actor_id, change=raw, digest=digest
                )
            )
        except ValueError as error:
            raise VerificationError(f"data: {error}") from None
        signature = fields.signature("signature")
        signatures.check(entry.actor_id, before.epoch, signature, message, "data.signature")
        subject, members = _apply(change, before, genesis_nonce)
        return cls(subject, members, raw, digest, nonce)


def _change(fields: Fields) -> Fields:
    """The change, with the keys that its kind has."""
    kind = fields.mapping("change").get("change")
    if not isinstance(kind, str) or kind not in _CHANGE_KEYS:
        raise VerificationError(f"data.change.change must be one of {', '.join(_CHANGE_KEYS)}")
    return fields.inner("change", _CHANGE_KEYS[kind])


def _apply(change: Fields, before: MemberSet, genesis_nonce: bytes) -> tuple[str, MemberSet]:
    """The member that a change is about, and the members of the epoch that it begins."""
    kind = change.text("change")
    if kind == "add-executor":
        return _add_executor(change.inner("executor", _EXECUTOR_KEYS), before, genesis_nonce)
    if kind == "remove-executor":
        return _remove_executor(change.text("id"), before)
    after = list(before.members)
    if kind == "add":
        added = _member(change.inner("member", _MEMBER_KEYS), after, genesis_nonce)
        if added.id in before:
            raise VerificationError(f"data.change.member.id {added.id} is a member already")
        return added.id, _member_set(before, [*after, added])
    subject = change.text("id")
    if subject not in before:
        raise VerificationError(f"data.change.id {subject[:80]!r} is not a member in epoch {before.epoch}")
    position = before.index_of(subject)
    old = after.pop(position)
    if kind == "replace":
        after.insert(position, _member(change.inner("member", _MEMBER_KEYS), after, genesis_nonce))
    elif kind == "reweight":
        weight = change.integer("weight", MAX_WEIGHT, 1)
        after.insert(position, Member(old.id, old.public_key, weight, old.address))
    elif kind == "rejoin":
        after.insert(position, old)
    if kind != "rejoin" and tuple(after) == before.members:
        raise VerificationError("data.change changes nothing")
    return subject, _member_set(before, after)


def _member(fields: Fields, others: list[Member], genesis_nonce: bytes) -> Member:
    """A member to be, whose key is sound and proven to be its own."""
    address = fields.text("address")
    if not is_address(address):
        raise VerificationError(f"{fields.name('address')} must be host:port")
    if any(other.address.lower() == address.lower() for other in others):
        raise VerificationError(f"{fields.name('address')} {address} is that of another member")
    key, weight = fields.digest("public_key"), fields.integer("weight", MAX_WEIGHT, 1)
    try:
        member = Member(fields.text("id"), key, weight, address)
        admit_member_key(member.id, key, genesis_nonce, fields.signature("possession"))
    except (MemberSetError, KeyRefusedError) as error:
        raise VerificationError(f"data.change.member: {error}") from None
    return member


def _add_executor(fields: Fields, before: MemberSet, genesis_nonce: bytes) -> tuple[str, MemberSet]:
    key = fields.digest("public_key")
    try:
        executor = Executor(fields.text("id"), key)
        admit_member_key(executor.id, key, genesis_nonce, fields.signature("possession"))
    except (MemberSetError, KeyRefusedError) as error:
        raise VerificationError(f"data.change.executor: {error}") from None
    return executor.id, _member_set(before, list(before.members), (*before.executors, executor))


def _remove_executor(subject: str, before: MemberSet) -> tuple[str, MemberSet]:
    left = tuple(executor for executor in before.executors if executor.id != subject)
    if len(left) == len(before.executors):
        raise VerificationError(f"data.change.id {subject[:80]!r} is not an executor in epoch {before.epoch}")
    return subject, _member_set(before, list(before.members), left)


def _member_set(
    before: MemberSet, members: list[Member], executors: tuple[Executor, ...] | None = None
) -> MemberSet:
    try:
        return MemberSet(
            before.epoch + 1, tuple(members), before.executors if executors is None else executors
        )
    except MemberSetError as error:
        raise VerificationError(f"data.change: {error}") from None
