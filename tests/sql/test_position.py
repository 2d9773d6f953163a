"""realtime.position(): exactly what the caller's snapshot sees, never more."""

import psycopg
import pytest

from app.model.position import Position, Snapshot
from harness.cluster import Cluster
from harness.database import Database, rows_of
from tests.sql.log import events
from tests.support.token import read

WRITE = "INSERT INTO posts (author_id) VALUES (1)"


async def minted(database: Database) -> Position:
    return Position.decode(await database.value("SELECT realtime.position()"))


async def test_the_token_is_the_one_that_the_server_reads(quiet_database: Database) -> None:
    database = quiet_database
    await database.execute("SELECT realtime.incarnate()")
    await database.execute(WRITE)
    n, tag = (
        await database.execute("SELECT n, left(uuid::text, 8) FROM realtime.incarnation ORDER BY n DESC LIMIT 1")
    )[0]
    low = await database.value("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    text = await database.value("SELECT realtime.position()")
    position = Position.decode(text)
    assert position.encode() == text
    assert (position.incarnation, position.tag, position.strict) == (n, tag, False)
    assert position.snapshot == Snapshot((await events(database))[-1].xid + 1)
    assert low <= position.lsn <= await database.value("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    assert read(text).xmax == position.snapshot.xmax


async def test_it_is_of_the_transaction_s_snapshot(database: Database) -> None:
    async with await database.connect() as slow, await database.connect() as page:
        await rows_of(slow, "BEGIN; " + WRITE)
        await database.execute(WRITE)
        await rows_of(page, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        seen = {x for (x,) in await rows_of(page, "SELECT xmin::text::bigint FROM posts")}
        await database.execute(WRITE)
        await rows_of(slow, "COMMIT")
        position = Position.decode((await rows_of(page, "SELECT realtime.position()"))[0][0])
    written = [e for e in await events(database) if e.op == "I"]
    assert [e.xid % 2**32 in seen for e in written] == [position.snapshot.sees(e.xid) for e in written]
    assert sorted(position.snapshot.sees(e.xid) for e in written) == [False, False, True]


async def test_the_caller_s_own_changes_are_outside(database: Database) -> None:
    async with await database.connect() as own:
        await rows_of(own, "BEGIN; " + WRITE)
        await database.execute(WRITE)
        position = Position.decode((await rows_of(own, "SELECT realtime.position()"))[0][0])
        await rows_of(own, "COMMIT")
    mine, other = [e.xid for e in await events(database)]
    assert (position.snapshot.sees(mine), position.snapshot.sees(other)) == (False, True)


async def test_it_stands_still_while_nothing_is_logged(quiet_database: Database) -> None:
    database = quiet_database
    await database.execute(WRITE)
    before = await minted(database)
    await database.execute("CREATE TABLE unwatched (id int); INSERT INTO unwatched VALUES (1)")
    async with await database.connect(autocommit=False) as idle:
        await rows_of(idle, "SELECT pg_current_xact_id()")
        assert (await minted(database)).snapshot == before.snapshot


async def test_rolled_back_events_are_in_no_position(quiet_database: Database) -> None:
    database = quiet_database
    await database.execute(WRITE)
    before = await minted(database)
    await database.execute(f"BEGIN; {WRITE}; ROLLBACK")
    assert (await minted(database)).snapshot == before.snapshot


async def test_many_open_writers_never_make_it_too_long_or_too_much() -> None:
    cluster = Cluster(max_connections="60", max_prepared_transactions="2500")
    try:
        database = Database(cluster, cluster.create_database(migrated=True))
        async with await database.connect() as connection:
            for i in range(2500):  # ids apart, so that each takes its place in the token
                await rows_of(connection, f"BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'p{i}'")
                if i % 2:
                    await rows_of(connection, "SELECT pg_current_xact_id()")
            await rows_of(connection, WRITE)
            text = (await rows_of(connection, "SELECT realtime.position()"))[0][0]
            now = Snapshot.parse((await rows_of(connection, "SELECT pg_current_snapshot()::text"))[0][0])
        position = Position.decode(text)
        assert 3800 < len(text) <= 4096
        assert now.contains(position.snapshot)
        assert len(position.snapshot.xip) > 1000
        assert position.snapshot.xmax in now.xip
        assert position.snapshot.xip == {x for x in now.xip if x < position.snapshot.xmax}
    finally:
        cluster.close()


async def test_on_a_standby_it_says_so(own_cluster: Cluster) -> None:
    database = Database(own_cluster, own_cluster.create_database(migrated=True))
    standby = Cluster(base=own_cluster)
    try:
        copy = Database(standby, database.name)
        for call in ("position", "incarnate"):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="standby"):
                await copy.execute(f"SELECT realtime.{call}()")
    finally:
        standby.close()


async def test_a_transaction_that_asked_for_it_and_stays_open_locks_nothing_of_the_event_log(
    database: Database,
) -> None:
    await database.execute(WRITE)
    async with await database.connect(autocommit=False) as idle:
        await rows_of(idle, "SELECT realtime.position()")
        held = "SELECT relation::regclass::text FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
        locked = {name for (name,) in await database.execute(held, idle.info.backend_pid)}
        assert not {name for name in locked if name.startswith("realtime.events")}
