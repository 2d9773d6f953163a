"""Beside bulk work: what others suffer from a bulk write, and what many who want the same cost together.

A bulk write is one transaction that is too large to hold in memory. Clients that it does not concern want their next
change all the same: those of another table, and those of other rows of the same table. Clients that want all of it
share its pages. CPU is that of all of PostgreSQL's processes from the bulk write's commit on.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

from bench import beside_rows
from bench.blocks import Block, Table, Text
from bench.stage import MARK, NOW, Stage, say
from bench.stats import number, ratios, spread, with_range
from bench.swarm import Swarm
from bench.system import cpu
from harness.database import Database
from harness.facts import eventually
from harness.server import Server

Data = dict[str, Any]
CLIENTS = 400  # beside a bulk write that concerns none of them, of each kind
ELSEWHERE = 20_000  # its rows
TOGETHER = (1, 100)  # clients that want all of
WHOLE = 100_000  # rows
STATEMENT = 100  # rows of each statement, where marks are
TABLES = 5000
NOBODY = 10**9  # ids above this are nobody's
NEXT = {
    "other": (
        "notifications",
        "INSERT INTO notifications (user_id, body) SELECT g, {now} FROM generate_series(1, {n}) g",
    ),
    "same": ("posts", "INSERT INTO posts (author_id, title) SELECT g, {now} FROM generate_series(1, {n}) g"),
}
LABELS = {"other": "of another table", "same": "of other rows of the same table"}
# Statements of a table whose own triggers write bear marks, by which its events are sorted.
MARKED = """CREATE TABLE plain (id bigint PRIMARY KEY, title text NOT NULL);
CREATE TABLE marked (LIKE plain INCLUDING ALL);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER of_the_application AFTER INSERT ON marked EXECUTE FUNCTION nothing();
SELECT realtime.watch('plain'), realtime.watch('marked')"""


async def measure(
    stage: Stage,
    *,
    clients: int = CLIENTS,
    together: tuple[int, int] = TOGETHER,
    rows: int = WHOLE,
    rounds: int = 3,
    tables: int = TABLES,
    holders: int = beside_rows.CLIENTS,
) -> Data:
    """`clients`, `tables` and `holders` may be 0: then what they are for is left out."""
    database = stage.database()
    await database.execute(MARKED)
    data: Data = {"clients": clients, "rows": rows, "rounds": rounds, "next": {}, "whole": [], "marks": {}}
    if clients:
        async with stage.server(database) as server:
            data["next"] = await _next(stage, database, server, clients, rounds)
    async with stage.server(database) as server:
        data["whole"] = await _whole(stage, database, server, together, rows, rounds)
        data["marks"] = await _marks(stage, database, server, rows, rounds)
    if holders:
        data["holders"] = await beside_rows.measure(stage, holders)
    if tables:
        data["check"] = await _check(stage, tables)
    return data


async def _next(stage: Stage, database: Database, server: Server, clients: int, rounds: int) -> Data:
    """How long after a bulk write of nobody's rows, and at what cost, the next change of each client comes."""
    cells: dict[str, Data] = {what: {"ms": [], "database": [], "server": []} for what in NEXT}
    async with AsyncExitStack() as stack:
        swarms = {
            what: await stack.enter_async_context(await Swarm.open(server.port, clients, channels=(channel,)))
            for what, channel in (("other", "notifications:user_id=%d"), ("same", "posts:author_id=%d"))
        }
        for _ in range(rounds):
            for what, (_, script) in NEXT.items():
                for swarm in swarms.values():
                    await swarm.reset()
                await database.execute(
                    f"INSERT INTO posts (author_id) SELECT {NOBODY} + g FROM generate_series(1, {ELSEWHERE}) g"
                )
                began, ours = await stage.database_cpu(), cpu(server.process.pid)
                await database.execute(script.format(now=NOW, n=clients))
                await swarms[what].until(clients)
                cells[what]["database"].append(await stage.database_cpu() - began)
                cells[what]["server"].append(cpu(server.process.pid) - ours)
                cells[what]["ms"].append((await swarms[what].report()).worst)
                await _settled(server)
    for what, cell in cells.items():
        say(
            f"  {clients} clients {LABELS[what]}: the next change after {with_range(cell['ms'])} ms, "
            f"{with_range(cell['database'])} s of PostgreSQL's CPU"
        )
    return cells


async def _whole(
    stage: Stage, database: Database, server: Server, together: tuple[int, int], rows: int, rounds: int
) -> list[Data]:
    """What all of a large transaction costs at one client, and at many."""
    cells: list[Data] = [{"clients": count, "seconds": [], "database": [], "server": []} for count in together]
    statement = f"INSERT INTO posts (author_id, title) SELECT g, {MARK} FROM generate_series(1, {rows}) g"
    for turn in range(rounds):
        for cell in cells[:: 1 if turn % 2 else -1]:
            async with await Swarm.open(server.port, cell["clients"]) as swarm:
                for key, value in (await _all(stage, database, server, swarm, statement, rows)).items():
                    cell[key].append(value)
    for cell in cells:
        say(
            f"  {cell['clients']} clients want all of {rows:,} rows: {with_range(cell['database'])} s of CPU of "
            f"PostgreSQL, {with_range(cell['server'])} s of the server's"
        )
    return cells


async def _marks(stage: Stage, database: Database, server: Server, rows: int, rounds: int) -> Data:
    """The same for one client, of a table whose statements bear marks and of one whose do not."""
    found: Data = {"marked": [], "plain": []}
    for turn in range(rounds):
        for table in list(found)[:: 1 if turn % 2 else -1]:
            statement = (
                f"DO $$ BEGIN FOR i IN 0..{rows // STATEMENT - 1} LOOP INSERT INTO {table} SELECT "
                f"{turn * rows} + i * {STATEMENT} + g, {MARK} FROM generate_series(1, {STATEMENT}) g; END LOOP; END $$"
            )
            async with await Swarm.open(server.port, 1, channels=(table,)) as swarm:
                used = await _all(stage, database, server, swarm, statement, rows)
            found[table].append(used["database"] + used["server"])
    for table, samples in found.items():
        say(f"  {rows:,} rows of a {table} table: {with_range(samples)} s of CPU, PostgreSQL's and the server's")
    return found


async def _all(stage: Stage, database: Database, server: Server, swarm: Swarm, statement: str, rows: int) -> Data:
    await database.execute(statement)
    began, ours = await stage.database_cpu(), cpu(server.process.pid)
    seconds = await swarm.until(rows * swarm.count, 120)
    used: Data = {"database": await stage.database_cpu() - began, "server": cpu(server.process.pid) - ours}
    report = await swarm.report()
    assert report.least == report.most == rows, "each client has every row, and none twice"
    await _settled(server)
    return used | {"seconds": seconds}


async def _settled(server: Server) -> None:
    """Wait until nobody is fed any more."""

    async def live() -> bool:
        return await server.metric("sobranie_clients_lagging") == 0

    await eventually(live, 60, "all clients are live again")


async def _check(stage: Stage, tables: int) -> Data:
    """What the check of all watched tables takes, which the leader makes every ten seconds."""
    database = stage.database()
    for first in range(0, tables, 100):
        await database.execute(
            f"DO $$ BEGIN FOR i IN {first} .. {min(first + 100, tables) - 1} LOOP"
            " EXECUTE format('CREATE TABLE watched_%s (id int PRIMARY KEY)', i);"
            " PERFORM realtime.watch(format('watched_%s', i)); END LOOP; END $$"
        )
    seconds = []
    async with await database.connect() as connection:
        for _ in range(4):
            row = await (
                await connection.execute(
                    "WITH b AS MATERIALIZED (SELECT clock_timestamp() AS at), "
                    "c AS MATERIALIZED (SELECT count(*) AS wrong FROM b, realtime.check()) "
                    "SELECT c.wrong, extract(epoch FROM clock_timestamp() - b.at)::float8 FROM b, c"
                )
            ).fetchone()
            assert row is not None
            assert row[0] == 0, "the tables are sound"
            seconds.append(row[1])
    say(f"  a check of {tables:,} watched tables: {with_range(seconds[1:])} s")
    return {"tables": tables, "seconds": seconds[1:]}  # the first one fills the session's caches


# What was found.


def shared(data: Data) -> list[float]:
    """PostgreSQL's CPU for many clients that want the same against that for one, round by round."""
    one, many = data["whole"]
    return ratios(many["database"], one["database"])


def marks(data: Data) -> list[float]:
    """CPU for rows with marks against that for rows without, round by round."""
    return ratios(data["marks"]["marked"], data["marks"]["plain"])


def next_change(data: Data, what: str, key: str) -> list[float]:
    return data["next"][what][key] if what in data["next"] else []


def check(data: Data) -> list[float]:
    return data["check"]["seconds"] if "check" in data else []


def show(data: Data) -> Iterator[Block]:
    yield Text(
        "One transaction that is too large to hold in memory, and what others suffer. CPU of PostgreSQL is that of all "
        f"its processes after the write's commit; {data['rounds']} rounds that alternate."
    )
    if data["next"]:
        rows = [
            (f"the next change {LABELS[what]}", *(with_range(cell[key]) for key in ("ms", "database", "server")))
            for what, cell in data["next"].items()
        ]
        title = (
            f"{data['clients']} clients, each on a route of its own, beside an INSERT of {ELSEWHERE:,} rows of nobody's"
        )
        yield Table(title, ("", "ms until the last has it", "s CPU of PostgreSQL", "s CPU of the server"), rows)
    rows = [
        (f"{cell['clients']}", *(with_range(cell[key]) for key in ("seconds", "database", "server")))
        for cell in data["whole"]
    ]
    title = f"Clients that want all of an INSERT of {data['rows']:,} rows"
    yield Table(title, ("clients", "seconds", "s CPU of PostgreSQL", "s CPU of the server"), rows)
    yield Table(
        f"{data['rows']:,} rows in one transaction, {STATEMENT} a statement, at one client: CPU of both",
        ("table", "s CPU", "× without marks"),
        [
            ("without marks", with_range(data["marks"]["plain"]), "1.00"),
            ("with marks (it has triggers of its own)", with_range(data["marks"]["marked"]), with_range(marks(data))),
        ],
    )
    if "holders" in data:
        yield beside_rows.show(data["holders"])
    if "check" in data:
        yield Text(
            f"`realtime.check()` of {data['check']['tables']:,} watched tables takes "
            f"{number(spread(data['check']['seconds']).median)} s."
        )
