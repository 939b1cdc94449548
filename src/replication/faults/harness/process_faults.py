"""Faults of processes: killed, stopped, started twice, short of files or memory."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from replication.client import AsyncClient, RemoteError
from replication.faults.harness.fault import Fault, Kind, NotPossibleError, Planned
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Number, Whole
from replication.faults.harness.site import LOOK_SECONDS
from replication.node.home import NodeHome

if TYPE_CHECKING:
    from replication.faults.harness.site import Site

__all__ = [
    "END_SECONDS",
    "OPERATOR_EXIT",
    "PROCESS_FAULTS",
    "LimitFault",
    "StoppingFault",
    "describe_code",
    "last_words",
    "run_node_to_its_end",
]

UP_SECONDS: Final = 30.0
"""How long a node may take from its start to its first answer, when nothing is wrong with it any more."""

REFUSAL_SECONDS: Final = 30.0
"""How long a process may take to find out that it must not run."""

END_SECONDS: Final = 15.0
"""How long a node that has to stop may take to end its calls and close its files."""

STOPPING: Final = "msg=stopping"
"""What a node logs when it begins to stop."""

OPERATOR_EXIT: Final = 8
"""The exit code of `acp` for what a person has to put right."""


class StoppingFault(Fault):
    """A fault that takes nodes down and has to bring them up again."""

    @property
    def who(self) -> str:
        """The name in which this fault keeps nodes down."""
        return f"{self.planned.kind} {self.planned.number}"

    async def take_down(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the processes that are hit, all at once."""
        pids = await asyncio.gather(
            *(self.site.nodes[member].hold(self.who, number) for member in self.members)
        )
        for member, pid in zip(self.members, pids, strict=True):
            if pid is not None:
                node = self.site.nodes[member]
                code = node.exits[-1].code if node.exits else None
                self.effect(f"{member}: process {pid} ended ({describe_code(code)})")

    async def bring_up(self) -> None:
        """Let the nodes start again, and wait until they answer."""
        for member in self.members:
            self.site.nodes[member].release(self.who)
        for member in self.members:
            await self.wait_up(member)

    async def wait_up(self, member: str, seconds: float = UP_SECONDS) -> bool:
        """Wait until a node answers, unless another fault has it. A node that does not come up is a
        violation.

        """
        node = self.site.nodes[member]
        limit = seconds * self.site.pace
        give_up = time.monotonic() + limit
        while time.monotonic() < give_up:
            node.notice_end()
            if node.is_held or node.paused or (node.pid is None and node.may_be_down):
                return True  # another fault has it
            if node.pid is None:
                self.violation(f"{member} did not come up again: {last_words(node.exits[-1].words)}")
                return False
            if await self.site.look(member) is not None:
                self.effect(f"{member}: answers again after its start")
                return True
            await asyncio.sleep(0.05)
        self.violation(f"{member} does not answer {limit:.0f} s after its start")
        return False


class Kill(StoppingFault):
    """SIGKILL: no warning, nothing is flushed."""

    kind: ClassVar[Kind] = Kind("kill", Group.PROCESS, "SIGKILL; started again at the end")

    @property
    def is_complete(self) -> bool:
        return True  # what it does, it does at its beginning

    async def begin(self) -> None:
        await self.take_down()

    async def end(self) -> None:
        await self.bring_up()


class Terminate(Kill):
    """SIGTERM: an orderly stop, as in an upgrade."""

    kind: ClassVar[Kind] = Kind(
        "terminate", Group.PROCESS, "SIGTERM, as in an upgrade; started again at the end"
    )

    async def begin(self) -> None:
        await self.take_down(signal.SIGTERM)
        for member in self.members:
            exits = self.site.nodes[member].exits
            if exits and not exits[-1].is_orderly:
                self.violation(
                    f"{member} ended with {describe_code(exits[-1].code)} after SIGTERM, not with 0"
                )


class RollingRestart(StoppingFault):
    """One node after another is stopped in good order and started again, each when the one before is back."""

    kind: ClassVar[Kind] = Kind(
        "rolling-restart",
        Group.PROCESS,
        "one node after another is stopped with SIGTERM and started again, as in an upgrade",
        instant=True,
        default_target="all",
    )

    async def begin(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            await node.hold(self.who, signal.SIGTERM)
            code = node.exits[-1].code if node.exits else None
            self.effect(f"{member}: ended ({describe_code(code)})")
            if node.exits and not node.exits[-1].is_orderly:
                self.violation(f"{member} ended with {describe_code(code)} after SIGTERM, not with 0")
            node.release(self.who)
            await self.wait_up(member)

    async def end(self) -> None:
        """It was over when the last node was back."""


class Pause(Fault):
    """SIGSTOP, then SIGCONT: the process comes back and believes that no time has passed."""

    kind: ClassVar[Kind] = Kind("pause", Group.PROCESS, "SIGSTOP; SIGCONT at the end")

    async def begin(self) -> None:
        for member in self.members:
            if self.site.nodes[member].pause(self._who):
                await self._wait_state(member, stopped=True)

    async def observe(self) -> None:
        for member in self.members:
            if self.site.nodes[member].state_letter() == "T":
                self.effect(f"{member}: stopped, as /proc says")

    async def end(self) -> None:
        for member in self.members:
            self.site.nodes[member].resume(self._who)

    @property
    def _who(self) -> str:
        return f"pause {self.planned.number}"

    async def _wait_state(self, member: str, *, stopped: bool) -> None:
        give_up = time.monotonic() + 1.0
        while time.monotonic() < give_up and (self.site.nodes[member].state_letter() == "T") is not stopped:
            await asyncio.sleep(0.01)


class CrashLoop(StoppingFault):
    """Killed again and again, each time a moment after it was started."""

    kind: ClassVar[Kind] = Kind(
        "crash-loop",
        Group.PROCESS,
        "SIGKILL again and again, each time a moment after the start",
        settings={"lives_seconds": Number(0.8, 0.0, 3600.0)},
    )

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        super().__init__(planned, members, site, draw)
        self._task: asyncio.Task[None] | None = None
        self.kills = 0

    async def begin(self) -> None:
        await self.take_down()
        self._task = asyncio.create_task(self._loop())

    async def _loop(self) -> None:
        while True:
            for member in self.members:
                self.site.nodes[member].release(self.who)
            await asyncio.sleep(self.setting("lives_seconds") * self.draw.uniform(0.5, 1.5))
            for member in self.members:
                await self.site.nodes[member].hold(self.who)
            self.kills += 1
            self.effect(f"crash {self.kills} of {', '.join(self.members)}")

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.bring_up()


class StartTwice(Fault):
    """A second process on the home of a running node. It has to refuse, and the first one must not notice."""

    kind: ClassVar[Kind] = Kind(
        "start-twice", Group.PROCESS, "a second process on the same home; it must refuse to run", instant=True
    )

    async def begin(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            first = node.pid
            if first is None:
                raise NotPossibleError(f"{member} does not run")
            code, words = await asyncio.to_thread(run_node_to_its_end, node.home, self.site.pace)
            if code == OPERATOR_EXIT and "in use" in words:
                self.effect(f"{member}: the second process refused ({last_words(words)})")
            else:
                self.violation(
                    f"{member}: a second process on its home ended with {describe_code(code)}: {words}"
                )
                self.effect(f"{member}: a second process was started")
            if node.pid != first:
                self.violation(f"{member}: the first process ended when a second one was started")

    async def end(self) -> None:
        """It was over when it had begun."""


class LimitFault(StoppingFault):
    """A limit of the kernel, lowered for a running process. It may end because of it, and comes back."""

    limit: ClassVar[int]

    def __init__(self, planned: Planned, members: tuple[str, ...], site: Site, draw: random.Random) -> None:
        super().__init__(planned, members, site, draw)
        self._ends: dict[str, int] = {}
        self._log_sizes: dict[str, int] = {}

    def used(self, pid: int) -> int:
        """How much of it the process uses now."""
        raise NotImplementedError

    def spare(self) -> int:
        """How much more it may use."""
        raise NotImplementedError

    async def begin(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            pid = node.pid
            if pid is None:
                raise NotPossibleError(f"{member} does not run")
            node.allow_end(self.who)
            self._log_sizes[member] = node.log_size()
            used = self.used(pid)
            _, hard = resource.prlimit(pid, self.limit)
            resource.prlimit(pid, self.limit, (used + self.spare(), hard))
            self._ends[member] = len(node.exits)

    async def observe(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            node.notice_end()
            if len(node.exits) > self._ends[member]:
                ended = node.exits[-1]
                self.effect(
                    f"{member}: ended because of it ({describe_code(ended.code)}): {last_words(ended.words)}"
                )

    async def end(self) -> None:
        for member in self.members:
            node = self.site.nodes[member]
            pid = node.pid
            if pid is not None:
                _, hard = resource.prlimit(pid, self.limit)
                resource.prlimit(pid, self.limit, (hard, hard))
            if STOPPING in node.log_since(self._log_sizes.get(member, 0)):
                await node.wait_end(END_SECONDS * self.site.pace)  # it takes a moment to end its calls
                await self.observe()
            node.forbid_end(self.who)
            node.start()
            await self.wait_up(member)


class FewFiles(LimitFault):
    """No file and no connection can be opened any more."""

    limit = resource.RLIMIT_NOFILE
    kind: ClassVar[Kind] = Kind(
        "few-files",
        Group.PROCESS,
        "no more files and connections can be opened; a node may stop, and must not misbehave",
        settings={"spare_files": Whole(0, 0, 1024)},
    )

    def used(self, pid: int) -> int:
        # The limit is on the number of a descriptor, and gaps are filled first.
        return max(int(item.name) for item in Path(f"/proc/{pid}/fd").iterdir()) + 1

    def spare(self) -> int:
        return int(self.setting("spare_files"))

    async def observe(self) -> None:
        await super().observe()
        for member in self.members:
            # A connection of its own: those that are open go on.
            async with AsyncClient(self.site.observer.handle.only(member), rounds=1) as client:
                try:
                    await client.status(timeout_seconds=LOOK_SECONDS * self.site.pace)
                except RemoteError:
                    self.effect(f"{member}: accepts no new connection")


class LittleMemory(LimitFault):
    """The process cannot get more memory. It may die of it; its record must survive."""

    limit = resource.RLIMIT_AS
    kind: ClassVar[Kind] = Kind(
        "little-memory",
        Group.PROCESS,
        "the address space may not grow any more; a node may die of it, and comes back at the end",
        settings={"spare_mib": Whole(1, 0, 4096)},
    )

    def used(self, pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()

    def spare(self) -> int:
        return int(self.setting("spare_mib")) * 1024 * 1024


def run_node_to_its_end(home: NodeHome, pace: float) -> tuple[int | None, str]:
    """Run the node of a home as an operator would, and wait until it refuses: exit code and last words.

    A process that does not refuse is killed; its code is None.

    """
    command = [sys.executable, "-m", "replication.cli", "node", "--home", str(home.path)]
    child = subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, words = child.communicate(timeout=REFUSAL_SECONDS * pace)
        return child.returncode, words.decode(errors="replace").strip()
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return None, "it ran, and had to be killed"


def describe_code(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "no exit code"
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def last_words(text: str) -> str:
    """The last line of what a process said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


PROCESS_FAULTS: Final[tuple[type[Fault], ...]] = (
    Kill,
    Terminate,
    RollingRestart,
    Pause,
    CrashLoop,
    StartTwice,
    FewFiles,
    LittleMemory,
)
