"""Thousands of positions on a real log: each gets exactly what it lacks, and the queries stay a handful."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from app.model.observations import Observation
from app.model.position import Position, Snapshot
from app.postgres.connect import Connection
from app.postgres.event_log import PostgresEventLog
from app.stream.replays import Replays
from harness.database import Database, rows_of
from tests.integration import story

WRITERS, COMMITS = 4, 500


class Counting(PostgresEventLog):
    """Counts how often a connection is lent to read with: once for each query."""

    lent = 0

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Connection]:
        self.lent += 1
        async with super().reader() as connection:
            yield connection


@pytest.fixture
async def log(database: Database, observed: list[Observation]) -> AsyncIterator[Counting]:
    made = Counting(database.url, observed.append)
    yield made
    await made.close()


async def written(database: Database, writer: int) -> list[Snapshot]:
    """A position after each commit, while others have transactions open."""
    found = []
    async with await database.connect() as connection:
        for _ in range(COMMITS):
            await connection.execute(
                "INSERT INTO posts (author_id, body) SELECT %s, repeat('x', 300) FROM generate_series(1, 3)", (writer,)
            )
            token = (await rows_of(connection, "SELECT realtime.position()"))[0][0]
            found.append(Position.decode(token).snapshot)
    return found


async def test_two_thousand_positions_at_once_cost_a_handful_of_queries_and_get_exactly_what_they_lack(
    database: Database, log: Counting, observed: list[Observation]
) -> None:
    start = (await log.head()).position
    async with await database.connect(autocommit=False) as slow:
        await slow.execute("INSERT INTO posts (author_id, title) VALUES (9, 'open all the time')")
        positions = [
            p for found in await asyncio.gather(*(written(database, n) for n in range(WRITERS))) for p in found
        ]
        await slow.commit()
    assert len(set(positions)) > 1000
    front = (await log.head()).position
    everything = [t.xid async for s in log.stretches(start, front) for t in s.transactions or ()]
    assert len(everything) == WRITERS * COMMITS + 1
    replays = Replays(log, lambda: front, observed.append)
    log.lent = 0

    async def walk(position: Snapshot) -> None:
        lacks = [xid for xid in everything if not position.sees(xid)]
        got = []
        while not position.contains(front):
            stretch = await replays.after(position)
            got += [t.xid for t in stretch.transactions or () if not position.sees(t.xid)]
            position = position.union(stretch.upto)
        assert got == lacks
        assert position == front

    await asyncio.gather(*(walk(position) for position in positions))
    assert log.lent < 30, log.lent


async def test_a_transaction_too_large_to_hold_is_a_stretch_of_its_own_that_is_read_in_pages(
    database: Database, log: Counting, observed: list[Observation]
) -> None:
    start = (await log.head()).position
    await database.execute("INSERT INTO posts (author_id, title) VALUES (0, 'before')")
    await database.execute("INSERT INTO posts (author_id) SELECT g FROM generate_series(1, 12000) g")
    await database.execute("INSERT INTO posts (author_id, title) VALUES (0, 'after')")
    front = (await log.head()).position
    found = [stretch async for stretch in log.stretches(start, front)]
    assert [s.transactions is None for s in found] == [False, True, False]
    assert found[-1].upto == front
    assert all(a.upto == b.since for a, b in pairwise(found))
    portions = [p async for p in story.replay(log, found[1].since, found[1].upto)]
    assert sum(len(t.changes) for p in portions for t in p.transactions) == 12000
    assert portions[-1].upto == found[1].upto
