"""What the writes of VotingService do: commands that this member signs, and what makes repeating them safe.

Within a run of the process `Retries` remembers what each request id stood for. What is older is recognised
by the record: a proposal by its request id, a vote by its content when it was cast before this run began. The
same vote under a new request id is no repetition: voting twice is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING

from replication.consensus import VoteValue
from replication.identity.genesis import Genesis
from replication.identity.keys import SigningKey
from replication.ledger.application import Outcome, VotingApplication
from replication.ledger.commands import (
    ReceiptCommand,
    encode_command,
    make_close,
    make_membership,
    make_proposal,
    make_receipt,
)
from replication.ledger.history import FinishedProposal, OpenProposal
from replication.node.driver import Driver
from replication.node.failures import RefusedError
from replication.node.services.retries import Retries, reused

if TYPE_CHECKING:
    from replication.ledger.store import Store

__all__ = ["Content", "Writing", "unknown_proposal"]


@dataclass(frozen=True, slots=True)
class Content:
    """What a proposal asks for. `evidence` is canonical JSON."""

    action: str
    target: str
    evidence: bytes
    window_ms: int
    expiry_ms: int

    def is_of(self, proposal: OpenProposal | FinishedProposal) -> bool:
        """Whether the proposal asks for the same."""
        return self == Content(
            proposal.action,
            proposal.target,
            proposal.evidence_json.encode(),
            proposal.window_ms,
            proposal.expiry_ms,
        )


class Writing:
    """The writes of one member. Every method returns when the record holds what was asked for, durably here.

    All raise RefusedError for what the state of the cluster does not allow, and what `Driver.submit` raises.
    """

    def __init__(
        self, member: str, genesis: Genesis, key: SigningKey, driver: Driver, application: VotingApplication
    ) -> None:
        self._member = member
        self._genesis = genesis
        self._key = key
        self._driver = driver
        self._application = application
        self._began_ms = now_ms()
        self._proposals = Retries[str]()
        self._votes = Retries[None]()
        self._closes = Retries[None]()
        self._receipts = Retries[None]()
        self._changes = Retries[None]()

    async def propose(self, request_id: str, content: Content) -> str:
        """The id of the proposal that this request stands for."""

        async def work() -> str:
            known = await self._driver.read(lambda store: self._requested(store, request_id, content))
            return known or await self._propose(request_id, content)

        return await self._proposals.once(request_id, (content,), work)

    async def cast(self, request_id: str, proposal_id: str, value: VoteValue, reason: str) -> None:
        """Cast this member's vote."""

        async def work() -> None:
            if await self._driver.read(lambda store: self._has_voted(store, proposal_id, value, reason)):
                return
            require_accepted(await self._driver.cast(proposal_id, value, reason))

        await self._votes.once(request_id, (proposal_id, value.value, reason), work)

    async def close(self, request_id: str, proposal_id: str) -> None:
        """End the vote on a proposal of this member."""

        async def work() -> None:
            proposal = await self._find(proposal_id)
            if proposal.proposer != self._member:
                raise RefusedError(
                    "NOT_PROPOSER",
                    f"{proposal_id} was proposed by {proposal.proposer}, and only that node may close it. "
                    f"Ask {proposal.proposer}.",
                    metadata={"proposer": proposal.proposer},
                )

            def sign(epoch: int) -> bytes:
                return make_close(
                    self._key.sign,
                    self._genesis.cluster_id,
                    epoch,
                    closer=self._member,
                    proposal_digest=proposal.digest,
                )

            await self._submit(sign)

        await self._closes.once(request_id, (proposal_id,), work)

    async def execute(self, request_id: str, proposal_id: str, outcome: str, detail: str) -> None:
        """Record how the execution of an approved proposal ended."""

        async def work() -> None:
            proposal = await self._find(proposal_id)
            if not isinstance(proposal, FinishedProposal):
                raise RefusedError(
                    "NOT_APPROVED", f"{proposal_id} is not decided yet, so it authorises no execution"
                )
            executed_ms = now_ms()

            def sign(epoch: int) -> bytes:
                return make_receipt(
                    self._key.sign,
                    self._genesis.cluster_id,
                    epoch,
                    executor=self._member,
                    proposal_digest=proposal.digest,
                    outcome=outcome,
                    detail=detail,
                    executed_ms=executed_ms,
                )

            await self._submit(sign)

        await self._receipts.once(request_id, (proposal_id, outcome, detail), work)

    async def report(self, receipt: ReceiptCommand) -> str:
        """Have an executor's receipt ordered; the id of its proposal. Repeating it gives the first result."""
        outcome = require_accepted(await self._driver.submit(encode_command(receipt)))
        return outcome.proposal_id

    async def change_members(self, request_id: str, proposal_id: str) -> None:
        """Carry out the change of members that an approved proposal holds."""

        async def work() -> None:
            proposal = await self._find(proposal_id)

            def sign(epoch: int) -> bytes:
                return make_membership(
                    self._key.sign,
                    self._genesis.cluster_id,
                    epoch,
                    member=self._member,
                    change=proposal.evidence_json.encode(),
                    proposal_digest=proposal.digest,
                )

            await self._submit(sign)

        await self._changes.once(request_id, (proposal_id,), work)

    async def _propose(self, request_id: str, content: Content) -> str:
        created_ms = now_ms()

        def sign(epoch: int) -> bytes:
            return make_proposal(
                self._key.sign,
                self._genesis.cluster_id,
                epoch,
                proposer=self._member,
                request_id=request_id,
                action=content.action,
                target=content.target,
                evidence=content.evidence,
                window_ms=content.window_ms,
                expiry_ms=content.expiry_ms,
                created_ms=created_ms,
            )

        outcome = await self._driver.submit(sign(self._application.members.epoch), sign)
        if not outcome.accepted and outcome.reason == "REQUEST_ID_REUSED":
            # The first one may have come from before a restart, when it was under way and not on record yet.
            known = await self._driver.read(lambda store: self._requested(store, request_id, content))
            if known is not None:
                return known
        return require_accepted(outcome).proposal_id

    async def _submit(self, sign: Callable[[int], bytes]) -> Outcome:
        return require_accepted(await self._driver.submit(sign(self._application.members.epoch), sign))

    def _requested(self, store: Store, request_id: str, content: Content) -> str | None:
        """The proposal on record that a request with this id and content made.

        A client whose node went away repeats its request at another one. Ids of different proposers do not
        clash in the record (or one member could take those of another), so what another member proposed
        under this id counts only if it asks for the same.
        """
        members = self._application.members.ids
        for proposer in (self._member, *(member for member in members if member != self._member)):
            digest = store.request(proposer, request_id)
            if digest is None:
                continue
            proposal = self._application.open_proposal(digest) or store.finished(digest)
            if proposal is not None and content.is_of(proposal):
                return proposal.id
            if proposer == self._member:
                raise reused(request_id)
        return None

    def _has_voted(self, store: Store, proposal_id: str, value: VoteValue, reason: str) -> bool:
        """Whether this very vote is on record from before this run. Raises for another one that is final."""
        proposal = self._application.open_proposal(proposal_id) or store.finished_by_id(proposal_id)
        if proposal is None:
            raise unknown_proposal(proposal_id)
        vote = store.vote(proposal.digest, self._member)
        if vote is None:
            return False
        same = (vote.value, vote.data["reason"]) == (value, reason)
        if same and vote.data["voted_ms"] < self._began_ms:
            return True
        if same or not self._genesis.rules.allow_vote_change:
            raise RefusedError(
                "ALREADY_VOTED",
                f"{self._member} has voted {vote.value.value} on {proposal_id} already, "
                + ("and that would change nothing" if same else "and a vote is final in this cluster"),
                metadata={"value": vote.value.value, "entry_sequence": str(vote.sequence)},
            )
        return False

    async def _find(self, proposal_id: str) -> OpenProposal | FinishedProposal:
        proposal = await self._driver.read(
            lambda store: self._application.open_proposal(proposal_id) or store.finished_by_id(proposal_id)
        )
        if proposal is None:
            raise unknown_proposal(proposal_id)
        return proposal


def require_accepted(outcome: Outcome) -> Outcome:
    """The outcome if the cluster took the command, else its refusal as an error."""
    if not outcome.accepted:
        metadata = {"proposal_id": outcome.proposal_id} if outcome.proposal_id else {}
        raise RefusedError(outcome.reason, outcome.message, metadata=metadata)
    return outcome


def unknown_proposal(proposal_id: str) -> RefusedError:
    """The error for an id that no proposal has."""
    return RefusedError(
        "UNKNOWN_PROPOSAL",
        f"there is no proposal {proposal_id}. ListProposals names those there are.",
        metadata={"proposal_id": proposal_id},
    )


def now_ms() -> int:
    """This host's wall clock in milliseconds."""
    return time_ns() // 1_000_000
