"""A purge: rows that were written before the request leave the event log, whatever their age. Nothing else does."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from app.model.position import Snapshot
from harness.cluster import Cluster, migrate
from harness.database import Database, rows_of
from harness.facts import eventually
from tests.sql.log import events
from tests.sql.test_turn import HOUR, floor, snapshot, turn

SECRET = "INSERT INTO posts (author_id, title) VALUES (1, 'secret')"
SLOT = "SELECT setval('realtime.current_slot', %s)"
OTHER = "INSERT INTO posts (author_id, title) VALUES (1, 'other')"
EMPTY = "CALL realtime.finish_purges()"


async def titles(database: Database) -> set[str]:
    return {(e.new or e.old or {})["title"] for e in await events(database)}


async def is_done(database: Database, n: int) -> bool:
    return bool(await database.value("SELECT done IS NOT NULL FROM realtime.purges WHERE n = %s", n))


async def purge(database: Database) -> int:
    return int(await database.value("SELECT realtime.purge()"))


async def turns(database: Database, times: int = 6, published: str | None = "now") -> list[str | None]:
    return [await turn(database, published=published) for _ in range(times)]


async def test_what_was_written_before_goes_at_once_and_what_comes_later_stays(database: Database) -> None:
    for _ in range(2):  # rows in two partitions, and the newest in a third
        await database.execute(SECRET)
        assert await turn(database, size=4) == "switched"
    before = Snapshot.parse(await snapshot(database))
    await database.execute(SECRET)
    n = await purge(database)
    assert await turn(database) == "switched"
    await database.execute(OTHER)
    assert (await turns(database, 4)) == ["emptied"] * 3 + [None]
    assert await titles(database) == {"other"}
    assert await is_done(database, n)
    assert not before.contains(await floor(database))
    assert Snapshot.parse(await snapshot(database)).contains(await floor(database))
    assert await turns(database) == [None] * 6  # nothing more to do: the rest has its time


async def test_an_empty_log_is_purged_by_one_look(database: Database) -> None:
    await database.execute("TRUNCATE realtime.events")
    n = await purge(database)
    assert await turn(database) is None
    assert await is_done(database, n)


async def test_the_request_s_own_transaction_is_among_what_goes(database: Database) -> None:
    await database.execute(SECRET)
    async with await database.connect(autocommit=False) as writer:
        await rows_of(writer, "DELETE FROM posts")
        (n,) = (await rows_of(writer, "SELECT realtime.purge()"))[0]
        await rows_of(writer, SECRET)
        await turns(database)
        assert await titles(database) == {"secret"}  # it has not asked yet
        await writer.commit()
    assert await turns(database) == ["switched", "emptied", None, None, None, None]
    assert (await events(database), await is_done(database, n)) == ([], True)


async def test_nothing_goes_before_it_is_published_and_the_floor_is_what_was(database: Database) -> None:
    early = await snapshot(database)
    await database.execute(SECRET)
    n = await purge(database)
    assert (await turns(database, 3, early)) == ["switched", None, None]
    assert (await turns(database, 3, None)) == [None] * 3
    seen = await snapshot(database)
    await database.execute(OTHER)
    assert await turn(database, published=seen) == "emptied"
    assert Snapshot.parse(seen).contains(await floor(database))
    assert (await titles(database), await is_done(database, n)) == ({"other"}, True)


async def test_a_writer_in_the_midst_is_waited_for_and_nobody_waits_for_the_purge(database: Database) -> None:
    async with await database.connect() as writer:
        await rows_of(writer, f"BEGIN; {SECRET}")
        n = await purge(database)
        assert (await turns(database, 3))[0] == "switched"
        await database.execute(f"SET statement_timeout = '2s'; {OTHER}; SELECT count(*) FROM realtime.events")
        assert not await is_done(database, n)
        assert await turn(database) == "blocked"
        await rows_of(writer, f"{SECRET}; COMMIT")  # what it writes now is later than the request, and may stay
    assert "emptied" in await turns(database)
    assert await is_done(database, n)
    assert "other" in await titles(database)
    assert await database.value("SELECT pg_relation_size('realtime.events_0')") == 0


async def test_a_late_writer_in_the_slot_before_is_kept_or_purged_whole(database: Database) -> None:
    """Whoever has read the slot before writes there: by a lock he is before the emptying or after."""
    await database.execute(SECRET)
    late = OTHER.replace("other", "late")
    async with await database.connect() as writer:
        await rows_of(writer, f"BEGIN ISOLATION LEVEL REPEATABLE READ; {OTHER}; ROLLBACK")
        n = await purge(database)
        assert await turn(database) == "switched"
        await database.execute(SLOT, 0)  # as one who has read it and is late
        await rows_of(writer, f"BEGIN; {late}")
        await database.execute(SLOT, 1)
        assert await turn(database) == "blocked"
        unseen = await snapshot(database)
        await rows_of(writer, "COMMIT")
    assert await turn(database, published=unseen) is None  # his row is not published yet
    assert await titles(database) == {"secret", "late"}
    assert "emptied" in await turns(database)
    assert (await titles(database), await is_done(database, n)) == (set(), True)


async def test_two_requests_are_each_done_when_theirs_is_gone(database: Database) -> None:
    async with await database.connect() as writer:
        await database.execute(SECRET)
        first = await purge(database)
        assert await turn(database) == "switched"
        await rows_of(writer, f"BEGIN; {SECRET}")
        second = await purge(database)
        assert await turn(database) == "switched"
        assert await turns(database, 2) == ["emptied", "blocked"]
        assert (await is_done(database, first), await is_done(database, second)) == (True, False)
        await rows_of(writer, "COMMIT")
    assert "emptied" in await turns(database)
    assert await is_done(database, second)


async def test_a_blocked_ring_with_no_empty_partition_is_purged_as_far_as_it_can_be(database: Database) -> None:
    async with await database.connect() as old:
        await rows_of(old, f"BEGIN; {SECRET}")
        for _ in range(4):
            await database.execute(SECRET)
            await turn(database, size=4, published=None)
        assert await turn(database, size=4, published=None) == "blocked"
        n = await purge(database)
        assert (await turns(database, 5)) == ["emptied", "switched", "emptied", "emptied", "blocked"]
        slots = await database.value("SELECT slots FROM realtime.purges WHERE n = %s", n)
        assert slots == [0]
        assert await titles(database) == {"secret"}  # in the first partition, which the open transaction holds
        await rows_of(old, "ROLLBACK")
    assert "emptied" in await turns(database)
    assert (await titles(database), await is_done(database, n)) == (set(), True)


async def test_a_dump_blocks_a_purge_and_nobody_else(database: Database) -> None:
    await database.execute(SECRET)
    async with await database.connect() as dump:
        await rows_of(dump, "BEGIN; LOCK TABLE realtime.events IN ACCESS SHARE MODE")
        n = await purge(database)
        assert await turns(database, 3) == ["switched", "blocked", "blocked"]
        await database.execute(f"SET lock_timeout = '1s'; {OTHER}; SELECT count(*) FROM realtime.events")
        await rows_of(dump, "COMMIT")
    assert "emptied" in await turns(database)
    assert (await titles(database), await is_done(database, n)) == ({"other"}, True)


async def test_a_request_and_a_prepared_writer_survive_a_crash(own_cluster: Cluster) -> None:
    own_cluster.settings["max_prepared_transactions"] = "5"
    own_cluster.restart()
    own_cluster._ddl("CREATE DATABASE served")
    migrate(own_cluster.url("served"))
    database = Database(own_cluster, "served")
    await database.execute(SECRET)
    await database.execute(f"BEGIN; {SECRET}; PREPARE TRANSACTION 'mine'")
    n = await database.value("SET synchronous_commit = off; SELECT realtime.purge()")
    own_cluster.kill9()
    own_cluster.start()
    await database.execute("SELECT realtime.incarnate()")
    assert await turns(database, 3) == ["switched", "blocked", "blocked"]
    await database.execute("COMMIT PREPARED 'mine'")
    await turns(database)
    own_cluster.kill9()
    own_cluster.start()
    assert (await titles(database), await is_done(database, n)) == (set(), True)


async def test_where_no_server_leads_the_caller_sees_to_it_alone(database: Database) -> None:
    await database.execute(SECRET)
    n = await purge(database)
    async with await database.connect() as leader:
        await rows_of(leader, "SELECT pg_advisory_lock(1919247220, 2)")
        assert await database.execute("CALL realtime.finish_purges('0.3 s')") == [(1,)]
        assert await titles(database) == {"secret"}
        await rows_of(leader, "SELECT pg_advisory_unlock(1919247220, 2)")
        finishing = asyncio.create_task(database.execute(EMPTY))
        await eventually(lambda: database.value("SELECT realtime.slot() = 1"))
        await database.execute(OTHER)
        assert await finishing == [(0,)]
    assert (await titles(database), await is_done(database, n)) == ({"other"}, True)
    with pytest.raises(psycopg.errors.InvalidTransactionTermination):
        await database.execute(f"BEGIN; {EMPTY}")


async def test_one_partition_that_can_t_be_emptied_does_not_stop_the_others(database: Database) -> None:
    """The oldest is held by a writer that sleeps; the turns go round without it, and its rows stay."""
    async with await database.connect() as slow:
        await rows_of(slow, f"BEGIN; {SECRET}")
        for _ in range(24):
            await database.execute(OTHER)
            await database.execute("UPDATE realtime.partitions_clock SET elapsed = elapsed + interval '30 min'")
            await turns(database, 3)
        assert 3 <= len(await events(database)) <= 8
        position = Snapshot.parse(await snapshot(database))
        assert position.contains(await floor(database))
        assert not Snapshot.parse(await snapshot(database)).contains(Snapshot(position.xmax + 1))
        await rows_of(slow, "COMMIT")
    assert "secret" in await titles(database)
    assert position.contains(await floor(database))


async def test_over_its_size_and_stuck_is_blocked_whether_or_not_a_switch_is_due(database: Database) -> None:
    async with await database.connect() as reader:
        await database.execute("INSERT INTO posts (author_id) SELECT 1 FROM generate_series(1, 500)")
        assert await turn(database, size=4) == "switched"
        await rows_of(reader, "BEGIN; SELECT count(*) FROM realtime.events")
        size = await database.value("SELECT pg_total_relation_size('realtime.events_0')")
        assert await turn(database, size=size) == "blocked"  # nothing is in the present partition
        await database.execute("UPDATE realtime.partitions_clock SET elapsed = elapsed + interval '90 min'")
        assert await turn(database) == "blocked"  # small enough, and too old
        await rows_of(reader, "COMMIT")
    assert await turn(database, keep=HOUR) == "emptied"
    assert await turn(database, keep=timedelta(hours=1)) is None


async def test_an_open_bulk_writer_in_a_young_partition_is_in_nobody_s_way(database: Database) -> None:
    async with await database.connect() as bulk:
        await rows_of(bulk, f"BEGIN; {SECRET}")
        assert await turn(database, size=4) == "switched"
        assert await turns(database, 3) == [None] * 3
        await purge(database)
        assert await turn(database) == "blocked"
        await rows_of(bulk, "ROLLBACK")


async def test_an_analyze_keeps_no_values_of_rows(database: Database) -> None:
    await database.execute(f"{SECRET}; ANALYZE realtime.events; ANALYZE realtime.events_0")
    found = "SELECT DISTINCT attname FROM pg_stats WHERE schemaname = 'realtime' AND tablename LIKE 'events%'"
    names = {name for (name,) in await database.execute(found)}
    assert "xid" in names
    assert not names & {"new", "old", "new_vals", "old_vals"}
