"""The registry of behaviours. Each is a kind of fault of the same name, so that scenarios can use it at once.

To add some: write a module with a tuple `BEHAVIOURS_HERE` of `Behaviour` objects, and name the module here.
The parser, `acp faults list`, the wrapper process and the drill find them in `BEHAVIOURS`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from replication.faults.harness import (
    attack_behaviour,
    clock_behaviour,
    crash_points,
    disk_behaviours,
    message_behaviours,
)
from replication.faults.harness.behaviour import Behaviour

__all__ = ["BEHAVIOURS"]


def _by_name(behaviours: Iterable[Behaviour]) -> Mapping[str, Behaviour]:
    found: dict[str, Behaviour] = {}
    for behaviour in behaviours:
        if behaviour.name in found:
            raise ValueError(f"two behaviours are called {behaviour.name}")
        found[behaviour.name] = behaviour
    return MappingProxyType(found)


BEHAVIOURS: Final = _by_name(
    (
        *attack_behaviour.BEHAVIOURS_HERE,
        *clock_behaviour.BEHAVIOURS_HERE,
        *crash_points.BEHAVIOURS_HERE,
        *disk_behaviours.BEHAVIOURS_HERE,
        *message_behaviours.BEHAVIOURS_HERE,
    )
)
"""All behaviours by name."""
