"""An empty database in a cluster that has never heard of us, and the migrations with one more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster import Cluster
from harness.database import Database
from tests.migrations.later import Later


@pytest.fixture(scope="module")
def alone() -> Iterator[Cluster]:
    """A cluster whose roles no other test uses."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def fresh(alone: Cluster) -> Iterator[Database]:
    """An empty database, in a cluster that has never heard of us."""
    name = alone.create_database(migrated=False)
    yield Database(alone, name)
    alone.drop_database(name)
    for role in ("realtime_owner", "realtime_reader", "realtime_nobody", "someone"):
        alone.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
async def user(fresh: Database) -> str:
    """A role that may do nothing in particular."""
    await fresh.execute("CREATE ROLE someone LOGIN")
    return "someone"


@pytest.fixture
def later(tmp_path: Path) -> Later:
    return Later(tmp_path)
