"""Shapes of broken networks: who can still send to whom."""

from __future__ import annotations

import asyncio
import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.faults.harness.links import SHAPES, Links, links_of, shape_cuts
from replication.faults.harness.proxy import Impairment

MEMBERS = tuple(f"node-{number}" for number in range(1, 8))
sizes = st.integers(2, 7)
seeds = st.integers()


def open_links(shape: str, nodes: int, hit: tuple[str, ...], seed: int) -> set[tuple[str, str]]:
    members = MEMBERS[:nodes]
    return set(permutations(members, 2)) - set(shape_cuts(shape, members, hit, random.Random(seed)))


def reach(start: str, links: set[tuple[str, str]]) -> set[str]:
    """Everybody to whom news from `start` can travel, passed on by others."""
    found, waiting = {start}, [start]
    while waiting:
        source = waiting.pop()
        new = {target for origin, target in links if origin == source} - found
        found |= new
        waiting += new
    return found


@given(st.sampled_from(SHAPES), sizes, seeds)
def test_every_shape_cuts_both_ways_and_never_oneself(shape: str, nodes: int, seed: int) -> None:
    cuts = set(shape_cuts(shape, MEMBERS[:nodes], MEMBERS[:1], random.Random(seed)))
    assert cuts == {(target, source) for source, target in cuts}
    assert all(source != target for source, target in cuts)


@given(sizes, seeds)
def test_isolate(nodes: int, seed: int) -> None:
    links = open_links("isolate", nodes, ("node-2",), seed)
    assert reach("node-2", links) == {"node-2"}
    assert reach("node-1", links) == set(MEMBERS[:nodes]) - {"node-2"}


@given(sizes, seeds)
def test_halves(nodes: int, seed: int) -> None:
    side = reach("node-1", open_links("halves", nodes, ("node-1",), seed))
    assert len(side) == nodes // 2


@given(st.integers(4, 7), seeds)
def test_ring(nodes: int, seed: int) -> None:
    links = open_links("ring", nodes, (), seed)
    assert reach("node-1", links) == set(MEMBERS[:nodes])
    assert all(sum(source == member for source, _ in links) == 2 for member in MEMBERS[:nodes])


@given(st.integers(3, 7), seeds)
def test_chain(nodes: int, seed: int) -> None:
    links = open_links("chain", nodes, (), seed)
    assert reach("node-1", links) == set(MEMBERS[:nodes])
    assert sorted(sum(source == member for source, _ in links) for member in MEMBERS[:nodes])[:2] == [1, 1]


@given(st.integers(3, 7), seeds)
def test_bridge(nodes: int, seed: int) -> None:
    links = open_links("bridge", nodes, ("node-3",), seed)
    assert {target for source, target in links if source == "node-3"} == set(MEMBERS[:nodes]) - {"node-3"}
    without = {(source, target) for source, target in links if "node-3" not in (source, target)}
    assert len(reach("node-1", without)) < nodes - 1 or nodes == 3


def test_links_of_a_member() -> None:
    members = MEMBERS[:3]
    assert links_of(members, ["node-1"], "outgoing") == [("node-1", "node-2"), ("node-1", "node-3")]
    assert links_of(members, ["node-1"], "incoming") == [("node-2", "node-1"), ("node-3", "node-1")]
    assert len(links_of(members, ["node-1"], "both")) == 4
    assert len(links_of(members, members, "both")) == 6


def test_every_directed_link_has_a_port_of_its_own() -> None:
    async def work() -> None:
        links = Links(dict.fromkeys(MEMBERS[:4], "127.0.0.1:1"), seed=1)
        await links.start()
        try:
            peers = {member: links.peers_of(member) for member in MEMBERS[:4]}
            assert all(set(peers[member]) == set(MEMBERS[:4]) - {member} for member in peers)
            assert len({address for table in peers.values() for address in table.values()}) == 12
            pairs = [("node-1", "node-2"), ("node-3", "node-2")]
            links.impose("x", pairs, Impairment(refuse=True))
            assert links.proxy("node-3", "node-2").state.refuse
            assert not links.proxy("node-2", "node-3").state.refuse
            links.lift("x")
            assert not links.proxy("node-3", "node-2").state.refuse
            assert links.counters(pairs).connections == 0
        finally:
            await links.stop()

    asyncio.run(work())


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_follow_the_draw(shape: str) -> None:
    first = shape_cuts(shape, MEMBERS, MEMBERS[:1], random.Random(5))
    assert first == shape_cuts(shape, MEMBERS, MEMBERS[:1], random.Random(5))
