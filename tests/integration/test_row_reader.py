"""Reading tables' rows: of the table that is watched, and without keeping the event log from being emptied."""

from typing import Any

import pytest

from app.model.change import Table
from app.model.channel import TableAddress
from app.model.errors import BadChannel, DatabaseAway
from app.postgres import row_reader
from app.postgres.connect import Connection
from app.postgres.event_log import PostgresEventLog
from harness.database import Database

LOCKED = "SELECT relation::regclass::text FROM pg_locks WHERE pid = %s AND locktype = 'relation'"


async def posts(log: PostgresEventLog) -> tuple[Table, TableAddress]:
    table = await log.catalog.current("public", "posts")
    assert table is not None
    return table, TableAddress("public", "posts")


async def test_while_rows_are_read_the_event_log_is_not_locked_and_the_table_is(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    await log.head()
    locked: set[str] = set()
    read = row_reader._rows

    async def read_and_look(connection: Connection, *rest: Any) -> list[bytes]:
        locked.update(name for (name,) in await database.execute(LOCKED, connection.info.backend_pid))
        return await read(connection, *rest)

    monkeypatch.setattr(row_reader, "_rows", read_and_look)
    assert len((await log.rows([await posts(log)])).channels["posts"]) == 1
    assert "posts" in {name.rpartition(".")[2] for name in locked}
    assert not {name for name in locked if name.startswith("realtime.events")}


@pytest.mark.parametrize(
    "kind", ["VIEW posts AS SELECT * FROM secrets", "TABLE posts (LIKE secrets)", "TABLE posts () INHERITS (secrets)"]
)
async def test_what_was_put_in_the_tables_place_is_never_read(
    database: Database, log: PostgresEventLog, kind: str
) -> None:
    await log.head()
    wanted = await posts(log)
    await database.execute(
        "CREATE TABLE secrets (id int, title text); INSERT INTO secrets VALUES (1, 'secret');"
        f" ALTER TABLE posts RENAME TO posts_before; CREATE {kind}"
    )
    with pytest.raises(BadChannel, match="the table is not as it was"):
        await log.rows([wanted])


async def test_a_schema_that_is_renamed_beneath_the_lock_brings_no_view_in_the_tables_place(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.execute(
        "CREATE TABLE secrets (id int, title text); INSERT INTO secrets VALUES (1, 'secret');"
        "CREATE SCHEMA mine; CREATE TABLE mine.t (id int PRIMARY KEY); SELECT realtime.watch('mine.t')"
    )
    await log.head()
    table = await log.catalog.current("mine", "t")
    assert table is not None
    read = row_reader._rows

    async def rename_and_read(*parameters: Any) -> list[bytes]:
        await database.execute(
            "ALTER SCHEMA mine RENAME TO before; CREATE SCHEMA mine;"
            "CREATE VIEW mine.t WITH (security_invoker) AS SELECT * FROM secrets"
        )
        return await read(*parameters)

    monkeypatch.setattr(row_reader, "_rows", rename_and_read)
    with pytest.raises(DatabaseAway, match="restricted"):
        await log.rows([(table, TableAddress("mine", "t"))])


CAST = """
CREATE ROLE {role}; GRANT CREATE ON DATABASE {database} TO {role}; SET SESSION AUTHORIZATION {role};
CREATE SCHEMA mine; GRANT USAGE ON SCHEMA mine TO PUBLIC; CREATE TYPE mine.mood AS ENUM ('ok');
CREATE FUNCTION mine.told(m mine.mood) RETURNS json LANGUAGE plpgsql AS $f$ BEGIN
  PERFORM set_config('search_path', 'mine, pg_catalog', false);
  EXECUTE 'DEALLOCATE ALL'; RETURN to_json(current_user); END $f$;
CREATE FUNCTION mine.has_table_privilege(oid, text) RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN
  RAISE 'planted, and called as %', current_user; END $f$;
CREATE CAST (mine.mood AS json) WITH FUNCTION mine.told(mine.mood);
CREATE TABLE mine.t (m mine.mood); INSERT INTO mine.t VALUES ('ok');
CREATE TABLE mine.u (m mine.mood); INSERT INTO mine.u VALUES ('ok');
RESET SESSION AUTHORIZATION; SELECT realtime.watch('mine.t'), realtime.watch('mine.u')"""


async def test_what_a_cast_leaves_in_the_session_is_not_there_for_the_next_table(
    database: Database, log: PostgresEventLog
) -> None:
    role = f"owner_of_{database.name}"
    await database.execute(CAST.format(role=role, database=database.name))
    try:
        await log.head()
        wanted = [(await log.catalog.current("mine", name), TableAddress("mine", name)) for name in ("t", "u")]
        rows = await log.rows([(table, address) for table, address in wanted if table is not None])
        assert list(rows.channels.values()) == [[b'{"m":"realtime_nobody"}']] * 2
    finally:
        await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
