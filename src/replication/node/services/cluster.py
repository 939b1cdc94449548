# ruff: noqa: N802  # the methods have the names of the calls
"""ClusterService: the state of the cluster as this node sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc

from replication import __version__
from replication.consensus.rules import VotingRules
from replication.identity import keys
from replication.identity.genesis import Genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member
from replication.ledger.application import VotingApplication
from replication.node.access import caller_of
from replication.node.config import LOG_LEVELS
from replication.node.driver import Driver, DriverStatus
from replication.node.failures import bad_field
from replication.node.logs import log_level, set_log_level
from replication.node.services import requests
from replication.node.services.writing import Writing
from replication.ordering.quorum import commit_quorum
from replication.v1 import cluster_service_pb2 as pb
from replication.v1 import cluster_service_pb2_grpc

__all__ = ["ClusterService"]

Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)

NEVER_MS = 2**53 - 1
"""Silence of a member that was never heard from; every JSON reader keeps it exactly."""


class ClusterService(cluster_service_pb2_grpc.ClusterServiceServicer):
    """What a node knows of all members, its own numbers exactly and the others' as they told them last."""

    def __init__(
        self,
        member: str,
        genesis: Genesis,
        key: SigningKey,
        driver: Driver,
        application: VotingApplication,
        certificate_expires_ms: Callable[[], int],
    ) -> None:
        self._member = member
        self._certificate_expires_ms = certificate_expires_ms
        self._genesis = genesis
        self._driver = driver
        self._application = application
        self._writing = Writing(member, genesis, key, driver, application)
        rules = genesis.rules
        self._rules = VotingRules(
            rules.quorum_fraction, rules.majority_threshold, rules.supermajority_threshold
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """View, quorums, members and counters."""
        status = self._driver.status()
        members = self._application.members
        return pb.GetStatusResponse(
            cluster_id=self._genesis.cluster_id,
            name=self._genesis.name,
            epoch=status.epoch,
            view=status.view,
            coordinator=status.coordinator,
            n=members.n,
            f=members.max_faulty,
            tally_quorum=self._rules.quorum_required(members.n),
            commit_quorum=commit_quorum(members.n),
            node_id=self._member,
            members=[self._state_of(member, status) for member in members.members],
            pending_commands=status.pending,
            counters=self._counters(status),
            version=__version__,
            muted=status.muted,
            suspected=status.suspected,
            can_progress=status.can_progress,
            clock_ms=time.time_ns() // 1_000_000,
            certificate_expires_ms=self._certificate_expires_ms(),
        )

    async def ListMembers(self, request: pb.ListMembersRequest, context: Context) -> pb.ListMembersResponse:
        """The members as the record knows them."""
        totals = await self._driver.read(lambda store: store.totals())
        return pb.ListMembersResponse(
            epoch=totals.members.epoch,
            base_height=totals.base_height,
            members=[
                pb.MemberInfo(
                    id=member.id,
                    address=member.address,
                    public_key=member.public_key,
                    weight=member.weight,
                    incarnation=totals.incarnations.get(member.id, b""),
                    faulty=member.id in totals.faulty,
                    evidence_sequence=totals.faulty.get(member.id, 0),
                )
                for member in totals.members.members
            ],
            executors=[
                pb.ExecutorInfo(id=executor.id, public_key=executor.public_key)
                for executor in totals.members.executors
            ],
        )

    async def ChangeMembers(
        self, request: pb.ChangeMembersRequest, context: Context
    ) -> pb.ChangeMembersResponse:
        """Carry out an approved change of members."""
        request_id = requests.request_id(request.request_id)
        proposal_id = requests.proposal_id(request.proposal_id)
        await self._writing.change_members(request_id, proposal_id)
        return pb.ChangeMembersResponse(epoch=self._application.members.epoch)

    async def SetLogLevel(self, request: pb.SetLogLevelRequest, context: Context) -> pb.SetLogLevelResponse:
        """Log at another level until the node restarts. Who asked is logged, at whatever level."""
        if request.level not in LOG_LEVELS:
            raise bad_field("level", f"must be one of {', '.join(LOG_LEVELS)}")
        previous = log_level()
        set_log_level(request.level)
        who = caller_of(context).identity.name
        _log.error("the log level is now %s, before %s; %s asked for it", request.level, previous, who)
        return pb.SetLogLevelResponse(node_id=self._member, previous=previous)

    def _state_of(self, member: Member, status: DriverStatus) -> pb.MemberStatus:
        if member.id == self._member:
            return pb.MemberStatus(
                id=member.id,
                address=member.address,
                reachable=True,
                height=status.height,
                audit_size=status.audit_size,
                audit_head=status.audit_head.hex(),
                weight=member.weight,
            )
        peer = status.peers.get(member.id)
        if peer is None:
            return pb.MemberStatus(
                id=member.id, address=member.address, weight=member.weight, silent_ms=NEVER_MS
            )
        return pb.MemberStatus(
            id=member.id,
            address=member.address,
            reachable=peer.reachable,
            height=peer.height,
            audit_size=peer.audit_size,
            audit_head=peer.audit_head.hex(),
            weight=member.weight,
            silent_ms=NEVER_MS if peer.silent_ms is None else peer.silent_ms,
        )

    def _counters(self, status: DriverStatus) -> pb.NodeCounters:
        counters = status.counters
        return pb.NodeCounters(
            signatures_verified=keys.verifications.count,
            fsyncs=counters.fsyncs,
            cpu_seconds=time.process_time(),
            blocks=counters.blocks,
            decisions=counters.decisions,
        )
