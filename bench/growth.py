"""Growth: what becomes of CPU per delivery, delay and memory with more clients, channels, routes and servers.

One thing grows at a time; single-row commits at an even, slow pace.
"""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from bench.blocks import Block, Lines, Table, Text
from bench.stage import MARK, NOW, Stage, insert, paced, say
from bench.stats import number
from bench.swarm import Swarm
from bench.system import cpu, raise_file_limit, rss
from harness.database import Database
from harness.server import Server

Data = dict[str, Any]
CLIENTS = (500, 2000, 5000, 10_000, 20_000)
CHANNELS = (1, 10, 100)  # of each of 1,000 clients, beside the common one
ROUTES = (1, 4, 16)  # of a table, each with 500 clients on channels of their own
SERVERS = (1, 2, 4)  # each with 500 clients
SPARE = 600  # files that a server needs for other things than clients
COMMITS = 20


async def measure(
    stage: Stage,
    *,
    clients: Sequence[int] = CLIENTS,
    channels: Sequence[int] = CHANNELS,
    routes: Sequence[int] = ROUTES,
    servers: Sequence[int] = SERVERS,
) -> Data:
    most = raise_file_limit() - SPARE
    database = stage.database()
    data: Data = {"clients": [], "channels": [], "routes": [], "servers": []}
    for count in dict.fromkeys(min(count, most) for count in clients):
        rate = min(20.0, 25_000 / count)
        data["clients"].append(await _one(stage, database, count, count, ("posts",), insert(authors=10**9), rate, 1))
    for count in channels:
        own = f"posts:author_id=%d*{count}"
        script = insert(authors=1000 * count)  # each row is in the common channel, and in one other
        data["channels"].append(await _one(stage, database, count, 1000, ("posts", own), script, 20, 1))
    for count in routes:
        data["routes"].append(await _routes(stage, database, count))
    for count in servers:
        data["servers"].append(await _servers(stage, database, count))
    return data


async def _one(
    stage: Stage, database: Database, x: int, count: int, channels: tuple[str, ...], script: str, rate: float, each: int
) -> Data:
    """One server; every client gets `each` deliveries of a commit."""
    async with stage.server(database) as server:
        before = rss(server.process.pid)
        async with await Swarm.open(server.port, count, channels=channels) as swarm:
            grown = rss(server.process.pid) - before
            return await _window(stage, database, [server], [swarm], script, rate, each) | {
                "x": x,
                "bytes": grown / count,
            }


async def _window(
    stage: Stage,
    database: Database,
    servers: Sequence[Server],
    swarms: Sequence[Swarm],
    script: str,
    rate: float,
    each: float,
) -> Data:
    for swarm in swarms:
        await swarm.reset()
    database_cpu = await stage.database_cpu()
    began = sum(cpu(server.process.pid) for server in servers)
    written = await stage.write(database, paced(script, rate), "-t", str(COMMITS))
    for swarm in swarms:
        await swarm.until(int(written.commits * swarm.count * each))
    used = sum(cpu(server.process.pid) for server in servers) - began
    reports = [await swarm.report() for swarm in swarms]
    cell = {
        "us": used * 1e6 / sum(report.changes for report in reports),
        "commit_us": used * 1e6 / COMMITS,
        "database_us": (await stage.database_cpu() - database_cpu) * 1e6 / COMMITS,
        "p50": max(report.p50 for report in reports),
        "p99": max(report.p99 for report in reports),
        "insert": written.latency_ms,
    }
    say(
        f"  {len(servers)} servers, {sum(s.count for s in swarms):,} clients: {number(cell['us'])} µs CPU a delivery, "
        f"p50 {number(cell['p50'])} ms, p99 {number(cell['p99'])} ms"
    )
    return cell


async def _routes(stage: Stage, database: Database, count: int) -> Data:
    """A table of so many routes; each client is on one channel of one of them, and gets every change."""
    table = f"routes_{count}"
    columns = [f"r{n}" for n in range(count)]
    await database.execute(
        f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, "
        + ", ".join(f"{c} int NOT NULL DEFAULT 1" for c in columns)
        + f"); CREATE TABLE {table}_plain (LIKE {table} INCLUDING ALL); "
        + f"SELECT realtime.watch('{table}', routes => '{{{','.join(columns)}}}')"
    )
    async with stage.server(database) as server, AsyncExitStack() as stack:
        swarms = [
            await stack.enter_async_context(await Swarm.open(server.port, 1000 // count, channels=(f"{table}:{c}=1",)))
            for c in columns
        ]
        script = f"INSERT INTO {table} (title) VALUES ({NOW});\n"
        cell = await _window(stage, database, [server], swarms, script, 20, 1)
        kept = []
        for turn in range(3):
            speed = {}
            for name in (table, f"{table}_plain")[:: 1 if turn % 2 else -1]:
                bulk = f"INSERT INTO {name} (title) VALUES ({MARK});\n"
                speed[name] = (await stage.write(database, bulk, "-T", "1", clients=8)).per_second
            kept.append(speed[table] / speed[f"{table}_plain"])
        return cell | {"x": count, "kept": kept}


async def _servers(stage: Stage, database: Database, count: int) -> Data:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(stage.server(database, f"s{n}")) for n in range(count)]
        swarms = [await stack.enter_async_context(await Swarm.open(server.port, 500)) for server in servers]
        return await _window(stage, database, servers, swarms, insert(), 20, 1) | {"x": count}


COLUMNS = {
    "us": "µs CPU a delivery",
    "commit_us": "µs CPU of the servers a commit",
    "database_us": "µs CPU of PostgreSQL a commit",
    "p50": "p50 ms",
    "p99": "p99 ms",
}


def show(data: Data) -> Iterator[Block]:
    yield Text(f"One thing grows at a time: {COMMITS} single-row commits at an even, slow pace. One window each.")
    yield _table("Clients on one channel, one server", "clients", data["clients"], "bytes")
    yield _table(
        "Channels of its own of each of 1,000 clients, beside the common one",
        "channels each",
        data["channels"],
        "bytes",
    )
    yield _table(
        "Routes of a table; 1,000 clients, each on a channel of one route, get every change",
        "routes",
        data["routes"],
        "kept",
    )
    yield _table("Servers of one database, 500 clients each", "servers", data["servers"])
    yield Lines(
        "growth",
        "Growth with clients: CPU per delivery (µs) and p50 (ms)",
        "clients",
        {
            "µs CPU a delivery": [(cell["x"], cell["us"]) for cell in data["clients"]],
            "p50, ms": [(cell["x"], cell["p50"]) for cell in data["clients"]],
            "p50 for each 1,000 clients, ms": [(cell["x"], 1000 * cell["p50"] / cell["x"]) for cell in data["clients"]],
        },
    )


def _table(title: str, what: str, cells: Sequence[Data], more: str = "") -> Table:
    columns = [what, *COLUMNS.values()]
    if more == "bytes":
        columns.append("KB each")
    elif more == "kept":
        columns.append("8 writers keep")
    rows = []
    for cell in cells:
        row = [f"{cell['x']:,}", *(number(cell[key]) for key in COLUMNS)]
        if more == "bytes":
            row.append(number(cell["bytes"] / 1000))
        elif more == "kept":
            row.append(number(sorted(cell["kept"])[len(cell["kept"]) // 2]))
        rows.append(row)
    return Table(title, columns, rows)
