"""One member over views, locks, commits and crashes: nothing that it ever sent contradicts anything else.

The judge is the simulator's, which knows nothing of the signer. The member obeys the protocol in what it asks
the signer for; that it may ask is all that is random. A crash brings back the state that was last written,
which is the one before the last message that left.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.ordering_toy import Cluster

from replication.errors import InvariantError
from replication.faults.simulation.judge import clash
from replication.ordering.blame import FirstStatements
from replication.ordering.certificates import Certificate
from replication.ordering.signing import GuardedSigner, SignState
from replication.ordering.statements import Lock, Phase, Signed, StatementKey, Timeout

CLUSTER = Cluster(4)
views = st.integers(0, 5)
hashes = st.sampled_from([bytes([number]) * 32 for number in range(3)])
phases = st.sampled_from([Phase.PROPOSE, Phase.PREPARE])


class Member(RuleBasedStateMachine):
    """What a replica may ask of its signer."""

    @initialize()
    def begin(self) -> None:
        self.durable = SignState()
        self.height = 0
        self.sent: list[Signed] = []
        self.memory = FirstStatements()
        self.blamed = False
        self.boot()

    def boot(self) -> None:
        self.signer = GuardedSigner("m1", CLUSTER.cluster_id, CLUSTER.keys["m1"], self.durable)

    def send(self, item: Signed, *, arrives: bool) -> None:
        """Write, then send. A message may be lost, and was signed all the same."""
        self.durable = self.signer.state
        self.sent.append(item)
        if arrives:
            self.blamed = self.blamed or self.memory.record(item) is not None

    def key(self, phase: Phase, view: int, block_hash: bytes) -> StatementKey:
        return StatementKey(phase, 0, view, self.height + 1, block_hash)

    def prepared(self, view: int, block_hash: bytes) -> Certificate:
        """A prepare certificate. The signer looks at its key only; it has been checked before."""
        return Certificate(self.key(Phase.PREPARE, view, block_hash), ())

    @rule(phase=phases, view=views, block_hash=hashes, arrives=st.booleans())
    def acknowledge(self, phase: Phase, view: int, block_hash: bytes, arrives: bool) -> None:
        key = self.key(phase, view, block_hash)
        if self.signer.may_sign(key):
            self.send(self.signer.sign(key), arrives=arrives)

    @rule(view=views, block_hash=hashes, arrives=st.booleans())
    def commit(self, view: int, block_hash: bytes, arrives: bool) -> None:
        key = self.key(Phase.COMMIT, view, block_hash)
        lock = self.signer.state.lock
        if lock is not None and lock.key.position == key.position and lock.key.block_hash != block_hash:
            return  # two certificates for one position do not exist
        if self.signer.may_sign(key):
            self.signer.lock(self.prepared(view, block_hash))
            self.send(self.signer.sign(key), arrives=arrives)

    @rule(view=views, block_hash=hashes)
    def hear_of_a_lock(self, view: int, block_hash: bytes) -> None:
        self.signer.lock(self.prepared(view, block_hash))

    @rule(view=views, arrives=st.booleans())
    def give_up(self, view: int, arrives: bool) -> None:
        lock = self.signer.state.lock
        short = None
        if lock is not None and lock.key.height == self.height + 1:
            short = Lock(lock.key.view, lock.key.block_hash)
        if view >= self.signer.state.timed_out_view:
            report = self.signer.time_out(Timeout(0, view, self.height, short, "m1"), None, lock, None)
            self.send(report.timeout, arrives=arrives)

    @rule()
    def decide(self) -> None:
        """A block is committed: it is durable before anything that rests on it."""
        self.height += 1

    @rule()
    def crash(self) -> None:
        self.boot()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The last statement of a phase, asked for again, is the very one that was sent."""
        last = self.durable.last(data.draw(st.sampled_from(Phase)))
        if last is not None:
            assert self.signer.sign(last.key) is last

    @rule(phase=st.sampled_from(Phase), view=views, height=st.integers(1, 4), block_hash=hashes)
    def a_refusal_changes_nothing(self, phase: Phase, view: int, height: int, block_hash: bytes) -> None:
        key = StatementKey(phase, 0, view, height, block_hash)
        if not self.signer.may_sign(key):
            before = self.signer.state
            try:
                self.signer.sign(key)
            except InvariantError:
                assert self.signer.state is before
            else:
                raise AssertionError("signed what it may not sign")

    @invariant()
    def nothing_contradicts(self) -> None:
        if not hasattr(self, "sent") or not self.sent:
            return
        newest = self.sent[-1]
        assert [clash(item, newest) for item in self.sent if clash(item, newest)] == []
        assert not self.blamed


TestMember = Member.TestCase
TestMember.settings = settings(stateful_step_count=40, deadline=None)
