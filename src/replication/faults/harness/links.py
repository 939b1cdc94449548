"""All directed links of a cluster, and the shapes that networks break into.

Node A reaches B through the proxy of the link A -> B, because A's configuration says so (`[peers]`). All that
A sends to B travels on connections that A opened, so a link cut is A unheard by B; B is still heard by A."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from replication.faults.harness.proxy import Impairment, LinkCounters, LinkProxy
from replication.node.config import split_address

__all__ = ["SHAPES", "Links", "links_of", "shape_cuts"]

Pair = tuple[str, str]
"""A directed link: source, target."""

SHAPES: Final = ("isolate", "halves", "ring", "bridge", "chain")


class Links:
    """The proxies between all members. `addresses` are where they really listen, ``host:port`` by id."""

    def __init__(self, addresses: Mapping[str, str], seed: int) -> None:
        self.members = tuple(addresses)
        self._proxies = {
            (source, target): LinkProxy(source, target, split_address(addresses[target]), seed)
            for source in addresses
            for target in addresses
            if source != target
        }

    async def start(self) -> None:
        """Listen on loopback, on ports that the system chooses."""
        for proxy in self._proxies.values():
            await proxy.start()

    async def stop(self) -> None:
        """Close all proxies."""
        await asyncio.gather(*(proxy.stop() for proxy in self._proxies.values()))

    def peers_of(self, member: str) -> dict[str, str]:
        """What `[peers]` in a member's configuration has to say."""
        return {
            target: f"127.0.0.1:{proxy.port}"
            for (source, target), proxy in self._proxies.items()
            if source == member
        }

    def proxy(self, source: str, target: str) -> LinkProxy:
        """One link."""
        return self._proxies[source, target]

    def impose(self, key: str, pairs: Iterable[Pair], impairment: Impairment) -> None:
        """Make these links worse, in the name of `key`."""
        for pair in pairs:
            self._proxies[pair].impose(key, impairment)

    def lift(self, key: str) -> None:
        """Take back all that was imposed in the name of `key`."""
        for proxy in self._proxies.values():
            proxy.lift(key)

    def reset(self, pairs: Iterable[Pair]) -> int:
        """Break the open connections of these links; how many there were."""
        return sum(self._proxies[pair].reset() for pair in pairs)

    def counters(self, pairs: Iterable[Pair]) -> LinkCounters:
        """Sums over these links."""
        total = LinkCounters()
        for pair in pairs:
            total = total.plus(self._proxies[pair].counters)
        return total

    def waiting_bytes(self, pairs: Iterable[Pair]) -> int:
        """Bytes that are held back on these links now."""
        return sum(self._proxies[pair].waiting_bytes for pair in pairs)


def links_of(members: Sequence[str], hit: Sequence[str], direction: str) -> list[Pair]:
    """The links between the members `hit` and everybody: "outgoing", "incoming" or "both"."""
    pairs = []
    for source in members:
        for target in members:
            out = source in hit and direction in ("outgoing", "both")
            into = target in hit and direction in ("incoming", "both")
            if source != target and (out or into):
                pairs.append((source, target))
    return pairs


def shape_cuts(shape: str, members: Sequence[str], hit: Sequence[str], draw: random.Random) -> list[Pair]:
    """The directed links that are cut when the network has this shape.

    * isolate: the members `hit` from all others (those are still together).
    * halves: two sides as equal as can be, drawn; of an odd number, the smaller side has the first member
      `hit`.
    * ring: everybody hears only its two neighbours, in an order that is drawn.
    * bridge: two sides that only the first member `hit` can speak to.
    * chain: as ring, but open, so that news must travel from end to end.

    """
    order = list(members)
    draw.shuffle(order)
    if shape == "isolate":
        return _between([hit, [member for member in members if member not in hit]])
    if shape == "halves":
        first = [member for member in order if member in hit] + [
            member for member in order if member not in hit
        ]
        middle = len(order) // 2
        return _between([first[:middle], first[middle:]])
    if shape == "bridge":
        middle_member = hit[0] if hit else order[0]
        rest = [member for member in order if member != middle_member]
        return _between([rest[: len(rest) // 2], rest[len(rest) // 2 :]])
    near = {(order[index], order[index + 1]) for index in range(len(order) - 1)}
    if shape == "ring":
        near.add((order[-1], order[0]))
    near |= {(target, source) for source, target in near}
    return [
        (source, target)
        for source in members
        for target in members
        if source != target and (source, target) not in near
    ]


def _between(sides: Sequence[Sequence[str]]) -> list[Pair]:
    """All links from one side to another."""
    return [
        (source, target)
        for side in sides
        for other in sides
        if side is not other
        for source in side
        for target in other
    ]
