"""The leader stopped hot and parked, and every connection of a server cut alone: the others go on, within the times of
docs/capture.md 4 (2 s without a beat and they read by themselves, 5 s and they depose it).
"""

import asyncio
import time
from collections.abc import Callable

import pytest

from harness.database import Database
from harness.facts import eventually, pause
from harness.server import Server, Servers
from tests.support.clients import Client, WebSocketClient
from tests.support.transport import Transport, verdict

WEBSOCKET = Transport("websocket")
READ_SECONDS = 2.0 + 1.0  # without a beat, then once a second
DEPOSED_SECONDS = 5.0 + 1.0 + 1.0  # silent for so long, seen within a second, and the next asks each second
SLACK_SECONDS = 2.0  # two cores, shared with other tests
CONNECTIONS = ("leader", "gate", "live", "reader", "bus listener", "bus sender")
WRITE = "INSERT INTO posts (author_id, title) VALUES (1, %s)"


@pytest.fixture
async def pair(servers: Servers) -> tuple[Server, Server]:
    """The one that leads, and the other."""
    one, two = await servers.start("one"), await servers.start("two")
    leader = await servers.leader()
    return leader, (two if leader is one else one)


async def gate(server: Server, hot: bool) -> None:
    async def is_so() -> bool:
        return bool(await server.metric("sobranie_gate_hot") == hot)

    await eventually(is_so, 15, f"the gate of {server.name} is {'hot' if hot else 'parked'}")


async def write_until(database: Database, ended: asyncio.Event) -> None:
    async with await database.connect() as writer:
        while not ended.is_set():
            await writer.execute(WRITE, ("load",))
            await pause(0.005)


@pytest.mark.parametrize("state", ["hot", "parked"])
async def test_a_stopped_leader_delays_the_others_by_seconds_and_is_deposed(
    database: Database, pair: tuple[Server, Server], state: str, figures: Callable[[str], None]
) -> None:
    leader, other = pair
    async with await WEBSOCKET.open(other, "posts") as client:
        ended = asyncio.Event()
        load = [asyncio.create_task(write_until(database, ended))] if state == "hot" else []
        await gate(leader, state == "hot")
        leader.sigstop()
        started = time.monotonic()
        try:
            await database.execute(WRITE, "told")
            await client.until(lambda: "told" in titles(client), READ_SECONDS + SLACK_SECONDS, "read without a leader")
            told = time.monotonic() - started

            async def leads() -> bool:
                return await other.metric("sobranie_leader") == 1

            await eventually(leads, DEPOSED_SECONDS + SLACK_SECONDS, "the other leads")
            led = time.monotonic() - started
            ended.set()
            await asyncio.gather(*load)
            await verdict(database, client)
            await prompt(database, client)
        finally:
            leader.sigcont()
        figures(f"leader stopped {state}: others read after {told:.1f} s, lead after {led:.1f} s")
    async with await WEBSOCKET.open(leader, "posts") as client:  # awake again, a follower like any other
        await prompt(database, client)
        await verdict(database, client)
    assert await other.metric("sobranie_safety_poll_finds_total") == 0


async def prompt(database: Database, client: Client) -> None:
    """Changes come at once again."""
    await database.execute(WRITE, "prompt")
    await client.until(lambda: "prompt" in titles(client), 5, "delivered at once")


def titles(client: Client) -> list[str]:
    return [change["data"]["title"] for change in client.stream.changes()]


@pytest.mark.parametrize("whose", ["leader", "other"])
async def test_each_connection_cut_alone_costs_a_moment_and_loses_nothing(
    database: Database, pair: tuple[Server, Server], whose: str
) -> None:
    """By application_name; a server of its own makes the same connections, so that each is cut on both at once."""
    server = pair[0] if whose == "leader" else pair[1]
    async with await WEBSOCKET.open(server, "posts") as client, await database.connect() as writer:
        for one in pair:
            await needs_a_reader(one)
        for number, name in enumerate(CONNECTIONS):
            await eventually(lambda name=name: cut(database, name), 10, f"a connection {name!r}")  # type: ignore[misc]
            for i in range(5):
                await writer.execute(WRITE, (f"{number}.{i}",))
            await client.until(lambda n=number: f"{n}.4" in titles(client), 10, f"changes after {name!r} was cut")  # type: ignore[misc]
        await verdict(database, client)
        assert not client.stream.resets
        assert len(client.stream.segments) == 1
    for one in pair:
        assert await one.metric("sobranie_internal_errors_total") == 0
        assert await one.metric("sobranie_safety_poll_finds_total") == 0


async def needs_a_reader(server: Server) -> None:
    """A table that the server does not know is looked up by a connection that it keeps for such."""
    async with WebSocketClient(server.url) as client:
        assert (await client.subscribe("nothing_of_that_name"))["code"] == "bad_channel"


async def cut(database: Database, name: str) -> bool:
    """Ends every connection of that purpose; whether there was one."""
    ended = await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = %s",
        f"sobranie {name}",
    )
    return bool(ended)


HOSTILE = {
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "statement_timeout": "'50ms'",
    "lock_timeout": "'1ms'",
    "idle_session_timeout": "'1s'",
    "idle_in_transaction_session_timeout": "'1s'",
    "transaction_timeout": "'1s'",
    "search_path": "'pg_temp'",
    "TimeZone": "'Asia/Kathmandu'",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-15",
    "synchronous_commit": "off",
    "row_security": "off",
    "enable_indexscan": "off",
    "client_min_messages": "'debug1'",
    "default_table_access_method": "'heap'",
    "standard_conforming_strings": "off",
    "plan_cache_mode": "'force_custom_plan'",
}


async def test_a_database_with_hostile_defaults_is_served_all_the_same(database: Database, servers: Servers) -> None:
    for name, value in HOSTILE.items():
        await database.execute(f"ALTER DATABASE {database.name} SET {name} = {value}")
    one, two = await servers.start("one"), await servers.start("two")
    async with await WEBSOCKET.open(one, "posts") as socket, await Transport("events").open(two, "posts") as events:
        for part in range(3):
            async with await database.connect() as writer:
                for i in range(20):
                    await writer.execute("INSERT INTO public.posts (author_id, title) VALUES (1, %s)", (f"{part}.{i}",))
            for client in (socket, events):
                await client.changes(20 * (part + 1), timeout=15)
            await pause(1.5)  # longer than the sessions of this database may be idle
        before = len(socket.messages)
        await socket.until(lambda: len(socket.messages) > before, 10, "a heartbeat")
        for server in (one, two):
            metrics = await server.metrics()
            assert metrics.get("sobranie_internal_errors_total", 0) == 0, server.output()[-3000:]
            assert metrics["sobranie_database_up"] == 1
            assert "database_lost" not in server.output()
        for name in ("statement_timeout", "lock_timeout", "search_path", "transaction_timeout"):
            database.cluster._ddl(f"ALTER DATABASE {database.name} RESET {name}")  # the judge's own queries
        await verdict(database, socket, events)
        assert not socket.stream.resets
        assert not events.stream.resets
