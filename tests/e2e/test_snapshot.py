"""Rows, then changes: what a client holds is the table, however many write meanwhile.

Each client begins in the midst of writers. Every change must fit the row that it holds (an INSERT finds none, an UPDATE
and a DELETE find exactly `old`), and at the end it holds exactly the rows of SELECT. SNAPSHOTS is how many begin.
"""

import asyncio
import json
import os
import random
from contextlib import suppress
from typing import Any

import aiohttp
import psycopg
import pytest

from harness.database import Database
from harness.facts import pause
from harness.server import Server, Servers
from tests.support import token
from tests.support.clients import WebSocketClient
from tests.support.eventstream import EventParser
from tests.support.transport import now

SNAPSHOTS = int(os.environ.get("SNAPSHOTS", "60"))
TOGETHER = 60  # at most, at once
WRITERS = 6
BUSY = "stock:shelf=2"  # a channel that some clients are live on before
TABLE = "CREATE TABLE stock (id int PRIMARY KEY, shelf int NOT NULL, n numeric NOT NULL, note json)"
FILL = "INSERT INTO stock SELECT g, g % 3, g, '{\"a\":\n1}' FROM generate_series(1, 300) g"

UPSERT = """INSERT INTO stock VALUES (%s, %s, %s, '[1,\n2]')
ON CONFLICT (id) DO UPDATE SET n = stock.n + 1, shelf = (stock.shelf + 1) %% 3"""

Row = dict[str, Any]


class Holder:
    """Holds rows by key, as a page would."""

    def __init__(self, channel: str) -> None:
        self.rows: dict[int, Row] = {}
        self.position: str | None = None
        self.faults: list[str] = []
        self.kinds: list[str] = []
        self.channel = channel
        self.others: list[str] = []  # ids of changes of a channel joined before

    def take(self, message: dict[str, Any]) -> None:
        self.kinds.append(message["type"])
        if message["type"] == "snapshot":
            self.rows |= {row["id"]: row for row in message["rows"]}
            if message["more"] and "position" in message:
                self.faults.append("a position before the last page")
        for change in message.get("changes", ()):
            if change["channel"] == self.channel:
                self._apply(change)
            elif change["id"] in self.others:
                self.faults.append(f"twice: {change['id']}")
            else:
                self.others.append(change["id"])
        if "position" in message:
            if self.position and not token.read(message["position"]).contains(token.read(self.position)):
                self.faults.append(f"back from {self.position} to {message['position']}")
            self.position = message["position"]

    def _apply(self, change: dict[str, Any]) -> None:
        old, new = change["old"], change["data"]
        if change["action"] == "TRUNCATE":
            self.rows.clear()
        held = self.rows.pop(old["id"], None) if old else None
        if held != old:
            self.faults.append(f"{change['action']} of {old}, and held is {held}")
        if new:
            if new["id"] in self.rows:
                self.faults.append(f"{change['action']} of {new}, which is there: {self.rows[new['id']]}")
            self.rows[new["id"]] = new


async def write(database: Database, seed: int, ended: asyncio.Event) -> None:
    dice = random.Random(seed)
    async with await database.connect() as connection:
        while not ended.is_set():
            a, b = dice.randint(1, 400), dice.randint(1, 400)
            with suppress(psycopg.errors.DeadlockDetected):
                async with connection.transaction(force_rollback=dice.random() < 0.1):
                    await connection.execute(
                        UPSERT,
                        (a, a % 3, a),
                    )
                    await connection.execute("DELETE FROM stock WHERE id = %s", (b,))
                    if dice.random() < 0.02:
                        await connection.execute(
                            "TRUNCATE stock" if dice.random() < 0.3 else "UPDATE stock SET n = n + 1"
                        )
            await pause(dice.uniform(0, 0.01))


async def by_websocket(
    http: aiohttp.ClientSession, server: Server, channel: str, ended: asyncio.Event, *, busy: bool
) -> Holder:
    holder = Holder(channel)
    async with http.ws_connect(f"{server.url}/realtime/ws", max_msg_size=0) as ws:
        if busy:
            await ws.send_json({"type": "subscribe", "id": 0, "channels": [BUSY]})
        await ws.send_json({"type": "subscribe", "id": 1, "channels": [channel], "snapshot": True})
        await _follow(holder, (json.loads(m.data) async for m in ws), ended)
    return holder


async def by_events(
    http: aiohttp.ClientSession, server: Server, channel: str, ended: asyncio.Event, *, busy: bool
) -> Holder:
    holder, parser = Holder(channel), EventParser()
    url = f"{server.url}/realtime/events"
    async with http.get(url, params={"channel": channel, "snapshot": "1"}) as response:
        assert response.status == 200, await response.text()

        async def messages() -> Any:
            async for data in response.content.iter_any():
                for event in parser.feed(data):
                    if event.data:
                        yield json.loads(event.data)

        await _follow(holder, messages(), ended)
    return holder


async def _follow(holder: Holder, messages: Any, ended: asyncio.Event) -> None:
    final: str | None = None
    async for message in messages:
        holder.take(message)
        if ended.is_set() and "snapshot" in holder.kinds:
            final = final or FINAL[0]
            if holder.position and token.read(holder.position).contains(token.read(final)):
                return


FINAL: list[str] = []


async def wave(database: Database, server: Server, channel: str, begin: int) -> list[Holder]:
    """So many clients begin under writers, each at another moment of these, and go on to where the writers end."""
    FINAL.clear()
    writing, ended = asyncio.Event(), asyncio.Event()
    writers = [asyncio.create_task(write(database, seed, writing)) for seed in range(WRITERS)]
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        kinds = [by_websocket, by_events]
        clients = []
        for i in range(begin):
            clients.append(asyncio.create_task(kinds[i % 2](http, server, channel, ended, busy=i % 4 == 0)))
            await pause(0.02)
        writing.set()
        await asyncio.gather(*writers)
        FINAL.append(await now(database))
        ended.set()
        return await asyncio.wait_for(asyncio.gather(*clients), 60)


@pytest.mark.parametrize("channel", ["stock", "stock:shelf=1"])
async def test_rows_and_changes_together_are_the_table(database: Database, servers: Servers, channel: str) -> None:
    for statement in (TABLE, "CREATE INDEX ON stock (shelf)", "SELECT realtime.watch('stock', '{shelf}')", FILL):
        await database.execute(statement)
    server = await servers.start("one", SOBRANIE_OUTBOUND_BYTES="4kB", SOBRANIE_HEARTBEAT="200ms")
    for left in range(SNAPSHOTS, 0, -TOGETHER):
        holders = await wave(database, server, channel, min(left, TOGETHER))
        await check(database, channel, holders)
    assert await server.metric("sobranie_safety_poll_finds_total") == 0


async def check(database: Database, channel: str, holders: list[Holder]) -> None:
    where = "WHERE shelf = 1" if ":" in channel else ""
    rows = await database.execute(f"SELECT row_to_json(s)::text FROM stock s {where}")
    table = {row["id"]: row for (text,) in rows if (row := json.loads(text))}
    for holder in holders:
        assert not holder.faults, holder.faults[:3]
        assert "snapshot" in holder.kinds
        assert holder.rows == table


@pytest.mark.parametrize(
    ("type_", "value", "same"), [("numeric", "1.5", "1.50"), ("float8", "0", "-0"), ("interval", "P1D", "PT24H")]
)
async def test_equal_values_that_are_spelled_differently_are_of_one_channel(
    database: Database, server: Server, type_: str, value: str, same: str
) -> None:
    await database.execute(f"CREATE TABLE spelled (id int PRIMARY KEY, c {type_}); CREATE INDEX ON spelled (c)")
    await database.execute("SELECT realtime.watch('spelled', '{c}')")
    await database.execute("INSERT INTO spelled VALUES (1, %s), (2, %s)", value, same)
    async with WebSocketClient(server.url) as client:
        channel = f"spelled:c={value.replace('.', '%2E')}"
        await client.send({"type": "subscribe", "id": 1, "channels": [channel], "snapshot": True})
        pages = [await client.message("snapshot")]
        assert [row["id"] for row in pages[0]["rows"]] == [1, 2]
        client.stream.faults.clear()  # it knows no snapshots
        await database.execute(
            "INSERT INTO spelled SELECT 3, c FROM spelled WHERE id = 2; DELETE FROM spelled WHERE id = 2"
        )
        assert [(c["action"], c["key"]["id"]) for c in await client.changes(2)] == [("INSERT", 3), ("DELETE", 2)]
        await client.send({"type": "subscribe", "id": 2, "channels": [f"spelled:c={same.replace('.', '%2E')}"]})
        assert (await client.message("error"))["channel"] == channel
