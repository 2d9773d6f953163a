"""PostgreSQL itself restarted, stopped and killed under a running server: every committed change, once."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.server import Server
from tests.support.transport import Transport, verdict


@pytest.fixture
async def crashing(own_cluster: Cluster) -> AsyncIterator[tuple[Database, Server]]:
    database = Database(own_cluster, own_cluster.create_database(migrated=True))
    async with Server(database.url) as server:
        yield database, server


async def write_until(database: Database, ended: asyncio.Event) -> int:
    """Commits and aborts, until told to end or the database goes; returns how many were acknowledged."""
    acknowledged = 0
    try:
        async with await database.connect(autocommit=False) as writer:
            while not ended.is_set():
                await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", (str(acknowledged),))
                if acknowledged % 5 == 4:
                    await writer.rollback()
                    await writer.execute("INSERT INTO posts (author_id) VALUES (2)")
                await writer.commit()
                acknowledged += 1
    except psycopg.OperationalError:
        pass
    return acknowledged


@pytest.mark.parametrize("fault", ["restart", "kill"])
async def test_a_database_that_restarts_or_is_killed_under_load_resets_nobody_and_loses_nothing(
    crashing: tuple[Database, Server], transport: Transport, fault: str
) -> None:
    """fsync is off in these clusters, yet a killed postmaster loses nothing that the kernel has."""
    database, server = crashing
    async with await transport.open(server, "posts") as client:
        for _ in range(2):
            ended = asyncio.Event()
            writers = [asyncio.create_task(write_until(database, ended)) for _ in range(3)]
            await client.changes(len(client.stream.changes()) + 100)
            if fault == "kill":
                await asyncio.to_thread(database.cluster.kill9)
                await asyncio.to_thread(database.cluster.start)
            else:
                await asyncio.to_thread(database.cluster.restart)
            assert sum(await asyncio.gather(*writers)) > 0
            await database.execute("INSERT INTO posts (author_id, title) VALUES (3, 'after')")
            await client.until(lambda: [c for c in client.stream.changes()[-5:] if c["data"]["title"] == "after"], 40)
        await verdict(database, client)
        assert not client.stream.resets
