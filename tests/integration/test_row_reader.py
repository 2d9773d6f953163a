"""Reading tables' rows: of the table that is watched, and without keeping the event log from being emptied."""

from typing import Any

import pytest

from app.model.change import Table
from app.model.channel import TableAddress
from app.model.errors import BadChannel
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
