"""The targets: what is fed with bytes, what it may refuse with, and what must hold of what it accepts."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509
from google.protobuf.message import DecodeError, Message

from replication.client import convert
from replication.client.errors import ResponseError
from replication.consensus.canonical import canonical_json
from replication.errors import OperatorError
from replication.faults.fuzzing.certificates import AUTHORITY, NODE
from replication.faults.fuzzing.corpus import ANSWERS, REQUESTS, entries_of
from replication.faults.fuzzing.record import material
from replication.faults.harness.checks.signatures import parse_statement
from replication.faults.harness.reading import parse_scenario
from replication.identity.genesis import GenesisError, build_genesis, parse_genesis
from replication.identity.tls import (
    CertificateError,
    check_authorities,
    check_certificate,
    identity_from_sans,
)
from replication.ledger import codec, serial
from replication.ledger.codec import MalformedError
from replication.ledger.command_codec import decode_command, encode_command
from replication.ledger.command_kinds import EvidenceCommand
from replication.ledger.evidence_json import parse_evidence
from replication.ledger.frames import FrameError, Heading, read_frames
from replication.ledger.items import unpack_items
from replication.ledger.membership import ChangeError, parse_change
from replication.ledger.verify import (
    CertificateReport,
    VerificationError,
    verify_certificate,
    verify_evidence,
    verify_export,
)
from replication.node import wire
from replication.node.config import ConfigError, format_config, parse_config
from replication.node.failures import RefusedError
from replication.node.policies import PolicyError, parse_cel_policy
from replication.node.services import requests
from replication.ordering.application import CommandError
from replication.v1 import peer_service_pb2
from replication.v1 import voting_service_pb2 as voting

__all__ = ["TARGETS", "BrokenRuleError", "Target"]

_NOW: Final = dt.datetime(2026, 12, 24, tzinfo=dt.UTC)


class BrokenRuleError(Exception):
    """A decoder accepted what it must not, or made something else of it."""


@dataclass(frozen=True)
class Target:
    """`read` takes the bytes; it may raise `refusals` and nothing else. `share` of all executions that
    `acp faults fuzz` gives it: slow targets have smaller ones."""

    name: str
    what: str
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    share: int


def _require(holds: object, rule: str) -> None:
    if not holds:
        raise BrokenRuleError(rule)


# --------------------------------------------------------------------------------------------------- messages


def _wire(text: bytes) -> None:
    for frame in wire.frames(text):
        try:
            message = wire.decode(wire.parse(frame))
        except MalformedError:
            continue
        _require(wire.decode(wire.encode(message)) == message, "a message must survive encoding")


def _blocks(text: bytes) -> None:
    response = peer_service_pb2.FetchBlocksResponse()
    response.ParseFromString(text)
    for item in response.blocks:
        block, certificate = codec.block_from_pb(item.block), codec.certificate_from_pb(item.certificate)
        _require(codec.block_from_pb(codec.block_to_pb(block)) == block, "a block must survive encoding")
        again = codec.certificate_from_pb(codec.certificate_to_pb(certificate))
        _require(again == certificate, "a certificate must survive encoding")


def _command(text: bytes) -> None:
    command = decode_command(text)
    _require(encode_command(command) == text, "a command has one serialisation")
    if not isinstance(command, EvidenceCommand):
        _require(command.sign_bytes(material().genesis.cluster_id), "a command can be signed")


_TEXTS: Final[tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...]] = (
    (serial.parse_block, serial.serialize_block),
    (serial.parse_header, serial.serialize_header),
    (serial.parse_certificate, serial.serialize_certificate),
    (serial.parse_sign_state, serial.serialize_sign_state),
)


def _stored(text: bytes) -> None:
    """The first byte says what the rest is."""
    parse, serialize = _TEXTS[text[0] % len(_TEXTS)] if text else _TEXTS[0]
    _require(serialize(parse(text[1:])) == text[1:], "a value on disk has one serialisation")


def _journal(text: bytes) -> None:
    heading = Heading.read(text)
    frames, tail = read_frames(heading, text)
    contents = unpack_items(frame.body for frame in frames)
    _require(frames[-1].end + tail.size == len(text), "frames and tail must make up the file")
    _require(contents.size >= 0, "contents have a size")


# ------------------------------------------------------------------------------------------------------ files


def _genesis(text: bytes) -> None:
    found = parse_genesis(text)
    rebuilt = build_genesis(
        name=found.name,
        created_ms=found.created_ms,
        nonce=found.nonce,
        members=found.members.members,
        possessions={item["id"]: bytes.fromhex(item["possession"]) for item in json.loads(text)["members"]},
        rules=found.rules,
        ca_certificate=found.ca_certificate,
    )
    again = parse_genesis(rebuilt)
    kept = ("name", "created_ms", "nonce", "members", "rules", "ca_certificate")
    _require(all(getattr(again, key) == getattr(found, key) for key in kept), "a genesis file says one thing")


def _config(text: bytes) -> None:
    found = parse_config(_decoded(text), "config.toml")
    again = parse_config(format_config(found), "config.toml")
    _require(again == found, "a configuration must survive writing")


def _policy(text: bytes) -> None:
    parse_cel_policy(_decoded(text), "policy.toml")


def _scenario(text: bytes) -> None:
    parse_scenario(_decoded(text), "scenario.toml")


class _NotTextError(Exception):
    """The file is not UTF-8, which its reader finds before it parses."""


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _NotTextError from error


def _change(text: bytes) -> None:
    change = parse_change(text)
    _require(canonical_json(json.loads(text)) == text, "a change has one text")
    _require(change.id, "a change is about a member")


def _evidence_json(text: bytes) -> None:
    _require(canonical_json(parse_evidence(text)) == text, "evidence has one text")


def _certificate_of_a_connection(text: bytes) -> None:
    """A PEM certificate; or after a zero byte the SANs of one, with newlines between; or after a one the
    authorities to trust."""
    if text[:1] == b"\0":
        identity_from_sans(text[1:].split(b"\n"))
        return
    if text[:1] == b"\1":
        trusted = check_authorities(text[1:])
        _require(check_authorities(trusted) == trusted, "authorities have one text")
        return
    check_certificate(text, AUTHORITY, _NOW)
    found, real = x509.load_pem_x509_certificate(text), x509.load_pem_x509_certificate(NODE)
    _require(found.tbs_certificate_bytes == real.tbs_certificate_bytes, "a certificate cannot be changed")


# ----------------------------------------------------------------------------------------------------- proofs


@lru_cache(maxsize=1)
def _recorded() -> dict[int, tuple[bytes, int, bytes]]:
    headers = [block.header for block, _ in material().blocks]
    return {header.height: (header.hash, header.audit_size, header.audit_head) for header in headers}


def _export(text: bytes) -> None:
    report = verify_export(text.splitlines(keepends=True), material().genesis)
    said = (report.block_hash, report.audit_size, report.audit_head)
    _require(_recorded().get(report.height, said if not report.height else None) == said, "a forged record")


@lru_cache(maxsize=1)
def _proven() -> frozenset[str]:
    found = (verify_certificate(text, material().genesis) for text in material().certificates)
    return frozenset(map(_gist, found))


def _gist(report: CertificateReport) -> str:
    return repr(
        (
            *(report.proposal_id, report.proposer, report.action, report.target, report.digest),
            *(report.decision, report.cause, sorted(report.votes.items())),
        )
    )


def _certificate(text: bytes) -> None:
    _require(_gist(verify_certificate(text, material().genesis)) in _proven(), "a forged certificate")


def _evidence(text: bytes) -> None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerificationError("not JSON") from error
    if not isinstance(data, dict):
        raise VerificationError("not an object")
    genesis = material().genesis
    accused = verify_evidence(data, genesis.cluster_id, genesis.members)
    _require(accused == "node-4", "evidence against a member that never contradicted itself")


def _signed_bytes(text: bytes) -> None:
    parse_statement(text)


# ------------------------------------------------------------------------------------- requests and answers


def _request(text: bytes) -> None:
    """A request of a client, read field by field as the services do. The first byte says which."""
    kind = REQUESTS[text[0] % len(REQUESTS)] if text else REQUESTS[0]
    request = kind()
    request.ParseFromString(text[1:])
    if isinstance(request, voting.ProposeRequest):
        requests.request_id(request.request_id)
        requests.text(request.action, "action", 1024, empty=False)
        requests.whole_number(request.window_ms, "window_ms", 10**12)
        evidence = requests.evidence(request.evidence_json)
        _require(canonical_json(parse_evidence(evidence)) == evidence, "evidence is put into its one text")
    elif isinstance(request, voting.CastVoteRequest):
        requests.proposal_id(request.proposal_id)
        requests.vote_value(request.value)
        requests.text(request.reason, "reason", 1024)
    elif isinstance(request, voting.ExecuteRequest):
        requests.execution_outcome(request.outcome)
        requests.request_id(request.request_id)
    elif isinstance(request, voting.ListProposalsRequest):
        requests.proposal_status(request.status)
        _require(1 <= requests.page_size(request.page_size) <= 500, "pages are bounded")
        _require(requests.number_token(request.page_token) < 2**63, "SQLite must be able to hold a token")
    elif isinstance(request, voting.GetHistoryRequest):
        requests.member_id(request.voter_id, "voter_id")
    elif isinstance(request, voting.GetBlocsRequest):
        _require(0 <= requests.share(request.threshold, 0.9) <= 1, "a threshold is a share")


_READ_ANSWER: Final[dict[str, Callable[[Any], object]]] = {
    "Proposal": convert.proposal,
    "HistoryItem": convert.history_item,
    "AuditEntry": convert.audit_entry,
    "GetHeadResponse": convert.audit_head,
    "GetSummaryResponse": convert.summary,
    "GetAgreementResponse": convert.agreement,
    "GetBlocsResponse": lambda message: convert.blocs(message, 0.5),
    "GetStatusResponse": convert.cluster_status,
    "ListMembersResponse": convert.membership,
}


def _answer(text: bytes) -> None:
    """An answer of a node that lies, as the client reads it. The first byte says which."""
    kind = ANSWERS[text[0] % len(ANSWERS)] if text else ANSWERS[0]
    message: Message = kind()
    message.ParseFromString(text[1:])
    _READ_ANSWER[kind.DESCRIPTOR.name](message)


def _target(
    name: str,
    what: str,
    read: Callable[[bytes], object],
    refusals: Sequence[type[Exception]],
    share: int,
) -> Target:
    entries_of(name)  # there must be a corpus
    return Target(name, what, read, tuple(refusals), share)


TARGETS: Final = MappingProxyType(
    {
        target.name: target
        for target in (
            Target("wire", "messages between members", _wire, (MalformedError,), 30),
            Target("blocks", "pages of committed blocks", _blocks, (DecodeError, MalformedError), 20),
            Target("command", "commands, which are ordered and signed", _command, (CommandError,), 40),
            Target("stored", "blocks, certificates, sign states on disk", _stored, (MalformedError,), 30),
            Target("journal", "the sign journal", _journal, (FrameError, MalformedError), 20),
            Target("genesis", "the genesis file", _genesis, (GenesisError,), 5),
            Target("config", "config.toml", _config, (ConfigError, _NotTextError), 10),
            Target("policy", "rules of a voter", _policy, (PolicyError, _NotTextError), 2),
            Target("scenario", "fault scenarios", _scenario, (OperatorError, _NotTextError), 5),
            Target("membership", "changes of members", _change, (ChangeError,), 20),
            Target("evidence-json", "evidence of proposals", _evidence_json, (ValueError,), 20),
            Target(
                "tls", "certificates of connections", _certificate_of_a_connection, (CertificateError,), 10
            ),
            Target("export", "exported records", _export, (VerificationError,), 3),
            Target("certificate", "decision certificates", _certificate, (VerificationError,), 5),
            Target("evidence", "evidence by itself", _evidence, (VerificationError,), 15),
            Target("sign-bytes", "signed bytes, as the checkers read them", _signed_bytes, (ValueError,), 10),
            Target("request", "requests of clients", _request, (DecodeError, RefusedError), 20),
            Target("answer", "answers of nodes, at the client", _answer, (DecodeError, ResponseError), 20),
        )
    }
)
"""By name."""
