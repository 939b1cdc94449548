"""Forged chains: false commits, headers, entries, genesis blocks and outer lines.

The forger is stronger than any the cluster has to survive: unless a test says otherwise it holds *all* keys
for the commits, so that nothing but the guard in question stands between the lie and a clean report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.record_factory import (
    DraftEntry,
    RecordFactory,
    SealedRecord,
    approved,
    dumps,
    opened,
    rich_record,
    small_record,
)

from replication.ledger.verify import VerificationError, verify_export

OTHER_CLUSTER = bytes(range(32))


def verify(made: RecordFactory | SealedRecord) -> None:
    record = made.seal() if isinstance(made, RecordFactory) else made
    verify_export(record.lines(), record.genesis)


def refused(made: RecordFactory | SealedRecord, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify(made)
    assert caught.value.where.startswith("line "), str(caught.value)
    assert caught.value.reason == "VERIFICATION_FAILED"


# ---------------------------------------------------------------------------------------------------- commits


Commit = dict[str, Any]


def last_commit(change: Callable[[RecordFactory, SealedRecord, Commit], Commit | None]) -> SealedRecord:
    """A good record whose last commit certificate was put through `change`."""
    factory, _ = approved()
    record = factory.seal()
    certificate = record.blocks[-1].certificate
    assert certificate is not None
    record.blocks[-1].certificate = change(factory, record, certificate)
    return record


def signed_by(*signers: str, **options: Any) -> Callable[[RecordFactory, SealedRecord, Commit], Commit]:
    return lambda factory, record, _: factory.commit(record.blocks[-1].header, signers=signers, **options)


def changed(**values: object) -> Callable[[RecordFactory, SealedRecord, Commit], Commit]:
    return lambda _, __, certificate: {**certificate, **values}


def mixed_views(factory: RecordFactory, record: SealedRecord, certificate: Commit) -> Commit:
    other = factory.commit(record.blocks[-1].header, view=1)
    return {**certificate, "signatures": certificate["signatures"][:2] + other["signatures"][2:]}


def other_cluster(factory: RecordFactory, record: SealedRecord, certificate: Commit) -> Commit:
    header = {**record.blocks[-1].header, "cluster_id": OTHER_CLUSTER.hex()}
    return {**certificate, "signatures": factory.commit(header)["signatures"]}


def other_height(factory: RecordFactory, record: SealedRecord, certificate: Commit) -> Commit:
    header = {**record.blocks[-1].header, "height": 7}
    return {**certificate, "signatures": factory.commit(header)["signatures"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (signed_by("node-1", "node-2"), "has 2, but 3 of 4 members must sign"),
        (signed_by(), "has 0, but 3 of 4 members must sign"),
        (signed_by("node-1", "node-2", "node-2"), r"signatures\[2\].signer node-2 is there twice"),
        (signed_by("node-1", "node-1", "node-2", "node-3"), r"signatures\[1\].signer node-1 is there twice"),
        (signed_by("node-1", "node-3", "node-2"), r"signatures\[2\].signer node-2 .*not in the order"),
        (signed_by("node-1", "node-2", "node-9"), r"signatures\[2\].signer 'node-9' is not a member"),
        (
            signed_by("node-1", "node-2", "node-3", "node-9"),
            r"signatures\[3\].signer 'node-9' is not a member",
        ),
        (
            signed_by("node-1", "node-2", "node-3", keys={"node-3": "node-2"}),
            r"signatures\[2\].signature is not a signature of node-3",
        ),
        (
            signed_by("node-1", "node-2", "node-3", "node-4", keys={"node-4": "x"}),
            r"signatures\[3\].signature is not a signature of node-4",
        ),
        (signed_by("node-1", "node-2", "node-3", phase="prepare"), "is not a signature of node-1"),
        (signed_by("node-1", "node-2", "node-3", phase="propose"), "is not a signature of node-1"),
        (changed(phase="prepare"), 'certificate.phase is "prepare"'),
        (changed(view=1), "is not a signature of node-1"),
        (changed(view=-1), "certificate.view must be an integer"),
        (changed(epoch=1), "certificate.epoch is 1, but the header says 0"),
        (changed(epoch=False), "certificate.epoch is false"),
        (changed(height=2), "certificate.height is 2"),
        (changed(block_hash="00" * 32), "certificate.block_hash is"),
        (changed(signatures={}), "certificate.signatures must be an array"),
        (changed(signatures=[1, 2, 3]), r"certificate.signatures\[0\] must be an object"),
        (changed(extra=1), 'unknown "extra" of certificate'),
        (lambda *_: None, "certificate must be an object"),
        (mixed_views, r"signatures\[2\].signature is not a signature of node-3"),
        (other_cluster, "is not a signature of node-1"),
        (other_height, "is not a signature of node-1"),
    ],
)
def test_a_bad_commit_certificate(
    change: Callable[[RecordFactory, SealedRecord, Commit], Commit | None], message: str
) -> None:
    refused(last_commit(change), rf"^line 4, block 1: .*{message}")


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_f_members_cannot_write_a_record_of_their_own(n: int) -> None:
    """With f keys, all hashes recomputed, and any number of repetitions."""
    factory, _ = approved(n)
    captured = factory.ids[: factory.f]
    factory.blocks[1].signers = captured
    refused(factory, rf"has {factory.f}, but {(n + factory.f) // 2 + 1} of {n} members must sign")
    factory.blocks[1].signers = captured * n
    refused(factory, "is there twice")
    factory.blocks[1].signers = factory.ids[: (n + factory.f) // 2]
    refused(factory, f"of {n} members must sign")
    factory.blocks[1].signers = factory.ids[: (n + factory.f) // 2 + 1]
    verify(factory)


@pytest.mark.parametrize(
    ("n", "quorum"),
    [
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 3),
        (5, 4),
        (6, 4),
        (7, 5),
        (8, 6),
        (9, 6),
        (10, 7),
        (11, 8),
        (12, 8),
        (13, 9),
    ],
)
def test_the_commit_quorum_of_each_size(n: int, quorum: int) -> None:
    factory = RecordFactory(n)
    factory.block(commands=[b"void"]).signers = factory.ids[-quorum:]
    verify(factory)
    factory.blocks[1].signers = factory.ids[-quorum:][1:]
    refused(factory, f"has {quorum - 1}, but {quorum} of {n} members must sign")


# --------------------------------------------------------------------------------------------- other clusters


def test_a_record_of_another_cluster() -> None:
    record = small_record().seal()
    other = RecordFactory(4, seed=1)
    with pytest.raises(VerificationError, match=r"^line 1: cluster_id is .* the genesis file makes it"):
        verify_export(record.lines(), other.genesis)


def test_a_record_of_another_cluster_with_a_new_first_line() -> None:
    record = small_record().seal()
    other = RecordFactory(4, seed=1)
    first = record.objects()[0]
    first["cluster_id"] = other.cluster_id.hex()
    with pytest.raises(VerificationError, match=r"^line 2, block 0: header.cluster_id is"):
        verify_export([dumps(first) + b"\n", *record.lines()[1:]], other.genesis)


def test_statements_signed_for_another_cluster() -> None:
    factory = RecordFactory(4)
    factory.block()
    factory.propose("node-1", cluster_id=OTHER_CLUSTER)
    refused(factory, "data.digest is")
    factory, proposal = opened()
    factory.vote(proposal, "node-1", cluster_id=OTHER_CLUSTER)
    refused(factory, "data.ballot.signature is not a signature of node-1")


def test_statements_signed_for_another_epoch() -> None:
    factory = RecordFactory(4)
    factory.block()
    factory.propose("node-1", epoch=1)
    refused(factory, "epoch 1 has not begun: nothing has ended epoch 0")
    factory, proposal = opened()
    vote = factory.vote(proposal, "node-1", epoch=1)
    refused(factory, "epoch 1 has not begun")
    vote.data["epoch"] = 0
    refused(factory, "data.ballot.signature is not a signature of node-1")


# -------------------------------------------------------------------------------------------------- the chain


@pytest.mark.parametrize(
    ("lies", "message"),
    [
        ({"height": 3}, "header.height is 3, but the block before is 1"),
        ({"parent": "00" * 32}, "header.parent is not the hash of block 1"),
        ({"epoch": 1}, "header.epoch is 1, but nothing has ended epoch 0"),
        ({"audit_size": 6}, "header.audit_size 6 is below the parent's 7"),
        ({"audit_size": 8}, 'type is not "entry", which must stand before audit_size 8 is reached, at 7'),
        ({"audit_head": "00" * 32}, "header.audit_head is not the hash of the last entry"),
        ({"entries_root": "00" * 32}, "header.entries_root is not the root over this block's entries"),
        ({"cluster_id": OTHER_CLUSTER.hex()}, "header.cluster_id is"),
    ],
)
def test_a_false_header(lies: dict[str, object], message: str) -> None:
    factory, _ = approved()
    factory.block(commands=[b"void"]).lies = lies
    refused(factory, rf"^line \d+, block 2: {message}")


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"epoch": False}, "header.epoch must be an integer"),
        ({"height": 1.5}, "header.height must be an integer"),
        ({"time_ms": 10**15}, r"header.time_ms must be an integer in 0\.\.253402300799999"),
        ({"audit_size": 0}, r"header.audit_size must be an integer in 1\.\."),
        ({"parent": None}, "header.parent must be 64 lower-case hex digits"),
        ({"commands_root": "AA" * 32}, "header.commands_root must be 64 lower-case hex digits"),
        ({"view": 0}, 'unknown "view" of header'),
    ],
)
def test_a_header_of_another_shape(lie: dict[str, object], message: str) -> None:
    record = small_record().seal()
    objects = record.objects()
    objects[19]["header"].update(lie)
    with pytest.raises(VerificationError, match=rf"^line 20, block 4: {message}"):
        verify_export([dumps(item) + b"\n" for item in objects], record.genesis)


@pytest.mark.parametrize("after_ms", [0, -1, -1000])
def test_block_time_must_grow(after_ms: int) -> None:
    factory, _ = approved()
    factory.block(after_ms, commands=[b"void"])
    refused(factory, r"block 2: header.time_ms \d+ is not after the parent's")


def test_a_block_hash_that_is_not_the_headers() -> None:
    factory, _ = approved()
    record = factory.seal()
    record.blocks[-1].hash = "00" * 32
    refused(record, r"^line 4, block 1: hash is \"0{64}\", but the header's fields give")


def test_a_block_left_out() -> None:
    factory = small_record()
    factory.block(commands=[b"void"])
    record = factory.seal()
    del record.blocks[4]
    refused(record, "block 4: header.height is 5, but the block before is 3")


def test_more_blocks_than_the_first_line_says() -> None:
    factory = small_record()
    factory.block(commands=[b"void"])
    longer, shorter = factory.seal().lines(), None
    factory.blocks.pop()
    shorter = factory.seal().lines()
    with pytest.raises(
        VerificationError, match='block 4: type is not "end", which must stand after height 4'
    ):
        verify_export([shorter[0], *longer[1:]], factory.genesis)
    with pytest.raises(
        VerificationError, match='block 5: type is not "block", which must stand after the last'
    ):
        verify_export([longer[0], *shorter[1:]], factory.genesis)


@pytest.mark.parametrize(
    ("lies", "message"),
    [
        ({"sequence": 7}, "sequence is 7, but the next one is 2"),
        ({"sequence": 1}, "sequence is 1, but the next one is 2"),
        ({"timestamp": 1_750_000_002}, "timestamp is 1750000002, but the block's time is 1750000001"),
        ({"timestamp": 1_750_000_001.5}, "timestamp is 1750000001.5, but"),
        ({"timestamp": True}, "timestamp must be seconds"),
        ({"timestamp": "1750000001"}, "timestamp must be seconds"),
        ({"timestamp": -1}, "timestamp must be seconds"),
        ({"timestamp": 10**12}, "timestamp must be seconds"),
        ({"prev_hash": "00" * 32}, "prev_hash is not the hash of the entry before"),
        ({"prev_hash": ""}, "prev_hash must be 64 lower-case hex digits"),
        ({"prev_hash": 1}, "prev_hash must be a string"),
        ({"proposal_id": 1}, "proposal_id must be a string"),
        ({"actor_id": None}, "actor_id must be a string"),
        ({"event_type": 5}, "event_type must be a string"),
        ({"data": []}, "data must be an object"),
        ({"more": 1}, 'unknown "more"'),
    ],
)
def test_a_false_entry(lies: dict[str, object], message: str) -> None:
    factory, proposal = opened()
    factory.vote(proposal, "node-1").lies = lies
    refused(factory, rf"^line 6, block 1.*: {message}")


def test_an_entry_whose_hash_is_not_that_of_its_fields() -> None:
    record = small_record().seal()
    record.blocks[1].entries[0]["actor_id"] = "node-2"
    refused(record, r"^line 5, block 1: hash is not that of its fields")


def independent(one: DraftEntry, other: DraftEntry) -> bool:
    """Whether two commands mean the same in either order."""
    types = [one.event_type, other.event_type]
    if any(
        entry.event_type in ("tally", "expired") and entry.actor_id == "cluster" for entry in (one, other)
    ):
        return False
    return types in (["vote", "vote"], ["execute", "execute"]) or (
        one.proposal_id != other.proposal_id and types != ["propose", "propose"]
    )


def test_reordered_entries() -> None:
    """Any two neighbours of a block swapped, all hashes recomputed; only independent commands may do so."""
    factory = rich_record(4)
    swaps = 0
    for block in factory.blocks[1:]:
        entries = block.entries
        for index in range(len(entries) - 1):
            pair = entries[index : index + 2]
            if independent(*pair):
                continue
            entries[index : index + 2] = reversed(pair)
            refused(factory, r"^line \d+, block \d+")
            entries[index : index + 2] = pair
            swaps += 1
    assert swaps > 20
    verify(factory)


# ---------------------------------------------------------------------------------------------------- genesis


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.blocks[0].lies.update(parent="11" * 32), "height 0 with a parent of zeros"),
        (lambda f: f.blocks[0].lies.update(height=1), "height 0 with a parent of zeros"),
        (lambda f: f.blocks[0].lies.update(epoch=1), "header.epoch is 1, but a record begins in epoch 0"),
        (lambda f: f.blocks[0].lies.update(time_ms=1), r"header.time_ms is 1, but genesis is of \d+"),
        (lambda f: f.blocks[0].commands.append(b"x"), "must hold no commands and one entry"),
        (lambda f: f.blocks[0].entries.append(f.blocks[0].entries[0]), "must hold no commands and one entry"),
        (lambda f: f.blocks[0].lies.update(audit_head="00" * 32), "audit_head is not the hash"),
        (lambda f: f.blocks[0].lies.update(entries_root="00" * 32), "entries_root is not the root"),
    ],
)
def test_a_false_genesis_block(change: Callable[[RecordFactory], None], message: str) -> None:
    factory = RecordFactory(4)
    change(factory)
    refused(factory, rf"^line \d, block 0.*{message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: setattr(e, "event_type", "propose"), "entry 0 must be the genesis event"),
        (lambda e: setattr(e, "actor_id", "node-1"), "entry 0 must be the genesis event"),
        (lambda e: setattr(e, "proposal_id", "prop-0000"), "entry 0 must be the genesis event"),
        (lambda e: e.lies.update(sequence=1, prev_hash="00" * 32), "sequence is 1, but the next one is 0"),
        (lambda e: e.lies.update(prev_hash="00" * 32), "prev_hash is not the hash of the entry before"),
        (lambda e: e.lies.update(prev_hash="x"), "prev_hash must be 64 lower-case hex digits"),
        (lambda e: e.lies.update(timestamp=1), "timestamp is 1, but the block's time is"),
        (lambda e: e.data.update(cluster_id="00" * 32), "data.cluster_id is"),
        (lambda e: e.data.update(epoch=1), "data.epoch is 1"),
        (lambda e: e.data.update(epoch=False), "data.epoch is false"),
        (lambda e: e.data.update(more=1), 'unknown "more" of data'),
        (lambda e: e.data["members"].pop(), "data.members is"),
        (lambda e: e.data["members"].reverse(), "data.members is"),
        (lambda e: e.data["members"][0].update(weight=2), "data.members is"),
        (lambda e: e.data["members"][0].update(weight=True), "data.members is"),
        (lambda e: e.data["members"][0].update(public_key="00" * 32), "data.members is"),
    ],
)
def test_a_false_genesis_entry(change: Callable[[DraftEntry], None], message: str) -> None:
    factory = RecordFactory(4)
    change(factory.blocks[0].entries[0])
    refused(factory, rf"^line 3, block 0.*{message}")


def test_a_genesis_block_with_a_certificate() -> None:
    factory = RecordFactory(4)
    record = factory.seal()
    record.blocks[0].certificate = factory.commit(record.blocks[0].header)
    refused(record, r"^line 2, block 0: certificate is .*, but the genesis block has null")


# -------------------------------------------------------------------------------------------- the outer lines


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, {"type": "block"}, 'type is not "audit-export", which must stand on the first line'),
        (
            0,
            {"format": "agent-consensus/audit/2"},
            'format is .*, but this verifier reads "agent-consensus/audit/1"',
        ),
        (0, {"height": 5}, 'type is not "block", which must stand after the last entry of a block'),
        (0, {"height": 3}, 'type is not "end", which must stand after height 3, the last one'),
        (0, {"height": -1}, "height must be an integer"),
        (0, {"audit_size": 15}, "the first line says audit_size 15, not 14"),
        (0, {"audit_size": True}, "audit_size must be an integer"),
        (0, {"more": 1}, 'unknown "more"'),
        (1, {"type": "entry"}, 'type is not "block", which must stand after the last entry of a block'),
        (1, {"hash": "00" * 32}, "hash is"),
        (1, {"more": 1}, 'unknown "more"'),
        (2, {"type": "block"}, 'type is not "entry", which must stand before audit_size 1 is reached, at 0'),
        (2, {"more": 1}, 'unknown "more"'),
        (-1, {"type": "entry"}, 'type is not "end", which must stand after height 4, the last one'),
        (-1, {"height": 3}, "height is 3, but the last block's is 4"),
        (-1, {"audit_size": 13}, "audit_size is 13, but the last block's is 14"),
        (-1, {"audit_head": "00" * 32}, "audit_head is"),
        (-1, {"block_hash": "00" * 32}, "block_hash is"),
        (-1, {"more": 1}, 'unknown "more"'),
    ],
)
def test_false_outer_lines(index: int, change: dict[str, object], message: str) -> None:
    record = small_record().seal()
    objects = record.objects()
    objects[index].update(change)
    with pytest.raises(VerificationError, match=rf"^line \d+.*: .*({message})"):
        verify_export([dumps(item) + b"\n" for item in objects], record.genesis)


def test_nothing_at_all() -> None:
    with pytest.raises(VerificationError, match="line 0: the export ends here without its end line"):
        verify_export([], RecordFactory(4).genesis)
