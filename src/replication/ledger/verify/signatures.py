"""Who signed what: every signature in a file goes through one `SignatureChecker`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from replication.identity import keys
from replication.identity.members import MemberSet

from .errors import VerificationError

__all__ = ["CurrentEpoch", "MembersAt", "SignatureChecker"]

MembersAt = Callable[[int], MemberSet]
"""From an epoch to its members; raises `VerificationError` for one that is not there, or does not count."""

# Votes of one ballot share one signature. Ballots that are still coming in are few; this bounds memory only.
_BALLOTS_REMEMBERED = 4096


class CurrentEpoch:
    """The members of the epoch that a record has reached. What is signed must be signed for this one."""

    def __init__(self, members: MemberSet) -> None:
        self.members = members

    def __call__(self, epoch: int) -> MemberSet:
        """The members, if this is the current epoch."""
        current = self.members.epoch
        if epoch > current:
            raise VerificationError(f"epoch {epoch} has not begun: nothing has ended epoch {current}")
        if epoch < current:
            raise VerificationError(f"epoch {epoch} is over: this is epoch {current}")
        return self.members


class SignatureChecker:
    """Checks members' signatures, and counts in `checked` how many it verified."""

    def __init__(self, cluster_id: bytes, members_at: MembersAt) -> None:
        self.cluster_id = cluster_id
        self.members_at = members_at
        self.checked = 0
        self._ballots: OrderedDict[bytes, None] = OrderedDict()

    def check(self, signer: str, epoch: int, signature: bytes, message: bytes, field: str) -> None:
        """Raise unless `signature` is the signature over `message` of `signer`, a member in `epoch`."""
        members = self.members_at(epoch)
        if signer not in members:
            raise VerificationError(f"{field}: {signer[:80]!r} is not a member in epoch {epoch}")
        self.checked += 1
        if not keys.verify(members.public_key(signer), signature, message):
            raise VerificationError(f"{field} is not a signature of {signer} over this content")

    def check_receipt(self, signer: str, epoch: int, signature: bytes, message: bytes, field: str) -> None:
        """As `check`, for what an executor of that epoch may sign as well as a member."""
        executors = {executor.id: executor.public_key for executor in self.members_at(epoch).executors}
        if signer not in executors:
            self.check(signer, epoch, signature, message, field)
            return
        self.checked += 1
        if not keys.verify(executors[signer], signature, message):
            raise VerificationError(f"{field} is not a signature of {signer} over this content")

    def check_ballot(self, voter: str, epoch: int, signature: bytes, message: bytes, field: str) -> None:
        """As `check`, but a ballot seen lately with the same bytes throughout is not verified again.

        `message` are ballot sign-bytes: they name the voter and the epoch.
        """
        key = sha256(signature + message).digest()
        if key in self._ballots:
            self._ballots.move_to_end(key)
            return
        self.check(voter, epoch, signature, message, field)
        self._ballots[key] = None
        if len(self._ballots) > _BALLOTS_REMEMBERED:
            self._ballots.popitem(last=False)
