"""A python policy in a process of its own, which can be ended. For tools that try a policy.

A node runs the policy in a thread (`policy_thread`), since its votes may depend on what the process knows.
A thread cannot be killed; a tool must come back even when the operator's code loops, blocks while it is
imported, or ends the process. What the code prints goes to stderr: stdout is for the tool's answer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from replication.node.config import PolicySettings
from replication.node.policies import Diagnostic, Incident, Judgement, PolicyError, load_policy

__all__ = ["LOAD_SECONDS", "PolicyProcess"]

LOAD_SECONDS: Final = 30.0
"""How long the operator's module may take to be imported, the start of the interpreter included."""


class PolicyProcess:
    """Asks a policy that may hang. Use as a context manager.

    `timeout_seconds` is for one incident. A call that takes longer counts as no vote, as in a node, and the
    next incident gets a new process: whatever the policy kept in memory is lost then.

    Raises:
        PolicyError: the policy cannot be loaded, or does not come back from being imported.
    """

    def __init__(self, settings: PolicySettings, timeout_seconds: float, load_seconds: float = LOAD_SECONDS):
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._load_seconds = load_seconds
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def judge(self, incident: Incident) -> Judgement:
        """What the policy says. Raises PolicyError when it has to be loaded anew, and cannot be."""
        if self._pipe.closed:
            self._start()
        try:
            self._pipe.send(incident)
            if not self._pipe.poll(self._timeout_seconds):
                self._end()
                return _nothing(f"has not answered within {self._timeout_seconds:g} s, and was ended")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._end()
            return _nothing(f"ended its process (exit code {code}); it would have ended the node")
        if not isinstance(answer, Judgement):
            raise RuntimeError(f"the process of the policy said {type(answer).__name__}")
        return answer

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(self._settings, theirs), daemon=True)
        self._process.start()
        theirs.close()
        where = f"policy.entry {self._settings.entry!r}"
        try:
            loaded = self._pipe.poll(self._load_seconds)
            problem: str | None = (
                self._pipe.recv() if loaded else f"{where}: not imported within {self._load_seconds:g} s"
            )
        except (EOFError, OSError):
            problem = f"{where}: the process ended while it was imported"
        if problem is not None:
            self._end()
            raise PolicyError(problem)

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _nothing(message: str) -> Judgement:
    return Judgement(None, diagnostics=(Diagnostic(None, message),))


def _serve(settings: PolicySettings, pipe: Connection) -> None:
    """The process: says None once the policy is loaded, or what is wrong, and then answers incidents."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tool, which ends this process
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        policy = load_policy(settings, Path())
    except PolicyError as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    while True:
        try:
            incident = pipe.recv()
        except EOFError:
            return
        pipe.send(policy.judge(incident))
