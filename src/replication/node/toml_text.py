"""Reading TOML that a person or somebody else wrote: one error for everything that is wrong with the text."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

__all__ = ["TomlError", "parse_toml"]

MAX_DEPTH: Final = 32
"""Arrays and tables within each other. Deeper ones are refused unread: `tomllib` would use up the stack of
the interpreter, and whatever else runs just then, a finalizer say, would fail for want of it."""

_TOKENS: Final = re.compile(
    r"""
    \"{3} (?: [^"\\] | \\. | "{1,2}(?!") )*+ "{0,5}
    | '{3} (?: [^'] | '{1,2}(?!') )*+ '{0,5}
    | " (?: [^"\\\n] | \\. )*+ "?
    | ' [^'\n]*+ '?
    | \# [^\n]*+
    | [\[\]{}]
    """,
    re.DOTALL | re.VERBOSE,
)
"""Strings and comments, whose brackets are none, and brackets. What is not closed goes on to the end, so that
every character is looked at once."""

_TOO_DEEP: Final = f"it is nested too deeply: more than {MAX_DEPTH} levels"

_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1


class TomlError(ValueError):
    """The text is not TOML; the message says why."""


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Integers beyond 64 bits are refused, as TOML 1.0 says: `tomllib` lets them through, and one of a thousand
    hexadecimal digits can neither be compared with a range in reasonable time nor be shown in an error.

    Raises:
        TomlError: not TOML, nested too deeply, or a number is too large.
    """
    _require_flat(text)
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a decimal number with thousands of digits
        raise TomlError(str(error)[:300]) from error
    _require_plain(data)
    return data


def _require_flat(text: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise TomlError(_TOO_DEEP)


def _require_plain(data: dict[str, Any]) -> None:
    """Keys with many dots nest as well."""
    waiting: list[tuple[object, int]] = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise TomlError(_TOO_DEEP)
            children = value.values() if isinstance(value, dict) else value
            waiting += [(child, depth + 1) for child in children]
        elif isinstance(value, int) and not _LOWEST <= value <= _HIGHEST:
            raise TomlError(f"an integer has {value.bit_length()} bits; TOML has integers of 64 bits")
