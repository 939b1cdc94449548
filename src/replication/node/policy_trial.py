"""Trying a policy: what it would have voted on incidents whose votes are known or expected.

Pure: who judges is handed in, so that a rule set runs here and a python policy in a process of its own
(`policy_process`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from replication.node.policies import Diagnostic, Incident, Judgement

__all__ = ["NO_VOTE", "Case", "Finding", "Trial", "try_policy"]

NO_VOTE: Final = "none"
"""How the absence of a vote is written, as in a rule."""

_OPPOSITE: Final = {"approve": "rejected", "reject": "approved"}


@dataclass(frozen=True, slots=True)
class Case:
    """An incident with what is known about it; None is not known.

    `expected` is the vote that the policy ought to give, `voted` the one that the voter gave when it was
    asked, each may be `NO_VOTE`. `decision` is what the cluster decided.
    """

    name: str
    incident: Incident
    expected: str | None = None
    voted: str | None = None
    decision: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What the policy said in one case."""

    case: Case
    judgement: Judgement

    @property
    def vote(self) -> str:
        """The vote, or `NO_VOTE`."""
        return self.judgement.choice.value.value if self.judgement.choice is not None else NO_VOTE

    @property
    def is_unmet(self) -> bool:
        """Whether another vote was expected."""
        return self.case.expected is not None and self.vote != self.case.expected

    @property
    def differs(self) -> bool:
        """Whether the voter voted otherwise; where that is not known, whether the cluster decided against
        the vote."""
        if self.case.voted is not None:
            return self.vote != self.case.voted
        return self.case.decision is not None and self.case.decision == _OPPOSITE.get(self.vote)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What the policy's author should look at: not the keys that the evidence merely does not have."""
        return tuple(found for found in self.judgement.diagnostics if not found.missing)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of all cases: unmet expectations first, then differences, each in the order given.

    `unused` has the numbers of the rules that decided none of them.
    """

    findings: tuple[Finding, ...]
    unused: tuple[int, ...]

    @property
    def unmet(self) -> int:
        """Cases in which another vote was expected."""
        return sum(finding.is_unmet for finding in self.findings)

    @property
    def differing(self) -> int:
        """Cases in which it differs from what happened."""
        return sum(finding.differs for finding in self.findings)

    @property
    def broken(self) -> int:
        """Cases in which something in the policy could not do its work."""
        return sum(bool(finding.errors) for finding in self.findings)


def try_policy(judge: Callable[[Incident], Judgement], cases: Iterable[Case], rules: Sequence[str]) -> Trial:
    """Put each case to `judge`. `rules` are those of the policy, empty for one that has none."""
    findings = [Finding(case, judge(case.incident)) for case in cases]
    used = {finding.judgement.rule for finding in findings}
    unused = tuple(number for number in range(1, len(rules) + 1) if number not in used)
    findings.sort(key=lambda finding: (not finding.is_unmet, not finding.differs))
    return Trial(tuple(findings), unused)
