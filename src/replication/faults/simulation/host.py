"""One simulated process: a replica, its disk, its clock, and a driver that does what the node's driver does.

The order is the driver's duty and the safety argument: inputs are fed (several before one write, but none
after a block was applied), everything they ask for is made durable, and only then anything is sent or told.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replication.errors import CallerError, InvariantError, PeerError
from replication.faults.simulation.disk import Disk, Snapshot
from replication.ordering.application import command_digest
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock, Behind, Effects
from replication.ordering.messages import Message
from replication.ordering.replica import Replica, Restored
from replication.ordering.signing import Signer, SignState

if TYPE_CHECKING:
    from replication.faults.simulation.world import World

__all__ = ["Host"]

EPOCH_START_MS = 1_700_000_000_000
MAX_TICKS = 200
PAGE = 8
HEALTHY_SYNC_US = (100, 1_000)
HEALTHY_BATCH = 64
"""Progress is promised for machines that keep up: after the faults, disks are fast and writes are shared."""

Input = tuple[Any, ...]


@dataclass
class _Fetch:
    """One page of blocks that was asked for."""

    peer: str
    number: int


class Host:
    """A member's process. Subclassed by faulty ones."""

    is_faulty = False

    def __init__(self, world: World, member: str, endpoint: str, key: Signer, position: int) -> None:
        self.world = world
        self.engine = world.engine
        self.member = member
        self.endpoint = endpoint
        self.key = key
        self.position = position
        self.disk = Disk()
        self.rng = random.Random(f"host/{world.scenario.seed}/{endpoint}")
        self.replica: Replica[Any] | None = None
        self.application: Any = None
        self.mine: dict[bytes, bytes] = {}
        drifts, offsets = world.scenario.clock_drifts_ppm, world.scenario.clock_offsets_ms
        self._drift_ppm = drifts[position] if drifts else 0
        self._clock_start_ms = EPOCH_START_MS + (offsets[position] if offsets else 0)
        self.clock_step_ms = 0
        self.down = True
        self.gone = False
        self.was_restored = False
        self.paused_until_us = 0
        self.told_height = 0
        self.incarnation = 0
        self._busy = False
        self._writing: Effects[Any] | None = None
        self._inbox: deque[Input] = deque()
        self._alarm_us: int | None = None
        self._idle_rings = 0
        self._last_ms = 0
        self._fetch: _Fetch | None = None
        self._fetch_number = 0
        self._target = 0
        self._epoch = 0
        self.backup: Snapshot | None = None
        self._watch_disk()

    # Life.

    def boot(self) -> None:
        """Start the process from what is on disk."""
        world, disk = self.world, self.disk
        kit = world.kit
        application, head, certificate, base = kit.restore(disk.blocks)
        restored = Restored(
            header=head,
            certificate=certificate,
            sign_state=disk.sign_state,
            bodies=tuple(disk.bodies.values()),
            commands=tuple(disk.commands.values()),
            spare_nonce=self.rng.randbytes(32),
            base_height=base,
        )
        self.application = application
        self.replica = Replica(
            self.member,
            kit.cluster_id,
            application.members,
            self.key,
            application,
            restored,
            world.settings,
        )
        self._epoch = application.members.epoch
        self.down, self._busy = False, False
        self.incarnation += 1
        self._alarm_us = None
        self._last_ms = 0
        self._fetch, self._target = None, 0
        self._inbox.clear()
        self.mine = dict(disk.commands)
        self.world.checkers.booted(self)
        self._offer("start")
        world.reconnect_all(self)

    def crash(self, point: str) -> None:
        """The process dies; what was not written is gone."""
        if self.down:
            return
        self.engine.fired[f"crash: {point}"] += 1
        self.engine.trace.note(f"{self.engine.now_us} {self.endpoint} CRASH {point}")
        if self._writing is not None:
            self.disk.crash(self._writing.persist, self.rng)
            self._writing = None
        self.down, self.replica = True, None
        self.incarnation += 1
        self._inbox.clear()
        faults = self.world.scenario.crashes
        down_ms = self.rng.randint(faults.min_down_ms, faults.max_down_ms)
        self.engine.after(down_ms * 1000, self.restart)

    def _watch_disk(self) -> None:
        self.disk.watch = lambda before, after: self.world.checkers.promised(self, before, after)

    def wipe(self) -> None:
        """The disk is lost; a new one is put in, under a name of its own, and the process starts again."""
        if not self.gone and self.world.has_faults:
            self.crash("wiped disk")
            self.disk = Disk(sign_state=SignState(0, self.rng.randbytes(32)))
            self._watch_disk()
            self.told_height = 0
            self.mine.clear()

    def back_up(self) -> None:
        """Somebody copies the files."""
        self.backup = self.disk.snapshot()

    def restore(self, *, blocks_too: bool = True) -> None:
        """Somebody puts the copies back: the record too, or the journal alone."""
        if self.backup is not None and not self.gone:
            self.crash("restored backup")
            self.was_restored = True
            self.disk.roll_back(self.backup, blocks_too=blocks_too)
            self.told_height = 0

    def vanish(self) -> None:
        """The process ends and does not come back."""
        self.down, self.gone, self.replica = True, True, None
        self.incarnation += 1
        self._inbox.clear()

    def restart(self) -> None:
        """Start again after a crash, unless somebody did."""
        if self.down and not self.gone:
            self.engine.trace.note(f"{self.engine.now_us} {self.endpoint} BOOT height {self.disk.height}")
            self.boot()

    def pause(self, length_us: int) -> None:
        """The process is stopped and goes on later, none the wiser."""
        self.engine.fired["pause"] += 1
        self.paused_until_us = self.engine.now_us + length_us
        self.engine.after(length_us, self._work)

    def local_ms(self) -> int:
        """This host's clock: wrong by an offset and a drift, may be stepped, never runs backwards in one
        process."""
        now_us = self.engine.now_us
        passed_ms = (now_us + now_us * self._drift_ppm // 1_000_000) // 1000
        self._last_ms = max(self._last_ms, self._clock_start_ms + self.clock_step_ms + passed_ms)
        return self._last_ms

    # Inputs.

    def receive(self, sender: str, message: Message) -> None:
        """A message arrives."""
        self._offer("message", sender, message)

    def submit(self, command: bytes) -> None:
        """A client of this member wants a command ordered."""
        if not self.down:
            self.mine[command_digest(command)] = command
            self._offer("submit", command)

    def vote(self, incarnation: int, opened: bytes) -> None:
        """The voter of this process has made up its mind, unless it died meanwhile or has voted before."""
        kit = self.world.kit
        if self.down or incarnation != self.incarnation:
            return
        if not kit.has_voted(self.application, self.member, opened, tuple(self.mine.values())):
            reaction = kit.reaction(self.application, self.member, opened, self.local_ms())
            if reaction is not None:
                self.submit(reaction)

    def greet(self, peer: str) -> None:
        """A connection to a peer was made."""
        self._offer("greet", peer)

    def serve(self, from_height: int) -> list[tuple[Block, Certificate]] | None:
        """Committed blocks for a peer that fetches; None when this process does not answer."""
        if self.down or self.engine.now_us < self.paused_until_us:
            return None
        return self.disk.blocks[from_height - 1 : from_height - 1 + PAGE]

    def fetched(self, number: int, peer: str, page: list[tuple[Block, Certificate]] | None) -> None:
        """The answer to a request for blocks, or None when it did not come in time."""
        if self.down or self._fetch is None or self._fetch.number != number:
            return
        self._fetch = None
        for block, certificate in page or ():
            self._offer("block", peer, block, certificate)
        replica = self.replica
        if replica is not None and replica.height + len(page or ()) < self._target:
            self._ask_for_blocks(self.world.other_peer(self, peer))

    def pushed(self, peer: str, block: Block, certificate: Certificate) -> None:
        """A faulty peer got a block in where a fetched one was expected."""
        self._offer("block", peer, block, certificate)

    def _offer(self, *item: Any) -> None:
        if not self.down:
            self._inbox.append(item)
            self._work()

    # The driver's loop.

    def _work(self) -> None:
        """Work until there is nothing to do, or until a write has to be waited for."""
        while not (self._busy or self.down or self.engine.violations):
            replica = self.replica
            if replica is None or self.engine.now_us < self.paused_until_us:
                return
            effects = self._batch(replica)
            if self.engine.violations or self.down:
                return
            if effects.persist:
                low, high = self.world.scenario.sync_us if self.world.has_faults else HEALTHY_SYNC_US
                self._busy, self._writing = True, effects
                self.engine.after(self.rng.randint(low, high), self._synced, self.incarnation, effects)
            elif not self._finish(effects):
                self._set_alarm()
                return

    def _batch(self, replica: Replica[Any]) -> Effects[Any]:
        """Feed inputs until the batch is full or a block was applied, then let time pass."""
        merged: Effects[Any] = Effects()
        for _ in range(self.world.scenario.batch if self.world.has_faults else HEALTHY_BATCH):
            if not self._inbox:
                break
            _merge(merged, self._feed(replica, self._inbox.popleft()))
            if merged.committed:
                return merged
        for _ in range(MAX_TICKS):
            effects = self._guarded(lambda: replica.tick(self.local_ms()))
            _merge(merged, effects)
            if merged.committed or not (effects.persist or effects.send or effects.behind):
                return merged
        self.engine.violate("restless", f"{self.endpoint}: tick asks for more after {MAX_TICKS} times")
        return merged

    def _feed(self, replica: Replica[Any], item: Input) -> Effects[Any]:
        now_ms = self.local_ms()
        match item:
            case ("message", sender, message):
                return self._guarded(lambda: replica.receive(sender, message, now_ms))
            case ("submit", command):
                return self._guarded(lambda: replica.submit(command, now_ms))
            case ("greet", peer):
                if peer in replica.members:
                    return self._guarded(lambda: replica.greet(peer, now_ms))
                return Effects()
            case ("block", peer, block, certificate):
                return self._guarded(lambda: replica.receive_committed(peer, block, certificate))
            case ("start",):
                return self._guarded(lambda: replica.start(now_ms))
        raise ValueError(f"unknown input {item[0]}")

    def _guarded(self, call: Callable[[], Effects[Any]]) -> Effects[Any]:
        """Errors that name a guilty peer or caller change nothing. Any other stops the run: it stops a
        node."""
        try:
            return call()
        except (PeerError, CallerError) as error:
            self.world.refusals[type(error).__name__] += 1
            if self.engine.trace.readable:
                self.engine.trace.note(f"{self.engine.now_us} {self.endpoint} refuses: {error}")
        except InvariantError as error:
            self._stopped("invariant", error)
        except Exception as error:  # whatever it is, a node would have stopped
            self._stopped("crash", error)
        return Effects()

    def _stopped(self, rule: str, error: Exception) -> None:
        if self.is_faulty:
            # A faulty member may break its own rules; its process ends, and starts again.
            self.engine.fired["faulty member stopped itself"] += 1
            if self.engine.trace.readable:
                self.engine.trace.note(f"{self.engine.now_us} {self.endpoint} stops itself: {error}")
            self.crash("faulty member stopped itself")
            return
        self.world.errors.append(error)
        self.engine.violate(rule, f"{self.endpoint}: {type(error).__name__}: {error}")

    def _synced(self, incarnation: int, effects: Effects[Any]) -> None:
        """The write is done, unless the process died meanwhile."""
        if incarnation != self.incarnation:
            return
        self._writing = None
        crashes = self.world.scenario.crashes
        if self.world.has_faults and crashes.chance and self.rng.random() < crashes.chance:
            self._crash_at_a_point(effects)
            return
        self.disk.write(effects.persist)
        for applied in effects.committed:
            self.world.kit.written(self.application, applied)
        is_more = self._finish(effects)
        self._busy = False
        if is_more:
            self._work()
        else:
            self._set_alarm()

    def _crash_at_a_point(self, effects: Effects[Any]) -> None:
        point = self.rng.choice(("in the write", "after the write", "among the sends"))
        if point == "in the write":
            kept = self.disk.crash(effects.persist, self.rng)
            named = type(effects.persist[kept - 1]).__name__ if kept else "nothing"
            self.crash(f"{point}, {named} was the last")
            return
        self.disk.write(effects.persist)
        if point == "among the sends" and effects.send:
            for item in effects.send[: self.rng.randint(0, len(effects.send) - 1)]:
                self._dispatch(item.to, item.message)
        self.crash(point)

    def _finish(self, effects: Effects[Any]) -> bool:
        """Everything is durable: send, then tell. True when there may be more to do at once."""
        for item in effects.send:
            self._dispatch(item.to, item.message)
        for applied in effects.committed:
            self._tell(applied)
        for behind in effects.behind:
            self._on_behind(behind)
        for command in effects.seen:
            self.world.seen(self, command)
        if effects.committed:
            self._withdraw()
        is_more = bool(effects.committed or self._inbox)
        if is_more or effects.send:
            self._idle_rings = 0
        return is_more

    def _set_alarm(self) -> None:
        if self.replica is None:
            return
        now_ms, now_us = self.local_ms(), self.engine.now_us
        # A replica that asks for a tick at once and then has nothing to do is asked less often.
        wait_ms = max(1 << min(self._idle_rings, 4), self.replica.next_tick_ms(now_ms) - now_ms)
        at_us = now_us + wait_ms * 1000
        if self._alarm_us is None or at_us < self._alarm_us or self._alarm_us <= now_us:
            self._alarm_us = at_us
            self.engine.after(at_us - now_us, self._ring, self.incarnation, at_us)

    def _ring(self, incarnation: int, at_us: int) -> None:
        if incarnation == self.incarnation and self._alarm_us == at_us:
            self._alarm_us = None
            self._idle_rings += 1
            self._work()

    # Effects.

    def _dispatch(self, to: str | None, message: Message) -> None:
        self.world.checkers.leaving(self, message)
        if to is not None:
            self._send(to, message)
            return
        if self.replica is None:
            return
        for member in self.replica.members.ids:
            if member != self.member:
                self._send(member, message)

    def _send(self, to: str, message: Message) -> None:
        self.world.send(self, to, message)

    def _tell(self, applied: ApplyBlock[Any]) -> None:
        self.told_height = applied.block.height
        self.world.checkers.committed(self, applied)
        for command in applied.block.commands:
            self.mine.pop(command_digest(command), None)

    def _withdraw(self) -> None:
        """Stop repeating one's own commands that can take no effect any more; repeat the rest in a new
        epoch."""
        replica = self.replica
        if replica is None:
            return
        over = [
            digest
            for digest, command in self.mine.items()
            if self.world.kit.is_over(self.application, command)
        ]
        if over:
            for digest in over:
                del self.mine[digest]
            replica.withdraw(over)
        if replica.members.epoch != self._epoch:
            self._epoch = replica.members.epoch
            self.world.reconnect_all(self)
            waiting, self.mine = list(self.mine.values()), {}
            for command in waiting:
                again = self.world.kit.renewed(self.application, self.member, self.key, command)
                if again is not None:
                    self.mine[command_digest(again)] = again
                    self._inbox.append(("submit", again))

    def _on_behind(self, behind: Behind) -> None:
        self._target = max(self._target, behind.height)
        if self._fetch is None:
            self._ask_for_blocks(behind.peer)

    def _ask_for_blocks(self, peer: str) -> None:
        if self.replica is None:
            return
        self._fetch_number += 1
        self._fetch = _Fetch(peer, self._fetch_number)
        self.world.fetch(self, peer, self.replica.height + 1, self._fetch_number)


def _merge(into: Effects[Any], other: Effects[Any]) -> None:
    into.persist += other.persist
    into.send += other.send
    into.committed += other.committed
    into.behind += other.behind
    into.seen += other.seen
