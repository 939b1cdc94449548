"""Members that say too little, too late or on the wrong disk: silence, omission, delay, stalling,
censorship, twins, amnesia and rollback."""

from __future__ import annotations

from collections.abc import Iterable

from replication.faults.simulation.adversary.base import Attack, Attacker, Outgoing
from replication.faults.simulation.disk import Snapshot
from replication.ordering.messages import (
    BlockProposal,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    NewViewMessage,
)

__all__ = ["QUIET"]


class Silent(Attack):
    """Says nothing at all."""

    name = "silent"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        self.fire()
        return ()


class Omit(Attack):
    """Says nothing to some, most of the time."""

    name = "omit"

    def __init__(self, host: Attacker) -> None:
        super().__init__(host)
        names = [name for name in host.world.names if name != host.member]
        self._victims = frozenset(self.rng.sample(names, self.rng.randint(0, len(names))))

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if to in self._victims and self.rng.random() < 0.8:
            self.fire()
            return ()
        return ((to, message),)


class Delay(Attack):
    """Says things up to two time-outs later."""

    name = "delay"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if self.rng.random() < 0.3:
            self.fire()
            late_us = self.rng.randrange(2_000 * self.host.world.settings.idle_timeout_ms)
            self.host.engine.after(late_us, self.send, to, message)
            return ()
        return ((to, message),)


class Stall(Attack):
    """A coordinator that beats its heart and leaves out a step of its work."""

    name = "stall"

    def __init__(self, host: Attacker) -> None:
        super().__init__(host)
        self._left_out = self.rng.choice((BlockProposal, CertificateMessage, NewViewMessage))

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if isinstance(message, self._left_out):
            self.fire(self._left_out.__name__)
            return ()
        if isinstance(message, Heartbeat) and message.latest is not None:
            return ((to, Heartbeat(message.epoch, message.view, 0, 0, bytes(32), None)),)
        return ((to, message),)


class Censor(Attack):
    """Keeps the commands of some members from its own replica."""

    name = "censor"

    def __init__(self, host: Attacker) -> None:
        super().__init__(host)
        names = [name for name in host.world.names if name != host.member]
        self._victims = (
            frozenset(self.rng.sample(names, self.rng.randint(1, len(names)))) if names else frozenset()
        )

    def incoming(self, sender: str, message: Message) -> bool:
        if isinstance(message, CommandMessage):
            replica = self.host.replica
            try:
                author = "" if replica is None else self.host.application.check(message.command).author
            except Exception:  # not worth ordering anyway
                return True
            if author in self._victims:
                self.fire()
                return False
        return True


class Twins(Attack):
    """Two processes with one key. Each other member talks with one of them, or both, and that changes."""

    name = "twins"

    def act(self) -> None:
        if self.rng.random() < 0.3:
            network, world = self.host.world.network, self.host.world
            for name in world.names:
                if name == self.host.member:
                    continue
                is_on = self.rng.random() < 0.7
                for other in world.by_member[name]:
                    network.sides[self.host.endpoint, other.endpoint] = is_on
                    network.sides[other.endpoint, self.host.endpoint] = is_on
            self.fire()


class Amnesia(Attack):
    """The disk is wiped; the process starts anew with a fresh incarnation."""

    name = "amnesia"
    _wiped = 0

    def act(self) -> None:
        if self.host.replica is not None and self._wiped < 2 and self.rng.random() < 0.05:
            self._wiped += 1
            self.fire()
            self.host.wipe()


class Rollback(Attack):
    """Yesterday's files are restored: the journal alone, or the record with it."""

    name = "rollback"
    _backup: Snapshot | None = None
    _done = 0

    def act(self) -> None:
        host = self.host
        chance = self.rng.random()
        if self._backup is None or chance < 0.05:
            self._backup = host.disk.snapshot()
        elif self._done < 3 and chance < 0.12 and self._backup.sign_state != host.disk.sign_state:
            self._done += 1
            self.fire()
            host.backup = self._backup
            host.restore(blocks_too=self.rng.random() < 0.5)


class RejoinStorm(Attack):
    """Asks again and again to be let in with a new disk: each time that it is, a new epoch begins. It may
    order nothing else."""

    name = "rejoin-storm"

    def __init__(self, host: Attacker) -> None:
        super().__init__(host)
        self._is_tyrant = self.rng.random() < 0.5

    def incoming(self, sender: str, message: Message) -> bool:
        return not (self._is_tyrant and isinstance(message, CommandMessage))

    def act(self) -> None:
        host, replica = self.host, self.host.replica
        if replica is None or host.member not in replica.members:
            return
        self.fire()
        command = host.application.rejoin_command(host.member, self.rng.randbytes(32), host.key.sign)
        host.submit(command)
        if self.rng.random() < 0.5:
            self.send_all(self.others(), CommandMessage(command, overdue=self.rng.random() < 0.5))


QUIET: tuple[type[Attack], ...] = (Silent, Omit, Delay, Stall, Censor, Twins, Amnesia, Rollback, RejoinStorm)
