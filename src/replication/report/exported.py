"""The entries of an exported record, while somebody else verifies it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from replication.report.story import BACKGROUND, Event

__all__ = ["ExportedEvents"]


class ExportedEvents:
    """Collects the newest `last` entries, and those of the background, from the lines of an export.

    The lines go through `watch` to the verifier. Each is looked at when the next one is asked for, so after
    it was accepted; what was collected is worth something when the verifier has taken all of them.
    """

    def __init__(self, last: int) -> None:
        self.found: list[Event] = []
        self.start = 0
        self._last = last

    def watch(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The lines as they are."""
        for line in lines:
            yield line
            self._look(json.loads(line))

    def _look(self, item: dict[str, Any]) -> None:
        match item["type"]:
            case "audit-export":
                self.start = max(0, item["audit_size"] - self._last)
            case "entry" if item["sequence"] >= self.start or item["event_type"] in BACKGROUND:
                self.found.append(
                    Event(
                        sequence=item["sequence"],
                        time_ms=round(item["timestamp"] * 1000),
                        kind=item["event_type"],
                        proposal_id=item["proposal_id"],
                        actor=item["actor_id"],
                        data=item["data"],
                    )
                )
