"""The real voting application in simulations: proposals, ballots, closings and receipts of the members."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from replication.consensus import VoteValue
from replication.errors import CallerError
from replication.faults.simulation.kit import Blocks, People, RestoredState, forge_evidence, replay
from replication.identity.genesis import Genesis, Rules
from replication.ledger.application import VotingApplication
from replication.ledger.commands import (
    BallotCommand,
    CloseCommand,
    ProposalCommand,
    ReceiptCommand,
    VoteItem,
    decode_command,
    encode_command,
    make_ballot,
    make_close,
    make_proposal,
    make_receipt,
)
from replication.ledger.history import MemoryHistory
from replication.ordering.effects import ApplyBlock
from replication.ordering.signing import Signer

__all__ = ["VotingKit"]

ACTIONS = ("quarantine", "terminate", "escalate", "release", "restrict")
VALUES = (VoteValue.APPROVE, VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN)


class _Voting(VotingApplication):
    """The application with the history that the driver keeps for it."""

    def __init__(self, genesis: Genesis) -> None:
        self.history = MemoryHistory(genesis)
        super().__init__(genesis, self.history)

    @property
    def head(self) -> bytes:
        """Audit head of the committed state."""
        return self._state.totals.audit_head


class VotingKit:
    """`replication.ledger.application` and its commands. Members change by rejoining only."""

    def __init__(self, people: People, window_ms: int) -> None:
        self.people = people
        self.cluster_id = people.cluster_id
        self.window_ms = window_ms
        self._genesis = Genesis(
            name="simulated",
            created_ms=1,
            nonce=bytes(32),
            members=people.genesis,
            rules=Rules(default_window_ms=window_ms, max_active_proposals=50),
            ca_certificate=b"",
            cluster_id=people.cluster_id,
            raw=b"",
        )
        self._count = 0

    def restore(self, blocks: Blocks) -> RestoredState:
        """Replay, with the history growing along."""
        return replay(_Voting(self._genesis), self, blocks)

    def written(self, application: _Voting, applied: ApplyBlock[Any]) -> None:
        """The store has the block: the application may look it up."""
        execution = applied.execution
        application.history.apply(execution.height, execution.time_ms, execution.entries)

    def workload(self, application: _Voting, member: str, rng: random.Random, now_ms: int) -> bytes:
        """A proposal mostly; sometimes a wish to close one's own, or a receipt for what was approved."""
        self._count += 1
        sign, epoch = self.people.keys[member].sign, application.members.epoch
        open_ones = list(application.open_proposals())
        own = [item.digest for item in open_ones if item.proposer == member]
        if own and rng.random() < 0.15:
            return make_close(sign, self.cluster_id, epoch, closer=member, proposal_digest=rng.choice(own))
        approved = application.history.finished_by_id(f"prop-{rng.randint(1, 9):04d}")
        if approved is not None and rng.random() < 0.3:
            return make_receipt(
                sign,
                self.cluster_id,
                epoch,
                executor=member,
                proposal_digest=approved.digest,
                outcome=rng.choice(("succeeded", "failed", "partial")),
                detail=f"attempt {self._count}",
                executed_ms=now_ms,
            )
        return make_proposal(
            sign,
            self.cluster_id,
            epoch,
            proposer=member,
            request_id=f"r{self._count}",
            action=rng.choice(ACTIONS),
            target=f"agent-{rng.randint(1, 5)}",
            evidence=b"{}",
            window_ms=self.window_ms,
            expiry_ms=rng.choice((0, 0, 2 * self.window_ms)),
            created_ms=now_ms,
        )

    def reaction(self, application: _Voting, member: str, command: bytes, now_ms: int) -> bytes | None:
        """A ballot on a proposal that was shown."""
        read = decode_command(command)
        if not isinstance(read, ProposalCommand):
            return None
        digest = read.digest(self.cluster_id)
        value = VALUES[(digest[0] + self.people.names.index(member)) % len(VALUES)]
        item = VoteItem(digest, value, voted_ms=now_ms)
        sign = self.people.keys[member].sign
        return make_ballot(sign, self.cluster_id, application.members.epoch, voter=member, votes=(item,))

    def has_voted(self, application: _Voting, member: str, opened: bytes, own: Sequence[bytes]) -> bool:
        """A second vote would be evidence against the voter, even if it says the same at another time."""
        read = decode_command(opened)
        if not isinstance(read, ProposalCommand):
            return False
        digest = read.digest(self.cluster_id)
        proposal = application.open_proposal(digest)
        if proposal is not None and any(vote.voter == member for vote in proposal.votes):
            return True
        ballots = (decode_command(command) for command in own)
        return any(
            item.proposal_digest == digest
            for ballot in ballots
            if isinstance(ballot, BallotCommand)
            for item in ballot.votes
        )

    def change_members(self, application: _Voting, member: str, names: Sequence[str]) -> bytes | None:
        """Needs an approved proposal, which is another test's matter."""
        return None

    def is_over(self, application: _Voting, command: bytes) -> bool:
        """What the application says about it for good."""
        try:
            return application.verdict(command) is not None
        except CallerError:
            return True

    def renewed(self, application: _Voting, member: str, key: Signer, command: bytes) -> bytes | None:
        """Signed again for the new epoch. A ballot goes along with the proposals that are still open."""
        read = decode_command(command)
        if member not in application.members:
            return None
        if isinstance(read, BallotCommand):
            votes = tuple(
                item for item in read.votes if application.open_proposal(item.proposal_digest) is not None
            )
            if not votes:
                return None
            return make_ballot(
                key.sign, self.cluster_id, application.members.epoch, voter=member, votes=votes
            )
        if not isinstance(read, ProposalCommand | CloseCommand | ReceiptCommand):
            return None
        again = replace(read, epoch=application.members.epoch)
        return encode_command(replace(again, signature=key.sign(again.sign_bytes(self.cluster_id))))

    def accused(self, application: _Voting) -> tuple[str, ...]:
        """As recorded."""
        return tuple(sorted(application.faulty))

    def false_evidence(
        self, application: _Voting, member: str, victim: str, rng: random.Random
    ) -> list[bytes]:
        """Two statements that contradict each other and are not the victim's."""
        return forge_evidence(application, self.people.keys[member], self.cluster_id, victim, rng)
