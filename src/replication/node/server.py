"""A node as a process: everything put together on one home, served with mTLS until told to stop.

`run` is what `acp node` calls. It opens the home (which locks it), the journal and the record, and starts the
driver, the links to the other members and the gRPC server. It comes back with 0 after SIGTERM or SIGINT, and
raises the error that ended the node otherwise: an `OperatorError` for what a person has to put right, a
`StorageError` when the disk failed or the record is damaged, an `InvariantError` when something broke that
must always hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # ships no types

from replication import __version__
from replication.identity.members import MemberSet
from replication.ledger.application import VotingApplication
from replication.node.access import ACCESS, Gate, MayVote
from replication.node.calls import CallMeter
from replication.node.config import Timing
from replication.node.driver import Driver
from replication.node.home import OpenedHome, open_home
from replication.node.listening import ListenError, require_free_port
from replication.node.logs import configure_logging
from replication.node.metrics import Snapshot
from replication.node.monitoring import Monitoring, why_not_ready
from replication.node.open_files import room_for_connections
from replication.node.peers import (
    KEEPALIVE_MS,
    KEEPALIVE_TIMEOUT_MS,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    PeerLinks,
)
from replication.node.policies import Policy, load_policy
from replication.node.services.audit import AuditService
from replication.node.services.cluster import ClusterService
from replication.node.services.peer import PeerService, add_peer_service
from replication.node.services.voting import VotingService
from replication.node.storage import Storage, open_storage
from replication.node.tracing import connect
from replication.node.transport import Transport
from replication.ordering.pacemaker import ReplicaSettings
from replication.v1 import (
    audit_service_pb2_grpc,
    cluster_service_pb2_grpc,
    peer_service_pb2,
    voting_service_pb2_grpc,
)

__all__ = ["run"]

MAX_STREAMS_PER_CONNECTION: Final = 256
"""Calls under way on one connection. More wait at the client, so that who is refused late (`access`) has to
wait as well; one that needs more opens a second."""

STREAM_WINDOW_BYTES: Final = 256 * 1024
"""What a stream may have on the way to this node: 5 MB a second over 50 ms. gRPC would measure the line and
give many MiB to whoever sends fast; a flood of large messages then took six times the memory."""

HANDSHAKE_MS: Final = 5_000
"""How long a connection may take to prove who it is. Strangers hold the room for connections no longer."""

COLLECT_AFTER_OBJECTS: Final = 50_000
"""New objects that outlive their makers before the collector looks: some 10 MB at most."""

MALLOC_ARENAS: Final = 2
MALLOC_MAP_BYTES: Final = 128 * 1024
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Parameters of mallopt(3)."""

HEALTH_SECONDS: Final = 0.25
"""How often it is looked whether the node is ready."""

STOP_SECONDS: Final = 2.0
"""How long calls under way may take to end when the node stops."""

_SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    # Two processes on one port would each get half of the connections; the second has to fail.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    # Peers ping at the same rate; faster ones are disconnected.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
)

_SERVICES: Final = tuple(sorted({path.split("/")[1] for path in ACCESS}))

_log = logging.getLogger(__name__)


def run(home: Path) -> int:
    """Run the node of `home` until it is told to stop; 0 when it ended in good order.

    Raises:
        OperatorError: the home, its files, keys, certificates, policy or port have to be put right.
        StorageError: the disk failed, or the record or the journal is damaged.
        InvariantError: something that must always hold did not; the node has stopped before it did harm.
    """
    with open_home(home) as opened:
        config = opened.config
        configure_logging(config.log_level, opened.member_id, form=config.log_format)
        require_free_port(opened.config.listen)
        policy = load_policy(opened.config.policy, opened.home.path)
        with open_storage(opened) as storage:
            _tune_collector()
            _tune_allocator()
            asyncio.run(_serve(opened, policy, storage))
    return 0


def _tune_collector() -> None:
    """Let the garbage collector look less often, and not at what was loaded at the start.

    A decision makes some hundreds of short-lived objects, nearly all of which reference counting frees. With
    the default threshold of 700 a tenth of the CPU time went into looking for cycles among them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 20)


def _tune_allocator() -> None:
    """Have glibc give freed memory back; elsewhere, nothing is done.

    Left alone it keeps an arena for each of gRPC's threads, and raises the size from which buffers are mapped
    to that of the largest freed one: a flood of large messages left twice as much behind.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, MALLOC_ARENAS)
        library.mallopt(_M_MMAP_THRESHOLD, MALLOC_MAP_BYTES)


async def _serve(opened: OpenedHome, policy: Policy, storage: Storage) -> None:
    await Node(opened, policy, storage).serve()


class Node:
    """Everything of a running node. Make it on the event loop that is to run it."""

    def __init__(self, opened: OpenedHome, policy: Policy, storage: Storage) -> None:
        self._opened = opened
        self._application = VotingApplication(opened.genesis, storage.store)
        self._transport = Transport(opened)
        self._traces = (
            connect(opened.config.tracing, opened.member_id, opened.genesis.cluster_id)
            if opened.config.tracing
            else None
        )
        self._links = PeerLinks(hello=self._hello, credentials=self._transport.channel_credentials())
        self._driver = Driver(
            member=opened.member_id,
            genesis=opened.genesis,
            key=opened.signing_key,
            store=storage.store,
            journal=storage.journal,
            journal_state=storage.journal_state,
            application=self._application,
            transport=self._links,
            policy=policy,
            replica_settings=replica_settings(opened.config.timing),
            members_changed=self._relink,
            traces=self._traces,
        )
        self._peer_service = PeerService(opened.member_id, opened.genesis.cluster_id, self._driver)
        self._health = health.aio.HealthServicer()
        self._meter = CallMeter(self._traces)
        self._monitoring: Monitoring | None = None
        self._stopping = asyncio.Event()

    async def serve(self) -> None:
        """Serve until a signal comes, or the driver fails, whose error is raised then."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        server = self._server()
        stopping = asyncio.ensure_future(self._stopping.wait())
        watching: asyncio.Future[None] | None = None
        loop.add_signal_handler(signal.SIGHUP, self._transport.look_now)
        renewing = asyncio.ensure_future(self._transport.follow(self._links.renew))
        try:
            await self._driver.start()
            await server.start()
            self._links.start(self._driver, self._peers())
            self._look_at_peers()
            self._monitor()
            await self._announce()
            watching = asyncio.ensure_future(self._follow_health())
            waited: set[asyncio.Future[Any]] = {stopping, renewing, watching, self._driver.fatal}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, renewing, watching):
                if task is not None:
                    task.cancel()
            await self._stop(server)
        if self._driver.fatal.done():
            self._driver.fatal.result()
        if renewing.done() and not renewing.cancelled():
            renewing.result()  # it only ends by an error that nobody foresaw

    def _monitor(self) -> None:
        """Serve metrics, if the configuration says where."""
        listen = self._opened.config.monitoring
        if listen is not None:
            self._monitoring = Monitoring(listen, self._snapshot, self._driver.status, self._opened.member_id)
            _log.info("metrics and health are at http://%s", listen)

    async def _snapshot(self) -> Snapshot:
        summary = await self._driver.read(lambda store: store.summary())
        return Snapshot(
            member=self._opened.member_id,
            members=self._members(),
            faulty=self._application.faulty,
            status=self._driver.status(),
            summary=summary,
            certificates={
                "node": self._transport.certificate,
                "authority": self._transport.authority,
            },
            queues=self._links.queues,
            calls=self._meter.methods,
        )

    async def _follow_health(self) -> None:
        """Keep the health service's word on `ready` true. `live` needs no more than that somebody answers."""
        known = None
        while True:
            why = why_not_ready(self._driver.status(), self._opened.member_id)
            if why != known:
                known = why
                state = health_pb2.HealthCheckResponse
                await self._health.set("ready", state.NOT_SERVING if why else state.SERVING)
                _log.info("ready" if not why else f"not ready: {why}")
            await asyncio.sleep(HEALTH_SECONDS)

    async def _announce(self) -> None:
        for service in ("", "live", *_SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        status = self._driver.status()
        _log.info(
            "%s %s is up at %s: cluster %s, epoch %d, height %d",
            self._opened.member_id,
            __version__,
            self._opened.config.listen,
            self._opened.genesis.cluster_id.hex(),
            status.epoch,
            status.height,
        )

    async def _stop(self, server: grpc.aio.Server) -> None:
        """Say no to new work, end what waits, then close. An error here must not hide why the node ends."""

        async def stop_serving() -> None:
            await server.stop(STOP_SECONDS)

        _log.info("stopping")
        if self._monitoring is not None:
            await asyncio.to_thread(self._monitoring.stop)
        with contextlib.suppress(Exception):
            await self._health.enter_graceful_shutdown()
        for step in (self._driver.stop, self._links.stop, self._peer_service.stop, stop_serving):
            try:
                await step()
            except Exception:
                _log.exception("a step of stopping failed")
        if self._traces is not None:
            await asyncio.to_thread(self._traces.stop)
        _log.info("stopped")

    def _server(self) -> grpc.aio.Server:
        opened, driver = self._opened, self._driver
        server = grpc.aio.server(
            interceptors=[self._meter, Gate(opened.genesis.cluster_id)],
            options=[
                *_SERVER_OPTIONS,
                ("grpc.max_allowed_incoming_connections", room_for_connections()),
            ],
        )
        voting_service_pb2_grpc.add_VotingServiceServicer_to_server(
            VotingService(
                opened.member_id,
                opened.genesis,
                opened.signing_key,
                driver,
                self._application,
                MayVote(opened.member_id, opened.config.may_vote, lambda: self._transport.certificate),
            ),
            server,
        )
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(
            AuditService(opened.genesis, driver), server
        )
        cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server(
            ClusterService(
                opened.member_id,
                opened.genesis,
                opened.signing_key,
                driver,
                self._application,
                lambda: self._transport.expires_ms,
            ),
            server,
        )
        add_peer_service(self._peer_service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(_SERVICES, server)
        try:
            server.add_secure_port(opened.config.listen, self._transport.server_credentials())
        except RuntimeError as error:
            raise ListenError(
                f"the node cannot listen at {opened.config.listen}: {error}. Look who uses the port, and at "
                "the certificate and key in tls/."
            ) from error
        return server

    def _members(self) -> MemberSet:
        return self._application.members

    def _peers(self) -> dict[str, str]:
        """Where the other members of the epoch are: the configuration knows better than the record.

        A node that is not a member (yet, or any more) also follows those that only its configuration names:
        the members that it knows of may all be gone.
        """
        config, members = self._opened.config, self._members()
        peers = {
            member.id: config.peers.get(member.id, member.address)
            for member in members.members
            if member.id != config.id
        }
        return peers if config.id in members else {**peers, **config.peers}

    def _relink(self) -> None:
        """An epoch has begun: have links to its members."""
        if self._links.is_started:
            self._links.set_peers(self._peers())
            self._look_at_peers()

    def _look_at_peers(self) -> None:
        unknown = sorted(set(self._opened.config.peers) - set(self._members().ids))
        if unknown:
            _log.warning("config.toml has addresses of peers that are not members: %s", ", ".join(unknown))

    def _hello(self) -> peer_service_pb2.Hello:
        return peer_service_pb2.Hello(
            cluster_id=self._opened.genesis.cluster_id,
            epoch=self._members().epoch,
            member_id=self._opened.member_id,
            protocol_version=PROTOCOL_VERSION,
        )


def replica_settings(timing: Timing) -> ReplicaSettings:
    """The timing of the ordering protocol, in milliseconds, from that of the configuration.

    A heartbeat comes at a quarter of the idle timeout, so that three may be lost. A command may wait twice
    the idle timeout: it passes through a coordinator that may itself be waiting.
    """
    return ReplicaSettings(
        gather_ms=timing.gather_ms,
        repeat_ms=timing.repeat_ms,
        heartbeat_ms=max(timing.idle_timeout_ms // 4, 1),
        idle_timeout_ms=timing.idle_timeout_ms,
        busy_timeout_ms=2 * timing.idle_timeout_ms,
        clock_ahead_ms=timing.clock_bound_ms,
    )
