"""What faults get to work with: the nodes, the links between them, and a look at the cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from replication.client import AsyncClient, merge
from replication.client.model import ClusterStatus
from replication.faults.harness.fault import NotPossibleError

if TYPE_CHECKING:
    from replication.faults.harness.links import Links
    from replication.faults.harness.namespaces import Namespaces
    from replication.faults.harness.nodes import NodeUnderTest

__all__ = ["Site"]

LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Site:
    """A cluster under test. `pace` is how much longer than on an idle machine things take here, 1 at least.

    `observer` is a client that only looks. `links` and `namespaces` are there only if the scenario needs
    them. `began` is when the load started, by the monotonic clock."""

    directory: Path
    members: tuple[str, ...]
    nodes: Mapping[str, NodeUnderTest]
    observer: AsyncClient
    links: Links | None = None
    namespaces: Namespaces | None = None
    began: float = field(default_factory=time.monotonic)
    pace: float = 1.0
    _coordinator: str = ""

    def now_ms(self) -> int:
        """Milliseconds since the start of the load."""
        return round((time.monotonic() - self.began) * 1000)

    def require_links(self) -> Links:
        """The links. Raises `NotPossibleError` if there are none."""
        if self.links is None:
            raise NotPossibleError("there are no proxies between the nodes in this run")
        return self.links

    def require_namespaces(self) -> Namespaces:
        """The networks of the nodes. Raises `NotPossibleError` if there are none."""
        if self.namespaces is None:
            raise NotPossibleError("the nodes have no networks of their own in this run")
        return self.namespaces

    async def coordinator(self) -> str:
        """The coordinator of the highest view that anybody knows of; the last known one if nobody answers."""
        answers = await self.observer.survey(timeout_seconds=LOOK_SECONDS * self.pace)
        if answers:
            self._coordinator = merge(answers).status.coordinator
        return self._coordinator or self.members[0]

    async def look(self, member: str) -> ClusterStatus | None:
        """What a member says of itself; None if it does not answer soon."""
        answers = await self.observer.survey(timeout_seconds=LOOK_SECONDS * self.pace)
        return answers.get(member)
