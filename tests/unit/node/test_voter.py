"""The voter: it votes once, remembers what it said, and never says two things about one proposal."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support.node_genesis import Always, make_genesis

from replication.consensus import VoteValue
from replication.consensus.canonical import canonical_json
from replication.identity.genesis import Rules
from replication.ledger.application import BlockExecution, VotingApplication
from replication.ledger.commands import (
    BallotCommand,
    ProposalCommand,
    VoteItem,
    decode_command,
    encode_command,
    make_ballot,
    make_proposal,
    make_rejoin,
)
from replication.ledger.history import MemoryHistory
from replication.ledger.outcomes import Outcome
from replication.node import voter as voter_module
from replication.node.ballots import FIRST_LOOK_MS, MAX_BALLOT_VOTES, Ballots
from replication.node.counters import Counters
from replication.node.policies import Choice, Incident, ManualPolicy, Policy, PythonPolicy
from replication.node.voter import FRESH_MS, MAX_AHEAD_MS, Voter
from replication.ordering.application import command_digest
from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock
from replication.ordering.limits import PENDING_LIFETIME_MS
from replication.ordering.statements import Phase, StatementKey

ME = "node-1"
NO_CERTIFICATE = Certificate(StatementKey(Phase.COMMIT, 0, 0, 1, bytes(32)), ())


class World:
    """The committed state, the clock, and one voter that may be restarted on what it had kept on disk."""

    def __init__(self, policy: Policy | None = None, rules: Rules | None = None) -> None:
        self.genesis, self.keys = make_genesis(4, rules or Rules(max_active_proposals=3))
        self.now_ms = self.genesis.created_ms + 1_000
        self.history = MemoryHistory(self.genesis)
        self.application = VotingApplication(self.genesis, self.history)
        self.policy: Policy = policy or Always()
        self.height = 0
        self.head_ms = self.genesis.created_ms
        self.journal: dict[bytes, bytes] = {}
        self.pool: dict[bytes, bytes] = {}
        self.signed: list[BallotCommand] = []
        self.requests = itertools.count()
        self.woken = 0
        self.voter = self.make_voter()

    def make_voter(self) -> Voter:
        self.ballots = Ballots(
            member=ME,
            cluster_id=self.genesis.cluster_id,
            members=self.application.members,
            key=self.keys[ME],
            application=self.application,
            history=self.history,
        )
        active = self.ballots.restore(list(self.journal.values()), self.now_ms)
        self.pool = {command_digest(command): command for command in active}
        voter = Voter(
            member=ME,
            genesis=self.genesis,
            policy=self.policy,
            application=self.application,
            history=self.history,
            ballots=self.ballots,
            policy_timeout_ms=60_000,
            clock=lambda: self.now_ms,
            wake=self._wake,
            counters=Counters(),
        )
        voter.consider_open(
            (proposal, proposal.proposed_ms) for proposal in self.application.open_proposals()
        )
        return voter

    def _wake(self) -> None:
        self.woken += 1

    def proposal(self, proposer: str = "node-0", created_ms: int | None = None) -> bytes:
        return make_proposal(
            self.keys[proposer].sign,
            self.genesis.cluster_id,
            self.application.members.epoch,
            proposer=proposer,
            request_id=f"request-{next(self.requests)}",
            action="quarantine",
            target="agent-7",
            evidence=canonical_json({"score": 1}),
            window_ms=0,
            expiry_ms=0,
            created_ms=self.now_ms if created_ms is None else created_ms,
        )

    def digest(self, proposal: bytes) -> bytes:
        command = decode_command(proposal)
        assert isinstance(command, ProposalCommand)
        return command.digest(self.genesis.cluster_id)

    def others_vote(self, *proposals: bytes, value: VoteValue = VoteValue.APPROVE) -> list[bytes]:
        """Ballots of all other members."""
        votes = [VoteItem(self.digest(proposal), value, voted_ms=self.now_ms) for proposal in proposals]
        return [
            make_ballot(
                key.sign, self.genesis.cluster_id, self.application.members.epoch, voter=name, votes=votes
            )
            for name, key in self.keys.items()
            if name != ME
        ]

    def announce(self, *proposals: bytes) -> list[BallotCommand]:
        """What the voter signs when it sees these."""
        self.voter.seen(proposals, self.head_ms)
        return self.take()

    def take(self) -> list[BallotCommand]:
        """What the driver does in each turn: new ballots are kept and submitted, old ones let go."""
        ballots = self.ballots.take(self.now_ms)
        for digest in self.ballots.withdrawn:
            self.pool.pop(digest, None)
        for digest in self.ballots.settled:
            self.journal.pop(digest, None)
            self.pool.pop(digest, None)
        self.ballots.withdrawn.clear()
        self.ballots.settled.clear()
        for raw in ballots:
            self.journal[command_digest(raw)] = self.pool[command_digest(raw)] = raw
        return [self._note(raw) for raw in ballots]

    def _note(self, raw: bytes) -> BallotCommand:
        ballot = decode_command(raw)
        assert isinstance(ballot, BallotCommand)
        self.signed.append(ballot)
        return ballot

    def cast(self, proposal_id: str, value: VoteValue, reason: str = "") -> Outcome | BallotCommand:
        result = self.voter.cast(proposal_id, value, reason, self.now_ms)
        if isinstance(result, Outcome):
            return result
        self.journal[command_digest(result)] = self.pool[command_digest(result)] = result
        return self._note(result)

    def sweep(self) -> list[bytes]:
        return self.voter.sweep(self.now_ms, self.head_ms)

    def commit(self, *commands: bytes) -> BlockExecution:
        """A block with these commands."""
        self.height += 1
        self.head_ms = max(self.now_ms, self.head_ms + 1)
        epoch = self.application.members.epoch
        execution = self.application.execute(self.height, self.head_ms, commands)
        header = BlockHeader(
            *(self.genesis.cluster_id, epoch, self.height, bytes(32), self.head_ms, bytes(32)),
            *(execution.entries_root, execution.audit_size, execution.audit_head),
        )
        self.application.commit(execution)
        self.history.apply(self.height, self.head_ms, execution.entries)
        for command in commands:
            self.pool.pop(command_digest(command), None)
        self.voter.committed(ApplyBlock(Block(header, commands), NO_CERTIFICATE, execution))
        if self.application.members.epoch != epoch:
            self.pool.clear()
            self.voter.begin_epoch(self.application.members)
        return execution

    def restart(self) -> None:
        """A crash: what is not in the journal is gone."""
        self.application = VotingApplication(self.genesis, self.history)
        self.voter.close()
        self.voter = self.make_voter()


def items(ballots: list[BallotCommand]) -> list[VoteItem]:
    return [item for ballot in ballots for item in ballot.votes]


# ----------------------------------------------------------------------------------------------- voting early


def test_it_votes_on_an_announced_proposal_once() -> None:
    world = World()
    proposal = world.proposal()
    (ballot,) = world.announce(proposal)
    (item,) = ballot.votes
    assert (item.proposal_digest, item.value, item.revision) == (world.digest(proposal), VoteValue.APPROVE, 0)
    assert world.announce(proposal) == []
    world.commit(proposal)
    assert world.take() == []
    assert world.announce(proposal) == []


def test_choices_of_one_turn_share_one_ballot() -> None:
    world = World()
    proposals = [world.proposal(f"node-{number % 4}") for number in range(5)]
    (ballot,) = world.announce(*proposals)
    assert [item.proposal_digest for item in ballot.votes] == [
        world.digest(proposal) for proposal in proposals
    ]


def test_a_ballot_has_a_limited_number_of_votes() -> None:
    world = World()
    ballots = world.announce(*(world.proposal() for _ in range(MAX_BALLOT_VOTES + 1)))
    assert [len(ballot.votes) for ballot in ballots] == [MAX_BALLOT_VOTES, 1]


def test_its_ballots_are_accepted_and_decide() -> None:
    world = World()
    proposal = world.proposal()
    world.announce(proposal)
    execution = world.commit(proposal, *world.pool.values(), *world.others_vote(proposal))
    assert [entry.event_type for entry in execution.entries].count("vote") == 4
    assert execution.entries[-1].event_type == "tally"
    world.take()
    assert world.journal == {}
    assert not world.ballots.has_pending
    assert world.voter._stands == {}  # nothing is left of a decided proposal


def test_it_votes_on_a_committed_proposal_that_it_never_saw() -> None:
    world = World()
    proposal = world.proposal()
    world.commit(proposal)
    assert [item.proposal_digest for item in items(world.take())] == [world.digest(proposal)]


def test_it_does_not_vote_on_what_was_decided_without_it() -> None:
    world = World()
    proposal = world.proposal()
    world.commit(proposal, *world.others_vote(proposal))
    assert world.take() == []
    assert world.announce(proposal) == []


def test_a_proposal_with_a_used_request_id_gets_no_vote() -> None:
    world = World()
    first = world.proposal()
    world.commit(first)
    world.take()
    command = decode_command(first)
    assert isinstance(command, ProposalCommand)
    other = replace(command, target="agent-8")
    signature = world.keys["node-0"].sign(other.sign_bytes(world.genesis.cluster_id))
    assert world.announce(encode_command(replace(other, signature=signature))) == []


def test_a_proposer_gets_a_limited_number_of_early_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voter_module, "MAX_EARLY_VOTES", 2)
    world = World()
    flood = [world.proposal("node-0") for _ in range(3)]
    other = world.proposal("node-2")
    voted = {item.proposal_digest for item in items(world.announce(*flood, other))}
    assert voted == {world.digest(proposal) for proposal in (*flood[:2], other)}
    world.commit(flood[2])
    assert [item.proposal_digest for item in items(world.take())] == [world.digest(flood[2])]
    world.commit(flood[0])  # makes room for one
    again = world.proposal("node-0")
    assert [item.proposal_digest for item in items(world.announce(again))] == [world.digest(again)]


def test_a_manual_policy_votes_on_nothing() -> None:
    world = World(ManualPolicy())
    proposal = world.proposal()
    assert world.announce(proposal) == []
    world.commit(proposal)
    assert world.take() == []


def test_a_policy_that_leaves_it_to_a_person_is_asked_once() -> None:
    asked: list[Incident] = []

    class Undecided(Always):
        def decide(self, incident: Incident) -> Choice | None:
            asked.append(incident)
            return None

    world = World(Undecided())
    proposal = world.proposal()
    assert world.announce(proposal) == []
    world.commit(proposal)
    assert world.announce(proposal) == []
    assert [(incident.proposer, incident.target, dict(incident.evidence)) for incident in asked] == [
        ("node-0", "agent-7", {"score": 1})
    ]


def test_a_policy_that_may_block_answers_later() -> None:
    async def scenario() -> None:
        gate = threading.Event()

        def slow(incident: Incident) -> str:
            gate.wait()
            return "reject"

        world = World(PythonPolicy(slow, "test"))
        proposal = world.proposal()
        assert world.announce(proposal) == []
        gate.set()
        while not world.woken:
            await asyncio.sleep(0.001)
        assert [item.value for item in items(world.take())] == [VoteValue.REJECT]
        world.voter.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


# -------------------------------------------------------------------------------------- what is remembered


def test_a_restart_forgets_no_vote_that_may_have_left() -> None:
    world = World()
    proposal = world.proposal()
    (before,) = world.announce(proposal)
    world.restart()
    assert list(world.pool.values()) == list(world.journal.values()) != []
    assert world.announce(proposal) == []
    world.commit(proposal)
    assert world.take() == []
    world.commit(*world.pool.values())
    recorded = world.history.vote(world.digest(proposal), ME)
    assert recorded is not None
    assert recorded.data["reason"] == before.votes[0].reason


def test_after_a_restart_it_votes_on_what_is_open() -> None:
    world = World()
    voted, fresh = world.proposal(), world.proposal()
    world.announce(voted)
    world.commit(voted, *world.pool.values())
    world.commit(fresh)  # the crash comes before the vote
    world.restart()
    assert [item.proposal_digest for item in items(world.take())] == [world.digest(fresh)]


def test_the_vote_on_a_refused_proposal_sleeps_and_wakes_unchanged() -> None:
    world = World()
    filling = [world.proposal() for _ in range(3)]
    refused = world.proposal()
    world.commit(*filling)
    world.take()
    (ballot,) = world.announce(refused)
    execution = world.commit(refused)  # TOO_MANY_PROPOSALS
    assert not execution.outcomes[command_digest(refused)].accepted
    assert world.take() == []
    digest = next(digest for digest, raw in world.journal.items() if decode_command(raw) == ballot)
    assert digest not in world.pool  # not sent, but on disk
    for restart in (False, True):
        if restart:
            world.now_ms += PENDING_LIFETIME_MS + 1
            world.restart()
            assert digest not in world.pool
        (again,) = items(world.announce(refused))
        assert again == ballot.votes[0]
        world.commit(refused)
        world.take()
        digest = next(iter(set(world.journal) - set(world.pool)))
    world.commit(*world.others_vote(*filling))
    world.take()
    world.commit(refused)  # there is room now
    assert items(world.take()) == [ballot.votes[0]]


def test_a_vote_on_a_ghost_does_not_hold_up_the_others() -> None:
    world = World()
    ghost, real = world.proposal("node-3"), world.proposal("node-0")
    (ballot,) = world.announce(ghost, real)
    world.commit(real)
    assert world.take() == []
    world.now_ms += FIRST_LOOK_MS
    assert world.sweep() == []
    first, second = world.take()
    assert first.votes == (ballot.votes[1],)
    assert second.votes == (ballot.votes[0],)
    assert set(world.journal) == set(world.pool)
    assert len(world.pool) == 2  # the old one is gone, and only now


def test_a_vote_on_a_ghost_sleeps_after_a_while() -> None:
    world = World()
    (ballot,) = world.announce(world.proposal())
    world.now_ms += FIRST_LOOK_MS
    assert [decode_command(raw) for raw in world.sweep()] == [ballot]  # given to the replica again
    world.now_ms += PENDING_LIFETIME_MS
    assert world.sweep() == []
    assert world.take() == []
    assert (len(world.journal), len(world.pool)) == (1, 0)


def test_a_ballot_that_was_ordered_too_early_goes_again() -> None:
    world = World()
    proposal = world.proposal()
    (ballot,) = world.announce(proposal)
    world.commit(*world.pool.values())  # a coordinator that puts the vote before its proposal
    assert len(world.journal) == 1
    (again,) = world.take()
    assert again.votes == ballot.votes
    world.commit(proposal)
    world.commit(*world.pool.values())
    assert world.history.vote(world.digest(proposal), ME) is not None


def test_sleeping_votes_are_remembered_as_long_as_somebody_may_ask() -> None:
    world = World()
    ghost = world.proposal()
    (item,) = items(world.announce(ghost))
    world.now_ms += PENDING_LIFETIME_MS + 1
    world.sweep()
    world.take()
    for _ in range(20):
        world.now_ms += FRESH_MS // 20
        world.commit()
        world.sweep()
        world.take()
    world.restart()
    world.commit(ghost)
    assert items(world.take()) == [item]


def test_sleeping_votes_are_forgotten_once_nobody_can_ask_again() -> None:
    world = World()
    ghost = world.proposal()
    world.announce(ghost)
    world.now_ms += PENDING_LIFETIME_MS + 1
    world.sweep()
    world.take()
    world.now_ms += FRESH_MS + MAX_AHEAD_MS
    world.commit(world.proposal())
    world.take()
    world.sweep()
    world.take()
    assert world.digest(ghost) not in world.ballots
    assert world.announce(ghost) == []  # too old to be asked about
    world.commit(ghost)
    assert world.take() == []


@pytest.mark.parametrize("created", [-FRESH_MS - 1, MAX_AHEAD_MS + 1])
def test_a_proposal_from_another_time_gets_no_early_vote(created: int) -> None:
    world = World()
    world.commit(world.proposal())
    world.take()
    assert world.announce(world.proposal(created_ms=world.head_ms + created)) == []


def test_an_old_proposal_is_left_to_a_person() -> None:
    world = World()
    old = world.proposal()
    world.now_ms += FRESH_MS + 1
    world.commit(old)
    assert world.take() == []
    assert isinstance(world.cast("prop-0001", VoteValue.REJECT), BallotCommand)


# ------------------------------------------------------------------------------------------------- epochs


def rejoin(world: World) -> bytes:
    """The command that ends the epoch."""
    epoch = world.application.members.epoch
    return make_rejoin(
        world.keys["node-3"].sign,
        *(world.genesis.cluster_id, epoch),
        member="node-3",
        nonce=bytes([epoch + 1]) * 32,
    )


def test_a_new_epoch_has_the_same_votes_signed_again() -> None:
    world = World()
    committed, ghost = world.proposal(), world.proposal()
    (old,) = world.announce(committed, ghost)
    world.commit(committed)
    world.commit(rejoin(world))
    (new,) = world.take()
    assert (old.epoch, new.epoch) == (0, 1)
    assert new.votes == (old.votes[0],)
    assert len(world.journal) == 1  # the old ballot is void
    world.commit(*world.pool.values())
    assert world.history.vote(world.digest(committed), ME) is not None


def test_ballots_of_an_old_epoch_are_not_taken_up_again() -> None:
    world = World()
    world.announce(world.proposal())
    world.commit(rejoin(world))
    world.restart()
    world.take()
    assert (world.pool, world.journal) == ({}, {})


# ------------------------------------------------------------------------------------------- votes by hand


def test_casting_by_hand() -> None:
    world = World(ManualPolicy())
    proposal = world.proposal()
    unknown = world.cast("prop-0001", VoteValue.APPROVE)
    assert isinstance(unknown, Outcome)
    assert (unknown.accepted, unknown.reason) == (False, "UNKNOWN_PROPOSAL")
    world.commit(proposal)
    ballot = world.cast("prop-0001", VoteValue.APPROVE, "sure")
    assert isinstance(ballot, BallotCommand)
    assert world.cast("prop-0001", VoteValue.APPROVE, "sure") == ballot  # wait for the same one
    assert world.cast("prop-0001", VoteValue.REJECT, "no") == ballot  # and then it will be clear
    world.commit(*world.pool.values())
    same = world.cast("prop-0001", VoteValue.APPROVE, "sure")
    other = world.cast("prop-0001", VoteValue.REJECT, "no")
    recorded = world.history.vote(world.digest(proposal), ME)
    assert recorded is not None
    assert isinstance(same, Outcome)
    assert isinstance(other, Outcome)
    assert (same.accepted, same.entry_sequence) == (True, recorded.sequence)
    assert (other.accepted, other.reason) == (False, "ALREADY_VOTED")
    world.commit(*world.others_vote(proposal))
    late = world.cast("prop-0001", VoteValue.APPROVE, "sure")
    assert isinstance(late, Outcome)
    assert late.accepted
    assert (world.ballots._votes, world.voter._stands) == ({}, {})


def test_casting_on_what_is_decided() -> None:
    world = World(ManualPolicy())
    proposal = world.proposal()
    world.commit(proposal, *world.others_vote(proposal))
    late = world.cast("prop-0001", VoteValue.APPROVE)
    assert isinstance(late, Outcome)
    assert (late.accepted, late.reason) == (False, "PROPOSAL_NOT_OPEN")


def test_a_vote_can_be_changed_where_the_rules_allow_it() -> None:
    world = World(ManualPolicy(), Rules(allow_vote_change=True))
    proposal = world.proposal()
    world.commit(proposal)
    for revision, value in enumerate((VoteValue.APPROVE, VoteValue.REJECT)):
        ballot = world.cast("prop-0001", value)
        assert isinstance(ballot, BallotCommand)
        assert [item.revision for item in ballot.votes] == [revision]
        world.commit(*world.pool.values())
    recorded = world.history.vote(world.digest(proposal), ME)
    assert recorded is not None
    assert recorded.value is VoteValue.REJECT


def test_a_person_who_was_faster_than_the_policy_has_voted() -> None:
    class Undecided(Always):
        def decide(self, incident: Incident) -> Choice | None:
            return None

    world = World(Undecided())
    proposal = world.proposal()
    world.announce(proposal)
    world.commit(proposal)
    assert isinstance(world.cast("prop-0001", VoteValue.REJECT), BallotCommand)
    world.voter._chosen(world.digest(proposal), Choice(VoteValue.APPROVE))
    assert world.take() == []


def test_a_vote_by_hand_survives_an_epoch() -> None:
    world = World(ManualPolicy())
    world.commit(world.proposal())
    old = world.cast("prop-0001", VoteValue.REJECT, "no")
    world.commit(rejoin(world))
    raw = world.voter.resign("prop-0001", world.now_ms)
    assert raw is not None
    assert world.take() == []  # in no second ballot
    new = decode_command(raw)
    assert isinstance(old, BallotCommand)
    assert isinstance(new, BallotCommand)
    assert (new.votes, new.epoch) == (old.votes, 1)


# ---------------------------------------------------------------------------- whatever happens, in any order


class Wavering(Always):
    """A policy that never says the same twice: what is asked again would be answered otherwise."""

    def decide(self, incident: Incident) -> Choice | None:
        self.asked += 1
        return Choice(list(VoteValue)[self.asked % 3], f"answer {self.asked}")


class AnyOrder(RuleBasedStateMachine):
    """Proposals are announced, committed, refused, forgotten; ballots ordered early, late, or never; the
    node crashes. Whatever the order, no two ballots contradict each other."""

    @initialize()
    def begin(self) -> None:
        self.world = World(Wavering(), Rules(max_active_proposals=2))
        self.proposals: list[bytes] = []
        self.sent: list[bytes] = []

    def valid(self, command: bytes) -> bool:
        return decode_command(command).epoch == self.world.application.members.epoch

    @rule(proposer=st.sampled_from(["node-0", "node-2"]))
    def make(self, proposer: str) -> None:
        self.proposals.append(self.world.proposal(proposer))

    @rule(data=st.data())
    def announce(self, data: st.DataObject) -> None:
        known = [proposal for proposal in self.proposals if self.valid(proposal)]
        if known:
            self.sent += self._raw(
                self.world.announce(*data.draw(st.lists(st.sampled_from(known), max_size=3)))
            )

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Any commands, in any order: the coordinator may be faulty."""
        known = [raw for raw in dict.fromkeys([*self.proposals, *self.sent]) if self.valid(raw)]
        if known:
            chosen = data.draw(st.lists(st.sampled_from(known), max_size=4, unique=True))
            self.world.commit(*chosen)

    @rule()
    def take(self) -> None:
        self.sent += self._raw(self.world.take())

    @rule(elapsed=st.sampled_from([1, FIRST_LOOK_MS, PENDING_LIFETIME_MS, FRESH_MS]))
    def wait(self, elapsed: int) -> None:
        self.world.now_ms += elapsed
        self.world.sweep()

    @rule()
    def decide(self) -> None:
        """The others settle what is open."""
        for proposal in list(self.world.application.open_proposals()):
            votes = [VoteItem(proposal.digest, VoteValue.APPROVE, voted_ms=self.world.now_ms)]
            ballots = [
                make_ballot(
                    self.world.keys[name].sign,
                    self.world.genesis.cluster_id,
                    self.world.application.members.epoch,
                    voter=name,
                    votes=votes,
                )
                for name in ("node-0", "node-2", "node-3")
            ]
            self.world.commit(*ballots)

    @rule()
    def crash(self) -> None:
        self.world.restart()

    @rule()
    def end_epoch(self) -> None:
        self.world.now_ms += 60_000
        self.world.commit(rejoin(self.world))

    def _raw(self, ballots: list[BallotCommand]) -> list[bytes]:
        by_content = {decode_command(raw): raw for raw in self.world.journal.values()}
        return [by_content[ballot] for ballot in ballots]  # a ballot is on disk when it leaves

    @invariant()
    def never_says_two_things(self) -> None:
        said: dict[tuple[int, bytes, int], VoteItem] = {}
        for ballot in self.world.signed if hasattr(self, "world") else []:
            for item in ballot.votes:
                key = (ballot.epoch, item.proposal_digest, item.revision)
                assert said.setdefault(key, item) == item

    @invariant()
    def remembers_what_it_said(self) -> None:
        """Every vote that is out, and could still count, is on disk or on record."""
        if not hasattr(self, "world"):
            return
        world = self.world
        kept = {item for raw in world.journal.values() for item in decode_command(raw).votes}  # type: ignore[union-attr]
        for ballot in world.signed:
            if ballot.epoch != world.application.members.epoch:
                continue
            for item in ballot.votes:
                is_old = item.voted_ms < world.head_ms - FRESH_MS - MAX_AHEAD_MS
                recorded = world.history.vote(item.proposal_digest, ME) is not None
                finished = world.history.finished(item.proposal_digest) is not None
                assert item in kept or recorded or finished or is_old


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
