"""No green while nothing arrives: what /readyz, the metrics and the log say of a stream that stands, and that it says
itself when it flows again."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.proxy import Proxy
from tests.support.transport import Transport, verdict

WEBSOCKET = Transport("websocket")
LIVE = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sobranie live' AND datname = current_database()"
STANDS_SECONDS = 20.0  # five until it is known that nothing is read, and a full machine


async def shown(server: Server) -> tuple[str, dict[str, object]]:
    """The status and the checks of /readyz."""
    body = json.loads((await server.ready())[1])
    return body["status"], body["checks"]


async def stands(server: Server) -> bool:
    status, checks = await shown(server)
    return status == "degraded" and checks["flow"] is False


async def flows(server: Server) -> bool:
    return (await shown(server))[0] == "ready" and await server.metric("sobranie_flowing") == 1


def told(server: Server, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """A process of PostgreSQL that does nothing, and whose connection stays open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def write(database: Database, title: str) -> None:
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", title)


async def test_a_session_that_reads_and_is_stopped_is_told_and_is_made_anew(
    database: Database, servers: Servers
) -> None:
    server = await servers.start("one")
    await eventually(lambda: flows(server), what="it flows")
    async with await WEBSOCKET.open(server, "posts") as client:
        async with stopped(await database.value(LIVE)):
            await write(database, "while nobody reads")
            await eventually(lambda: stands(server), STANDS_SECONDS, "it is not green", every=0.1)
            await client.changes(1, timeout=40)  # by a session of its own making
            await eventually(lambda: flows(server), 20, "it is green again", every=0.1)
        (line,) = told(server, "not_flowing")
        assert line["missing"] == "flow"
        assert told(server, "flowing")[1:]
        await verdict(database, client)


async def test_a_follower_that_could_not_read_is_not_green_though_there_is_nothing_to_read(
    database: Database, servers: Servers
) -> None:
    await servers.start("one")
    before = {row[0] for row in await database.execute(LIVE)}
    two = await servers.start("two")
    await eventually(lambda: flows(two), what="it flows")
    (pid,) = {row[0] for row in await database.execute(LIVE)} - before
    async with stopped(pid):
        await eventually(lambda: stands(two), STANDS_SECONDS, "it is not green", every=0.1)
        assert (await shown(two))[1]["leader"] == "one"
        await eventually(lambda: flows(two), 40, "by a session of its own making", every=0.1)


async def test_a_network_that_swallows_is_told_and_readyz_and_the_metrics_say_the_same(
    database: Database, servers: Servers
) -> None:
    async with Proxy("127.0.0.1", database.cluster.port) as line:
        server = await servers.start("one", database_url=line.url(database.name))
        await eventually(lambda: flows(server), what="it flows")
        async with await WEBSOCKET.open(server, "posts") as client:
            line.deaf()
            await write(database, "while all is swallowed")
            await eventually(lambda: stands(server), STANDS_SECONDS, "it is not green", every=0.1)

            async def away() -> bool:
                up = await server.metric("sobranie_database_up")
                return up == 0 and (await shown(server))[1]["database"] is False

            await eventually(away, 30, "the database is away, by either", every=0.1)
            line.cut()
            line.resume()
            await eventually(lambda: flows(server), 30, "it is green again", every=0.1)
            assert await server.metric("sobranie_database_up") == 1
            assert (await shown(server))[1]["database"] is True
            await verdict(database, client)
