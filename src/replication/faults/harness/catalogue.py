"""All kinds of faults, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from replication.faults.harness.behaviour_faults import BEHAVIOUR_FAULTS
from replication.faults.harness.fault import Fault, Kind
from replication.faults.harness.network_faults import NETWORK_FAULTS
from replication.faults.harness.process_faults import PROCESS_FAULTS
from replication.faults.harness.storage_faults import STORAGE_FAULTS

__all__ = ["FAULTS", "KINDS"]

_ALL: Final[tuple[type[Fault], ...]] = (
    *PROCESS_FAULTS,
    *NETWORK_FAULTS,
    *STORAGE_FAULTS,
    *BEHAVIOUR_FAULTS,
)

FAULTS: Final[Mapping[str, type[Fault]]] = MappingProxyType({fault.kind.name: fault for fault in _ALL})
"""The class of each kind."""

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({name: fault.kind for name, fault in FAULTS.items()})
"""What each kind is and takes."""
