"""Writers whose transactions interleave at random, and what every reading of the event log must agree with."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from app.model.change import Change, Transaction
from app.model.position import Snapshot
from app.postgres.event_log import PostgresEventLog
from harness.database import Database
from harness.facts import pause

SCHEMA = """
CREATE TABLE story (id bigint PRIMARY KEY, owner int NOT NULL DEFAULT 0, value int NOT NULL);
CREATE TABLE other (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text NOT NULL);
INSERT INTO story SELECT g, 0, 0 FROM generate_series(1, 10) g;
SELECT realtime.watch('story', routes => '{owner}'), realtime.watch('other');
"""
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Reading:
    """A batch, whole."""

    since: Snapshot
    upto: Snapshot
    transactions: list[Transaction]


async def begin(database: Database) -> None:
    """The tables of the story, and as many rows as its writers fight for."""
    await database.execute(SCHEMA)


async def writer(database: Database, seed: int, transactions: int) -> None:
    """Random transactions: savepoints, roll-backs, pauses with locks held, other tables, deletes."""
    chance = random.Random(seed)
    async with await database.connect(autocommit=False) as connection:
        await connection.execute("SET deadlock_timeout = '20ms'")
        await connection.commit()
        for _ in range(transactions):
            try:
                await _transaction(connection, chance)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                await connection.rollback()


async def _transaction(connection: Connection, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        await _statement(connection, chance)
        if chance.random() < 0.2:
            await pause(chance.random() * 0.01)
    if chance.random() < 0.3:
        await connection.execute("SAVEPOINT s")
        await _statement(connection, chance)
        if chance.random() < 0.5:
            await connection.execute("ROLLBACK TO s")
    if chance.random() < 0.2:
        await connection.rollback()
    else:
        await connection.commit()


async def _statement(connection: Connection, chance: random.Random) -> None:
    row = chance.randint(1, 10)
    statements: Sequence[tuple[bytes, tuple[object, ...]]] = (
        (b"UPDATE story SET value = value + 1 WHERE id = %s", (row,)),
        (b"UPDATE story SET owner = (owner + 1) %% 3, value = value + 1 WHERE id = %s", (row,)),
        (b"DELETE FROM story WHERE id = %s", (row,)),
        (b"INSERT INTO story VALUES (%s, 0, 0) ON CONFLICT (id) DO UPDATE SET value = story.value + 1", (row,)),
        (b"INSERT INTO other (note) VALUES (%s)", (str(row),)),
        (b"UPDATE story SET id = id + 100 WHERE id = %s", (row,)),
        (b"UPDATE story SET id = id - 100 WHERE id = %s", (row + 100,)),
    )
    weights = (5, 2, 1, 3, 2, 1, 1)
    query, parameters = chance.choices(statements, weights)[0]
    await connection.execute(query, parameters)


async def follow(log: PostgresEventLog, position: Snapshot, writers: Iterable[asyncio.Task[None]]) -> list[Reading]:
    """Read again and again while the writers write, and once more after."""
    readings: list[Reading] = []
    waiting = set(writers)
    ended = False
    while True:
        batch = await log.difference(position)
        if batch is not None:
            assert batch.since == position
            assert batch.upto.contains(position)
            transactions = (
                batch.transactions if batch.transactions is not None else await replayed(log, position, batch.upto)
            )
            readings.append(Reading(batch.since, batch.upto, transactions))
            position = batch.upto
        elif ended:
            return readings
        if not ended:
            done, _ = await asyncio.wait(waiting, timeout=0.001)
            ended = done == waiting


class Portion(NamedTuple):
    """A piece of a replay. `upto` is the position after it; None in the midst of a transaction."""

    transactions: list[Transaction]
    upto: Snapshot | None


async def replay(log: PostgresEventLog, since: Snapshot, upto: Snapshot) -> AsyncIterator[Portion]:
    """What `upto` sees and `since` does not, in order. A transaction that is too large to hold comes in its pages."""
    async for stretch in log.stretches(since, upto):
        if stretch.large is not None:
            assert await stretch.large.topics()
            for n in range(await stretch.large.count()):
                yield Portion([await stretch.large.page(n)], None)
        yield Portion(stretch.transactions or [], stretch.upto)


async def replayed(log: PostgresEventLog, since: Snapshot, upto: Snapshot) -> list[Transaction]:
    """A replay in one list; the pieces of a transaction put together."""
    found: dict[int, Transaction] = {}
    ended: Snapshot | None = None
    async for portion in replay(log, since, upto):
        for t in portion.transactions:
            whole = found.setdefault(t.xid, Transaction(t.xid, t.last, [], []))
            whole.changes += t.changes
            whole.schema += t.schema
        ended = portion.upto
    assert ended == upto
    return list(found.values())


def ids(transactions: Iterable[Transaction]) -> list[str]:
    return [c.id for t in transactions for c in t.changes]


State = dict[tuple[str, str], dict[str, Any]]


def apply(changes: Iterable[Change], before: State | None = None) -> State:
    """The tables that these changes lead to. Fails where an `old` is not what the change before left."""
    state = dict(before or {})
    for change in changes:
        table = change.table.name
        if change.op == "T":
            state = {key: row for key, row in state.items() if key[0] != table}
        if change.old is not None:
            old = json.loads(change.old)
            assert state.pop((table, str(old["id"])), None) == old, f"{change.id}: its old row is not what was there"
        if change.new is not None:
            new = json.loads(change.new)
            assert (table, str(new["id"])) not in state, f"{change.id}: its row was there already"
            state[table, str(new["id"])] = new
    return state


async def truth(database: Database, *tables: str) -> State:
    """What the tables hold."""
    state: State = {}
    for table in tables:
        for (row,) in await database.execute(f"SELECT row_to_json(t) FROM {table} t"):
            state[table, str(row["id"])] = row
    return state


async def logged(database: Database) -> set[tuple[int, int]]:
    """(id, n) of every row change in the event log."""
    rows = await database.execute("SELECT id, n FROM realtime.events WHERE op IN ('I', 'U', 'D', 'T')")
    return {(row[0], row[1]) for row in rows}
