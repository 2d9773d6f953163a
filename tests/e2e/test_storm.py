"""Reconnect storms (adversarial 24): thousands of clients that come back at once to a server that knows nothing yet.

STORM_CLIENTS is how many; `make storm` has ten thousand. Whatever their positions, the event log is read a few times,
memory stays within a bound per client, each gets exactly what it lacks, and who is live meanwhile hardly notices.
"""

import asyncio
import json
import os
import resource
import statistics
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

from harness.cluster import ROOT
from harness.database import Database, rows_of
from harness.server import Server, Servers
from tests.e2e.watch import Watch, percentile
from tests.support import token

CLIENTS = int(os.environ.get("STORM_CLIENTS", "500"))
AUTHORS = 50
PER_CLIENT = 40 << 10  # bytes of memory; ten thousand take half of it
Order = dict[str, Any]


async def history(database: Database) -> list[tuple[int, str]]:
    """A commit for each client: its author, and the position after it. Four writers, and one who is slow."""
    found: list[list[tuple[int, str]]] = []

    async def write(writer: int) -> None:
        mine: list[tuple[int, str]] = []
        found.append(mine)
        async with await database.connect() as connection:
            for n in range(writer, CLIENTS, 4):
                await connection.execute(
                    "INSERT INTO posts (author_id, body) VALUES (%s, repeat('x', 200))", (n % AUTHORS,)
                )
                mine.append((n % AUTHORS, (await rows_of(connection, "SELECT realtime.position()"))[0][0]))

    await asyncio.gather(*(write(n) for n in range(4)))
    return [commit for mine in found for commit in mine]


async def orders(database: Database, asked: list[tuple[str, int | None, str]]) -> list[Order]:
    """Clients with a channel (of an author, or of all) and a position; what they lack is the database's own word."""
    rows = await database.execute("SELECT xid::text::bigint, new_vals[2]::int FROM realtime.events WHERE op = 'I'")
    made: list[Order] = []
    for channel, author, text in asked:
        position = token.read(text)
        lacks = sum(not position.sees(xid) for xid in _xids(tuple(rows), author))
        if lacks:
            made.append({"channel": channel, "position": text, "changes": lacks})
    return made


@lru_cache(maxsize=AUTHORS + 1)
def _xids(rows: tuple[tuple[int, int], ...], author: int | None) -> list[int]:
    return [xid for xid, by in rows if author in (None, by)]


async def burst(server: Server, wanted: list[Order]) -> Order:
    clients = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.storm", server.url, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await clients.communicate("\n".join(map(json.dumps, wanted)).encode())
    told: Order = json.loads(out)
    return told


async def commits(database: Database) -> int:
    return int(await database.value("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))


@pytest.mark.parametrize("kind", ["few positions", "many positions"])
async def test_clients_that_come_back_at_once_cost_few_reads_and_a_bounded_memory_and_disturb_nobody(
    database: Database, servers: Servers, figures: Callable[[str], None], kind: str
) -> None:
    before = await servers.start("before")
    past = await history(database)
    await before.kill()
    if kind == "few positions":
        late = [text for _, text in past[-40::4]]
        asked: list[tuple[str, int | None, str]] = [("posts", None, late[n % len(late)]) for n in range(CLIENTS)]
    else:
        asked = [(f"posts:author_id={author}", author, text) for author, text in past]
    wanted = await orders(database, asked)
    assert len(wanted) > CLIENTS * 0.8
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # what the server inherits
    server = await servers.start("after", SOBRANIE_HEARTBEAT="25s")  # the tests' own is a load that nobody has
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    async with Watch(database, server) as live:
        await live.client.changes(30)
        quiet, since, spent = await live.delays(10), len(live.written), await commits(database)
        told = await burst(server, wanted)
        storm = await live.delays(since)
        spent = await commits(database) - spent
    reads, grown = await server.metric("sobranie_replay_reads_total"), live.memory - live.first
    figures(
        f"storm, {kind}: {len(wanted)} clients, {len({o['position'] for o in wanted})} positions, "
        f"{sum(o['changes'] for o in wanted)} changes; all there after {told['seconds']:.1f} s (connected "
        f"{told['connected']:.1f} s), {reads:.0f} reads of history, {spent} transactions of the database in all, "
        f"memory +{grown >> 20} MB ({grown // len(wanted) >> 10} kB a client); delay of a live client "
        f"p50 {statistics.median(quiet):.1f} to {statistics.median(storm):.1f} ms, "
        f"p99 {percentile(quiet):.1f} to {percentile(storm):.1f} ms"
    )
    assert not told["faults"], told
    assert told["arrived"] == len(wanted)
    assert reads <= 4 + CLIENTS / 500  # a read is of a mebibyte
    assert grown < (64 << 20) + PER_CLIENT * len(wanted)
    assert told["seconds"] < 10 + len(wanted) / 200  # ten thousand take half of it
    assert statistics.median(storm) < 100
    assert percentile(storm) < 1000  # a full pass of the garbage collector over ten thousand clients is a third of it
    assert not await server.metric("sobranie_resets_total")
