"""What breaks: PostgreSQL, servers, lines. Each fault does its damage, waits as the dice say, and takes it back.

Invariants: at most one fault at a time on one server and on PostgreSQL; what a fault did is noted with the time that it
lasted, and nothing is left broken when its function has returned.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from harness.facts import pause
from tests.chaos.schedule import Acts, Schedule
from tests.chaos.world import Station
from tests.support.proxy import Proxy

ACTS = Acts()
fault = ACTS.named


@asynccontextmanager
async def postgres_down(schedule: Schedule, how: Callable[[], object]) -> Any:
    """PostgreSQL is stopped by `how`, and started after a while."""
    world = schedule.world
    async with world.cluster_lock:
        await asyncio.to_thread(how)
        yield
        await world.start_postgres()
        await world.postgres_up()


@fault("postmaster kill -9", 8)
async def kill_postmaster(schedule: Schedule) -> str:
    async with postgres_down(schedule, schedule.world.cluster.kill9):
        await pause(schedule.dice.choice((0.0, 0.5, 3.0)))
    return "postgres"


@fault("postgres immediate restart", 3)
async def immediate(schedule: Schedule) -> str:
    async with postgres_down(schedule, lambda: schedule.world.cluster.stop("immediate")):
        pass
    return "postgres"


@fault("postgres fast restart", 4)
async def fast(schedule: Schedule) -> str:
    async with postgres_down(schedule, lambda: schedule.world.cluster.stop("fast")):
        await pause(schedule.dice.choice((0.0, 2.0)))
    return "postgres"


OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
SERVERS = OTHERS + " AND application_name LIKE 'sobranie %%'"


@fault("backend kill -9", 3)
async def kill_backend(schedule: Schedule) -> str:
    """PostgreSQL then ends all the others and recovers."""
    world = schedule.world
    async with world.cluster_lock:
        rows = await world.database.execute(f"SELECT pid, application_name FROM pg_stat_activity WHERE {OTHERS}")
        pid, name = schedule.dice.choice(rows)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await pause(0.3)
        await world.postgres_up()
    return name or "a writer"


@fault("backend terminated", 12)
async def terminate(schedule: Schedule) -> str:
    world = schedule.world
    names = await world.database.execute(
        f"SELECT DISTINCT application_name FROM pg_stat_activity WHERE {SERVERS} ORDER BY 1".replace("%%", "%")
    )
    name = schedule.dice.choice(names)[0]
    await world.database.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {SERVERS} AND application_name = %s", name
    )
    return str(name)


@fault("leader kill -9", 5)
async def kill_leader(schedule: Schedule) -> str:
    return await _ended(schedule, await schedule.leader(), kill=True)


@fault("server kill -9", 4)
async def kill_server(schedule: Schedule) -> str:
    return await _ended(schedule, schedule.any(), kill=True)


@fault("server SIGTERM", 5)
async def term_server(schedule: Schedule) -> str:
    return await _ended(schedule, schedule.any(), kill=False)


async def _ended(schedule: Schedule, station: Station, *, kill: bool) -> str:
    async with station.lock:
        if kill:
            await station.server.kill()
        else:
            try:
                await station.server.stop()
            except TimeoutError:
                schedule.failed.append(f"{station.name} did not end within 15 s of SIGTERM")
                await station.server.kill()
        await pause(schedule.dice.choice((0.0, 0.0, 3.0)))
        await station.revive()
    return station.name


@fault("leader SIGSTOP", 5)
async def stop_leader(schedule: Schedule) -> str:
    """Longer than it takes the others to depose it, or shorter."""
    station = await schedule.leader()
    async with station.lock:
        station.sigstop()
        await pause(schedule.dice.uniform(1.0, 12.0))
        station.sigcont()
    return station.name


@fault("server SIGSTOP", 3)
async def stop_server(schedule: Schedule) -> str:
    station = schedule.any()
    async with station.lock:
        station.sigstop()
        await schedule.last()
        station.sigcont()
    return station.name


def lines(kind: str, weight: int, act: Callable[[Proxy], None], *, swallows: bool, lasts: bool) -> None:
    """A fault of a line: once between a server and PostgreSQL, once between clients and a server."""

    async def on(schedule: Schedule, station: Station, proxy: Proxy) -> None:
        async with station.lock:
            act(proxy)
            if lasts:
                await schedule.last()
                if swallows or schedule.dice.random() < 0.5:
                    proxy.cut()  # bytes that were swallowed never come: the line can't go on
            proxy.resume()

    @fault(f"database line {kind}", weight)
    async def database_line(schedule: Schedule) -> str:
        station = await schedule.leader() if schedule.dice.random() < 0.5 else schedule.any()
        await on(schedule, station, station.line)
        return station.name

    @fault(f"client line {kind}", weight)
    async def client_line(schedule: Schedule) -> str:
        station = schedule.any()
        await on(schedule, station, station.door)
        return station.name


lines("cut", 5, Proxy.cut, swallows=False, lasts=False)
lines("refused", 3, Proxy.refuse, swallows=False, lasts=True)
lines("stalled", 4, Proxy.stall, swallows=False, lasts=True)
lines("deaf", 4, Proxy.deaf, swallows=True, lasts=True)
