"""Least privilege (adversarial 30): an application writes and asks for its position; it can do nothing else here."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from harness.database import Database, rows_of
from tests.sql.log import events, ops


@pytest.fixture
async def application(database: Database) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A role with rights on its own tables only, and a schema of its own."""
    role = f"app_{database.name}"
    await database.execute(
        f"""CREATE ROLE {role}; CREATE SCHEMA {role} AUTHORIZATION {role};
            GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE, TRIGGER ON posts TO {role}"""
    )
    async with await database.connect() as connection:
        await rows_of(connection, f"SET SESSION AUTHORIZATION {role}")
        yield connection
    await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_the_application_s_writes_are_captured(
    database: Database, application: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    await rows_of(
        application, "INSERT INTO posts (author_id) VALUES (1); UPDATE posts SET author_id = 2; TRUNCATE posts"
    )
    await rows_of(application, "SELECT realtime.position()")
    assert ops(await events(database)) == "IUT"


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT * FROM realtime.events", "SELECT * FROM realtime.events_0", "SELECT * FROM realtime.generations",
        "INSERT INTO realtime.events SELECT", "DELETE FROM realtime.events", "TRUNCATE realtime.events_0",
        "SELECT floor FROM realtime.event_log_state", "SELECT nextval('realtime.event_id')", "SELECT realtime.check()",
        "SELECT realtime.turn('1 h', 1, NULL)", "SELECT realtime.incarnate()", "SELECT realtime.unwatch('posts')",
        "SELECT realtime.watch('posts')", "SELECT realtime.announce(1)", "SELECT realtime.end_generation(1)",
        "SELECT realtime.begin_generation('posts'::regclass, '{}', 's', false, 1)", "SELECT realtime.{capture}_insert()",
        "CREATE TRIGGER t AFTER INSERT ON posts REFERENCING NEW TABLE AS w EXECUTE FUNCTION realtime.{capture}_insert()",
        "SELECT realtime.mark_source(NULL, 'i')", "CREATE TABLE realtime.x ()",
        "CREATE FUNCTION realtime.x() RETURNS int RETURN 1", "SELECT realtime.careful_json(ROW(1))",
        "SET ROLE realtime_nobody", "SET ROLE realtime_owner", "SET ROLE realtime_reader",
    ],
)  # fmt: skip
async def test_and_nothing_else(
    database: Database, application: psycopg.AsyncConnection[tuple[object, ...]], attempt: str
) -> None:
    capture = await database.value("SELECT capture FROM realtime.generations WHERE name = 'posts' AND NOT ended")
    attempt = attempt.replace("{capture}", capture)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await rows_of(application, attempt)


async def test_the_application_s_own_functions_and_tables_do_not_reach_capture(
    database: Database, application: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    """Names that capture uses, planted where a careless search_path would find them, are never called."""
    schema = f"app_{database.name}"
    await rows_of(
        application,
        f"""CREATE FUNCTION {schema}.row_to_json(record) RETURNS json LANGUAGE plpgsql
              AS 'BEGIN RAISE ''called''; END';
            CREATE FUNCTION {schema}.pg_try_advisory_xact_lock_shared(int, int) RETURNS bool LANGUAGE plpgsql
              AS 'BEGIN RAISE ''called''; END';
            CREATE TEMP TABLE new_rows (id int); CREATE TEMP TABLE event_log_state (slot int);
            CREATE TEMP TABLE events (id int);
            SET search_path = pg_temp, {schema}, public, pg_catalog; INSERT INTO public.posts (author_id) VALUES (1)""",
    )
    assert ops(await events(database)) == "I"


async def test_the_server_s_role_has_what_the_server_needs_and_no_more(database: Database) -> None:
    async with await database.connect() as connection:
        await rows_of(connection, "SET ROLE realtime_reader")
        for table in ("events", "event_log_state", "generations", "incarnation", "alive", "meta"):
            await rows_of(connection, f"SELECT * FROM realtime.{table}")
        await rows_of(
            connection,
            "SELECT realtime.check(); SELECT realtime.incarnate(); SELECT realtime.turn('1 h', 1000000, NULL)",
        )
        for attempt in (
            "DELETE FROM realtime.events",
            "UPDATE realtime.event_log_state SET floor = floor",
            "SELECT * FROM posts",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await rows_of(connection, attempt)


async def test_a_table_s_owner_in_the_group_may_watch_it_and_nobody_else_s(database: Database) -> None:
    role = f"dba_{database.name}"
    await database.execute(f"CREATE ROLE {role} IN ROLE realtime_owner; CREATE SCHEMA {role} AUTHORIZATION {role}")
    try:
        async with await database.connect() as connection:
            await rows_of(connection, f"SET ROLE {role}; CREATE TABLE {role}.t (id int PRIMARY KEY)")
            await rows_of(connection, f"SELECT realtime.watch('{role}.t'); INSERT INTO {role}.t VALUES (1)")
            assert ops(await events(database)) == "I"
            assert await rows_of(connection, f"SELECT realtime.unwatch('{role}.t') IS NOT NULL") == [(True,)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await rows_of(connection, "SELECT realtime.watch('posts')")
    finally:
        await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
