"""Other histories of the database (adversarial 27): failover, switchover, restore, clone. Each ends in "continues
exactly" or in a `reset` with the right reason, and never in silence.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.support.clients import Client, WebSocketClient, same
from tests.support.standby import caught_up, clone, dump, either, fall_behind, promote, restore, shut_down, standby
from tests.support.transport import Transport, verdict

LONG = pytest.mark.skipif("LONG" not in os.environ, reason="half a minute: make test-long")

WRITE = "INSERT INTO posts (author_id, title) VALUES (1, %s)"
WEBSOCKET = Transport("websocket")


@pytest.fixture
def primary(own_cluster: Cluster) -> Database:
    return Database(own_cluster, own_cluster.create_database(migrated=True))


async def write(database: Database, *titles: str) -> None:
    for title in titles:
        await database.execute(WRITE, title)


def titles(client: Client) -> list[str]:
    return [change["data"]["title"] for change in client.stream.changes()]


def reasons(client: Client) -> list[str]:
    return [reset["reason"] for reset in client.stream.resets]


async def told(client: Client, title: str, timeout: float = 40.0) -> None:
    await client.until(lambda: title in titles(client)[-5:], timeout, f"the change {title!r}")


@asynccontextmanager
async def resumed(server: Server, position: str | None) -> AsyncIterator[Client]:
    """A client that comes back to `server` with a position."""
    async with await WEBSOCKET.open(server, "posts", position=position) as client:
        yield client


async def test_a_clean_switchover_resets_nobody_and_goes_on_exactly(primary: Database) -> None:
    """The primary is shut down when the standby has everything, and the standby promoted."""
    with standby(primary.cluster) as other:
        async with (
            Server(either(primary.name, primary.cluster, other)) as server,
            await WEBSOCKET.open(server, "posts") as socket,
            await Transport("events").open(server, "posts") as events,
        ):
            await write(primary, "one", "two")
            for client in (socket, events):
                await told(client, "two")
            early, late = socket.stream.segments[0].start, socket.stream.position
            await shut_down(primary.cluster, other)
            promote(other)
            promoted = Database(other, primary.name)
            await write(promoted, "three")
            for client in (socket, events):
                await told(client, "three")
                assert not client.stream.resets
            await verdict(promoted, socket, events)
            for position, missed in ((early, ["one", "two", "three"]), (late, ["three"])):
                async with resumed(server, position) as client:
                    await told(client, "three")
                    assert (titles(client), reasons(client)) == (missed, [])


async def test_a_failover_without_the_tail_resets_who_saw_the_tail_and_nobody_else(primary: Database) -> None:
    with standby(primary.cluster) as other:
        async with (
            Server(either(primary.name, primary.cluster, other)) as server,
            await WEBSOCKET.open(server, "posts") as seen_all,
        ):
            await write(primary, "kept")
            await told(seen_all, "kept")
            kept = seen_all.stream.position
            await caught_up(primary.cluster, other)
            await fall_behind(primary.cluster, other)
            await write(primary, "tail")
            await told(seen_all, "tail")
            tail = seen_all.stream.position
            primary.cluster.stop("immediate")
            promote(other)
            promoted = Database(other, primary.name)
            await seen_all.message("reset", timeout=40)
            await write(promoted, "after")
            await told(seen_all, "after")
            assert reasons(seen_all) == ["lost"]
            async with resumed(server, tail) as client:
                await write(promoted, "last")
                await told(client, "last")
                assert (titles(client), reasons(client)) == (["last"], ["lost"])
            async with resumed(server, kept) as client:
                await told(client, "last")
                assert (titles(client), reasons(client)) == (["after", "last"], [])


async def test_with_a_synchronous_standby_a_failover_under_load_resets_nobody(primary: Database) -> None:
    """What was acknowledged is on the standby. What clients saw may be further: then, and only then, `lost`."""
    with standby(primary.cluster, synchronous=True) as other:
        async with (
            Server(either(primary.name, primary.cluster, other)) as server,
            await WEBSOCKET.open(server, "posts") as client,
        ):
            acknowledged = list[str]()
            writing = asyncio.create_task(acknowledge(primary, acknowledged))
            await client.changes(200)
            primary.cluster.stop("immediate")
            await writing
            promote(other)
            promoted = Database(other, primary.name)
            await write(promoted, "after")
            await told(client, "after")
            kept = {title for (title,) in await promoted.execute("SELECT title FROM posts")}
            assert kept.issuperset(acknowledged), "the standby was not synchronous"
            assert reasons(client) in ([], ["lost"])
            if not client.stream.resets:
                await verdict(promoted, client)


async def acknowledge(database: Database, acknowledged: list[str]) -> None:
    try:
        async with await database.connect() as writer:
            while True:
                title = str(len(acknowledged))
                await writer.execute(WRITE, (title,))
                acknowledged.append(title)
    except psycopg.OperationalError:
        pass


@LONG
async def test_a_second_failover_goes_on_too(primary: Database) -> None:
    """Two switches of timeline between a position and the history that it is shown to; the first went unseen."""
    async with Server(primary.url) as server, await WEBSOCKET.open(server, "posts") as client:
        await write(primary, "one")
        await told(client, "one")
        old = client.stream.position
    with standby(primary.cluster) as second:
        await shut_down(primary.cluster, second)
        promote(second)
        await write(Database(second, primary.name), "two")
        with standby(second) as third:
            await shut_down(second, third)
            promote(third)
            last = Database(third, primary.name)
            await write(last, "three")
            async with Server(last.url) as server, resumed(server, old) as client:
                await told(client, "three")
                assert (titles(client), reasons(client)) == (["two", "three"], [])


async def test_a_crash_of_the_new_primary_before_anybody_connects_hides_no_lost_tail(primary: Database) -> None:
    """Its log grows past the lost tail and crash recovery ends beyond it: that must not look like the switch."""
    with standby(primary.cluster) as other:
        async with Server(primary.url) as server, await WEBSOCKET.open(server, "posts") as client:
            await caught_up(primary.cluster, other)
            await fall_behind(primary.cluster, other)
            await write(primary, "tail")
            await told(client, "tail")
            tail = client.stream.position
        primary.cluster.stop("immediate")
        promote(other)
        promoted = Database(other, primary.name)
        await promoted.execute("INSERT INTO posts (author_id) SELECT 2 FROM generate_series(1, 2000)")
        other.kill9()
        other.start()
        async with Server(promoted.url) as server, resumed(server, tail) as client:
            await client.message("reset")
            assert reasons(client) == ["lost"]


async def test_a_dump_restored_elsewhere_or_over_the_same_database_is_foreign(primary: Database) -> None:
    await primary.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)")  # nobody else may use it
    await primary.execute("SELECT realtime.watch('shop.orders')")
    async with Server(primary.url) as server, await WEBSOCKET.open(server, "posts") as client:
        await write(primary, "one")
        await told(client, "one")
        old = client.stream.position
    path = dump(primary.cluster, primary.name)
    primary.cluster._ddl("CREATE DATABASE elsewhere")
    restore(primary.cluster, "elsewhere", path)
    restore(primary.cluster, primary.name, path, "--clean")
    for name in ("elsewhere", primary.name):
        database = Database(primary.cluster, name)
        async with Server(database.url) as server, resumed(server, old) as client:
            await client.message("reset")
            assert reasons(client) == ["foreign"]
            await write(database, "two")
            await told(client, "two")


@LONG
async def test_a_restore_over_the_database_that_is_being_served_is_told(primary: Database) -> None:
    async with Server(primary.url) as server, await WEBSOCKET.open(server, "posts") as client:
        await write(primary, "one")
        path = dump(primary.cluster, primary.name)
        await write(primary, "undone by the restore")
        await told(client, "undone by the restore")
        await asyncio.to_thread(restore, primary.cluster, primary.name, path, "--clean")
        await client.message("reset", timeout=20)
        assert reasons(client)[0] in ("foreign", "lost")
        # The table is another one now, which the client is told too: it has to ask again.
        await client.message("unsubscribed")
        assert isinstance(client, WebSocketClient)
        await client.subscribe("posts")
        known = len(reasons(client))
        await write(primary, "two")
        # The leader finds the new tables and begins new generations: where "two" was read together with these, the
        # client is told `schema` in its place.
        await client.until(lambda: "two" in titles(client) or reasons(client)[known:] == ["schema"], 40, "word of two")
        await write(primary, "three")
        await told(client, "three")
        assert await server.metric("sobranie_internal_errors_total") == 0


async def test_a_clone_honours_what_both_share_and_refuses_what_only_the_other_has(primary: Database) -> None:
    async with Server(primary.url) as server, await WEBSOCKET.open(server, "posts") as client:
        await write(primary, "shared")
        await told(client, "shared")
        shared = client.stream.position
        primary.cluster.kill9()
        with clone(primary.cluster) as other:
            primary.cluster.start()
            await write(primary, "of the first alone")
            await told(client, "of the first alone")
            alone = client.stream.position
            copy = Database(other, primary.name)
            await copy.execute("INSERT INTO posts (author_id) SELECT 2 FROM generate_series(1, 50)")
            for _ in range(50):
                await copy.execute("INSERT INTO posts (author_id) VALUES (2)")
            async with Server(copy.url, "two") as second:
                async with resumed(second, shared) as late:
                    await eventually(lambda: late.stream.count() == 100, 20, "everything since the clone")
                    assert not late.stream.resets
                async with resumed(second, alone) as late:
                    await late.message("reset")
                    assert reasons(late) in (["foreign"], ["lost"])
                    assert not same(alone or "", late.stream.position)
