"""Events that a server can't understand, written into the event log by hand: they are told, passed over with a `reset`,
and stop nobody, neither live nor for who comes back to them."""

import json

import pytest

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.clients import Client
from tests.support.transport import Transport, now

POISON = {
    "an operation that nobody knows": "gen, 'Z', 1, now(), '{1,1}', NULL",
    "a header": "gen, 'H', 1, now(), '{1,1}', NULL",
    "values that were cut off": "gen, 'X', 1, now(), '{1,1}', NULL",
    "an insert without values": "gen, 'I', 1, now(), NULL, NULL",
    "an insert with too few values": "gen, 'I', 1, now(), '{1}', NULL",
    "an update without the old values": "gen, 'U', 1, now(), '{1,1}', NULL",
    "a time that no calendar has": "gen, 'I', 1, 'infinity', '{1,1}', NULL",
    "a generation that nobody knows": "999999, 'I', 1, now(), '{1,1}', NULL",
    "values within values": "gen, 'I', 1, now(), '{{1,1},{1,1}}', NULL",
}
EVENT = """
INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, at, new_vals, old_vals, new, old)
SELECT realtime.slot(), nextval('realtime.event_id'), 0, pg_current_xact_id(), {}, '{{}}', NULL
  FROM realtime.generations WHERE name = 'posts' ORDER BY gen DESC LIMIT 1"""
LARGE = "INSERT INTO posts (author_id, title) SELECT g % 5, 'large' FROM generate_series(1, 12000) g; "


def poison(kind: str) -> str:
    return EVENT.format(POISON[kind])


def titles(client: Client) -> list[str]:
    return [change["data"]["title"] for change in client.stream.changes("posts")]


def told(server: Server) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "unreadable"]


async def write(database: Database, title: str) -> None:
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", title)


@pytest.mark.parametrize("kind", POISON)
async def test_it_is_told_and_its_table_is_reset_and_nothing_else_happens(
    database: Database, servers: Servers, kind: str
) -> None:
    server, transport = await servers.start("one"), Transport("websocket")
    before = await now(database)
    async with await transport.open(server, "posts") as client, await transport.open(server, "notifications") as other:
        await database.execute(poison(kind))
        await client.until(lambda: client.stream.resets, 20, "the reset")
        await write(database, "after it")
        await client.until(lambda: titles(client) == ["after it"], 20, "what follows")
        await other.reach(await now(database))
        assert len(client.stream.resets) == 1
        assert bool(other.stream.resets) == (kind == "a generation that nobody knows")
        anew = await servers.start("two")  # which has nothing of it in memory
        async with await transport.open(anew, "posts", position=before) as back:
            await back.until(lambda: titles(back) == ["after it"], 20, "what follows, for who comes back")
            assert len(back.stream.resets) == 1
    assert len(told(server)) == 1
    assert await server.metric("sobranie_unreadable_transactions_total") == 1
    assert await server.metric("sobranie_internal_errors_total") == 0
    assert (await server.ready())[0] == 200


@pytest.mark.parametrize("kind", POISON)
async def test_in_a_transaction_that_is_too_large_to_hold_it_is_the_same(
    database: Database, servers: Servers, kind: str
) -> None:
    server = await servers.start("one")
    transport = Transport("websocket")
    async with await transport.open(server, "posts") as client, await transport.open(server, "notifications") as other:
        await database.execute(f"BEGIN; {LARGE} {poison(kind)}; COMMIT")
        await client.until(lambda: client.stream.resets, 30, "the reset")
        await write(database, "after it")
        await client.until(lambda: titles(client)[-1:] == ["after it"], 30, "what follows")
        await other.reach(await now(database))
    await eventually(lambda: told(server), what="it is told")
    assert await server.metric("sobranie_internal_errors_total") == 0
