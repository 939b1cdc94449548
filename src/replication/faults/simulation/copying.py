"""Copies of running replicas, so that scenarios with a common beginning share it.

Frozen values (statements, blocks, certificates, member sets) are shared; what a replica changes is copied.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Any, Final, TypeVar

__all__ = ["duplicate"]

T_ = TypeVar("T_")

_SHARED: Final = (
    int,
    str,
    bytes,
    bool,
    float,
    NoneType,
    Enum,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    type,
)
_KINDS: dict[type, str] = {}


def duplicate(value: T_, share: tuple[type, ...] = ()) -> T_:
    """A copy of `value` and of everything changeable in it. Values of the types in `share` are not copied."""
    result: T_ = _copy(value, {}, share)
    return result


def _copy(value: Any, known: dict[int, Any], share: tuple[type, ...]) -> Any:
    kind = _KINDS.get(type(value)) or _kind(type(value))
    if kind == "shared":
        return value
    found = known.get(id(value))
    if found is not None:
        return found
    if isinstance(value, share):
        return value
    if kind == "dict":
        made = type(value)()
        known[id(value)] = made
        for key, item in value.items():
            made[key] = _copy(item, known, share)
        return made
    if kind == "sequence":
        made = type(value)(_copy(item, known, share) for item in value)
        known[id(value)] = made
        return made
    made = object.__new__(type(value))
    known[id(value)] = made
    for name in _names(value):
        object.__setattr__(made, name, _copy(getattr(value, name), known, share))
    return made


def _kind(cls: type) -> str:
    parameters = getattr(cls, "__dataclass_params__", None)
    if issubclass(cls, _SHARED) or (parameters is not None and parameters.frozen):
        kind = "shared"
    elif issubclass(cls, dict | OrderedDict):
        kind = "dict"
    elif issubclass(cls, list | tuple | set | frozenset | deque):
        kind = "sequence"
    else:
        kind = "object"
    _KINDS[cls] = kind
    return kind


def _names(value: Any) -> list[str]:
    names = list(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots = getattr(cls, "__slots__", ())
        names += [name for name in slots if hasattr(value, name)]
    return names
