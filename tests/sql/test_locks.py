"""Watching under traffic: no transaction of the application fails for it, none waits long, and what could not be done is
told. A few rounds of each verb here, and two hundred with LONG (`make test-long`)."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from harness.cluster import migrate
from harness.database import Database
from harness.facts import eventually
from tests.sql.traffic import traffic

ROUNDS = 200 if "LONG" in os.environ else 4
MIGRATIONS = 200 if "LONG" in os.environ else 1
PATIENCE = 0.3
TABLES = ("pgbench_accounts", "pgbench_history", "pgbench_branches", "orders", "items", "visits")
AGAIN = (
    "SELECT realtime.unwatch('pgbench_history'); SELECT realtime.unwatch('orders');"
    "SELECT realtime.watch('pgbench_history'); SELECT realtime.watch('orders')"
)
Verb = Callable[[Database, int], Awaitable[object]]


async def do(database: Database, *statements: str) -> None:
    await database.execute(f"SET realtime.patience = '{PATIENCE} s'; SET lock_timeout = 0; {'; '.join(statements)}")


async def or_told(doing: Awaitable[None]) -> None:
    """It is done, or refused in words that say that nothing was done."""
    try:
        await doing
    except psycopg.errors.LockNotAvailable as error:
        if "nothing was changed" not in str(error):
            raise


async def ddl(database: Database, statement: str) -> None:
    """The application's own, as careful as any that is made under traffic."""
    try:
        await database.execute(f"SET lock_timeout = '300 ms'; {statement}")
    except psycopg.errors.LockNotAvailable:
        pass


async def watch_and_unwatch(database: Database, i: int) -> None:
    table = TABLES[i % len(TABLES)]
    await do(database, f"SELECT realtime.watch('{table}')")
    if i % 2:
        await do(database, f"SELECT realtime.unwatch('{table}')")


async def change(database: Database, i: int) -> None:
    """The routes, and whether nested changes need a mark."""
    if i % 2:
        await ddl(
            database, "CREATE OR REPLACE TRIGGER x AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nothing()"
        )
    else:
        await ddl(database, "DROP TRIGGER IF EXISTS x ON orders")
    await do(database, f"SELECT realtime.watch('orders', '{'{v}' if i % 4 > 1 else '{}'}')")


async def several(database: Database, i: int) -> None:
    """In one migration, with all locks at its beginning, and without. So one asks for a stronger lock than it has."""
    first = "SELECT realtime.lock('{orders,pgbench_history}')" if i % 2 else "SELECT realtime.watch('pgbench_history')"
    await or_told(do(database, "BEGIN", first, AGAIN, "COMMIT"))


async def at_once(database: Database, i: int) -> None:
    recapture = database.execute("SET ROLE realtime_owner; SELECT realtime.recapture()")
    check = database.execute("SELECT realtime.check()")
    await asyncio.gather(watch_and_unwatch(database, i), check, change(database, i), recapture, several(database, i))


async def partitions(database: Database, i: int) -> None:
    """One that comes, and goes, while its parent is watched, and unwatched."""
    await asyncio.gather(
        do(database, f"SELECT realtime.{'unwatch' if i % 2 else 'watch'}('visits')"),
        ddl(database, "CREATE TABLE IF NOT EXISTS visits_9 PARTITION OF visits FOR VALUES IN (9)"),
        ddl(database, "DROP TABLE IF EXISTS visits_9"),
    )


async def parent(database: Database, i: int) -> None:
    """Both ends of a foreign key with a cascade."""
    await asyncio.gather(*(do(database, f"SELECT realtime.watch('{table}')") for table in ("orders", "items")))
    await asyncio.gather(*(do(database, f"SELECT realtime.unwatch('{table}')") for table in ("orders", "items")))


@pytest.mark.parametrize("verb", [watch_and_unwatch, change, several, at_once, partitions, parent])
async def test_no_transaction_of_the_application_fails_or_waits_long_for_a_watch(
    database: Database, tmp_path: Path, figures: Callable[[str], None], verb: Verb
) -> None:
    async with traffic(database, tmp_path) as application:
        for i in range(ROUNDS):
            await verb(database, i)
    figures(f"{verb.__name__}: {application}")
    assert application.deadlocks == 0


async def test_nor_for_a_migration_up_or_down(
    empty_database: Database, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    database = empty_database
    migrate(database.url)
    async with traffic(database, tmp_path) as application:
        for _ in range(MIGRATIONS):
            for table in TABLES:
                await do(database, f"SELECT realtime.watch('{table}')")
            check = database.execute("SELECT realtime.check()")
            await asyncio.gather(asyncio.to_thread(migrate, database.url), check)
            await asyncio.to_thread(migrate, database.url, "downgrade", "base")
            await asyncio.to_thread(migrate, database.url)
    figures(f"up and down: {application}")
    assert application.deadlocks == 0


async def held(database: Database, *statements: str) -> psycopg.AsyncConnection:
    """A session in a transaction that has done this."""
    session = await database.connect(autocommit=False)
    for statement in statements:
        await session.execute(statement.encode())
    return session


async def waits(database: Database) -> bool:
    return bool(await database.value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))


PARTS = """
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
SELECT realtime.watch('parts')"""


async def test_who_drops_a_partition_while_a_watch_waits_for_its_parent_is_in_no_deadlock(database: Database) -> None:
    await database.execute(PARTS)
    application = await held(database, "LOCK TABLE parts IN ACCESS EXCLUSIVE MODE")
    unwatch = asyncio.create_task(do(database, "SELECT realtime.unwatch('parts')"))
    await eventually(lambda: waits(database))
    await application.execute("DROP TABLE parts_2")
    await application.commit()
    await unwatch
    await application.close()


async def test_a_partition_of_another_owner_is_locked_through_its_parent(database: Database) -> None:
    await database.execute(f"{PARTS}; CREATE ROLE watcher; CREATE ROLE other; GRANT realtime_owner TO watcher")
    await database.execute("ALTER TABLE parts OWNER TO watcher; ALTER TABLE parts_1 OWNER TO watcher")
    await database.execute("ALTER TABLE parts_2 OWNER TO other")
    application = await held(database, "INSERT INTO parts_2 VALUES (2)")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="parts could not be locked"):
        await do(database, "SET ROLE watcher", "SET realtime.give_up = '50 ms'", "SELECT realtime.unwatch('parts')")
    await application.rollback()
    await application.close()
    await do(database, "SET ROLE watcher", "SELECT realtime.unwatch('parts')")
    await database.execute("DROP TABLE parts; DROP OWNED BY watcher; DROP ROLE watcher, other")


async def test_a_stray_table_that_is_in_use_keeps_nobody_and_loses_its_trigger_later(database: Database) -> None:
    await database.execute(f"{PARTS}; ALTER TABLE parts DETACH PARTITION parts_2")
    left = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'parts_2'::regclass AND tgname LIKE '00_realtime%'"
    application = await held(database, "INSERT INTO parts_2 VALUES (2)")
    await do(database, "SET realtime.give_up = '50 ms'", "SELECT realtime.unwatch('parts')")
    assert await database.value(left) > 0
    await application.commit()
    await application.close()
    assert await database.execute("SELECT * FROM realtime.check()") == []
    assert await database.value(left) == 0


async def test_who_has_written_to_another_table_stands_in_no_queue(database: Database) -> None:
    """Others wait for its rows; in a queue they would wait for two."""
    await database.execute("CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY)")
    await database.execute("INSERT INTO a VALUES (1)")
    application = await held(database, "INSERT INTO b VALUES (1)")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="nothing was changed") as refused:
        await do(database, "BEGIN", "UPDATE a SET v = 1", "SELECT realtime.watch('b')")
    assert "Begin it with SELECT realtime.lock" in str(refused.value.diag.message_hint)
    await application.rollback()
    await application.close()


async def test_no_advisory_lock_of_a_stranger_keeps_from_watching_or_migrating(database: Database) -> None:
    stranger = await held(database, *(f"SELECT pg_advisory_lock(1919247220, {key})" for key in range(10)))
    await database.execute("CREATE TABLE a (id int PRIMARY KEY)")
    await do(database, "SET realtime.give_up = '50 ms'", "SELECT realtime.watch('a')")
    await database.execute("DROP TRIGGER realtime_insert ON a")
    assert len(await database.execute("SELECT * FROM realtime.check()")) == 1
    await asyncio.wait_for(asyncio.to_thread(migrate, database.url), 20)
    await stranger.close()


async def test_who_defines_watches_is_named_to_the_next(database: Database) -> None:
    first = await held(database, "SELECT realtime.lock('{posts}')")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="another transaction is watching") as refused:
        await do(database, "SET realtime.give_up = '50 ms'", "SELECT realtime.watch('notifications', '{kind}')")
    assert f"session {first.info.backend_pid} (postgres" in str(refused.value.diag.message_detail)
    await first.close()
