"""Reading what is new: every committed change exactly once, in an order that is right for every row."""

import asyncio

import pytest

from app.model.change import Batch
from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.observations import DatabaseBack, DatabaseLost, Observation
from app.model.position import Snapshot
from app.postgres.event_log import PostgresEventLog
from harness.cluster import Cluster, migrate
from harness.database import Database
from harness.facts import eventually
from harness.facts import turn as pass_turn
from tests.integration import story
from tests.sql.test_turn import turn


async def read(log: PostgresEventLog, since: Snapshot) -> Batch:
    batch = await log.difference(since)
    assert batch is not None
    return batch


async def nothing(log: PostgresEventLog, since: Snapshot) -> bool:
    batch = await log.difference(since)
    return batch is None or batch.transactions == []


async def start(log: PostgresEventLog) -> Snapshot:
    return (await log.head()).position


async def looked_at(database: Database, log: PostgresEventLog) -> int:
    """How many rows of the event log have been looked at, visible or not. A session that ends has told."""
    await log.close()
    await eventually(lambda: gone(database), 20, "the sessions have ended")
    return int(
        await database.value(
            "SELECT sum(n) FROM ("
            " SELECT idx_tup_read FROM pg_stat_all_indexes WHERE schemaname = 'realtime' AND relname ~ '^events'"
            " UNION ALL"
            " SELECT seq_tup_read FROM pg_stat_all_tables WHERE schemaname = 'realtime' AND relname ~ '^events') s(n)"
        )
    )


async def gone(database: Database) -> bool:
    return not await database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sobranie%'"
    )


async def kill_sessions(database: Database) -> None:
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'sobranie%'"
    )


async def test_a_slow_transaction_with_a_lower_id_arrives_once_after_the_faster_one(
    database: Database, log: PostgresEventLog
) -> None:
    position = await start(log)
    async with await database.connect(autocommit=False) as slow:
        await slow.execute("INSERT INTO posts (author_id, title) VALUES (1, 'slow')")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'fast')")
        first = await read(log, position)
        assert await nothing(log, first.upto)
        await slow.commit()
    second = await read(log, first.upto)
    assert [b.transactions and len(b.transactions) for b in (first, second)] == [1, 1]
    assert first.transactions is not None
    assert second.transactions is not None
    assert first.transactions[0].xid > second.transactions[0].xid
    assert await nothing(log, second.upto)


async def test_random_interleaved_transactions_are_read_exactly_once_in_an_order_that_fits_every_row(
    database: Database, log: PostgresEventLog
) -> None:
    position = await start(log)
    await story.begin(database)
    tasks = [asyncio.create_task(story.writer(database, seed, 25)) for seed in range(12)]
    readings = await story.follow(log, position, tasks)
    await asyncio.gather(*tasks)
    changes = [c for r in readings for t in r.transactions for c in t.changes]
    seen = [(c.number, c.n) for c in changes if not c.half]
    assert len(seen) == len(set(seen))
    assert set(seen) == await story.logged(database)
    state = story.apply(c for c in changes if c.table.name == "other")
    assert state == await story.truth(database, "other")
    # The rows of `story` were there before it was watched.
    before = {("story", str(i)): {"id": i, "owner": 0, "value": 0} for i in range(1, 11)}
    assert story.apply([c for c in changes if c.table.name == "story"], before) == await story.truth(database, "story")


async def test_order_follows_the_row_lock_where_transaction_ids_run_the_other_way(
    database: Database, log: PostgresEventLog
) -> None:
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, '0')")
    position = await start(log)
    async with await database.connect(autocommit=False) as early, await database.connect(autocommit=False) as late:
        await early.execute("SELECT pg_current_xact_id()")
        await late.execute("UPDATE posts SET title = '1'")
        await late.commit()
        await early.execute("UPDATE posts SET title = '2'")
        await early.commit()
    batch = await read(log, position)
    assert batch.transactions is not None
    assert [t.xid for t in batch.transactions] == sorted((t.xid for t in batch.transactions), reverse=True)
    assert [b'"title":"1"' in (t.changes[0].new or b"") for t in batch.transactions] == [True, False]


async def test_rolled_back_savepoints_and_exceptions_leave_nothing(database: Database, log: PostgresEventLog) -> None:
    position = await start(log)
    await database.execute(
        """DO $$ BEGIN
             FOR i IN 1..100 LOOP
               BEGIN
                 INSERT INTO posts (author_id, title) VALUES (i, 'x');
                 IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
               EXCEPTION WHEN raise_exception THEN NULL;
               END;
             END LOOP;
           END $$"""
    )
    batch = await read(log, position)
    assert batch.transactions is not None
    (transaction,) = batch.transactions
    assert [c.new_values and c.new_values[1] for c in transaction.changes] == [str(i) for i in range(1, 101, 2)]


async def test_a_large_open_transaction_costs_the_other_reads_nothing(
    database: Database, log: PostgresEventLog
) -> None:
    position = await start(log)
    async with await database.connect(autocommit=False) as bulk:
        await bulk.execute("INSERT INTO posts (author_id) SELECT g FROM generate_series(1, 100000) g")
        before = await looked_at(database, log)
        for _ in range(50):
            await database.execute("INSERT INTO posts (author_id) VALUES (0)")
            batch = await read(log, position)
            assert batch.transactions is not None
            assert len(batch.transactions) == 1
            position = batch.upto
        assert await looked_at(database, log) - before < 1000, "no read goes through the rows of the open transaction"
        await bulk.rollback()
    assert await nothing(log, position)


async def test_what_is_too_much_to_hold_is_announced_without_its_changes(
    database: Database, log: PostgresEventLog
) -> None:
    position = await start(log)
    async with await database.connect(autocommit=False) as bulk:
        await bulk.execute("INSERT INTO posts (author_id) SELECT g FROM generate_series(1, 30000) g")
        await bulk.execute("CREATE TABLE fresh (id int PRIMARY KEY)")
        await bulk.execute("SELECT realtime.watch('fresh')")
        await bulk.commit()
    batch = await read(log, position)
    assert batch.transactions is None
    assert [table.name for table in batch.schema] == ["fresh"]
    relids = await database.value("SELECT array_agg(oid::bigint) FROM pg_class WHERE relname IN ('posts', 'fresh')")
    assert batch.touched == frozenset(relids)
    assert batch.upto.xmax == batch.highest + 1
    assert len(story.ids(await story.replayed(log, position, batch.upto))) == 30000
    assert await nothing(log, batch.upto)


async def test_few_rows_of_many_bytes_are_too_much_as_well(database: Database, log: PostgresEventLog) -> None:
    position = await start(log)
    await database.execute(
        "INSERT INTO posts (author_id, body) SELECT g, (SELECT string_agg(md5(random()::text || g || i), '')"
        " FROM generate_series(1, 32768) i) FROM generate_series(1, 20) g"
    )
    batch = await read(log, position)
    assert batch.transactions is None
    portions = [p async for p in story.replay(log, position, batch.upto)]
    assert [len(p.transactions[0].changes) for p in portions if p.transactions] == [1] * 20
    assert portions[-1].upto == batch.upto


async def test_nothing_is_handed_on_before_it_is_durable(own_cluster: Cluster, observed: list[Observation]) -> None:
    own_cluster.settings["wal_writer_delay"] = "10s"
    own_cluster.settings["synchronous_commit"] = "off"
    own_cluster.restart()
    own_cluster._ddl("CREATE DATABASE durable")
    database = Database(own_cluster, "durable")
    migrate(database.url)
    log = PostgresEventLog(database.url, observed.append)
    position = await start(log)
    for _ in range(20):
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        batch = await read(log, position)
        position = batch.upto
        assert batch.lsn <= int(await database.value("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint"))
    own_cluster.kill9()
    own_cluster.start()
    assert await database.value("SELECT count(*) FROM posts") == 20
    await log.close()


async def test_reading_goes_on_where_its_connection_was_killed(
    database: Database, log: PostgresEventLog, observed: list[Observation]
) -> None:
    position = await start(log)
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    position = (await read(log, position)).upto
    async with await database.connect(autocommit=False) as slow:
        await slow.execute("INSERT INTO posts (author_id) VALUES (2)")
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sobranie%'"
        )
        await database.execute("INSERT INTO posts (author_id) VALUES (3)")
        with pytest.raises(DatabaseAway):
            await log.difference(position)
        batch = await read(log, position)
        await slow.commit()
    later = await read(log, batch.upto)
    found = [t.changes[0].new_values for b in (batch, later) for t in b.transactions or ()]
    assert [values and values[1] for values in found] == ["3", "2"]
    assert [type(o) for o in observed] == [DatabaseLost, DatabaseBack]


async def test_a_read_that_is_given_up_is_no_lost_database(
    database: Database, log: PostgresEventLog, observed: list[Observation]
) -> None:
    """What /readyz says of the database and what the metrics say are one fact."""
    position = await start(log)
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    async with await database.connect(autocommit=False) as other:
        await other.execute("LOCK TABLE realtime.events IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(log.difference(position))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'realtime.events'::regclass"
        await eventually(lambda: database.value(waits), 10, "the read waits")
        reading.cancel()
        await asyncio.wait([reading])
        assert log.connected
    assert len((await read(log, position)).transactions or ()) == 1
    assert not [o for o in observed if isinstance(o, DatabaseLost | DatabaseBack)]


async def test_a_position_before_the_floor_is_expired_and_one_at_the_floor_is_good(
    database: Database, log: PostgresEventLog
) -> None:
    position = await start(log)
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    batch = await read(log, position)
    await database.execute("UPDATE realtime.event_log_state SET floor = %s::pg_snapshot", str(batch.upto))
    await database.execute("TRUNCATE realtime.events")
    with pytest.raises(PositionRefused) as caught:
        await log.difference(position)
    assert caught.value.reason is ResetReason.EXPIRED
    assert await nothing(log, batch.upto)
    assert await nothing(log, await start(log))


async def test_newlines_of_a_json_column_are_blanked(database: Database, log: PostgresEventLog) -> None:
    await database.execute("CREATE TABLE documents (id int PRIMARY KEY, body json); SELECT realtime.watch('documents')")
    position = await start(log)
    await database.execute('INSERT INTO documents VALUES (1, E\'{\\n\\r\\n"a": "line\\\\nline"}\')')
    batch = await read(log, position)
    assert batch.transactions is not None
    row = batch.transactions[0].changes[0].new
    assert row is not None
    assert b"\n" not in row
    assert b"\r" not in row
    assert b"line\\nline" in row


async def test_a_server_at_rest_is_not_behind_a_purge_for_a_transaction_that_wrote_nothing(
    database: Database, log: PostgresEventLog
) -> None:
    """Another server looked later, and saw that it had ended: the floor becomes where that one is."""
    position = await start(log)
    async with await database.connect(autocommit=False) as silent:
        await silent.execute("SELECT pg_current_xact_id()")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'goes')")
        position = (await read(log, position)).upto
    other = await start(log)
    assert not position.contains(other)
    moved = await read(log, position)
    assert moved.transactions == []
    assert moved.upto.contains(other)
    assert await nothing(log, moved.upto)
    await database.execute("SELECT realtime.purge()")
    assert [await turn(database, published=str(other)) for _ in range(2)] == ["switched", "emptied"]
    assert await nothing(log, moved.upto)


async def test_a_read_that_is_no_longer_wanted_is_no_loss_of_the_database(
    database: Database, log: PostgresEventLog
) -> None:
    position = await start(log)
    reading = asyncio.create_task(log.difference(position))
    while not reading.done():
        await pass_turn()
        reading.cancel()
    assert reading.cancelled()
    assert log.connected
    assert await nothing(log, position)
    assert log.connected


COMPRESSED = """
INSERT INTO posts (author_id, body) SELECT 1, string_agg(repeat(md5(concat(r, ' ', i)), 8), '')
FROM generate_series(1, 20) r, generate_series(1, 3000) i GROUP BY r"""


async def test_a_transaction_that_is_large_when_it_is_unpacked_is_too_large_to_hold(
    database: Database, log: PostgresEventLog
) -> None:
    since = await start(log)
    await database.execute(COMPRESSED)
    stored = "SELECT sum(pg_column_size(new)) < 6 << 20, sum(length(new::text)) > 14 << 20 FROM realtime.events"
    assert await database.execute(stored) == [(True, True)]
    assert (await read(log, since)).transactions is None
    upto = (await log.head()).position
    (found,) = [stretch async for stretch in log.stretches(since, upto)]
    assert found.large is not None
    assert await found.large.count() > 5
