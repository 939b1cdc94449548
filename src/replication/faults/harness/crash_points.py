"""Crashes at named points: SIGKILL in the middle of what a node does, where it hurts most."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from replication.faults.harness.behaviour import Behaviour
from replication.faults.harness.inside import Armed, Control
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Choice, Whole

__all__ = ["BEHAVIOURS_HERE", "POINTS", "Point"]


@dataclass(frozen=True, slots=True)
class Point:
    """A point in the program: before or after a function, or in the middle of a write."""

    module: str
    function: str
    after: bool
    summary: str
    torn: bool = False


POINTS: Final[Mapping[str, Point]] = {
    "before-promise": Point(
        "replication.ledger.journal", "SignJournal.write", False, "a statement is signed, and not yet on disk"
    ),
    "after-promise": Point(
        "replication.ledger.journal", "SignJournal.write", True, "a statement is on disk, and has not left"
    ),
    "torn-promise": Point(
        "replication.ledger.files",
        "Files.write",
        False,
        "half of a write to the journal has happened",
        torn=True,
    ),
    "before-commit": Point(
        "replication.ledger.store", "Store.append", False, "a block is final, and not yet in the record"
    ),
    "after-commit": Point(
        "replication.ledger.store", "Store.append", True, "a block is in the record, and nobody was told"
    ),
    "before-send": Point(
        "replication.node.peers", "PeerLinks.send", False, "a message is about to be handed to the network"
    ),
    "while-serving-blocks": Point(
        "replication.node.services.peer",
        "PeerService.FetchBlocks",
        False,
        "a peer that catches up waits for blocks",
    ),
    "while-catching-up": Point(
        "replication.node.peers", "PeerLinks.fetch_blocks", True, "blocks were fetched, and not yet applied"
    ),
}


def _die(control: Control, armed: Armed, point: Point) -> NoReturn:
    control.effect(armed, f"SIGKILL: {point.summary}")
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("SIGKILL did not end the process")


def _install(control: Control) -> None:
    for name, point in POINTS.items():
        owner_name, _, method = point.function.partition(".")
        owner = getattr(importlib.import_module(point.module), owner_name)
        original = getattr(owner, method)
        setattr(owner, method, _changed(control, name, point, original))


def _changed(control: Control, name: str, point: Point, original: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the crash in it."""

    def is_time() -> Armed | None:
        """The armed crash, if this is its point and its turn."""
        armed = control.armed("crash")
        if armed is None or armed.settings["point"] != name:
            return None
        return armed if control.count(f"passes of {armed.key}") >= armed.settings["pass"] else None

    @functools.wraps(original)
    def plain(*arguments: Any, **options: Any) -> Any:
        armed = is_time()
        if armed is not None and point.torn:
            _write_half(*arguments, **options)
        if armed is not None and not point.after:
            _die(control, armed, point)
        answer = original(*arguments, **options)
        if armed is not None:
            _die(control, armed, point)
        return answer

    @functools.wraps(original)
    async def waiting(*arguments: Any, **options: Any) -> Any:
        armed = is_time()
        if armed is not None and not point.after:
            _die(control, armed, point)
        answer = await original(*arguments, **options)
        if armed is not None:
            _die(control, armed, point)
        return answer

    return waiting if inspect.iscoroutinefunction(original) else plain


def _write_half(files: object, descriptor: int, data: bytes, offset: int) -> None:
    """The first half of what should have been written."""
    os.pwrite(descriptor, bytes(data)[: len(data) // 2], offset)


BEHAVIOURS_HERE: Final = (
    Behaviour(
        name="crash",
        group=Group.PROCESS,
        summary=f"SIGKILL at a named point of the program: {', '.join(POINTS)}",
        settings={"point": Choice("after-promise", tuple(POINTS)), "pass": Whole(1, 1, 10_000)},
        install=_install,
        ends=True,
    ),
)
