"""What an application's own role may not do, and that it can write all the same (adversarial 30)."""

from dataclasses import replace

import psycopg
import pytest

from harness.database import Database
from harness.server import Server
from tests.support.transport import Transport, verdict

APPLICATION = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'application') THEN CREATE ROLE application LOGIN; END IF;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON posts TO application;
GRANT CREATE ON SCHEMA public TO application"""


@pytest.fixture
async def application(database: Database) -> Database:
    """The database as a role of the application's own, which may write to `posts`, sees it."""
    await database.execute(APPLICATION)
    return replace(database, user="application")


async def test_an_application_role_writes_and_is_streamed(
    application: Database, database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts") as client:
        await application.execute("INSERT INTO posts (author_id, title) VALUES (1, 'a')")
        await application.execute("UPDATE posts SET title = 'b'; DELETE FROM posts")
        await client.changes(3)
        await verdict(database, client)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM realtime.events",
        "SELECT * FROM realtime.events_0",
        "INSERT INTO realtime.events DEFAULT VALUES",
        "DELETE FROM realtime.events_0",
        "SELECT * FROM realtime.generations",
        "UPDATE realtime.event_log_state SET floor = floor",
        "SELECT nextval('realtime.event_id')",
        "SELECT realtime.turn('1h', 1, pg_current_snapshot())",
        "SELECT realtime.incarnate()",
        "SELECT * FROM realtime.check()",
        "SELECT realtime.unwatch('posts')",
        "SELECT realtime.watch('posts')",
        "CREATE TABLE realtime.mine ()",
        "SET ROLE realtime_owner",
    ],
)
async def test_an_application_role_may_not(application: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await application.execute(statement)


async def test_an_application_role_cannot_attach_a_capture_function_to_a_table_of_its_own(
    application: Database, database: Database
) -> None:
    """With it, it could write rows of its choice into the event log for another table."""
    functions = await database.execute("""
        SELECT p.oid::regproc::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
         WHERE nspname = 'realtime' AND prorettype = 'trigger'::regtype""")
    assert functions
    for (function,) in functions:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await application.execute(
                f"CREATE TABLE mine (author_id int); CREATE TRIGGER t AFTER INSERT ON mine "
                f"FOR EACH ROW EXECUTE FUNCTION {function}()"
            )


async def test_an_application_role_may_ask_for_its_position(application: Database) -> None:
    position = await application.value("SELECT realtime.position()")
    assert position.startswith("a")
