"""Real objects for the corpus: a cluster of four, what it recorded, what it said, and what it wrote down.

Everything is made by the code that makes it in a node, signed with real keys, and is the same in every
process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from replication.consensus import VoteValue
from replication.consensus.canonical import canonical_json
from replication.faults.fuzzing.certificates import AUTHORITY
from replication.identity.genesis import Genesis, Rules, build_genesis, parse_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.ledger.application import VotingApplication
from replication.ledger.audit import genesis_block
from replication.ledger.commands import (
    ProposalCommand,
    VoteItem,
    decode_command,
    make_ballot,
    make_close,
    make_membership,
    make_proposal,
    make_receipt,
    make_rejoin,
)
from replication.ledger.frames import HEADING_SIZE, Heading, make_frame, make_seal
from replication.ledger.history import MemoryHistory
from replication.ledger.items import Item, pack_items
from replication.ledger.store import Store
from replication.node.services import answers
from replication.ordering import messages as said
from replication.ordering.blocks import Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate
from replication.ordering.effects import KeepCommand, SaveBody, SaveSignState
from replication.ordering.signing import SignState
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
from replication.ordering.timeouts import TimeoutReport, form_timeout_certificate

__all__ = ["NAMES", "Material", "material"]

NAMES: Final = ("node-1", "node-2", "node-3", "node-4")
_NONCE: Final = sha256(b"fuzzing").digest()
_BEGAN_MS: Final = 1_700_000_000_000


@dataclass(frozen=True)
class Material:
    """What the cluster made: see the names. `export` is the text of the file, `blocks` with certificates."""

    genesis: Genesis
    commands: tuple[bytes, ...]
    blocks: tuple[tuple[Block, Certificate], ...]
    export: bytes
    certificates: tuple[bytes, ...]
    evidence: bytes
    changes: tuple[bytes, ...]
    answers: tuple[Message, ...]

    @cached_property
    def messages(self) -> tuple[said.Message, ...]:
        """One message of each kind, and some more."""
        return tuple(_messages(self))

    @cached_property
    def sign_state(self) -> SignState:
        """What a member has signed, with everything there can be in it."""
        block, certificate = self.blocks[-1]
        lock = replace(certificate, key=replace(certificate.key, phase=Phase.PREPARE))
        reports = _reports(self)
        return SignState(
            epoch=certificate.key.epoch,
            nonce=_NONCE,
            propose=_statement(self.genesis, Phase.PROPOSE, block),
            prepare=_statement(self.genesis, Phase.PREPARE, block),
            commit=_statement(self.genesis, Phase.COMMIT, block),
            lock=lock,
            timeout=reports[NAMES[0]],
            opened=form_timeout_certificate(reports, self.genesis.members),
        )

    @cached_property
    def journal(self) -> bytes:
        """The bytes of a sign journal with two writes, sealed. Its salt is fixed."""
        made = Heading.make(self.genesis.cluster_id, NAMES[0]).encoded
        fields = made[:8] + _NONCE[:16] + made[24 : HEADING_SIZE - 32]
        heading = Heading.read(fields + sha256(fields).digest())
        block = self.blocks[-1][0]
        first, check = make_frame(heading, 0, heading.check, pack_items([SaveSignState(SignState())]))
        items: list[Item] = [SaveBody(block), SaveSignState(self.sign_state), KeepCommand(self.commands[0])]
        second, last = make_frame(heading, 1, check, pack_items(items))
        return heading.encoded + first + second + make_seal(heading, 1, last)


@lru_cache(maxsize=1)
def material() -> Material:
    """Make everything, once in each process."""
    cluster = _Cluster()
    changes = tuple(cluster.run())
    with tempfile.TemporaryDirectory(prefix="acp-fuzz-") as folder:
        store = Store.create_or_open(Path(folder) / "ledger.db", cluster.genesis)
        try:
            for block, certificate, entries in cluster.parts:
                store.append(block, certificate, entries)
            export = b"".join(store.export_lines())
            numbers = [listed.number for listed in store.list_proposals(None, 0, 100)]
            texts = [store.certificate_json(f"prop-{number:04d}") for number in numbers]
            given = tuple(_answers(store))
        finally:
            store.close()
    return Material(
        genesis=cluster.genesis,
        commands=tuple(cluster.commands),
        blocks=tuple((block, certificate) for block, certificate, _ in cluster.parts),
        export=export,
        certificates=tuple(text.encode() for text in texts if text is not None),
        evidence=cluster.evidence,
        changes=changes,
        answers=given,
    )


class _Cluster:
    """Four members that take turns in making commands; blocks are executed, certified and kept."""

    def __init__(self) -> None:
        self.keys = {name: SigningKey.from_seed(sha256(name.encode()).digest()) for name in NAMES}
        raw = build_genesis(
            name="fuzzing",
            created_ms=_BEGAN_MS,
            nonce=_NONCE,
            members=[
                Member(name, key.public_key, 1, f"{name}.example:7001") for name, key in self.keys.items()
            ],
            possessions={name: prove_possession(key, name, _NONCE) for name, key in self.keys.items()},
            rules=Rules(default_window_ms=0, allow_vote_change=True),
            ca_certificate=AUTHORITY,
        )
        self.genesis = parse_genesis(raw)
        self.history = MemoryHistory(self.genesis)
        self.application = VotingApplication(self.genesis, self.history)
        self.commands: list[bytes] = []
        self.parts: list[tuple[Block, Certificate, Any]] = []
        self.time_ms = _BEGAN_MS
        self.evidence = b""

    def run(self) -> Iterator[bytes]:
        """The life of the cluster; yields the changes of members that were made."""
        first = self.propose("node-1", "terminate", {"score": 0.97, "näme": ["é", 1e21, None]})
        self.block(first, *(self.vote(name, first) for name in NAMES[:3]))
        self.block(self.sign(make_receipt, "node-2", "executor", digest=first, outcome="partial", detail="x"))
        second = self.propose("node-2", "quarantine", {}, expiry_ms=10_000)
        self.block(second, self.vote("node-4", second, VoteValue.REJECT, reason="not sure"))
        self.block(self.sign(make_close, "node-2", "closer", digest=second), self.opening())
        accusation = self.accusation()
        self.block(accusation)
        self.evidence = canonical_json(self.history_of("evidence"))
        change = canonical_json({"change": "reweight", "id": "node-3", "weight": 2})
        third = self.propose("node-1", "membership", {"change": "reweight", "id": "node-3", "weight": 2})
        self.block(third, *(self.vote(name, third) for name in NAMES))
        self.block(
            make_membership(
                self.keys["node-1"].sign,
                self.genesis.cluster_id,
                0,
                member="node-1",
                change=change,
                proposal_digest=self.digest(third),
            )
        )
        yield change
        nonce = sha256(b"a new disk").digest()
        self.block(
            make_rejoin(
                self.keys["node-2"].sign, self.genesis.cluster_id, self.epoch, member="node-2", nonce=nonce
            )
        )
        last = self.propose("node-3", "release", {"deep": [[[{"a": True}]]]})
        self.block(last, self.vote("node-3", last))
        yield from self.changes(nonce)

    def changes(self, nonce: bytes) -> Iterator[bytes]:
        """One more change of each kind, not carried out."""
        key = SigningKey.from_seed(sha256(b"node-5").digest())
        member = {
            "id": "node-5",
            "public_key": key.public_key.hex(),
            "weight": 3,
            "address": "[::1]:7005",
            "possession": prove_possession(key, "node-5", _NONCE).hex(),
        }
        yield canonical_json({"change": "add", "member": member})
        yield canonical_json({"change": "replace", "id": "node-4", "member": member})
        yield canonical_json({"change": "remove", "id": "node-4"})
        yield canonical_json({"change": "rejoin", "id": "node-4", "nonce": nonce.hex()})

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self.application.members.epoch

    def propose(self, proposer: str, action: str, evidence: dict[str, Any], expiry_ms: int = 0) -> bytes:
        """A proposal."""
        return make_proposal(
            self.keys[proposer].sign,
            self.genesis.cluster_id,
            self.epoch,
            proposer=proposer,
            request_id=f"request-{len(self.commands)}",
            action=action,
            target="agent-7",
            evidence=canonical_json(evidence),
            window_ms=0,
            expiry_ms=expiry_ms,
            created_ms=self.time_ms,
        )

    def digest(self, proposal: bytes) -> bytes:
        """What votes refer to."""
        command = decode_command(proposal)
        if not isinstance(command, ProposalCommand):
            raise TypeError("not a proposal")
        return command.digest(self.genesis.cluster_id)

    def vote(
        self, voter: str, proposal: bytes, value: VoteValue = VoteValue.APPROVE, reason: str = ""
    ) -> bytes:
        """A ballot of one vote."""
        item = VoteItem(self.digest(proposal), value, reason=reason, voted_ms=self.time_ms)
        sign = self.keys[voter].sign
        return make_ballot(sign, self.genesis.cluster_id, self.epoch, voter=voter, votes=(item,))

    def sign(self, make: Any, member: str, role: str, *, digest: bytes, **fields: Any) -> bytes:
        """A command of `member` about a proposal."""
        if make is make_receipt:
            fields["executed_ms"] = self.time_ms
        fields |= {role: member, "proposal_digest": self.digest(digest)}
        made: bytes = make(self.keys[member].sign, self.genesis.cluster_id, self.epoch, **fields)
        return made

    def opening(self) -> bytes:
        """The command that records the coordinator of view 1."""
        opening = NewView(self.epoch, 1, sha256(b"tc").digest(), "node-2")
        signature = self.keys["node-2"].sign(opening.sign_bytes(self.genesis.cluster_id))
        return self.application.view_command(replace(opening, signature=signature))

    def accusation(self) -> bytes:
        """Two PREPAREs of one member at one position."""
        pair = []
        for block_hash in (bytes(32), b"\x01" * 32):
            item = Statement(StatementKey(Phase.PREPARE, self.epoch, 2, 9, block_hash), "node-4", b"")
            signature = self.keys["node-4"].sign(item.sign_bytes(self.genesis.cluster_id))
            pair.append(replace(item, signature=signature))
        return self.application.evidence_command(Evidence(pair[0], pair[1]))

    def history_of(self, event_type: str) -> dict[str, Any]:
        """The data of the newest entry of a kind."""
        return dict(next(entry.data for entry in self.parts[-1][2] if entry.event_type == event_type))

    def block(self, *commands: bytes) -> None:
        """Execute, certify and commit."""
        self.time_ms += 1000
        height, members = len(self.parts) + 1, self.application.members
        parent = self.parts[-1][0].hash if self.parts else self._genesis_hash()
        execution = self.application.execute(height, self.time_ms, commands)
        header = BlockHeader(
            cluster_id=self.genesis.cluster_id,
            epoch=members.epoch,
            height=height,
            parent=parent,
            time_ms=self.time_ms,
            commands_root=commands_root(commands),
            entries_root=execution.entries_root,
            audit_size=execution.audit_size,
            audit_head=execution.audit_head,
        )
        block = Block(header, commands)
        key = StatementKey(Phase.COMMIT, members.epoch, 1 if height > 3 else 0, height, block.hash)
        signed = tuple(
            (name, self.keys[name].sign(key.sign_bytes(self.genesis.cluster_id, name))) for name in NAMES[:3]
        )
        self.application.commit(execution)
        self.history.apply(height, self.time_ms, execution.entries)
        self.parts.append((block, Certificate(key, signed), tuple(execution.entries)))
        self.commands.extend(commands)

    def _genesis_hash(self) -> bytes:
        return genesis_block(self.genesis).hash


def _answers(store: Store) -> Iterator[Message]:
    """What a node answers to clients about this record."""
    members = store.totals().members
    for number in range(1, 5):
        found = store.proposal(f"prop-{number:04d}")
        if found is not None:
            yield answers.proposal(found)
    yield from (answers.history_item(item) for item in store.history("node-3", -1, 10))
    yield from (answers.entry(item) for item in store.entries(0, 100))
    yield answers.head(store.head())
    yield answers.summary(store.summary(), members)
    yield answers.agreement(store.agreement(), members.ids)
    yield answers.blocs(store.agreement(), members.ids, 0.5)


def _statement(genesis: Genesis, phase: Phase, block: Block, signer: str = NAMES[0]) -> Statement:
    key = StatementKey(phase, block.header.epoch, 3, block.height, block.hash)
    signing = SigningKey.from_seed(sha256(signer.encode()).digest())
    return Statement(key, signer, signing.sign(key.sign_bytes(genesis.cluster_id, signer)))


def _reports(of: Material) -> dict[str, TimeoutReport]:
    """Timeouts of a commit quorum for one view; the highest is locked."""
    block, certificate = of.blocks[-1]
    reports = {}
    for name in NAMES[:3]:
        locked = name == NAMES[0]
        lock = Lock(2, block.hash) if locked else None
        timeout = Timeout(block.header.epoch, 3, block.height - 1, lock, name)
        key = SigningKey.from_seed(sha256(name.encode()).digest())
        signed = replace(timeout, signature=key.sign(timeout.sign_bytes(of.genesis.cluster_id)))
        prepared = replace(certificate, key=replace(certificate.key, phase=Phase.PREPARE))
        seen = _statement(of.genesis, Phase.PROPOSE, block)
        reports[name] = TimeoutReport(
            signed, of.blocks[-2][1], prepared if locked else None, seen if locked else None
        )
    return reports


def _messages(of: Material) -> Iterator[said.Message]:
    block, certificate = of.blocks[-1]
    statement = _statement(of.genesis, Phase.PROPOSE, block)
    reports = _reports(of)
    over = form_timeout_certificate(reports, of.genesis.members)
    yield said.BlockProposal(statement, block, of.blocks[-2][1])
    yield said.BlockProposal(statement, of.blocks[0][0], None)
    yield said.Acknowledgement(_statement(of.genesis, Phase.COMMIT, block))
    yield said.CertificateMessage(certificate)
    for command in of.commands:
        yield said.CommandMessage(command, overdue=len(command) % 2 == 0)
    header = block.header
    yield said.Heartbeat(
        header.epoch, 3, header.height, header.audit_size, header.audit_head, latest=certificate
    )
    yield said.Heartbeat(0, 0, 0, 1, header.audit_head, latest=None)
    yield said.SuspectMessage(Suspect(0, 1, NAMES[1], statement.signature))
    for report in reports.values():
        yield said.TimeoutMessage(report)
    yield said.TimeoutCertificateMessage(over)
    opening = NewView(header.epoch, 4, over.digest(of.genesis.cluster_id), NAMES[0], statement.signature)
    yield said.NewViewMessage(opening, over)
    yield said.Witness((statement, _statement(of.genesis, Phase.PREPARE, block)), reports[NAMES[0]].timeout)
    yield said.Witness()
    yield said.BodyRequest(block.hash)
    yield said.BodyMessage(block)
