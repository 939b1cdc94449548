"""Pacing: a burst is free, then there is a rate, and no name pays for another."""

from __future__ import annotations

import pytest

from replication.node import pacing
from replication.node.pacing import Pacer


def test_a_burst_then_a_rate() -> None:
    pacer = Pacer(10, 5, 60.0)
    assert [pacer.delay("a", 100.0) for _ in range(5)] == [0.0] * 5
    assert [round(pacer.delay("a", 100.0), 6) for _ in range(3)] == [0.1, 0.2, 0.3]
    assert pacer.delay("b", 100.0) == 0.0
    assert round(pacer.delay("a", 100.35), 6) == 0.05, "time pays it off"
    assert round(pacer.delay("a", 100.35, count=4), 6) == 0.45
    assert [pacer.delay("a", 200.0) for _ in range(5)] == [0.0] * 5, "and no more than a burst is saved"
    assert pacer.delay("a", 200.0) > 0


def test_nobody_owes_more_than_the_longest_wait() -> None:
    pacer = Pacer(10, 1, 2.0)
    assert max(pacer.delay("a", 0.0) for _ in range(1_000)) == 2.0
    assert pacer.delay("a", 3.0) == 0.0


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "MAX_REMEMBERED", 3)
    pacer = Pacer(1, 1, 60.0)
    for name in "abcdefgh":
        pacer.delay(name, 0.0)
        pacer.delay(name, 0.0)
    assert len(vars(pacer)["_due"]) <= 3
    assert pacer.delay("h", 0.0) > 0
