"""Commands: one serialisation for one meaning, limits named, signatures of the member that is named."""

from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.record_factory import dumps

from replication.consensus.model import VoteValue
from replication.identity.members import MemberSet
from replication.ledger import commands
from replication.ledger.commands import (
    BallotCommand,
    Command,
    CommandError,
    CoordinatorChangeCommand,
    EpochOverError,
    EvidenceCommand,
    MembershipCommand,
    ProposalCommand,
    ReceiptCommand,
    RejoinCommand,
    VoteItem,
    decode_command,
    encode_command,
    make_ballot,
    verify_command,
)
from replication.ordering.limits import MAX_COMMAND_BYTES
from replication.ordering.statements import Lock, Phase, Statement, StatementKey, Timeout
from replication.v1 import log_pb2

CLUSTER = LedgerCluster(4)
CLUSTER_ID = CLUSTER.cluster_id
MEMBERS = CLUSTER.genesis.members


def signed(member: str, unsigned: Any) -> Any:
    signature = CLUSTER.sign(member)(unsigned.sign_bytes(CLUSTER_ID))
    return replace(unsigned, signature=signature)


def statement(block: int, signer: str = "node-2", **key: Any) -> Statement:
    fields = {"phase": Phase.PREPARE, "epoch": 0, "view": 1, "height": 5, **key}
    return signed(signer, Statement(StatementKey(block_hash=bytes([block]) * 32, **fields), signer, b""))  # type: ignore[no-any-return]


PROPOSAL = CLUSTER.propose(
    "node-1", "terminate", evidence={"é": [1.5, None, {"x": 2**53 - 1}]}, window_ms=1, expiry_ms=2
)
CHANGE = {"change": "add", "member": CLUSTER.new_member("node-5")}

EXAMPLES: dict[str, bytes] = {
    "proposal": PROPOSAL,
    "ballot": CLUSTER.ballot(
        "node-2", [(PROPOSAL, "reject"), (CLUSTER.propose(), "abstain")], reason="ünsure"
    ),
    "close": CLUSTER.close("node-1", PROPOSAL),
    "receipt": CLUSTER.receipt("node-3", PROPOSAL, "partial", "two of three"),
    "coordinator": encode_command(
        signed("node-3", CoordinatorChangeCommand(0, 2, "node-3", bytes(range(32))))
    ),
    "evidence": encode_command(EvidenceCommand(statement(1), statement(2))),
    "timeouts": encode_command(
        EvidenceCommand(
            signed("node-2", Timeout(0, 3, 7, None, "node-2")),
            signed("node-2", Timeout(0, 3, 7, Lock(2, bytes(32)), "node-2")),
        )
    ),
    "membership": CLUSTER.membership("node-4", PROPOSAL, CHANGE),
    "rejoin": CLUSTER.rejoin("node-4", bytes(range(32))),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_command_survives_the_round_trip_and_verifies(kind: str) -> None:
    raw = EXAMPLES[kind]
    command = decode_command(raw)
    assert encode_command(command) == raw
    verify_command(command, CLUSTER_ID, MEMBERS)
    assert decode_command(raw) is command, "a second look is remembered"


def test_what_each_kind_says() -> None:
    proposal, ballot = decode_command(PROPOSAL), decode_command(EXAMPLES["ballot"])
    assert isinstance(proposal, ProposalCommand)
    assert isinstance(ballot, BallotCommand)
    assert proposal.evidence == dumps({"é": [1.5, None, {"x": 2**53 - 1}]})
    assert proposal.digest(CLUSTER_ID) == sha256(proposal.sign_bytes(CLUSTER_ID)).digest()
    assert proposal.digest(CLUSTER_ID) != proposal.digest(bytes(32)), "the digest binds the cluster"
    assert [vote.value for vote in ballot.votes] == [VoteValue.REJECT, VoteValue.ABSTAIN]
    assert [decode_command(EXAMPLES[kind]).author for kind in ("close", "receipt", "rejoin")] == [
        "node-1",
        "node-3",
        "node-4",
    ]
    assert decode_command(EXAMPLES["evidence"]).author == "evidence against node-2"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_changed_bit_is_refused_or_unsigned(kind: str) -> None:
    """A flipped bit gives something illegal, or a command that its author has not signed; nothing else."""
    raw = EXAMPLES[kind]
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        with pytest.raises(CommandError):
            verify_command(decode_command(bytes(changed)), CLUSTER_ID, MEMBERS)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_no_truncation_and_no_tail_is_legal(kind: str) -> None:
    raw = EXAMPLES[kind]
    for size in range(len(raw)):
        with pytest.raises(CommandError):
            verify_command(decode_command(raw[:size]), CLUSTER_ID, MEMBERS)
    for tail in (b"\x00", raw, b"\x52\x00", b"\x08\x01"):
        with pytest.raises(CommandError):
            verify_command(decode_command(raw + tail), CLUSTER_ID, MEMBERS)


def test_random_bytes_raise_nothing_else() -> None:
    generator = random.Random(7)
    for _ in range(3000):
        raw = generator.randbytes(generator.randrange(200))
        with pytest.raises(CommandError):
            decode_command(raw)


def test_unknown_fields_are_refused() -> None:
    message = log_pb2.Command()
    message.ParseFromString(EXAMPLES["close"])
    inner = message.close.SerializeToString(deterministic=True) + b"\xf8\x06\x01"
    raw = b"\x1a" + bytes([len(inner) & 127 | 128, len(inner) >> 7]) + inner
    with pytest.raises(CommandError, match="deterministic serialisation"):
        decode_command(raw)


def proposal(**fields: Any) -> ProposalCommand:
    command = decode_command(PROPOSAL)
    assert isinstance(command, ProposalCommand)
    return replace(command, **fields)


def ballot(*votes: VoteItem) -> BallotCommand:
    return BallotCommand(0, "node-1", votes, bytes(64))


VOTE = VoteItem(bytes(32), VoteValue.APPROVE)

MALFORMED: list[tuple[Command, str]] = [
    (proposal(epoch=2**53), "epoch must be in 0..9007199254740991"),
    (proposal(proposer="no spaces"), "proposer must be a member's identifier"),
    (proposal(proposer=".."), "proposer must be a member's identifier"),
    (proposal(request_id=""), "request_id must be 1 to 64 characters"),
    (proposal(action=""), "action must have 1 to 1024 bytes, not 0"),
    (proposal(action="ä" * 513), "action must have 1 to 1024 bytes, not 1026"),
    (proposal(target="x" * 1025), "target must have 0 to 1024 bytes, not 1025"),
    (proposal(evidence=b""), "evidence_json must have 1 to 65536 bytes, not 0"),
    (proposal(evidence=b"[1]"), "evidence must be a JSON object"),
    (proposal(evidence=b'{"a": 1}'), "evidence must be canonical JSON"),
    (proposal(evidence=b'{"b":1,"a":1}'), "evidence must be canonical JSON"),
    (proposal(evidence=b'{"a":1,"a":1}'), "evidence must be canonical JSON"),
    (proposal(evidence=b'{"a":1.0}'), "evidence must be canonical JSON"),
    (proposal(evidence=b'{"a":9007199254740993}'), "evidence must be canonical JSON"),
    (proposal(evidence=b'{"a":NaN}'), "NaN is not JSON"),
    (proposal(evidence=b'{"a":'), "evidence must be JSON"),
    (proposal(evidence=b'{"a":' * 40 + b"1" + b"}" * 40), "nested more than 32 deep"),
    (proposal(evidence=b'{"a":' * 9000 + b"1" + b"}" * 9000), "nested"),
    (proposal(evidence=dumps({"a": "x" * 65536})), "evidence_json must have 1 to 65536 bytes"),
    (proposal(window_ms=2**53), "window_ms must be in 0.."),
    (proposal(signature=bytes(63)), "signature must have 64 bytes, not 63"),
    (ballot(), "votes must have 1 to 1024 items, not 0"),
    (ballot(*(replace(VOTE, proposal_digest=i.to_bytes(32, "big")) for i in range(1025))), "not 1025"),
    (ballot(VOTE, replace(VOTE, value=VoteValue.REJECT)), "votes must be on different proposals"),
    (ballot(replace(VOTE, proposal_digest=bytes(31))), "votes.proposal_digest must have 32 bytes, not 31"),
    (ballot(replace(VOTE, reason="x" * 1025)), "votes.reason must have 0 to 1024 bytes, not 1025"),
    (
        ReceiptCommand(0, "node-1", bytes(32), "failed", "x" * 1025, 1, bytes(64)),
        "detail must have 0 to 1024",
    ),
    (RejoinCommand(0, "node-1", b"", bytes(64)), "nonce must have 32 bytes, not 0"),
    (MembershipCommand(0, "node-1", b"{}", bytes(32), bytes(64)), "change must be one of"),
    (MembershipCommand(0, "node-1", b'{"change":"flip"}', bytes(32), bytes(64)), "change must be one of"),
    (
        MembershipCommand(0, "node-1", b'{"change":"remove","id":"a","x":1}', bytes(32), bytes(64)),
        "has exactly the keys change, id",
    ),
    (
        MembershipCommand(
            0, "node-1", dumps({"change": "rejoin", "id": "a", "nonce": "00" * 32}), bytes(32), bytes(64)
        ),
        "a member rejoins by a command of its own",
    ),
    (
        MembershipCommand(
            0, "node-1", dumps({"change": "reweight", "id": "a", "weight": 0}), bytes(32), bytes(64)
        ),
        "weight of member a must be a whole number from 1",
    ),
]


@pytest.mark.parametrize(("command", "message"), MALFORMED, ids=[message for _, message in MALFORMED])
def test_malformed_commands(command: Command, message: str) -> None:
    with pytest.raises(CommandError, match=message) as caught:
        decode_command(encode_command(command))
    assert caught.value.reason == "COMMAND_INVALID"


def test_enumerations_are_closed() -> None:
    message = log_pb2.Command()
    message.ParseFromString(EXAMPLES["receipt"])
    message.receipt.outcome = 9  # type: ignore[assignment]
    with pytest.raises(CommandError, match="outcome 9 is not known"):
        decode_command(message.SerializeToString(deterministic=True))
    message.ParseFromString(EXAMPLES["ballot"])
    message.ballot.votes[0].value = 0  # type: ignore[assignment]
    with pytest.raises(CommandError, match=r"votes\.value 0 is not known"):
        decode_command(message.SerializeToString(deterministic=True))


def test_sizes_are_checked_before_anything_is_parsed() -> None:
    for raw in (b"", bytes(MAX_COMMAND_BYTES + 1)):
        with pytest.raises(CommandError, match=f"1 to {MAX_COMMAND_BYTES} bytes, not {len(raw)}"):
            decode_command(raw)


def test_the_largest_legal_ones_fit() -> None:
    evidence = {"a": "x" * (65536 - len(dumps({"a": ""})))}
    decode_command(CLUSTER.propose("node-1", "x" * 1024, evidence=evidence, target="y" * 1024))
    votes = [VoteItem(i.to_bytes(32, "big"), VoteValue.APPROVE, reason="x" * 180) for i in range(1024)]
    raw = make_ballot(CLUSTER.sign("node-1"), CLUSTER_ID, 0, voter="node-1", votes=votes)
    verify_command(decode_command(raw), CLUSTER_ID, MEMBERS)


# ------------------------------------------------------------------------------------------ who signed it


@pytest.mark.parametrize("kind", EXAMPLES)
def test_another_cluster_or_epoch(kind: str) -> None:
    command = decode_command(EXAMPLES[kind])
    with pytest.raises(CommandError, match=r"signature|signed"):
        verify_command(command, bytes(32), MEMBERS)
    later = MemberSet(1, MEMBERS.members)
    with pytest.raises(EpochOverError, match="for epoch 0, and the members are those of epoch 1") as caught:
        verify_command(command, CLUSTER_ID, later)
    assert caught.value.reason == "EPOCH_OVER"


@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if kind not in ("evidence", "timeouts")])
def test_only_members_with_their_own_key(kind: str) -> None:
    command = decode_command(EXAMPLES[kind])
    others = tuple(member for member in MEMBERS.members if member.id != command.author)
    with pytest.raises(CommandError, match=r"is not (a|an executor or) member in epoch 0"):
        verify_command(command, CLUSTER_ID, MemberSet(0, others))
    first, second = MEMBERS.members[0].public_key, MEMBERS.members[1].public_key
    swapped = {first: second, second: first}
    mixed = [
        replace(item, public_key=swapped.get(item.public_key, item.public_key)) for item in MEMBERS.members
    ]
    if command.author in ("node-1", "node-2"):
        with pytest.raises(CommandError, match="does not verify"):
            verify_command(command, CLUSTER_ID, MemberSet(0, tuple(mixed)))


def test_only_the_coordinator_opens_its_view() -> None:
    for view, member in ((2, "node-2"), (0, "node-1")):
        command = signed(member, CoordinatorChangeCommand(0, view, member, bytes(32)))
        with pytest.raises(CommandError, match=f"{member} cannot open view {view}"):
            verify_command(command, CLUSTER_ID, MEMBERS)


CONTRADICTIONS = [
    (statement(1), statement(1), "do not contradict"),
    (statement(1), statement(2, view=2), "do not contradict"),
    (statement(1), statement(2, height=6), "do not contradict"),
    (statement(1), statement(2, phase=Phase.COMMIT), "do not contradict"),
    (statement(1), statement(2, signer="node-3"), "do not contradict"),
    (statement(1), replace(statement(2), signature=bytes(64)), "not signed by node-2"),
    (replace(statement(1), signature=bytes(64)), statement(2), "not signed by node-2"),
]


@pytest.mark.parametrize(("first", "second", "message"), CONTRADICTIONS)
def test_evidence_that_is_none(first: Statement, second: Statement, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        verify_command(EvidenceCommand(first, second), CLUSTER_ID, MEMBERS)


def test_evidence_against_strangers() -> None:
    others = tuple(member for member in MEMBERS.members if member.id != "node-2")
    with pytest.raises(CommandError, match="against node-2, which is not a member"):
        verify_command(EvidenceCommand(statement(1), statement(2)), CLUSTER_ID, MemberSet(0, others))


def test_the_memory_of_commands_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from replication.ledger import command_codec

    monkeypatch.setattr(command_codec, "_CACHE_BYTES", 20_000)
    cache = command_codec._Cache()
    monkeypatch.setattr(command_codec, "_cache", cache)
    raws = [CLUSTER.propose("node-1", f"action-{index}") for index in range(200)]
    for raw in raws:
        commands.decode_command(raw)
    assert cache.get(raws[-1]) is not None
    assert cache.get(raws[0]) is None
    assert 0 < cache._size <= 20_000
