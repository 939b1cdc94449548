# ruff: noqa: N802  # the methods have the names of the calls
"""A cluster that is not one: real gRPC servers with mTLS for every member, over one dictionary of proposals.

It answers as the service definitions say, without consensus, so that the client and the command line can be
tested alone. `fail_next` makes the next calls of a method fail in a chosen way, or later ones."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from replication.identity.call_ids import CALL_ID_KEY
from replication.identity.genesis import Genesis
from replication.node.local.provision import provision_cluster
from replication.v1 import audit_service_pb2 as audit
from replication.v1 import (
    audit_service_pb2_grpc,
    cluster_service_pb2_grpc,
    model_pb2,
    voting_service_pb2_grpc,
)
from replication.v1 import cluster_service_pb2 as cluster
from replication.v1 import voting_service_pb2 as voting

HEAD = "ab" * 32


@dataclass
class Failure:
    """What a call answers instead of working."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "no"
    node: str = ""


@dataclass
class State:
    """What all fake nodes share."""

    genesis: Genesis
    proposals: dict[str, model_pb2.Proposal] = field(default_factory=dict)
    by_request: dict[str, str] = field(default_factory=dict)
    failures: dict[str, list[Failure | None]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: list[tuple[str, str]] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    call_ids: list[str] = field(default_factory=list)
    corrupt: bool = False
    forgotten: set[str] = field(default_factory=set)
    clock_offsets_ms: dict[str, int] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    muted_for: dict[str, int] = field(default_factory=dict)
    """For how many more questions a node says that it signs nothing."""


class FakeCluster:
    """Servers for the members of a freshly provisioned cluster in `directory`."""

    def __init__(self, directory: Path, nodes: int = 4) -> None:
        self.directory = directory
        self.genesis = provision_cluster(directory, nodes=nodes)
        self.state = State(self.genesis)
        self.servers: dict[str, grpc.Server] = {}
        for member in self.genesis.members.members:
            self.start(member.id)

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *details: object) -> None:
        for server in list(self.servers.values()):
            server.stop(None).wait(5)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Method and node of every call so far."""
        return self.state.calls

    def start(self, member_id: str) -> None:
        """Start (again) the server of one member."""
        member = self.genesis.members.get(member_id)
        assert member is not None
        tls = self.directory / member_id / "tls"
        credentials = grpc.ssl_server_credentials(
            [((tls / "node.key").read_bytes(), (tls / "node.crt").read_bytes())],
            (tls / "ca.crt").read_bytes(),
            require_client_auth=True,
        )
        server = grpc.server(futures.ThreadPoolExecutor(4))
        service = Service(member_id, self.state)
        voting_service_pb2_grpc.add_VotingServiceServicer_to_server(service, server)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(service, server)
        cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server(service, server)
        server.add_secure_port(member.address, credentials)
        server.start()
        self.servers[member_id] = server

    def stop(self, member_id: str) -> None:
        """Stop the server of one member."""
        self.servers.pop(member_id).stop(None).wait(5)

    def fail_next(
        self, method: str, code: grpc.StatusCode, *, times: int = 1, after: int = 0, **details: str
    ) -> None:
        """Let the next calls of `method` fail, or those `after` so many; `details` are the fields of
        `Failure`.
        """
        failures = self.state.failures.setdefault(method, [])
        failures.extend([None] * after)
        failures.extend(Failure(code, **details) for _ in range(times))


def fail(context: Any, code: grpc.StatusCode, reason: str, message: str) -> NoReturn:
    """End a call as a node does: with an ErrorInfo where there is a reason."""
    if not reason:
        context.abort(code, message)
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="agent-consensus", metadata={"k": "v"}))
    status = status_pb2.Status(code=code.value[0], message=message, details=[info])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)
    raise AssertionError("abort raises")


class Service(
    voting_service_pb2_grpc.VotingServiceServicer,
    audit_service_pb2_grpc.AuditServiceServicer,
    cluster_service_pb2_grpc.ClusterServiceServicer,
):
    """All services of one fake node."""

    def __init__(self, node: str, state: State) -> None:
        self.node = node
        self.state = state

    def enter(self, method: str, context: Any) -> None:
        """Note the call, and fail it if that was ordered."""
        self.state.calls.append((method, self.node))
        self.state.deadlines.append(context.time_remaining())
        self.state.call_ids += [value for key, value in context.invocation_metadata() if key == CALL_ID_KEY]
        failure = self.next_failure(method)
        if failure is not None:
            fail(context, failure.code, failure.reason, failure.message)

    def next_failure(self, method: str) -> Failure | None:
        """What this call of a method ends with instead of an answer. Every server has threads of its own."""
        with self.state.lock:
            waiting = self.state.failures.get(method, [])
            if waiting and (waiting[0] is None or waiting[0].node in ("", self.node)):
                return waiting.pop(0)
        return None

    def find(self, proposal_id: str, context: Any) -> model_pb2.Proposal:
        """The proposal, or NOT_FOUND."""
        if proposal_id not in self.state.proposals:
            fail(
                context, grpc.StatusCode.NOT_FOUND, "PROPOSAL_UNKNOWN", f"There is no proposal {proposal_id}."
            )
        return self.state.proposals[proposal_id]

    def Propose(self, request: voting.ProposeRequest, context: Any) -> voting.ProposeResponse:
        self.enter("Propose", context)
        with self.state.lock:
            return self.proposed(request)

    def proposed(self, request: voting.ProposeRequest) -> voting.ProposeResponse:
        """The proposal that was made of a request, now or earlier."""
        known = self.state.by_request.get(request.request_id)
        if known is not None:
            return voting.ProposeResponse(proposal=self.state.proposals[known])
        number = len(self.state.proposals) + 1
        proposal = model_pb2.Proposal(
            id=f"prop-{number:04d}",
            proposer_id=self.node,
            action=request.action,
            target=request.target,
            evidence_json=request.evidence_json or "{}",
            status=model_pb2.PROPOSAL_STATUS_OPEN,
            decision=model_pb2.DECISION_PENDING,
            digest=hashlib.sha256(request.SerializeToString()).digest(),
            request_id=request.request_id,
            created_ms=1_700_000_000_000,
            closes_ms=request.window_ms if request.HasField("window_ms") else 7,
            expires_ms=request.expiry_ms if request.HasField("expiry_ms") else 8,
        )
        self.state.proposals[proposal.id] = proposal
        self.state.by_request[request.request_id] = proposal.id
        if request.wait_for_decision:
            decide(proposal, model_pb2.DECISION_APPROVED, "settled")
        return voting.ProposeResponse(proposal=proposal)

    def CastVote(self, request: voting.CastVoteRequest, context: Any) -> voting.CastVoteResponse:
        self.enter("CastVote", context)
        proposal = self.find(request.proposal_id, context)
        if any(vote.voter_id == self.node for vote in proposal.votes):
            fail(context, grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_VOTED", f"{self.node} voted already.")
        vote = model_pb2.Vote(voter_id=self.node, value=request.value, reason=request.reason, voted_ms=1)
        proposal.votes.append(vote)
        return voting.CastVoteResponse(vote=vote, proposal=proposal)

    def CloseProposal(
        self, request: voting.CloseProposalRequest, context: Any
    ) -> voting.CloseProposalResponse:
        self.enter("CloseProposal", context)
        proposal = self.find(request.proposal_id, context)
        decide(proposal, model_pb2.DECISION_NO_QUORUM, "closed")
        return voting.CloseProposalResponse(proposal=proposal)

    def Execute(self, request: voting.ExecuteRequest, context: Any) -> voting.ExecuteResponse:
        self.enter("Execute", context)
        proposal = self.find(request.proposal_id, context)
        proposal.receipts.append(
            model_pb2.ExecutionReceipt(executor_id=self.node, outcome=request.outcome, detail=request.detail)
        )
        if request.outcome == model_pb2.EXECUTION_OUTCOME_SUCCEEDED:
            proposal.status = model_pb2.PROPOSAL_STATUS_EXECUTED
        return voting.ExecuteResponse(proposal=proposal)

    def ReportExecution(
        self, request: voting.ReportExecutionRequest, context: Any
    ) -> voting.ReportExecutionResponse:
        self.enter("ReportExecution", context)
        found = [item for item in self.state.proposals.values() if item.digest == request.proposal_digest]
        proposal = self.find(found[0].id if found else "prop-9999", context)
        proposal.receipts.append(
            model_pb2.ExecutionReceipt(
                executor_id=request.executor_id, outcome=request.outcome, detail=request.detail
            )
        )
        if request.outcome == model_pb2.EXECUTION_OUTCOME_SUCCEEDED:
            proposal.status = model_pb2.PROPOSAL_STATUS_EXECUTED
        return voting.ReportExecutionResponse(proposal=proposal)

    def GetProposal(self, request: voting.GetProposalRequest, context: Any) -> voting.GetProposalResponse:
        self.enter("GetProposal", context)
        proposal = self.find(request.proposal_id, context)
        if self.state.corrupt:
            proposal.digest = b"short"
        return voting.GetProposalResponse(proposal=proposal)

    def ListProposals(
        self, request: voting.ListProposalsRequest, context: Any
    ) -> voting.ListProposalsResponse:
        self.enter("ListProposals", context)
        known = [item for key, item in self.state.proposals.items() if key not in self.state.forgotten]
        wanted = [item for item in known if request.status in (0, item.status)]
        start = int(request.page_token or 0)
        page = [listed(item) for item in wanted[start : start + request.page_size]]
        end = start + len(page)
        return voting.ListProposalsResponse(
            proposals=page, next_page_token=str(end) if end < len(wanted) else ""
        )

    def Watch(self, request: voting.WatchRequest, context: Any) -> Iterator[voting.WatchResponse]:
        self.enter("Watch", context)
        for sequence in range(request.from_sequence, request.from_sequence + 3):
            yield voting.WatchResponse(entry=entry(sequence))
        context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    def GetHistory(self, request: voting.GetHistoryRequest, context: Any) -> voting.GetHistoryResponse:
        self.enter("GetHistory", context)
        if request.voter_id not in self.state.genesis.members:
            fail(context, grpc.StatusCode.NOT_FOUND, "VOTER_UNKNOWN", f"{request.voter_id} is not a member.")
        items = [
            voting.HistoryItem(proposal_id=proposal.id, vote=vote)
            for proposal in self.state.proposals.values()
            for vote in proposal.votes
            if vote.voter_id == request.voter_id
        ]
        return voting.GetHistoryResponse(items=items)

    def GetAgreement(self, request: voting.GetAgreementRequest, context: Any) -> voting.GetAgreementResponse:
        self.enter("GetAgreement", context)
        ids = self.state.genesis.members.ids
        rows = [voting.AgreementRow(rates=[1.0 if a == b else 0.5 for b in ids]) for a in ids]
        return voting.GetAgreementResponse(voter_ids=ids, rows=rows)

    def GetBlocs(self, request: voting.GetBlocsRequest, context: Any) -> voting.GetBlocsResponse:
        self.enter("GetBlocs", context)
        return voting.GetBlocsResponse(blocs=[voting.Bloc(voter_ids=["node-1", "node-2"])], complete=True)

    def GetSummary(self, request: voting.GetSummaryRequest, context: Any) -> voting.GetSummaryResponse:
        self.enter("GetSummary", context)
        return voting.GetSummaryResponse(voter_count=4, bft_quorum=3, max_byzantine_faults=1, audit_head=HEAD)

    def GetCertificate(
        self, request: voting.GetCertificateRequest, context: Any
    ) -> voting.GetCertificateResponse:
        self.enter("GetCertificate", context)
        self.find(request.proposal_id, context)
        return voting.GetCertificateResponse(certificate_json='{"format":"made up"}\n')

    def ListEntries(self, request: audit.ListEntriesRequest, context: Any) -> audit.ListEntriesResponse:
        self.enter("ListEntries", context)
        last = min(request.from_sequence + request.page_size, 7)
        entries = [entry(sequence) for sequence in range(request.from_sequence, last)]
        return audit.ListEntriesResponse(entries=entries, audit_size=7)

    def GetHead(self, request: audit.GetHeadRequest, context: Any) -> audit.GetHeadResponse:
        self.enter("GetHead", context)
        return audit.GetHeadResponse(height=3, block_hash=bytes(32), audit_size=7, audit_head=HEAD)

    def VerifyChain(self, request: audit.VerifyChainRequest, context: Any) -> audit.VerifyChainResponse:
        self.enter("VerifyChain", context)
        return audit.VerifyChainResponse(valid=True, height=3, audit_size=7, audit_head=HEAD)

    def ExportChain(
        self, request: audit.ExportChainRequest, context: Any
    ) -> Iterator[audit.ExportChainResponse]:
        self.enter("ExportChain", context)
        yield audit.ExportChainResponse(lines=['{"type":"audit-export"}', '{"type":"block"}'])
        yield audit.ExportChainResponse(lines=['{"type":"end"}'])

    def GetStatus(self, request: cluster.GetStatusRequest, context: Any) -> cluster.GetStatusResponse:
        self.enter("GetStatus", context)
        while self.node in self.state.hanging and context.is_active():
            time.sleep(0.01)
        members = [
            cluster.MemberStatus(
                id=member.id,
                address=member.address,
                reachable=True,
                height=3 if member.id == self.node else 2,
                audit_size=7,
                audit_head=HEAD,
                weight=1,
            )
            for member in self.state.genesis.members.members
        ]
        return cluster.GetStatusResponse(
            cluster_id=self.state.genesis.cluster_id,
            name=self.state.genesis.name,
            coordinator="node-1",
            n=len(members),
            f=(len(members) - 1) // 3,
            tally_quorum=3,
            commit_quorum=3,
            node_id=self.node,
            members=members,
            clock_ms=time.time_ns() // 1_000_000 + self.state.clock_offsets_ms.get(self.node, 0),
            muted="waiting to hear from others" if self._is_muted() else "",
        )

    def _is_muted(self) -> bool:
        left = self.state.muted_for.get(self.node, 0)
        self.state.muted_for[self.node] = left - 1
        return left > 0

    def ListMembers(self, request: cluster.ListMembersRequest, context: Any) -> cluster.ListMembersResponse:
        self.enter("ListMembers", context)
        members = [
            cluster.MemberInfo(
                id=member.id, address=member.address, public_key=member.public_key, weight=member.weight
            )
            for member in self.state.genesis.members.members
        ]
        return cluster.ListMembersResponse(members=members)

    def ChangeMembers(
        self, request: cluster.ChangeMembersRequest, context: Any
    ) -> cluster.ChangeMembersResponse:
        self.enter("ChangeMembers", context)
        self.find(request.proposal_id, context)
        return cluster.ChangeMembersResponse(epoch=1)

    def SetLogLevel(self, request: cluster.SetLogLevelRequest, context: Any) -> cluster.SetLogLevelResponse:
        self.enter("SetLogLevel", context)
        return cluster.SetLogLevelResponse(previous="info")


def decide(proposal: model_pb2.Proposal, decision: model_pb2.Decision.ValueType, cause: str) -> None:
    """Mark a proposal as decided."""
    proposal.status = model_pb2.PROPOSAL_STATUS_DECIDED
    proposal.decision = decision
    proposal.decided_ms = 1_700_000_000_500
    proposal.tally.CopyFrom(
        model_pb2.TallyResult(
            decision=decision, total_voters=4, quorum_required=3, threshold_used="1/2", cause=cause
        )
    )


def listed(proposal: model_pb2.Proposal) -> model_pb2.Proposal:
    """A proposal as listings hold it."""
    short = model_pb2.Proposal()
    short.CopyFrom(proposal)
    short.ClearField("evidence_json")
    short.ClearField("votes")
    short.ClearField("receipts")
    return short


def entry(sequence: int) -> model_pb2.AuditEntry:
    """An audit entry of the right shape."""
    return model_pb2.AuditEntry(
        sequence=sequence,
        event_type="vote" if sequence else "genesis",
        actor_id="node-1",
        data_json=json.dumps({"value": "approve"}),
        prev_hash=HEAD if sequence else "",
        hash=HEAD,
    )
