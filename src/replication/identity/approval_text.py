"""The rules of approval as text: one shape, in JSON for the genesis file and in TOML for people who write
them.

    reason_required = true
    proposer_counts = false
    lock_targets = true
    critical_actions = ["wipe"]

    [groups]
    human = ["node-1", "node-2"]

    [requires]                       # for every action
    human = 1

    [actions.terminate]
    threshold = "3/4"
    requires = { human = 2 }
    window_ms = 120000

Every key is optional. Fractions are strings, since they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from replication.consensus.approval import ActionRules, ApprovalRules
from replication.consensus.canonical import is_text
from replication.consensus.rules import exact_fraction
from replication.identity.names import is_member_id

__all__ = ["approval_to_json", "read_approval"]

MAX_ACTION_BYTES: Final = 1024
MAX_TIME_MS: Final = 2**53 - 1

_KEYS: Final = frozenset(
    {
        *("reason_required", "proposer_counts", "lock_targets", "critical_actions"),
        *("groups", "requires", "actions"),
    }
)
_ACTION_KEYS: Final = frozenset({"threshold", "requires", "reason_required", "window_ms", "expiry_ms"})


def read_approval(value: object) -> ApprovalRules:
    """The rules that parsed JSON or TOML states. Raises ValueError that names the key, and what is wrong."""
    table = _table("approval", value, _KEYS)
    return ApprovalRules(
        reason_required=_flag("reason_required", table.get("reason_required", False)),
        proposer_counts=_flag("proposer_counts", table.get("proposer_counts", True)),
        lock_targets=_flag("lock_targets", table.get("lock_targets", False)),
        critical_actions=frozenset(_actions(table.get("critical_actions", []))),
        groups=_groups(table.get("groups", {})),
        requires=_requires("requires", table.get("requires", {})),
        actions={
            _action(action): _action_rules(f"actions.{action}", own)
            for action, own in _table("actions", table.get("actions", {})).items()
        },
    )


def approval_to_json(rules: ApprovalRules) -> dict[str, Any]:
    """The same as JSON values, without what is as by default; empty for rules that ask for nothing."""
    plain: dict[str, Any] = {
        "reason_required": rules.reason_required,
        "proposer_counts": rules.proposer_counts,
        "lock_targets": rules.lock_targets,
        "critical_actions": sorted(rules.critical_actions),
        "groups": {name: sorted(voters) for name, voters in sorted(rules.groups.items())},
        "requires": dict(sorted(rules.requires.items())),
        "actions": {action: _action_to_json(own) for action, own in sorted(rules.actions.items())},
    }
    default = {"proposer_counts": True, "critical_actions": [], "groups": {}, "requires": {}, "actions": {}}
    return {key: value for key, value in plain.items() if value != default.get(key, False)}


def _action_to_json(own: ActionRules) -> dict[str, Any]:
    plain = {
        "threshold": None if own.threshold is None else str(own.threshold),
        "requires": dict(sorted(own.requires.items())) or None,
        "reason_required": own.reason_required,
        "window_ms": own.window_ms,
        "expiry_ms": own.expiry_ms,
    }
    return {key: value for key, value in plain.items() if value is not None}


def _action_rules(place: str, value: object) -> ActionRules:
    table = _table(place, value, _ACTION_KEYS)
    reason = table.get("reason_required")
    return ActionRules(
        threshold=_share(f"{place}.threshold", table["threshold"]) if "threshold" in table else None,
        requires=_requires(f"{place}.requires", table.get("requires", {})),
        reason_required=None if reason is None else _flag(f"{place}.reason_required", reason),
        window_ms=_time(f"{place}.window_ms", table.get("window_ms")),
        expiry_ms=_time(f"{place}.expiry_ms", table.get("expiry_ms")),
    )


def _table(place: str, value: object, keys: frozenset[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be a table of keys and values")
    unknown = sorted(set(value) - keys) if keys is not None else []
    if unknown:
        raise ValueError(f"{place}.{unknown[0]:.80} is not known; known are {', '.join(sorted(keys or ()))}")
    return value


def _flag(place: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{place} must be true or false")
    return value


def _groups(value: object) -> dict[str, frozenset[str]]:
    groups = {}
    for name, voters in _table("groups", value).items():
        if not is_member_id(name):
            raise ValueError(f"groups.{name:.80} must have a name of A-Z a-z 0-9 . _ -")
        if not isinstance(voters, list) or not all(is_member_id(voter) for voter in voters):
            raise ValueError(f"groups.{name} must be a list of members' ids")
        if not voters or len(set(voters)) != len(voters):
            raise ValueError(f"groups.{name} must name at least one member, and each once")
        groups[name] = frozenset(voters)
    return groups


def _requires(place: str, value: object) -> dict[str, int]:
    found = {}
    for group, approvals in _table(place, value).items():
        if type(approvals) is not int:
            raise ValueError(f"{place}.{group:.80} must be a whole number of approvals")
        found[group] = approvals
    return found


def _actions(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("critical_actions must be a list of actions")
    return [_action(action) for action in value]


def _action(value: object) -> str:
    if not is_text(value) or not isinstance(value, str) or not 1 <= len(value.encode()) <= MAX_ACTION_BYTES:
        raise ValueError(
            f"{value!r:.80} cannot be an action: it must be text of 1 to {MAX_ACTION_BYTES} bytes"
        )
    return value


def _share(place: str, value: object) -> Fraction:
    if not isinstance(value, str):
        raise ValueError(f'{place} must be a string such as "3/4"')
    try:
        return exact_fraction(value)
    except ValueError as error:
        raise ValueError(f"{place} {error}") from error


def _time(place: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_TIME_MS:
        raise ValueError(f"{place} must be a whole number of milliseconds, 0 for no end")
    return value
