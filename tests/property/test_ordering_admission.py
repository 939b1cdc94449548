"""Whatever a peer sends, well formed as the decoders leave it: refused as the peer's fault, or harmless.

Nothing else may be raised (it would stop the node), nothing may be promised, and time must not be lost in
ticks that do not end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support import ordering_values as values
from tests.support.ordering_follower import QUORUM, good_block
from tests.support.ordering_toy import Cluster, Node

from replication.ordering.blocks import Block
from replication.ordering.effects import SaveBody, SaveSignState
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.statements import Phase

small = st.integers(0, 3)
maybe_certificates = st.none() | values.certificates

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(BlockProposal, values.statements, values.blocks, maybe_certificates),
    st.builds(Acknowledgement, values.statements),
    st.builds(CertificateMessage, values.certificates),
    st.builds(CommandMessage, st.binary(max_size=100), st.booleans()),
    st.builds(Heartbeat, small, small, small, values.numbers, values.digests, maybe_certificates),
    st.builds(SuspectMessage, values.suspects),
    st.builds(TimeoutMessage, values.timeout_reports),
    st.builds(TimeoutCertificateMessage, values.timeout_certificates),
    st.builds(NewViewMessage, values.new_views, values.timeout_certificates),
    st.builds(Witness, st.lists(values.statements, max_size=3).map(tuple), st.none() | values.timeouts),
    st.builds(BodyRequest, values.digests),
    st.builds(BodyMessage, values.blocks),
)


def fresh() -> tuple[Cluster, Node]:
    cluster = Cluster(4)
    (node,) = cluster.boot("m1")
    return cluster, node


@given(st.lists(st.tuples(st.sampled_from(["m0", "m2", "m3", "m9"]), messages), max_size=4))
def test_unsigned_messages_move_nothing(arrivals: list[tuple[str, Message]]) -> None:
    cluster, node = fresh()
    before = node.sign_state
    for sender, message in arrivals:
        node.offer(sender, message)
        cluster.now_ms += 1
        node.tick()
    assert node.sign_state is before
    assert (node.replica.view, node.replica.height) == (0, 0)
    assert not [item for item in node.written if isinstance(item, SaveBody | SaveSignState)]


# Messages that were right, with parts put into places where they do not belong, and signed again.


def parts(cluster: Cluster, node: Node) -> dict[type, list[Any]]:
    """Valid values of each kind, all of them signed by members."""
    first, second = good_block(cluster, node), good_block(cluster, node, "b")
    hashed: list[Block | tuple[int, bytes]] = [first, second, (2, bytes(32))]
    certificates = [
        cluster.certificate(phase, block, QUORUM, view)
        for phase in Phase
        for block in hashed
        for view in (0, 2)
    ]
    locks = [item for item in certificates if item.key.phase is Phase.PREPARE and item.key.height == 1]
    statements = [
        cluster.statement(phase, name, block, view)
        for phase in Phase
        for name in ("m0", "m2")
        for block in hashed
        for view in (0, 2)
    ]
    reports = [cluster.report(name, view) for name in ("m0", "m2", "m3") for view in (0, 1)]
    reports += [cluster.report("m2", 2, lock=lock) for lock in locks]
    closings = [cluster.timeout_certificate(view, signers=QUORUM) for view in (0, 1)]
    closings.append(cluster.timeout_certificate(2, reports[-1], signers=("m0", "m3")))
    openings = [cluster.new_view(f"m{closing.view + 1}", closing) for closing in closings]
    return {
        BlockProposal: [
            BlockProposal(statement, block, parent)
            for statement in statements
            for block in (first, second)
            for parent in (None, certificates[-1])
        ],
        Acknowledgement: [Acknowledgement(statement) for statement in statements],
        CertificateMessage: [CertificateMessage(certificate) for certificate in certificates],
        TimeoutMessage: [
            TimeoutMessage(replace(report, seen=seen)) for report in reports for seen in (None, statements[0])
        ],
        TimeoutCertificateMessage: [TimeoutCertificateMessage(closing) for closing in closings],
        NewViewMessage: [
            NewViewMessage(opening.statement, closing) for opening in openings for closing in closings
        ],
        SuspectMessage: [
            SuspectMessage(cluster.suspect(name, view)) for name in ("m0", "m2", "m3") for view in (0, 2, 3)
        ],
        Heartbeat: [Heartbeat(0, view, 0, 1, bytes(32), certificates[-1]) for view in (0, 2)],
        Witness: [Witness(tuple(statements[:2]), reports[0].timeout)],
        BodyMessage: [BodyMessage(first), BodyMessage(second)],
        CommandMessage: [CommandMessage(cluster.note("m2", text), True) for text in "ab"],
    }


PARTS = parts(*fresh())


@given(st.data())
def test_signed_messages_in_any_order_end_in_promises_that_agree(data: st.DataObject) -> None:
    """The replica may believe what more than f members sign together. It never promises twice, never fails,
    and goes on after a restart at any point."""
    cluster, node = fresh()
    promised: list[Any] = []
    for _ in range(data.draw(st.integers(1, 14))):
        kind = data.draw(st.sampled_from(list(PARTS)))
        sender = data.draw(st.sampled_from(["m0", "m2", "m3"]))
        node.offer(sender, data.draw(st.sampled_from(PARTS[kind])))
        node.tick()
        if data.draw(st.integers(0, 9)) == 0:
            node.restart()
        cluster.now_ms += data.draw(st.sampled_from([0, 1, 250, 1_000]))
        promised.append(node.sign_state)
    for phase in Phase:
        signed = [state.last(phase) for state in promised if state.last(phase) is not None]
        positions = [item.key.position for item in signed if item is not None]
        assert positions == sorted(positions)
        assert len({item.key for item in signed if item is not None}) == len(set(positions))
    views = [state.timed_out_view for state in promised]
    assert views == sorted(views)
