"""What do writers keep of their speed when their table is on the air?

By turns, in windows of seconds: an untriggered copy of `posts`; a floor (the same write and the JSON of its row into a
second heap with one index, by hand in one statement); `posts` itself with a server running and one client subscribed;
and the usual way, a row trigger that sends the row by pg_notify. The order of a round alternates, so that a machine
that grows slower or faster favours none. `fsync` is on, as in production.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from bench.blocks import Bars, Block, Table, Text
from bench.stage import MARK, Stage, say
from bench.stats import interval, number, ratios, spread, with_range
from bench.swarm import Swarm
from harness.database import Database

Data = dict[str, Any]
TABLES = {"untriggered": "plain", "floor": "hand", "capture": "posts", "pg_notify": "noisy"}
LABELS = {
    "untriggered": "untriggered",
    "floor": "floor: the JSON into a second heap by hand",
    "capture": "**our capture**, server running",
    "pg_notify": "row trigger, pg_notify(row)",
}
ROWS = 20_000  # there for UPDATEs
BULK = 100_000
SETUP = """
CREATE TABLE plain (LIKE posts INCLUDING ALL);
CREATE TABLE hand (LIKE posts INCLUDING ALL);
CREATE TABLE noisy (LIKE posts INCLUDING ALL);
CREATE TABLE floor_log (
  id bigint GENERATED ALWAYS AS IDENTITY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), old text, new text);
CREATE INDEX ON floor_log (xid);
CREATE FUNCTION notify_row() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_notify('noisy', row_to_json(NEW)::text); RETURN NULL; END $$;
CREATE TRIGGER notify AFTER INSERT OR UPDATE ON noisy FOR EACH ROW EXECUTE FUNCTION notify_row();
TRUNCATE posts RESTART IDENTITY;
""" + "".join(
    f"INSERT INTO {table} (author_id, title, body) "
    f"SELECT n % 1000, {MARK}, repeat('x', 60) FROM generate_series(1, {ROWS}) n;"
    for table in TABLES.values()
)

# What the client must have got, by PostgreSQL's own count: the rows of an UPDATE come old and new, each with its mark.
MARKS = "SELECT n_tup_ins + 2 * n_tup_upd FROM pg_stat_user_tables WHERE relid = 'posts'::regclass"


@dataclass(frozen=True)
class Case:
    """One way of writing: an INSERT or UPDATE, by so many writers, of one row or of many."""

    verb: str
    writers: int
    rounds: int
    seconds: int = 1  # pgbench knows whole ones only
    rows: int = 1


CASES = (
    Case("INSERT", 8, 10, 2),
    Case("INSERT", 1, 10),
    Case("UPDATE", 8, 10),
    Case("UPDATE", 1, 10),
    Case("INSERT", 1, 10, rows=BULK),
    Case("UPDATE", 1, 10, rows=BULK),
)


async def measure(stage: Stage, *, cases: Sequence[Case] = CASES, variants: Sequence[str] = tuple(TABLES)) -> Data:
    database = stage.database()
    found = []
    async with (
        stage.server(database) as server,
        await Swarm.open(server.port, 1) as swarm,
        _listener(database),
    ):
        await database.execute(SETUP)
        await swarm.until(ROWS)
        for case in cases:
            cell = await _case(stage, database, case, variants)
            await stage.database_cpu()  # the writers have ended, and their rows are counted
            cell["written"] = int(await database.value(MARKS))
            await swarm.until(cell["written"])
            cell["received"] = (await swarm.report()).changes
            if cell["received"] != cell["written"]:
                say(f"  THE CLIENT RECEIVED {cell['received']:,} ROW IMAGES OF {cell['written']:,} WRITTEN BY NOW")
            found.append(cell)
    return {"cells": found}


@asynccontextmanager
async def _listener(database: Database) -> AsyncIterator[None]:
    """Whoever notifies has somebody who listens."""

    async def listen() -> None:
        async with await replace(database, user="postgres").connect() as connection:
            await connection.execute("LISTEN noisy")
            async for _ in connection.notifies():
                pass

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _case(stage: Stage, database: Database, case: Case, variants: Sequence[str]) -> Data:
    cell: Data = {"verb": case.verb, "writers": case.writers, "rows": case.rows, "seconds": case.seconds}
    cell |= {v: {"speed": [], "cpu": [], "wal": []} for v in variants}
    for turn in range(-1, case.rounds):  # the first warms
        for variant in list(variants)[:: 1 if turn % 2 else -1]:
            speed, cpu, wal = await _window(stage, database, case, variant)
            if turn >= 0:
                for key, value in (("speed", speed), ("cpu", cpu), ("wal", wal)):
                    cell[variant][key].append(value)
    what = f"{case.verb} of {case.rows:,} rows" if case.rows > 1 else f"{case.verb}, {case.writers} writers"
    for variant in variants:
        kept = ratios(cell[variant]["speed"], cell["untriggered"]["speed"])
        low, high = interval(kept)
        say(f"  {what:22} {variant:12} keeps {number(spread(kept).median)} ({number(low)}–{number(high)})")
    return cell


async def _window(stage: Stage, database: Database, case: Case, variant: str) -> tuple[float, float, float]:
    """Commits a second (or rows), µs of PostgreSQL's CPU and bytes of WAL for each change."""
    cpu, wal = await stage.database_cpu(), await stage.wal(database)
    if case.rows > 1:
        began = time.monotonic()
        await database.execute(_bulk(case, variant))
        changes, speed = case.rows, case.rows / (time.monotonic() - began)
    else:
        written = await stage.write(database, _single(case, variant), "-T", str(case.seconds), clients=case.writers)
        changes, speed = written.commits, written.per_second
    cpu, wal = await stage.database_cpu() - cpu, await stage.wal(database) - wal
    return speed, cpu * 1e6 / changes, wal / changes


def _single(case: Case, variant: str) -> str:
    table = TABLES[variant]
    if case.verb == "INSERT":
        body = "a body of some sixty characters, as short posts have them"
        return "\\set a random(1, 1000)\n" + _logged(
            variant,
            f"INSERT INTO {table} (author_id, title, body) VALUES (:a, {MARK}, '{body}')",
            "NULL, row_to_json(new)",
        )
    return f"\\set i random(1, {ROWS})\n" + _logged(
        variant,
        f"UPDATE {table} SET body = clock_timestamp() || repeat('x', 30) WHERE id = :i",
        "row_to_json(old), row_to_json(new)",
    )


def _bulk(case: Case, variant: str) -> str:
    table = TABLES[variant]
    if case.verb == "INSERT":
        rows = f"SELECT n, {MARK}, repeat('x', 60) FROM generate_series(1, {case.rows}) n"
        return _logged(variant, f"INSERT INTO {table} (author_id, title, body) {rows}", "NULL, row_to_json(new)")
    last = f"id > (SELECT max(id) - {case.rows} FROM {table})"
    return _logged(
        variant,
        f"UPDATE {table} SET body = clock_timestamp() || body WHERE {last}",
        "row_to_json(old), row_to_json(new)",
    )


def _logged(variant: str, statement: str, images: str) -> str:
    """The statement alone or, for the floor, with what it wrote as JSON into the second heap."""
    if variant != "floor":
        return statement + ";\n"
    returning = ", ".join(f"{image} AS image_{n}" for n, image in enumerate(images.split(", ")))
    into = "INSERT INTO floor_log (old, new) SELECT image_0, image_1 FROM w"
    return f"WITH w AS ({statement} RETURNING {returning}) {into};\n"


def find(data: Data, verb: str, writers: int, rows: int = 1) -> Data | None:
    wanted = (verb, writers, rows)
    return next((c for c in data["cells"] if (c["verb"], c["writers"], c["rows"]) == wanted), None)


def kept(cell: Data, variant: str = "capture", of: str = "untriggered") -> list[float]:
    """Round by round, the speed against that of another way."""
    return ratios(cell[variant]["speed"], cell[of]["speed"])


def surplus(data: Data) -> list[float]:
    """What the client received, of what was written; it has waited until it was no less."""
    return [data["cells"][-1]["received"] / data["cells"][-1]["written"]] if data["cells"] else []


def _title(cell: Data) -> str:
    if cell["rows"] > 1:
        return f"One {cell['verb']} of {cell['rows']:,} rows"
    writers = "8 writers" if cell["writers"] == 8 else "1 writer"
    return f"Single-row {cell['verb']}, {writers}"


def show(data: Data) -> Iterator[Block]:
    yield Text(
        "pgbench, prepared statements, windows that alternate. *Kept* is the median, round by round, of the speed "
        "against the untriggered table's, with its 95 % interval (of fewer than 6 rounds: the range). CPU is that of "
        "all of PostgreSQL's processes, the reading of the event log included; WAL is per changed row. The subscribed "
        f"client received {data['cells'][-1]['received']:,} row images of {data['cells'][-1]['written']:,} written."
    )
    for cell in data["cells"]:
        variants = [v for v in TABLES if v in cell]
        unit = "rows/s" if cell["rows"] > 1 else "commits/s"
        rows = []
        for v in variants:
            low, high = interval(kept(cell, v))
            rows.append(
                (
                    LABELS[v],
                    with_range(cell[v]["speed"]),
                    f"{spread(kept(cell, v)).median:.2f} ({low:.2f}–{high:.2f})",
                    number(spread(cell[v]["cpu"]).median),
                    number(spread(cell[v]["wal"]).median),
                )
            )
        title = f"{_title(cell)} ({len(cell['untriggered']['speed'])} rounds)"
        yield Table(title, ("", unit, "kept", "µs CPU a change", "bytes of WAL a change"), rows)
    yield Bars(
        "writers",
        "Speed that writers keep, of the untriggered table's (more is better)",
        {
            _title(cell): [
                (LABELS[v].replace("*", ""), spread(kept(cell, v)).median, *interval(kept(cell, v)))
                for v in TABLES
                if v in cell and v != "untriggered"
            ]
            for cell in data["cells"]
        },
    )
