"""From the genesis file to the members of a later epoch, as a certificate carries it: one link for each epoch
that ended, in order. A link is an object::

    {"commit": C, "entry": E, "header": H, "inclusion": {"index", "path", "size"}}

E is the membership entry, H the header of its block, C a commit certificate of that block by the members of
the epoch that it ended. So the members of each epoch vouch for those of the next. What the link cannot show
is whether a proposal approved the change: a commit quorum says so, and a whole record shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet

from .commits import check_commit
from .epochs import SignedMembership, same_key
from .errors import VerificationError
from .inclusion import check_inclusion
from .reading import Fields, keys, seconds
from .records import Header, parse_entry, parse_header
from .signatures import SignatureChecker

__all__ = ["Succession"]

_LINK_KEYS = keys("commit entry header inclusion")


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The members of an epoch, and the header of the block before its first."""

    members: MemberSet
    before: Header | None


class Succession:
    """The members of all epochs up to the one of a certificate."""

    def __init__(self, genesis: Genesis) -> None:
        self.signatures = SignatureChecker(genesis.cluster_id, self.members_at)
        self._genesis = genesis
        self._epochs = [_Epoch(genesis.members, None)]

    def members_at(self, epoch: int) -> MemberSet:
        """Members of an epoch."""
        if not 0 <= epoch < len(self._epochs):
            raise VerificationError(
                f"epoch {epoch} has not begun: nothing has ended epoch {len(self._epochs) - 1}"
            )
        return self._epochs[epoch].members

    def follow(self, links: list[object]) -> None:
        """Check the links, and learn the members of each epoch."""
        for index, value in enumerate(links):
            try:
                self._follow(Fields(value, _LINK_KEYS))
            except VerificationError as error:
                raise error.at(f"epochs[{index}]") from None

    def _follow(self, link: Fields) -> None:
        current, cluster_id = self._epochs[-1], self._genesis.cluster_id
        header = parse_header(link.raw("header"), cluster_id)
        if header.epoch != current.members.epoch:
            raise VerificationError(f"header.epoch is {header.epoch}, not {current.members.epoch}")
        before = current.before
        if before is not None and (header.height <= before.height or header.time_ms <= before.time_ms):
            raise VerificationError("header is not later than that of the link before")
        check_commit(link.raw("commit"), header, self.signatures)
        entry = parse_entry(link.raw("entry"), "entry")
        if entry.event_type != "membership":
            raise VerificationError(f"entry.event_type is {entry.event_type[:80]!r}, not membership")
        if entry.timestamp != seconds(header.time_ms):
            raise VerificationError("entry.timestamp is not the time of its block")
        check_inclusion(link, entry, "entry", header)
        event = SignedMembership.read(entry, current.members, self._genesis.nonce, self.signatures)
        self._epochs.append(_Epoch(event.members, header))

    def is_first_block(self, header: Header) -> bool:
        """Whether a block is the first of an epoch other than epoch 0; refuses one before its epoch began."""
        before = self._epochs[header.epoch].before
        if before is None:
            return False
        if header.height <= before.height or header.time_ms <= before.time_ms:
            raise VerificationError(
                f"header.height is {header.height}, but epoch {header.epoch} begins above {before.height}"
            )
        if header.height == before.height + 1 and header.parent != before.hash:
            raise VerificationError("header.parent is not the hash of the block that began the epoch")
        return header.height == before.height + 1

    def check_epoch_of(self, epoch: int, sequence: int) -> None:
        """Check that an entry with this sequence, signed for this epoch, stands in this epoch."""
        self.members_at(epoch)
        begin = self._epochs[epoch].before
        end = self._epochs[epoch + 1].before if epoch + 1 < len(self._epochs) else None
        too_early = begin is not None and sequence < begin.audit_size
        if too_early or (end is not None and sequence >= end.audit_size):
            raise VerificationError(f"data.epoch is {epoch}, but sequence {sequence} is not of that epoch")

    def check_still_counts(self, member: str, epoch: int) -> None:
        """Check that a member has stayed, with its key, from `epoch` to the last."""
        key = self.members_at(epoch).public_key(member)
        for later in self._epochs[epoch + 1 :]:
            if not same_key(later.members, member, key):
                raise VerificationError(
                    f"{member} or its key has left in epoch {later.members.epoch}, so this counts no more"
                )
