"""Reading TOML that a person or somebody else wrote: one error for everything that is wrong with the text."""

from __future__ import annotations

import tomllib
from typing import Any, Final

__all__ = ["TomlError", "parse_toml"]

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
    try:
        data = tomllib.loads(text)
        _require_small_numbers(data)
    except RecursionError:
        raise TomlError("it is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a decimal number with thousands of digits
        raise TomlError(str(error)[:300]) from error
    return data


def _require_small_numbers(value: object) -> None:
    if isinstance(value, dict):
        for child in value.values():
            _require_small_numbers(child)
    elif isinstance(value, list):
        for child in value:
            _require_small_numbers(child)
    elif isinstance(value, int) and not _LOWEST <= value <= _HIGHEST:
        raise ValueError(f"an integer has {value.bit_length()} bits; TOML has integers of 64 bits")
