"""The fuse under running servers: writes go on, everybody is told, and afterwards every copy equals its table."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from harness.database import Database, rows_of
from harness.facts import eventually, pause
from harness.server import Server, Servers
from tests.support.clients import Client, WebSocketClient
from tests.support.transport import Transport, now

SMALL: dict[str, Any] = {"SOBRANIE_EVENT_LOG_BYTES": "1MB", "SOBRANIE_RETENTION": "2s", "SOBRANIE_BALLAST_BYTES": "0B"}
BULK = "INSERT INTO posts (author_id, body) SELECT 1, repeat('x', 500) FROM generate_series(1, 300)"
LOCK = "BEGIN; LOCK TABLE realtime.events IN ACCESS SHARE MODE"
OLD = "SELECT clock_timestamp() - xact_start > interval '1 s' FROM pg_stat_activity WHERE pid = %s"


async def checks(server: Server) -> dict[str, Any]:
    status, body = await server.ready()
    return {"code": status, **json.loads(body)} if status else {"code": 0}


async def is_open(server: Server) -> Any:
    found = await checks(server)
    return found["code"] == 200 and found["status"] == "degraded" and found["checks"]["fuse"]


async def is_ready(server: Server) -> bool:
    found = await checks(server)
    return bool(found["code"] == 200 and found["status"] == "ready" and found["checks"]["fuse"] is None)


def _has_resets(client: Client, count: int) -> bool:
    return len(client.stream.resets) >= count


def _titled(client: Client, title: str) -> list[Any]:
    return [c for c in client.stream.changes() if c["data"]["title"] == title]


async def overfill(database: Database) -> None:
    """Write until the event log takes no more."""
    for _ in range(200):
        await database.execute(BULK)
        if await database.value("SELECT realtime.slot() < 0"):
            return
    raise AssertionError("the fuse has not opened")


async def copy_equals(server: Server, database: Database) -> None:
    """Rows and the changes after them are the table."""
    client = await WebSocketClient(server.url).connect()
    try:
        await client.ask({"type": "subscribe", "channels": ["posts"], "snapshot": True})
        await client.until(lambda: any("position" in m for m in client.messages if m["type"] == "snapshot"), 20)
        await database.execute("UPDATE posts SET title = 'again' WHERE id % 7 = 0; DELETE FROM posts WHERE id % 11 = 0")
        goal = await now(database)
        client.stream.pending.clear()
        await client.reach(goal)
        copy: dict[int, Any] = {}
        for message in client.messages:
            for row in message.get("rows", []):
                copy[row["id"]] = row["title"]
            for change in message.get("changes", []):
                if change["data"] is None:
                    del copy[change["key"]["id"]]
                else:
                    copy[change["key"]["id"]] = change["data"]["title"]
        assert not client.stream.resets
    finally:
        await client.abort()
    assert copy == dict(await database.execute("SELECT id, title FROM posts"))


async def test_far_over_its_limit_everybody_is_told_and_writes_go_on(
    database: Database, servers: Servers, transport: Transport
) -> None:
    one, two = await servers.start("one", **SMALL), await servers.start("two", **SMALL)
    before = await now(database)
    async with (
        await database.connect() as idle,
        await transport.open(one, "posts") as live,
        await transport.open(two, "posts") as other,
    ):
        await rows_of(idle, LOCK)
        await eventually(lambda: database.value(OLD, idle.info.backend_pid), 10, "it is old enough to be named")
        await overfill(database)
        for server in (one, two):
            told = await eventually(partial(is_open, server), 15, f"{server.name} tells")
            assert "limit" in told["reason"]
            assert f"process {idle.info.backend_pid} " in told["holder"]
            assert await server.metric("sobranie_fuse_open") == 1
        for client in (live, other):
            assert (await client.message("reset"))["reason"] == "expired"
        async with await transport.open(two, "posts", position=before) as late:
            assert (await late.message("reset"))["reason"] == "expired"
        size = "SELECT sum(b) FROM unnest(realtime.event_log_bytes()) b"
        full = await database.value(size)
        assert full < 6 << 20
        await database.execute(BULK)
        assert await database.value(size) <= full
        reader = await WebSocketClient(one.url).connect()
        await reader.ask({"type": "subscribe", "channels": ["posts"], "snapshot": True})
        page = await reader.message("snapshot")
        assert page["rows"]
        await rows_of(idle, "ROLLBACK")
        for server in (one, two):
            await eventually(partial(is_ready, server), 15, f"{server.name} is whole")
            assert await server.metric("sobranie_fuse_open") == 0
            assert server.output().count('"fuse_opened"') == 1
            assert server.output().count('"fuse_healed"') == 1
        for client, count in ((live, 2), (other, 2), (reader, 1)):  # when it opened, and when it was healed
            await client.until(partial(_has_resets, client, count))
            assert {r["reason"] for r in client.stream.resets} == {"expired"}
        await reader.abort()
        resets = len(live.stream.resets)
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'at last')")
        for client in (live, other):
            await client.until(partial(_titled, client, "at last"))
            assert not client.stream.faults
        assert len(live.stream.resets) == resets
    await copy_equals(two, database)


@pytest.mark.parametrize("kills", [0, 6])
async def test_with_no_server_or_servers_that_are_killed_it_opens_and_heals(
    database: Database, servers: Servers, kills: int
) -> None:
    one = await servers.start("one", **SMALL)
    await eventually(
        lambda: database.value("SELECT last_value < 1 << 23 FROM realtime.fuse_room"), 10, "it knows its limit"
    )
    await one.kill()
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await database.execute("UPDATE posts SET author_id = author_id + 1 WHERE id % 97 = 0")

    async with await database.connect() as idle:
        await rows_of(idle, LOCK)
        await overfill(database)
        writing = asyncio.create_task(write())
        for n in range(kills):  # somewhere in its steps
            await (await servers.start(f"killed-{n}", **SMALL)).kill()
        server = await servers.start("two", **SMALL)
        assert await eventually(lambda: is_open(server), 15, "it tells")
        await rows_of(idle, "ROLLBACK")
    for n in range(kills):
        await pause(0.2)
        await server.kill()
        server = await servers.start(f"then-{n}", **SMALL)
    await eventually(lambda: is_ready(server), 20, "it is whole")
    stop.set()
    await writing
    await server.kill()
    roomy = await servers.start("last", **{**SMALL, "SOBRANIE_EVENT_LOG_BYTES": "64MB"})
    await eventually(partial(is_ready, roomy), 20, "it is whole")
    await copy_equals(roomy, database)


async def test_who_may_have_left_something_out_is_waited_for_and_named(database: Database, servers: Servers) -> None:
    server = await servers.start("one", **SMALL)
    async with await database.connect() as slow:
        await rows_of(slow, "BEGIN; INSERT INTO posts (author_id) VALUES (1)")
        await database.execute("SELECT realtime.open_fuse(false)")
        await rows_of(slow, "INSERT INTO posts (author_id) VALUES (2)")

        async def named() -> bool:
            log = (await checks(server))["checks"]["log"]
            return bool(log and f"process {slow.info.backend_pid} " in log["reason"])

        await eventually(named, 15, "the transaction is named")
        assert await is_open(server)
        await rows_of(slow, "COMMIT")
    await eventually(lambda: is_ready(server), 15, "it is whole")
    await copy_equals(server, database)
