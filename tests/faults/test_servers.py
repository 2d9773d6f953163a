"""Servers that die, stop or go deaf (adversarial 20): clients on the others, or on the next, miss nothing."""

import asyncio
import json
import signal

from harness.database import Database, rows_of
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.clients import WebSocketClient
from tests.support.proxy import Proxy
from tests.support.transport import Transport, verdict


async def write(database: Database, count: int) -> None:
    async with await database.connect() as writer:
        for i in range(count):
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", (str(i),))


async def checks(server: Server, **expected: object) -> bool:
    """Whether `/readyz` of the server shows these facts."""
    found = json.loads((await server.ready())[1])["checks"]
    return all(found[name] == value for name, value in expected.items())


async def test_a_server_killed_under_load_loses_nothing_for_clients_that_go_on_elsewhere(
    database: Database, servers: Servers, transport: Transport
) -> None:
    one, two = await servers.start("one"), await servers.start("two")
    async with await transport.open(one, "posts") as client:
        for victim, other in ((one, two), (two, one)):
            writing = asyncio.create_task(write(database, 200))
            await client.changes(len(client.stream.changes()) + 20)
            await victim.kill()
            await client.reconnect(other.url)
            await writing
            await verdict(database, client)
            await victim.start()


async def test_the_leader_killed_is_followed_by_the_next_and_nothing_is_missed(
    database: Database, servers: Servers
) -> None:
    for name in ("one", "two", "three"):
        await servers.start(name)
    clients = [await WebSocketClient(server.url, server.name).connect() for server in servers.all]
    for client in clients:
        await client.subscribe("posts")
    leader = await servers.leader()
    await leader.kill()
    survivors = [c for c in clients if c.stream.name != leader.name]
    await write(database, 50)
    for client in survivors:
        await client.changes(50, timeout=15)
    assert await servers.leader() is not leader
    await write(database, 50)
    await verdict(database, *survivors)
    for client in clients:
        await client.abort()


async def test_a_leader_that_is_stopped_and_keeps_its_lock_is_followed(database: Database, servers: Servers) -> None:
    """SIGSTOP: its connections stay open and its lock stays held; the others must end its backend."""
    one, two = await servers.start("one"), await servers.start("two")
    leader = await servers.leader()
    other = two if leader is one else one
    async with await Transport("websocket").open(other, "posts") as client:
        leader.sigstop()
        try:
            await eventually(lambda: checks(other, listen=True, bus=False), what="it listens, and hears no leader")
            await write(database, 20)
            await client.changes(20, timeout=30)

            async def leads() -> bool:
                return await other.metric("sobranie_leader") == 1

            await eventually(leads, 40, "the other server leads", every=0.2)
            await eventually(lambda: checks(other, listen=True, bus=True), what="it hears the fleet again")
            await verdict(database, client)
        finally:
            leader.sigcont()
    async with await Transport("websocket").open(leader, "posts") as client:
        await write(database, 5)
        await verdict(database, client)


async def backends(database: Database, more: str = "") -> list[int]:
    """Of the servers: every backend of this database that is not the caller's."""
    rows = await database.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        f"AND backend_type = 'client backend' {more}"
    )
    return [pid for (pid,) in rows]


async def test_every_backend_of_a_server_terminated_again_and_again_loses_nothing(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts") as client:
        for _ in range(4):
            for pid in await backends(database):
                await database.execute("SELECT pg_terminate_backend(%s)", pid)
            await write(database, 30)
            await client.changes(len(client.stream.changes()) + 1, timeout=20)
        await verdict(database, client)
        assert not client.stream.resets


async def test_the_listening_backend_alone_terminated_loses_nothing(database: Database, server: Server) -> None:
    async with await Transport("websocket").open(server, "posts") as client:
        for _ in range(3):
            for pid in await backends(database, "AND query ILIKE 'listen%'"):
                await database.execute("SELECT pg_terminate_backend(%s)", pid)
            await write(database, 3)
            await client.changes(len(client.stream.changes()) + 1, timeout=20)
        await verdict(database, client)


async def test_a_connection_half_open_or_stalled_is_given_up_and_the_stream_goes_on(
    database: Database, servers: Servers, proxy: Proxy
) -> None:
    """The database answers nothing, and nobody says that the line is gone."""
    server = await servers.start(database_url=proxy.url(database.name))
    async with await Transport("websocket").open(server, "posts") as client:
        for fault in (proxy.deaf, proxy.stall):
            fault()
            await write(database, 5)
            before = proxy.accepted
            await eventually(lambda: proxy.accepted > before, 60, "the server gives the old connection up")  # noqa: B023
            proxy.cut()
            proxy.resume()
            await verdict(database, client)
        assert not client.stream.resets


async def test_a_database_that_goes_and_comes_back_degrades_and_loses_nothing(
    database: Database, servers: Servers, proxy: Proxy
) -> None:
    server = await servers.start(database_url=proxy.url(database.name), SOBRANIE_READY_GRACE="1s")
    async with await Transport("websocket").open(server, "posts") as client:
        proxy.refuse()
        await write(database, 20)

        async def not_ready() -> bool:
            return (await server.ready())[0] == 503

        await eventually(not_ready, 20, "not ready once the grace is over", every=0.1)
        assert (await server.get("/livez"))[0] == 200
        proxy.resume()
        await verdict(database, client)

        async def ready() -> bool:
            return (await server.ready())[0] == 200

        await eventually(ready, 20, "ready again", every=0.1)


async def test_a_stranger_at_the_gate_and_a_storm_of_notifications_cost_delay_only(
    database: Database, server: Server
) -> None:
    """Somebody holds the gate, first so that every writer notifies, then so that the reader can never park."""
    async with await Transport("websocket").open(server, "posts") as client, await database.connect() as holder:
        for kind in ("", "_shared"):

            async def held(kind: str = kind) -> bool:
                await write(database, 1)  # a parked reader holds the gate until a commit wakes it
                return bool((await rows_of(holder, f"SELECT pg_try_advisory_lock{kind}(1919247220, 1)"))[0][0])

            await eventually(held, 10, f"the gate is held{kind}")
            before = client.stream.count()
            await write(database, 20)
            await client.changes(before + 20)
            await holder.execute("SELECT pg_advisory_unlock_all()")
        await database.execute("SELECT pg_notify('realtime', repeat('x', 100)) FROM generate_series(1, 1000)")
        await write(database, 20)
        await verdict(database, client)
    assert await server.metric("sobranie_safety_poll_finds_total") == 0


async def test_a_commit_whose_notify_was_suppressed_is_found_by_the_safety_poll(
    database: Database, server: Server
) -> None:
    """The triggers off, a row put into the event log by hand without a NOTIFY: found within seconds, and counted."""
    async with await Transport("websocket").open(server, "posts") as client:
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await client.changes(1)

        async def parked() -> bool:
            return await server.metric("sobranie_gate_hot") == 0

        await eventually(parked, 15, "the reader is parked", every=0.05)
        await database.execute("""
            INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
            SELECT slot, nextval('realtime.event_id'), n, pg_current_xact_id(), gen, op, depth, ord, clock_timestamp(),
                   new_vals, old_vals, new, old FROM realtime.events WHERE op = 'I' LIMIT 1""")
        await client.changes(2, timeout=10)

        async def counted() -> bool:
            return await server.metric("sobranie_safety_poll_finds_total") == 1

        await eventually(counted, 10, "the find is counted, once no notification has come after it", every=0.05)


async def test_sigterm_ends_a_server_with_open_connections_cleanly(database: Database, server: Server) -> None:
    socket = await Transport("websocket").open(server, "posts")
    events = await Transport("events").open(server, "posts")
    assert await server.stop() == 0
    await eventually(socket.ended.is_set, 5, "the WebSocket was closed")
    await eventually(events.ended.is_set, 5, "the event stream was closed")
    assert isinstance(socket, WebSocketClient)
    assert socket.close_code in (1001, 1012)
    assert await backends(database) == []
    await socket.abort()
    await events.abort()


async def test_sigint_ends_a_server_cleanly(server: Server) -> None:
    server.process.send_signal(signal.SIGINT)
    assert await server.wait() == 0
    assert "Traceback" not in server.output()
