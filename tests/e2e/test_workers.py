"""`serve --workers N`: several processes on one port that come back when they die, and go when their keeper does."""

import asyncio
import re
import signal

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clients import EventStreamClient
from tests.support.database import Database
from tests.support.facts import eventually
from tests.support.server import Server
from tests.support.transport import verdict

WORKERS = 3


def children(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


async def answering(server: Server) -> set[str]:
    """The workers that /metrics shows as up, whichever of them is asked."""
    status, text = await server.get("/metrics")
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples] if status == 200 else []
    return {s.labels["server_id"] for s in samples if s.name == "sobranie_worker_up" and s.value == 1}


async def test_workers_share_a_port_and_one_that_is_killed_comes_back_and_loses_nothing(database: Database) -> None:
    names = {f"one-{n}" for n in range(1, WORKERS + 1)}
    async with Server(database.url, SOBRANIE_WORKERS=str(WORKERS)) as server:
        await eventually(lambda: _all(server, names), 20, "every worker answers")
        clients = [EventStreamClient(server.url, "posts", name=f"client {n}") for n in range(12)]
        await asyncio.gather(*(client.connect() for client in clients))
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await asyncio.gather(*(client.changes(1) for client in clients))
        homes = {client.messages[0]["server"] for client in clients}
        assert homes <= names
        victim = re.search(rf'"worker": "{homes.pop()}", "pid": (\d+)', server.output())
        assert victim is not None
        psutil.Process(int(victim[1])).kill()
        await eventually(lambda: any(client.ended.is_set() for client in clients), 10, "the worker's clients are cut")
        await database.execute("INSERT INTO posts (author_id) VALUES (2)")
        await asyncio.gather(*(client.reconnect() for client in clients if client.ended.is_set()))
        await verdict(database, *clients)
        await eventually(lambda: _all(server, names), 20, "the worker is back")
        assert server.output().count('"event": "worker_ended"') == 1
        workers = children(server)
        assert len(workers) == WORKERS
        for client in clients:
            await client.abort()
    assert not [worker for worker in workers if worker.is_running()]


async def _all(server: Server, names: set[str]) -> bool:
    return await answering(server) == names


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_workers_go_with_their_keeper(database: Database, number: signal.Signals) -> None:
    async with Server(database.url, SOBRANIE_WORKERS="2") as server:
        workers = await eventually(lambda: children(server), 20, "workers")
        server.process.send_signal(number)
        assert await server.wait() == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        await eventually(lambda: not any(w.is_running() for w in workers), 20, "the workers are gone")


async def test_a_port_in_use_and_a_database_that_is_not_there_end_the_start(database: Database) -> None:
    async with Server(database.url, "one", SOBRANIE_WORKERS="2") as server:
        second = Server(database.url, "two", server.port, SOBRANIE_WORKERS="2")
        await second.spawn()
        assert await second.wait() == 1
        in_use = f"sobranie: port {server.port} on 127.0.0.1 is in use: stop who uses it, or set SOBRANIE_PORT"
        assert second.output().startswith(in_use)
    nowhere = Server("postgresql://postgres@127.0.0.1:1/nowhere", "three", SOBRANIE_WORKERS="2")
    await nowhere.spawn()
    assert await nowhere.wait() == 1
    assert "the database can't be reached" in nowhere.output()
