"""Forgers: well signed nonsense, certificates that prove nothing, messages of other epochs, corrupt
blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from replication.faults.simulation.adversary.base import Attack, Outgoing
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import (
    Evidence,
    Lock,
    NewView,
    Phase,
    Statement,
    StatementKey,
    Suspect,
    Timeout,
)
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport

__all__ = ["FORGERS"]


class Mutate(Attack):
    """Changes one field of what it says, and signs it again."""

    name = "mutate"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if self.rng.random() < 0.7:
            return ((to, message),)
        changed = self._changed(message)
        if changed is None:
            return ((to, message),)
        self.fire(type(message).__name__)
        return ((to, changed),)

    def _changed(self, message: Message) -> Message | None:
        rng = self.rng
        match message:
            case Acknowledgement():
                if rng.random() < 0.3:
                    flawed = _flipped(message.statement.signature, rng.randrange(512))
                    return Acknowledgement(replace(message.statement, signature=flawed))
                return Acknowledgement(self.sign(self._key(message.statement.key)))
            case BlockProposal():
                key = self._key(message.statement.key)
                return BlockProposal(self.sign(key), message.block, message.parent_certificate)
            case CertificateMessage():
                return CertificateMessage(self._certificate(message.certificate))
            case TimeoutMessage():
                return TimeoutMessage(self._report(message.report))
            case SuspectMessage():
                return SuspectMessage(self._suspect(message.suspect))
            case NewViewMessage():
                return NewViewMessage(self._opening(message.statement), message.certificate)
            case TimeoutCertificateMessage():
                return TimeoutCertificateMessage(self._closing(message.certificate))
            case Heartbeat():
                return replace(
                    message, view=message.view + rng.choice((-1, 1, 9)) if message.view else 3, height=9
                )
            case CommandMessage():
                return CommandMessage(_flipped(message.command, rng.randrange(8 * len(message.command))))
        return None

    def _key(self, key: StatementKey) -> StatementKey:
        rng = self.rng
        return rng.choice(
            (
                replace(key, view=key.view + 1),
                replace(key, view=max(0, key.view - 1)),
                replace(key, height=key.height + 1),
                replace(key, height=max(0, key.height - 1)),
                replace(key, block_hash=rng.randbytes(32)),
                replace(key, phase=rng.choice(list(Phase))),
                replace(key, epoch=key.epoch + 1),
            )
        )

    def _certificate(self, certificate: Certificate) -> Certificate:
        rng, signatures = self.rng, list(certificate.signatures)
        choice = rng.randrange(5)
        if choice == 0:
            rng.shuffle(signatures)
        elif choice == 1:
            signatures.pop(rng.randrange(len(signatures)))
        elif choice == 2:
            signer, signature = signatures[0]
            signatures[0] = (signer, _flipped(signature, rng.randrange(512)))
        elif choice == 3:
            signatures[-1] = signatures[0]
        return Certificate(self._key(certificate.key) if choice == 4 else certificate.key, tuple(signatures))

    def _report(self, report: TimeoutReport) -> TimeoutReport:
        timeout, rng = report.timeout, self.rng
        changed: Timeout = rng.choice(
            (
                replace(timeout, view=timeout.view + 1),
                replace(timeout, view=max(0, timeout.view - 1)),
                replace(timeout, committed_height=timeout.committed_height + 1),
                replace(timeout, epoch=timeout.epoch + 1),
                replace(timeout, lock=Lock(timeout.view, rng.randbytes(32))),
                replace(timeout, lock=None),
            )
        )
        return replace(report, timeout=self.host.world.cabal.sign_timeout(changed))

    def _suspect(self, suspect: Suspect) -> Suspect:
        changed = replace(suspect, view=suspect.view + self.rng.choice((0, 1, 2)), epoch=suspect.epoch)
        return replace(
            changed, signature=self.host.key.sign(changed.sign_bytes(self.host.world.kit.cluster_id))
        )

    def _opening(self, opening: NewView) -> NewView:
        rng = self.rng
        changed = rng.choice(
            (replace(opening, view=opening.view + 1), replace(opening, tc_digest=rng.randbytes(32)))
        )
        return replace(
            changed, signature=self.host.key.sign(changed.sign_bytes(self.host.world.kit.cluster_id))
        )

    def _closing(self, closing: TimeoutCertificate) -> TimeoutCertificate:
        rng, timeouts = self.rng, list(closing.timeouts)
        choice = rng.randrange(4)
        if choice == 0:
            timeouts.pop(rng.randrange(len(timeouts)))
        elif choice == 1:
            timeouts[-1] = timeouts[0]
        elif choice == 2:
            return replace(closing, lock=None)
        else:
            timeouts = [replace(item, lock=None) for item in timeouts]
            return TimeoutCertificate(tuple(timeouts), closing.committed, None)
        return replace(closing, timeouts=tuple(timeouts))


class ShortCertificates(Attack):
    """Certificates with too few, repeated, foreign or mixed signatures, alone and inside other messages."""

    name = "short-certificates"

    def act(self) -> None:
        replica, cabal = self.host.replica, self.host.world.cabal
        if replica is None:
            return
        for key in cabal.open_keys(replica.members.epoch, replica.height + 1)[-3:]:
            for phase in (Phase.PREPARE, Phase.COMMIT):
                view = replica.view if self.rng.random() < 0.3 else key.view
                self._spread(self._forged(replace(key, phase=phase, view=view)))
        self._spread_closing()

    def _forged(self, key: StatementKey) -> Certificate:
        """All that can be had for this key, filled up to Q with whatever is at hand."""
        host, rng, cabal = self.host, self.rng, self.host.world.cabal
        replica = host.replica
        members = replica.members if replica is not None else host.world.kit.people.genesis
        quorum = commit_quorum(members.n)
        found = dict(cabal.statements.get(key, {}))
        for name in sorted(host.world.guilty):
            found[name] = cabal.sign(name, key).signature
        way = rng.choice(("short", "repeated", "mixed", "views", "foreign", "phase"))
        if way == "repeated":
            known = sorted(found.items())
            while len(known) < quorum:
                known.append(known[0])
            known.sort(key=lambda item: members.ids.index(item[0]) if item[0] in members else 0)
        elif way == "foreign":
            known = [*sorted(found.items()), *((f"x{index}", bytes(64)) for index in range(quorum))][:quorum]
        else:
            if way in ("mixed", "views", "phase"):
                for other, signatures in cabal.statements.items():
                    same = other.block_hash == key.block_hash and other.height == key.height
                    if same if way != "mixed" else other.height == key.height:
                        for name, signature in signatures.items():
                            found.setdefault(name, signature)
            known = [(name, found[name]) for name in members.ids if name in found]
            if way == "short":
                known = known[: quorum - 1]
        self.fire(way)
        return Certificate(key, tuple(known))

    def _spread(self, certificate: Certificate) -> None:
        replica = self.host.replica
        if replica is None or not certificate.signatures:
            return
        self.send_all(self.some(), CertificateMessage(certificate))
        if certificate.key.phase is Phase.COMMIT:
            beat = Heartbeat(
                replica.members.epoch, replica.view, certificate.key.height, 1, bytes(32), certificate
            )
            self.send_all(self.some(), beat)
            self._spread_page(certificate)

    def _spread_page(self, certificate: Certificate) -> None:
        """As if it had been asked for blocks."""
        block = self.host.world.cabal.blocks.get(certificate.key.block_hash)
        if block is None:
            return
        for name in self.some():
            for host in self.host.world.by_member[name]:
                host.pushed(self.host.member, block, certificate)

    def _spread_closing(self) -> None:
        host, replica, cabal, rng = self.host, self.host.replica, self.host.world.cabal, self.rng
        if replica is None:
            return
        reports = cabal.reports.get((replica.members.epoch, replica.view), {})
        order = {name: position for position, name in enumerate(replica.members.ids)}
        known = [
            items[0].timeout
            for name, items in sorted(reports.items(), key=lambda item: order.get(item[0], 0))
        ]
        if not known:
            return
        needed = commit_quorum(replica.members.n)
        way = rng.choice(("few", "repeated", "unproven", "views", "forged"))
        if way == "few":
            known = known[: needed - 1]
        elif way == "repeated":
            known = (known * needed)[:needed]
        elif way == "forged":
            lowest = min(item.committed_height for item in known)
            known = [
                Timeout(known[0].epoch, replica.view, lowest, None, name, bytes(64))
                for name in replica.members.ids[:needed]
            ]
        elif way == "views":
            known = [replace(item, view=replica.view + index % 2) for index, item in enumerate(known)]
        self.fire(f"timeouts {way}")
        closing = TimeoutCertificate(tuple(known), replica.latest_certificate, None)
        self.send_all(self.some(), TimeoutCertificateMessage(closing))
        view = replica.view + 1
        if replica.members.ids[view % replica.members.n] == host.member:
            cluster_id = host.world.kit.cluster_id
            opening = NewView(closing.epoch, view, closing.digest(cluster_id), host.member)
            opening = replace(opening, signature=host.key.sign(opening.sign_bytes(cluster_id)))
            self.send_all(self.some(), NewViewMessage(opening, closing))


class WrongEpoch(Attack):
    """Says the same for another epoch."""

    name = "wrong-epoch"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if self.rng.random() < 0.6:
            return ((to, message),)
        shift = self.rng.choice((-1, 1))
        if isinstance(message, Acknowledgement):
            key = message.statement.key
            if key.epoch + shift >= 0:
                self.fire()
                return (
                    (to, message),
                    (to, Acknowledgement(self.sign(replace(key, epoch=key.epoch + shift)))),
                )
        if isinstance(message, TimeoutMessage):
            timeout = message.report.timeout
            if timeout.epoch + shift >= 0:
                self.fire()
                other = self.host.world.cabal.sign_timeout(replace(timeout, epoch=timeout.epoch + shift))
                return ((to, message), (to, TimeoutMessage(replace(message.report, timeout=other))))
        return ((to, message),)


class OtherCluster(Attack):
    """Shows here what members signed in another cluster, where they serve under the same keys.

    In a simulation that is anybody, in a drill only the attacker itself, whose key it has."""

    name = "other-cluster"

    def act(self) -> None:
        host, rng = self.host, self.rng
        replica, cabal, keys = host.replica, host.world.cabal, host.world.kit.people.keys
        if replica is None or not self.others():
            return
        there = bytes(byte ^ 0xFF for byte in host.world.kit.cluster_id)
        signers = [name for name in replica.members.ids if name in keys]
        known = list(cabal.statements)
        for here in rng.sample(known, min(4, len(known))):
            other = replace(here, block_hash=rng.randbytes(32))
            signed = [(name, keys[name].sign(other.sign_bytes(there, name))) for name in signers]
            self.send_all(self.some(), CertificateMessage(Certificate(other, tuple(signed))))
            for name, signature in signed:
                made_here = cabal.statements[here].get(name)
                if made_here is not None:
                    both = Evidence(Statement(here, name, made_here), Statement(other, name, signature))
                    self.send_all(self.some(), CommandMessage(host.application.evidence_command(both)))
            self.fire()


class BadFetch(Attack):
    """Gives corrupt, stale, foreign or unordered blocks to those who fetch."""

    name = "bad-fetch"

    def serve(self, page: list[tuple[Block, Certificate]]) -> list[tuple[Block, Certificate]]:
        rng = self.rng
        if not page:
            return page
        self.fire()
        block, certificate = page[0]
        choice = rng.randrange(6)
        if choice == 0:
            return page[::-1]
        if choice == 1:
            return [(Block(block.header, (*block.commands, b"more")), certificate), *page[1:]]
        if choice == 2:
            header = replace(block.header, audit_head=rng.randbytes(32))
            return [(Block(header, block.commands), certificate)]
        if choice == 3:
            return [(block, Certificate(certificate.key, certificate.signatures[:1]))]
        if choice == 4:
            forged = Block(replace(block.header, time_ms=block.header.time_ms + 1), block.commands)
            key = replace(certificate.key, block_hash=forged.hash)
            return [(forged, Certificate(key, certificate.signatures))]
        return []


def _flipped(data: bytes, bit: int) -> bytes:
    if not data:
        return data
    index = bit // 8 % len(data)
    return data[:index] + bytes((data[index] ^ (1 << (bit % 8)),)) + data[index + 1 :]


FORGERS: tuple[type[Attack], ...] = (Mutate, ShortCertificates, WrongEpoch, OtherCluster, BadFetch)
