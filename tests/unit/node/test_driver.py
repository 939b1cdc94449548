"""Several drivers in one process: what they promise, while nodes crash, links break and disks fail.

The cluster of `tests.support.node_cluster` watches all nodes in every test: nothing leaves before it is on
disk, the store is left alone while the worker writes, and no member contradicts itself.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.node_cluster import FAST, Cluster, CrashError, Node, eventually

from replication.consensus import VoteValue
from replication.consensus.model import Decision
from replication.errors import InvariantError, PeerError, StorageError
from replication.identity.genesis import Rules
from replication.ledger.commands import CommandError, ProposalCommand, decode_command, make_close
from replication.ledger.history import OpenProposal
from replication.ledger.journal import SignJournal
from replication.ledger.outcomes import Outcome
from replication.node.driver import (
    DriverSettings,
    NodeStoppingError,
    NoQuorumError,
    NotSigningError,
)
from replication.node.policies import ManualPolicy
from replication.ordering.messages import BodyRequest, CommandMessage, Message, SuspectMessage
from replication.ordering.statements import Suspect

SECONDS = 100
PATIENT = replace(FAST, idle_timeout_ms=60_000, busy_timeout_ms=60_000)
"""Nobody gives up a coordinator, however slow the machine is."""


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, SECONDS))


def is_writing(node: Node) -> bool:
    """Whether the store is the worker's now. It cannot become so before the caller awaits something."""
    return node.driver._is_writing


def decided(node: Node, proposal_id: str) -> bool:
    finished = None if is_writing(node) else node.store.finished_by_id(proposal_id)
    return finished is not None and finished.decision is Decision.APPROVED


async def open_proposal(node: Node, proposal_id: str) -> OpenProposal:
    """An open proposal, once it is known at this node."""
    while True:
        proposal = await node.driver.read(lambda _: node.application.open_proposal(proposal_id))
        if proposal is not None:
            return proposal
        await node.driver.changes.wait_above(node.height)


async def all_decided(cluster: Cluster, *proposal_ids: str) -> None:
    up = [node for node in cluster.nodes if node.is_up]
    await eventually(lambda: all(decided(node, name) for node in up for name in proposal_ids))


def pause_writing(node: Node) -> threading.Event:
    """The worker of this node waits before each write until the event is set."""
    gate = threading.Event()
    recorder = node.driver._recorder
    write = recorder.write

    def held(items: Any, withdrawn: Any = ()) -> None:
        gate.wait(30)
        write(items, withdrawn)

    recorder.write = held  # type: ignore[method-assign]
    return gate


# ----------------------------------------------------------------------------------------- in good weather


def test_what_any_node_proposes_is_decided_everywhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            outcomes = await asyncio.gather(
                *(node.propose(f"r-{node.name}-{n}") for node in cluster.nodes for n in range(5))
            )
            assert all(outcome.accepted for outcome in outcomes)
            ids = [outcome.proposal_id for outcome in outcomes]
            assert len(set(ids)) == 20
            await all_decided(cluster, *ids)
            await cluster.level()
            assert all(node.driver.status().counters.decisions == 20 for node in cluster.nodes)

    run(scenario())


@pytest.mark.parametrize("size", [1, 2, 7])
def test_clusters_of_other_sizes(size: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, size) as cluster:
            outcome = await cluster[size - 1].propose("r")
            assert outcome.accepted
            await all_decided(cluster, outcome.proposal_id)
            await cluster.level()

    run(scenario())


def test_a_command_is_answered_when_it_is_durable_here(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            outcome = await cluster[2].propose("r")
            seen = await cluster[2].driver.read(lambda store: store.request("node-2", "r"))
            assert seen is not None
            assert outcome.entry_sequence < cluster[2].driver.changes.audit_size

    run(scenario())


def test_nothing_is_answered_or_promised_while_the_disk_is_busy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            node = cluster[2]
            gate = pause_writing(node)
            height = node.height
            task = asyncio.ensure_future(node.propose("r"))
            # The other three go on without it.
            await eventually(lambda: decided(cluster[0], "prop-0001"))
            assert not task.done()
            assert node.height == height
            assert not node.watch.is_writing
            read = asyncio.ensure_future(node.driver.read(lambda store: store.request("node-2", "r")))
            await asyncio.sleep(0.05)
            assert not read.done()  # what it would see is not durable yet
            gate.set()
            assert (await task).accepted
            await read
            await cluster.level()

    run(scenario())


def test_a_repeated_command_gets_the_first_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            command = cluster[1].proposal("r")
            first, second = await asyncio.gather(
                cluster[1].driver.submit(command), cluster[1].driver.submit(command)
            )
            assert first == second
            third = await cluster[1].driver.submit(command)
            assert (third.accepted, third.reason) == (True, "DUPLICATE")
            assert third.proposal_id == first.proposal_id

    run(scenario())


def test_refusals_are_outcomes_and_bad_commands_errors(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, policy=ManualPolicy) as cluster:
            outcome = await cluster[1].propose("r")
            reused = await cluster[1].propose("r", target="someone-else")
            assert (reused.accepted, reused.reason) == (False, "REQUEST_ID_REUSED")
            proposal = await open_proposal(cluster[2], "prop-0001")
            close = make_close(
                cluster[2].key.sign,
                *(cluster.genesis.cluster_id, 0),
                closer="node-2",
                proposal_digest=proposal.digest,
            )
            refused = await cluster[2].driver.submit(close)
            assert (refused.accepted, refused.reason) == (False, "NOT_PROPOSER")
            with pytest.raises(CommandError):
                await cluster[1].driver.submit(b"not a command")
            foreign = bytearray(cluster[1].proposal("y"))
            foreign[-1] ^= 1  # a bad signature
            with pytest.raises(CommandError):
                await cluster[1].driver.submit(bytes(foreign))
            assert outcome.proposal_id == "prop-0001"

    run(scenario())


def test_a_command_that_became_void_while_it_waited_is_answered(tmp_path: Path) -> None:
    """Its author's coordinator never ordered it, and now it can have no effect."""

    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            first, second = cluster[1].proposal("r"), cluster[1].proposal("r", target="someone-else")

            def second_is_lost(sender: str, to: str, message: Message) -> bool:
                return isinstance(message, CommandMessage) and message.command == second

            cluster.network.dropped = second_is_lost
            waiting = asyncio.ensure_future(cluster[1].driver.submit(second))
            await asyncio.sleep(0)
            assert (await cluster[1].driver.submit(first)).accepted
            outcome = await waiting
            assert (outcome.accepted, outcome.reason) == (False, "REQUEST_ID_REUSED")
            await eventually(lambda: cluster[1].driver.status().pending == 0)

    run(scenario())


def test_a_voting_window_closes_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, policy=ManualPolicy) as cluster:
            await cluster[1].propose("r", window_ms=150)
            await cluster[2].propose("s", window_ms=0, expiry_ms=200)

            def is_over(node: Node) -> bool:
                return not is_writing(node) and all(
                    node.store.finished_by_id(name) is not None for name in ("prop-0001", "prop-0002")
                )

            await eventually(lambda: all(is_over(node) for node in cluster.nodes))

    run(scenario())


def test_watchers_hear_of_every_growth(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            changes = cluster[3].driver.changes
            size = changes.audit_size
            watcher = asyncio.ensure_future(changes.wait_beyond(size))
            await cluster[0].propose("r")
            grown = await watcher
            entries = await cluster[3].driver.read(lambda store: store.entries(size, grown - size))
            assert len(entries) == grown - size

    run(scenario())


def test_a_burst_is_written_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, replica_settings=replace(PATIENT, repeat_ms=1_000)) as cluster:
            before = [node.watch.writes for node in cluster.nodes]
            outcomes = await asyncio.gather(*(cluster[0].propose(f"r{n}") for n in range(100)))
            await all_decided(cluster, outcomes[-1].proposal_id)
            await cluster.level()
            for node, count in zip(cluster.nodes, before, strict=True):
                assert node.watch.writes - count < 100  # four for each proposal, if each went alone

    run(scenario())


def test_the_journal_keeps_nothing_that_is_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            outcomes = await asyncio.gather(*(cluster[1].propose(f"r{n}") for n in range(5)))
            await all_decided(cluster, *(outcome.proposal_id for outcome in outcomes))
            await cluster[1].propose("last")  # with what this writes, the journal forgets the others
            await cluster.level()
            await cluster[1].stop()
            journal, state = SignJournal.open(cluster[1].journal_path, cluster.genesis.cluster_id, "node-1")
            journal.close()
            for command in map(decode_command, state.commands):
                assert not isinstance(command, ProposalCommand) or command.request_id == "last"
            assert len(state.commands) <= 2

    run(scenario())


# ------------------------------------------------------------------------------------------- votes by hand


def test_votes_by_hand(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, policy=ManualPolicy) as cluster:
            unknown = await cluster[0].driver.cast("prop-0001", VoteValue.APPROVE)
            assert unknown.reason == "UNKNOWN_PROPOSAL"
            await cluster[1].propose("r")
            await cluster.level()
            first, again, other = await asyncio.gather(
                cluster[0].driver.cast("prop-0001", VoteValue.APPROVE, "sure"),
                cluster[0].driver.cast("prop-0001", VoteValue.APPROVE, "sure"),
                cluster[0].driver.cast("prop-0001", VoteValue.REJECT, "no"),
            )
            assert first.accepted
            assert first == again
            assert other.reason == "ALREADY_VOTED"
            await cluster[1].driver.cast("prop-0001", VoteValue.APPROVE)
            await cluster[2].driver.cast("prop-0001", VoteValue.APPROVE)
            await all_decided(cluster, "prop-0001")
            late = await cluster[3].driver.cast("prop-0001", VoteValue.REJECT)
            assert late.reason == "PROPOSAL_NOT_OPEN"
            assert (await cluster[0].driver.cast("prop-0001", VoteValue.APPROVE, "sure")).accepted

    run(scenario())


def test_a_vote_by_hand_can_be_changed_where_the_rules_allow_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, policy=ManualPolicy, rules=Rules(allow_vote_change=True)) as cluster:
            await cluster[1].propose("r")
            values = (VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN)
            outcomes = await asyncio.gather(*(cluster[1].driver.cast("prop-0001", value) for value in values))
            assert all(outcome.accepted for outcome in outcomes)
            proposal = await open_proposal(cluster[1], "prop-0001")
            assert [(vote.value, vote.revision) for vote in proposal.votes] == [(VoteValue.ABSTAIN, 2)]

    run(scenario())


def test_a_node_that_may_have_forgotten_casts_no_votes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            cluster.network.isolate("node-3")
            await cluster[3].restart()
            with pytest.raises(NotSigningError, match="waiting to hear"):
                await cluster[3].driver.cast("prop-0001", VoteValue.APPROVE)
            cluster.network.heal()
            await cluster.speaking()

    run(scenario())


# ---------------------------------------------------------------------------- crashes, silence, partitions


def test_a_silent_coordinator_is_replaced_and_catches_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            await cluster[1].propose("before")
            cluster.network.isolate("node-0")
            outcome = await cluster[1].propose("during")
            assert outcome.accepted
            await eventually(lambda: decided(cluster[2], outcome.proposal_id))
            assert cluster[2].driver.status().view > 0
            cluster.network.heal()
            await all_decided(cluster, outcome.proposal_id)
            await cluster.level()
            assert (await cluster[0].propose("after")).accepted

    run(scenario())


def test_without_a_quorum_callers_are_told_and_the_command_is_kept(tmp_path: Path) -> None:
    settings = DriverSettings(contact_ms=5_000, no_quorum_after_ms=500)

    async def scenario() -> None:
        async with Cluster(tmp_path, settings=settings) as cluster:
            node = cluster[1]
            cluster.network.isolate("node-0", "node-1")
            await eventually(lambda: not node.driver.can_progress)
            assert not node.driver.status().can_progress
            command = node.proposal("r")
            with pytest.raises(NoQuorumError, match="1 of the 3 other nodes"):
                await node.driver.submit(command)
            cluster.network.heal()
            await eventually(lambda: node.driver.can_progress)
            await all_decided(cluster, "prop-0001")
            outcome = await node.driver.submit(command)
            assert (outcome.accepted, outcome.proposal_id) == (True, "prop-0001")

    run(scenario())


def test_a_node_that_was_away_catches_up_page_by_page(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            await cluster[3].stop()
            for number in range(40):
                await cluster[0].propose(f"r{number}", evidence=b'{"text":"' + b"x" * 4_000 + b'"}')
            await cluster[3].start()
            await cluster.level()
            assert cluster[3].driver.status().counters.pages >= 2
            await all_decided(cluster, "prop-0040")

    run(scenario())


def test_forged_pages_are_refused_and_another_peer_is_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            await cluster[3].stop()
            for number in range(5):
                await cluster[0].propose(f"r{number}")
            await cluster.level()

            def forged(peer: str, page: Any) -> Any:
                """node-0 gives blocks with each other's certificates."""
                certificates = [certificate for _, certificate in page][::-1]
                blocks = [block for block, _ in page]
                return list(zip(blocks, certificates, strict=True)) if peer == "node-0" else page

            cluster.network.forged = forged
            await cluster[3].start()
            cluster[3].driver._catch_up.behind("node-0", cluster[0].height)
            await cluster.level()
            await cluster[1].propose("after")
            await cluster.level()

    run(scenario())


def test_what_peers_send_wrong_is_dropped_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            bad = SuspectMessage(Suspect(0, 0, "node-2", bytes(64)))
            for _ in range(20):
                await cluster[1].driver.receive("node-3", bad)  # not its own
            await cluster[1].driver.receive("node-3", CommandMessage(b"rubbish"))
            await cluster[1].driver.receive("node-3", BodyRequest(bytes(32)))
            await eventually(lambda: cluster[1].driver.status().peers["node-3"].refused == 21)
            assert (await cluster[1].propose("r")).accepted

    run(scenario())


@pytest.mark.parametrize("after_writing", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_any_write_loses_nothing_that_was_answered(
    seed: int, after_writing: bool, tmp_path: Path
) -> None:
    """One node, the coordinator or another, ends at some write: before it, or before anything was sent
    after it."""
    chance = random.Random(seed)

    async def client(node: Node, answered: dict[str, Outcome], name: str, count: int) -> None:
        for number in range(count):
            request = f"{name}-{number}"
            command = None
            while request not in answered:
                if not node.is_up:
                    await asyncio.sleep(0.01)
                    continue
                command = command or node.proposal(request)
                try:
                    answered[request] = await node.driver.submit(command)
                except (NodeStoppingError, NoQuorumError):
                    await asyncio.sleep(0.01)

    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            victim = cluster[chance.randrange(4)]
            answered: dict[str, Outcome] = {}
            clients = [
                asyncio.ensure_future(client(node, answered, f"{node.name}-{number}", 4))
                for node in cluster.nodes
                for number in range(2)
            ]
            for _ in range(3):
                victim.watch.crash_at = (victim.watch.writes + chance.randint(1, 12), after_writing)
                await asyncio.wait({victim.driver.fatal}, timeout=1)
                victim.watch.crash_at = None
                if victim.driver.fatal.done():
                    assert isinstance(victim.driver.fatal.exception(), CrashError)
                await victim.restart()
            await asyncio.gather(*clients)
            await cluster.level()
            for request, outcome in answered.items():
                assert outcome.accepted
                name = request.rsplit("-", 2)[0]
                assert all(node.store.request(name, request) is not None for node in cluster.nodes)
            assert cluster[0].store.entries(0, 10_000, "evidence") == []

    run(scenario())


def test_everyone_crashes_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            outcomes = [await cluster[number % 4].propose(f"r{number}") for number in range(8)]
            unfinished = [
                asyncio.ensure_future(cluster[number % 4].propose(f"late{number}")) for number in range(8)
            ]
            await asyncio.sleep(0.02)
            for node in cluster.nodes:
                await node.kill()
            await asyncio.gather(*unfinished, return_exceptions=True)
            for node in cluster.nodes:
                await node.start()
            await cluster.speaking()
            await cluster[0].propose("after")
            await all_decided(cluster, *(outcome.proposal_id for outcome in outcomes))
            await cluster.level()

    run(scenario())


def test_a_kept_command_is_submitted_again_after_a_crash(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            cluster.network.isolate("node-2")
            command = cluster[2].proposal("r")
            lost = asyncio.ensure_future(cluster[2].driver.submit(command))
            await eventually(lambda: cluster[2].driver.status().pending > 0)
            await eventually(lambda: not is_writing(cluster[2]))
            await cluster[2].restart()
            with pytest.raises(NodeStoppingError):
                await lost
            cluster.network.heal()
            await all_decided(cluster, "prop-0001")
            await eventually(lambda: cluster[2].driver.status().pending == 0)

    run(scenario())


# -------------------------------------------------------------------------------------------------- epochs


def test_own_commands_are_signed_again_in_a_new_epoch(tmp_path: Path) -> None:
    """In the old one nobody shows them as overdue, or gives up the coordinator that does not get them."""

    async def scenario() -> None:
        async with Cluster(tmp_path, policies={2: ManualPolicy()}, replica_settings=PATIENT) as cluster:
            node = cluster[1]
            await node.propose("open", window_ms=0)
            await cluster.level()
            await cluster[3].stop()
            cluster.network.dropped = lambda sender, to, message: (
                sender in ("node-1", "node-2")
                and isinstance(message, CommandMessage)
                and decode_command(message.command).epoch == 0
            )
            submitted = node.driver.status().counters.submitted
            renewed = asyncio.ensure_future(
                node.driver.submit(node.proposal("r"), lambda epoch: node.proposal("r", epoch))
            )
            given_up = asyncio.ensure_future(node.driver.submit(node.proposal("s")))
            await eventually(lambda: node.driver.status().counters.submitted == submitted + 2)
            await cluster[3].start_on_a_new_disk()
            assert (await renewed).accepted
            refused = await given_up
            assert (refused.accepted, refused.reason) == (False, "EPOCH_OVER")
            assert node.driver.status().epoch == 1
            await cluster.speaking()
            assert (await cluster[3].propose("t")).accepted
            await cluster.level()

    run(scenario())


# ----------------------------------------------------------------------------------------------- fail-stop


@pytest.mark.parametrize(
    "error", [StorageError("the disk is gone"), InvariantError("cannot be"), RuntimeError("a bug")]
)
def test_a_failing_disk_stops_the_node_before_it_promises_anything(error: Exception, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            node = cluster[1]
            await node.propose("before")

            def broken(items: Any, withdrawn: Any = ()) -> None:
                raise error

            node.driver._recorder.write = broken  # type: ignore[method-assign]
            sent: list[str] = []
            waiting = asyncio.ensure_future(node.propose("r"))
            await asyncio.wait({node.driver.fatal})
            assert node.driver.fatal.exception() is error

            def noted(sender: str, to: str, message: Message) -> bool:
                sent.extend([to] if sender == node.name else [])
                return False

            cluster.network.dropped = noted
            with pytest.raises(NodeStoppingError):
                await waiting
            with pytest.raises(NodeStoppingError):
                await node.propose("again")
            with pytest.raises(NodeStoppingError):
                await node.driver.read(lambda store: store.head())
            with pytest.raises(NodeStoppingError):
                await node.driver.changes.wait_above(10**9)
            await cluster[0].propose("the-others-go-on")
            assert sent == []

    run(scenario())


def test_an_invariant_that_breaks_in_the_replica_stops_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            node = cluster[1]

            def broken(*arguments: object) -> None:
                raise InvariantError("two blocks at one height")

            monkeypatch.setattr(node.driver._replica, "receive", broken)
            await asyncio.wait({node.driver.fatal})
            assert isinstance(node.driver.fatal.exception(), InvariantError)

    run(scenario())


def test_a_peers_error_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            node = cluster[1]

            def refusing(*arguments: object) -> None:
                raise PeerError("whatever")

            with monkeypatch.context() as patch:
                patch.setattr(node.driver._replica, "receive", refusing)
                await eventually(lambda: node.driver.status().counters.refused > 3)
            assert not node.driver.fatal.done()
            assert (await node.propose("r")).accepted

    run(scenario())


def test_stopping_tells_everyone_who_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            node = cluster[1]
            cluster.network.isolate("node-1")
            waiting = asyncio.ensure_future(node.propose("r"))
            watching = asyncio.ensure_future(node.driver.changes.wait_above(10**9))
            await asyncio.sleep(0.02)
            await node.stop()
            await node.driver.stop()  # once more
            for task in (waiting, watching):
                with pytest.raises(NodeStoppingError):
                    await task
            with pytest.raises(NodeStoppingError):
                await node.driver.submit(b"anything")

    run(scenario())


def test_a_caller_that_gives_up_withdraws_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            cluster.network.isolate("node-1")
            waiting = asyncio.ensure_future(cluster[1].propose("r"))
            await eventually(lambda: cluster[1].driver.status().pending > 0)
            waiting.cancel()
            cluster.network.heal()
            await all_decided(cluster, "prop-0001")

    run(scenario())


# --------------------------------------------------------------------------------------- the watch watches


def test_the_watch_notices_a_message_that_leaves_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A positive control: without the order of things, the checks of all tests above must fail."""

    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            monkeypatch.setattr("replication.node.turn.Batch.split_sends", lambda batch: (batch.send, []))
            await cluster[1].propose("r")
            await cluster.level()

    with pytest.raises(AssertionError, match="not on disk"):
        run(scenario())
