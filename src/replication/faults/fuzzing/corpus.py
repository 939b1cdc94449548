"""The valid inputs of each target, and how they are edited: `input_of` names every input by one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

from google.protobuf.message import Message

from replication.faults.fuzzing.certificates import AUTHORITY, NODE
from replication.faults.fuzzing.mutation import edit_bytes, edit_json, edit_lines, edit_message, noise
from replication.faults.fuzzing.record import NAMES, Material, material
from replication.ledger import codec, serial
from replication.ledger.command_kinds import EvidenceCommand
from replication.ledger.commands import decode_command
from replication.node import wire
from replication.node.config import NodeConfig, PolicySettings, format_config
from replication.v1 import audit_service_pb2 as audit
from replication.v1 import cluster_service_pb2, journal_pb2, log_pb2, model_pb2, peer_service_pb2
from replication.v1 import voting_service_pb2 as voting

__all__ = ["ANSWERS", "REQUESTS", "entries_of", "input_of"]

REQUESTS: Final[tuple[type[Message], ...]] = (
    *(voting.ProposeRequest, voting.CastVoteRequest, voting.ExecuteRequest, voting.ListProposalsRequest),
    *(voting.GetHistoryRequest, voting.GetBlocsRequest),
)
ANSWERS: Final[tuple[type[Message], ...]] = (
    *(model_pb2.Proposal, voting.HistoryItem, model_pb2.AuditEntry, audit.GetHeadResponse),
    *(voting.GetSummaryResponse, voting.GetAgreementResponse, voting.GetBlocsResponse),
    *(cluster_service_pb2.GetStatusResponse, cluster_service_pb2.ListMembersResponse),
)
STORED: Final[tuple[type[Message], ...]] = (
    *(log_pb2.Block, log_pb2.BlockHeader, log_pb2.Certificate, journal_pb2.SignState),
)
_POLICY: Final = b"""\
[[rule]]
when = 'evidence.score > 0.9 && action in ["quarantine", "restrict"]'
vote = "approve"
reason = "certain enough"

[[rule]]
when = "has(evidence.log) && evidence.log.exists(line, line.startsWith('ssh'))"
vote = "reject"
reason = "an administrator"

[default]
vote = "none"
"""
_SCENARIO: Final = b"""\
name = "coordinator-censors"
group = "coordinator"
summary = "The coordinator ignores every command of one member."
seed = 7

[workload]
seconds = 7

[[faults]]
kind = "censor"
target = "node-1"
authors = ["node-2"]
at_seconds = 1
for_seconds = 5

[bounds]
view_changes = [1]
"""


@dataclass(frozen=True)
class Entry:
    """A valid input. `kind`: how it is taken apart for edits. A message comes behind the prefix."""

    text: bytes
    kind: str = "bytes"
    message: type[Message] | None = None
    prefix: bytes = b""


def input_of(target: str, seed: int) -> bytes:
    """The input with this number: the same in every process."""
    rng, entries = Random(f"{target}/{seed}"), entries_of(target)
    if rng.random() < 0.03:
        return noise(rng)
    entry = rng.choice(entries)
    texts = _texts(target)
    choice = rng.random()
    if choice < 0.01:
        return entry.prefix + entry.text
    if entry.kind == "bytes" or choice < 0.25:
        return edit_bytes(entry.prefix + entry.text, rng, texts)
    if entry.kind == "json":
        return entry.prefix + edit_json(entry.text, rng)
    if entry.kind == "lines":
        return edit_lines(entry.text, rng)
    return entry.prefix + _edited(entry, rng, target)


def _edited(entry: Entry, rng: Random, target: str) -> bytes:
    if entry.message is None:
        raise TypeError(f"an entry of the kind {entry.kind} has no message")
    message = entry.message()
    message.ParseFromString(entry.text)
    return edit_message(message, rng, _donors(target))


@cache
def entries_of(target: str) -> tuple[Entry, ...]:
    """The corpus of a target."""
    return tuple(_CORPORA[target](material()))


@cache
def _texts(target: str) -> tuple[bytes, ...]:
    return tuple(entry.prefix + entry.text for entry in entries_of(target))


@cache
def _donors(target: str) -> tuple[Message, ...]:
    made = []
    for entry in entries_of(target):
        if entry.message is not None:
            message = entry.message()
            message.ParseFromString(entry.text)
            made.append(message)
    return tuple(made)


def _message(message: Message, prefix: bytes = b"") -> Entry:
    return Entry(message.SerializeToString(deterministic=True), "message", type(message), prefix)


def _wire(of: Material) -> Sequence[Entry]:
    singles = [
        _message(peer_service_pb2.ExchangeRequest(messages=[wire.encode(message)])) for message in of.messages
    ]
    batch = peer_service_pb2.ExchangeRequest(messages=[wire.encode(message) for message in of.messages[-8:]])
    return [*singles, _message(batch)]


def _blocks(of: Material) -> Sequence[Entry]:
    pages = [
        log_pb2.CommittedBlock(
            block=codec.block_to_pb(block), certificate=codec.certificate_to_pb(certificate)
        )
        for block, certificate in of.blocks
    ]
    responses = [peer_service_pb2.FetchBlocksResponse(blocks=[page], height=9) for page in pages]
    return [_message(response) for response in responses]


def _stored(of: Material) -> Sequence[Entry]:
    texts = [(3, serial.serialize_sign_state(of.sign_state))]
    for block, certificate in of.blocks:
        texts += [
            (0, serial.serialize_block(block)),
            (1, serial.serialize_header(block.header)),
            (2, serial.serialize_certificate(certificate)),
        ]
    return [Entry(text, "message", STORED[kind], bytes([kind])) for kind, text in texts]


def _configs(of: Material) -> Sequence[Entry]:
    one = NodeConfig(id=NAMES[0], listen="127.0.0.1:7001")
    two = NodeConfig(
        id=NAMES[1],
        listen="[::1]:7002",
        policy=PolicySettings(kind="cel", file="policy.toml"),
        peers={NAMES[0]: "a.example:1", "node-9": "b.example:2"},
        joins=True,
        may_vote=("alice", "bob"),
    )
    return [Entry(format_config(config).encode()) for config in (one, two)]


def _tls(of: Material) -> Sequence[Entry]:
    uri = f"acp://{of.genesis.cluster_id.hex()}/node/node-1".encode()
    sans = [
        b"\0" + uri,
        b"\0localhost\n" + uri,
        b"\0" + uri.replace(b"/node/node-1", b"/admin/me") + b"\n::1",
    ]
    trusted = [b"\1" + AUTHORITY, b"\1" + AUTHORITY + b"between\n" + AUTHORITY]
    return [Entry(NODE), *map(Entry, sans), *map(Entry, trusted)]


def _sign_bytes(of: Material) -> Sequence[Entry]:
    cluster_id = of.genesis.cluster_id
    commands = [decode_command(text) for text in of.commands]
    texts = [
        command.sign_bytes(cluster_id) for command in commands if not isinstance(command, EvidenceCommand)
    ]
    state = of.sign_state
    for statement in (state.propose, state.prepare, state.commit):
        if statement is not None:
            texts.append(statement.sign_bytes(cluster_id))
    if state.timeout is not None:
        texts.append(state.timeout.timeout.sign_bytes(cluster_id))
    return [Entry(text) for text in texts]


def _requests(of: Material) -> Sequence[Entry]:
    made: list[Message] = [
        voting.ProposeRequest(
            request_id="r-1",
            action="quarantine",
            target="agent-7",
            evidence_json='{"score":0.97}',
            window_ms=5,
        ),
        voting.CastVoteRequest(
            request_id="r-2",
            proposal_id="prop-0001",
            value=model_pb2.VOTE_VALUE_APPROVE,
            reason="seen it too",
        ),
        voting.ExecuteRequest(
            request_id="r-3",
            proposal_id="prop-0001",
            outcome=model_pb2.EXECUTION_OUTCOME_FAILED,
            detail="done",
        ),
        voting.ListProposalsRequest(page_size=10, page_token=str(7), status=model_pb2.PROPOSAL_STATUS_OPEN),
        voting.GetHistoryRequest(voter_id="node-1", page_size=5),
        voting.GetBlocsRequest(threshold=0.5),
    ]
    return [_message(message, bytes([REQUESTS.index(type(message))])) for message in made]


def _answers(of: Material) -> Sequence[Entry]:
    members = [
        cluster_service_pb2.MemberInfo(
            id=member.id, address=member.address, public_key=member.public_key, weight=member.weight
        )
        for member in of.genesis.members.members
    ]
    status = cluster_service_pb2.GetStatusResponse(
        cluster_id=of.genesis.cluster_id,
        coordinator=NAMES[0],
        node_id=NAMES[1],
        n=4,
        f=1,
        members=[cluster_service_pb2.MemberStatus(id=name) for name in NAMES],
    )
    listed = cluster_service_pb2.ListMembersResponse(epoch=1, members=members)
    made = (*of.answers, status, listed)
    return [_message(message, bytes([ANSWERS.index(type(message))])) for message in made]


_CORPORA: Final[dict[str, Callable[[Material], Sequence[Entry]]]] = {
    "wire": _wire,
    "blocks": _blocks,
    "command": lambda of: [Entry(text, "message", log_pb2.Command) for text in of.commands],
    "stored": _stored,
    "journal": lambda of: [Entry(of.journal)],
    "genesis": lambda of: [Entry(of.genesis.raw, "json")],
    "config": _configs,
    "policy": lambda of: [Entry(_POLICY)],
    "scenario": lambda of: [Entry(_SCENARIO)],
    "membership": lambda of: [Entry(text, "json") for text in of.changes],
    "evidence-json": lambda of: [
        Entry(text, "json")
        for text in (b'{"score":0.97}', b'{"a":[1,{"b":null}],"c":"\xc3\xa9"}', of.evidence)
    ],
    "tls": _tls,
    "export": lambda of: [Entry(of.export, "lines")],
    "certificate": lambda of: [Entry(text, "json") for text in of.certificates],
    "evidence": lambda of: [Entry(of.evidence, "json")],
    "sign-bytes": _sign_bytes,
    "request": _requests,
    "answer": _answers,
}
"""A corpus for each target."""
