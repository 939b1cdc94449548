# ruff: noqa: N802  # the methods have the names of the calls
"""VotingService: proposals, votes and decisions for clients.

The handlers read requests and shape answers; what a write does is in `writing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import grpc

from replication.identity.genesis import Genesis
from replication.identity.keys import SIGNATURE_SIZE, SigningKey
from replication.identity.rules import MAX_EXACT_INTEGER
from replication.identity.signbytes import DIGEST_SIZE
from replication.ledger.application import VotingApplication
from replication.ledger.commands import (
    MAX_ACTION_BYTES,
    MAX_DETAIL_BYTES,
    MAX_REASON_BYTES,
    MAX_TARGET_BYTES,
    ReceiptCommand,
)
from replication.node.access import MayVote, caller_of
from replication.node.driver import Driver
from replication.node.failures import RefusedError
from replication.node.services import answers, requests
from replication.node.services.decisions import Decisions
from replication.node.services.tail import Tail
from replication.node.services.writing import Content, Writing, unknown_proposal
from replication.v1 import model_pb2, voting_service_pb2_grpc
from replication.v1 import voting_service_pb2 as pb

if TYPE_CHECKING:
    from replication.ledger.store import Store

__all__ = ["VotingService"]

Context = grpc.aio.ServicerContext[Any, Any]

MAX_DURATION_MS: Final = 10 * 365 * 24 * 3600 * 1000
"""Ten years: a longer window or life is a mistake in the unit."""

DEFAULT_BLOC_THRESHOLD: Final = 0.9


class VotingService(voting_service_pb2_grpc.VotingServiceServicer):
    """The voting service of one member, who signs with `key`, and votes as those say who `may_vote`."""

    def __init__(
        self,
        member: str,
        genesis: Genesis,
        key: SigningKey,
        driver: Driver,
        application: VotingApplication,
        may_vote: MayVote,
    ) -> None:
        self._member = member
        self._may_vote = may_vote
        self._rules = genesis.rules
        self._driver = driver
        self._application = application
        self._writing = Writing(member, genesis, key, driver, application)
        self._decisions = Decisions(driver, self._is_open)
        self._tail = Tail(driver)

    async def Propose(self, request: pb.ProposeRequest, context: Context) -> pb.ProposeResponse:
        """Have a proposal committed, and with `wait_for_decision` decided."""
        request_id = requests.request_id(request.request_id)
        content = Content(
            action=requests.text(request.action, "action", MAX_ACTION_BYTES, empty=False),
            target=requests.text(request.target, "target", MAX_TARGET_BYTES),
            evidence=requests.evidence(request.evidence_json),
            window_ms=requests.whole_number(request.window_ms, "window_ms", MAX_DURATION_MS)
            if request.HasField("window_ms")
            else self._rules.window_ms(request.action),
            expiry_ms=requests.whole_number(request.expiry_ms, "expiry_ms", MAX_DURATION_MS)
            if request.HasField("expiry_ms")
            else self._rules.expiry_ms(request.action),
        )
        proposal_id = await self._writing.propose(request_id, content)
        if request.wait_for_decision:
            return pb.ProposeResponse(proposal=await self._decided(proposal_id))
        return pb.ProposeResponse(proposal=await self._proposal(proposal_id))

    async def CastVote(self, request: pb.CastVoteRequest, context: Context) -> pb.CastVoteResponse:
        """Cast this member's vote."""
        self._may_vote.require(caller_of(context))
        request_id = requests.request_id(request.request_id)
        proposal_id = requests.proposal_id(request.proposal_id)
        value = requests.vote_value(request.value)
        reason = requests.text(request.reason, "reason", MAX_REASON_BYTES)
        await self._writing.cast(request_id, proposal_id, value, reason)
        proposal = await self._proposal(proposal_id)
        vote = next(vote for vote in proposal.votes if vote.voter_id == self._member)
        return pb.CastVoteResponse(vote=vote, proposal=proposal)

    async def CloseProposal(
        self, request: pb.CloseProposalRequest, context: Context
    ) -> pb.CloseProposalResponse:
        """End the vote on a proposal of this member."""
        request_id = requests.request_id(request.request_id)
        proposal_id = requests.proposal_id(request.proposal_id)
        await self._writing.close(request_id, proposal_id)
        return pb.CloseProposalResponse(proposal=await self._proposal(proposal_id))

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> pb.ExecuteResponse:
        """Record how an execution ended."""
        request_id = requests.request_id(request.request_id)
        proposal_id = requests.proposal_id(request.proposal_id)
        outcome = requests.execution_outcome(request.outcome)
        detail = requests.text(request.detail, "detail", MAX_DETAIL_BYTES)
        await self._writing.execute(request_id, proposal_id, outcome, detail)
        return pb.ExecuteResponse(proposal=await self._proposal(proposal_id))

    async def ReportExecution(
        self, request: pb.ReportExecutionRequest, context: Context
    ) -> pb.ReportExecutionResponse:
        """Order an executor's own receipt."""
        receipt = ReceiptCommand(
            epoch=request.epoch,
            executor=requests.member_id(request.executor_id, "executor_id"),
            proposal_digest=requests.fixed(request.proposal_digest, "proposal_digest", DIGEST_SIZE),
            outcome=requests.execution_outcome(request.outcome),
            detail=requests.text(request.detail, "detail", MAX_DETAIL_BYTES),
            executed_ms=requests.whole_number(request.executed_ms, "executed_ms", MAX_EXACT_INTEGER),
            signature=requests.fixed(request.signature, "signature", SIGNATURE_SIZE),
        )
        proposal_id = await self._writing.report(receipt)
        return pb.ReportExecutionResponse(proposal=await self._proposal(proposal_id))

    async def GetProposal(self, request: pb.GetProposalRequest, context: Context) -> pb.GetProposalResponse:
        """One proposal with everything that is committed about it."""
        proposal_id = requests.proposal_id(request.proposal_id)
        return pb.GetProposalResponse(proposal=await self._proposal(proposal_id))

    async def ListProposals(
        self, request: pb.ListProposalsRequest, context: Context
    ) -> pb.ListProposalsResponse:
        """A page of proposals by number."""
        status = requests.proposal_status(request.status)
        size = requests.page_size(request.page_size)
        after = requests.number_token(request.page_token)
        if request.unconfirmed:
            page = await self._driver.read(lambda store: store.unconfirmed(after, size + 1))
        else:
            page = await self._driver.read(lambda store: store.list_proposals(status, after, size + 1))
        return pb.ListProposalsResponse(
            proposals=[answers.proposal(item, listed=True) for item in page[:size]],
            next_page_token=str(page[size - 1].number) if len(page) > size else "",
        )

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """Entries as they are committed, for as long as the caller listens."""
        upcoming = requests.whole_number(request.from_sequence, "from_sequence", 2**53 - 1)
        while True:
            await self._driver.changes.wait_beyond(upcoming)
            page = await self._tail.page(upcoming)
            for response in page:
                yield response
            upcoming += len(page)

    async def GetHistory(self, request: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        """A page of one voter's votes, oldest first."""
        voter = requests.member_id(request.voter_id, "voter_id")
        size = requests.page_size(request.page_size)
        after = requests.number_token(request.page_token)
        page = await self._driver.read(lambda store: store.history(voter, after, size + 1))
        if not page and voter not in self._application.members:
            raise RefusedError(
                "UNKNOWN_VOTER",
                f"there is no voter {voter}; voters are {', '.join(self._application.members.ids)}",
                metadata={"voter_id": voter},
            )
        return pb.GetHistoryResponse(
            items=[answers.history_item(item) for item in page[:size]],
            next_page_token=str(page[size - 1].sequence) if len(page) > size else "",
        )

    async def GetAgreement(
        self, request: pb.GetAgreementRequest, context: Context
    ) -> pb.GetAgreementResponse:
        """How often each pair of voters agreed."""
        voters = self._application.members.ids
        counts = await self._driver.read(lambda store: store.agreement())
        return await asyncio.to_thread(answers.agreement, counts, voters)

    async def GetBlocs(self, request: pb.GetBlocsRequest, context: Context) -> pb.GetBlocsResponse:
        """Groups of voters that vote alike."""
        threshold = requests.share(request.threshold, DEFAULT_BLOC_THRESHOLD)
        voters = self._application.members.ids
        counts = await self._driver.read(lambda store: store.agreement())
        return await asyncio.to_thread(answers.blocs, counts, voters, threshold)

    async def GetSummary(self, request: pb.GetSummaryRequest, context: Context) -> pb.GetSummaryResponse:
        """Counts of everything."""
        members = self._application.members
        summary = await self._driver.read(lambda store: store.summary())
        return answers.summary(summary, members)

    async def GetCertificate(
        self, request: pb.GetCertificateRequest, context: Context
    ) -> pb.GetCertificateResponse:
        """The proof of a decision."""
        proposal_id = requests.proposal_id(request.proposal_id)

        def certificate(store: Store) -> str:
            if self._is_open(proposal_id):
                raise RefusedError(
                    "NOT_DECIDED", f"{proposal_id} is not decided yet, so there is nothing to prove"
                )
            text = store.certificate_json(proposal_id)
            if text is None:
                raise unknown_proposal(proposal_id)
            return text

        return pb.GetCertificateResponse(certificate_json=await self._driver.read(certificate))

    def _is_open(self, proposal_id: str) -> bool:
        return self._application.open_proposal(proposal_id) is not None

    async def _proposal(self, proposal_id: str) -> model_pb2.Proposal:
        found, missing = await self._driver.read(
            lambda store: (store.proposal(proposal_id), self._application.missing(proposal_id))
        )
        if found is None:
            raise unknown_proposal(proposal_id)
        return answers.proposal(found, missing=missing)

    async def _decided(self, proposal_id: str) -> model_pb2.Proposal:
        """The proposal once it is decided or expired."""
        decision = await self._driver.read(
            lambda _: self._decisions.expect(proposal_id) if self._is_open(proposal_id) else None
        )
        if decision is not None:
            await asyncio.shield(decision)
        return await self._proposal(proposal_id)
