"""Resuming: at every position that was ever handed out, on any server, over either transport (adversarial 9 and 25)."""

import random
from typing import cast

import pytest

from harness.database import Database
from harness.facts import eventually, pause
from harness.server import Server, Servers
from tests.support import token
from tests.support.clients import Client, EventStreamClient, WebSocketClient
from tests.support.stream import Mark
from tests.support.transport import Transport, now, verdict


async def test_every_position_that_was_handed_out_resumes_exactly(
    database: Database, servers: Servers, transport: Transport
) -> None:
    one, two = await servers.start("one"), await servers.start("two")
    async with await transport.open(one, "posts") as first:
        await _mixed_writes(database)
        await verdict(database, first)
        given = [i.position for s in first.stream.segments for i in s.items if isinstance(i, Mark)]
    assert len(set(given)) > 10
    for server, position in zip([one, two] * len(given), sorted(set(given))[::2], strict=False):
        async with await transport.open(server, "posts", "posts:author_id=1", position=position) as again:
            await verdict(database, again)
            assert not again.stream.resets


async def _mixed_writes(database: Database) -> None:
    async with await database.connect() as quick, await database.connect(autocommit=False) as slow:
        for i in range(30):
            if i % 7 == 0:
                await slow.commit()
                await slow.execute("INSERT INTO posts (author_id, title) VALUES (1, 'slow')")
            await quick.execute("INSERT INTO posts (author_id, title) VALUES (%s, 'quick')", (i % 2,))
            await quick.execute("UPDATE posts SET title = title || '.' WHERE id = (SELECT min(id) FROM posts)")
            await pause(0.005)  # so that there are many positions
        await slow.commit()


async def test_a_client_that_hops_between_servers_in_the_middle_of_units_misses_and_repeats_nothing(
    database: Database, servers: Servers, transport: Transport
) -> None:
    """Small messages make every unit many parts; the client is cut at any of them."""
    both = [await servers.start(name, SOBRANIE_OUTBOUND_BYTES="1kB") for name in ("one", "two")]
    dice = random.Random(9)
    async with await transport.open(both[0], "posts", "posts:author_id=1") as client:
        async with await database.connect() as writer:
            for i in range(25):
                before = client.stream.count("posts")
                rows = dice.randint(1, 200)
                await writer.execute(
                    "INSERT INTO posts (author_id, body) SELECT g %% 3, repeat('x', 100) FROM generate_series(1, %s) g",
                    (rows,),
                )
                if i % 3 == 0:
                    await client.changes(before + 1, "posts")
                    await client.reconnect(both[dice.randint(0, 1)].url)
        await verdict(database, client)


async def test_a_client_ahead_of_its_server_gets_only_what_it_has_not(database: Database, server: Server) -> None:
    """A position of the database's own now is ahead of any server that has not read since: nothing comes twice."""
    async with (
        await database.connect(autocommit=False) as writer,
        await WebSocketClient(server.url).connect() as client,
    ):
        assert (await client.subscribe("notifications"))["type"] == "subscribed"
        for i in range(20):
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", (str(i),))
            await writer.commit()
            ahead = await now(database)
            answer = await client.subscribe("posts", position=ahead)
            assert answer["type"] == "subscribed", answer
            await client.until(lambda: "posts" in client.stream.joined, what="posts joined")
            assert (await client.unsubscribe("posts"))["type"] == "unsubscribed"
        assert not client.stream.changes("posts")
        await verdict(database, client, tables=())


async def test_a_page_rendered_in_a_snapshot_and_subscribed_with_its_position_misses_nothing(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await database.connect(autocommit=False) as page, await database.connect(autocommit=False) as open_one:
        await open_one.execute("INSERT INTO posts (author_id, title) VALUES (1, 'open when the page was rendered')")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'on the page')")
        await page.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows = await (await page.execute("SELECT title FROM posts")).fetchall()
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'later')")
        position = cast(tuple[str], await (await page.execute("SELECT realtime.position()")).fetchone())[0]
        await open_one.commit()
    assert rows == [("on the page",)]
    async with await transport.open(server, "posts", position=position) as client:
        await client.changes(2)
        await verdict(database, client)
        assert sorted(c["data"]["title"] for c in client.stream.changes()) == [
            "later",
            "open when the page was rendered",
        ]


async def test_last_event_id_beats_the_position_of_the_url(database: Database, server: Server) -> None:
    early = await now(database)
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'seen')")
    late = await now(database)
    client = EventStreamClient(server.url, "posts", position=early)
    client.last_event_id = late
    async with client:
        await client.message("subscribed")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'new')")
        await client.changes(1)
        await client.reach(await now(database))
        assert [c["data"]["title"] for c in client.stream.changes()] == ["new"]


async def _reset_of(client: Client) -> dict[str, object]:
    reset = await client.message("reset", 15)
    assert sorted(reset["channels"]) == ["notifications", "posts"], "one reset names all its channels"
    assert token.read(reset["position"]).strict
    return reset


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("garbage", "invalid"),
        ("truncated", "invalid"),
        ("altered", "invalid"),
        ("enormous", "invalid"),
        ("future", "invalid"),
        ("other database", "foreign"),
        ("control characters", "invalid"),
        ("no such incarnation", "foreign"),
    ],
)
async def test_a_position_that_cannot_be_honoured_is_reset_and_the_stream_goes_on(
    database: Database, server: Server, transport: Transport, kind: str, reason: str
) -> None:
    position = await _bad_position(database, kind)
    async with await transport.open(server, "posts", "notifications", position=position) as client:
        reset = await _reset_of(client)
        assert reset["reason"] == reason
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'after')")
        await client.until(lambda: [c for c in client.stream.changes("posts") if c["data"]["title"] == "after"])
        assert len([m for m in client.messages if m["type"] == "reset"]) == 1
        final = await now(database)
        await client.reach(final)


async def _bad_position(database: Database, kind: str) -> str:
    good = await now(database)
    xmax = str(token.read(good).xmax + 100_000)
    made = {
        "garbage": "what?",
        "truncated": good[:-3],
        "altered": good.replace("-", "_", 1),
        "enormous": "p" + "9" * 5000,
        "future": token.forged(good, xmax=xmax),
        "control characters": "p1-\t\x01",
        "no such incarnation": token.forged(good, head="p4000", tag="deadbeef"),
    }
    if kind in made:
        return made[kind]
    name = database.cluster.create_database(migrated=True)
    try:
        other = Database(database.cluster, name)
        await other.execute("INSERT INTO posts (author_id) VALUES (1)")
        return token.forged(await now(other), tag="0badcafe") if not await _incarnated(other) else await now(other)
    finally:
        database.cluster.drop_database(name)


async def _incarnated(database: Database) -> bool:
    return bool(await database.value("SELECT count(*) FROM realtime.alive"))


async def test_a_position_from_before_the_log_is_expired(
    database: Database, servers: Servers, transport: Transport
) -> None:
    """The partitions of the event log are turned until the first row is gone; a server that never had it says so."""
    await servers.start("one")
    old = await now(database)
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'gone')")

    async def turned() -> bool:
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'later')")
        await database.execute("SELECT realtime.turn('1h', 1, pg_current_snapshot())")
        return not await database.value("SELECT count(*) FROM realtime.events WHERE new ->> 'title' = 'gone'")

    await eventually(turned, 20, "the partitions turned past the first row")
    two = await servers.start("two")
    async with await transport.open(two, "posts", position=old) as client:
        assert (await client.message("reset"))["reason"] == "expired"
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'after')")
        await client.until(lambda: client.stream.changes("posts")[-1:], what="the stream goes on")
        await client.reach(await now(database))
