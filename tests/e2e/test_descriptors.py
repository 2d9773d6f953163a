"""A server whose descriptors strangers try to take: health, live clients and the database's connections get theirs."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.support.transport import Transport, verdict

FILES = 200


class Narrow(Server):
    program = ("prlimit", f"--nofile={FILES}:{FILES}", sys.executable, "-m", "app")


@pytest.fixture
async def narrow(database: Database) -> AsyncIterator[Narrow]:
    server = Narrow(database.url)
    try:
        yield await server.start()
    finally:
        await server.kill()


@contextlib.contextmanager
def silent(server: Server, count: int) -> Iterator[None]:
    """So many sockets that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        yield


async def test_silent_sockets_take_neither_health_nor_the_database_nor_the_stream(
    database: Database, narrow: Narrow, transport: Transport
) -> None:
    async with await transport.open(narrow, "posts") as client:
        with silent(narrow, 3 * FILES):
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await narrow.get(path))[0] == 200
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await verdict(database, client)
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sobranie %'"
            )
            await database.execute("INSERT INTO posts (author_id) VALUES (2)")
            await verdict(database, client)
            assert await narrow.metric("sobranie_sockets_cut_total") >= FILES


async def test_clients_beyond_the_limit_are_sent_away_and_the_others_live(
    database: Database, narrow: Narrow, transport: Transport
) -> None:
    async with await transport.open(narrow, "posts") as client, all_at_once() as http:
        came = [await connected(http, narrow) for _ in range(FILES)]
        taken = [ws for ws in came if ws is not None]
        assert 100 < len(taken) < FILES - 64
        assert came[len(taken) :] == [None] * (FILES - len(taken))
        async with http.get(f"{narrow.url}/realtime/events?channel=posts") as answer:
            assert answer.status == 200  # an EventSource would give up on anything else
            assert '"code":"unavailable"' in await answer.text()
        assert (await narrow.get("/livez"))[0] == 200
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await verdict(database, client)
        assert narrow.output().count('"event": "full"') == 1
        await asyncio.gather(*(ws.close() for ws in taken[:10]))

        async def taken_again() -> bool:
            return await connected(http, narrow) is not None

        await eventually(taken_again, 10, "who went has left a place")


async def connected(http: aiohttp.ClientSession, server: Server) -> aiohttp.ClientWebSocketResponse | None:
    """None: 503, with the time to come back at."""
    try:
        return await http.ws_connect(f"{server.url}/realtime/ws")
    except aiohttp.WSServerHandshakeError as refusal:
        if refusal.status == 503 and refusal.headers is not None and 5 <= int(refusal.headers["Retry-After"]) <= 15:
            return None
        raise


def all_at_once() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def test_more_connections_than_files_end_the_start_with_what_to_do(database: Database) -> None:
    server = Narrow(database.url, SOBRANIE_CONNECTIONS="1000")
    await server.spawn()
    assert await server.wait() == 1
    (line,) = [line for line in server.output().splitlines() if line.startswith("sobranie: ")]
    assert "SOBRANIE_CONNECTIONS=1000" in line
    assert "ulimit -n" in line
