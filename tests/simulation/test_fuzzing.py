"""Every decoder, fed with edited and random inputs. The number of inputs and their rate are printed.

`FUZZ_EXECUTIONS` and `FUZZ_FROM` choose how many and which; each input has a seed of its own. What fails is
kept as a file in the test's folder, and the message says how to feed it again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replication.faults.fuzzing.runner import FuzzReport, run_range
from replication.faults.fuzzing.targets import TARGETS

EXECUTIONS = int(os.environ.get("FUZZ_EXECUTIONS", "200000"))
FIRST = int(os.environ.get("FUZZ_FROM", "0"))


@pytest.mark.slow
def test_every_decoder_refuses_with_its_own_error_only(tmp_path: Path) -> None:
    total = FuzzReport()
    for _, part in run_range(FIRST, EXECUTIONS):
        total.add(part)
    found = [
        f"{failure.target}: {failure.detail} (acp faults fuzz --target {failure.target} --replay {path})"
        for failure in total.failures.values()
        for path in [failure.save(tmp_path / "inputs")]
    ]
    document = total.as_document()
    print(
        f"fuzzing: {document['executions']} executions from seed {FIRST}, "
        f"{document['executions_per_cpu_second']} a CPU second, {document['cpu_seconds']} s; by target: "
        + ", ".join(f"{count} {name}" for name, count in document["targets"].items())
    )
    assert not found, "\n".join(found)
    assert total.executions.keys() == TARGETS.keys()
    assert all(total.accepted[name] for name in TARGETS), "one that accepts nothing tests little"
    assert all(total.accepted[name] < total.executions[name] for name in TARGETS), (
        "and one that never refuses"
    )
