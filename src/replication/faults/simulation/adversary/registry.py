"""All attacks by name."""

from __future__ import annotations

from typing import Final

from replication.faults.simulation.adversary.base import Attack, Attacker
from replication.faults.simulation.adversary.coordinators import COORDINATORS
from replication.faults.simulation.adversary.forgers import FORGERS
from replication.faults.simulation.adversary.quiet import QUIET
from replication.faults.simulation.adversary.voters import VOTERS

__all__ = ["BY_NAME", "make_attacks"]

BY_NAME: Final = {kind.name: kind for kind in (*VOTERS, *COORDINATORS, *FORGERS, *QUIET)}
"""In the order in which they are chained: what changes content first, what silences last."""


def make_attacks(host: Attacker, names: tuple[str, ...]) -> list[Attack]:
    """The attacks of one faulty member."""
    return [kind(host) for name, kind in BY_NAME.items() if name in names]
