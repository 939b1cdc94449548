"""May this target run? Answered on the spot, from decision certificates on disk, without asking any node.

    gate = Gate(load_genesis("genesis.json"), "gate")
    gate.require("agent-7")          # raises GateClosedError with the reason

An executor keeps a folder up to date (`acp executor --gate DIR`): for each target the certificate of the
newest decision about it. The gate verifies the certificate with nothing but the genesis file, so whoever
writes to the folder can forge no permission. What an action does to a target:

* ``quarantine`` and ``terminate`` close the gate, ``release`` opens it again, ``restrict`` opens it with a
  restriction that the caller has to apply; other actions, such as ``escalate``, change nothing.

The newest decision counts, by its place in the record and never by the time of a file. A gate remembers the
newest it has seen, so that an old release put in the place of a newer quarantine does not open it as long as
the process runs.

It fails closed. A certificate that is damaged, forged, of another cluster or about another target closes the
gate for its target, and so does a folder that is missing or cannot be read. A target without a certificate
is free: nothing was decided about it. Who can delete files in the folder can therefore lift a quarantine:
keep it writable by the executor alone, and give `max_age_seconds`, so that a folder that nobody keeps up to
date closes the gate too.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

from replication.client.files import write_whole
from replication.errors import CallerError, OperatorError, ReplicationError
from replication.identity.genesis import Genesis
from replication.ledger.verify import MAX_CERTIFICATE_BYTES, CertificateReport, verify_certificate

__all__ = ["STATE_BY_ACTION", "Gate", "GateAnswer", "GateClosedError", "GateFiles", "GateState"]

logger = logging.getLogger(__name__)

_HEARTBEAT: Final = "checked"
"""Touched by the executor whenever it has looked for decisions."""


class GateState(StrEnum):
    """What is known about a target. Only FREE, RELEASED and RESTRICTED let it run."""

    FREE = "free"
    RELEASED = "released"
    RESTRICTED = "restricted"
    QUARANTINED = "quarantined"
    TERMINATED = "terminated"
    UNVERIFIABLE = "unverifiable"


STATE_BY_ACTION: Final = {
    "quarantine": GateState.QUARANTINED,
    "terminate": GateState.TERMINATED,
    "restrict": GateState.RESTRICTED,
    "release": GateState.RELEASED,
}
"""The actions that say whether a target may run. Of two about one target the later one counts."""

_OPEN: Final = frozenset({GateState.FREE, GateState.RELEASED, GateState.RESTRICTED})


class GateClosedError(CallerError):
    """The target may not run. `answer` says why."""

    reason: ClassVar[str] = "GATE_CLOSED"

    def __init__(self, answer: GateAnswer) -> None:
        super().__init__(f"{answer.target} may not run: {answer.why}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What the gate says about a target, with the decision it rests on, None when there is none or it is
    bad."""

    target: str
    state: GateState
    why: str
    decision: CertificateReport | None = None

    @property
    def is_open(self) -> bool:
        """Whether the target may run, with the restriction if it is RESTRICTED."""
        return self.state in _OPEN


class GateFiles:
    """The folder, as an executor keeps it: one certificate for each target, the newest."""

    def __init__(self, genesis: Genesis, folder: Path) -> None:
        self._genesis = genesis
        self._folder = folder
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise OperatorError(
                f"{folder} cannot be made: {error.strerror}. Check the folder above."
            ) from error

    def keep(self, certificate: str) -> None:
        """Keep a certificate of an approved decision, unless a newer one about its target is there.

        A file that cannot be verified stays as it is, and the gate closed: nobody knows whether what it held
        was newer. Who has looked into it removes it and starts the executor again, which learns it anew.
        """
        report = verify_certificate(certificate, self._genesis)
        if not report.authorises or report.action not in STATE_BY_ACTION or not report.target:
            return
        path = self._folder / _file_name(report.target)
        try:
            known = _read(path, self._genesis, report.target)
        except (ReplicationError, OSError) as error:
            logger.error("%s stays closed until its file is removed: %s", report.target, error)
            return
        if known is None or known.tally_sequence < report.tally_sequence:
            write_whole(path, certificate.encode())

    def checked(self) -> None:
        """Decisions were looked for just now."""
        write_whole(self._folder / _HEARTBEAT, b"")


class Gate:
    """Answers for a folder. `max_age_seconds`: how long ago its executor may have looked last."""

    def __init__(self, genesis: Genesis, folder: str | Path, *, max_age_seconds: float | None = None) -> None:
        self._genesis = genesis
        self._folder = Path(folder)
        self._max_age_seconds = max_age_seconds
        self._newest: dict[str, CertificateReport] = {}

    def check(self, target: str) -> GateAnswer:
        """What is decided about a target. Never raises: what cannot be verified is an answer, and a closed
        one."""
        try:
            found = self._look(target)
        except (ReplicationError, OSError) as error:
            return GateAnswer(target, GateState.UNVERIFIABLE, f"what is decided cannot be verified: {error}")
        known = self._newest.get(target)
        if known is not None and (found is None or found.tally_sequence < known.tally_sequence):
            found = known
        if found is None:
            return GateAnswer(target, GateState.FREE, "nothing was decided about it")
        self._newest[target] = found
        state = STATE_BY_ACTION[found.action]
        return GateAnswer(target, state, f"{found.proposal_id} decided to {found.action} it", found)

    def require(self, target: str) -> GateAnswer:
        """The answer if it is an open one. Raises GateClosedError otherwise."""
        answer = self.check(target)
        if not answer.is_open:
            raise GateClosedError(answer)
        return answer

    def _look(self, target: str) -> CertificateReport | None:
        if not self._folder.is_dir():
            raise OperatorError(f"{self._folder} is not there. Start the executor that keeps it.")
        if self._max_age_seconds is not None:
            age = time.time() - (self._folder / _HEARTBEAT).stat().st_mtime
            if age > self._max_age_seconds:
                raise OperatorError(f"{self._folder} was last brought up to date {age:.0f} s ago")
        return _read(self._folder / _file_name(target), self._genesis, target)


def _read(path: Path, genesis: Genesis, target: str) -> CertificateReport | None:
    """The decision in a file; None where there is no file. Raises what verification raises."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CERTIFICATE_BYTES + 1)
    except FileNotFoundError:
        return None
    report = verify_certificate(data, genesis)
    if report.target != target or not report.authorises or report.action not in STATE_BY_ACTION:
        raise OperatorError(f"{path} holds {report.decision} to {report.action} {report.target!r:.100}")
    return report


def _file_name(target: str) -> str:
    """Targets are any text: their hash is a safe name."""
    return f"{sha256(target.encode('utf-8')).hexdigest()}.json"
