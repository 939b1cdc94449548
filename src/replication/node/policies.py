"""Voter policies: what a node's voter says about a proposal without being asked.

A policy sees an `Incident` and gives back a `Choice`, or None to leave the vote to a person. Policies fail
closed: whatever goes wrong inside one, the result is never an approval that the policy would not have given
had it worked.

* `ManualPolicy` never votes; a person or an agent casts through the node.
* `CelPolicy` runs an ordered list of rules in the Common Expression Language; the first that is true decides.
* `PythonPolicy` calls ``package.module:callable`` of the operator's own code.

Evidence comes from the proposer and may be hostile. It enters a rule as data only: no text in it is ever
compiled, neither as an expression nor as a regular expression. **A rule runs in native code that holds the
interpreter lock** (measured: a rule of 0.8 s stops every other thread for that long), so that a thread with a
time limit cannot protect the node from a slow rule. The cost is bounded beforehand instead: the policy's text
tells how the number of steps grows with the size of the evidence, and a rule that would need too many is not
run (`MAX_STEPS`).

A python policy may block or loop. It runs in the caller's thread; the caller must call `decide` off the event
loop with a time limit, count no answer as no vote, and start no second call while one hangs. The thread
itself cannot be killed. Code in C that holds the interpreter lock stops the node; that is the operator's to
avoid.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable

from replication.consensus import VoteValue
from replication.errors import OperatorError
from replication.node.cel_expression import (
    Expression,
    ExpressionError,
    evidence_size,
    short_text,
)
from replication.node.config import PolicySettings, did_you_mean
from replication.node.toml_text import TomlError, parse_toml

if TYPE_CHECKING:
    import cel

__all__ = [
    "MAX_REASON_BYTES",
    "MAX_STEPS",
    "CelPolicy",
    "Choice",
    "Diagnostic",
    "Incident",
    "Judgement",
    "ManualPolicy",
    "Policy",
    "PolicyError",
    "PythonPolicy",
    "evidence_size",
    "load_cel_policy",
    "load_policy",
    "parse_cel_policy",
]

MAX_REASON_BYTES: Final = 1024
"""Limit of a vote's reason in UTF-8. A longer one would make the vote itself illegal."""

MAX_STEPS: Final = 500_000
"""Steps that all rules together may need for one incident: at most 0.15 s, at 30 to 270 ns a step."""

MAX_POLICY_BYTES: Final = 256 * 1024
MAX_RULES: Final = 256

_VOTES: Final = (*(value.value for value in VoteValue), "none")
_log = logging.getLogger(__name__)


class PolicyError(OperatorError):
    """A policy cannot be loaded: its file, a rule in it, or the named python callable is wrong."""

    reason: ClassVar[str] = "POLICY_INVALID"


@dataclass(frozen=True, slots=True)
class Incident:
    """The ballot paper: what a policy sees of a proposal. Times in milliseconds; `target` "" is none."""

    proposer: str
    action: str
    target: str
    evidence: Mapping[str, Any]
    critical: bool
    window_ms: int
    expiry_ms: int
    created_ms: int
    voter: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A vote to cast, with the reason that goes into the record."""

    value: VoteValue
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """Why a rule (numbered from 1), or with None the whole policy, did not do its work.

    `missing` is true when the evidence merely has no such key, which is normal in rules for several kinds of
    evidence; false for an error that the policy's author should look at.
    """

    rule: int | None
    message: str
    missing: bool = False

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.message}" if self.rule is not None else self.message


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a policy says, and why: `rule` is the number of the deciding rule, None for the default."""

    choice: Choice | None
    rule: int | None = None
    diagnostics: tuple[Diagnostic, ...] = ()


@runtime_checkable
class Policy(Protocol):
    """Decides how a voter votes. Neither method raises on any incident."""

    @property
    def kind(self) -> str:
        """manual, cel or python."""

    def judge(self, incident: Incident) -> Judgement:
        """The choice and how it came about; logs nothing. For tools that explain a policy."""

    def decide(self, incident: Incident) -> Choice | None:
        """The choice, or None to leave the vote to a person; errors are logged."""


class ManualPolicy:
    """Leaves every vote to a person."""

    kind: Final = "manual"

    def judge(self, incident: Incident) -> Judgement:
        """No choice, ever."""
        return Judgement(None)

    def decide(self, incident: Incident) -> Choice | None:
        """No choice, ever."""
        return None


@dataclass(frozen=True, slots=True)
class _Rule:
    number: int
    when: Expression
    choice: Choice | None

    @property
    def may_withhold(self) -> bool:
        """Whether being true would have kept the policy from approving."""
        return self.choice is None or self.choice.value is not VoteValue.APPROVE


class CelPolicy:
    """An ordered list of rules; the first that is true decides, else the default, else nobody votes.

    A rule that cannot be evaluated does not match and is reported. If the rule was one that would have
    withheld approval, no later rule may approve either: the evidence that broke a guard must not profit from
    it. A key that the evidence does not have is no such error: rules for other kinds of evidence fail on it
    as a matter of course.
    """

    kind: Final = "cel"

    def __init__(self, rules: tuple[_Rule, ...], default: Choice | None, origin: str) -> None:
        self._rules = rules
        self._default = default
        self._origin = origin

    def __len__(self) -> int:
        return len(self._rules)

    @property
    def rules(self) -> tuple[str, ...]:
        """What each rule asks, in order; the first has the number 1."""
        return tuple(rule.when.source for rule in self._rules)

    def judge(self, incident: Incident) -> Judgement:
        """Evaluate the rules in order; see the class."""
        import cel  # only where there are rules

        try:
            size = evidence_size(incident.evidence)
            context = cel.Context(_variables(incident))
        except Exception as error:
            return Judgement(
                None, diagnostics=(Diagnostic(None, f"evidence is not fit for rules: {short_text(error)}"),)
            )
        return self._run(size, context)

    def decide(self, incident: Incident) -> Choice | None:
        """As `judge`; errors go to the log."""
        judgement = self.judge(incident)
        _report(self._origin, incident, judgement)
        return judgement.choice

    def _run(self, size: int, context: cel.Context) -> Judgement:
        diagnostics: list[Diagnostic] = []
        broken_guard: int | None = None
        steps_left = MAX_STEPS
        for rule in self._rules:
            steps = rule.when.steps(size)
            if steps > steps_left:
                problem: Diagnostic | None = Diagnostic(
                    rule.number, f"would need about {steps} steps, too many"
                )
            else:
                steps_left -= steps
                matches, problem = _evaluate(rule, context)
                if matches:
                    return self._settle(rule.choice, rule.number, broken_guard, diagnostics)
            if problem is not None:
                diagnostics.append(problem)
                if not problem.missing and rule.may_withhold and broken_guard is None:
                    broken_guard = rule.number
        return self._settle(self._default, None, broken_guard, diagnostics)

    def _settle(
        self, choice: Choice | None, rule: int | None, broken_guard: int | None, diagnostics: list[Diagnostic]
    ) -> Judgement:
        if choice is not None and choice.value is VoteValue.APPROVE and broken_guard is not None:
            message = f"approval withheld, because rule {broken_guard} before it could not be evaluated"
            diagnostics.append(Diagnostic(rule, message))
            choice = None
        return Judgement(choice, rule, tuple(diagnostics))


class PythonPolicy:
    """Calls the operator's own code with the incident (and a copy of its evidence).

    The callable returns a `Choice`, a `VoteValue`, "approve", "reject", "abstain" or "none", or None. An
    exception, any other result, or an exit it asks for means that nobody votes. See the module on callables
    that block.
    """

    kind: Final = "python"

    def __init__(self, function: Callable[[Incident], object], name: str) -> None:
        self._function = function
        self._name = name

    def judge(self, incident: Incident) -> Judgement:
        """Call the policy; see the class."""
        try:
            evidence_size(incident.evidence)
            result = self._function(_private_copy(incident))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: a policy must not be able to end the node
            return Judgement(
                None, diagnostics=(Diagnostic(None, f"raised {type(error).__name__}: {short_text(error)}"),)
            )
        try:
            return Judgement(_choice_of(result))
        except ValueError as error:
            return Judgement(None, diagnostics=(Diagnostic(None, str(error)),))

    def decide(self, incident: Incident) -> Choice | None:
        """As `judge`; errors go to the log."""
        judgement = self.judge(incident)
        _report(self._name, incident, judgement)
        return judgement.choice


def load_policy(settings: PolicySettings, home: Path) -> Policy:
    """The policy that a node's configuration names; a relative file is looked up in `home`.

    A python entry is imported from the interpreter's search path (PYTHONPATH, installed packages).

    Raises:
        PolicyError: what is wrong, in which file, rule and key.
    """
    if settings.kind == "manual":
        return ManualPolicy()
    if settings.kind == "cel" and settings.file:
        return load_cel_policy(home / settings.file)
    if settings.kind == "python" and settings.entry:
        return PythonPolicy(_import_entry(settings.entry), settings.entry)
    raise PolicyError(
        f"a policy needs kind manual, cel with a file, or python with an entry, not {settings!r:.200}"
    )


def load_cel_policy(path: Path) -> CelPolicy:
    """Read and compile a file of rules.

    Raises:
        PolicyError: as `load_policy`.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise PolicyError(
            f"{path} cannot be read: {error.strerror}. Check policy.file in config.toml."
        ) from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if len(raw) > MAX_POLICY_BYTES:
        raise PolicyError(f"{path} is larger than {MAX_POLICY_BYTES} bytes; split or simplify the policy")
    return parse_cel_policy(text, str(path))


def parse_cel_policy(text: str, origin: str) -> CelPolicy:
    """Compile the rules in `text` (TOML); `origin` names it in errors.

    Raises:
        PolicyError: as `load_policy`.
    """
    try:
        data = parse_toml(text)
    except TomlError as error:
        raise PolicyError(f"{origin} is not valid TOML: {error}") from error
    _known_keys(data, ("rule", "default"), origin)
    tables = data.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PolicyError(f"{origin}: rules are written as [[rule]] tables, with two brackets")
    if len(tables) > MAX_RULES:
        raise PolicyError(f"{origin} has {len(tables)} rules; at most {MAX_RULES} are allowed")
    if not tables and "default" not in data:
        raise PolicyError(
            f'{origin} has no rules and no default. To leave all votes to people, use kind = "manual".'
        )
    rules = tuple(_rule(table, number, f"{origin}: rule {number}") for number, table in enumerate(tables, 1))
    default = data.get("default", {"vote": "none"})
    if not isinstance(default, dict):
        raise PolicyError(f'{origin}: default must be a table, such as default = {{ vote = "none" }}')
    _known_keys(default, ("vote", "reason"), f"{origin}: default")
    return CelPolicy(rules, _choice_in(default, f"{origin}: default"), origin)


def _variables(incident: Incident) -> dict[str, Any]:
    """What expressions see. All of it is data: nothing here is callable, so nothing can become a function."""
    return {
        "action": incident.action,
        "target": incident.target,
        "evidence": dict(incident.evidence),
        "proposer": incident.proposer,
        "critical": incident.critical,
        "voter": incident.voter,
    }


def _evaluate(rule: _Rule, context: cel.Context) -> tuple[bool, Diagnostic | None]:
    try:
        result = rule.when.evaluate(context)
    except LookupError as error:
        return False, Diagnostic(rule.number, f"the evidence has no {short_text(error)}", missing=True)
    except ExpressionError as error:
        return False, Diagnostic(rule.number, short_text(error))
    if not isinstance(result, bool):
        return False, Diagnostic(
            rule.number, f"gives {type(result).__name__} {short_text(result)}, not true or false"
        )
    return result, None


def _rule(table: dict[str, Any], number: int, where: str) -> _Rule:
    if "default" in table:
        raise PolicyError(f"{where}: default belongs to the whole file; move it above the first [[rule]]")
    _known_keys(table, ("when", "vote", "reason"), where)
    when = table.get("when")
    if not isinstance(when, str) or not when.strip():
        raise PolicyError(f"{where}: when must be given, as a CEL expression in quotes, not {when!r:.80}")
    try:
        expression = Expression(when)
    except ExpressionError as error:
        raise PolicyError(f"{where}: when is not a usable CEL expression: {error}") from error
    return _Rule(number, expression, _choice_in(table, where))


def _choice_in(table: dict[str, Any], where: str) -> Choice | None:
    vote, reason = table.get("vote"), table.get("reason", "")
    if not isinstance(vote, str) or vote not in _VOTES:
        raise PolicyError(f"{where}: vote must be one of {', '.join(_VOTES)}, not {vote!r:.80}")
    if not isinstance(reason, str) or len(reason.encode()) > MAX_REASON_BYTES:
        raise PolicyError(
            f"{where}: reason must be text of at most {MAX_REASON_BYTES} bytes, not {reason!r:.80}"
        )
    if vote == "none":
        return None
    if not reason.strip():
        raise PolicyError(f"{where}: reason must say why; it goes into the record with the vote")
    return Choice(VoteValue(vote), reason)


def _known_keys(table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise PolicyError(f"{where}: unknown key {key!r:.80}; {did_you_mean(key, known)}")


def _import_entry(entry: str) -> Callable[[Incident], object]:
    module_name, _, path = entry.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the operator's module does when it is imported
        raise PolicyError(
            f"policy.entry {entry!r:.120}: module {module_name} cannot be imported: {type(error).__name__}: "
            f"{short_text(error)}. It must be installed or on PYTHONPATH."
        ) from error
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            raise PolicyError(f"policy.entry {entry!r:.120}: module {module_name} has no {name!r:.80}")
    if not callable(found):
        raise PolicyError(f"policy.entry {entry!r:.120}: it is {type(found).__name__}, not a function")
    if inspect.iscoroutinefunction(found):
        raise PolicyError(
            f"policy.entry {entry!r:.120}: it is an async function; a policy must be a plain one"
        )
    function: Callable[[Incident], object] = found
    return function


def _private_copy(incident: Incident) -> Incident:
    """The incident with evidence of its own, so that a policy cannot change what the node is working on."""
    return Incident(
        incident.proposer,
        incident.action,
        incident.target,
        copy.deepcopy(dict(incident.evidence)),
        incident.critical,
        incident.window_ms,
        incident.expiry_ms,
        incident.created_ms,
        incident.voter,
    )


def _choice_of(result: object) -> Choice | None:
    if isinstance(result, Choice):
        value: object = result.value  # the operator's code need not keep to the types
        reason: object = result.reason
        if isinstance(value, VoteValue) and isinstance(reason, str):
            return Choice(value, _fitting(reason))
    if result is None or (isinstance(result, str) and result == "none"):
        return None
    if isinstance(result, str) and result in _VOTES:  # a VoteValue is such a string too
        return Choice(VoteValue(result))
    if inspect.iscoroutine(result):
        result.close()
    raise ValueError(
        f"returned {type(result).__name__} {short_text(result)}; a policy returns a Choice, one of "
        f"{', '.join(_VOTES)}, or None"
    )


def _fitting(reason: str) -> str:
    """`reason` as legal text of at most `MAX_REASON_BYTES`, cut between characters."""
    raw = reason.encode("utf-8", "replace")
    if len(raw) <= MAX_REASON_BYTES:
        return raw.decode()
    return raw[: MAX_REASON_BYTES - 3].decode("utf-8", "ignore") + "…"


def _report(origin: str, incident: Incident, judgement: Judgement) -> None:
    """At most one warning for an incident, however many rules a hostile proposer manages to break."""
    errors = [diagnostic for diagnostic in judgement.diagnostics if not diagnostic.missing]
    if errors:
        _log.warning(
            "policy %s on %s of %s proposed by %s: %s%s",
            origin,
            short_text(incident.action),
            short_text(incident.target),
            short_text(incident.proposer),
            errors[0],
            f" (and {len(errors) - 1} more)" if len(errors) > 1 else "",
        )
