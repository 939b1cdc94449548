"""What a node counts about its own work, and a log that a misbehaving peer cannot fill."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from replication.node.histogram import DECISION_BOUNDS_US, Histogram

__all__ = ["Counters", "PeerLog"]

LOG_EVERY_MS = 5_000
"""One line for each peer in this time; the rest is counted."""


@dataclass(slots=True)
class Counters:
    """Totals since the start of the process.

    turns: batches of inputs. messages: taken from peers. refused: of these, the invalid ones. submitted:
    commands of one's own. blocks, entries, decisions, evidence: committed here. views: how often the view
    changed. pages, bad_pages: of fetched blocks. fsyncs: how often the disk was waited for. cast: votes of
    this member, and recorded: votes committed here, by value. writes: turns that had something to make
    durable, and how long that took. decided: those decisions that votes have settled, from proposal to tally
    by block time.
    """

    turns: int = 0
    messages: int = 0
    refused: int = 0
    submitted: int = 0
    blocks: int = 0
    entries: int = 0
    decisions: int = 0
    evidence: int = 0
    views: int = 0
    pages: int = 0
    bad_pages: int = 0
    fsyncs: int = 0
    cast: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    writes: Histogram = field(default_factory=Histogram)
    decided: Histogram = field(default_factory=lambda: Histogram(DECISION_BOUNDS_US))


class PeerLog:
    """Logs what is wrong with peers' messages: at most a line for each peer in `LOG_EVERY_MS`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: dict[str, tuple[int, int]] = {}

    def refused(self, peer: str, error: Exception, now_ms: int) -> None:
        """Note that a message of `peer` was dropped because of `error`."""
        last_ms, hidden = self._last.get(peer, (-LOG_EVERY_MS, 0))
        if now_ms - last_ms < LOG_EVERY_MS:
            self._last[peer] = (last_ms, hidden + 1)
            return
        self._last[peer] = (now_ms, 0)
        reason = getattr(error, "reason", type(error).__name__)
        more = f" (and {hidden} more since)" if hidden else ""
        self._log.warning("dropped a message of %s: %s: %s%s", peer, reason, error, more)
