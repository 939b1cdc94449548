"""What all tests share: markers, seeds that are always printed, and NOT RUN apart from passed.

Markers:
    cluster: starts real node processes. They go to two workers, with all that measure time on one of them.
    slow: takes more than about ten seconds (`pytest -m "not slow"` for a quick round).

Hypothesis profiles, chosen by HYPOTHESIS_PROFILE: `default`; `ci` (also chosen by CI=true), which depends on
no example database; `soak`, for hours. Every run draws a seed, prints it in the header, and can be repeated
with `--hypothesis-seed`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from replication.node.local import addresses

NOT_RUN = "NOT RUN: "
COUNTING = ("tests/security/test_record_damage", "tests/simulation/")
"""Tests whose output is shown at the end, though they pass."""

TIMED = tuple(
    f"tests/cluster/test_{name}"
    for name in (
        "executor",
        "failover",
        "faults_drills",
        "hostile",
        "kill_and_restart",
        "renewal",
    )
)
"""Tests of clusters that have to do something in time. They must not compete with each other."""

# No deadlines: machines are shared, and a slow example is no wrong one (pytest-timeout ends the stuck ones).
_BASE = settings(
    max_examples=100, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("default", _BASE)
settings.register_profile("ci", _BASE, database=None)
settings.register_profile("soak", _BASE, max_examples=5_000)
_PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "default")
settings.load_profile(_PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; draw a seed for Hypothesis if none was given (workers get the controller's)."""
    config.addinivalue_line("markers", "cluster: starts real node processes; such tests share two workers")
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))


@pytest.fixture(scope="session", autouse=True)
def own_ports() -> Iterator[None]:
    """Each worker draws from ports of its own: another's cluster must not take a port between the draw and
    the start of the node, or while the node is down."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses, "PORT_RANGE", addresses.PORT_RANGE[worker % 4 :: 4])
        yield


def pytest_report_header(config: pytest.Config) -> str:
    """The line that makes a run repeatable."""
    seed = config.option.hypothesis_seed
    return f"hypothesis profile {_PROFILE!r}, seed {seed} (again: --hypothesis-seed={seed})"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send cluster tests to two workers, and every other test to whichever is free.

    By name, since the groups of pytest-xdist 3.8 (`--dist loadgroup`) do nothing under pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # ships no types

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # of an untyped class
        def _split_scope(self, nodeid: str) -> str:
            if not nodeid.startswith("tests/cluster/"):
                return nodeid
            return "cluster" if nodeid.startswith(TIMED) else "another cluster"

    return Scheduling(config, log)


@pytest.fixture
def not_run() -> Callable[[str], NoReturn]:
    """`not_run("docker not found")` ends a test that lacks something: reported as NOT RUN, not passed."""

    def stop(reason: str) -> NoReturn:
        pytest.skip(NOT_RUN + reason)

    return stop


def _missing(report: pytest.CollectReport | pytest.TestReport) -> str | None:
    """Why the test was not run, if `not_run` (or a skip whose reason says so) ended it."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return None
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    return reason.removeprefix(NOT_RUN) if reason.startswith(NOT_RUN) else None


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, str] | None:
    """Count what was not run in a category of its own, shown in the closing line."""
    return None if _missing(report) is None else ("not run", "N", "NOT RUN")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was not run, with the reasons."""
    reports = terminalreporter.getreports("not run")
    if reports:
        terminalreporter.section("NOT RUN")
        for report in reports:
            terminalreporter.write_line(f"{NOT_RUN}{report.nodeid}: {_missing(report)}")
    _show_counts(terminalreporter)


def _show_counts(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests with thousands of cases counted: a number that shrinks should be seen to shrink."""
    counted = [
        (report.nodeid.rpartition("::")[2], line)
        for report in terminalreporter.getreports("passed")
        if report.nodeid.startswith(COUNTING)
        for line in report.capstdout.splitlines()
    ]
    if counted:
        terminalreporter.section("COUNTED")
        for name, line in counted:
            terminalreporter.write_line(f"{name}: {line:.600}")
