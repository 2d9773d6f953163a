"""What is in the event log, as the tests of the SQL read it."""

import json
from dataclasses import dataclass
from typing import Any

from harness.database import Database

Row = dict[str, Any]
READ = """
SELECT e.id, e.n, e.xid::text::bigint, g.schema || '.' || g.name, e.gen, e.op, e.depth, e.ord, e.new_vals, e.old_vals,
       e.new::text, e.old::text
FROM realtime.events e JOIN realtime.generations g USING (gen)
WHERE e.id > %s ORDER BY e.id, e.n"""


@dataclass(frozen=True)
class Event:
    id: int
    n: int
    xid: int
    table: str
    gen: int
    op: str
    depth: int
    ord: int | None
    new_vals: list[str | None] | None
    old_vals: list[str | None] | None
    new: Row | None
    old: Row | None

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> "Event":
        values: tuple[Any, ...] = (*row[:-2], *map(_json, row[-2:]))
        return cls(*values)


def _json(text: str | None) -> Row | None:
    return None if text is None else json.loads(text)


async def top(database: Database) -> int:
    """The highest event id so far."""
    return int(await database.value("SELECT coalesce(max(id), 0) FROM realtime.events"))


async def events(database: Database, since: int = 0, *, ops: str = "IUDTR") -> list[Event]:
    return [e for e in map(Event.of, await database.execute(READ, since)) if e.op in ops]


async def after(database: Database, sql: str, *parameters: object) -> list[Event]:
    """Runs `sql` in one connection; returns what it added to the event log, generations left out."""
    since = await top(database)
    await database.execute(sql, *parameters)
    return await events(database, since)


def ops(found: list[Event]) -> str:
    return "".join(e.op for e in found)


def replayed(found: list[Event], key: str = "id") -> dict[Any, Row]:
    """The table that the events (in order) build."""
    table: dict[Any, Row] = {}
    by_statement: dict[int, list[Event]] = {}
    for e in found:
        by_statement.setdefault(e.id, []).append(e)
    for statement in by_statement.values():
        if statement[0].op == "T":
            table.clear()
        for e in statement:
            if e.old is not None:
                table.pop(e.old[key], None)
        for e in statement:
            if e.new is not None:
                table[e.new[key]] = e.new
    return table


async def contents(database: Database, table: str, key: str = "id") -> dict[Any, Row]:
    rows = await database.execute(f"SELECT row_to_json(t.*) FROM {table} t")
    return {row[key]: row for (row,) in rows}
