"""One rule's condition: an expression of the Common Expression Language, compiled, and bounded in cost.

What it may use is checked when it is loaded, and how its cost grows with the evidence is read off its text,
since a running rule cannot be stopped (see `policies`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from replication.node.config import did_you_mean

if TYPE_CHECKING:
    import cel

__all__ = ["MAX_EVIDENCE_DEPTH", "Expression", "ExpressionError", "evidence_size", "short_text"]

MAX_EVIDENCE_DEPTH: Final = 64
"""Twice what a proposal may have. CEL converts recursively: 1,000 levels pass, 20,000 crash the process."""

_CHARACTERS_A_STEP: Final = 64
_MAX_EXPRESSION_LENGTH: Final = 4096
_MAX_EXPONENT: Final = 3
_VARIABLES: Final = ("action", "target", "evidence", "proposer", "critical", "voter")
_TYPES: Final = ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint")
_MACROS: Final = {"all": 1, "exists": 1, "exists_one": 1, "map": 2, "filter": 2}
"""The macros that run a body for each element, and the power of the number of elements that each costs."""

_FUNCTIONS: Final = (
    *(
        "bytes",
        "contains",
        "double",
        "duration",
        "endsWith",
        "int",
        "matches",
        "size",
        "startsWith",
        "string",
    ),
    *("timestamp", "type", "uint", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear"),
    *("getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
)
_UNDEFINED: Final = re.compile(r"Undefined variable or function: '(\w+)'")
_TOKEN: Final = re.compile(
    r"""
    //[^\n]*
    | (?P<text> (?: [bB]?[rR] | [rR][bB] ) (?: \"{3}[\s\S]*?\"{3} | '{3}[\s\S]*?'{3} | "[^"\n]*" | '[^'\n]*' )
      | [bB]? (?: \"{3}(?:\\[\s\S]|[^\\])*?\"{3} | '{3}(?:\\[\s\S]|[^\\])*?'{3}
      | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' ) )
    | (?P<word> [^\W\d]\w* )
    | (?P<sign> \S )
    """,
    re.VERBOSE,
)
_MAX_LOGGED: Final = 200


def evidence_size(evidence: Mapping[str, Any]) -> int:
    """Size of evidence in steps: one for each value, and one more for every 64 characters of text.

    Raises:
        ValueError: more than `MAX_EVIDENCE_DEPTH` levels. Nothing here recurses, so that hostile depth costs
        nothing.
    """
    size = 0
    level: list[Any] = [evidence]
    for _ in range(MAX_EVIDENCE_DEPTH + 1):
        size += len(level)
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner.extend(value.values())
                size += sum(len(key) for key in value) // _CHARACTERS_A_STEP
            elif isinstance(value, list | tuple):
                inner.extend(value)
            elif isinstance(value, str):
                size += len(value) // _CHARACTERS_A_STEP
        if not inner:
            return size
        level = inner
    raise ValueError(f"it is nested more than {MAX_EVIDENCE_DEPTH} levels deep")


class ExpressionError(ValueError):
    """An expression does not compile, or cannot be evaluated on this evidence."""


class Expression:
    """One compiled CEL expression, and how its cost grows with the evidence. `source` is its text.

    Raises:
        ExpressionError: CEL does not accept it, or it uses a name, function or form that cannot work here.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _MAX_EXPRESSION_LENGTH:
            raise ExpressionError(f"it is longer than {_MAX_EXPRESSION_LENGTH} characters")
        self.source = source
        with _native_errors():
            import cel  # a fifth of the start of a node, which may have no rules

            self._program = cel.compile(source)
        self._exponent, bound = _growth(_tokens(source))
        for name in self._program.variables():
            if name not in _VARIABLES and name not in _TYPES and name not in bound:
                raise ExpressionError(f"there is no {name!r:.80}; {did_you_mean(name, _VARIABLES)}")
        for name in self._program.functions():
            if name[0].isalpha() and name not in _FUNCTIONS:
                raise ExpressionError(f"there is no function {name!r:.80}; {did_you_mean(name, _FUNCTIONS)}")

    def steps(self, size: int) -> int:
        """Upper bound of the steps it takes on evidence of this size."""
        return int(size**self._exponent)

    def evaluate(self, context: cel.Context) -> object:
        """The value; `LookupError` if the evidence has no such key, `ExpressionError` on other failures."""
        with _native_errors():
            return self._program.execute(context)


@contextmanager
def _native_errors() -> Iterator[None]:
    """Turn what the CEL engine raises into `ExpressionError`. A panic of it is no `Exception`: catch all."""
    try:
        yield
    except (LookupError, KeyboardInterrupt):
        raise
    except BaseException as error:
        text = str(error)
        if (undefined := _UNDEFINED.match(text)) is not None:
            # Names were checked when the rule was loaded: the function is not defined for this type.
            text = f"{undefined[1]}() is not defined for a value of this type"
        if text.startswith("No such overload"):
            text = "an operation is not defined for values of these types"
        _, found, first = text.partition("ERROR: <input>:")
        text = first.partition("\n")[0] if found else text.partition(" CEL does not coerce")[0]
        text = text.removesuffix(" Check function arguments and their types.")
        raise ExpressionError(short_text(text, quoted=False)) from error


def _tokens(source: str) -> list[str]:
    """The tokens of an expression that CEL has accepted; each string literal becomes a lone quote."""
    found = (match for match in _TOKEN.finditer(source) if match.lastgroup is not None)
    return ['"' if match.lastgroup == "text" else match.group() for match in found]


def _growth(tokens: list[str]) -> tuple[int, frozenset[str]]:
    """The exponent by which the cost of an expression grows, and the names that its macros bind.

    A macro such as exists() runs its body for each element, so every macro around a part of the text
    multiplies its cost by the size of the evidence. Using `evidence` may itself cost its size (==, in, +).
    map() and filter() copy their result for every element that they add, which is quadratic.
    """
    exponent, bound = 1, set()
    open_macros: list[bool] = []
    padded = ["", *tokens, ""]
    for before, piece, after in zip(padded, tokens, padded[2:], strict=False):
        depth = sum(open_macros)
        if piece == "(":
            open_macros.append(before in _MACROS)
        elif piece == ")":
            del open_macros[-1:]
        elif piece == "evidence":
            exponent = max(exponent, depth + 1)
        elif piece in _MACROS and after == "(":
            exponent = max(exponent, depth + _MACROS[piece])
    for macro, parenthesis, name, comma in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False):
        if macro in _MACROS and (parenthesis, comma) == ("(", ","):
            bound.add(name)
        if macro == "matches" and parenthesis == "(" and (name, comma) != ('"', ")"):
            raise ExpressionError(
                "matches() takes a pattern written out in quotes: evidence must not become one"
            )
    if exponent > _MAX_EXPONENT:
        raise ExpressionError("its macros (exists, map, ...) are nested too deeply for evidence from others")
    return exponent, frozenset(bound)


def short_text(value: object, quoted: bool = True) -> str:
    """Text of an error or value for a log: short and on one line, as parts of it may come from evidence."""
    try:
        text = repr(value) if quoted and not isinstance(value, BaseException) else str(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose text raises {type(error).__name__}>"
    if isinstance(value, KeyError):
        text = f"key {value.args[0]!r}" if value.args else "such key"
    text = "".join(char if char.isprintable() else " " for char in text[: _MAX_LOGGED + 1])
    return text if len(text) <= _MAX_LOGGED else text[:_MAX_LOGGED] + "…"
