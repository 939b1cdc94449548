"""Faults of the network between the nodes, by proxies on every directed link, or by real interfaces.

Clients reach all nodes all the time: a client at a cut-off coordinator is the one that could be lied to.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, ClassVar, Final

from replication.client.model import ClusterStatus
from replication.faults.harness.fault import Fault, Kind, Need, NotPossibleError, Planned
from replication.faults.harness.links import SHAPES, links_of, shape_cuts
from replication.faults.harness.process_faults import (
    OPERATOR_EXIT,
    StoppingFault,
    describe_code,
    last_words,
    run_node_to_its_end,
)
from replication.faults.harness.proxy import Impairment, LinkCounters
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Choice, Number
from replication.faults.harness.site import LOOK_SECONDS
from replication.identity.genesis import load_genesis
from replication.identity.private_files import read_private
from replication.identity.roles import Role
from replication.identity.tls import issue, write_private
from replication.node.config import split_address

if TYPE_CHECKING:
    from replication.faults.harness.site import Site

__all__ = ["NETWORK_FAULTS"]

DIRECTIONS: Final = ("both", "outgoing", "incoming")
DIRECTION: Final = Choice("both", DIRECTIONS)
_LINKS: Final = frozenset({Need.LINKS})
_NAMESPACES: Final = frozenset({Need.NAMESPACES})


class LinkFault(Fault):
    """Something is wrong with some links. Seen by what the proxies count."""

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        super().__init__(planned, members, site, draw)
        self.links = site.require_links()
        self.pairs = self.affected()
        self._before = LinkCounters()

    @property
    def key(self) -> str:
        """The name in which this fault impairs links."""
        return f"{self.planned.kind} {self.planned.number}"

    def affected(self) -> list[tuple[str, str]]:
        """The links that are hit."""
        return links_of(self.site.members, self.members, self.setting("direction"))

    def impairment(self) -> Impairment:
        """What is wrong with them."""
        raise NotImplementedError

    async def begin(self) -> None:
        if not self.pairs:
            raise NotPossibleError("no link is hit: the cluster is too small for this shape")
        self._before = self.links.counters(self.pairs)
        self.links.impose(self.key, self.pairs, self.impairment())

    async def observe(self) -> None:
        seen = self.links.counters(self.pairs).since(self._before)
        for count, words in (
            (seen.stalled_bytes, "bytes were held back"),
            (seen.refused + seen.reset, "connections were refused or broken"),
            (seen.lost_chunks, "losses made bytes late"),
            (seen.late_chunks - seen.lost_chunks, "chunks came late"),
        ):
            if count > 0:
                self.effect(f"{words} on {len(self.pairs)} links")

    async def end(self) -> None:
        await self.observe()
        seen = self.links.counters(self.pairs).since(self._before)
        if self.took_effect:
            self.effect(
                f"in total {seen.stalled_bytes} bytes held back, {seen.late_chunks} chunks late, "
                f"{seen.refused + seen.reset} connections refused or broken"
            )
        self.links.lift(self.key)


class Partition(LinkFault):
    """The network falls apart."""

    kind: ClassVar[Kind] = Kind(
        "partition",
        Group.NETWORK,
        "the network falls apart: isolate, halves, ring, bridge or chain; both ways or one way",
        settings={
            "shape": Choice("isolate", SHAPES),
            "direction": DIRECTION,
            "how": Choice("stall", ("stall", "refuse")),
        },
        needs=_LINKS,
    )

    def affected(self) -> list[tuple[str, str]]:
        cuts = shape_cuts(self.setting("shape"), self.site.members, self.members, self.draw)
        one_way = self.setting("direction")
        if one_way == "both":
            return cuts
        return [
            (source, target)
            for source, target in cuts
            if (source if one_way == "outgoing" else target) in self.members
        ]

    def impairment(self) -> Impairment:
        if self.setting("how") == "refuse":
            return Impairment(refuse=True)
        return Impairment(stall_forward=True, stall_backward=True)


class Flapping(Partition):
    """A partition that comes and goes."""

    kind: ClassVar[Kind] = Kind(
        "flapping",
        Group.NETWORK,
        "a partition that comes and goes",
        settings={**Partition.kind.settings, "period_seconds": Number(1.0, 0.02, 600.0)},
        needs=_LINKS,
    )

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        super().__init__(planned, members, site, draw)
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await super().begin()
        self._task = asyncio.create_task(self._flap())

    async def _flap(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(self.setting("period_seconds") / 2)
            self.links.lift(self.key)
            await asyncio.sleep(self.setting("period_seconds") / 2)
            self.links.impose(self.key, self.pairs, self.impairment())
            count += 1
            if count == 1:
                self.effect("the links were cut, healed and cut again")

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await super().end()


class Delay(LinkFault):
    """Everything comes late, and not always equally late."""

    kind: ClassVar[Kind] = Kind(
        "delay",
        Group.NETWORK,
        "everything comes late, with jitter",
        settings={
            "delay_ms": Number(50.0, 0.0, 60_000.0),
            "jitter_ms": Number(0.0, 0.0, 60_000.0),
            "direction": DIRECTION,
        },
        needs=_LINKS,
        default_target="all",
    )

    def impairment(self) -> Impairment:
        return Impairment(delay_ms=self.setting("delay_ms"), jitter_ms=self.setting("jitter_ms"))


class Bandwidth(LinkFault):
    """A narrow line."""

    kind: ClassVar[Kind] = Kind(
        "bandwidth",
        Group.NETWORK,
        "a narrow line",
        settings={"bytes_per_second": Number(32_000.0, 100.0), "direction": DIRECTION},
        needs=_LINKS,
        default_target="all",
    )

    def impairment(self) -> Impairment:
        return Impairment(bytes_per_second=self.setting("bytes_per_second"))


class Loss(LinkFault):
    """Packets get lost: what TCP makes of it is a pause of one retransmission time-out."""

    kind: ClassVar[Kind] = Kind(
        "loss",
        Group.NETWORK,
        "packets get lost: some bytes come a retransmission time-out later, and all behind them",
        settings={
            "share": Number(0.05, 0.0001, 1.0),
            "pause_ms": Number(200.0, 1.0, 60_000.0),
            "direction": DIRECTION,
        },
        needs=_LINKS,
        default_target="all",
    )

    def impairment(self) -> Impairment:
        return Impairment(loss_share=self.setting("share"), loss_pause_ms=self.setting("pause_ms"))


class HalfOpen(LinkFault):
    """Connections through which only one of the two ends is heard."""

    kind: ClassVar[Kind] = Kind(
        "half-open",
        Group.NETWORK,
        "the node's bytes arrive nowhere on any connection, but it gets everything",
        needs=_LINKS,
    )

    def affected(self) -> list[tuple[str, str]]:
        return links_of(self.site.members, self.members, "both")

    async def begin(self) -> None:
        self._before = self.links.counters(self.pairs)
        own = [pair for pair in self.pairs if pair[0] in self.members]
        others = [pair for pair in self.pairs if pair[0] not in self.members]
        self.links.impose(self.key, own, Impairment(stall_forward=True))
        self.links.impose(self.key, others, Impairment(stall_backward=True))


class Clog(LinkFault):
    """Nothing comes through for a while, and then all of it at once."""

    kind: ClassVar[Kind] = Kind(
        "clog",
        Group.NETWORK,
        "nothing comes through for a while, and then all of it at once",
        settings={"direction": DIRECTION},
        needs=_LINKS,
    )

    def impairment(self) -> Impairment:
        return Impairment(stall_forward=True, stall_backward=True, clog=True)


class Reset(LinkFault):
    """Connections break, and may be opened again at once."""

    kind: ClassVar[Kind] = Kind(
        "reset",
        Group.NETWORK,
        "all connections of the node break with a reset, again and again",
        settings={"period_seconds": Number(0.5, 0.02, 600.0), "direction": DIRECTION},
        needs=_LINKS,
    )

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        super().__init__(planned, members, site, draw)
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._before = self.links.counters(self.pairs)
        self._task = asyncio.create_task(self._reset())

    async def _reset(self) -> None:
        while True:
            self.links.reset(self.pairs)
            await asyncio.sleep(self.setting("period_seconds"))

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await super().end()


class Cable(Fault):
    """The cable is out. The kernel of the node notices what a kernel notices."""

    kind: ClassVar[Kind] = Kind(
        "cable", Group.NETWORK, "the cable is pulled (real interfaces)", needs=_NAMESPACES
    )

    async def begin(self) -> None:
        networks = self.site.require_namespaces()
        for member in self.members:
            networks.set_cable(member, up=False)
        self._before = {member: networks.traffic(member) for member in self.members}
        self._since = time.monotonic()

    async def observe(self) -> None:
        if time.monotonic() - self._since < 0.3:
            return
        networks = self.site.require_namespaces()
        for member in self.members:
            if networks.traffic(member) == self._before[member]:
                self.effect(f"{member}: no byte passed its interface")

    async def end(self) -> None:
        for member in self.members:
            self.site.require_namespaces().set_cable(member, up=True)


class Blackhole(Fault):
    """Packets vanish on their way, and nobody is told."""

    kind: ClassVar[Kind] = Kind(
        "blackhole",
        Group.NETWORK,
        "packets between the node and the others vanish (real interfaces), one way or both",
        settings={"direction": DIRECTION},
        needs=_NAMESPACES,
    )

    async def begin(self) -> None:
        self.pairs = links_of(self.site.members, self.members, self.setting("direction"))
        for source, target in self.pairs:
            self.site.require_namespaces().set_route(source, target, lost=True)

    async def observe(self) -> None:
        answers = await self.site.observer.survey(timeout_seconds=LOOK_SECONDS * self.site.pace)
        for status in answers.values():
            others = self.members if status.node_id not in self.members else self.site.members
            lost = [member for member in others if _misses(status, member)]
            if lost:
                self.effect(f"{status.node_id} no longer hears {', '.join(lost)}")

    async def end(self) -> None:
        for source, target in self.pairs:
            self.site.require_namespaces().set_route(source, target, lost=False)


class Packets(Fault):
    """The kernel's own network emulator: delays, losses, duplicates, another order, flipped bits."""

    kind: ClassVar[Kind] = Kind(
        "packets",
        Group.NETWORK,
        "packets are late, lost, doubled, reordered or corrupted (real interfaces, the kernel's netem)",
        settings={
            "delay_ms": Number(0.0, 0.0, 60_000.0),
            "jitter_ms": Number(0.0, 0.0, 60_000.0),
            "loss_percent": Number(0.0, 0.0, 100.0),
            "duplicate_percent": Number(0.0, 0.0, 100.0),
            "reorder_percent": Number(0.0, 0.0, 100.0),
            "corrupt_percent": Number(0.0, 0.0, 100.0),
        },
        needs=_NAMESPACES,
    )

    async def begin(self) -> None:
        settings: list[str] = []
        delay, jitter = self.setting("delay_ms"), self.setting("jitter_ms")
        if delay or jitter:
            settings += ["delay", f"{delay:g}ms", f"{jitter:g}ms"]
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if self.setting(f"{name}_percent"):
                settings += [name, f"{self.setting(f'{name}_percent'):g}%"]
        if not settings:
            raise NotPossibleError("no setting says what should happen to packets")
        for member in self.members:
            self.site.require_namespaces().set_queue(member, settings)
            self.effect(f"{member}: sends through netem {' '.join(settings)}")

    async def end(self) -> None:
        for member in self.members:
            self.site.require_namespaces().set_queue(member, ())


class CertificateExpires(StoppingFault):
    """A node's transport certificate runs out while it serves; its connections break after that.

    It is started on a certificate that is valid for a few seconds only. When it has expired, the connections
    are broken: nobody may accept the node any more, and its next start has to be refused. Healed by a new
    certificate."""

    kind: ClassVar[Kind] = Kind(
        "certificate-expires",
        Group.NETWORK,
        "a node's certificate runs out while it serves; nobody takes its connections any more",
        settings={"valid_seconds": Number(6.0, 1.0, 3600.0)},
        needs=_LINKS,
    )

    async def begin(self) -> None:
        links = self.site.require_links()
        await self.take_down()
        valid_seconds = self.setting("valid_seconds") * self.site.pace  # the start has to fit in
        expiry = time.monotonic() + valid_seconds
        for member in self.members:
            self._put_certificate(member, valid_seconds)
        await self.bring_up()
        await asyncio.sleep(max(expiry + 1.0 - time.monotonic(), 0.0))  # certificates count whole seconds
        links.reset(links_of(self.site.members, self.members, "both"))

    async def observe(self) -> None:
        answers = await self.site.observer.survey(timeout_seconds=LOOK_SECONDS * self.site.pace)
        for member in self.members:
            deaf = [status.node_id for status in answers.values() if _misses(status, member)]
            if deaf:
                self.effect(
                    f"{', '.join(sorted(deaf))} no longer hear {member}, whose certificate has expired"
                )

    async def end(self) -> None:
        for member in self.members:
            await self.site.nodes[member].hold(self.who)
            await self._expect_refusal(member)
            self._put_certificate(member, 3600.0)
        await self.bring_up()

    async def _expect_refusal(self, member: str) -> None:
        home = self.site.nodes[member].home
        code, words = await asyncio.to_thread(run_node_to_its_end, home, self.site.pace)
        if code == OPERATOR_EXIT and "expired" in words:
            self.effect(f"{member}: refused to start on an expired certificate")
        else:
            self.violation(
                f"{member}: started on an expired certificate, {describe_code(code)}: {last_words(words)}"
            )

    def _put_certificate(self, member: str, seconds: float) -> None:
        home, authority = self.site.nodes[member].home, self.site.directory / "ca"
        genesis = load_genesis(home.genesis)
        host, _ = split_address(genesis.members.members[genesis.members.index_of(member)].address)
        certificate, key = issue(
            (authority / "ca.crt").read_bytes(),
            read_private(authority / "ca.key"),
            genesis.cluster_id,
            Role.NODE,
            member,
            [host],
            days=seconds / 86_400,
        )
        home.tls_certificate.write_bytes(certificate)
        write_private(home.tls_key, key)


def _misses(status: ClusterStatus, member: str) -> bool:
    """Whether a node says that it does not hear `member`."""
    return any(state.id == member and not state.reachable for state in status.members)


NETWORK_FAULTS: Final[tuple[type[Fault], ...]] = (
    Partition, Flapping, Delay, Bandwidth, Loss, HalfOpen, Clog, Reset, Cable, Blackhole, Packets,
    CertificateExpires,
)  # fmt: skip
