"""Sign-bytes: the golden vectors, the second encoder, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.vectors import signbytes_encoder as second

from replication.identity import signbytes

VECTOR_FILE = Path(second.__file__).with_name("signbytes.json")
CASES: list[dict[str, Any]] = json.loads(VECTOR_FILE.read_text(encoding="utf-8"))["cases"]

FUNCTIONS: dict[str, Callable[..., bytes]] = {
    "proposal": signbytes.proposal_bytes,
    "vote": signbytes.vote_bytes,
    "ballot": signbytes.ballot_bytes,
    "close": signbytes.close_bytes,
    "receipt": signbytes.receipt_bytes,
    "propose": partial(signbytes.statement_bytes, "propose"),
    "prepare": partial(signbytes.statement_bytes, signbytes.Phase.PREPARE),
    "commit": partial(signbytes.statement_bytes, signbytes.Phase.COMMIT),
    "suspect": signbytes.suspect_bytes,
    "timeout": signbytes.timeout_bytes,
    "newview": signbytes.newview_bytes,
    "rejoin": signbytes.rejoin_bytes,
    "membership": signbytes.membership_bytes,
    "block": signbytes.block_bytes,
}
WITHOUT_CLUSTER: dict[str, Callable[..., bytes]] = {
    "possession": signbytes.possession_bytes,
    "enrolment": signbytes.enrolment_bytes,
}
SAMPLES = dict(second.SAMPLES)


def encode(statement: str, cluster_id: bytes, epoch: int, fields: second.Fields) -> bytes:
    """The first encoder, called by name."""
    if statement in WITHOUT_CLUSTER:
        return WITHOUT_CLUSTER[statement](**fields)
    return FUNCTIONS[statement](cluster_id, epoch, **fields)


def test_every_statement_has_a_vector() -> None:
    assert {case["statement"] for case in CASES} == {*FUNCTIONS, *WITHOUT_CLUSTER} == set(second.LAYOUTS)


def test_the_vectors_are_what_the_second_encoder_makes() -> None:
    assert VECTOR_FILE.read_text(encoding="utf-8") == second.vectors()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['statement']}-{case['epoch']}")
def test_the_encoder_makes_the_vectors(case: dict[str, Any]) -> None:
    fields = second.read_fields(case["statement"], case["fields"])
    encoded = encode(case["statement"], bytes.fromhex(case["cluster_id"]), case["epoch"], fields)
    assert encoded.hex() == case["bytes"]


def test_no_two_samples_share_their_bytes_even_in_part() -> None:
    everything = [bytes.fromhex(case["bytes"]) for case in CASES]
    for one in everything:
        assert sum(other.startswith(one) for other in everything) == 1


@pytest.mark.parametrize("statement", FUNCTIONS)
def test_cluster_and_epoch_are_part_of_every_statement(statement: str) -> None:
    fields = SAMPLES[statement]
    here = encode(statement, second.CLUSTER, 1, fields)
    assert encode(statement, bytes(32), 1, fields) != here
    assert encode(statement, second.CLUSTER, 2, fields) != here


def test_a_proof_of_possession_belongs_to_no_cluster() -> None:
    head = b"\x11acp/possession/v1" + bytes(32) + bytes(8)
    assert encode("possession", b"", 0, SAMPLES["possession"]).startswith(head)


def test_text_cannot_move_between_fields() -> None:
    fields = SAMPLES["proposal"]
    one = encode("proposal", second.CLUSTER, 0, {**fields, "action": "ab", "target": "c"})
    other = encode("proposal", second.CLUSTER, 0, {**fields, "action": "a", "target": "bc"})
    assert one != other


def test_phases_are_told_apart() -> None:
    fields = SAMPLES["prepare"]
    assert len({encode(phase, second.CLUSTER, 0, fields) for phase in ("propose", "prepare", "commit")}) == 3
    with pytest.raises(ValueError, match="phase must be propose, prepare or commit"):
        signbytes.statement_bytes("vote", second.CLUSTER, 0, **fields)


def bad_values(kind: str) -> list[Any]:
    """Values that no field of this kind may have."""
    widths = {"u8": 1, "u32": 4, "u64": 8}
    if kind in widths:
        return [-1, 2 ** (8 * widths[kind]), 1.0, "1", None]
    if kind == "hash":
        return [b"", bytes(31), bytes(33), "0" * 32, bytearray(32), None]
    if kind == "json":
        return [b"", b"[]", b"{", b"}", b"1", b'"{}"', b" {}", "{}", None]
    if kind == "id":
        return ["", "a" * 65, "a b", "a/b", "ä", "a\n", b"a", None]
    return ["\ud800", b"a", 1, None]


REFUSALS = [
    (statement, field, value)
    for statement, layout in second.LAYOUTS.items()
    for field, kind in layout
    for value in bad_values(kind)
]


@pytest.mark.parametrize(("statement", "field", "value"), REFUSALS, ids=lambda part: repr(part)[:20])
def test_an_illegal_field_is_refused_by_name(statement: str, field: str, value: Any) -> None:
    fields = {**SAMPLES[statement], field: value}
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        encode(statement, second.CLUSTER, 0, fields)


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        (name, field)
        for name, layout in second.LAYOUTS.items()
        for field, kind in layout
        if kind in ("u32", "u64")
    ],
)
def test_a_boolean_is_no_number(statement: str, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        encode(statement, second.CLUSTER, 0, {**SAMPLES[statement], field: True})


@pytest.mark.parametrize(("statement", "field"), [("vote", "value"), ("receipt", "outcome")])
def test_codes_are_enumerated(statement: str, field: str) -> None:
    for value in (0, 4, True):
        with pytest.raises(ValueError, match=f"{field} must be a code from 1 to 3"):
            encode(statement, second.CLUSTER, 0, {**SAMPLES[statement], field: value})
    assert signbytes.VOTE_CODES == {"approve": 1, "reject": 2, "abstain": 3}
    assert signbytes.OUTCOME_CODES == {"succeeded": 1, "failed": 2, "partial": 3}


@pytest.mark.parametrize("cluster_id", [b"", bytes(31), bytes(33), "0" * 32])
def test_an_illegal_cluster_id_is_refused(cluster_id: Any) -> None:
    with pytest.raises(ValueError, match="cluster_id must be 32 raw bytes"):
        encode("close", cluster_id, 0, SAMPLES["close"])


@pytest.mark.parametrize("epoch", [-1, 2**64, True, 0.0])
def test_an_illegal_epoch_is_refused(epoch: Any) -> None:
    with pytest.raises(ValueError, match="epoch must be a whole number"):
        encode("close", second.CLUSTER, epoch, SAMPLES["close"])


def test_an_action_is_not_empty() -> None:
    with pytest.raises(ValueError, match="action must not be empty"):
        encode("proposal", second.CLUSTER, 0, {**SAMPLES["proposal"], "action": ""})


def test_a_ballot_is_not_empty() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        encode("ballot", second.CLUSTER, 0, {**SAMPLES["ballot"], "size": 0})


@pytest.mark.parametrize("lock", [{"lock_view": 1}, {"lock_hash": b"\x01" * 32}])
def test_there_is_one_way_to_have_no_lock(lock: dict[str, Any]) -> None:
    unlocked = {**SAMPLES["timeout"], "has_lock": False, "lock_view": 0, "lock_hash": bytes(32)}
    assert encode("timeout", second.CLUSTER, 0, unlocked)
    with pytest.raises(ValueError, match="without a lock"):
        encode("timeout", second.CLUSTER, 0, {**unlocked, **lock})


def test_a_field_is_not_longer_than_a_message() -> None:
    longest = "x" * signbytes.MAX_VARIABLE_BYTES
    assert encode("receipt", second.CLUSTER, 0, {**SAMPLES["receipt"], "detail": longest})
    with pytest.raises(ValueError, match="detail has 4194305 bytes"):
        encode("receipt", second.CLUSTER, 0, {**SAMPLES["receipt"], "detail": longest + "x"})
