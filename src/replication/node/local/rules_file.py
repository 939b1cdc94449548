"""Voting rules as a person writes them: a TOML file with the keys of the genesis file's `rules`, all
optional.

    quorum_fraction = "1/2"
    supermajority_threshold = "3/4"
    default_window_ms = 120000

    [approval]                       # see `replication.identity.approval_text`
    reason_required = true
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replication.consensus.rules import exact_fraction
from replication.errors import OperatorError
from replication.identity.approval_text import read_approval
from replication.identity.rules import Rules
from replication.node.local.provision import DEFAULT_RULES
from replication.node.toml_text import parse_toml

__all__ = ["read_rules"]

_SHARES = frozenset({"quorum_fraction", "majority_threshold", "supermajority_threshold"})
_OTHERS = frozenset({"default_window_ms", "default_expiry_ms", "allow_vote_change", "max_active_proposals"})


def read_rules(path: Path | None) -> Rules:
    """The rules in a file; those of a new cluster where the file is silent, or there is none.

    Raises OperatorError that names the key, and what is wrong.
    """
    if path is None:
        return DEFAULT_RULES
    try:
        table = parse_toml(path.read_text(encoding="utf-8"))
        return _rules(table)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except ValueError as error:  # of TOML, UTF-8 and the rules
        raise OperatorError(f"{path}: {error!s:.300}. Correct the rule.") from error


def _rules(table: dict[str, Any]) -> Rules:
    known = _SHARES | _OTHERS | {"approval"}
    unknown = sorted(set(table) - known)
    if unknown:
        raise ValueError(f"{unknown[0]:.80} is not known; known are {', '.join(sorted(known))}")
    values: dict[str, Any] = {name: getattr(DEFAULT_RULES, name) for name in _SHARES | _OTHERS}
    for name in table.keys() & _SHARES:
        if not isinstance(table[name], str):
            raise ValueError(f'{name} must be a string such as "2/3", since it is exact')
        values[name] = exact_fraction(table[name])
    values |= {name: table[name] for name in table.keys() & _OTHERS}
    return Rules(**values, approval=read_approval(table.get("approval", {})))
