"""What becomes visible late, partly or never (adversarial 1, 4, 5, 21), seen through real sockets."""

import asyncio

import psycopg

from harness.database import Database
from harness.facts import pause
from harness.server import Server, Servers
from tests.support.clients import WebSocketClient
from tests.support.transport import Transport, now, verdict


async def test_a_slow_transaction_with_a_lower_id_comes_once_and_after(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts") as client, await database.connect(autocommit=False) as slow:
        await slow.execute("INSERT INTO posts (author_id, title) VALUES (1, 'slow')")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'quick')")
        assert [c["data"]["title"] for c in await client.changes(1)] == ["quick"]
        await slow.commit()
        assert [c["data"]["title"] for c in await client.changes(2)] == ["quick", "slow"]
        await verdict(database, client)


async def test_three_statements_on_one_row_are_one_unit_in_order(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts", "notifications") as client:
        async with await database.connect(autocommit=False) as writer:
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, 'a')")
            await writer.execute("UPDATE posts SET title = 'b'")
            await writer.execute("INSERT INTO notifications (user_id, kind) VALUES (7, 'k')")
            await writer.execute("UPDATE posts SET title = 'c'")
            await writer.commit()
        await client.changes(4)
        unit = next(m for m in client.messages if m["type"] == "changes")
        assert "position" in unit
        assert [(c["channel"], c["action"]) for c in unit["changes"]] == [
            ("posts", "INSERT"),
            ("posts", "UPDATE"),
            ("notifications", "INSERT"),
            ("posts", "UPDATE"),
        ]
        assert len({c["tx"] for c in unit["changes"]}) == 1
        await verdict(database, client, tables=("posts", "notifications"))


async def test_what_was_rolled_back_never_comes(database: Database, server: Server, transport: Transport) -> None:
    async with await transport.open(server, "posts") as client:
        async with await database.connect(autocommit=False) as writer:
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, 'never')")
            await writer.rollback()
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, 'kept')")
            await _back_to_a_savepoint(writer)
            await _a_hundred_nested_savepoints(writer)
            await writer.execute(EXCEPTION_LOOP)
            await writer.commit()
        await client.changes(1 + 50 + 10)
        await verdict(database, client)
        titles = {c["data"]["title"] for c in client.stream.changes()}
        assert titles == {"kept"} | {f"nested {i}" for i in range(0, 100, 2)} | {f"loop {i}" for i in range(1, 21, 2)}


async def _back_to_a_savepoint(writer: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    await writer.execute("SAVEPOINT s")
    await writer.execute("UPDATE posts SET title = 'never'")
    await writer.execute("DELETE FROM posts")
    await writer.execute("ROLLBACK TO SAVEPOINT s")


async def _a_hundred_nested_savepoints(writer: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    """Each holds one row; every second one is taken back before the next is set."""
    for i in range(100):
        await writer.execute(f"SAVEPOINT s{i}".encode())
        await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", (f"nested {i}",))
        if i % 2:
            await writer.execute(f"ROLLBACK TO SAVEPOINT s{i}".encode())


EXCEPTION_LOOP = """
DO $$ BEGIN
  FOR i IN 1..20 LOOP
    BEGIN
      INSERT INTO posts (author_id, title) VALUES (1, 'loop ' || i);
      IF i % 2 = 0 THEN RAISE EXCEPTION 'taken back'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
  END LOOP;
END $$"""


async def test_commits_while_the_reader_parks_and_wakes_are_all_seen(
    database: Database, servers: Servers, transport: Transport
) -> None:
    """Commits with pauses around the time at which an idle reader goes to sleep, and as it is woken."""
    server = await servers.start()
    async with await transport.open(server, "posts") as client, await database.connect() as writer:
        for i in range(150):
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", (str(i),))
            await pause((i % 50) * 0.002)  # 0 to 98 ms
        await client.changes(150)
        await verdict(database, client)
    assert await server.metric("sobranie_safety_poll_finds_total") == 0


async def test_a_commit_during_subscribe_is_either_before_it_or_delivered(database: Database, server: Server) -> None:
    """Twenty clients subscribe while rows are committed: each gets exactly what follows its `subscribed`."""
    async with await database.connect() as writer:
        ended = asyncio.Event()

        async def write() -> None:
            while not ended.is_set():
                await writer.execute("INSERT INTO posts (author_id) VALUES (1)")

        writing = asyncio.create_task(write())
        clients = [await WebSocketClient(server.url, f"client {i}").connect() for i in range(20)]
        for client in clients:
            assert (await client.subscribe("posts"))["type"] == "subscribed"
        ended.set()
        await writing
    assert await now(database)
    await verdict(database, *clients)
    for client in clients:
        await client.abort()
