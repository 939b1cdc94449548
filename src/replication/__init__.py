"""Agent Consensus: Byzantine fault tolerant voting among monitoring agents.

The voting rules for use in one process are in `replication.consensus`; the others are the cluster.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("agent-consensus")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
