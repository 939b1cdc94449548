"""Did any member sign two things of which it may sign only one?

Everything that left a node is looked at: the log of its process says which signatures it made and which of
them it sent, across all its restarts. The bytes that were signed are read back here, by the layout that
`identity.signbytes` documents, so that nothing depends on what the node says it signed. The votes and commit
statements in the exported records count as well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from replication.faults.harness.checks.material import CheckResult, Material, Record, verdict_of

__all__ = ["SignedStatement", "check_signatures", "contradictions", "parse_statement"]

_TAG: Final = "acp/"


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement of the ordering protocol, taken apart. `fields` depend on its `kind`."""

    kind: str
    epoch: int
    fields: tuple[Any, ...]

    @property
    def position(self) -> tuple[Any, ...] | None:
        """What only one statement may be made about; None where there is no such rule."""
        if self.kind in ("propose", "prepare", "commit"):
            return (self.kind, self.epoch, *self.fields[:2])
        if self.kind in ("timeout", "newview"):
            return (self.kind, self.epoch, self.fields[0])
        if self.kind == "vote":
            return (self.kind, self.epoch, *self.fields[:2])
        return None


def parse_statement(message: bytes) -> SignedStatement | None:
    """Take signed bytes apart; None for kinds that no rule is about. Raises `ValueError` for what has no
    layout.
    """
    size = message[0] if message else 0
    tag = message[1 : 1 + size].decode("ascii", "replace")
    kind, _, version = tag.removeprefix(_TAG).partition("/")
    if not tag.startswith(_TAG) or version != "v1" or len(message) < 1 + size + 40:
        raise ValueError(f"{message[:40]!r} is no signed statement")
    (epoch,) = struct.unpack_from(">Q", message, 1 + size + 32)
    body = message[1 + size + 40 :]
    try:
        if kind in ("propose", "prepare", "commit"):
            view, height, block_hash = struct.unpack_from(">QQ32s", body)
            return SignedStatement(kind, epoch, (view, height, block_hash.hex()))
        if kind == "timeout":
            view, committed, has_lock, lock_view, lock_hash = struct.unpack_from(">QQBQ32s", body)
            return SignedStatement(kind, epoch, (view, committed, bool(has_lock), lock_view, lock_hash.hex()))
        if kind == "newview":
            view, digest = struct.unpack_from(">Q32s", body)
            return SignedStatement(kind, epoch, (view, digest.hex()))
    except struct.error as error:
        raise ValueError(f"a signed {kind} of {len(body)} bytes is cut off: {error}") from error
    return None


def contradictions(statements: Iterable[SignedStatement]) -> list[str]:
    """What contradicts itself among the statements of one member, given in the order in which it made
    them.
    """
    found: list[str] = []
    made: dict[tuple[Any, ...], SignedStatement] = {}
    given_up: dict[int, int] = {}
    reports: dict[int, SignedStatement] = {}
    commits: dict[int, list[SignedStatement]] = {}
    for statement in statements:
        position = statement.position
        repeated = position is not None and made.get(position) == statement
        if position is not None and made.setdefault(position, statement) != statement:
            both = f"{made[position].fields} and {statement.fields}"
            found.append(f"two {statement.kind} statements at {position[1:]}: {both}")
        if statement.kind == "timeout":
            found += _hidden_locks(statement, commits.get(statement.epoch, []))
            before = reports.get(statement.epoch)
            if (
                before is not None
                and before.fields[0] < statement.fields[0]
                and _rank(statement) < _rank(before)
            ):
                found.append(f"a timeout of view {statement.fields[0]} that reports less than an earlier one")
            reports[statement.epoch] = statement
            given_up[statement.epoch] = max(given_up.get(statement.epoch, -1), statement.fields[0])
        elif statement.kind in ("prepare", "commit") and not repeated:
            if statement.fields[0] <= given_up.get(statement.epoch, -1):
                found.append(f"a {statement.kind} in view {statement.fields[0]}, which it had given up")
            if statement.kind == "commit":
                commits.setdefault(statement.epoch, []).append(statement)
    return found


def check_signatures(material: Material) -> CheckResult:
    """No member that was not made to has signed two contradicting statements (A5)."""
    violations: list[str] = []
    looked_at = 0
    innocent = [member for member in material.genesis.members.ids if member not in material.culprits]
    for member in innocent:
        sent = _sent((material.signed or {}).get(member, ()))
        recorded = [
            statement for record in material.records.values() for statement in _recorded(record, member)
        ]
        looked_at += len(sent) + len(recorded)
        violations += [f"{member}: {text}" for text in dict.fromkeys(contradictions(sent))]
        # The order of what is in a record is not the order of signing: only positions count there.
        violations += [f"{member}, in the records: {text}" for text in _clashes([*sent, *recorded])]
    source = "what left the nodes, and" if material.signed is not None else "only"
    return verdict_of(
        "nobody signed two contradicting statements",
        "A5",
        violations,
        f"{looked_at} statements of {len(innocent)} members: {source} what is in the records",
        looked_at=looked_at,
    )


def _sent(lines: Iterable[str]) -> list[SignedStatement]:
    """The statements of a log whose signatures left the process, in the order in which they were made."""
    made: dict[str, bytes] = {}
    order: list[str] = []
    left: set[str] = set()
    for line in lines:
        words = line.split()
        if len(words) == 3:
            if words[2] not in made:
                order.append(words[2])
            made[words[2]] = bytes.fromhex(words[1])
        elif len(words) == 2:
            left.add(words[1])
    statements = [parse_statement(made[signature]) for signature in order if signature in left]
    return [statement for statement in statements if statement is not None]


def _recorded(record: Record, member: str) -> Iterable[SignedStatement]:
    """The commit statements and votes of a member in a record."""
    for block in record.blocks:
        certificate: Mapping[str, Any] = block.certificate or {}
        if any(item["signer"] == member for item in certificate.get("signatures", ())):
            fields = (certificate["view"], certificate["height"], certificate["block_hash"])
            yield SignedStatement("commit", certificate["epoch"], fields)
    for entry in record.of_type("vote"):
        if entry["actor_id"] == member:
            data = entry["data"]
            content = (data["value"], data["reason"], data["voted_ms"])
            yield SignedStatement("vote", data["epoch"], (data["digest"], data["revision"], content))


def _clashes(statements: Iterable[SignedStatement]) -> list[str]:
    made: dict[tuple[Any, ...], SignedStatement] = {}
    found = []
    for statement in statements:
        position = statement.position
        if position is not None and made.setdefault(position, statement) != statement:
            found.append(f"two {statement.kind} statements at {position[1:]}")
    return list(dict.fromkeys(found))


def _hidden_locks(timeout: SignedStatement, commits: Iterable[SignedStatement]) -> list[str]:
    """A COMMIT says that its signer is locked; a later TIMEOUT of the same or a later view must not hide
    that.
    """
    return [
        f"a timeout of view {timeout.fields[0]} that hides the lock of its commit at {commit.fields[:2]}"
        for commit in commits
        if timeout.fields[0] >= commit.fields[0] and _rank(timeout) < (commit.fields[1] - 1, commit.fields[0])
    ]


def _rank(timeout: SignedStatement) -> tuple[int, int]:
    """What a timeout reports: the committed height, then the view of the lock (-1 without one)."""
    _, committed, has_lock, lock_view, _ = timeout.fields
    return committed, lock_view if has_lock else -1
