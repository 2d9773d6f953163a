"""watch and unwatch: idempotent, exact in what they take on the air, and clear where they refuse."""

import psycopg
import pytest

from harness.database import Database, rows_of
from tests.sql.log import events, ops, top

FOREIGN = """
CREATE FOREIGN DATA WRAPPER f; CREATE SERVER s FOREIGN DATA WRAPPER f; CREATE FOREIGN TABLE v (id int) SERVER s"""


async def test_watching_again_changes_nothing(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int)")
    gen = await database.value("SELECT realtime.watch('t', '{a,a,id,\"b,a\"}')")
    since = await top(database)
    made = "SELECT array_agg(oid ORDER BY oid) FROM pg_trigger WHERE tgrelid = 't'::regclass"
    triggers = await database.value(made)
    assert await database.value("SELECT realtime.watch('t', routes => '{a,\"b,a\"}')") == gen
    assert await database.value(made) == triggers
    assert await events(database, since, ops="G") == []
    assert await database.value("SELECT routes FROM realtime.generations WHERE gen = %s", gen) == ["a", "b,a"]


async def test_new_routes_make_a_generation_and_end_the_old(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int)")
    old = await database.value("SELECT realtime.watch('t', '{a}')")
    await database.execute("INSERT INTO t VALUES (1, 2, 3)")
    new = await database.value("SELECT realtime.watch('t', '{b}')")
    await database.execute("INSERT INTO t VALUES (2, 2, 3)")
    assert [(e.op, e.gen, e.new_vals) for e in await events(database, ops="GI") if e.gen >= old] == [
        ("G", old, None), ("I", old, ["1", "2"]), ("G", new, None), ("I", new, ["2", "3"]),
    ]  # fmt: skip
    assert await database.execute("SELECT gen, ended FROM realtime.generations WHERE name = 't' ORDER BY gen") == [
        (old, True), (new, False),
    ]  # fmt: skip


async def test_every_earlier_writer_has_ended_when_a_watch_begins(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with await database.connect(autocommit=False) as writer:
        await rows_of(writer, "INSERT INTO t VALUES (1)")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await database.execute("SET lock_timeout = '50ms'; SELECT realtime.watch('t')")


async def test_unwatch_leaves_nothing_on_the_table(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    gen = await database.value("SELECT realtime.watch('t')")
    assert await database.value("SELECT realtime.unwatch('t')") == gen
    assert await database.value("SELECT realtime.unwatch('t')") is None
    await database.execute("INSERT INTO t VALUES (1)")
    assert ops([e for e in await events(database, ops="GI") if e.gen == gen]) == "GG"
    assert await database.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass") == 0
    assert (
        await database.value(
            "SELECT count(*) FROM pg_proc p JOIN realtime.generations ON starts_with(proname, capture) WHERE gen = %s",
            gen,
        )
        == 0
    )
    assert await database.value("SELECT realtime.watch('t')") > gen


@pytest.mark.parametrize(
    ("ddl", "watched", "message"),
    [
        ("CREATE VIEW v AS SELECT 1 AS id", "v", "it is a view"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1 AS id", "v", "materialized view"),
        ("CREATE TEMP TABLE v (id int)", "v", "temporary"),
        ("CREATE UNLOGGED TABLE v (id int)", "v", "unlogged"),
        ("CREATE SEQUENCE v", "v", "not a table"),
        ("CREATE TABLE v (id int); CREATE TABLE w () INHERITS (v)", "v", "inherit"),
        ("SELECT", "pg_class", "system table"),
        ("SELECT", "information_schema.sql_features", "system table"),
        ("SELECT", "realtime.generations", "one of realtime's own"),
        ("SET default_transaction_isolation = 'repeatable read'", "posts", "READ COMMITTED"),
        (
            FOREIGN,
            "v",
            "foreign",
        ),
    ],
)
async def test_what_cannot_be_watched_is_refused(database: Database, ddl: str, watched: str, message: str) -> None:
    async with await database.connect() as connection:
        await rows_of(connection, ddl)
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
            await rows_of(connection, "SELECT realtime.watch(%s::regclass)", watched)


@pytest.mark.parametrize(
    ("routes", "error", "message"),
    [
        (["nope"], psycopg.errors.UndefinedColumn, 'no column "nope"'),
        (["a", "a,nope"], psycopg.errors.UndefinedColumn, 'no column "nope"'),
        (["j"], psycopg.errors.InvalidParameterValue, "type json "),
        (["jb"], psycopg.errors.InvalidParameterValue, "type jsonb "),
        (["ar"], psycopg.errors.InvalidParameterValue, r"type integer\[\] "),
        (["co"], psycopg.errors.InvalidParameterValue, "type public.pair "),
        (["a,a"], psycopg.errors.InvalidParameterValue, "names a column twice"),
        ([None], psycopg.errors.InvalidParameterValue, "not a column name"),
        (["tableoid"], psycopg.errors.UndefinedColumn, "tableoid"),
    ],
)
async def test_what_is_no_route_is_refused_and_nothing_changes(
    database: Database, routes: list[str | None], error: type[Exception], message: str
) -> None:
    await database.execute(
        "CREATE TYPE pair AS (a int); CREATE TABLE t (id int, a int, j json, jb jsonb, ar int[], co pair)"
    )
    since = await top(database)
    with pytest.raises(error, match=message):
        await database.execute("SELECT realtime.watch('t', %s::text[])", routes)
    assert await events(database, since, ops="G") == []
    assert await database.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass") == 0


async def test_a_table_that_does_not_exist_is_refused(database: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.execute("SELECT realtime.watch('nowhere')")


AUDIT = """CREATE TABLE ddl_log (tag text); CREATE TABLE t (id int PRIMARY KEY);
CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ddl_log VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION audit()"""


async def test_an_audit_of_ddl_that_may_not_write_is_named_with_what_mends_it(database: Database) -> None:
    await database.execute("CREATE TABLE before (id int PRIMARY KEY); SELECT realtime.watch('before')")
    await database.execute(AUDIT)
    for call in ("SELECT realtime.watch('t')", "SELECT realtime.unwatch('before')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="ddl_log") as refused:
            await database.execute(call)
        assert "audit (function public.audit)" in str(refused.value.diag.message_detail)
        assert "SECURITY DEFINER" in str(refused.value.diag.message_hint)
    await database.execute("ALTER FUNCTION audit() SECURITY DEFINER SET search_path = pg_catalog")
    await database.execute("SELECT realtime.watch('t'); SELECT realtime.unwatch('before')")
    since = await top(database)
    await database.execute("INSERT INTO t VALUES (1)")
    assert ops(await events(database, since)) == "I"


async def test_the_gate_decides_whether_a_write_notifies(database: Database) -> None:
    """A reader that holds or awaits the lock is woken; where nobody does, NOTIFY is spared (capture.md 3)."""
    async with await database.connect() as reader, await database.connect() as listener:
        await rows_of(listener, "LISTEN realtime")
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await rows_of(reader, "SELECT pg_advisory_lock(1919247220, 1)")
        for write in (
            "INSERT INTO posts (author_id) VALUES (2)",
            "UPDATE posts SET title = 'x'",
            "DELETE FROM posts",
            "TRUNCATE posts",
        ):
            await database.execute("UPDATE posts SET title = title; DELETE FROM posts WHERE false")  # nothing to tell
            await database.execute(write)
        woken = [n.payload async for n in listener.notifies(timeout=5, stop_after=4)]
        await rows_of(reader, "SELECT pg_advisory_unlock(1919247220, 1)")
        await database.execute("INSERT INTO posts (author_id) VALUES (3); NOTIFY realtime, 'end'")
        woken += [n.payload async for n in listener.notifies(timeout=5, stop_after=1)]
    assert woken == ["", "", "", "", "end"]
