"""Runs a policy that may block: one incident at a time, in a thread, with a time limit.

A thread cannot be killed. So a call that takes too long counts as no answer, and the next one begins only
when the thread has come back: a policy that hangs costs this member's votes, and never more than one thread.
The thread is a daemon, so that it does not keep the process from ending either.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from replication.node.policies import Choice, Incident, Policy

__all__ = ["PolicyThread"]

_log = logging.getLogger(__name__)

Question = tuple[bytes, Incident]


class PolicyThread:
    """Asks `policy` and tells `answered` (key, choice), on the loop's thread, once for each key that is
    still `wanted` when its turn comes."""

    def __init__(
        self,
        policy: Policy,
        timeout_seconds: float,
        wanted: Callable[[bytes], bool],
        answered: Callable[[bytes, Choice | None], None],
    ) -> None:
        self._policy = policy
        self._timeout_seconds = timeout_seconds
        self._wanted = wanted
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Question] = deque()
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._asked: bytes | None = None
        self._is_late = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def ask(self, key: bytes, incident: Incident) -> None:
        """Put an incident to the policy when it is free."""
        self._waiting.append((key, incident))
        if self._asked is None:
            self._ask_next()

    def close(self) -> None:
        """Ask nothing more. A call that hangs is left to itself."""
        self._waiting.clear()
        self._questions.put(None)
        if self._timer is not None:
            self._timer.cancel()

    def _ask_next(self) -> None:
        while self._waiting:
            key, incident = self._waiting.popleft()
            if self._wanted(key):
                break
        else:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="voter-policy", daemon=True)
            self._thread.start()
        self._asked, self._is_late = key, False
        self._timer = self._loop.call_later(self._timeout_seconds, self._too_late)
        self._questions.put((key, incident))

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            key, incident = question
            choice = self._policy.decide(incident)
            try:
                self._loop.call_soon_threadsafe(self._came_back, key, choice)
            except RuntimeError:  # the loop is closed: nobody is interested any more
                return

    def _too_late(self) -> None:
        self._is_late = True
        _log.warning(
            "the policy has not answered within %g s; this proposal is left to a person, and the policy is "
            "asked about no other until it comes back",
            self._timeout_seconds,
        )
        if self._asked is not None:
            self._answered(self._asked, None)

    def _came_back(self, key: bytes, choice: Choice | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_late:
            self._answered(key, choice)
        self._asked = None
        self._ask_next()
