"""The cluster looked at a few times a second: who answers, in which view, how far, and with how much
memory.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from replication.faults.harness.site import Site

__all__ = ["Sample", "Sampler"]

EVERY_SECONDS: Final = 0.25
ANSWER_SECONDS: Final = 0.8


@dataclass(frozen=True, slots=True)
class Sample:
    """One member at one moment. `view` and `height` are None when it did not answer, memory when it did not
    run.
    """

    at_ms: int
    member: str
    view: int | None
    height: int | None
    coordinator: str
    memory_kib: int | None


class Sampler:
    """Samples all members until it is cancelled, and writes each sample as a line of JSON."""

    def __init__(self, site: Site, path: Path) -> None:
        self.samples: list[Sample] = []
        self._site = site
        self._path = path

    async def run(self) -> None:
        """Sample for ever."""
        with self._path.open("w", encoding="utf-8") as file:
            while True:
                for sample in await self.look():
                    self.samples.append(sample)
                    file.write(json.dumps(asdict(sample)) + "\n")
                await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> list[Sample]:
        """One sample of each member."""
        at_ms = self._site.now_ms()
        answers = await self._site.observer.survey(timeout_seconds=ANSWER_SECONDS)
        samples = []
        for member, node in self._site.nodes.items():
            status = answers.get(member)
            own: Any = None if status is None else status.member(member)
            samples.append(
                Sample(
                    at_ms,
                    member,
                    None if status is None else status.view,
                    None if own is None else own.height,
                    "" if status is None else status.coordinator,
                    node.memory_kib(),
                )
            )
        return samples

    @property
    def highest_view(self) -> int:
        """The highest view that was seen."""
        return max((sample.view for sample in self.samples if sample.view is not None), default=0)
