"""Large statements and large rows reach a client whole, and the server stays small (adversarial 14, 17)."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from bench.system import cpu, family_cpu
from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.support.clients import Client, WebSocketClient
from tests.support.transport import Transport, verdict

ROWS = 100_000
GROWTH_BYTES = 200 << 20


async def highest_rss(server: Server, during: asyncio.Task[object]) -> int:
    """The most memory that the server had while the task ran."""
    highest = 0
    while not during.done():
        highest = max(highest, server.rss())
        await asyncio.wait([during], timeout=0.02)
    await during
    return highest


async def test_one_insert_of_100k_rows_arrives_whole_in_one_unit_and_in_bounded_memory(
    database: Database, server: Server, figures: Callable[[str], None]
) -> None:
    async with await Transport("websocket").open(server, "posts") as client:
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await client.changes(1)
        before, started = server.rss(), time.perf_counter()

        async def whole() -> None:
            await database.execute(
                "INSERT INTO posts (author_id, title, body) "
                "SELECT g, 'title ' || g, repeat('b', 100) FROM generate_series(1, %s) g",
                ROWS,
            )
            await client.changes(ROWS + 1, timeout=90)

        highest = await highest_rss(server, asyncio.create_task(whole()))
        seconds, growth = time.perf_counter() - started, highest - before
        figures(
            f"INSERT of {ROWS} rows: whole at one client after {seconds:.1f} s, "
            f"server memory +{growth / (1 << 20):.0f} MB"
        )
        assert growth < GROWTH_BYTES >> 1
        parts = [i for i, m in enumerate(client.messages) if m["type"] == "changes" and len(m["changes"]) > 1]
        within = client.messages[parts[0] : parts[-1]]
        assert not [m for m in within if "position" in m], "no position before all of it: one unit"
        assert max(len(text) for text in client.raw) < 2 << 20
        await verdict(database, client)


async def test_a_copy_and_then_an_update_of_everything_replay_to_the_same_rows(
    database: Database, server: Server
) -> None:
    """Over an event stream, after a statement of one row in the same session (the planner has seen a small one)."""
    async with await Transport("events").open(server, "posts") as client, await database.connect() as writer:
        await writer.execute("INSERT INTO posts (author_id) VALUES (0)")
        await writer.execute("UPDATE posts SET title = 'one'")
        async with writer.cursor() as cursor, cursor.copy("COPY posts (author_id, title) FROM STDIN") as copy:
            for i in range(20_000):
                await copy.write_row((i, f"copied {i}"))
        started = time.perf_counter()
        await writer.execute("UPDATE posts SET body = 'all'")
        assert time.perf_counter() - started < 20, "an UPDATE of many rows is linear"
        await client.changes(40_003, timeout=60)
        await verdict(database, client)


async def test_a_row_of_a_megabyte_goes_alone_and_an_unchanged_large_column_comes_with_an_update(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts") as client:
        await database.execute("INSERT INTO posts (author_id, body) VALUES (1, repeat('é', 1000000)), (1, 'small')")
        await database.execute("UPDATE posts SET title = 'kept' WHERE length(body) = 1000000")
        changes = await client.changes(3)
        assert len(changes[-1]["data"]["body"]) == len(changes[-1]["old"]["body"]) == 1_000_000
        await verdict(database, client)


async def test_a_client_that_stops_reading_costs_the_others_nothing(database: Database, server: Server) -> None:
    """It is fed from the event log when it reads again, and has missed nothing."""
    stalled = await WebSocketClient(server.url, "stalled").connect()
    await stalled.subscribe("posts")
    transport = stalled.socket.get_extra_info("socket")
    assert transport is not None
    pause_reading(stalled, True)
    async with await Transport("websocket").open(server, "posts") as quick:
        before = server.rss()
        for _ in range(40):
            await database.execute(
                "INSERT INTO posts (author_id, body) SELECT 1, repeat('b', 10000) FROM generate_series(1, 100)"
            )
        await quick.changes(4000, timeout=30)
        assert server.rss() - before < GROWTH_BYTES
        pause_reading(stalled, False)
        await verdict(database, quick, stalled)
        assert not stalled.stream.resets
    await stalled.abort()


def pause_reading(client: Client, paused: bool) -> None:
    """Stops the socket itself, as a browser's tab does that is busy: the kernel's buffers fill."""
    assert isinstance(client, WebSocketClient)
    response = client.socket._response
    assert response.connection is not None
    assert response.connection.transport is not None
    if paused:
        response.connection.transport.pause_reading()
    else:
        response.connection.transport.resume_reading()


async def deaf(server: Server, query: str = "") -> asyncio.StreamWriter:
    """A client that subscribes and then reads nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET /realtime/events?channel=posts{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b'"type":"subscribed"')
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


LARGE = "INSERT INTO posts (author_id, body) VALUES (1, repeat('x', 16 << 20))"


async def test_clients_that_read_nothing_share_the_large_change_that_waits_for_them(
    database: Database, server: Server, figures: Callable[[str], None]
) -> None:
    """A copy for each would be 640 MB and more."""
    clients = [await deaf(server) for _ in range(40)]
    async with await Transport("websocket").open(server, "posts") as client:
        before = server.rss()
        written = asyncio.create_task(database.execute(LARGE))
        highest = await highest_rss(server, asyncio.create_task(client.changes(1, timeout=60)))
        await written
        highest = max(highest, server.rss()) - before
    for writer in clients:
        writer.transport.abort()
    figures(f"40 clients that read nothing, one change of 16 MB: server memory +{highest >> 20} MB")
    assert highest < GROWTH_BYTES


async def test_the_memory_that_slow_clients_took_goes_back_when_they_have_gone(
    database: Database, server: Server, figures: Callable[[str], None]
) -> None:
    async with await Transport("websocket").open(server, "posts") as client:
        start = client.stream.position
        await database.execute(LARGE)
        await client.changes(1, timeout=60)
    before = server.rss()
    clients = [await deaf(server, f"&position={start}") for _ in range(20)]
    await eventually(lambda: server.rss() - before > GROWTH_BYTES, 30, "each is fed a message of its own")
    held = server.rss() - before
    for writer in clients:
        writer.transport.abort()
    await eventually(lambda: server.rss() - before < GROWTH_BYTES >> 1, 30, "it has gone back")
    figures(f"20 slow clients, fed one change of 16 MB: server memory +{held >> 20} MB while they are there")


async def test_the_memory_of_rows_that_nobody_took_goes_back_when_the_clients_have_gone(
    database: Database, server: Server, figures: Callable[[str], None]
) -> None:
    await database.execute(
        "INSERT INTO posts (author_id, body) SELECT g, repeat('x', 1000) FROM generate_series(1, 30000) g"
    )
    before = server.rss()
    # A channel of its own beside the common one, so that nobody shares a read.
    queries = [f"&channel=notifications:user_id={n}&snapshot=1" for n in range(5)]
    clients = [await deaf(server, query) for query in queries]
    held = server.rss() - before
    assert held > 100 << 20, "each holds rows of its own"
    for writer in clients:
        writer.transport.abort()
    await eventually(lambda: server.rss() - before < 20 << 20, 30, "it has gone back")
    figures(f"5 clients that took none of 35 MB of rows: server memory +{held >> 20} MB while they are there")


MANY = 100


class Costs(NamedTuple):
    """Seconds: of time, of PostgreSQL's CPU, and of the server's."""

    seconds: float
    database: float
    server: float

    def __sub__(self, before: "Costs") -> "Costs":
        return Costs(*(now - then for now, then in zip(self, before, strict=True)))

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s (CPU of PostgreSQL {self.database:.2f} s, of the server {self.server:.2f} s)"


def costs(database: Database, server: Server) -> Costs:
    """So far."""
    postmaster = int((database.cluster.data / "postmaster.pid").read_text().split("\n")[0])
    return Costs(time.perf_counter(), family_cpu(postmaster), cpu(server.process.pid))


async def test_a_bulk_write_delays_nobody_whom_it_does_not_concern(
    database: Database, server: Server, figures: Callable[[str], None]
) -> None:
    """Neither who listens to another table, nor who listens to other rows of the same one."""
    others = [await Transport("events").open(server, f"notifications:user_id={n}") for n in range(MANY)]
    routed = [await Transport("events").open(server, f"posts:author_id={n}") for n in range(MANY)]
    try:
        async with await database.connect() as writer:
            await writer.execute("INSERT INTO posts (author_id) SELECT 1000 + g FROM generate_series(1, 20000) g")
            began = costs(database, server)
            await writer.execute("INSERT INTO notifications (user_id) SELECT generate_series(0, %s)", (MANY - 1,))
            await asyncio.gather(*(client.changes(1, timeout=20) for client in others))
            other = costs(database, server) - began
            await writer.execute("INSERT INTO posts (author_id) SELECT generate_series(0, %s)", (MANY - 1,))
            await asyncio.gather(*(client.changes(1, timeout=20) for client in routed))
            same = costs(database, server) - began
        figures(
            f"{2 * MANY} clients beside an INSERT of 20,000 rows: the next change of another table came after {other}, "
            f"of other rows of the same table after {same}"
        )
        # What is aimed at on quiet cores is 0.1 s and 0.5 s; make bench has these figures. Busy cores cost time, and
        # hardly processor time.
        assert other.seconds < 2
        assert other.database < 0.5
        assert other.server < 0.5
        assert same.seconds < 5
        assert same.database < 0.75
        assert same.server < 0.75
        await verdict(database, *routed, *others)
    finally:
        await asyncio.gather(*(client.abort() for client in [*others, *routed]))
