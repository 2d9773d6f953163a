"""Positions through crashes (adversarial 26, 27): every old one gets every new change, nobody is reset, and what was
delivered stays in the event log.

The postmaster is killed while transactions are being aborted whose ids the crash takes back, in half of the rounds with
`synchronous_commit = off`, where even committed ones may be gone. CRASH_ROUNDS is the number of rounds.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.server import Server
from tests.support.clients import Client, WebSocketClient
from tests.support.judge import judge, report
from tests.support.stream import Mark
from tests.support.transport import Transport, now
from tests.support.truth import Truth

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
HELD = 4  # positions of each round that are held over all that follow
ABORTS = 60


@pytest.fixture
def lazy_cluster() -> Iterator[Cluster]:
    made = Cluster(wal_writer_delay="10s")  # a crash then takes back as much as it can
    yield made
    made.close()


@pytest.fixture
async def crashing(lazy_cluster: Cluster) -> AsyncIterator[tuple[Database, Server]]:
    database = Database(lazy_cluster, lazy_cluster.create_database(migrated=True))
    async with Server(database.url) as server:
        yield database, server


async def commit(database: Database, mode: str, ended: asyncio.Event) -> None:
    """Commits, and aborts between, until the database goes."""
    try:
        async with await database.connect(autocommit=False) as writer:
            await writer.execute(f"SET synchronous_commit = {mode}".encode())
            await writer.commit()
            while not ended.is_set():
                await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, 'kept, if acknowledged')")
                await writer.commit()
                await writer.execute("UPDATE posts SET title = 'never' WHERE id = (SELECT max(id) FROM posts)")
                await writer.rollback()
    except psycopg.OperationalError:
        pass


async def abort(database: Database) -> int:
    """Aborts many transactions one after another; the id of the last."""
    last = 0
    async with await database.connect(autocommit=False) as writer:
        for _ in range(ABORTS):
            cursor = await writer.execute(
                "INSERT INTO posts (author_id, title) VALUES (2, 'gone') RETURNING pg_current_xact_id()::text::bigint"
            )
            (last,) = await cursor.fetchone() or (0,)
            await writer.rollback()
    return last


async def crash(database: Database, mode: str) -> int:
    """One crash under load, and the start after it; how many transaction ids it took back."""
    ended = asyncio.Event()
    writers = [asyncio.create_task(commit(database, mode, ended)) for _ in range(3)]
    aborted = [await abort(database) for _ in range(2)][-1]
    await asyncio.to_thread(database.cluster.kill9)
    await asyncio.gather(*writers)
    await asyncio.to_thread(database.cluster.start)
    return max(0, aborted + 1 - int(await database.value("SELECT pg_current_xact_id()::text::bigint")))


async def told(database: Database, client: Client, what: str) -> None:
    """A change after the crash, waited for."""
    await database.execute("INSERT INTO posts (author_id, title) VALUES (3, %s)", what)
    await client.until(lambda: [c for c in client.stream.changes()[-9:] if c["data"]["title"] == what], 60, what)


def positions(client: Client) -> list[str]:
    return [item.position for s in client.stream.segments for item in s.items if isinstance(item, Mark)]


async def test_a_killed_postmaster_resets_nobody_and_every_position_gets_what_came_after(
    crashing: tuple[Database, Server], figures: Callable[[str], None]
) -> None:
    database, server = crashing
    dice, held, taken_back = random.Random(7), list[str](), 0
    async with (
        await Transport("websocket").open(server, "posts") as socket,
        await Transport("events").open(server, "posts") as events,
    ):
        number = 0
        while number < ROUNDS or (taken_back == 0 and number < 5 * ROUNDS):  # a quiet crash proves nothing: one more
            before = len(positions(socket))
            taken_back += await crash(database, "off" if number % 2 == 0 else "on")
            await told(database, socket, f"after {number}")
            seen = positions(socket)[before:]
            held += dice.sample(seen, min(HELD, len(seen)))
            number += 1
        assert taken_back > 0, "no crash took a transaction id back: this run has proved nothing"
        await judged(database, server, [socket, events], held)
    figures(f"crashes: {number} kills, {taken_back} transaction ids re-used, {len(held)} old positions resumed, 0 lost")


async def judged(database: Database, server: Server, clients: list[Client], held: list[str]) -> None:
    """All the clients, and one more from each held position, have exactly what the event log has."""
    final = await now(database)
    async with await database.connect() as connection:
        truth = await Truth.read(connection, "posts")

    async def judge_(client: Client) -> None:
        await client.reach(final, timeout=60)
        findings = judge(client.stream, truth, final=final)
        assert not findings, f"{client.stream.name}: {report(findings)}"
        assert not client.stream.resets, f"{client.stream.name}: {client.stream.resets[:2]}"

    for client in clients:
        await judge_(client)
    for number, position in enumerate(held):
        async with await WebSocketClient(server.url, f"held {number}").connect() as late:
            await late.subscribe("posts", position=position)
            await judge_(late)


async def test_a_clean_restart_resets_nobody_not_even_a_page_rendered_before_it(
    own_cluster: Cluster, transport: Transport
) -> None:
    database = Database(own_cluster, own_cluster.create_database(migrated=True))
    async with Server(database.url) as server, await transport.open(server, "posts") as client:
        first = client.stream.position
        rendered = await now(database)  # not known to be durable: holds within its incarnation only
        await asyncio.to_thread(own_cluster.restart)
        await told(database, client, "after")
        for position in (rendered, first):
            async with await transport.open(server, "posts", position=position) as late:
                assert [c["data"]["title"] for c in await late.changes(1)] == ["after"]
                assert not late.stream.resets
        assert not client.stream.resets
