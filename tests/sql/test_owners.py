"""What the owner of a type or of a schema makes leaves nothing behind where others' rights are (adversarial 17)."""

from collections.abc import AsyncIterator

import pytest

from harness.database import Database, rows_of
from tests.sql.log import events

MINE = """
CREATE ROLE {role} LOGIN; GRANT CREATE, TEMP ON DATABASE {database} TO {role}; SET SESSION AUTHORIZATION {role};
CREATE SCHEMA mine; GRANT USAGE ON SCHEMA mine TO PUBLIC;
CREATE TYPE mine.mood AS ENUM ('ok');
CREATE FUNCTION mine.pg_try_advisory_xact_lock_shared(int, int) RETURNS bool LANGUAGE plpgsql
  AS $f$ BEGIN RAISE 'planted, and called as %', current_user; END $f$;
CREATE FUNCTION mine.told(m mine.mood) RETURNS json LANGUAGE plpgsql AS $f$ BEGIN
  PERFORM set_config('search_path', 'mine, pg_catalog', false), set_config('TimeZone', 'Asia/Tokyo', false);
  CREATE TEMP TABLE IF NOT EXISTS planted (id int); EXECUTE 'DEALLOCATE ALL'; RETURN to_json(current_user); END $f$;
CREATE CAST (mine.mood AS json) WITH FUNCTION mine.told(mine.mood);
CREATE TABLE mine.t (id int PRIMARY KEY, m mine.mood); CREATE TABLE mine.u (id int PRIMARY KEY, m mine.mood);
RESET SESSION AUTHORIZATION; SELECT realtime.watch('mine.t'), realtime.watch('mine.u')"""


@pytest.fixture
async def owned(database: Database) -> AsyncIterator[Database]:
    role = f"owner_of_{database.name}"
    await database.execute(MINE.format(role=role, database=database.name))
    yield database
    await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_a_cast_that_sets_the_search_path_has_no_effect_on_capture(owned: Database) -> None:
    async with await owned.connect() as writer:
        before = await rows_of(writer, "SELECT current_setting('search_path'), current_setting('TimeZone')")
        await rows_of(writer, "INSERT INTO mine.t VALUES (1, 'ok')")
        assert await rows_of(writer, "SELECT current_setting('search_path'), current_setting('TimeZone')") == before
        assert await rows_of(writer, "SELECT to_regclass('pg_temp.planted')") == [(None,)]
    (event,) = [e for e in await events(owned) if e.table == "mine.t" and e.op == "I"]
    assert event.new == {"id": 1, "m": "realtime_nobody"}


async def test_watching_a_table_with_row_security_says_that_its_changes_go_to_all(database: Database) -> None:
    told: list[str] = []
    await database.execute("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    async with await database.connect() as connection:
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        for _ in range(2):
            await rows_of(connection, "SELECT realtime.watch('t')")
    assert len(told) == 1
    assert "row security" in told[0]
