"""Tables that change under the stream: TRUNCATE, partitions, columns, names, triggers (adversarial 15, 16, 19).

Either the change arrives exactly, or a `reset` says that the table's definition changed: never silence.
"""

import json

import pytest

from harness.database import Database
from harness.facts import holds
from harness.server import Server, Servers
from tests.support.clients import Client
from tests.support.transport import Transport, now, verdict

EVENTS = """
CREATE TABLE visits (id bigint, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (10);
CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM (10) TO (20);
SELECT realtime.watch('visits', routes => '{day}')"""


ATTACH = """
CREATE TABLE visits_3 AS SELECT 30::bigint id, 30 AS day, 'x' AS note;
ALTER TABLE visits_3 ALTER id SET NOT NULL, ALTER day SET NOT NULL;
ALTER TABLE visits ATTACH PARTITION visits_3 FOR VALUES FROM (30) TO (40)"""
# What the leader runs by itself every minute: once that is over, where one is under way that had begun before.
CHECK = "LOCK TABLE realtime.generations IN SHARE ROW EXCLUSIVE MODE; SELECT * FROM realtime.check()"


def actions(client: Client, channel: str | None = None) -> list[str]:
    return [change["action"] for change in client.stream.changes(channel)]


async def test_a_truncate_reaches_the_table_and_every_route_and_one_rolled_back_nobody(
    database: Database, server: Server, transport: Transport
) -> None:
    await database.execute("INSERT INTO posts (author_id) VALUES (1), (2)")
    async with await transport.open(server, "posts", "posts:author_id=1", position=await now(database)) as client:
        await database.execute("BEGIN; TRUNCATE posts; ROLLBACK; INSERT INTO posts (author_id) VALUES (1)")
        await database.execute("TRUNCATE posts")
        await client.until(lambda: actions(client).count("TRUNCATE") == 2)
        last = client.stream.changes("posts")[-1]
        assert (last["data"], last["old"], last["key"], last["row"]) == (None, None, None, None)
        assert actions(client, "posts:author_id=1") == ["INSERT", "TRUNCATE"]
        await verdict(database, client)


async def test_a_truncate_that_cascades_reaches_every_table(database: Database, servers: Servers) -> None:
    await database.execute("""
        CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
        SELECT realtime.watch('parent'), realtime.watch('child');
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1)""")
    server = await servers.start()
    async with await Transport("websocket").open(server, "parent", "child") as client:
        await database.execute("TRUNCATE parent CASCADE")
        await client.changes(2)
        assert {c["channel"]: c["action"] for c in client.stream.changes()} == {
            "parent": "TRUNCATE",
            "child": "TRUNCATE",
        }
        await verdict(database, client, tables=("parent", "child"))


async def test_a_partitioned_parent_streams_rows_that_move_and_its_own_truncate(
    database: Database, servers: Servers, transport: Transport
) -> None:
    await database.execute(EVENTS)
    server = await servers.start()
    async with await transport.open(server, "visits", "visits:day=5") as client:
        await database.execute("INSERT INTO visits VALUES (1, 5, 'a'), (2, 5, 'b'), (3, 15, 'c')")
        await database.execute("UPDATE visits SET day = 15 WHERE id = 1")
        await database.execute("INSERT INTO visits_1 VALUES (4, 6, 'by name')")
        await database.execute("UPDATE visits_2 SET note = 'by name' WHERE id = 3")
        await verdict(database, client, tables=("visits",))
        assert {c["table"] for c in client.stream.changes()} == {"visits"}
        await database.execute("TRUNCATE visits")
        await client.until(lambda: actions(client).count("TRUNCATE") == 2)
        await verdict(database, client, tables=("visits",))
        assert not client.stream.resets


@pytest.mark.parametrize(
    "behind",
    [
        "TRUNCATE visits_1",
        "DROP TABLE visits_1",
        "ALTER TABLE visits DETACH PARTITION visits_1",
        ATTACH,
    ],
)
async def test_what_happens_to_a_partition_behind_the_parents_back_is_a_reset(
    database: Database, servers: Servers, transport: Transport, behind: str
) -> None:
    await database.execute(EVENTS)
    server = await servers.start()
    await database.execute("INSERT INTO visits VALUES (1, 5, 'a'), (3, 15, 'c')")
    async with await transport.open(server, "visits", "posts") as client:
        await database.execute(behind)
        await database.execute(CHECK)
        reset = await client.message("reset", 15)
        assert (reset["reason"], reset["channels"]) == ("schema", ["visits"])
        assert "TRUNCATE" not in actions(client)
        await database.execute("INSERT INTO visits VALUES (9, 15, 'after')")
        await client.until(lambda: [c for c in client.stream.changes("visits") if c["data"]["note"] == "after"])


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER TABLE posts ADD note text DEFAULT 'n'",
        "ALTER TABLE posts DROP body",
        "ALTER TABLE posts RENAME title TO heading",
    ],
)
async def test_a_column_that_changes_between_a_change_and_its_replay_resets_and_never_breaks_a_write(
    database: Database, server: Server, transport: Transport, alter: str
) -> None:
    before = await now(database)
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    async with await transport.open(server, "posts") as live:
        await database.execute(alter)
        await database.execute("INSERT INTO posts (author_id) VALUES (2)")
        await database.execute(CHECK)
        reset = await live.message("reset", 15)
        assert reset["reason"] == "schema"
        await database.execute("INSERT INTO posts (author_id) VALUES (3)")
        await live.until(lambda: [c for c in live.stream.changes() if c["data"]["author_id"] == 3])
        row = (await database.execute("SELECT row_to_json(p) FROM posts p WHERE author_id = 3"))[0][0]
        change = next(c for c in live.stream.changes() if c["data"]["author_id"] == 3)
        assert change["data"] == row
    async with await transport.open(server, "posts", position=before) as replayed:
        assert (await replayed.message("reset"))["reason"] == "schema"


async def test_a_dropped_route_column_never_breaks_a_write_and_the_stream_goes_on(
    database: Database, server: Server
) -> None:
    async with await Transport("websocket").open(server, "posts", "posts:author_id=1") as client:
        await database.execute("ALTER TABLE posts DROP author_id")
        await database.execute("INSERT INTO posts (title) VALUES ('without')")
        await database.execute(CHECK)
        reset = await client.message("reset", 15)
        assert reset["reason"] == "schema"
        assert "posts" in reset["channels"]
        await database.execute("INSERT INTO posts (title) VALUES ('after')")
        await client.until(lambda: [c for c in client.stream.changes("posts") if c["data"]["title"] == "after"])


async def test_a_renamed_table_and_a_dropped_one_are_resets(database: Database, server: Server) -> None:
    async with await Transport("websocket").open(server, "posts", "notifications") as client:
        await database.execute("ALTER TABLE posts RENAME TO articles")
        await database.execute("INSERT INTO articles (author_id) VALUES (1)")
        await database.execute("DROP TABLE notifications")
        await database.execute(CHECK)
        await client.until(
            lambda: {c for r in client.stream.resets for c in r["channels"]} == {"posts", "notifications"},
            15,
            "both reset",
        )
        assert {r["reason"] for r in client.stream.resets} == {"schema"}
    assert (await server.ready())[0] == 200
    assert await server.metric('sobranie_resets_total{reason="schema"}') == len(client.stream.resets)
    told = [json.loads(line) for line in server.output().splitlines()]
    assert {(line["event"], line["table"]) for line in told if line["event"].startswith("table_")} == {
        ("table_redefined", "articles"),
        ("table_off_air", "notifications"),
    }


async def test_a_trigger_dropped_by_hand_is_told_and_watching_again_resets(database: Database, server: Server) -> None:
    """What was written without the trigger is in no log: only a reset can be right."""
    async with await Transport("websocket").open(server, "posts") as client:
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'with')")
        await client.changes(1)
        position = client.stream.position
        await database.execute("DROP TRIGGER realtime_insert ON posts")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'without')")
        await database.execute("SELECT realtime.watch('posts', routes => '{author_id}')")
        assert (await client.message("reset", 15))["reason"] == "schema"
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'again')")
        await client.until(lambda: [c for c in client.stream.changes() if c["data"]["title"] == "again"])
    async with await Transport("events").open(server, "posts", position=position) as replayed:
        assert (await replayed.message("reset"))["reason"] == "schema"


async def test_watching_again_with_the_same_routes_is_not_noticed(database: Database, server: Server) -> None:
    async with await Transport("websocket").open(server, "posts") as client:
        await database.execute("SELECT realtime.watch('posts', routes => '{author_id}')")
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await client.changes(1)
        await holds(lambda: not client.stream.resets, 1.0)
        await verdict(database, client)


async def test_a_reset_names_only_the_channels_of_the_table_that_changed(
    database: Database, server: Server, transport: Transport
) -> None:
    before = await now(database)
    await database.execute("INSERT INTO notifications (user_id, kind) VALUES (1, 'between')")
    await database.execute("ALTER TABLE posts ADD note text")
    await database.execute(CHECK)
    async with await transport.open(server, "posts", "notifications", position=before) as client:
        assert (await client.message("reset"))["channels"] == ["posts"]
        await client.until(lambda: actions(client, "notifications") == ["INSERT"])
        await database.execute("SELECT realtime.reload('notifications')")
        await client.until(lambda: [r["channels"] for r in client.stream.resets] == [["posts"], ["notifications"]])
        await database.execute("INSERT INTO posts (author_id) VALUES (5)")
        await client.until(lambda: "INSERT" in actions(client, "posts"))


async def test_a_new_partition_is_ordinary(database: Database, servers: Servers) -> None:
    await database.execute(EVENTS)
    server = await servers.start()
    async with await Transport("websocket").open(server, "visits") as client:
        await database.execute("CREATE TABLE visits_9 PARTITION OF visits FOR VALUES FROM (90) TO (99)")
        await database.execute("INSERT INTO visits VALUES (1, 95, 'new')")
        assert await database.execute(CHECK) == []
        await client.changes(1)
        await holds(lambda: not client.stream.resets, 1.0)
