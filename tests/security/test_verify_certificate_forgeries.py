"""Forged decision certificates. Unless a test says otherwise, the forger holds all keys for the commits."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from tests.support.record_factory import RecordFactory, dumps, entry_hash, opened, rich_record, small_record

from replication.identity.genesis import Genesis, Rules
from replication.identity.merkle import inclusion_path
from replication.ledger.verify import CertificateReport, VerificationError, verify_certificate

Json = dict[str, Any]
CHANGES = Rules(default_window_ms=0, allow_vote_change=True)


def verify(certificate: Json, genesis: Genesis) -> CertificateReport:
    return verify_certificate(dumps(certificate) + b"\n", genesis)


def refused(certificate: Json, genesis: Genesis, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        verify(certificate, genesis)
    assert str(caught.value).startswith("certificate")


def made(factory: RecordFactory, proposal_id: str = "prop-0001") -> Json:
    return factory.seal().certificate(proposal_id)


def rehash(entry: Json) -> None:
    entry["hash"] = entry_hash(entry)


def decided(n: int = 4) -> RecordFactory:
    """One proposal, votes in two blocks, approved in the second, with another event after the tally."""
    factory, proposal = opened(n)
    other = factory.propose("node-2")
    factory.vote(proposal, "node-1")
    factory.vote(proposal, "node-2")
    factory.block()
    for voter in factory.ids[2:]:
        factory.vote(proposal, voter)
        factory.vote(other, voter, "abstain")
    factory.tally(proposal, "approved")
    factory.tally(other, "no_quorum")
    return factory


def test_the_model_of_these_forgeries_is_good() -> None:
    factory = decided()
    report = verify(made(factory), factory.genesis)
    assert report.authorises
    assert report.signers == tuple(factory.ids)


# ------------------------------------------------------------------------------------------- the outer object


@pytest.mark.parametrize(
    "key", ["format", "cluster_id", "proposal", "votes", "tally", "inclusion", "header", "commit"]
)
def test_each_part_must_be_there(key: str) -> None:
    factory = decided()
    certificate = made(factory)
    original = certificate.pop(key)
    refused(certificate, factory.genesis, f"missing {key}")
    wrongs: tuple[object, ...] = (None, 1, "x", [], {}, [original])
    for wrong in wrongs:
        refused({**certificate, key: wrong}, factory.genesis, "^certificate")


def test_nothing_else_may_be_there() -> None:
    factory = decided()
    refused({**made(factory), "note": "trust me"}, factory.genesis, 'unknown "note"')
    for part in ("header", "commit", "inclusion", "tally", "proposal"):
        certificate = made(factory)
        certificate[part]["zz"] = 1
        refused(certificate, factory.genesis, 'unknown "zz"')


def test_another_format_or_cluster() -> None:
    factory = decided()
    refused({**made(factory), "format": "agent-consensus/certificate/2"}, factory.genesis, "format is")
    refused({**made(factory), "cluster_id": "00" * 32}, factory.genesis, "cluster_id is")
    other = RecordFactory(4, seed=1)
    refused(made(factory), other.genesis, "^certificate: cluster_id is")
    certificate = {**made(factory), "cluster_id": other.cluster_id.hex()}
    refused(certificate, other.genesis, "^certificate: header.cluster_id is")
    certificate["header"]["cluster_id"] = other.cluster_id.hex()
    refused(certificate, other.genesis, "^certificate: certificate.block_hash is")
    certificate["commit"] = factory.commit(certificate["header"])
    refused(certificate, other.genesis, "is not a signature of node-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "does not end with a newline"),
        (b"\n", "not readable as JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "missing cluster_id, commit, format"),
        (b"{}", "does not end with a newline"),
        (b"{ }\n", "not in canonical form"),
        (b'{"a":1,"a":1}\n', "not in canonical form"),
        (b'{"a":1.0}\n', "not in canonical form"),
        (b'{"a":NaN}\n', "not readable as JSON"),
        (b'{"a":' + b"9" * 5000 + b"}\n", "not readable as JSON"),
        (b'{"a":9007199254740993}\n', "not in canonical form"),
        (b'{"a":1e999}\n', "not readable as JSON"),
        (b'{"a":"\xff"}\n', "not readable as JSON"),
        (b'{"a":"\\ud800"}\n', "not readable as JSON"),
        (b'\xef\xbb\xbf{"a":1}\n', "not readable as JSON"),
        (b"[" * 100_000 + b"\n", "not readable as JSON"),
        (b'{"a":' * 90 + b"1" + b"}" * 90 + b"\n", "not readable as JSON"),
        (b'{"a":"' + b"a" * (4 << 20) + b'"}\n', "longer than 4194304 bytes"),
        ('{"a":"\ud800"}\n', "not readable as UTF-8"),
    ],
)
def test_what_is_no_certificate_at_all(text: bytes | str, message: str) -> None:
    with pytest.raises(VerificationError, match=f"^certificate: {message}"):
        verify_certificate(text, RecordFactory(1).genesis)


def test_text_is_as_good_as_bytes() -> None:
    factory = decided()
    assert verify_certificate(dumps(made(factory)).decode() + "\n", factory.genesis).authorises


# ------------------------------------------------------------------------------------------------ the commit


def test_a_commit_of_too_few_of_the_wrong_or_in_another_phase() -> None:
    factory = decided()
    certificate = made(factory)
    header = certificate["header"]
    good = certificate["commit"]["signatures"]
    prepared = factory.commit(header, phase="prepare")["signatures"]
    for signatures, message in (
        (good[:2], "has 2, but 3 of 4 members must sign"),
        ([good[0], good[1], good[1]], "node-2 is there twice"),
        ([good[1], good[0], good[2]], "node-1 is there twice, or not in the order"),
        (factory.commit(header, signers=["node-1", "node-2", "x"])["signatures"], "'x' is not a member"),
        (prepared, "is not a signature of node-1"),
        ([*good[:2], *prepared[2:]], "is not a signature of node-3"),
        ([*good[:3], {**good[3], "signature": good[0]["signature"]}], "is not a signature of node-4"),
        ([*good[:2], *factory.commit(header, view=1)["signatures"][2:]], "is not a signature of node-3"),
    ):
        certificate["commit"] = {**certificate["commit"], "signatures": signatures}
        refused(certificate, factory.genesis, message)
    certificate["commit"] = None
    refused(certificate, factory.genesis, "certificate must be an object")


def test_a_header_that_was_not_committed() -> None:
    factory = decided()
    for field, lie in (
        ("height", 9),
        ("epoch", 1),
        ("time_ms", 5),
        ("parent", "00" * 32),
        ("commands_root", "00" * 32),
        ("entries_root", "00" * 32),
        ("audit_size", 99),
        ("audit_head", "00" * 32),
    ):
        certificate = made(factory)
        certificate["header"][field] = lie
        refused(certificate, factory.genesis, "certificate.(block_hash|height) is|epoch 1 has not begun")


# --------------------------------------------------------------------------------------------- the inclusion


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": 3}, "does not lead from the tally entry to header.entries_root|inclusion.path"),
        ({"index": 6}, "inclusion.index must be an integer in 0..5"),
        ({"index": True}, "inclusion.index must be an integer"),
        ({"size": 5}, "does not lead|inclusion.path"),
        ({"size": 0}, "inclusion.size must be an integer in 1.."),
        ({"size": 12}, "inclusion.size must be an integer in 1..11"),
        ({"path": []}, "inclusion.path: a path of 0 hashes is too short"),
        ({"path": ["00" * 32] * 3}, "inclusion"),
        ({"path": ["zz"]}, r"inclusion.path\[0\] must be 64 lower-case hex digits"),
        ({"path": {}}, "inclusion.path must be an array"),
    ],
)
def test_a_tally_that_is_not_in_the_block(change: Json, message: str) -> None:
    factory = decided()
    certificate = made(factory)
    assert (certificate["inclusion"]["size"], certificate["header"]["audit_size"]) == (6, 11)
    certificate["inclusion"].update(change)
    refused(certificate, factory.genesis, message)


def test_a_tally_made_up_beside_the_committed_one() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter, "reject")
    factory.tally(proposal, "rejected")
    certificate = made(factory)
    certificate["tally"]["data"]["decision"] = "approved"
    refused(certificate, factory.genesis, "^certificate, tally: hash is not that of its fields")
    rehash(certificate["tally"])
    refused(
        certificate, factory.genesis, "inclusion does not lead from the tally entry to header.entries_root"
    )


def test_an_entry_of_the_block_that_is_no_tally() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    factory.execute(proposal, "node-1")
    record = factory.seal()
    certificate = record.certificate(proposal)
    entries = record.blocks[1].entries
    leaves = [bytes.fromhex(entry["hash"]) for entry in entries]
    certificate["tally"] = entries[5]
    certificate["inclusion"].update(index=5, path=[node.hex() for node in inclusion_path(leaves, 5)])
    refused(certificate, factory.genesis, "^certificate, tally: event_type is 'execute', not a tally's")


def test_a_sequence_that_does_not_fit_its_place() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved").lies = {"sequence": 9}
    refused(made(factory), factory.genesis, "tally.sequence is 9, but in the block its place is 5")


def test_a_head_that_is_not_the_tally_at_the_end_of_its_block() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    factory.blocks[1].lies = {"audit_head": "00" * 32}
    refused(made(factory), factory.genesis, "header.audit_head is not the hash of the tally, its last entry")


# ------------------------------------------------------------------------------------ the proposal and votes


def test_the_content_of_the_proposal_is_swapped() -> None:
    factory = decided()
    for field, lie in (("action", "terminate"), ("target", "agent-8"), ("evidence", {}), ("window_ms", 5)):
        certificate = made(factory)
        data = certificate["proposal"]["data"]
        data[field] = lie
        refused(certificate, factory.genesis, "^certificate, proposal: hash is not that of its fields")
        rehash(certificate["proposal"])
        refused(certificate, factory.genesis, r"proposal: entry 1 \(propose on prop-0001\): data.digest is")


def test_another_proposal_in_its_place() -> None:
    """Genuine and signed, but not what was voted on."""
    factory = decided()
    record = factory.seal()
    certificate, other = record.certificate("prop-0001"), record.certificate("prop-0002")
    swapped = {**certificate, "proposal": other["proposal"]}
    refused(swapped, factory.genesis, "proposal_id is not the tally's, 'prop-0001'")
    swapped["proposal"]["proposal_id"] = "prop-0001"
    rehash(swapped["proposal"])
    refused(swapped, factory.genesis, "votes.*data.digest is")
    swapped["votes"] = []
    refused(swapped, factory.genesis, r"tally: entry 9 \(tally on prop-0001\): data.digest is")
    refused(
        {**certificate, "votes": other["votes"]}, factory.genesis, "proposal_id is not the tally's, prop-0001"
    )
    refused(
        {**certificate, "proposal": certificate["votes"][0]},
        factory.genesis,
        "event_type is 'vote', not propose",
    )


def test_a_proposal_without_an_id() -> None:
    factory = decided()
    for block in factory.blocks[1:]:
        for entry in block.entries:
            if entry.proposal_id == "prop-0001":
                entry.proposal_id = ""
    refused(made(factory, ""), factory.genesis, "proposal_id is not the tally's, ''")


def test_votes_that_do_not_count() -> None:
    factory = decided()
    record = factory.seal()
    good = record.certificate("prop-0001")
    for votes, message in (
        (
            good["votes"][:-1],
            r"tally: entry 9 .*: data.approve_count is 4, but the votes and rules make it 3",
        ),
        ([], 'data.decision is "approved", but the votes and rules make it "no_quorum"'),
        ([*good["votes"], good["votes"][0]], r"votes\[4\]: entry 3 .*: actor_id node-1 has voted before"),
        (good["votes"][::-1], "by sequence or timestamp, not after"),
        ([good["proposal"]], r"votes\[0\]: entry 1 .*: event_type is 'propose', not vote"),
        ([None], r"votes\[0\]: value must be an object"),
    ):
        refused({**good, "votes": votes}, factory.genesis, message)


def test_a_vote_that_its_voter_did_not_give() -> None:
    factory = decided()
    for change in ({"value": "reject"}, {"reason": "x"}, {"voted_ms": 0}):
        certificate = made(factory)
        certificate["votes"][1]["data"].update(change)
        refused(certificate, factory.genesis, r"votes\[1\]: hash is not that of its fields")
        rehash(certificate["votes"][1])
        refused(
            certificate, factory.genesis, r"votes\[1\]: entry 4 .*data.ballot.signature is not a signature of"
        )
    certificate = made(factory)
    certificate["votes"][1]["actor_id"] = "node-9"
    rehash(certificate["votes"][1])
    refused(certificate, factory.genesis, "'node-9' is not a member in epoch 0")


def test_a_revised_vote_where_the_rules_allow_none() -> None:
    for rules in (None, CHANGES):
        factory, proposal = opened(rules=rules)
        for voter in factory.ids[:3]:
            factory.vote(proposal, voter, revision=1)
        factory.tally(proposal, "approved")
        if rules is None:
            refused(made(factory), factory.genesis, "data.revision is 1, but the rules allow no changes")
        else:
            assert verify(made(factory), factory.genesis).authorises


def test_more_is_settled_than_meets_the_eye_where_votes_may_change() -> None:
    """The votes that count stood before the last block, but one of them was another then."""
    factory, proposal = opened(rules=CHANGES)
    factory.vote(proposal, "node-1")
    factory.vote(proposal, "node-2")
    factory.vote(proposal, "node-3", "abstain")
    factory.block()
    factory.vote(proposal, "node-3", "approve", revision=1)
    factory.tally(proposal, "approved")
    assert verify(made(factory), factory.genesis).authorises


# ------------------------------------------------------------------------------------------ order and times


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("proposal", {"sequence": 0}, "entry 0 is genesis, so it cannot be a proposal"),
        ("proposal", {"sequence": 4}, "by sequence or timestamp, not after"),
        ("proposal", {"sequence": 6}, "timestamp .* does not fit header.time_ms"),
        ("proposal", {"timestamp": 1_750_000_002}, "timestamp .* does not fit header.time_ms"),
        ("proposal", {"timestamp": 1_760_000_000}, "timestamp .* does not fit header.time_ms"),
        ("proposal", {"timestamp": 1_750_000_000.0001}, "timestamp is not in whole milliseconds"),
        ("votes", {"sequence": 2, "timestamp": 1_750_000_000.5}, "by sequence or timestamp, not after"),
        ("votes", {"sequence": 2}, "prev_hash is not the hash of entry 1|does not fit|not after"),
        ("votes", {"timestamp": 1_750_000_002}, "timestamp .* does not fit header.time_ms"),
        ("votes", {"sequence": 4}, "by sequence or timestamp, not after"),
    ],
)
def test_entries_out_of_order_or_time(part: str, change: Json, message: str) -> None:
    factory = decided()
    certificate = made(factory)
    entry = certificate["votes"][0] if part == "votes" else certificate["proposal"]
    entry.update(change)
    rehash(entry)
    refused(certificate, factory.genesis, message)


def test_a_tally_with_another_time_than_its_block() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved").lies = {"timestamp": 1_749_000_000}
    refused(made(factory), factory.genesis, "timestamp 1749000000 does not fit header.time_ms")


def test_neighbours_are_linked() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "approved")
    for index in range(3):
        certificate = made(factory)
        certificate["votes"][index]["prev_hash"] = "00" * 32
        rehash(certificate["votes"][index])
        refused(
            certificate,
            factory.genesis,
            rf"entry {index + 2} \(vote on prop-0001\): prev_hash is not the hash of",
        )
    certificate = made(factory)
    certificate["proposal"]["prev_hash"] = "00" * 32
    rehash(certificate["proposal"])
    refused(
        certificate, factory.genesis, r"entry 2 \(vote on prop-0001\): prev_hash is not the hash of entry 1"
    )


# ------------------------------------------------------------------------------------------------ the tally


TALLY_LIES: list[tuple[str, object]] = [
    ("decision", "rejected"),
    ("approve_count", 3),
    ("reject_count", False),
    ("abstain_count", 1),
    ("total_voters", 3),
    ("quorum_required", 2),
    ("quorum_met", 1),
    ("approve_weight", 9),
    ("reject_weight", 1),
    ("threshold_used", "1/3"),
    ("is_critical", True),
    ("digest", "00" * 32),
    ("votes", {}),
]


@pytest.mark.parametrize(("field", "lie"), TALLY_LIES)
def test_a_false_tally_that_all_members_committed(field: str, lie: object) -> None:
    factory = decided()
    tally = next(entry for entry in factory.blocks[2].entries if entry.event_type == "tally")
    tally.data[field] = lie
    refused(made(factory), factory.genesis, rf"tally: entry \d \(tally on prop-0001\): data.{field} is")


def test_a_false_tally_with_unknown_missing_or_odd_parts() -> None:
    factory = decided()
    tally = next(entry for entry in factory.blocks[2].entries if entry.event_type == "tally")
    original = tally.data
    for change, message in (
        ({"zz": 1}, 'unknown "zz" of data'),
        ({"cause": "whim"}, "data.cause must be one of settled, window, closed"),
        ({"cause": 1}, "data.cause must be a string"),
        ({"cause": "expired"}, "data.cause must be one of"),
        ({"cause": "closed"}, "missing close of data"),
        ({"close": {}}, 'unknown "close" of data'),
    ):
        tally.data = {**original, **change}
        refused(made(factory), factory.genesis, message)
    tally.data = original
    tally.actor_id = "node-1"
    refused(
        made(factory), factory.genesis, "actor_id is 'node-1', but the cluster takes this tally by itself"
    )


# ------------------------------------------------------------------------------------------------- the cause


def test_settled_must_be_settled() -> None:
    factory, proposal = opened()
    for voter in factory.ids[:2]:
        factory.vote(proposal, voter)
    factory.tally(proposal, "no_quorum")
    refused(made(factory), factory.genesis, "data.cause is settled, but votes that are missing could change")


def test_settled_must_be_settled_by_a_vote_of_this_block() -> None:
    """Without vote changes there is a stricter reason already; with them, this is the one left."""
    for rules, message in (
        (None, "the votes before this block had settled it"),
        (CHANGES, "data.cause is settled, but no vote of this block has settled it"),
    ):
        factory, proposal = opened(rules=rules)
        for voter in factory.ids[:3]:
            factory.vote(proposal, voter)
        factory.block()
        factory.tally(proposal, "approved")
        refused(made(factory), factory.genesis, message)


def test_what_was_settled_before_is_not_decided_now() -> None:
    factory, proposal = opened(window_ms=500)
    for voter in factory.ids[:3]:
        factory.vote(proposal, voter)
    factory.block()
    factory.tally(proposal, "approved", "window")
    refused(made(factory), factory.genesis, "the votes before this block had settled it")


def test_a_close_needs_the_proposers_signature() -> None:
    factory, proposal = opened()
    factory.close(proposal, "node-2", "no_quorum")
    refused(made(factory), factory.genesis, "actor_id is 'node-2', but only the proposer node-1 may close")
    factory, proposal = opened()
    factory.close(proposal, "node-1", "no_quorum", signer="node-2")
    refused(made(factory), factory.genesis, "data.close.signature is not a signature of node-1")


def test_an_early_close_approves_nothing() -> None:
    factory, proposal = opened()
    for voter, value in zip(factory.ids, ("approve", "approve", "reject"), strict=False):
        factory.vote(proposal, voter, value)
    entry = factory.close(proposal, "node-1", "approved")
    refused(
        made(factory),
        factory.genesis,
        'data.decision is "approved", but the votes and rules make it "no_quorum"',
    )
    entry.data["decision"] = "no_quorum"
    report = verify(made(factory), factory.genesis)
    assert not report.authorises


@pytest.mark.parametrize(
    ("deadlines", "after_ms", "due"),
    [
        ({"window_ms": 1000}, 1000, None),
        ({"window_ms": 1000}, 1001, "window"),
        ({"expiry_ms": 1000}, 1000, None),
        ({"expiry_ms": 1000}, 1001, "expired"),
        ({"window_ms": 1000, "expiry_ms": 1000}, 1001, "expired"),
        ({"window_ms": 1000, "expiry_ms": 1001}, 1001, "window"),
        ({"window_ms": 1000, "expiry_ms": 1001}, 1002, "window"),
        ({"window_ms": 1001, "expiry_ms": 1000}, 1002, "expired"),
        ({"window_ms": 1001, "expiry_ms": 1000}, 1001, "expired"),
        ({}, 10**9, None),
    ],
)
@pytest.mark.parametrize("cause", ["window", "expired", "closed", "settled"])
def test_the_cause_follows_from_the_deadlines(
    deadlines: Json, after_ms: int, due: str | None, cause: str
) -> None:
    factory, proposal = opened(**deadlines)
    factory.vote(proposal, "node-2")
    factory.block(after_ms)
    if cause == "closed":
        factory.close(proposal, "node-1", "no_quorum")
    elif cause == "settled":
        for voter in ("node-1", "node-3"):
            factory.vote(proposal, voter)
        factory.tally(proposal, "approved")
    else:
        factory.tally(proposal, "no_quorum", cause)
    if due == cause or (due is None and cause in ("closed", "settled")):
        assert verify(made(factory), factory.genesis).cause == cause
    elif due is None or cause in ("window", "expired"):
        refused(
            made(factory),
            factory.genesis,
            f"data.cause is {cause}, but at .* the proposal was not due for it",
        )
    else:
        refused(made(factory), factory.genesis, f"data.cause is {cause}, but at .* the cause had to be {due}")


def test_an_expired_proposal_told_as_rejected() -> None:
    factory, proposal = opened(expiry_ms=500)
    for voter in factory.ids[:2]:
        factory.vote(proposal, voter, "reject")
    factory.block()
    entry = factory.tally(proposal, "no_quorum", "expired")
    report = verify(made(factory), factory.genesis)
    assert (report.expired, report.decision, report.authorises) == (True, "no_quorum", False)
    entry.data["decision"] = "rejected"
    refused(made(factory), factory.genesis, 'data.decision is "rejected"')
    entry.event_type, entry.data["cause"], entry.data["decision"] = "tally", "window", "no_quorum"
    refused(made(factory), factory.genesis, "the proposal was not due for it")


def test_due_tallies_count_no_vote_of_their_own_block() -> None:
    factory, proposal = opened(window_ms=500)
    factory.block()
    factory.vote(proposal, "node-1")
    factory.tally(proposal, "no_quorum", "window")
    refused(
        made(factory),
        factory.genesis,
        "votes or evidence stand in the tally's block, but what is due comes before them",
    )


def test_due_tallies_count_no_late_vote() -> None:
    factory, proposal = opened(window_ms=500)
    factory.block(500)
    factory.vote(proposal, "node-1")
    factory.block(500)
    factory.vote(proposal, "node-2")
    factory.block()
    factory.tally(proposal, "no_quorum", "window")
    refused(
        made(factory),
        factory.genesis,
        r"entry 3 .*: timestamp is after the proposal's deadline 1750000001500 ms",
    )


# ------------------------------------------------------------- every field, every wrong value, rehashed


WRONG: tuple[object, ...] = (
    None,
    True,
    False,
    -1,
    0,
    7,
    2**53 - 1,
    1.5,
    "",
    "x",
    "00" * 32,
    "AA" * 64,
    [],
    {},
)


def spots(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, child in inside:
        found += [(*path, key)] if key == "evidence" else spots(child, (*path, key))
    return found


@pytest.mark.parametrize("proposal_id", ["prop-0001", "prop-0002", "prop-0003", "prop-0004"])
def test_every_value_of_a_certificate_is_bound(proposal_id: str) -> None:
    """Entry hashes are renewed, so that what refuses is the meaning.

    Where the entries before the tally stood, and what came before them, is bound only as far as neighbours
    are in the certificate too: those three fields are not tried here, nor are the renewed hashes.
    """
    factory = small_record()
    good = made(factory, proposal_id)
    tried = 0
    for path in spots(good):
        if path[0] in ("proposal", "votes") and path[-1] in ("sequence", "timestamp", "prev_hash"):
            continue
        if path[-1] == "hash" and path[0] != "header":
            continue
        for wrong in WRONG:
            certificate = deepcopy(good)
            inner: Any = certificate
            for key in path[:-1]:
                inner = inner[key]
            if type(inner[path[-1]]) is type(wrong) and inner[path[-1]] == wrong:
                continue
            inner[path[-1]] = wrong
            for entry in (certificate["proposal"], certificate["tally"], *_list(certificate["votes"])):
                if isinstance(entry, dict):
                    rehash(entry)
            refused(certificate, factory.genesis, "^certificate")
            tried += 1
    assert tried > 800


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


@pytest.mark.parametrize("n", [4, 5])
def test_no_part_of_one_certificate_fits_another(n: int) -> None:
    """Mix and match between all decisions of one record."""
    factory = rich_record(n)
    record = factory.seal()
    names = [name for name in factory.proposals if name != "prop-0012"]
    certificates = {name: record.certificate(name) for name in names}
    for certificate in certificates.values():
        verify(certificate, factory.genesis)
        for other in names:
            for part in ("proposal", "votes", "tally", "inclusion", "header", "commit"):
                mixed = {**certificate, part: certificates[other][part]}
                if mixed != certificate:
                    refused(mixed, factory.genesis, "^certificate")
