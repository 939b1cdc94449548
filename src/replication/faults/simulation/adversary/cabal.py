"""What the faulty members of a cluster know together, and what they can make of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from replication.identity.members import MemberSet
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    Message,
    NewViewMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
)
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Phase, Statement, StatementKey, Timeout
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport

if TYPE_CHECKING:
    from replication.faults.simulation.world import World

__all__ = ["Cabal"]

KEPT: Final = 64
"""Statements, views, blocks and messages remembered of each sort: the newest."""


class Cabal:
    """Shared knowledge. Grows from what faulty members receive, or from everything when they listen to the
    network."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.statements: dict[StatementKey, dict[str, bytes]] = {}
        self.reports: dict[tuple[int, int], dict[str, list[TimeoutReport]]] = {}
        self.blocks: dict[bytes, Block] = {}
        self.certificates: dict[StatementKey, Certificate] = {}
        self.closings: deque[TimeoutCertificate] = deque(maxlen=KEPT)
        self.messages: deque[tuple[str, Message]] = deque(maxlen=4 * KEPT)

    # Learning.

    def observe(self, sender: str, message: Message) -> None:
        """Remember what is useful in a message."""
        self.messages.append((sender, message))
        match message:
            case BlockProposal():
                self._learn_block(message.block)
                self._learn_statement(message.statement)
                self._learn_certificate(message.parent_certificate)
            case Acknowledgement():
                self._learn_statement(message.statement)
            case CertificateMessage():
                self._learn_certificate(message.certificate)
            case TimeoutMessage():
                self.learn_report(message.report)
            case TimeoutCertificateMessage() | NewViewMessage():
                self.closings.append(message.certificate)
                self._learn_certificate(message.certificate.lock)

    def _learn_block(self, block: Block) -> None:
        self.blocks[block.hash] = block
        _trim(self.blocks)

    def _learn_statement(self, statement: Statement) -> None:
        self.statements.setdefault(statement.key, {}).setdefault(statement.signer, statement.signature)
        _trim(self.statements)

    def _learn_certificate(self, certificate: Certificate | None) -> None:
        if certificate is None:
            return
        self.certificates.setdefault(certificate.key, certificate)
        known = self.statements.setdefault(certificate.key, {})
        for signer, signature in certificate.signatures:
            known.setdefault(signer, signature)
        _trim(self.certificates)
        _trim(self.statements)

    def learn_report(self, report: TimeoutReport) -> None:
        """Remember a timeout; several of one member when it makes several."""
        timeout = report.timeout
        known = self.reports.setdefault((timeout.epoch, timeout.view), {}).setdefault(timeout.signer, [])
        if len(known) < 4 and all(item.timeout != timeout for item in known):
            known.append(report)
        self._learn_certificate(report.lock)
        _trim(self.reports)

    # Making.

    def sign(self, member: str, key: StatementKey) -> Statement:
        """A statement of a faulty member, whatever its replica thinks of it."""
        signature = self._world.kit.people.keys[member].sign(
            key.sign_bytes(self._world.kit.cluster_id, member)
        )
        return Statement(key, member, signature)

    def assemble(self, key: StatementKey, members: MemberSet) -> Certificate | None:
        """A certificate for this key, if the correct members' signatures and those of all faulty ones make
        one."""
        found = dict(self.statements.get(key, {}))
        for member in sorted(self._world.guilty):
            if member in members:
                found[member] = self.sign(member, key).signature
        present = [name for name in members.ids if name in found]
        if len(present) < commit_quorum(members.n):
            return None
        return Certificate(key, tuple((name, found[name]) for name in present))

    def open_keys(self, epoch: int, height: int) -> list[StatementKey]:
        """What is being voted on at a height: prepares and commits."""
        return [
            key
            for key in self.statements
            if key.epoch == epoch and key.height == height and key.phase is not Phase.PROPOSE
        ]

    def lowest_closing(self, epoch: int, view: int, members: MemberSet) -> TimeoutCertificate | None:
        """The timeout certificate for a view that reports the least, out of all that can be put together.

        Faulty members report nothing; of the correct ones the lowest reports are taken.
        """
        known = self.reports.get((epoch, view), {})
        choices: list[tuple[tuple[int, int], int, TimeoutReport]] = []
        base = min(
            (report.timeout.committed_height for reports in known.values() for report in reports),
            default=None,
        )
        if base is None:
            return None
        for position, name in enumerate(members.ids):
            reports = list(known.get(name, ()))
            if name in self._world.guilty:
                reports.append(self._empty_report(epoch, view, name, known))
            if reports:
                best = min(reports, key=lambda report: report.timeout.report)
                choices.append((best.timeout.report, position, best))
        quorum = commit_quorum(members.n)
        if len(choices) < quorum:
            return None
        chosen = sorted(sorted(choices, key=lambda item: item[:2])[:quorum], key=lambda item: item[1])
        highest = max((item[2] for item in chosen), key=lambda report: report.timeout.report)
        return TimeoutCertificate(tuple(item[2].timeout for item in chosen), highest.committed, highest.lock)

    def _empty_report(
        self, epoch: int, view: int, member: str, known: dict[str, list[TimeoutReport]]
    ) -> TimeoutReport:
        """A timeout that is well proven and says as little as the lowest correct one, without its lock."""
        lowest = min(
            (report for reports in known.values() for report in reports),
            key=lambda report: report.timeout.report,
        )
        timeout = Timeout(epoch, view, lowest.timeout.committed_height, None, member)
        return TimeoutReport(self.sign_timeout(timeout), lowest.committed, None)

    def sign_timeout(self, timeout: Timeout) -> Timeout:
        """Sign with its signer's key, which must be a faulty member's."""
        key = self._world.kit.people.keys[timeout.signer]
        signature = key.sign(timeout.sign_bytes(self._world.kit.cluster_id))
        return Timeout(
            timeout.epoch, timeout.view, timeout.committed_height, timeout.lock, timeout.signer, signature
        )


def _trim(known: dict[Any, Any]) -> None:
    while len(known) > KEPT:
        del known[next(iter(known))]
