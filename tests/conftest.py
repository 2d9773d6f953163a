"""Fixtures that every test may use: one cluster for the session, a fresh database for each test, and faults.

Examples of hypothesis are the same in each run, and have no time limit: what a search at random finds would otherwise
stop whoever lands something else, and a busy core would. HYPOTHESIS=search makes new ones.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import settings

from harness.cluster import Cluster
from harness.database import Database
from harness.server import Server, Servers
from tests.support.ahead import Ahead
from tests.support.proxy import Proxy
from tests.support.transport import Transport

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says a measured figure at the end of the run, whether or not the test passed."""
    return lambda line: request.node.user_properties.append(("figure", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind) if r.when == "call"]
    lines = [str(line) for report in reports for name, line in report.user_properties if name == "figure"]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL that no test may stop or kill; for that use `own_cluster`."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(scope="session")
def clusters() -> Iterator[Ahead[Cluster]]:
    made = Ahead(lambda: Cluster().with_template(), Cluster.close)
    yield made
    made.close()


@pytest.fixture
def own_cluster(clusters: Ahead[Cluster]) -> Iterator[Cluster]:
    """A PostgreSQL for this test alone: stop it, kill it, restart it."""
    with clusters.one() as made:
        yield made


@pytest.fixture(scope="session")
def databases(cluster: Cluster) -> Iterator[Ahead[str]]:
    made = Ahead(lambda: cluster.create_database(migrated=True), cluster.drop_database)
    yield made
    made.close()


@pytest.fixture
def database(cluster: Cluster, databases: Ahead[str]) -> Iterator[Database]:
    """A fresh database, migrated to head."""
    with databases.one() as name:
        yield Database(cluster, name)


@pytest.fixture
def quiet_database(cluster: Cluster, databases: Ahead[str]) -> Iterator[Database]:
    """The same, while no other transaction of the cluster is in progress: none stands in a position."""
    with databases.one(quiet=True) as name:
        yield Database(cluster, name)


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[Database]:
    """A fresh database that has never seen a migration."""
    name = cluster.create_database(migrated=False)
    yield Database(cluster, name)
    cluster.drop_database(name)


@pytest.fixture
async def servers(database: Database) -> AsyncIterator[Servers]:
    """Starts real server processes on `database`, and stops them at the end of the test."""
    async with Servers(database.url) as made:
        yield made


@pytest.fixture
async def server(servers: Servers) -> Server:
    """One real server; its heartbeat is short, so that a position comes soon where nothing matches."""
    return await servers.start()


@pytest.fixture(params=["websocket", "events"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Runs a test once over each transport."""
    return Transport(request.param)


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[Proxy]:
    """A TCP proxy in front of the cluster that can cut, stall and turn deaf."""
    async with Proxy("127.0.0.1", cluster.port) as made:
        yield made
