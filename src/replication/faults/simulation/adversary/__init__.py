"""Faulty members: what they know together, and what they do.

A faulty member runs the real replica, so that it takes part in everything; its attacks stand between that
replica and the network. Whatever an attack changes is signed again with the member's real key, or it would
test the signature check only. All faulty members of a cluster share what they know, and may listen to the
whole network (`wiretap`).
"""

from __future__ import annotations

from replication.faults.simulation.adversary.base import Attack, FaultyHost
from replication.faults.simulation.adversary.cabal import Cabal

__all__ = ["Attack", "Cabal", "FaultyHost"]
