"""`serve --workers N`: several processes on one port that come back when they die, and go when their keeper does."""

import asyncio
import re
import signal
from contextlib import suppress

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.process.workers import ASK_SECONDS, HUNG_SECONDS
from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.support.clients import EventStreamClient
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


async def test_a_worker_that_hangs_is_killed_and_comes_back(database: Database) -> None:
    async with Server(database.url, SOBRANIE_WORKERS="2", SOBRANIE_LOG_LEVEL="debug") as server:
        await eventually(lambda: _all(server, {"one-1", "one-2"}), 20, "every worker answers")
        victim = children(server)[0]
        heard = f'"pid": {victim.pid}, "event": "worker_heard"'
        await eventually(lambda: heard in server.output(), 10, "the keeper knows that it serves")
        victim.suspend()
        await eventually(
            lambda: '"event": "worker_hung"' in server.output(), HUNG_SECONDS + 5 * ASK_SECONDS, "it is found out"
        )
        await eventually(lambda: not victim.is_running(), 5, "it has gone")
        await eventually(lambda: _all(server, {"one-1", "one-2"}), 20, "another is in its place")


async def test_a_worker_that_cannot_be_started_again_is_tried_again_and_the_others_serve(database: Database) -> None:
    async with Server(database.url, SOBRANIE_WORKERS="2") as server:
        await eventually(lambda: _all(server, {"one-1", "one-2"}), 20, "every worker answers")
        async with EventStreamClient(server.url, "posts") as client:
            mine = (await client.message("welcome"))["server"]
            await client.message("subscribed")
            pids = {name: int(pid) for name, pid in re.findall(r'"worker": "([^"]+)", "pid": (\d+)', server.output())}
            keeper = psutil.Process(server.process.pid)
            _, hard = keeper.rlimit(psutil.RLIMIT_NOFILE)
            keeper.rlimit(psutil.RLIMIT_NOFILE, (3, hard))  # none is left for a worker's pipe
            psutil.Process(next(pid for name, pid in pids.items() if name != mine)).kill()
            await eventually(lambda: '"event": "worker_not_started"' in server.output(), 10, "it can't be started")
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await client.changes(1)
            keeper.rlimit(psutil.RLIMIT_NOFILE, (hard, hard))
            await eventually(lambda: _all(server, {"one-1", "one-2"}), 30, "it is back")
            await verdict(database, client)


async def test_a_worker_takes_no_clients_before_changes_can_flow(database: Database) -> None:
    async with Server(database.url, SOBRANIE_WORKERS="2") as server:
        await eventually(lambda: _all(server, {"one-1", "one-2"}), 20, "every worker answers")
        for victim in children(server):
            seen: list[int] = []

            async def back(seen: list[int] = seen) -> bool:
                with suppress(OSError, aiohttp.ClientError):  # it met the socket of the one that was killed
                    seen.append((await server.get("/readyz"))[0])
                return len(seen) % 20 == 0 and await answering(server) == {"one-1", "one-2"}

            victim.kill()
            await asyncio.to_thread(victim.wait, 5)
            await eventually(back, 20, "it is back", every=0)
            assert set(seen) == {200}


async def test_the_end_of_the_terminal_ends_it_in_order(database: Database) -> None:
    async with Server(database.url) as server, EventStreamClient(server.url, "posts") as client:
        server.process.send_signal(signal.SIGHUP)
        assert await server.wait() == 0
        await client.until(client.ended.is_set)
        assert [m["type"] for m in client.messages][-1] == "reconnect"
