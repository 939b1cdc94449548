"""How fast a session votes, and whether it stays so: `python tests/benchmarks/bench_rounds.py`.

One round is propose, five votes and a tally. The rate is measured over a window of the same session when it
has 100, 1,000 and 10,000 rounds of history; all operations are meant to be O(1) in the history, so the rates
should be alike. Then the agreement matrix and the blocs of 200 voters over 1,000 proposals.
"""

from __future__ import annotations

import random
import statistics
import time

from replication.consensus import ConsensusProtocol, VoteValue

VOTERS = 5
SLICES = 16
ROUNDS_PER_SLICE = 50
"""A window is cut into slices, and its rate is that of the middle one. A full pass of the garbage collector,
which comes once in a quarter more history, then shows as the slowest slice wherever it falls, and does not
make the rate depend on which window it happened to fall into."""

HISTORIES = (100, 1_000, 10_000)


def run_rounds(session: ConsensusProtocol, rounds: int) -> float:
    """Run `rounds` rounds and return the seconds they took."""
    voter_ids = session.voter_ids
    started = time.perf_counter()
    for number in range(rounds):
        proposal_id = session.propose(voter_ids[0], "quarantine", target="agent-7", evidence={"score": 0.97})
        for position, voter_id in enumerate(voter_ids):
            session.vote(
                proposal_id, voter_id, VoteValue.REJECT if position == number % 7 else VoteValue.APPROVE
            )
        session.tally(proposal_id)
    return time.perf_counter() - started


def measure_rounds() -> None:
    """Print rounds per second after each amount of history, and the last rate over the first."""
    session = ConsensusProtocol([f"voter-{number}" for number in range(VOTERS)])
    rates, done = [], 0
    for history in HISTORIES:
        run_rounds(session, history - done)
        slices = [run_rounds(session, ROUNDS_PER_SLICE) for _ in range(SLICES)]
        done = history + SLICES * ROUNDS_PER_SLICE
        rates.append(ROUNDS_PER_SLICE / statistics.median(slices))
        slowest = max(slices) * 1000
        print(
            f"after {history:>6,} rounds: {rates[-1]:>8,.0f} rounds/s "
            f"(slowest {ROUNDS_PER_SLICE} rounds: {slowest:.0f} ms)"
        )
    print(f"last/first: {rates[-1] / rates[0]:.2f} (target: at least 0.70)")


def measure_analysis(voters: int = 200, proposals: int = 1_000) -> None:
    """Print the time of the agreement matrix and of the search for blocs, with three camps and some noise."""
    session = ConsensusProtocol([f"voter-{number}" for number in range(voters)])
    generator = random.Random(1)
    values = [VoteValue.APPROVE, VoteValue.REJECT, VoteValue.ABSTAIN]
    for _ in range(proposals):
        camps = generator.choices(values, k=3)
        proposal_id = session.propose("voter-0", "restrict")
        for position, voter_id in enumerate(session.voter_ids):
            value = camps[position % 3] if generator.random() < 0.95 else generator.choice(values)
            session.vote(proposal_id, voter_id, value)
        session.tally(proposal_id)
    started = time.perf_counter()
    session.voter_agreement_matrix()
    matrix_seconds = time.perf_counter() - started
    started = time.perf_counter()
    blocs = session.detect_voting_blocs(0.9)
    blocs_seconds = time.perf_counter() - started
    print(f"{voters} voters x {proposals:,} proposals: agreement matrix {matrix_seconds * 1000:.0f} ms")
    print(f"the same with the search for blocs: {blocs_seconds * 1000:.0f} ms ({len(blocs)} blocs)")


if __name__ == "__main__":
    measure_rounds()
    measure_analysis()
