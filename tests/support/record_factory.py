"""Makes records (exports and decision certificates) with real keys, for tests of those who judge records.

Written apart from the nodes and from the verifier: it writes JSON with the `rfc8785` package, does its own
sums, and decides nothing. A test says what happens, in what block, and with what decision; `seal` then
numbers, hashes, links and signs it all. Since everything is sealed last, a test can also tell any lie in the
middle (leave a vote out, swap entries, change a figure) and still get a file in which every hash, link and
signature is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any

import rfc8785

from replication.identity import signbytes
from replication.identity.genesis import Genesis, Rules, build_genesis, parse_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.merkle import EMPTY_ROOT, inclusion_path, merkle_root
from replication.identity.tls import create_authority

__all__ = [
    "START_MS",
    "DraftBlock",
    "DraftEntry",
    "RecordFactory",
    "SealedBlock",
    "SealedRecord",
    "approved",
    "dumps",
    "entry_hash",
    "header_hash",
    "opened",
    "rich_record",
    "small_record",
]

START_MS = 1_750_000_000_000
VALUES = {"approve": 1, "reject": 2, "abstain": 3}
OUTCOMES = {"succeeded": 1, "failed": 2, "partial": 3}
Json = dict[str, Any]


def dumps(value: object) -> bytes:
    """Canonical JSON by the reference package."""
    return rfc8785.dumps(value)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _authority() -> bytes:
    return create_authority("test authority")[0]


@dataclass
class DraftEntry:
    """An event that will become an entry. `lies` replaces fields of the entry before it is hashed."""

    event_type: str
    proposal_id: str
    actor_id: str
    data: Json
    lies: Json = field(default_factory=dict)
    sealed_as: int = -1


@dataclass
class DraftBlock:
    """A block to be. `lies` replaces fields of the header before it is hashed; `commands` are any bytes.

    `members` are those of its epoch, in order, with their weights; they all sign unless `signers` are named.
    `keys` are those of that time, where members have got others since.
    """

    time_ms: int
    epoch: int = 0
    members: Mapping[str, int] = field(default_factory=dict)
    keys: dict[str, SigningKey] = field(default_factory=dict)
    entries: list[DraftEntry] = field(default_factory=list)
    view: int = 0
    commands: list[bytes] = field(default_factory=list)
    signers: Sequence[str] | None = None
    lies: Json = field(default_factory=dict)


@dataclass
class SealedBlock:
    """A finished block. What is changed here breaks a hash or a signature, unless it is under neither."""

    header: Json
    hash: str
    certificate: Json | None
    entries: list[Json]

    def objects(self) -> list[Json]:
        """Its lines in the export as objects."""
        line = {
            "type": "block",
            "header": self.header,
            "hash": self.hash,
            "certificate": self.certificate,
        }
        return [line, *({"type": "entry", **entry} for entry in self.entries)]


@dataclass
class SealedRecord:
    """A finished record."""

    genesis: Genesis
    blocks: list[SealedBlock]

    def objects(self) -> list[Json]:
        """The lines of the export as objects."""
        last = self.blocks[-1].header
        shape = {"height": last["height"], "audit_size": last["audit_size"]}
        first = {
            "type": "audit-export",
            "format": "agent-consensus/audit/1",
            "cluster_id": self.genesis.cluster_id.hex(),
            **shape,
        }
        end = {"type": "end", **shape, "audit_head": last["audit_head"], "block_hash": self.blocks[-1].hash}
        return [first, *(item for block in self.blocks for item in block.objects()), end]

    def lines(self) -> list[bytes]:
        """The export, line by line."""
        return [dumps(item) + b"\n" for item in self.objects()]

    def export(self) -> bytes:
        """The export as one file."""
        return b"".join(self.lines())

    def certificate(self, proposal_id: str) -> Json:
        """The decision certificate of a proposal, as an object."""
        about = [
            (block, index, entry)
            for block in self.blocks
            for index, entry in enumerate(block.entries)
            if entry["proposal_id"] == proposal_id
        ]
        proposal = next(entry for _, _, entry in about if entry["event_type"] == "propose")
        last_votes = {entry["actor_id"]: entry for _, _, entry in about if entry["event_type"] == "vote"}
        block, index, tally = next(item for item in about if item[2]["event_type"] in ("tally", "expired"))
        is_first_epoch = block.header["epoch"] == 0  # later, some votes on record count no more
        named = tally["data"]["votes"]
        counting = [entry for voter, entry in last_votes.items() if is_first_epoch or voter in named]
        links = [
            self._link(earlier, index)
            for earlier in self.blocks
            for index, entry in enumerate(earlier.entries)
            if entry["event_type"] == "membership" and earlier.header["epoch"] < block.header["epoch"]
        ]
        wanted = set(tally["data"].get("excluded", {}).values())
        evidence = [entry for item in self.blocks for entry in item.entries if entry["sequence"] in wanted]
        return deepcopy(
            {
                "format": "agent-consensus/certificate/1",
                "cluster_id": self.genesis.cluster_id.hex(),
                "proposal": proposal,
                "votes": sorted(counting, key=lambda entry: int(entry["sequence"])),
                "tally": tally,
                "inclusion": _inclusion(block, index),
                "header": block.header,
                "commit": block.certificate,
                **({"epochs": links} if links else {}),
                **({"evidence": evidence} if evidence else {}),
            }
        )

    @staticmethod
    def _link(block: SealedBlock, index: int) -> Json:
        """How one epoch leads to the next."""
        return {
            "entry": block.entries[index],
            "inclusion": _inclusion(block, index),
            "header": block.header,
            "commit": block.certificate,
        }


def _inclusion(block: SealedBlock, index: int) -> Json:
    leaves = [bytes.fromhex(entry["hash"]) for entry in block.entries]
    path = [node.hex() for node in inclusion_path(leaves, index)]
    return {"index": index, "size": len(leaves), "path": path}


class RecordFactory:
    """A cluster of n members whose keys are all here, and the blocks drafted so far."""

    def __init__(
        self,
        n: int = 4,
        *,
        weights: Sequence[int] | None = None,
        rules: Rules | None = None,
        seed: int = 0,
        start_ms: int = START_MS,
    ) -> None:
        self.n = n
        self.ids = [f"node-{index}" for index in range(1, n + 1)]
        self.weights = dict(zip(self.ids, weights or [1] * n, strict=True))
        self.rules = rules or Rules(default_window_ms=0)
        self.keys = {
            member: SigningKey.from_seed(sha256(f"record factory {seed} {member}".encode()).digest())
            for member in self.ids
        }
        nonce = sha256(f"record factory {seed}".encode()).digest()
        members = [
            Member(member, self.keys[member].public_key, self.weights[member], f"host-{member}:7000")
            for member in self.ids
        ]
        raw = build_genesis(
            name="test",
            created_ms=start_ms,
            nonce=nonce,
            members=members,
            possessions={member: prove_possession(self.keys[member], member, nonce) for member in self.ids},
            rules=self.rules,
            ca_certificate=_authority(),
        )
        self.genesis = parse_genesis(raw)
        self.cluster_id = self.genesis.cluster_id
        self.epoch = 0
        self.blocks = [DraftBlock(start_ms, members=dict(self.weights), entries=[self._genesis_entry()])]
        self.faulty: dict[str, DraftEntry] = {}
        self.proposals: dict[str, DraftEntry] = {}
        self.votes: dict[str, dict[str, str]] = {}

    @property
    def f(self) -> int:
        """How many members may be faulty."""
        return (self.n - 1) // 3

    def key(self, member: str) -> SigningKey:
        """A member's key; for anyone else, some key."""
        return self.keys.get(member) or SigningKey.from_seed(sha256(member.encode()).digest())

    # ------------------------------------------------------------------------------------------ drafting

    def block(self, after_ms: int = 1000, *, commands: Iterable[bytes] = ()) -> DraftBlock:
        """Begin the next block, this long after the last one."""
        self._begin_epoch()
        time_ms = self.blocks[-1].time_ms + after_ms
        draft = DraftBlock(time_ms, self.epoch, dict(self.weights), dict(self.keys), commands=list(commands))
        self.blocks.append(draft)
        return draft

    def _begin_epoch(self) -> None:
        """What a change of members in the last block means for the next; see `epoch_factory`."""

    def add(self, event_type: str, proposal_id: str, actor_id: str, data: Json) -> DraftEntry:
        """Add an event to the last block."""
        entry = DraftEntry(event_type, proposal_id, actor_id, data)
        self.blocks[-1].entries.append(entry)
        if event_type not in ("tally", "expired") or data.get("cause") == "closed":
            self.blocks[-1].commands.append(dumps(data))
        return entry

    def propose(
        self,
        proposer: str,
        action: str = "quarantine",
        target: str = "agent-7",
        *,
        evidence: Json | None = None,
        window_ms: int = 0,
        expiry_ms: int = 0,
        request_id: str = "",
        cluster_id: bytes | None = None,
        epoch: int | None = None,
    ) -> str:
        """Add a signed proposal; return its id."""
        epoch = self.epoch if epoch is None else epoch
        number = len(self.proposals) + 1
        proposal_id = f"prop-{number:04d}"
        fields: Json = {
            "request_id": request_id or f"request-{number}",
            "action": action,
            "target": target,
            "window_ms": window_ms,
            "expiry_ms": expiry_ms,
            "created_ms": self.blocks[-1].time_ms - 5,
        }
        evidence = {"score": number} if evidence is None else evidence
        message = signbytes.proposal_bytes(
            cluster_id or self.cluster_id, epoch, proposer=proposer, evidence=dumps(evidence), **fields
        )
        data = {
            "epoch": epoch,
            **fields,
            "evidence": evidence,
            "digest": sha256(message).hexdigest(),
            "signature": self.key(proposer).sign(message).hex(),
        }
        self.proposals[proposal_id] = self.add("propose", proposal_id, proposer, data)
        self.votes[proposal_id] = {}
        return proposal_id

    def digest(self, proposal_id: str) -> bytes:
        """The digest of a proposal."""
        return bytes.fromhex(self.proposals[proposal_id].data["digest"])

    def vote(self, proposal_id: str, voter: str, value: str = "approve", **options: Any) -> DraftEntry:
        """Add one vote in a ballot of its own; options as in `ballot`."""
        return self.ballot(voter, [(proposal_id, value)], **options)[0]

    def ballot(
        self,
        voter: str,
        votes: Sequence[tuple[str, str]],
        *,
        revision: int = 0,
        reason: str = "because",
        signer: str = "",
        digest: bytes | None = None,
        cluster_id: bytes | None = None,
        epoch: int | None = None,
    ) -> list[DraftEntry]:
        """Add votes under one signature. `signer` (with its key) may be another than the voter: a forgery."""
        cluster_id = cluster_id or self.cluster_id
        epoch = self.epoch if epoch is None else epoch
        contents: list[Json] = [
            {
                "epoch": epoch,
                "digest": (digest or self.digest(proposal_id)).hex(),
                "value": value,
                "reason": reason,
                "revision": revision,
                "voted_ms": self.blocks[-1].time_ms - 3,
            }
            for proposal_id, value in votes
        ]
        leaves = [
            signbytes.vote_bytes(
                cluster_id,
                epoch,
                voter=voter,
                digest=bytes.fromhex(item["digest"]),
                revision=revision,
                value=VALUES[item["value"]],
                reason=reason,
                voted_ms=item["voted_ms"],
            )
            for item in contents
        ]
        size = len(leaves)
        message = signbytes.ballot_bytes(cluster_id, epoch, voter=voter, size=size, root=merkle_root(leaves))
        signature = self.key(signer or voter).sign(message).hex()
        entries = []
        for index, (proposal_id, value) in enumerate(votes):
            path = [node.hex() for node in inclusion_path(leaves, index)]
            ballot = {"size": size, "index": index, "path": path, "signature": signature}
            entries.append(self.add("vote", proposal_id, voter, {**contents[index], "ballot": ballot}))
            self.votes[proposal_id][voter] = value
        return entries

    def tally(self, proposal_id: str, decision: str, cause: str = "settled") -> DraftEntry:
        """Add the tally of the votes so far; the decision is the test's own."""
        event_type = "expired" if cause == "expired" else "tally"
        return self.add(event_type, proposal_id, "cluster", self.tally_data(proposal_id, decision, cause))

    def close(self, proposal_id: str, closer: str, decision: str, *, signer: str = "") -> DraftEntry:
        """Add the tally that the closer asked for."""
        digest = self.digest(proposal_id)
        message = signbytes.close_bytes(self.cluster_id, self.epoch, closer=closer, digest=digest)
        close = {"epoch": self.epoch, "signature": self.key(signer or closer).sign(message).hex()}
        data = {**self.tally_data(proposal_id, decision, "closed"), "close": close}
        return self.add("tally", proposal_id, closer, data)

    def tally_data(self, proposal_id: str, decision: str, cause: str) -> Json:
        """What a tally says about the votes so far."""
        votes = dict(self.votes[proposal_id])
        excluded = [voter for voter in votes if voter in self.faulty]
        counted = {voter: "abstain" if voter in excluded else cast for voter, cast in votes.items()}
        proposal, approval = self.proposals[proposal_id], self.rules.approval
        action = proposal.data["action"]
        if not approval.proposer_counts:
            counted[proposal.actor_id] = "abstain"
        voters = {value: [voter for voter, cast in counted.items() if cast == value] for value in VALUES}
        weigh = {value: sum(self.weights.get(voter, 0) for voter in voters[value]) for value in VALUES}
        critical = action in ("terminate", "escalate") or action in approval.critical_actions
        threshold = self.rules.supermajority_threshold if critical else self.rules.majority_threshold
        threshold = approval.of(action).threshold or threshold
        required = max(math.ceil(self.n * self.rules.quorum_fraction), 2 * self.f + 1)
        data: Json = {
            "digest": self.proposals[proposal_id].data["digest"],
            "decision": decision,
            "cause": cause,
            "approve_count": len(voters["approve"]),
            "reject_count": len(voters["reject"]),
            "abstain_count": len(voters["abstain"]),
            "total_voters": self.n,
            "quorum_required": required,
            "quorum_met": len(voters["approve"]) + len(voters["reject"]) >= required,
            "approve_weight": weigh["approve"],
            "reject_weight": weigh["reject"],
            "threshold_used": f"{threshold.numerator}/{threshold.denominator}",
            "is_critical": critical,
            "votes": votes,
        }
        # The sequences of the evidence are known only when everything is sealed.
        return {**data, "excluded": {voter: self.faulty[voter] for voter in excluded}} if excluded else data

    def execute(
        self,
        proposal_id: str,
        executor: str,
        outcome: str = "succeeded",
        *,
        detail: str = "done",
        signer: str = "",
    ) -> DraftEntry:
        """Add an executor's receipt."""
        executed_ms = self.blocks[-1].time_ms - 1
        message = signbytes.receipt_bytes(
            self.cluster_id,
            self.epoch,
            executor=executor,
            digest=self.digest(proposal_id),
            outcome=OUTCOMES[outcome],
            detail=detail,
            executed_ms=executed_ms,
        )
        data = {
            "epoch": self.epoch,
            "digest": self.digest(proposal_id).hex(),
            "outcome": outcome,
            "detail": detail,
            "executed_ms": executed_ms,
            "signature": self.key(signer or executor).sign(message).hex(),
        }
        return self.add("execute", proposal_id, executor, data)

    # ------------------------------------------------------------------------------------------- sealing

    def seal(self) -> SealedRecord:
        """Number, hash, link and sign everything drafted so far."""
        return SealedRecord(self.genesis, list(self.seal_blocks()))

    def seal_blocks(self, known: Sequence[SealedBlock] = ()) -> Iterator[SealedBlock]:
        """Seal one block after the other. `known` are the first ones, which have not changed since."""
        size, head, parent = 0, "", bytes(32)
        if known:
            last, parent = known[-1].header, bytes.fromhex(known[-1].hash)
            size, head = last["audit_size"], last["audit_head"]
        for height, draft in enumerate(self.blocks[len(known) :], len(known)):
            entries: list[Json] = []
            for item in draft.entries:
                item.sealed_as = size
                entry = self._seal_entry(item, size, head, draft.time_ms)
                entries.append(entry)
                size, head = size + 1, entry["hash"]
            header = {
                "cluster_id": self.cluster_id.hex(),
                "epoch": draft.epoch,
                "height": height,
                "parent": parent.hex(),
                "time_ms": draft.time_ms,
                "commands_root": merkle_root(draft.commands).hex() if draft.commands else EMPTY_ROOT.hex(),
                "entries_root": merkle_root([bytes.fromhex(entry["hash"]) for entry in entries]).hex(),
                "audit_size": size,
                "audit_head": head,
                **draft.lies,
            }
            parent = header_hash(header)
            signers = list(draft.members) if draft.signers is None else draft.signers
            certificate = None
            if height:
                certificate = self.commit(header, signers=signers, view=draft.view, at=draft.keys)
            yield SealedBlock(header, parent.hex(), certificate, entries)

    def commit(
        self,
        header: Mapping[str, Any],
        *,
        signers: Sequence[str] | None = None,
        view: int = 0,
        phase: str = "commit",
        keys: Mapping[str, str] | None = None,
        at: Mapping[str, SigningKey] | None = None,
    ) -> Json:
        """A certificate for a header, by all members unless told; `keys` says who signs in whose name, `at`
        with which key."""
        block_hash = header_hash(header)
        signatures = []
        for signer in self.ids if signers is None else signers:
            message = signbytes.statement_bytes(
                phase,
                bytes.fromhex(header["cluster_id"]),
                header["epoch"],
                view=view,
                height=header["height"],
                block_hash=block_hash,
                signer=signer,
            )
            owner = (keys or {}).get(signer, signer)
            key = (at or {}).get(owner) or self.key(owner)
            signatures.append({"signer": signer, "signature": key.sign(message).hex()})
        return {
            "phase": "commit",
            "epoch": header["epoch"],
            "view": view,
            "height": header["height"],
            "block_hash": block_hash.hex(),
            "signatures": signatures,
        }

    def _seal_entry(self, item: DraftEntry, sequence: int, head: str, time_ms: int) -> Json:
        entry: Json = {
            "sequence": sequence,
            "event_type": item.event_type,
            "proposal_id": item.proposal_id,
            "actor_id": item.actor_id,
            "data": _settled_data(item.data),
            "timestamp": time_ms // 1000 if time_ms % 1000 == 0 else time_ms / 1000,
            "prev_hash": head,
            **item.lies,
        }
        return {**entry, "hash": entry_hash(entry)}

    def _genesis_entry(self) -> DraftEntry:
        members = [
            {"id": member, "public_key": self.keys[member].public_key.hex(), "weight": self.weights[member]}
            for member in self.ids
        ]
        data: Json = {"cluster_id": self.cluster_id.hex(), "epoch": 0, "members": members}
        return DraftEntry("genesis", "", "genesis", data)


def _settled_data(data: Json) -> Json:
    """A copy of an entry's data; where it refers to another entry, now with that one's sequence."""
    if "excluded" not in data:
        return deepcopy(data)
    excluded = {
        voter: item.sealed_as if isinstance(item, DraftEntry) else item
        for voter, item in data["excluded"].items()
    }
    return {
        **deepcopy({key: value for key, value in data.items() if key != "excluded"}),
        "excluded": excluded,
    }


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Hash of an entry over all fields but its hash."""
    return sha256(dumps({key: value for key, value in entry.items() if key != "hash"})).hexdigest()


def header_hash(header: Mapping[str, Any]) -> bytes:
    """Hash of a header."""
    raw: Json = {
        key: bytes.fromhex(value) if isinstance(value, str) else value
        for key, value in header.items()
        if key not in ("cluster_id", "epoch")
    }
    content = signbytes.block_bytes(bytes.fromhex(header["cluster_id"]), header["epoch"], **raw)
    return sha256(content).digest()


def opened(n: int = 4, *, rules: Rules | None = None, **proposal: Any) -> tuple[RecordFactory, str]:
    """A record with one proposal of node-1, open, in its first block; its id."""
    factory = RecordFactory(n, rules=rules)
    factory.block()
    return factory, factory.propose("node-1", **proposal)


def approved(n: int = 4) -> tuple[RecordFactory, str]:
    """A record with one proposal that everybody approved, decided in its first block; its id."""
    factory, proposal = opened(n)
    for voter in factory.ids:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    return factory, proposal


def small_record() -> RecordFactory:
    """Four members; one proposal of each of a few kinds, in few bytes: for tests that touch every byte."""
    factory = RecordFactory(4)
    factory.block(1500)
    first = factory.propose("node-1", "terminate", evidence={"näme": 1.5, "list": [1, None, True]})
    second = factory.propose("node-2", "restrict", "", evidence={}, window_ms=2000, expiry_ms=9000)
    factory.ballot("node-1", [(first, "approve"), (second, "reject")])
    factory.vote(first, "node-2")
    factory.vote(first, "node-3")
    factory.tally(first, "approved")
    factory.block(4000)
    factory.tally(second, "no_quorum", "window")
    third = factory.propose("node-3", "release", expiry_ms=1000)
    factory.execute(first, "node-4", "failed")
    fourth = factory.propose("node-4", "restrict")
    factory.close(fourth, "node-4", "no_quorum")
    factory.block(1001)
    factory.tally(third, "no_quorum", "expired")
    factory.block(commands=[b"void"])
    for block in factory.blocks:
        block.signers = factory.ids[:3]
    return factory


def rich_record(n: int) -> RecordFactory:
    """Every way in which a proposal can go, with 4 or 5 members and weights of 1.

    prop-0001 approved and executed after a failed attempt, 0002 rejected, 0003 a tie, 0004 no quorum when its
    window ends, 0005 expired, 0006 closed early, 0007 closed when settled, 0008 approved when its window
    ends, 0009 critical and rejected, 0010 without any hope of a quorum, 0011 due for both and expired, 0012
    still open.
    """
    factory = RecordFactory(n, rules=Rules(default_window_ms=0, max_active_proposals=12))
    ids = factory.ids
    factory.block(250)
    names = [
        factory.propose(ids[0], evidence={"log": ["ssh", {"é": "\u2028"}], "p": 0.25, "big": 1e21}),
        factory.propose(ids[1], "release", window_ms=60_000),
        factory.propose(ids[2], "restrict"),
        factory.propose(ids[3], window_ms=4000),
        factory.propose(ids[0], "isolate", expiry_ms=3000),
        factory.propose(ids[1], window_ms=50_000, expiry_ms=50_000),
        factory.propose(ids[2]),
        factory.propose(ids[3], window_ms=5000),
        factory.propose(ids[0], "escalate"),
        factory.propose(ids[1]),
        factory.propose(ids[2], window_ms=6000, expiry_ms=6000),
        factory.propose(ids[3], window_ms=900_000, expiry_ms=900_000),
    ]
    p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12 = names
    factory.block(750)
    factory.ballot(
        ids[0], [(p1, "approve"), (p2, "reject"), (p3, "approve"), (p4, "approve"), (p5, "approve")]
    )
    factory.ballot(ids[1], [(p1, "approve"), (p2, "reject"), (p3, "reject")])
    factory.vote(p8, ids[2])
    factory.vote(p12, ids[3], "abstain")
    block = factory.block(1000)
    factory.ballot(ids[2], [(p3, "approve"), (p1, "approve"), (p2, "reject")])
    factory.vote(p3, ids[3], "reject")
    if n == 5:
        factory.vote(p3, ids[4], "abstain")
        factory.vote(p1, ids[4], "reject")
    factory.tally(p3, "rejected")
    factory.tally(p1, "approved")
    factory.tally(p2, "rejected")
    block.view = 3
    factory.block(1251)
    factory.tally(p5, "no_quorum", "expired")
    factory.execute(p1, ids[1], "failed")
    factory.vote(p6, ids[0])
    factory.vote(p6, ids[1])
    factory.close(p6, ids[1], "no_quorum")
    for voter in ids[:3]:
        factory.vote(p7, voter)
    factory.close(p7, ids[2], "approved")
    factory.vote(p8, ids[0])
    factory.vote(p8, ids[1], "reject")
    if n == 5:
        factory.vote(p8, ids[3], "abstain")
    factory.block(900, commands=[b"a command that came too late"])
    factory.block(2200)
    factory.tally(p4, "no_quorum", "window")
    factory.tally(p8, "approved", "window")
    factory.tally(p11, "no_quorum", "expired")
    factory.execute(p1, ids[2], "succeeded")
    factory.execute(p1, ids[3], "partial")
    factory.vote(p9, ids[0], "reject")
    factory.vote(p9, ids[1], "reject")
    factory.vote(p9, ids[2], "approve")
    factory.vote(p10, ids[0], "abstain")
    factory.vote(p10, ids[1], "abstain")
    if n == 5:
        factory.vote(p10, ids[2], "abstain")
    factory.tally(p9, "rejected")
    factory.tally(p10, "no_quorum")
    return factory
