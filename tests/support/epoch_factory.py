"""Records with more than votes in them: changes of members, rejoins, new coordinators, evidence.

As `record_factory`: it does what it is told, lies included, and seals everything rightly in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from typing import Any

from tests.support.record_factory import DraftBlock, DraftEntry, Json, RecordFactory, dumps

from replication.identity import signbytes
from replication.identity.keys import SigningKey
from replication.identity.members import prove_possession

__all__ = ["EpochFactory"]


class EpochFactory(RecordFactory):
    """A cluster whose members change. `membership` and `rejoin` take effect when the next block is begun."""

    def __init__(self, n: int = 4, **options: Any) -> None:
        super().__init__(n, **options)
        self._changes: list[Json] = []
        self._known: dict[str, SigningKey] = {}
        self._view = 0

    def block(self, after_ms: int = 1000, *, commands: Iterable[bytes] = ()) -> DraftBlock:
        """Begin the next block, in the view on record, and in the next epoch if the last block ended one."""
        draft = super().block(after_ms, commands=commands)
        draft.view = self._view
        return draft

    def twin(self) -> EpochFactory:
        """An independent copy of the draft; keys and genesis, which never change, are shared."""
        keys = (key for block in self.blocks for key in block.keys.values())
        shared = (*self.keys.values(), *self._known.values(), *keys, self.genesis)
        return deepcopy(self, {id(item): item for item in shared})

    def known_key(self, member: Json) -> SigningKey:
        """The key of a member that was described by `new_member`."""
        return self._known[member["public_key"]]

    # ----------------------------------------------------------------------------------- members

    def new_member(self, member: str, *, weight: int = 1, address: str = "", key: str = "") -> Json:
        """The description of a member to be; its key is kept, under its id, when it becomes one."""
        signing = self._new_key(key or member)
        return {
            "id": member,
            "public_key": signing.public_key.hex(),
            "weight": weight,
            "address": address or f"host-{key or member}:7000",
            "possession": prove_possession(signing, member, self.genesis.nonce).hex(),
        }

    def _new_key(self, name: str) -> SigningKey:
        key = SigningKey.from_seed(sha256(f"epoch factory {name}".encode()).digest())
        self._known[key.public_key.hex()] = key
        return key

    def approve(self, change: Json, voters: Sequence[str] | None = None) -> str:
        """A proposal for a change, approved by all (or these) members in the current block; its id."""
        proposal = self.propose(self.ids[0], "membership", "", evidence=change)
        for voter in self.ids if voters is None else voters:
            self.vote(proposal, voter)
        self.tally(proposal, "approved")
        return proposal

    def membership(
        self, proposal_id: str, change: Json, member: str = "", *, signer: str = "", epoch: int | None = None
    ) -> DraftEntry:
        """The change itself, submitted by a member (the first, unless told)."""
        member, epoch = member or self.ids[0], self.epoch if epoch is None else epoch
        digest = self.digest(proposal_id)
        message = signbytes.membership_bytes(
            self.cluster_id, epoch, member=member, change=dumps(change), digest=digest
        )
        data = {
            "epoch": epoch,
            "change": deepcopy(change),
            "digest": digest.hex(),
            "signature": self.key(signer or member).sign(message).hex(),
        }
        self._changes.append(change)
        return self.add("membership", proposal_id, member, data)

    def rejoin(self, member: str, nonce: bytes, *, signer: str = "") -> DraftEntry:
        """A member comes back under a fresh incarnation."""
        message = signbytes.rejoin_bytes(self.cluster_id, self.epoch, member=member, nonce=nonce)
        change = {"change": "rejoin", "id": member, "nonce": nonce.hex()}
        signature = self.key(signer or member).sign(message).hex()
        self._changes.append(change)
        return self.add(
            "membership", "", member, {"epoch": self.epoch, "change": change, "signature": signature}
        )

    def change(self, change: Json) -> str:
        """Have a change approved in one block, and carry it out in the next; the proposal's id."""
        self.block()
        proposal = self.approve(change)
        self.block()
        self.membership(proposal, change)
        return proposal

    def _begin_epoch(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            self._apply(change)

    def _apply(self, change: Mapping[str, Any]) -> None:
        """Carry out a change; nothing is judged here."""
        self.epoch += 1
        self._view = 0
        kind, subject = change["change"], change.get("id", "")
        gone = ""
        if kind == "add":
            self.ids.append(change["member"]["id"])
        elif kind == "remove":
            self.ids.remove(subject)
            gone = subject
        elif kind == "replace":
            self.ids[self.ids.index(subject)] = change["member"]["id"]
            same = change["member"]["id"] == subject
            old_key = self.keys[subject].public_key.hex()
            gone = "" if same and change["member"]["public_key"] == old_key else subject
        elif kind == "reweight":
            self.weights[subject] = change["weight"]
        if "member" in change:
            member = change["member"]
            self.weights[member["id"]] = member["weight"]
            self.keys[member["id"]] = self._known[member["public_key"]]
        self.weights = {member: self.weights[member] for member in self.ids}
        self.n = len(self.ids)
        self.faulty.pop(gone, None)
        for votes in self.votes.values():
            votes.pop(gone, None)

    # ---------------------------------------------------------------------- coordinators, evidence

    def coordinator(self, view: int, member: str = "", *, signer: str = "", **lies: Any) -> DraftEntry:
        """The coordinator of a view takes over; the block is then certified in this view."""
        member = member or self.ids[view % self.n]
        tc_digest = sha256(f"timeouts of view {view - 1}".encode()).digest()
        message = signbytes.newview_bytes(
            self.cluster_id, self.epoch, view=view, tc_digest=tc_digest, signer=member
        )
        data = {
            "epoch": self.epoch,
            "view": view,
            "tc_digest": tc_digest.hex(),
            "signature": self.key(signer or member).sign(message).hex(),
            **lies,
        }
        self.blocks[-1].view = self._view = view
        return self.add("coordinator", "", member, data)

    def statement(self, signer: str, phase: str = "prepare", *, key: str = "", **fields: Any) -> Json:
        """A signed statement as evidence holds it; `fields` are view, height, block and epoch."""
        view, height = fields.get("view", 1), fields.get("height", 7)
        block_hash = sha256(fields.get("block", "a block").encode()).digest()
        message = signbytes.statement_bytes(
            phase,
            self.cluster_id,
            fields.get("epoch", self.epoch),
            view=view,
            height=height,
            block_hash=block_hash,
            signer=signer,
        )
        return {
            "phase": phase,
            "view": view,
            "height": height,
            "block_hash": block_hash.hex(),
            "signature": self.key(key or signer).sign(message).hex(),
        }

    def timeout(
        self,
        signer: str,
        view: int = 1,
        committed: int = 6,
        lock: tuple[int, str] | None = None,
        *,
        key: str = "",
    ) -> Json:
        """A signed timeout as evidence holds it; `lock` is a view and the name of a block."""
        lock_hash = bytes(32) if lock is None else sha256(lock[1].encode()).digest()
        message = signbytes.timeout_bytes(
            self.cluster_id,
            self.epoch,
            view=view,
            committed_height=committed,
            has_lock=lock is not None,
            lock_view=0 if lock is None else lock[0],
            lock_hash=lock_hash,
            signer=signer,
        )
        return {
            "phase": "timeout",
            "view": view,
            "committed_height": committed,
            "lock": None if lock is None else {"view": lock[0], "block_hash": lock_hash.hex()},
            "signature": self.key(key or signer).sign(message).hex(),
        }

    def evidence(self, accused: str, first: Json, second: Json) -> DraftEntry:
        """Two statements that contradict each other."""
        data = {
            "epoch": self.epoch,
            "accused": accused,
            "kind": "statements",
            "first": first,
            "second": second,
        }
        entry = self.add("evidence", "", "cluster", data)
        self.faulty[accused] = entry
        return entry

    def double_vote(self, proposal_id: str, voter: str, value: str = "reject", **options: Any) -> DraftEntry:
        """A second vote of a voter, which ends up as evidence together with the first one on record."""
        block = self.blocks[-1]
        cast = self.votes[proposal_id][voter]
        first = next(
            entry
            for item in reversed(self.blocks)
            for entry in item.entries
            if (entry.event_type, entry.proposal_id, entry.actor_id) == ("vote", proposal_id, voter)
        )
        second = self.vote(proposal_id, voter, value, reason="on second thoughts", **options)
        block.entries.remove(second)
        self.votes[proposal_id][voter] = cast
        data = {
            "epoch": self.epoch,
            "accused": voter,
            "kind": "votes",
            "first": deepcopy(first.data),
            "second": second.data,
        }
        entry = self.add("evidence", proposal_id, "cluster", data)
        self.faulty[voter] = entry
        return entry
