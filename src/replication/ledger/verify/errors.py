"""The one error of the verifier: what is wrong with a file, and where in it."""

from __future__ import annotations

from typing import ClassVar

from replication.errors import ReplicationError

__all__ = ["VerificationError"]


class VerificationError(ReplicationError):
    """A file does not prove what it claims.

    `problem` names the field and says what is wrong with it; `where` says in which line, block, entry and
    proposal (as far as that is known). The message is the two together. The file is at fault, or whoever
    handed it over; nothing in it may be relied on.
    """

    reason: ClassVar[str] = "VERIFICATION_FAILED"

    def __init__(self, problem: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.where = where

    def at(self, place: str) -> VerificationError:
        """Return the same error with `place` as the outer part of its position."""
        return VerificationError(self.problem, where=f"{place}, {self.where}" if self.where else place)
