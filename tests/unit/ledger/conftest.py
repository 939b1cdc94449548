"""A record in which everything happens, for the tests of what stores and exports it."""

from __future__ import annotations

import pytest
from tests.support.ledger_cluster import LedgerCluster
from tests.support.ledger_store import Part, parts, story


@pytest.fixture(scope="module")
def cluster() -> LedgerCluster:
    return story()


@pytest.fixture(scope="module")
def blocks(cluster: LedgerCluster) -> list[Part]:
    return parts(cluster)
