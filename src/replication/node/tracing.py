"""What a node did for each proposal, as spans for a collector that speaks OpenTelemetry (OTLP over HTTP).

Nodes tell each other nothing about traces: the id of a trace follows from the digest of its proposal, so each
node reports its own spans and the collector finds them together. Spans, with this node's wall clock:

* `order`: the proposal was first seen here, until the block that holds it was durable here;
* `vote`: the policy of this voter was asked, until it chose;
* `decide`: from that block to the one of the tally; `execute`: from the tally to a receipt;
* calls of clients that write about the proposal, by their name;
* `proposal`: all of it until the tally, told by its proposer; the parent of all others.

Nothing here waits: finished spans go into a bounded queue that a thread empties, and what finds no room is
dropped. The libraries (`agent-consensus[tracing]`) are imported when the configuration names a collector.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from replication import __version__
from replication.consensus.model import AuditEntry
from replication.errors import OperatorError
from replication.ledger.commands import ProposalCommand, decode_command
from replication.ledger.execution import BlockExecution

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

__all__ = ["Traces", "TracingError", "connect", "trace_id_of"]

MAX_STORIES: Final = 4096
"""Proposals that are followed at once; the oldest are forgotten."""

MAX_SPANS_WAITING: Final = 2048
SPANS_AT_ONCE: Final = 256
EXPORT_EVERY_MS: Final = 1_000
EXPORT_SECONDS: Final = 5.0
"""How long the collector may take to accept a batch."""

STOP_SECONDS: Final = 2.0
"""How long a node that stops waits for the last spans to be taken."""

_TRACE_DOMAIN: Final = b"agent-consensus trace v1\n"
_ROOT_DOMAIN: Final = b"agent-consensus root span v1\n"

Attributes = Mapping[str, str | int]


class TracingError(OperatorError):
    """Traces are configured, and the libraries for them are missing."""

    reason: ClassVar[str] = "TRACING_NOT_INSTALLED"


def trace_id_of(digest: bytes) -> int:
    """The trace of the proposal with this digest, the same at every node."""
    return int.from_bytes(hashlib.sha256(_TRACE_DOMAIN + digest).digest()[:16])


def _root_of(digest: bytes) -> int:
    return int.from_bytes(hashlib.sha256(_ROOT_DOMAIN + digest).digest()[:8])


@dataclass(slots=True)
class _Story:
    """When this node learnt what of one proposal, in nanoseconds since the Unix epoch; 0: not yet."""

    seen_ns: int = 0
    asked_ns: int = 0
    committed_ns: int = 0
    decided_ns: int = 0


class Traces:
    """Makes the spans of one node. `processor` takes those that are finished; it must not block."""

    def __init__(self, processor: SpanProcessor, member: str, cluster_id: bytes) -> None:
        from opentelemetry.sdk.resources import Resource

        self._processor = processor
        self._member = member
        self._cluster_id = cluster_id
        self._stories: OrderedDict[bytes, _Story] = OrderedDict()
        self._resource = Resource.create(
            {
                "service.name": "agent-consensus",
                "service.version": __version__,
                "service.instance.id": member,
                "acp.cluster": cluster_id.hex(),
            }
        )

    def stop(self) -> None:
        """Hand over what waits, if the collector takes it soon. Blocks for `STOP_SECONDS` at most."""
        thread = threading.Thread(target=self._processor.shutdown, name="tracing-stop", daemon=True)
        thread.start()
        thread.join(STOP_SECONDS)

    def seen(self, commands: Iterable[bytes]) -> None:
        """These commands were announced."""
        now_ns = time.time_ns()
        for raw in commands:
            command = decode_command(raw)
            if isinstance(command, ProposalCommand):
                story = self._story(command.digest(self._cluster_id))
                story.seen_ns = story.seen_ns or now_ns

    def asked(self, digest: bytes) -> None:
        """The policy is asked about a proposal."""
        self._story(digest).asked_ns = time.time_ns()

    def chosen(self, digest: bytes, value: str) -> None:
        """It has chosen how to vote."""
        story = self._story(digest)
        if story.asked_ns:
            self._tell("vote", digest, story.asked_ns, time.time_ns(), {"acp.vote": value})
            story.asked_ns = 0

    def committed(self, execution: BlockExecution) -> None:
        """A block is durable here."""
        now_ns = time.time_ns()
        digests = {finished.id: digest for digest, finished in execution.finished.items()}
        for entry in execution.entries:
            if entry.event_type == "propose":
                self._ordered(bytes.fromhex(entry.data["digest"]), entry, execution.height, now_ns)
            elif entry.event_type in ("tally", "expired", "execute"):
                digest = digests.get(entry.proposal_id or "")
                if digest is not None:
                    self._finished(digest, entry, execution.finished[digest].proposer, now_ns)

    def called(self, name: str, digest: bytes, began_ns: int, call_id: str) -> None:
        """A client's call about a proposal was answered."""
        self._tell(name, digest, began_ns, time.time_ns(), {"acp.call": call_id})

    def _ordered(self, digest: bytes, entry: AuditEntry, height: int, now_ns: int) -> None:
        story = self._story(digest)
        story.seen_ns = story.seen_ns or now_ns
        story.committed_ns = now_ns
        facts: Attributes = {"acp.proposal": entry.proposal_id or "", "acp.height": height}
        self._tell("order", digest, story.seen_ns, now_ns, facts)

    def _finished(self, digest: bytes, entry: AuditEntry, proposer: str, now_ns: int) -> None:
        story = self._story(digest)
        facts = {"acp.proposal": entry.proposal_id or ""}
        if entry.event_type == "execute":
            facts |= {"acp.executor": entry.actor_id or "", "acp.outcome": entry.data["outcome"]}
            self._tell("execute", digest, story.decided_ns or now_ns, now_ns, facts)
            return
        story.decided_ns = now_ns
        facts["acp.decision"] = entry.data.get("decision", entry.event_type)
        self._tell("decide", digest, story.committed_ns or now_ns, now_ns, facts)
        if proposer == self._member:
            began_ns = story.seen_ns or story.committed_ns or now_ns
            self._tell("proposal", digest, began_ns, now_ns, facts, is_root=True)

    def _story(self, digest: bytes) -> _Story:
        story = self._stories.get(digest)
        if story is None:
            story = self._stories[digest] = _Story()
            if len(self._stories) > MAX_STORIES:
                self._stories.popitem(last=False)
        return story

    def _tell(
        self,
        name: str,
        digest: bytes,
        began_ns: int,
        ended_ns: int,
        facts: Attributes,
        *,
        is_root: bool = False,
    ) -> None:
        self._processor.on_end(self._span(name, digest, began_ns, ended_ns, facts, is_root))

    def _span(
        self, name: str, digest: bytes, began_ns: int, ended_ns: int, facts: Attributes, is_root: bool
    ) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.trace import SpanContext, TraceFlags

        def context(span_id: int) -> SpanContext:
            return SpanContext(
                trace_id_of(digest), span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )

        root = context(_root_of(digest))
        return ReadableSpan(
            name=name,
            context=root if is_root else context(RandomIdGenerator().generate_span_id()),
            parent=None if is_root else root,
            resource=self._resource,
            attributes={**facts, "acp.member": self._member},
            start_time=began_ns,
            end_time=ended_ns,
        )


def connect(endpoint: str, member: str, cluster_id: bytes) -> Traces:
    """Traces that go to the collector at `endpoint`, which need not be there.

    Raises:
        TracingError: the libraries are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingError(
            f"config.toml names a collector for traces, and {error.name or 'a library'} is not installed. "
            'Install "agent-consensus[tracing]", or remove [tracing].'
        ) from error
    # They say for every batch that a collector is away.
    for noisy in ("opentelemetry", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    processor = BatchSpanProcessor(
        OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS),
        max_queue_size=MAX_SPANS_WAITING,
        max_export_batch_size=SPANS_AT_ONCE,
        schedule_delay_millis=EXPORT_EVERY_MS,
    )
    return Traces(processor, member, cluster_id)
