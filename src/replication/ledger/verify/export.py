"""`verify_export`: a whole record, from genesis to its end, read once as a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from replication.identity.genesis import Genesis
from replication.identity.merkle import EMPTY_ROOT, merkle_root

from .commits import check_commit
from .errors import VerificationError
from .lifecycle import Lifecycle
from .reading import MAX_LINE_BYTES, Fields, keys, parse_document, seconds
from .records import ENTRY_KEYS, Entry, Header, parse_entry, parse_header
from .reports import ExportReport
from .signatures import CurrentEpoch, SignatureChecker

__all__ = ["EXPORT_FORMAT", "Progress", "verify_export"]

EXPORT_FORMAT = "agent-consensus/audit/1"

Progress = Callable[[int, int], None]
"""Called after each block with its height and the height that the export claims to reach."""

_FIRST_KEYS = keys("type format cluster_id height audit_size")
_BLOCK_KEYS = keys("type header hash certificate")
_ENTRY_KEYS = ENTRY_KEYS | {"type"}
_END_KEYS = keys("type height audit_size audit_head block_hash")
_GENESIS_DATA_KEYS = keys("cluster_id epoch members")
_NO_PARENT = bytes(32)


def verify_export(lines: Iterable[bytes], genesis: Genesis, progress: Progress | None = None) -> ExportReport:
    """Verify an exported record, trusting nothing but `genesis`.

    Args:
        lines: the lines of the file as bytes, each with its newline (`read_lines` reads in bounded memory).
        genesis: the parsed genesis file.
        progress: called after each block, if given.

    Raises:
        VerificationError: the record is not whole and right in every byte; the message says where it breaks.
    """
    reader = _Reader(genesis, progress)
    number = 0
    for number, line in enumerate(lines, start=1):
        try:
            reader.feed(line)
        except VerificationError as error:
            raise error.at(f"line {number}{reader.place}") from None
    return reader.finish(number)


class _Reader:
    """Takes the lines one by one. `place` says which block and entry is being checked, for messages."""

    def __init__(self, genesis: Genesis, progress: Progress | None) -> None:
        current = CurrentEpoch(genesis.members)
        self.place = ""
        self._genesis = genesis
        self._progress = progress
        self._signatures = SignatureChecker(genesis.cluster_id, current)
        self._lifecycle = Lifecycle(genesis, current, self._signatures)
        self._events: Counter[str] = Counter()
        self._next: Callable[[dict[str, object]], None] = self._first
        self._claimed_height = 0
        self._claimed_size = 0
        self._header: Header | None = None
        self._view = 0
        self._leaves: list[bytes] = []
        self._size = 0
        self._head = ""
        self._report: ExportReport | None = None

    def feed(self, line: bytes) -> None:
        """Check the next line."""
        self.place = "" if self._header is None else f", block {self._header.height}"
        self._next(parse_document(line, MAX_LINE_BYTES))

    def finish(self, lines: int) -> ExportReport:
        """The report, once the end was reached."""
        if self._report is None:
            raise VerificationError(
                "the export ends here without its end line: it was cut off", where=f"line {lines}"
            )
        return self._report

    def _first(self, value: dict[str, object]) -> None:
        fields = _line(value, _FIRST_KEYS, "audit-export", "on the first line")
        fields.fixed("format", EXPORT_FORMAT, "this verifier reads")
        fields.fixed("cluster_id", self._genesis.cluster_id.hex(), "the genesis file makes it")
        self._claimed_height = fields.integer("height")
        self._claimed_size = fields.integer("audit_size", low=1)
        self._next = self._block

    def _block(self, value: dict[str, object]) -> None:
        self.place = f", block {0 if self._header is None else self._header.height + 1}"
        fields = _line(value, _BLOCK_KEYS, "block", "after the last entry of a block")
        header = parse_header(fields.raw("header"), self._genesis.cluster_id)
        fields.fixed("hash", header.hash.hex(), "the header's fields give")
        if self._header is None:
            self._check_first_header(header)
            fields.fixed("certificate", None, "the genesis block has")
        else:
            self._check_link(header, self._header)
            commit = check_commit(fields.raw("certificate"), header, self._signatures)
            self._view = commit.view
            self._lifecycle.begin_block(header.time_ms, has_commands=header.commands_root != EMPTY_ROOT)
        self._header = header
        self._leaves.clear()
        self._next = partial(self._entry, header)
        if header.audit_size == self._size:
            self._end_block(header)

    def _check_first_header(self, header: Header) -> None:
        if header.height != 0 or header.parent != _NO_PARENT:
            raise VerificationError("the first block must be height 0 with a parent of zeros")
        if header.epoch != 0:
            raise VerificationError(f"header.epoch is {header.epoch}, but a record begins in epoch 0")
        if header.time_ms != self._genesis.created_ms:
            raise VerificationError(
                f"header.time_ms is {header.time_ms}, but genesis is of {self._genesis.created_ms}"
            )
        if header.commands_root != EMPTY_ROOT or header.audit_size != 1:
            raise VerificationError("the genesis block must hold no commands and one entry")

    def _check_link(self, header: Header, previous: Header) -> None:
        if header.height != previous.height + 1:
            raise VerificationError(
                f"header.height is {header.height}, but the block before is {previous.height}"
            )
        epoch = self._lifecycle.epoch
        if header.epoch != epoch:
            begun = (
                "nothing has ended epoch" if epoch == previous.epoch else "the block before has begun epoch"
            )
            raise VerificationError(f"header.epoch is {header.epoch}, but {begun} {epoch}")
        if header.parent != previous.hash:
            raise VerificationError(f"header.parent is not the hash of block {previous.height}")
        if header.time_ms <= previous.time_ms:
            raise VerificationError(
                f"header.time_ms {header.time_ms} is not after the parent's {previous.time_ms}"
            )
        if header.audit_size < previous.audit_size:
            raise VerificationError(
                f"header.audit_size {header.audit_size} is below the parent's {previous.audit_size}"
            )

    def _entry(self, header: Header, value: dict[str, object]) -> None:
        where = f"before audit_size {header.audit_size} is reached, at {self._size},"
        _line(value, _ENTRY_KEYS, "entry", where)
        del value["type"]
        entry = parse_entry(value)
        self.place = f", block {header.height}, {entry}"
        if entry.sequence != self._size:
            raise VerificationError(f"sequence is {entry.sequence}, but the next one is {self._size}")
        if entry.prev_hash != self._head:
            raise VerificationError("prev_hash is not the hash of the entry before")
        if entry.timestamp != seconds(header.time_ms):
            raise VerificationError(
                f"timestamp is {entry.timestamp}, but the block's time is {seconds(header.time_ms)}"
            )
        if entry.sequence == 0:
            self._check_genesis(entry)
        else:
            self._lifecycle.apply(entry)
        self._events[entry.event_type] += 1
        self._leaves.append(entry.hash)
        self._size += 1
        self._head = entry.hash.hex()
        if self._size == header.audit_size:
            self._end_block(header)

    def _check_genesis(self, entry: Entry) -> None:
        if (entry.event_type, entry.actor_id, entry.proposal_id) != ("genesis", "genesis", ""):
            raise VerificationError("entry 0 must be the genesis event, by the actor genesis, on no proposal")
        data = Fields(entry.data, _GENESIS_DATA_KEYS, "data")
        members = self._genesis.members
        data.fixed("cluster_id", self._genesis.cluster_id.hex(), "the genesis file makes it")
        data.fixed("epoch", members.epoch, "a record begins in epoch")
        expected = [
            {"id": member.id, "public_key": member.public_key.hex(), "weight": member.weight}
            for member in members.members
        ]
        data.fixed("members", expected, "the genesis file says")

    def _end_block(self, header: Header) -> None:
        """Check what the header says about the entries, and that none is missing."""
        self.place = f", block {header.height}"
        if header.entries_root != merkle_root(self._leaves):
            raise VerificationError("header.entries_root is not the root over this block's entries")
        if header.audit_head.hex() != self._head:
            raise VerificationError("header.audit_head is not the hash of the last entry")
        if header.height:
            if self._view < self._lifecycle.recorded_view:
                raise VerificationError(
                    f"the block was certified in view {self._view}, but it is on record that view "
                    f"{self._lifecycle.recorded_view} had begun"
                )
            self._lifecycle.end_block()
        if self._progress is not None:
            self._progress(header.height, self._claimed_height)
        self._next = partial(self._end, header) if header.height == self._claimed_height else self._block

    def _end(self, header: Header, value: dict[str, object]) -> None:
        fields = _line(value, _END_KEYS, "end", f"after height {self._claimed_height}, the last one,")
        fields.fixed("height", header.height, "the last block's is")
        fields.fixed("audit_size", header.audit_size, "the last block's is")
        fields.fixed("audit_head", header.audit_head.hex(), "the last block's is")
        fields.fixed("block_hash", header.hash.hex(), "the last block's is")
        if self._claimed_size != header.audit_size:
            raise VerificationError(
                f"the first line says audit_size {self._claimed_size}, not {header.audit_size}"
            )
        self._next = self._after_end
        self._report = self._make_report(header)

    def _after_end(self, value: dict[str, object]) -> None:
        raise VerificationError("there is more after the end line")

    def _make_report(self, header: Header) -> ExportReport:
        state = self._lifecycle
        return ExportReport(
            cluster_id=self._genesis.cluster_id,
            height=header.height,
            time_ms=header.time_ms,
            block_hash=header.hash,
            audit_size=header.audit_size,
            audit_head=header.audit_head,
            blocks=header.height + 1,
            entries=self._size,
            signatures=self._signatures.checked,
            proposals=state.proposals,
            open_proposals=state.open_proposals,
            executed=state.executed,
            epoch=state.epoch,
            faulty=state.faulty,
            decisions=dict(state.decisions),
            events=dict(self._events),
        )


def _line(value: dict[str, object], expected: frozenset[str], kind: str, where: str) -> Fields:
    """The fields of a line, which must be of this kind; told first, because the kind decides on the keys."""
    if value.get("type") != kind:
        raise VerificationError(f'type is not "{kind}", which must stand {where}')
    return Fields(value, expected)
