"""What readers do does not keep the event log from turning: it stays within twice its limit, and the fuse whole."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from harness.database import Database, rows_of
from harness.facts import eventually, pause
from harness.server import Server, Servers
from tests.support.clients import WebSocketClient

Disturbed = Callable[[Server, Database], AbstractAsyncContextManager[None]]
LIMIT = 8 << 20
SECONDS = 15.0
WIDE = """
CREATE TABLE wide (id int PRIMARY KEY, v text);
INSERT INTO wide SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 10000) i;
SELECT realtime.watch('wide')
"""
SIZE = "SELECT sum(b) FROM unnest(realtime.event_log_bytes()) b"
WRITE = """INSERT INTO posts (author_id, title, body)
  SELECT 1, 'x', repeat(md5(random()::text), 30) FROM generate_series(1, 100)"""


@asynccontextmanager
async def snapshots(server: Server, database: Database) -> AsyncIterator[None]:
    """Four clients who ask for the rows of a large table in a loop."""
    await database.execute(WIDE)
    taken = [0] * 4

    async def ask(n: int) -> None:
        while True:
            async with await WebSocketClient(server.url).connect() as client:
                channels = ["wide", f"wide:id={n * 1_000_000 + taken[n]}"]  # each another read
                await client.ask({"type": "subscribe", "channels": channels, "snapshot": True})
                await client.message("snapshot", 60)
                taken[n] += 1

    tasks = [asyncio.create_task(ask(n)) for n in range(4)]
    try:
        yield
        await eventually(lambda: sum(taken) > 4, 60, "rows were read")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def idle_position(server: Server, database: Database) -> AsyncIterator[None]:
    """A page that asked for its position, and whose transaction stays open."""
    async with await database.connect() as idle:
        await rows_of(idle, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT realtime.position()")
        yield


@pytest.mark.parametrize("disturbed", [snapshots, idle_position])
async def test_the_event_log_stays_within_twice_its_limit(
    database: Database, servers: Servers, disturbed: Disturbed
) -> None:
    server = await servers.start("one", SOBRANIE_EVENT_LOG_BYTES="8MB", SOBRANIE_RETENTION="2s")
    largest, started = 0, time.monotonic()

    async def turns() -> float:
        return await server.metric("sobranie_event_log_turns_total")

    async with disturbed(server, database):
        while time.monotonic() - started < SECONDS:
            await database.execute(WRITE)
            largest = max(largest, await database.value(SIZE))
            await pause(0.1)
        before = await turns()

        async def goes_on() -> bool:
            await database.execute(WRITE)
            return await turns() > before

        await eventually(goes_on, 20, "turns go on", every=0.1)
    assert before > 0
    assert largest <= 2 * LIMIT
    assert await server.metric("sobranie_fuse_opened_total") == 0
