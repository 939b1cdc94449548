"""Agent Consensus: Byzantine fault tolerant voting among monitoring agents.

The voting rules for use in one process are in `replication.consensus`; the others are the cluster.
"""

from __future__ import annotations

from functools import cache

__all__ = ["__version__"]  # by __getattr__


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a tenth of the time that `acp` takes

    try:
        return version("agent-consensus")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
