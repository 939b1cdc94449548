"""Commands as bytes: the deterministic serialisation of the `Command` message of `log.proto`.

A command has one serialisation. What decodes, but would be written otherwise (fields out of order, unknown,
given twice, or holding their default), is refused, since the digest of the bytes is the command's name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from replication.consensus.model import VoteValue
from replication.identity.names import require_id
from replication.ordering.application import CommandError
from replication.ordering.limits import MAX_COMMAND_BYTES
from replication.ordering.statements import Evidence, NewView
from replication.v1 import log_pb2, model_pb2

from .codec import (
    MalformedError,
    digest_field,
    evidence_from_pb,
    evidence_to_pb,
    integer_field,
    member_field,
    new_view_from_pb,
    new_view_to_pb,
    signature_field,
)
from .command_kinds import (
    BallotCommand,
    CloseCommand,
    Command,
    CoordinatorChangeCommand,
    EvidenceCommand,
    MembershipCommand,
    ProposalCommand,
    ReceiptCommand,
    RejoinCommand,
    VoteItem,
)
from .evidence_json import MAX_EVIDENCE_BYTES, parse_evidence
from .membership import ChangeError, parse_change

__all__ = [
    "MAX_ACTION_BYTES",
    "MAX_BALLOT_VOTES",
    "MAX_DETAIL_BYTES",
    "MAX_EVIDENCE_BYTES",
    "MAX_REASON_BYTES",
    "MAX_TARGET_BYTES",
    "decode_command",
    "encode_command",
]

MAX_ACTION_BYTES: Final = 1024
MAX_TARGET_BYTES: Final = 1024
"""Names of things, not texts; 1 KiB is what any other short text may have."""

MAX_REASON_BYTES: Final = 1024
MAX_DETAIL_BYTES: Final = 1024

MAX_BALLOT_VOTES: Final = 1024
"""Bounds the work that one signature can ask for."""

_U32_MAX: Final = 2**32 - 1

_VALUES: Final = {
    VoteValue.APPROVE: model_pb2.VOTE_VALUE_APPROVE,
    VoteValue.REJECT: model_pb2.VOTE_VALUE_REJECT,
    VoteValue.ABSTAIN: model_pb2.VOTE_VALUE_ABSTAIN,
}
_VALUE_OF: Final[dict[int, VoteValue]] = {code: value for value, code in _VALUES.items()}
_OUTCOMES: Final = {
    "succeeded": model_pb2.EXECUTION_OUTCOME_SUCCEEDED,
    "failed": model_pb2.EXECUTION_OUTCOME_FAILED,
    "partial": model_pb2.EXECUTION_OUTCOME_PARTIAL,
}
_OUTCOME_OF: Final[dict[int, str]] = {code: outcome for outcome, code in _OUTCOMES.items()}

_CACHE_BYTES: Final = 32 * 1024 * 1024
_CACHE_COST: Final = 512  # of a small command as an object, beside its bytes

_Code = TypeVar("_Code")


class _Cache:
    """Decoded commands by their bytes, the least recently used forgotten first. For any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._items: OrderedDict[bytes, Command] = OrderedDict()
        self._size = 0

    def get(self, raw: bytes) -> Command | None:
        with self._lock:
            command = self._items.get(raw)
            if command is not None:
                self._items.move_to_end(raw)
            return command

    def put(self, raw: bytes, command: Command) -> None:
        with self._lock:
            if raw in self._items:
                return
            self._items[raw] = command
            self._size += len(raw) + _CACHE_COST
            while self._size > _CACHE_BYTES:
                old, _ = self._items.popitem(last=False)
                self._size -= len(old) + _CACHE_COST


_cache: Final = _Cache()


def decode_command(raw: bytes) -> Command:
    """Read a command: sizes, shape, alphabets, ranges. Answers for recent bytes are remembered.

    Raises CommandError with the name of the field. Membership and signatures are `verify_command`'s to check.
    """
    command = _cache.get(raw)
    if command is None:
        command = _decode(raw)
        _cache.put(raw, command)
    return command


def _decode(raw: bytes) -> Command:
    if not 0 < len(raw) <= MAX_COMMAND_BYTES:
        raise CommandError(f"a command has 1 to {MAX_COMMAND_BYTES} bytes, not {len(raw)}")
    message = log_pb2.Command()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise CommandError("not a serialised Command message") from error
    kind = message.WhichOneof("body")
    if kind is None:
        raise CommandError("the command is of no known kind")
    try:
        command = _READERS[kind](message)
    except (MalformedError, ChangeError, ValueError) as error:
        raise CommandError(f"{kind}: {error}") from error
    if encode_command(command) != raw:
        raise CommandError(f"{kind}: not the deterministic serialisation of what it says")
    return command


def encode_command(command: Command) -> bytes:
    """The one serialisation of a command. It checks nothing."""
    return _to_pb(command).SerializeToString(deterministic=True)


# ---------------------------------------------------------------------------------------------------- reading


def _text(value: str, name: str, limit: int, *, empty: bool = True) -> str:
    size = len(value.encode("utf-8"))
    if size > limit or not (size or empty):
        raise MalformedError(f"{name} must have {0 if empty else 1} to {limit} bytes, not {size}")
    return value


def _code(codes: dict[int, _Code], value: int, name: str) -> _Code:
    if value not in codes:
        raise MalformedError(f"{name} {value} is not known")
    return codes[value]


def _proposal(message: log_pb2.Command) -> Command:
    body = message.proposal
    evidence = _text(body.evidence_json, "evidence_json", MAX_EVIDENCE_BYTES, empty=False).encode("utf-8")
    parse_evidence(evidence)
    return ProposalCommand(
        epoch=integer_field(body.epoch, "epoch"),
        proposer=member_field(body.proposer, "proposer"),
        request_id=require_id(body.request_id, "request_id"),
        action=_text(body.action, "action", MAX_ACTION_BYTES, empty=False),
        target=_text(body.target, "target", MAX_TARGET_BYTES),
        evidence=evidence,
        window_ms=integer_field(body.window_ms, "window_ms"),
        expiry_ms=integer_field(body.expiry_ms, "expiry_ms"),
        created_ms=integer_field(body.created_ms, "created_ms"),
        signature=signature_field(body.signature, "signature"),
    )


def _ballot(message: log_pb2.Command) -> Command:
    body = message.ballot
    if not 1 <= len(body.votes) <= MAX_BALLOT_VOTES:
        raise MalformedError(f"votes must have 1 to {MAX_BALLOT_VOTES} items, not {len(body.votes)}")
    votes = tuple(_vote(item) for item in body.votes)
    if len({vote.proposal_digest for vote in votes}) != len(votes):
        raise MalformedError("votes must be on different proposals")
    return BallotCommand(
        integer_field(body.epoch, "epoch"),
        member_field(body.voter, "voter"),
        votes,
        signature_field(body.signature, "signature"),
    )


def _vote(item: log_pb2.BallotVote) -> VoteItem:
    return VoteItem(
        digest_field(item.proposal_digest, "votes.proposal_digest"),
        _code(_VALUE_OF, item.value, "votes.value"),
        integer_field(item.revision, "votes.revision", _U32_MAX),
        _text(item.reason, "votes.reason", MAX_REASON_BYTES),
        integer_field(item.voted_ms, "votes.voted_ms"),
    )


def _close(message: log_pb2.Command) -> Command:
    body = message.close
    return CloseCommand(
        integer_field(body.epoch, "epoch"),
        member_field(body.closer, "closer"),
        digest_field(body.proposal_digest, "proposal_digest"),
        signature_field(body.signature, "signature"),
    )


def _receipt(message: log_pb2.Command) -> Command:
    body = message.receipt
    return ReceiptCommand(
        integer_field(body.epoch, "epoch"),
        member_field(body.executor, "executor"),
        digest_field(body.proposal_digest, "proposal_digest"),
        _code(_OUTCOME_OF, body.outcome, "outcome"),
        _text(body.detail, "detail", MAX_DETAIL_BYTES),
        integer_field(body.executed_ms, "executed_ms"),
        signature_field(body.signature, "signature"),
    )


def _coordinator_change(message: log_pb2.Command) -> Command:
    opening = new_view_from_pb(message.coordinator_change, "coordinator_change")
    return CoordinatorChangeCommand(
        opening.epoch, opening.view, opening.signer, opening.tc_digest, opening.signature
    )


def _evidence(message: log_pb2.Command) -> Command:
    evidence = evidence_from_pb(message.evidence)
    return EvidenceCommand(evidence.first, evidence.second)


def _membership(message: log_pb2.Command) -> Command:
    body = message.membership
    change = body.change_json.encode("utf-8")
    if parse_change(change).kind == "rejoin":
        raise MalformedError("change_json: a member rejoins by a command of its own")
    return MembershipCommand(
        integer_field(body.epoch, "epoch"),
        member_field(body.member, "member"),
        change,
        digest_field(body.proposal_digest, "proposal_digest"),
        signature_field(body.signature, "signature"),
    )


def _rejoin(message: log_pb2.Command) -> Command:
    body = message.rejoin
    return RejoinCommand(
        integer_field(body.epoch, "epoch"),
        member_field(body.member, "member"),
        digest_field(body.nonce, "nonce"),
        signature_field(body.signature, "signature"),
    )


_READERS: Final[dict[str, Callable[[log_pb2.Command], Command]]] = {
    "proposal": _proposal,
    "ballot": _ballot,
    "close": _close,
    "receipt": _receipt,
    "coordinator_change": _coordinator_change,
    "evidence": _evidence,
    "membership": _membership,
    "rejoin": _rejoin,
}


# ---------------------------------------------------------------------------------------------------- writing


def _to_pb(command: Command) -> log_pb2.Command:
    match command:
        case ProposalCommand():
            return log_pb2.Command(proposal=_proposal_to_pb(command))
        case BallotCommand():
            return log_pb2.Command(ballot=_ballot_to_pb(command))
        case CloseCommand():
            close = log_pb2.SignedClose(
                epoch=command.epoch,
                closer=command.closer,
                proposal_digest=command.proposal_digest,
                signature=command.signature,
            )
            return log_pb2.Command(close=close)
        case ReceiptCommand():
            return log_pb2.Command(receipt=_receipt_to_pb(command))
        case CoordinatorChangeCommand():
            opening = NewView(
                command.epoch, command.view, command.tc_digest, command.coordinator, command.signature
            )
            return log_pb2.Command(coordinator_change=new_view_to_pb(opening))
        case EvidenceCommand():
            return log_pb2.Command(evidence=evidence_to_pb(Evidence(command.first, command.second)))
        case MembershipCommand():
            return log_pb2.Command(membership=_membership_to_pb(command))
        case RejoinCommand():
            rejoin = log_pb2.SignedRejoin(
                epoch=command.epoch, member=command.member, nonce=command.nonce, signature=command.signature
            )
            return log_pb2.Command(rejoin=rejoin)


def _proposal_to_pb(command: ProposalCommand) -> log_pb2.SignedProposal:
    return log_pb2.SignedProposal(
        epoch=command.epoch,
        proposer=command.proposer,
        request_id=command.request_id,
        action=command.action,
        target=command.target,
        evidence_json=command.evidence.decode("utf-8"),
        window_ms=command.window_ms,
        expiry_ms=command.expiry_ms,
        created_ms=command.created_ms,
        signature=command.signature,
    )


def _ballot_to_pb(command: BallotCommand) -> log_pb2.Ballot:
    votes = [
        log_pb2.BallotVote(
            proposal_digest=vote.proposal_digest,
            revision=vote.revision,
            value=_VALUES[vote.value],
            reason=vote.reason,
            voted_ms=vote.voted_ms,
        )
        for vote in command.votes
    ]
    return log_pb2.Ballot(epoch=command.epoch, voter=command.voter, votes=votes, signature=command.signature)


def _receipt_to_pb(command: ReceiptCommand) -> log_pb2.SignedReceipt:
    return log_pb2.SignedReceipt(
        epoch=command.epoch,
        executor=command.executor,
        proposal_digest=command.proposal_digest,
        outcome=_OUTCOMES[command.outcome],
        detail=command.detail,
        executed_ms=command.executed_ms,
        signature=command.signature,
    )


def _membership_to_pb(command: MembershipCommand) -> log_pb2.SignedMembership:
    return log_pb2.SignedMembership(
        epoch=command.epoch,
        member=command.member,
        change_json=command.change.decode("utf-8"),
        proposal_digest=command.proposal_digest,
        signature=command.signature,
    )
