"""The order inside transactions, proven on worlds that hypothesis makes (tests.sql.worlds): what a client replays is the
table, and every `old` is what was there. So it is where each transaction is read in pages, as one that is too large to
hold, or its table is reset. STATEMENTS says about how many statements of new worlds are run (`make
generator`); without it the same worlds are run each time."""

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from app.model.change import Change, Transaction
from app.postgres import large, pages
from app.postgres.event_log import PostgresEventLog
from harness.database import Database, rows_of
from tests.integration import story
from tests.sql.worlds import TABLES, World, worlds

STATEMENTS = int(os.environ.get("STATEMENTS", "0"))
LIMITS = "SET deadlock_timeout = '20ms'; SET lock_timeout = '300ms'; SET statement_timeout = '2s'"  # of the writers
Connection = psycopg.AsyncConnection[tuple[Any, ...]]
State = dict[tuple[str, str], dict[str, Any]]


class Judge:
    """What a client has, change by change. Of a table that was reset it has no more."""

    def __init__(self, state: State) -> None:
        self.state = dict(state)
        self.reset: set[str] = set()

    def take(self, changes: Iterable[Change]) -> None:
        for change in changes:
            table = change.table.name
            if table in self.reset:
                continue
            if change.op == "T":
                self.state = {key: row for key, row in self.state.items() if key[0] != table}
            if change.old is not None:
                old = json.loads(change.old)
                there = self.state.pop((table, str(old["id"])), None)
                assert there == old, f"{table} {change.op}: old is {old}, and there was {there}"
            if change.new is not None:
                new = json.loads(change.new)
                there = self.state.get((table, str(new["id"])))
                assert there is None, f"{table} {change.op}: {new} comes where there is {there}"
                self.state[table, str(new["id"])] = new

    def has(self, state: State) -> bool:
        left = [{key: row for key, row in rows.items() if key[0] not in self.reset} for rows in (self.state, state)]
        return left[0] == left[1]


async def state(connection: Connection) -> State:
    return {
        (table, str(row["id"])): row
        for table in TABLES
        for (row,) in await rows_of(connection, f"SELECT row_to_json(t) FROM {table} t")
    }


async def write(connection: Connection, transactions: list[list[str]]) -> int:
    """Runs the transactions; a statement that fails is rolled back alone. Returns how many did not."""
    done = 0
    for statements in transactions:
        try:
            async with connection.transaction():
                for statement in statements:
                    try:
                        async with connection.transaction():
                            await connection.execute(statement.encode())
                            done += 1
                    except psycopg.errors.DeadlockDetected:
                        raise
                    except psycopg.Error:
                        pass
        except psycopg.Error:
            pass
    return done


async def run(database: Database, log: PostgresEventLog, world: World) -> int:
    async with await database.connect() as connection, await database.connect() as beside:
        await rows_of(connection, "DROP SCHEMA IF EXISTS w CASCADE; CREATE SCHEMA w")
        for each in (connection, beside):
            await rows_of(each, "SET search_path = w")
        await rows_of(connection, world.schema)
        await rows_of(connection, "SET session_replication_role = replica; INSERT INTO a VALUES (1), (2), (3), (4)")
        await rows_of(
            connection,
            "INSERT INTO b VALUES (1, 0, 1), (2, 0, 1), (3, 0, 2); INSERT INTO c VALUES (1, 0, 1), (2, 0, 2)",
        )
        await rows_of(connection, "SET session_replication_role = origin")
        await rows_of(connection, "SELECT realtime.watch(t::regclass) FROM unnest(ARRAY['a', 'b', 'c']) t")
        for each in (connection, beside):
            await rows_of(each, LIMITS)
        before = await state(connection)
        position = start = (await log.head()).position
        done, _ = await asyncio.gather(write(connection, world.transactions), write(beside, world.beside))
        found: list[Transaction] = []
        while (batch := await log.difference(position)) is not None:
            assert batch.transactions is not None
            found += batch.transactions
            position = batch.upto
        judge, paged = Judge(before), Judge(before)
        for transaction in found:
            judge.take(transaction.changes)
        assert judge.has(await state(connection))
        for transaction in await story.replayed(log, start, position):
            paged.reset |= {table.name for table in transaction.schema}
            paged.take(transaction.changes)
        assert paged.has(await state(connection))
        return done


async def test_what_is_replayed_is_what_happened(
    database: Database, figures: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LARGE_CHANGES", 0)  # of a replay; what is new is held
    monkeypatch.setattr(large, "PAGE_CHANGES", 4)
    log = PostgresEventLog(database.url, lambda seen: None)
    done = [0, 0]
    loop = asyncio.get_running_loop()

    @given(worlds)
    @settings(
        max_examples=max(STATEMENTS // 10, 1) if STATEMENTS else 50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    def each(world: World) -> None:
        ran = asyncio.run_coroutine_threadsafe(run(database, log, world), loop).result()
        done[0] += 1
        done[1] += ran

    try:
        await asyncio.to_thread(each)
    finally:
        await log.close()
        figures(f"{done[1]} statements in {done[0]} worlds replayed")
