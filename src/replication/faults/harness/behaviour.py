"""What a behaviour is: a way in which a node process can be made to go wrong from the inside. See
`behaviours`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from replication.faults.harness.inside import Control
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Setting

__all__ = ["Behaviour"]


def _no_parts(_settings: Mapping[str, Any]) -> Sequence[str]:
    return ()


def _none() -> Mapping[str, Setting]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One way to go wrong from the inside.

    `install` replaces functions of the node's modules, before the server starts. What it puts there asks
    `control.armed(name)` each time it could act, and calls `control.effect(armed, text)` before it does.
    `lies`: the member may be blamed for it. `ends`: the process may end because of it. `parts` names what a
    behaviour with these settings consists of: each has to show in an effect, or the fault was not there."""

    name: str
    group: Group
    summary: str
    install: Callable[[Control], None]
    settings: Mapping[str, Setting] = field(default_factory=_none)
    parts: Callable[[Mapping[str, Any]], Sequence[str]] = _no_parts
    lies: bool = False
    ends: bool = False
