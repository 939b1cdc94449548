"""Faulty voters: they acknowledge everything, hide locks, overstate, complain, replay, impersonate and
flood."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from replication.consensus import VoteValue
from replication.faults.simulation.adversary.base import Attack, Outgoing
from replication.ledger.commands import BallotCommand, ProposalCommand, VoteItem, decode_command, make_ballot
from replication.ordering.application import CommandError
from replication.ordering.certificates import Certificate
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    CommandMessage,
    Message,
    SuspectMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.statements import Lock, Phase, Statement, StatementKey, Suspect, Timeout
from replication.ordering.timeouts import TimeoutReport

__all__ = ["VOTERS"]


class VoteAll(Attack):
    """Signs PREPARE and COMMIT for every block that it hears of, in every view, to everyone."""

    name = "vote-all"
    _last: StatementKey | None = None

    def incoming(self, sender: str, message: Message) -> bool:
        key: StatementKey | None = None
        if isinstance(message, BlockProposal):
            key = message.statement.key
        elif isinstance(message, CertificateMessage):
            key = message.certificate.key
        if key is not None and key != self._last and self.rng.random() < 0.7:
            self._last = key
            for phase in (Phase.PREPARE, Phase.COMMIT):
                self.send_all(self.others(), Acknowledgement(self.sign(replace(key, phase=phase))))
            self.fire()
        return True


class HideLock(Attack):
    """Its timeouts report no lock, or an older height; different things to different members."""

    name = "hide-lock"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, TimeoutMessage) or self.rng.random() < 0.2:
            return ((to, message),)
        self.fire()
        return ((to, TimeoutMessage(self._lowered(message.report))),)

    def _lowered(self, report: TimeoutReport) -> TimeoutReport:
        timeout, committed = report.timeout, report.committed
        height = timeout.committed_height
        if self.rng.random() < 0.3:
            older = [
                certificate
                for key, certificate in self.host.world.cabal.certificates.items()
                if key.phase is Phase.COMMIT and key.height < height and key.epoch == timeout.epoch
            ]
            if older:
                committed = self.rng.choice(older)
                height = committed.key.height
        lowered = Timeout(timeout.epoch, timeout.view, height, None, timeout.signer)
        made = TimeoutReport(self.host.world.cabal.sign_timeout(lowered), committed, None, report.seen)
        self.host.world.cabal.learn_report(made)
        return made


class BadTimeout(Attack):
    """Its timeouts report more than is true, or prove something else."""

    name = "bad-timeout"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, TimeoutMessage) or self.rng.random() < 0.3:
            return ((to, message),)
        self.fire()
        report, rng, cabal = message.report, self.rng, self.host.world.cabal
        timeout, committed, lock = report.timeout, report.committed, report.lock
        if rng.random() < 0.4:
            timeout = replace(timeout, committed_height=timeout.committed_height + rng.choice((1, 2, 1_000)))
        if rng.random() < 0.4:
            forged = rng.choice(list(cabal.certificates)) if cabal.certificates else None
            if forged is not None:
                timeout = replace(timeout, lock=Lock(rng.randint(0, timeout.view + 2), forged.block_hash))
                lock = cabal.certificates[forged]
        if rng.random() < 0.3:
            timeout = replace(timeout, lock=Lock(timeout.view, rng.randbytes(32)))
            key = StatementKey(
                Phase.PREPARE, timeout.epoch, timeout.view, timeout.committed_height + 1, rng.randbytes(32)
            )
            alone = self.sign(key)
            lock = Certificate(key, ((alone.signer, alone.signature),) * 3)
        if rng.random() < 0.2:
            committed = None
        return (
            (to, TimeoutMessage(TimeoutReport(cabal.sign_timeout(timeout), committed, lock, report.seen))),
        )


class Storm(Attack):
    """Complains about every coordinator, and gives up this view and later ones."""

    name = "storm"

    def act(self) -> None:
        host, replica = self.host, self.host.replica
        if replica is None:
            return
        self.fire()
        for view in (replica.view, replica.view + self.rng.choice((1, 2, 7))):
            suspect = Suspect(replica.members.epoch, view, host.member)
            signature = host.key.sign(suspect.sign_bytes(host.world.kit.cluster_id))
            self.send_all(self.some(), SuspectMessage(replace(suspect, signature=signature)))
            height, certificate = replica.height, replica.latest_certificate
            timeout = Timeout(replica.members.epoch, view, height, None, host.member)
            report = TimeoutReport(host.world.cabal.sign_timeout(timeout), certificate, None)
            host.world.cabal.learn_report(report)
            self.send_all(self.some(), TimeoutMessage(report))


class Replay(Attack):
    """Sends again what it has heard, to anyone."""

    name = "replay"

    def act(self) -> None:
        messages = self.host.world.cabal.messages
        for _ in range(min(4, len(messages))):
            _, message = messages[self.rng.randrange(len(messages))]
            self.send_all(self.some(), message)
            self.fire()


class Impersonate(Attack):
    """Statements in the name of others: with its own signature, with none, or under their sender's name."""

    name = "impersonate"

    def act(self) -> None:
        replica, rng, cabal = self.host.replica, self.rng, self.host.world.cabal
        others = self.others()
        if replica is None or not others:
            return
        self.fire()
        victim = rng.choice(others)
        for key in cabal.open_keys(replica.members.epoch, replica.height + 1)[:4]:
            signature = rng.choice((self.sign(key).signature, bytes(64), b""))
            self.send_all(self.some(), Acknowledgement(Statement(key, victim, signature)))
            self.send_all(self.some(), Acknowledgement(replace(self.sign(key), signer=victim)))
        suspect = Suspect(replica.members.epoch, replica.view, victim, rng.randbytes(64))
        self.send_all(self.some(), SuspectMessage(suspect))


class FalseWitness(Attack):
    """Shows members statements that they have not made."""

    name = "witness"

    def act(self) -> None:
        replica, rng = self.host.replica, self.rng
        others = self.others()
        if replica is None or not others:
            return
        self.fire()
        victim = rng.choice(others)
        key = StatementKey(
            rng.choice(list(Phase)), replica.members.epoch, replica.view + rng.randint(0, 9),
            replica.height + 1, rng.randbytes(32),
        )  # fmt: skip
        timeout = Timeout(
            replica.members.epoch, replica.view + 5, replica.height, None, victim, rng.randbytes(64)
        )
        lies = (Statement(key, victim, rng.randbytes(64)), replace(self.sign(key), signer=victim))
        self.send(victim, Witness(lies, timeout))


class Flood(Attack):
    """Statements for views and heights that are far away, and commands without end."""

    name = "flood"

    def act(self) -> None:
        host, replica, rng = self.host, self.host.replica, self.rng
        if replica is None or rng.random() < 0.5:
            return
        self.fire()
        for _ in range(12):
            phase = rng.choice((Phase.PREPARE, Phase.COMMIT, Phase.PROPOSE))
            view, height = replica.view + rng.randint(0, 500), replica.height + rng.randint(0, 50)
            key = StatementKey(phase, replica.members.epoch, view, height, rng.randbytes(32))
            self.send_all(self.some(), Acknowledgement(self.sign(key)))
        command = host.world.kit.workload(host.application, host.member, rng, host.local_ms())
        self.send_all(self.some(), CommandMessage(command, overdue=rng.random() < 0.5))
        self.send_all(self.some(), CommandMessage(rng.randbytes(rng.choice((0, 3, 200)))))


class FalseEvidence(Attack):
    """Accuses correct members of what they did not do."""

    name = "false-evidence"

    def act(self) -> None:
        host, others = self.host, self.others()
        if host.replica is None or not others or self.rng.random() < 0.5:
            return
        for command in host.world.kit.false_evidence(
            host.application, host.member, self.rng.choice(others), self.rng
        ):
            self.fire()
            self.send_all(self.others(), CommandMessage(command, overdue=self.rng.random() < 0.5))


class DoubleVote(Attack):
    """Two votes on one proposal: the other way round to half of the members, under the same real key."""

    name = "double-vote"

    def outgoing(self, to: str, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, CommandMessage):
            return ((to, message),)
        try:
            ballot = decode_command(message.command)
        except CommandError:  # of the toy application, whose members do not vote by ballots
            return ((to, message),)
        if not isinstance(ballot, BallotCommand) or ballot.voter != self.host.member:
            return ((to, message),)
        self.fire()
        other = make_ballot(
            self.host.key.sign,
            self.host.world.kit.cluster_id,
            ballot.epoch,
            voter=ballot.voter,
            votes=[replace(vote, value=_opposite(vote.value), reason="") for vote in ballot.votes],
        )
        return ((to, message), (to, CommandMessage(other)))


class ForgeVotes(Attack):
    """Votes in the name of others, on every proposal that is shown to it."""

    name = "forge-votes"

    def incoming(self, sender: str, message: Message) -> bool:
        others = self.others()
        if not isinstance(message, CommandMessage) or not others:
            return True
        try:
            proposal = decode_command(message.command)
        except CommandError:
            return True
        if isinstance(proposal, ProposalCommand):
            self.fire()
            cluster_id = self.host.world.kit.cluster_id
            vote = VoteItem(proposal.digest(cluster_id), VoteValue.REJECT)
            victim, epoch = self.rng.choice(others), proposal.epoch
            forged = make_ballot(self.host.key.sign, cluster_id, epoch, voter=victim, votes=[vote])
            self.send_all(others, CommandMessage(forged, overdue=self.rng.random() < 0.5))
        return True


def _opposite(value: VoteValue) -> VoteValue:
    return VoteValue.REJECT if value is VoteValue.APPROVE else VoteValue.APPROVE


VOTERS: tuple[type[Attack], ...] = (
    VoteAll,
    HideLock,
    BadTimeout,
    Storm,
    Replay,
    Impersonate,
    FalseWitness,
    Flood,
    FalseEvidence,
    DoubleVote,
    ForgeVotes,
)
