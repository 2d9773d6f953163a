"""Incarnations: one per stretch of history that positions may trust (adversarial 26, 27 at the SQL level)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database, rows_of
from tests.sql.log import events

CALL = "SELECT n, fresh FROM realtime.incarnate()"
COPIED = "UPDATE realtime.incarnation SET db = 1"  # what a copy finds: the incarnation of another database
WRITE = "INSERT INTO posts (author_id) VALUES (1)"


async def call(database: Database) -> tuple[Any, ...]:
    return (await database.execute(CALL))[0]


async def test_many_at_once_make_one_and_later_ones_find_it(database: Database) -> None:
    await database.execute(COPIED)
    found = await asyncio.gather(*(call(database) for _ in range(8)))
    assert sorted(fresh for _, fresh in found) == [False] * 7 + [True]
    assert len({n for n, _ in found}) == 1
    assert await call(database) == (found[0][0], False)


async def test_a_clean_restart_changes_nothing_and_a_crash_does(own_cluster: Cluster) -> None:
    database = Database(own_cluster, own_cluster.create_database(migrated=True))
    first, _ = await call(database)
    await database.execute(WRITE)
    await database.execute("SELECT realtime.turn('1 h', 1, NULL)")
    assert await database.value("SELECT count(*) FROM realtime.recorded") > 0
    own_cluster.restart()
    assert await call(database) == (first, False)
    own_cluster.kill9()
    own_cluster.start()
    second, fresh = await call(database)
    assert (second > first, fresh) == (True, True)
    assert await database.value("SELECT count(*) FROM realtime.recorded") == 0
    assert await database.value("SELECT recovery_end IS NOT NULL FROM realtime.incarnation WHERE n = %s", second)
    assert len(await events(database)) == 1  # the event log is the same database's: kept


async def test_a_promoted_standby_is_another_and_keeps_the_log(own_cluster: Cluster) -> None:
    database = Database(own_cluster, own_cluster.create_database(migrated=True))
    first, _ = await call(database)
    await database.execute(WRITE)
    standby = Cluster(base=own_cluster)
    try:
        standby.run("pg_ctl", "-D", str(standby.data), "-w", "promote")
        copy = Database(standby, database.name)
        second, fresh = await call(copy)
        assert (second > first, fresh) == (True, True)
        lines = await copy.execute("SELECT tli FROM realtime.incarnation ORDER BY n")
        assert lines[-1] > lines[-2]
        assert len(await events(copy)) == 1
    finally:
        standby.close()


async def test_a_lock_on_what_a_copy_empties_keeps_no_server_out_or_its_holder_is_named(database: Database) -> None:
    await database.execute(WRITE)
    await database.execute(COPIED)
    async with await database.connect() as holder:
        await rows_of(holder, "BEGIN; PREPARE of_events AS SELECT FROM realtime.events")
        async with await database.connect() as other:
            await rows_of(other, "BEGIN; PREPARE of_generations AS DELETE FROM realtime.generations")
            with pytest.raises(psycopg.errors.LockNotAvailable, match=f"session {other.info.backend_pid} "):
                await call(database)
        assert (await call(database))[1] is True
    assert await events(database) == []


async def test_a_copy_of_the_database_starts_with_an_empty_log(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY); SELECT realtime.watch('t')")
    await call(database)
    await database.execute("INSERT INTO t VALUES (1)")
    name = f"copy_of_{database.name}"
    async with await Database(database.cluster, "postgres").connect() as connection:
        await rows_of(connection, f"CREATE DATABASE {name} TEMPLATE {database.name}")
    try:
        copy = Database(database.cluster, name)
        assert (await call(copy))[1]
        assert await events(copy, ops="GI") == []
        seen = "SELECT bool_and(pg_visible_in_snapshot(xid, floor)) FROM realtime.generations, realtime.event_log_state"
        assert await copy.value(seen)  # or each position would be from before each watch
        await copy.execute("INSERT INTO t VALUES (2)")
        assert [e.new for e in await events(copy)] == [{"id": 2}]
        assert await copy.execute("SELECT * FROM realtime.check()") == []
    finally:
        database.cluster.drop_database(name)


@asynccontextmanager
async def restored(database: Database) -> AsyncIterator[Database]:
    """Another database, of a dump of this one."""
    cluster, name = database.cluster, f"restored_{database.name}"
    dump = str(cluster.dir / f"{name}.dump")
    cluster.run("pg_dump", "-Fc", "-f", dump, "-d", database.url)
    async with await Database(cluster, "postgres").connect() as connection:
        await rows_of(connection, f"CREATE DATABASE {name}")
    try:
        copy = Database(cluster, name)
        cluster.run("pg_restore", "-d", copy.url, dump)
        yield copy
    finally:
        cluster.drop_database(name)


async def test_a_dump_restored_elsewhere_keeps_its_watches(database: Database) -> None:
    """Object ids do not survive a dump: the watch is found by its triggers, and the foreign log is emptied."""
    await database.execute("CREATE TABLE t (id int PRIMARY KEY, a int); SELECT realtime.watch('t', '{a}')")
    await database.execute("INSERT INTO t VALUES (1, 1)")
    async with restored(database) as copy:
        assert (await call(copy))[1]
        assert await copy.execute("SELECT * FROM realtime.check()") == []
        names = "SELECT name, routes FROM realtime.generations WHERE NOT ended AND relid = name::regclass ORDER BY 1"
        assert await copy.execute(names) == [("notifications", ["user_id"]), ("posts", ["author_id"]), ("t", ["a"])]
        await copy.execute("INSERT INTO t VALUES (2, 7)")
        assert [(e.table, e.new_vals) for e in await events(copy)] == [("public.t", ["2", "7"])]


FORBID = """
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL here'; END $$;
CREATE EVENT TRIGGER forbid ON ddl_command_end EXECUTE FUNCTION forbid()"""


async def test_where_an_event_trigger_forbids_ddl_a_restored_database_works_and_the_check_says_what_mends_it(
    database: Database,
) -> None:
    """The text of capture functions names the oids of the database that they come from."""
    await database.execute("CREATE TABLE t (id int PRIMARY KEY, a int); SELECT realtime.watch('t', '{a}')")
    async with restored(database) as copy:
        await copy.execute(FORBID)
        assert (await call(copy))[1]
        await copy.execute("INSERT INTO t VALUES (1, 7)")
        ((_, _, where, problem, remedy),) = await copy.execute("SELECT * FROM realtime.check()")
        assert where == "check()"
        assert "no DDL here" in problem
        assert "event trigger forbid (function public.forbid()) forbids it" in problem
        await copy.execute(remedy)
        await copy.execute("INSERT INTO t VALUES (2, 7)")
        assert await copy.execute("SELECT * FROM realtime.check()") == []
        assert [(e.table, e.new_vals) for e in await events(copy)] == [
            ("public.t", ["1", "7"]),
            ("public.t", ["2", "7"]),
        ]
