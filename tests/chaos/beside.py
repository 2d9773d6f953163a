"""What happens beside the stream and breaks nothing: applications and their owners at ordinary work.

Invariants: who changes definitions and who dumps take turns, for PostgreSQL's own pg_dump fails where a function or a
table goes while it reads. Nobody stops PostgreSQL under a dump, so a dump or a restore that fails is a finding.
"""

import asyncio
import time

import aiohttp
import psycopg

from harness.database import Database
from harness.facts import pause
from harness.server import Server
from tests.chaos import rows
from tests.chaos.schedule import LONG, Acts, Broken, Schedule
from tests.chaos.world import AUDIT, BULK, CHANNELS, UNAUDITED, WHOLE, World
from tests.support.clients import WebSocketClient
from tests.support.transport import now

ACTS = Acts()
fault = ACTS.named
ROUTES = ('{"tenant_id,status", tenant_id}', '{"tenant_id,status", tenant_id, status}')
BULK_ROWS = 100_000
PAGES = 4  # that load their rows in a loop


@fault("routes changed", 2)
async def rewatch(schedule: Schedule) -> str:
    """A new generation of shop.orders: its channels are reset with `schema`."""
    async with schedule.world.definitions, await schedule.world.database.connect() as connection:
        await connection.execute("SET lock_timeout = '3s'")
        schedule.turns += 1
        routes = ROUTES[schedule.turns % 2]
        await connection.execute("SELECT realtime.watch('shop.orders', routes => %s::text[])", (routes,))
    return "shop.orders"


@fault("burst", 3)
async def burst(schedule: Schedule) -> str:
    """A thousand rows of one transaction, and of its rolled-back twin."""
    async with await schedule.world.database.connect(autocommit=False) as connection:
        insert = "INSERT INTO posts (author_id, title) SELECT g %% 5, %s FROM generate_series(1, 1000) g"
        await connection.execute(insert, ("rolled back",))
        await connection.rollback()
        await connection.execute(insert, ("burst",))
        await connection.execute("DELETE FROM posts WHERE title = 'burst' AND author_id <> 1")
        await connection.commit()
    return "posts"


@fault("bulk write", 0)
async def bulk(schedule: Schedule) -> str:
    """100,000 rows in one transaction, too many to hold, that go again in another: few listen to all of them."""
    async with await schedule.world.database.connect() as connection:
        await connection.execute(
            "INSERT INTO shop.bulk SELECT g + (SELECT coalesce(max(id), 0) FROM shop.bulk), 1 + g %% 100, 'bulk' "
            "FROM generate_series(1, %s) g",
            (BULK_ROWS,),
        )
        await pause(schedule.dice.choice((0.0, 2.0)))
        await connection.execute(schedule.dice.choice((b"DELETE FROM shop.bulk", b"TRUNCATE shop.bulk")))
    return "shop.bulk"


@fault("rows in a loop", 4)
async def rows_in_a_loop(schedule: Schedule) -> str:
    """Pages that load their rows anew as soon as they have them."""
    station, ended = schedule.any(), time.monotonic() + schedule.dice.uniform(*LONG)
    channels = [*schedule.dice.sample(CHANNELS, PAGES - 1), schedule.dice.choice(BULK[1:])]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        found = await asyncio.gather(*(rows.loop(http, station.url, channel, ended) for channel in channels))
    schedule.asked += [asked for some in found for asked in some]
    return station.name


@fault("partition comes and goes", 4)
async def partition(schedule: Schedule) -> str:
    """Half of them hold rows for a time, which are moved to another partition before it is taken away."""
    name, used = f"shop.visits_{(room := next(schedule.rooms))}", schedule.dice.random() < 0.5
    async with await schedule.world.database.connect() as connection:
        await connection.execute("SET lock_timeout = '3s'")
        await _define(schedule, connection, f"CREATE TABLE {name} PARTITION OF shop.visits FOR VALUES IN ({room})")
        await _visit(connection, room if used else 1)
        await schedule.last()
        await _visit(connection, 2)
        await connection.execute("UPDATE shop.visits SET room = 1 + id %% 2 WHERE room = %s", (room,))
        await _define(schedule, connection, f"ALTER TABLE shop.visits DETACH PARTITION {name}; DROP TABLE {name}")
    return name


async def _visit(connection: psycopg.AsyncConnection[object], room: int) -> None:
    for note in ("in", "again"):
        await connection.execute(
            "INSERT INTO shop.visits SELECT nextval('shop.visit_id'), %s, %s FROM generate_series(1, 20)", (room, note)
        )


async def _define(schedule: Schedule, connection: psycopg.AsyncConnection[object], sql: str) -> None:
    async with schedule.world.definitions:
        await connection.execute(sql.encode())


@fault("audit of DDL", 3)
async def audit(schedule: Schedule) -> str:
    """An event trigger as audits have them comes, and goes: who runs DDL needs rights that the product's roles lack."""
    world = schedule.world
    async with world.definitions:
        await world.database.execute(AUDIT)
    await schedule.last()
    async with world.definitions:
        await world.unaudited()
    return "the database"


@fault("event log locked", 1)
async def locked(schedule: Schedule) -> str:
    """Somebody holds the partitions of the event log as a long pg_dump does: they can't turn."""
    async with await schedule.world.database.connect(autocommit=False) as connection:
        await connection.execute("LOCK TABLE realtime.events IN ACCESS SHARE MODE")
        await schedule.last()
        await connection.rollback()
    return "realtime.events"


@fault("pg_dump", 3)
async def dump(schedule: Schedule) -> str:
    async with schedule.world.definitions, schedule.world.cluster_lock:
        await _dump(schedule.world)
    return "the database"


@fault("restore beside", 2)
async def restore(schedule: Schedule) -> str:
    """A dump becomes a second database of the same PostgreSQL, which is served beside the first, and then leaves."""
    world = schedule.world
    async with world.definitions, world.cluster_lock:
        await _dump(world, *schedule.dice.choice(((), ("--exclude-table-data=realtime.events*",))))
        copy = Database(world.cluster, await asyncio.to_thread(world.cluster.create_database, migrated=False))
        try:
            await _program(world, "pg_restore", "--exit-on-error", "-d", copy.url, str(world.dump))
            await copy.execute(UNAUDITED)  # else the copy can't be taken over, which is DDL
            await _live(copy)
        finally:
            await asyncio.to_thread(world.cluster.drop_database, copy.name)
    return copy.name


async def _live(copy: Database) -> None:
    """A server of the copy tells the copy's changes, and those alone."""
    server = Server(copy.url, "beside")
    client = WebSocketClient(server.url)
    try:
        await server.start()
        await copy.execute("SELECT * FROM realtime.check()")  # the first after a restore resets clients, as it may
        await client.connect()
        await client.subscribe(*WHOLE, position=await now(copy))
        await copy.execute("INSERT INTO posts (author_id, title) SELECT 1, g::text FROM generate_series(1, 20) g")
        changes = await client.changes(20)
        await client.reach(await now(copy))
    except AssertionError as error:
        raise Broken(f"{error}\n{server.output()}") from error
    finally:
        await client.abort()
        await server.stop()
        server.log.unlink()
    wrong = client.stream.faults + client.stream.resets + client.stream.errors
    if wrong or [change["data"]["title"] for change in changes] != [str(g) for g in range(1, 21)]:
        raise Broken(f"{wrong}, {client.stream.changes()}")


async def _dump(world: World, *more: str) -> None:
    file = ("--format=custom", "--file", str(world.dump))
    await _program(world, "pg_dump", *file, "--exclude-table-data=chaos.ledger", *more, "-d", world.database.url)


async def _program(world: World, name: str, *arguments: str) -> None:
    try:
        await asyncio.to_thread(world.cluster.run, name, *arguments)
    except RuntimeError as error:
        raise Broken(str(error)) from error
