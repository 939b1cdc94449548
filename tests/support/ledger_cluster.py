"""A record made by the real application without any ordering: blocks are executed, certified with the
members' keys and committed, one after the other, and can be exported for the verifier.

Headers, certificates and lines of the export are written here, apart from the nodes' own code for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from tests.support.record_factory import Json, RecordFactory, SealedBlock, SealedRecord, dumps, header_hash

from replication.consensus.model import AuditEntry, VoteValue
from replication.identity import signbytes
from replication.identity.genesis import Rules
from replication.identity.keys import SigningKey
from replication.identity.members import prove_possession
from replication.identity.merkle import merkle_root
from replication.ledger.application import BlockExecution, VotingApplication
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
from replication.ledger.history import MemoryHistory
from replication.ledger.outcomes import Outcome
from replication.ledger.verify import ExportReport, verify_certificate, verify_export
from replication.ordering.application import command_digest

__all__ = ["LedgerCluster"]


class LedgerCluster:
    """n members with keys, one application, and all blocks so far."""

    def __init__(
        self, n: int = 4, *, weights: Sequence[int] | None = None, rules: Rules | None = None
    ) -> None:
        self.factory = RecordFactory(n, weights=weights, rules=rules)
        self.genesis = self.factory.genesis
        self.cluster_id = self.genesis.cluster_id
        self.ids = list(self.factory.ids)
        self.keys: dict[str, SigningKey] = dict(self.factory.keys)
        self.history = MemoryHistory(self.genesis)
        self.application = VotingApplication(self.genesis, self.history)
        self.sealed: list[SealedBlock] = []
        self.executions: list[BlockExecution] = []
        self.commands: list[tuple[bytes, ...]] = []
        self._requests = 0
        self._seal(self.application.genesis_execution(), ())

    @property
    def time_ms(self) -> int:
        """Time of the last block."""
        return self.executions[-1].time_ms

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self.application.members.epoch

    def sign(self, member: str) -> Any:
        """The member's signing function."""
        return self.keys[member].sign

    # ---------------------------------------------------------------------------------------- commands

    def propose(self, proposer: str = "node-1", action: str = "quarantine", **options: Any) -> bytes:
        """A proposal as bytes; options replace its fields, `evidence` is an object."""
        self._requests += 1
        fields: Json = {
            "request_id": f"request-{self._requests}",
            "target": "agent-7",
            "window_ms": 0,
            "expiry_ms": 0,
            "created_ms": self.time_ms,
            **options,
        }
        fields["evidence"] = dumps(options.get("evidence", {"n": 1}))
        epoch = fields.pop("epoch", self.epoch)
        return make_proposal(
            self.sign(proposer), self.cluster_id, epoch, proposer=proposer, action=action, **fields
        )

    def digest(self, proposal: bytes) -> bytes:
        """The digest that votes refer to."""
        command = decode_command(proposal)
        assert isinstance(command, ProposalCommand)
        return command.digest(self.cluster_id)

    def vote(self, voter: str, proposal: bytes, value: str = "approve", **options: Any) -> bytes:
        """A ballot of one vote."""
        return self.ballot(voter, [(proposal, value)], **options)

    def ballot(
        self, voter: str, votes: Sequence[tuple[bytes, str]], *, epoch: int | None = None, **options: Any
    ) -> bytes:
        """A ballot; options are fields of its votes."""
        items = [
            VoteItem(self.digest(proposal), VoteValue(value), **{"voted_ms": self.time_ms, **options})
            for proposal, value in votes
        ]
        epoch = self.epoch if epoch is None else epoch
        return make_ballot(self.sign(voter), self.cluster_id, epoch, voter=voter, votes=items)

    def close(self, closer: str, proposal: bytes) -> bytes:
        """A request to tally."""
        digest = self.digest(proposal)
        return make_close(
            self.sign(closer), self.cluster_id, self.epoch, closer=closer, proposal_digest=digest
        )

    def receipt(self, executor: str, proposal: bytes, outcome: str = "succeeded", detail: str = "") -> bytes:
        """An executor's report."""
        return make_receipt(
            self.sign(executor),
            self.cluster_id,
            self.epoch,
            executor=executor,
            proposal_digest=self.digest(proposal),
            outcome=outcome,
            detail=detail,
            executed_ms=self.time_ms,
        )

    def new_member(self, member: str, *, weight: int = 1, seed: str = "") -> Json:
        """A member to be, whose key is kept here from now on under its id."""
        key = SigningKey.from_seed(sha256(f"new member {member} {seed}".encode()).digest())
        self.keys[member] = key
        return {
            "id": member,
            "public_key": key.public_key.hex(),
            "weight": weight,
            "address": f"host-{member}{seed}:7000",
            "possession": prove_possession(key, member, self.genesis.nonce).hex(),
        }

    def membership(self, member: str, proposal: bytes, change: Mapping[str, Any], **options: Any) -> bytes:
        """The command that carries out an approved change."""
        return make_membership(
            self.sign(member),
            self.cluster_id,
            options.get("epoch", self.epoch),
            member=member,
            change=dumps(change),
            proposal_digest=self.digest(proposal),
        )

    def rejoin(self, member: str, nonce: bytes) -> bytes:
        """A member asks to be let back in."""
        return make_rejoin(self.sign(member), self.cluster_id, self.epoch, member=member, nonce=nonce)

    # ------------------------------------------------------------------------------------------ blocks

    def block(self, *commands: bytes, after_ms: int = 1000, view: int = 0) -> BlockExecution:
        """Execute, certify and commit a block."""
        height, time_ms = len(self.executions), self.time_ms + after_ms
        for command in commands:
            self.application.check(command)
        execution = self.application.execute(height, time_ms, commands)
        self._seal(execution, commands, view)
        self.application.commit(execution)
        self.history.apply(height, time_ms, execution.entries)
        return execution

    def outcome(self, command: bytes, **options: Any) -> Outcome:
        """Commit a block with this command alone; its outcome."""
        return self.block(command, **options).outcomes[command_digest(command)]

    def decide(self, proposal: bytes, value: str = "approve", voters: Sequence[str] | None = None) -> None:
        """Commit a proposal with votes of all members in one block."""
        ids = self.application.members.ids if voters is None else voters
        self.block(proposal, *(self.vote(voter, proposal, value) for voter in ids))

    def change_members(self, change: Json) -> BlockExecution:
        """Have a change of members approved by all, and carry it out."""
        member = self.application.members.ids[0]
        proposal = self.propose(member, "membership", evidence=change)
        self.decide(proposal)
        return self.block(self.membership(member, proposal, change))

    # ------------------------------------------------------------------------------------------- export

    def _seal(self, execution: BlockExecution, commands: Sequence[bytes], view: int = 0) -> None:
        members = self.application.members
        parent = self.sealed[-1].hash if self.sealed else bytes(32).hex()
        header: Json = {
            "cluster_id": self.cluster_id.hex(),
            "epoch": members.epoch,
            "height": execution.height,
            "parent": parent,
            "time_ms": execution.time_ms,
            "commands_root": merkle_root(commands).hex(),
            "entries_root": execution.entries_root.hex(),
            "audit_size": execution.audit_size,
            "audit_head": execution.audit_head.hex(),
        }
        certificate = self._certificate(header, members.ids, view) if execution.height else None
        entries = [_entry(entry) for entry in execution.entries]
        self.sealed.append(SealedBlock(header, header_hash(header).hex(), certificate, entries))
        self.executions.append(execution)
        self.commands.append(tuple(commands))

    def _certificate(self, header: Json, signers: Sequence[str], view: int) -> Json:
        block_hash = header_hash(header)
        signatures = []
        for signer in signers:
            message = signbytes.statement_bytes(
                "commit",
                self.cluster_id,
                header["epoch"],
                view=view,
                height=header["height"],
                block_hash=block_hash,
                signer=signer,
            )
            signatures.append({"signer": signer, "signature": self.keys[signer].sign(message).hex()})
        return {
            "phase": "commit",
            "epoch": header["epoch"],
            "view": view,
            "height": header["height"],
            "block_hash": block_hash.hex(),
            "signatures": signatures,
        }

    @property
    def record(self) -> SealedRecord:
        """Everything so far."""
        return SealedRecord(self.genesis, self.sealed)

    def check_certificates(self) -> None:
        """Judge a certificate of every decision so far."""
        for execution in self.executions:
            for entry in execution.entries:
                if entry.event_type in ("tally", "expired"):
                    text = dumps(self.record.certificate(entry.proposal_id or "")) + b"\n"
                    report = verify_certificate(text, self.genesis)
                    assert report.decision == entry.data["decision"]
                    assert set(report.excluded) == set(entry.data.get("excluded", ()))

    def verify(self) -> ExportReport:
        """Judge the export of everything so far."""
        return verify_export(self.record.lines(), self.genesis)


def _entry(entry: AuditEntry) -> Json:
    return asdict(entry)
