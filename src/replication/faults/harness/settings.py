"""The settings that a kind of fault takes, as data: what is legal, what is the default, and the words for the
rest.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from replication.faults.harness.scenario import ScenarioError

__all__ = [
    "REQUIRED",
    "Choice",
    "Flag",
    "Number",
    "Setting",
    "Text",
    "Whole",
    "Words",
    "did_you_mean",
    "read_settings",
]


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()
"""In place of a default: the setting must be given."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `read` gives the value if it is legal, and raises `ValueError` with what is legal
    otherwise.

    """

    default: Any = REQUIRED

    def read(self, value: object) -> Any:
        """The value as the fault gets it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Number(Setting):
    """A number within bounds, both included."""

    low: float = 0.0
    high: float = math.inf

    def read(self, value: object) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
        ):
            raise ValueError(f"it must be a number from {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Whole(Setting):
    """A whole number within bounds, both included."""

    low: int = 0
    high: int = 2**31

    def read(self, value: object) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError(f"it must be a whole number from {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Flag(Setting):
    """true or false."""

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("it must be true or false")
        return value


@dataclass(frozen=True, slots=True)
class Text(Setting):
    """Any text that is not empty."""

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError("it must be text that is not empty")
        return value


@dataclass(frozen=True, slots=True)
class Choice(Setting):
    """One of a few words."""

    legal: tuple[str, ...] = ()

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.legal:
            raise ValueError(f"it must be one of {', '.join(self.legal)}")
        return value


@dataclass(frozen=True, slots=True)
class Words(Setting):
    """A list of words, of `legal` ones if any are named."""

    legal: tuple[str, ...] = ()

    def read(self, value: object) -> tuple[str, ...]:
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(item, str) and item for item in value)
        ):
            raise ValueError("it must be a list of words that is not empty")
        unknown = [item for item in value if self.legal and item not in self.legal]
        if unknown:
            raise ValueError(f"{unknown[0]!r:.60} is not among {', '.join(self.legal)}")
        return tuple(value)


def read_settings(
    given: Mapping[str, object], known: Mapping[str, Setting], place: str, also: Collection[str] = ()
) -> dict[str, Any]:
    """The settings of a fault, with defaults filled in. `also` are keys that somebody else reads.

    Raises `ScenarioError` for a key that is unknown or missing, and for a value that is not legal.

    """
    for key in given:
        if key not in known and key not in also:
            hint = did_you_mean(key, (*known, *also))
            raise ScenarioError(f"{place}: unknown key {key!r:.60}; {hint}")
    values: dict[str, Any] = {}
    for name, setting in known.items():
        if name not in given:
            if setting.default is REQUIRED:
                raise ScenarioError(f"{place}.{name} is missing; it must be given")
            values[name] = setting.default
            continue
        try:
            values[name] = setting.read(given[name])
        except ValueError as error:
            raise ScenarioError(f"{place}.{name} = {given[name]!r:.80} is not legal: {error}") from None
    return values


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A hint for an unknown word: the closest known one, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
