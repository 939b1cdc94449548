"""The asyncio client: one method for each call, records instead of messages, exceptions instead of statuses.

    async with AsyncClient(open_folder(Path("cluster"))) as client:
        proposal = await client.propose("quarantine", "agent-7", {"score": 0.97}, wait_for_decision=True)
        certificate = await client.certificate(proposal.id)

Every method takes `timeout_seconds`, the time for the whole call with all its retries, and `node`, the id of
the member to ask (default: the first endpoint that answers). Writes carry a request id, chosen here unless
given, so that a retry, also one by the caller after a `DeadlineExceededError`, cannot happen twice. A vote, a
close and a receipt are signed by the node asked; they never move on to another node once they may have been
sent."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final

from replication.client import arguments, convert
from replication.client.administration import AdministrationCalls
from replication.client.connection import ClusterHandle
from replication.client.errors import (
    DeadlineExceededError,
    UnavailableError,
    UsageError,
    unknown_outcome,
)
from replication.client.model import (
    Agreement,
    AuditEntry,
    AuditHead,
    Blocs,
    CastVote,
    Certificate,
    ChainCheck,
    ClusterStatus,
    EntryPage,
    ExecutionOutcome,
    HistoryItem,
    Membership,
    Proposal,
    ProposalStatus,
    SignedReceipt,
    Summary,
    VoteValue,
)
from replication.client.transport import DEFAULT_TIMEOUT_SECONDS, Route, Transport
from replication.v1 import audit_service_pb2 as audit
from replication.v1 import cluster_service_pb2 as cluster
from replication.v1 import voting_service_pb2 as voting

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "AsyncClient", "new_request_id"]

EXPORT_TIMEOUT_SECONDS: Final = 600.0
"""An export is as long as the record; minutes, not seconds."""

DEFAULT_PAGE_SIZE: Final = 100


def new_request_id() -> str:
    """A request id that nobody else chose."""
    return secrets.token_hex(16)


class AsyncClient(AdministrationCalls):
    """A connection to one cluster for code on one event loop.

    `rounds` limits how often all nodes are tried when none answers; None means until the time limit of the
    call."""

    def __init__(self, handle: ClusterHandle, *, rounds: int | None = None) -> None:
        self.handle = handle
        self._transport = Transport(handle, rounds=rounds)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close the connections. (`close` ends the vote on a proposal.)"""
        await self._transport.close()

    async def propose(
        self,
        action: str,
        target: str = "",
        evidence: Mapping[str, Any] | None = None,
        *,
        window_ms: int | None = None,
        expiry_ms: int | None = None,
        request_id: str | None = None,
        wait_for_decision: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """Propose `action` against `target`; the node asked signs as proposer.

        `evidence` is a JSON object. `window_ms` is how long votes are collected and `expiry_ms` how long the
        proposal lives, both from the block time of the proposal: None for the cluster's default, 0 for no
        limit. With `wait_for_decision` the answer comes when the proposal is decided or expired, else when it
        is committed.

        Raises `InvalidRequestError`, `ConflictError` (the request id stands for other content),
        `ResourceExhaustedError` (too many open proposals), or another `RemoteError`.
        """
        request = voting.ProposeRequest(
            request_id=request_id or new_request_id(),
            action=arguments.text(action, "action"),
            target=arguments.text(target, "target"),
            evidence_json=arguments.evidence_text(evidence),
            window_ms=arguments.duration(window_ms, "window_ms"),
            expiry_ms=arguments.duration(expiry_ms, "expiry_ms"),
            wait_for_decision=wait_for_decision,
        )
        try:
            response = await self._transport.unary(
                lambda stubs: stubs.voting.Propose, request, timeout_seconds, node=node
            )
        except (DeadlineExceededError, UnavailableError) as error:
            waited = "no decision came" if wait_for_decision else "the answer did not come"
            raise unknown_outcome(error, waited, request.request_id, timeout_seconds) from error
        return convert.proposal_of(response)

    async def vote(
        self,
        proposal_id: str,
        value: VoteValue | str,
        reason: str = "",
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> CastVote:
        """Cast the vote of the member `node` (default: of the first endpoint). No other node is ever tried.

        Raises `NotFoundError`, `ConflictError` (voted or decided already), or another `RemoteError`.
        """
        request = voting.CastVoteRequest(
            request_id=request_id or new_request_id(),
            proposal_id=arguments.text(proposal_id, "proposal_id"),
            value=convert.vote_value_to_wire(arguments.vote_value(value)),
            reason=arguments.text(reason, "reason"),
        )
        response = await self._transport.unary(
            lambda stubs: stubs.voting.CastVote, request, timeout_seconds, route=Route.PINNED, node=node
        )
        return convert.cast_vote(response)

    async def close(
        self,
        proposal_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """End the vote early. Only its proposer can: without `node`, that member is looked up and asked."""
        if node is None:
            proposer = (await self.get_proposal(proposal_id, timeout_seconds=timeout_seconds)).proposer_id
            node = proposer if await self._transport.find(proposer, timeout_seconds) else None
        request = voting.CloseProposalRequest(
            request_id=request_id or new_request_id(), proposal_id=arguments.text(proposal_id, "proposal_id")
        )
        response = await self._transport.unary(
            lambda stubs: stubs.voting.CloseProposal, request, timeout_seconds, route=Route.PINNED, node=node
        )
        return convert.proposal_of(response)

    async def execute(
        self,
        proposal_id: str,
        outcome: ExecutionOutcome | str = ExecutionOutcome.SUCCEEDED,
        detail: str = "",
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """Record how the execution of an approved proposal ended.

        Raises `ConflictError` when it is not approved, or was executed with success already.
        """
        request = voting.ExecuteRequest(
            request_id=request_id or new_request_id(),
            proposal_id=arguments.text(proposal_id, "proposal_id"),
            outcome=convert.outcome_to_wire(arguments.outcome(outcome)),
            detail=arguments.text(detail, "detail"),
        )
        response = await self._transport.unary(
            lambda stubs: stubs.voting.Execute, request, timeout_seconds, route=Route.UNTIL_SENT, node=node
        )
        return convert.proposal_of(response)

    async def report_execution(
        self,
        receipt: SignedReceipt,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Proposal:
        """Bring a receipt that its executor has signed. Repeating it changes nothing, so any node will do.

        Raises `ConflictError` when the epoch is over (sign again), the proposal is not approved, or it was
        executed with success already.
        """
        response = await self._transport.unary(
            lambda stubs: stubs.voting.ReportExecution,
            convert.receipt_to_wire(receipt),
            timeout_seconds,
            node=node,
        )
        return convert.proposal_of(response)

    async def get_proposal(
        self, proposal_id: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Proposal:
        """One proposal with votes, tally and receipts. Raises `NotFoundError`."""
        request = voting.GetProposalRequest(proposal_id=arguments.text(proposal_id, "proposal_id"))
        response = await self._transport.unary(
            lambda stubs: stubs.voting.GetProposal, request, timeout_seconds, node=node
        )
        return convert.proposal_of(response)

    async def list_proposals(
        self,
        status: ProposalStatus | str | None = None,
        *,
        unconfirmed: bool = False,
        page_size: int = DEFAULT_PAGE_SIZE,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> AsyncIterator[Proposal]:
        """All proposals, oldest first, fetched page by page; `timeout_seconds` is for each page.

        `unconfirmed`: only approved ones that no receipt says were executed with success.
        """
        size = arguments.page_size(page_size)
        request = voting.ListProposalsRequest(page_size=size, unconfirmed=unconfirmed)
        if status is not None:
            request.status = convert.status_to_wire(arguments.status(status))
        while True:
            page = await self._transport.unary(
                lambda stubs: stubs.voting.ListProposals, request, timeout_seconds, node=node
            )
            for item in page.proposals:
                yield convert.proposal(item, listed=True)
            if not _next_page(request, page.next_page_token):
                return

    async def watch(
        self, from_sequence: int = 0, *, timeout_seconds: float | None = None, node: str | None = None
    ) -> AsyncIterator[AuditEntry]:
        """Audit entries as they are committed, from a sequence number on, without end.

        When a node goes away the stream goes on at the next one where it stopped; entries come once and in
        order."""
        upcoming = from_sequence
        while True:
            request = voting.WatchRequest(from_sequence=arguments.count(upcoming, "from_sequence"))
            stream = self._transport.stream(
                lambda stubs: stubs.voting.Watch, request, timeout_seconds, node=node
            )
            progress = False
            try:
                async for message in stream:
                    entry = convert.audit_entry(message.entry)
                    if entry.sequence != upcoming:
                        raise convert.out_of_order(entry.sequence, upcoming)
                    upcoming, progress = upcoming + 1, True
                    yield entry
                return
            except UnavailableError:
                if not progress:
                    raise

    async def history(
        self,
        voter_id: str,
        *,
        page_size: int = DEFAULT_PAGE_SIZE,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> AsyncIterator[HistoryItem]:
        """The votes of one voter, oldest first, fetched page by page.

        Raises `NotFoundError` for an unknown voter.
        """
        request = voting.GetHistoryRequest(
            voter_id=arguments.text(voter_id, "voter_id"), page_size=arguments.page_size(page_size)
        )
        while True:
            page = await self._transport.unary(
                lambda stubs: stubs.voting.GetHistory, request, timeout_seconds, node=node
            )
            for item in page.items:
                yield convert.history_item(item)
            if not _next_page(request, page.next_page_token):
                return

    async def agreement(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Agreement:
        """How often each pair of voters agreed."""
        response = await self._transport.unary(
            lambda stubs: stubs.voting.GetAgreement, voting.GetAgreementRequest(), timeout_seconds, node=node
        )
        return convert.agreement(response)

    async def blocs(
        self,
        threshold: float = 0.9,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> Blocs:
        """Groups of voters that agree pairwise at least as often as `threshold`, above 0 and at most 1."""
        if not 0 < threshold <= 1:
            raise UsageError(f"A threshold of {threshold} is not possible. Give more than 0 and at most 1.")
        response = await self._transport.unary(
            lambda stubs: stubs.voting.GetBlocs,
            voting.GetBlocsRequest(threshold=threshold),
            timeout_seconds,
            node=node,
        )
        return convert.blocs(response, threshold)

    async def summary(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Summary:
        """Counts of voters, proposals and entries."""
        response = await self._transport.unary(
            lambda stubs: stubs.voting.GetSummary, voting.GetSummaryRequest(), timeout_seconds, node=node
        )
        return convert.summary(response)

    async def certificate(
        self, proposal_id: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Certificate:
        """The certificate of a decision. With a genesis file at hand it is verified before it is returned.

        Raises `NotFoundError`, `ConflictError` (not decided yet), or the verifier's error if the node lied.
        """
        request = voting.GetCertificateRequest(proposal_id=arguments.text(proposal_id, "proposal_id"))
        response = await self._transport.unary(
            lambda stubs: stubs.voting.GetCertificate, request, timeout_seconds, node=node
        )
        genesis = self.handle.genesis
        if genesis is not None:
            from replication.ledger.verify import verify_certificate

            verify_certificate(response.certificate_json, genesis)
        return Certificate(proposal_id, response.certificate_json, genesis is not None)

    async def audit_entries(
        self,
        from_sequence: int = 0,
        page_size: int = DEFAULT_PAGE_SIZE,
        *,
        event_type: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> EntryPage:
        """One page of audit entries in order, from a sequence number on; with `event_type`, only such.

        The page after the last one is empty.
        """
        start = arguments.count(from_sequence, "from_sequence")
        request = audit.ListEntriesRequest(
            from_sequence=start,
            page_size=arguments.page_size(page_size),
            event_type=arguments.text(event_type, "event_type"),
        )
        response = await self._transport.unary(
            lambda stubs: stubs.audit.ListEntries, request, timeout_seconds, node=node
        )
        return convert.entry_page(response, start, event_type)

    async def members(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> Membership:
        """The members of the current epoch, with their keys, and who is proven faulty."""
        response = await self._transport.unary(
            lambda stubs: stubs.cluster.ListMembers, cluster.ListMembersRequest(), timeout_seconds, node=node
        )
        return convert.membership(response)

    async def change_members(
        self,
        proposal_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        node: str | None = None,
    ) -> int:
        """Carry out the change of members that an approved proposal holds; returns the epoch that it began.

        Raises `ConflictError` when the proposal is not approved by enough voters, or the change cannot be
        made.
        """
        request = cluster.ChangeMembersRequest(
            request_id=request_id or new_request_id(), proposal_id=arguments.text(proposal_id, "proposal_id")
        )
        response = await self._transport.unary(
            lambda stubs: stubs.cluster.ChangeMembers,
            request,
            timeout_seconds,
            route=Route.UNTIL_SENT,
            node=node,
        )
        return response.epoch

    async def audit_head(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> AuditHead:
        """Length and last hash of one node's chain."""
        response = await self._transport.unary(
            lambda stubs: stubs.audit.GetHead, audit.GetHeadRequest(), timeout_seconds, node=node
        )
        return convert.audit_head(response)

    async def verify_chain(
        self, *, timeout_seconds: float = EXPORT_TIMEOUT_SECONDS, node: str | None = None
    ) -> ChainCheck:
        """Have a node check its own record. To trust nobody, export the chain and verify that."""
        response = await self._transport.unary(
            lambda stubs: stubs.audit.VerifyChain, audit.VerifyChainRequest(), timeout_seconds, node=node
        )
        return convert.chain_check(response)

    async def export_chain(
        self, *, timeout_seconds: float = EXPORT_TIMEOUT_SECONDS, node: str | None = None
    ) -> AsyncIterator[str]:
        """The lines of the export file, each without its line feed. Nothing is verified here."""
        stream = self._transport.stream(
            lambda stubs: stubs.audit.ExportChain, audit.ExportChainRequest(), timeout_seconds, node=node
        )
        async for message in stream:
            for line in message.lines:
                yield line

    async def status(
        self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, node: str | None = None
    ) -> ClusterStatus:
        """The cluster as the first node that answers sees it."""
        response = await self._transport.unary(
            lambda stubs: stubs.cluster.GetStatus, cluster.GetStatusRequest(), timeout_seconds, node=node
        )
        return convert.cluster_status(response)


def _next_page(request: voting.ListProposalsRequest | voting.GetHistoryRequest, token: str) -> bool:
    """Turn `request` into that for the next page; False when there is none."""
    if token and token == request.page_token:
        raise convert.repeated_page(token)
    request.page_token = token
    return bool(token)
