"""Who is hit: members by id, or by what they are at the moment ("coordinator"), or by the draw ("random")."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

__all__ = ["SELECTORS", "is_node_name", "problem_with_target", "resolve_targets"]

SELECTORS: Final = {
    "coordinator": "the coordinator of the moment",
    "next-coordinator": "who becomes coordinator when that one is replaced",
    "follower": "a member that is not the coordinator, drawn",
    "random": "a member, drawn",
    "minority": "as many members as may be faulty, drawn",
    "minority-with-coordinator": "as many members as may be faulty, the coordinator among them",
    "majority": "one member more than may be faulty, drawn",
    "all": "every member",
}
"""What may stand in place of a member's id."""

_NODE: Final = re.compile(r"node-([1-9][0-9]{0,2})")


def is_node_name(text: str) -> bool:
    """Whether `text` names a member of a provisioned cluster."""
    return _NODE.fullmatch(text) is not None


def problem_with_target(text: str, nodes: int) -> str | None:
    """What is wrong with a target in a cluster of `nodes`, or None."""
    if text in SELECTORS:
        return None
    found = _NODE.fullmatch(text)
    if found is None:
        return f"it must be a member such as node-1, or one of {', '.join(SELECTORS)}"
    if int(found[1]) > nodes:
        return f"the cluster has {nodes} members"
    return None


def resolve_targets(
    targets: Sequence[str], members: Sequence[str], coordinator: str, draw: random.Random
) -> tuple[str, ...]:
    """The members that `targets` mean now, in the order of the cluster, each once.

    `members` are all of them in order; `coordinator` is one of them. Drawn members are the same for the same
    state of `draw`."""
    chosen: set[str] = set()
    for target in targets:
        chosen.update(_resolve(target, members, coordinator, draw))
    return tuple(member for member in members if member in chosen)


def _resolve(target: str, members: Sequence[str], coordinator: str, draw: random.Random) -> Sequence[str]:
    faulty = max((len(members) - 1) // 3, 1)
    others = [member for member in members if member != coordinator]
    if target == "coordinator":
        return (coordinator,)
    if target == "next-coordinator":
        return (members[(members.index(coordinator) + 1) % len(members)],)
    if target == "follower":
        return (draw.choice(others or list(members)),)
    if target == "random":
        return (draw.choice(list(members)),)
    if target == "minority":
        return draw.sample(list(members), faulty)
    if target == "minority-with-coordinator":
        return (coordinator, *draw.sample(others, faulty - 1))
    if target == "majority":
        return draw.sample(list(members), min(faulty + 1, len(members)))
    if target == "all":
        return tuple(members)
    return (target,)
