"""Processes under test: held by several faults at once, paused, noticed when they end. A shell stands in for
a node.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from replication.faults.harness.cluster import pace_of
from replication.faults.harness.nodes import NodeExit, NodeUnderTest
from replication.faults.harness.scenario import Bounds

SOON = 20.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "node-1"
    path.mkdir()
    return path


class Stand:
    """A node whose process is a shell command."""

    def __init__(self, home: Path, script: str = "exec sleep 1000") -> None:
        self.ends: list[NodeExit] = []
        self.node = NodeUnderTest("node-1", home, ["sh", "-c", script, "sh", str(home)], self.ends.append)


@pytest.fixture
def stand(home: Path) -> Iterator[Stand]:
    made = Stand(home)
    yield made
    made.node.signal(signal.SIGCONT)
    made.node.kill_now()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(main())


def test_a_node_is_held_by_the_last_who_wants_it_down(stand: Stand) -> None:
    async def work() -> None:
        node = stand.node
        node.start()
        assert node.pid is not None
        assert await node.hold("one") is not None
        assert await node.hold("two") is None  # it was down already
        node.release("one")
        assert node.pid is None
        node.release("two")
        assert node.pid is not None
        assert node.starts == 2
        assert [(end.code, end.expected) for end in stand.ends] == [(-signal.SIGKILL, True)]

    run(work)


def test_an_end_that_nobody_wanted_is_reported_as_such(home: Path) -> None:
    async def work() -> None:
        stand = Stand(home, "echo what went wrong; exit 9")
        stand.node.start()
        ended = await stand.node.wait_end(SOON)
        assert ended is not None
        assert (ended.code, ended.expected) == (9, False)
        assert "what went wrong" in ended.words
        assert stand.ends == [ended]

    run(work)


def test_an_end_that_was_allowed_is_not_held_against_it(home: Path) -> None:
    async def work() -> None:
        stand = Stand(home, "exit 9")
        stand.node.allow_end("fault")
        stand.node.start()
        ended = await stand.node.wait_end(SOON)
        assert ended is not None
        assert ended.expected
        stand.node.forbid_end("fault")
        assert not stand.node.may_be_down

    run(work)


def test_a_paused_node_goes_on_when_nobody_wants_it_paused_any_more(stand: Stand) -> None:
    async def work() -> None:
        node = stand.node
        assert not node.pause("early")
        node.start()
        assert node.pause("one")
        assert node.pause("two")
        await until(lambda: node.state_letter() == "T")
        node.resume("one")
        assert node.state_letter() == "T"
        node.resume("two")
        await until(lambda: node.state_letter() != "T")

    run(work)


def test_a_paused_node_can_be_stopped_in_good_order(home: Path) -> None:
    async def work() -> None:
        stand = Stand(home, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done")
        node = stand.node
        node.start()
        await until(lambda: "ready" in node.log_since(0))
        node.pause("fault")
        await until(lambda: node.state_letter() == "T")
        await node.stop()
        assert node.pid is None
        assert stand.ends[-1].code == 0

    run(work)


def test_memory_and_state_are_those_of_the_process(stand: Stand) -> None:
    assert stand.node.memory_kib() is None
    assert stand.node.state_letter() == ""
    stand.node.start()
    memory = stand.node.memory_kib()
    assert memory is not None
    assert memory > 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("seconds", "nodes", "cores", "pace"),
    [
        (3.0, 4, 2, 1.0),
        (4.5, 4, 2, 1.0),
        (9.0, 4, 2, 2.0),
        (9.0, 8, 4, 2.0),
        (12.0, 7, 1, 1.0),
        (999.0, 4, 2, 10.0),
    ],
)
def test_a_busy_machine_gets_more_time(seconds: float, nodes: int, cores: int, pace: float) -> None:
    assert pace_of(seconds, nodes, cores) == pytest.approx(pace)
    bounds = Bounds(recover_seconds=5.0, stall_seconds=2.0).stretched(pace)
    assert (bounds.recover_seconds, bounds.stall_seconds) == (5.0 * pace, 2.0 * pace)
    assert Bounds().stretched(3.0).stall_seconds is None
