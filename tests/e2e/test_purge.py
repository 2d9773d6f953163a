"""A purge under running servers: the rows are nowhere, and nobody notices who did not need them."""

import json
from typing import Any

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.transport import Transport, now

INSERT = "INSERT INTO posts (author_id, title, body) VALUES (1, %s, repeat('personal ', 10000))"
SMALL = 50_000  # bytes: half of one such row


async def log_of(server: Server) -> Any:
    status, body = await server.ready()
    assert status == 200
    return json.loads(body)["checks"]["log"]


async def test_purged_rows_are_nowhere_and_nobody_live_notices(database: Database, servers: Servers) -> None:
    one, two = await servers.start("one"), await servers.start("two")
    leader = await servers.leader()
    absent = await now(database)
    async with (
        await database.connect(autocommit=False) as writer,
        await Transport("websocket").open(one, "posts") as live,
        await Transport("events").open(two, "posts") as other,
    ):
        await database.execute(INSERT, "before")
        await live.changes(1)
        await other.changes(1)
        assert all([await s.metric("sobranie_history_bytes") > SMALL for s in (one, two)])
        await writer.execute(INSERT.encode(), ("in the midst",))
        await database.execute("DELETE FROM posts; SELECT realtime.purge()")
        held = await eventually(lambda: log_of(leader), 15, "the purge is told to wait")
        assert f"process {writer.info.backend_pid} " in held["reason"]
        assert held["remedy"] == f"SELECT pg_terminate_backend({writer.info.backend_pid})"
        await database.execute(INSERT.replace("10000", "1"), "after")
        await writer.commit()
        await eventually(lambda: database.value("SELECT done IS NOT NULL FROM realtime.purges"), 15, "the purge done")
        left = "SELECT array_agg(coalesce(new, old) ->> 'title') FROM realtime.events WHERE op <> 'G'"
        assert await database.value(left) == ["after"]
        for server in (one, two):

            async def forgotten(server: Server = server) -> bool:
                return await server.metric("sobranie_history_bytes") < SMALL

            await eventually(forgotten, 15, f"server {server.name} has forgotten")
        await eventually(lambda: _none(leader), 5, "the event log turns again")
        for name in ("log_turn_blocked", "log_turn_free"):
            assert name in leader.output()
        for client in (live, other):
            await client.reach(await now(database))
            told = [(c["action"], (c["data"] or c["old"])["title"]) for c in client.stream.changes()]
            assert sorted(told) == [("DELETE", "before")] + [("INSERT", t) for t in ("after", "before", "in the midst")]
            assert not client.stream.resets
        position = live.stream.position
    async with await Transport("websocket").open(two, "posts", position=absent) as late:
        assert (await late.message("reset"))["reason"] == "expired"
    await database.execute(INSERT, "at last")
    async with await Transport("events").open(one, "posts", position=position) as back:
        await back.changes(1)
        assert not back.stream.resets
        assert [c["data"]["title"] for c in back.stream.changes()] == ["at last"]


async def _none(server: Server) -> bool:
    return await log_of(server) is None


async def test_a_trigger_disabled_by_hand_is_told_and_the_remedy_mends_it(database: Database, server: Server) -> None:
    async with await Transport("websocket").open(server, "posts") as client:
        await database.execute("ALTER TABLE posts DISABLE TRIGGER realtime_insert")

        async def told() -> Any:
            status, body = await server.ready()
            return status == 200 and json.loads(body)["checks"]["watches"]

        ((problem,)) = await eventually(told, 20, "/readyz names the trigger")
        assert (problem["schema"], problem["table"]) == ("public", "posts")
        assert "realtime_insert" in problem["problem"]
        assert "disabled" in problem["problem"]
        lines = [json.loads(line) for line in server.output().splitlines() if "watch_problem" in line]
        assert lines[0]["remedy"] == problem["remedy"]
        await database.execute(problem["remedy"])
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'captured again')")
        await client.until(lambda: [c for c in client.stream.changes() if c["data"]["title"] == "captured again"])
        assert {r["reason"] for r in client.stream.resets} == {"schema"}
