"""What faults get to work with: the nodes, the links between them, and a look at the cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from replication.client import AsyncClient, merge
from replication.client.model import ClusterStatus
from replication.faults.harness.fault import NotPossibleError

if TYPE_CHECKING:
    from replication.faults.harness.links import Links
    from replication.faults.harness.namespaces import Namespaces
    from replication.faults.harness.nodes import NodeUnderTest

__all__ = ["LOOK_SECONDS", "Site", "Standing"]

LOOK_SECONDS: Final = 1.0
NOTICED_LAG_MS: Final = 250
"""A wait that ends so much too late was not late because of the harness's own work."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Who coordinates, in which view, and how far the record goes, as the newest answers have it."""

    coordinator: str
    view: int = 0
    height: int = 0


@dataclass(slots=True)
class Site:
    """A cluster under test. `pace` is how much longer than on an idle machine things take here, 1 at least.

    `observer` is a client that only looks. `links` and `namespaces` are there only if the scenario needs
    them. `began` is when the load started, by the monotonic clock. `lags` are times in which this machine
    stood still, as beginning and end in milliseconds: what did not happen then is not held against the
    cluster."""

    directory: Path
    members: tuple[str, ...]
    nodes: Mapping[str, NodeUnderTest]
    observer: AsyncClient
    links: Links | None = None
    namespaces: Namespaces | None = None
    began: float = field(default_factory=time.monotonic)
    pace: float = 1.0
    lags: list[tuple[int, int]] = field(default_factory=list)
    _standing: Standing | None = None

    def now_ms(self) -> int:
        """Milliseconds since the start of the load."""
        return round((time.monotonic() - self.began) * 1000)

    def note_wait(self, due_ms: int) -> None:
        """Take note if a wait that was to end at `due_ms` ended far too late."""
        if (now_ms := self.now_ms()) - due_ms > NOTICED_LAG_MS:
            self.lags.append((due_ms, now_ms))

    def awake_ms(self) -> int:
        """Milliseconds since the start of the load, without those in which the machine stood still."""
        return self.now_ms() - sum(end - begin for begin, end in self.lags)

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

    async def standing(self) -> Standing:
        """How things are in the highest view that anybody knows of; as last known if nobody answers."""
        answers = await self.observer.survey(timeout_seconds=LOOK_SECONDS * self.pace)
        if answers:
            picture = merge(answers)
            height = max(member.height for member in picture.members)
            self._standing = Standing(picture.status.coordinator, picture.status.view, height)
        return self._standing or Standing(self.members[0])

    async def look(self, member: str) -> ClusterStatus | None:
        """What a member says of itself; None if it does not answer soon."""
        answers = await self.observer.survey(timeout_seconds=LOOK_SECONDS * self.pace)
        return answers.get(member)
