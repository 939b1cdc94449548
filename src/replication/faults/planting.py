"""How bugs are planted: functions of the protocol are replaced for a while, wherever they are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["Patch", "everywhere", "patch", "planted", "skip"]

Patch = tuple[Any, str, Callable[[Any], Any]]
"""Where, which attribute, and what to make of the original."""

_MODULES: Final = (
    "blame", "certificates", "core", "normal_case", "pacemaker", "quorum", "replica", "signing", "statements",
    "timeouts", "view_change",
)  # fmt: skip


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> tuple[Patch, ...]:
    """Replace one attribute of a class or module."""
    return ((owner, name, make),)


def skip(owner: Any, name: str, result: Any = None) -> tuple[Patch, ...]:
    """Replace a method or function by one that does nothing."""
    return ((owner, name, lambda _original: lambda *_arguments, **_named: result),)


def everywhere(name: str, make: Callable[[Any], Any], only: Sequence[str] = _MODULES) -> tuple[Patch, ...]:
    """Replace a function in every module of `replication.ordering` that knows it by this name."""
    modules = [importlib.import_module(f"replication.ordering.{module}") for module in only]
    return tuple((module, name, make) for module in modules if hasattr(module, name))


@contextmanager
def planted(patches: Sequence[Patch]) -> Iterator[None]:
    """Run with these replacements; whatever happens, the originals come back."""
    originals: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, make in patches:
            original = vars(owner)[name]
            originals.append((owner, name, original))
            setattr(owner, name, make(original))
        yield
    finally:
        for owner, name, original in reversed(originals):
            setattr(owner, name, original)
