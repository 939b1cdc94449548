"""What all faults have in common: a kind, a beginning, an end, and the proof that something happened.

A fault that has left no `Effect` when it is over was not there: the run then counts as NOT RUN, however green
its checks are. What a fault expects of the nodes it hits (that one refuses to start on a damaged file, say)
and does not find is a `Violation`, like one that a checker finds."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from replication.errors import OperatorError
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Setting

if TYPE_CHECKING:
    from replication.faults.harness.site import Site

__all__ = ["Effect", "Fault", "Kind", "Need", "NotPossibleError", "Planned"]

MAX_EFFECTS = 200
"""A fault that flaps for minutes must not fill the report."""


class NotPossibleError(OperatorError):
    """A fault cannot be imposed on this machine, or on this cluster; the message says why."""

    reason: ClassVar[str] = "FAULT_NOT_POSSIBLE"


class Need(StrEnum):
    """What a kind of fault needs to be prepared before the nodes start."""

    LINKS = "links"
    """Proxies between the nodes."""
    NAMESPACES = "namespaces"
    """A network of its own for each node."""
    INSIDE = "inside"
    """Nodes run under the wrapper, with the behaviour of the kind's name installed."""


def _no_settings() -> Mapping[str, Setting]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault, for the parser, the schedule and `acp faults list`.

    `robs`: it takes records away or back. `blames`: nodes hit by it may be accused in the record, since they
    really contradict themselves. `instant`: it is over as soon as it is done, and takes no duration.
    `default_target` is used where a scenario names none."""

    name: str
    group: Group
    summary: str
    settings: Mapping[str, Setting] = field(default_factory=_no_settings)
    needs: frozenset[Need] = frozenset()
    blames: bool = False
    robs: bool = False
    instant: bool = False
    default_target: str = "random"


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault in the schedule of a run, times in milliseconds from the start of the load.

    `end_ms` is None for one that lasts until everything is healed, or, if it is `permanent`, to the very end.
    `until_replaced` makes it last on until another member coordinates. `drawn`: it comes from the seed, and
    may meet a member that another fault has already.
    """

    number: int
    kind: str
    targets: tuple[str, ...]
    start_ms: int
    end_ms: int | None
    permanent: bool
    settings: Mapping[str, Any]
    until_replaced: bool = False
    drawn: bool = False

    @property
    def lasts_ms(self) -> int | None:
        """How long it lasts from its beginning, which may come later than planned; None without an end."""
        return None if self.end_ms is None else self.end_ms - self.start_ms

    def ends_before(self, other: Planned) -> bool:
        """Whether it was to be over when the other one begins."""
        return self.number < other.number and self.end_ms is not None and self.end_ms <= other.start_ms

    def as_document(self) -> dict[str, Any]:
        """The fault as JSON values; `schedule.planned_from` reads it back."""
        return {
            "number": self.number,
            "kind": self.kind,
            "targets": list(self.targets),
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "permanent": self.permanent,
            "until_replaced": self.until_replaced,
            "drawn": self.drawn,
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.settings.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that was seen to happen because of a fault, `at_ms` after the start of the load."""

    at_ms: int
    text: str


class Fault(ABC):
    """One fault on its way: made when its time has come, with the members that are hit then.

    `begin` imposes it, `observe` looks from time to time whether it shows, `end` heals it and waits until
    that is done. Each may raise `NotPossibleError`."""

    kind: ClassVar[Kind]

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        self.planned = planned
        self.members = members
        self.site = site
        self.draw = draw
        self.effects: list[Effect] = []
        self.violations: list[str] = []
        self._said: set[str] = set()

    @property
    def took_effect(self) -> bool:
        """Whether anything was seen of it."""
        return bool(self.effects)

    @property
    def is_complete(self) -> bool:
        """Whether all that was to come of it was seen, so that it need not last on for that."""
        return self.took_effect

    def effect(self, text: str) -> None:
        """Note what was seen; the same words count once."""
        if text not in self._said and len(self.effects) < MAX_EFFECTS:
            self._said.add(text)
            self.effects.append(Effect(self.site.now_ms(), text))

    def violation(self, text: str) -> None:
        """Note that a node did not do what it has to do about this fault."""
        if text not in self.violations:
            self.violations.append(text)

    def setting(self, name: str) -> Any:
        """A setting of this fault. The parser has judged it."""
        return self.planned.settings[name]

    @abstractmethod
    async def begin(self) -> None:
        """Impose the fault."""

    async def observe(self) -> None:  # noqa: B027  # most faults show by themselves
        """Look whether it shows. Called every now and then while it lasts, and once before `end`."""

    @abstractmethod
    async def end(self) -> None:
        """Heal it, and wait until that is done."""
