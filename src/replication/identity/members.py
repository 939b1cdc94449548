"""The member set of one epoch, and the gate a key passes before it becomes a member's.

The order of members counts: the coordinator of view v is member v mod n. Beside its members a cluster knows
executors: they vote on nothing and order nothing, but what they did about a decision counts when they have
signed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from replication.consensus.rules import max_byzantine_faults
from replication.errors import OperatorError
from replication.identity.keys import PUBLIC_KEY_SIZE, SigningKey, admit_public_key, verify
from replication.identity.names import is_member_id
from replication.identity.signbytes import possession_bytes

__all__ = [
    "MAX_EXECUTORS",
    "MAX_MEMBERS",
    "MAX_WEIGHT",
    "Executor",
    "Member",
    "MemberSet",
    "MemberSetError",
    "admit_member_key",
    "prove_possession",
]

MAX_MEMBERS: Final = 100
"""Work per block grows with n, certificates with it; no cluster of monitors has come near."""

MAX_EXECUTORS: Final = 100
"""Enforcement points are few, and all of them stand in the genesis file."""

MAX_WEIGHT: Final = 1_000_000
"""Enough to state any share to six digits; totals stay within exact JSON numbers."""


class MemberSetError(OperatorError, ValueError):
    """A member, or a set of members, is not legal."""

    reason: ClassVar[str] = "MEMBER_SET_REFUSED"


@dataclass(frozen=True, slots=True)
class Member:
    """One voter: its identifier, raw Ed25519 public key, voting weight, and address as ``host:port``.

    Raises:
        MemberSetError: the identifier is not legal, the key does not have 32 bytes, or the weight is not a
            whole number from 1 to `MAX_WEIGHT`. The key itself is judged by `admit_member_key`, once.
    """

    id: str
    public_key: bytes
    weight: int
    address: str

    def __post_init__(self) -> None:
        if not is_member_id(self.id):
            raise MemberSetError(
                f"id of a member must be 1 to 64 characters of A-Z a-z 0-9 . _ -, not {self.id!r:.80}"
            )
        if type(self.public_key) is not bytes or len(self.public_key) != PUBLIC_KEY_SIZE:
            raise MemberSetError(f"public_key of member {self.id} must be {PUBLIC_KEY_SIZE} raw bytes")
        if type(self.weight) is not int or not 1 <= self.weight <= MAX_WEIGHT:
            raise MemberSetError(
                f"weight of member {self.id} must be a whole number from 1 to {MAX_WEIGHT}, "
                f"not {self.weight!r:.80}"
            )


@dataclass(frozen=True, slots=True)
class Executor:
    """Who acts on decisions and signs receipts: its identifier and raw Ed25519 public key.

    Raises:
        MemberSetError: the identifier is not legal, or the key does not have 32 bytes. The key itself is
            judged by `admit_member_key`, once.
    """

    id: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_member_id(self.id):
            raise MemberSetError(
                f"id of an executor must be 1 to 64 characters of A-Z a-z 0-9 . _ -, not {self.id!r:.80}"
            )
        if type(self.public_key) is not bytes or len(self.public_key) != PUBLIC_KEY_SIZE:
            raise MemberSetError(f"public_key of executor {self.id} must be {PUBLIC_KEY_SIZE} raw bytes")


@dataclass(frozen=True, slots=True)
class MemberSet:
    """The members of one epoch, in the order that the coordinators take turns, and its executors.

    Raises:
        MemberSetError: fewer than one or more than `MAX_MEMBERS` members, more than `MAX_EXECUTORS`
            executors, a negative epoch, or two of them that share an identifier or a key (one key with two
            votes would break every quorum).
    """

    epoch: int
    members: tuple[Member, ...]
    executors: tuple[Executor, ...] = ()
    ids: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Identifiers of the members, in their order."""
    n: int = field(init=False, repr=False, compare=False)
    """How many members there are."""
    max_faulty: int = field(init=False, repr=False, compare=False)
    """f: how many members may be faulty, (n - 1) // 3."""
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.epoch) is not int or not 0 <= self.epoch < 2**64:
            raise MemberSetError(f"epoch must be a whole number from 0 to 2**64 - 1, not {self.epoch!r:.80}")
        object.__setattr__(self, "members", tuple(self.members))
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            raise MemberSetError(f"a cluster has 1 to {MAX_MEMBERS} members, not {len(self.members)}")
        object.__setattr__(self, "executors", tuple(self.executors))
        if len(self.executors) > MAX_EXECUTORS:
            raise MemberSetError(
                f"a cluster has at most {MAX_EXECUTORS} executors, not {len(self.executors)}"
            )
        owners: dict[bytes, str] = {}
        index: dict[str, int] = {}
        everyone: tuple[Member | Executor, ...] = (*self.members, *self.executors)
        for position, one in enumerate(everyone):
            if one.id in index:
                raise MemberSetError(f"two members have the id {one.id}; give each its own")
            if one.public_key in owners:
                raise MemberSetError(
                    f"members {owners[one.public_key]} and {one.id} have the same public key; "
                    "make a key for each"
                )
            index[one.id] = position
            owners[one.public_key] = one.id
        for executor in self.executors:
            del index[executor.id]
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "ids", tuple(index))
        object.__setattr__(self, "n", len(self.members))
        object.__setattr__(self, "max_faulty", max_byzantine_faults(len(self.members)))

    def __contains__(self, member_id: object) -> bool:
        return member_id in self._index

    def index_of(self, member_id: str) -> int:
        """Position of a member; `KeyError` if there is none with this id."""
        return self._index[member_id]

    def get(self, member_id: str) -> Member | None:
        """The member with this id, or None."""
        position = self._index.get(member_id)
        return None if position is None else self.members[position]

    def reporter_key(self, reporter_id: str) -> bytes | None:
        """Raw public key of who may sign receipts under this id, an executor or a member; None for nobody."""
        member = self.get(reporter_id)
        if member is not None:
            return member.public_key
        return next((one.public_key for one in self.executors if one.id == reporter_id), None)

    def public_key(self, member_id: str) -> bytes:
        """Raw public key of a member; `KeyError` if there is none with this id."""
        return self.members[self._index[member_id]].public_key


def prove_possession(key: SigningKey, member_id: str, nonce: bytes) -> bytes:
    """Signature by which the owner of `key` asks to be `member_id` of the cluster with this genesis nonce."""
    return key.sign(possession_bytes(member=member_id, public_key=key.public_key, nonce=nonce))


def admit_member_key(member_id: str, public_key: bytes, nonce: bytes, possession: bytes) -> None:
    """The gate: judge a public key and its proof of possession before it becomes a member's.

    Without the proof, someone could register another's key under a name of their own and claim its
    signatures.

    Raises:
        KeyRefusedError: the key is malformed or weak.
        MemberSetError: the proof does not verify for this member, key and nonce.
    """
    admit_public_key(public_key)
    if not verify(
        public_key, possession, possession_bytes(member=member_id, public_key=public_key, nonce=nonce)
    ):
        raise MemberSetError(
            f"the proof of possession of member {member_id} does not verify: the holder of the private key "
            "must sign for this id, this public key and this nonce"
        )
