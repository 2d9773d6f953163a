"""The partitions of the event log: a turn empties what is old, published and seen by all, never more (adversarial 7, 10, 28)."""

from datetime import timedelta

import psycopg
import pytest

from app.model.position import Snapshot
from harness.database import Database, rows_of
from tests.sql.log import events

WRITE = "INSERT INTO posts (author_id) VALUES (1)"
HOUR = timedelta(hours=1)


async def turn(
    database: Database, keep: timedelta = HOUR, size: int = 1 << 40, published: str | None = "now"
) -> str | None:
    if published == "now":
        published = await snapshot(database)
    done = await database.value("SELECT realtime.turn(%s, %s, %s::pg_snapshot)", keep, size, published)
    return None if done is None else str(done)


async def snapshot(database: Database) -> str:
    return str(await database.value("SELECT pg_current_snapshot()::text"))


async def floor(database: Database) -> Snapshot:
    return Snapshot.parse(await database.value("SELECT floor::text FROM realtime.event_log_state"))


async def pass_time(database: Database, by: timedelta) -> None:
    """As if a server had led for so long: the partitions' own count of time, the only one that it goes by."""
    await database.execute("UPDATE realtime.partitions_clock SET elapsed = elapsed + %s", by)


async def test_a_day_of_turns_keeps_what_is_younger_and_drops_what_is_older(database: Database) -> None:
    written: dict[int, int] = {}
    kept: set[int] = set()
    for minute in range(0, 300, 5):
        await database.execute(WRITE)
        written[(await events(database))[-1].xid] = minute
        await pass_time(database, timedelta(minutes=5))
        for _ in range(3):
            await turn(database)
        kept = {e.xid for e in await events(database)}
        assert {x for x, at in written.items() if at > minute + 5 - 60} <= kept
        assert kept >= {x for x in written if not (await floor(database)).sees(x)}
    assert len(written) > len(kept) >= 12
    assert len(kept) <= 26  # two and a bit times what has to be kept


async def test_a_session_that_has_cached_its_plans_follows_the_ring(database: Database) -> None:
    async with await database.connect() as writer:
        for slot in (0, 1, 2):
            for _ in range(8):
                await rows_of(writer, WRITE)
                await rows_of(writer, "UPDATE posts SET author_id = author_id + 1")
            latest = "SELECT slot, realtime.slot() FROM realtime.events"
            assert await database.execute(f"{latest} ORDER BY id DESC LIMIT 1") == [(slot, slot)]
            assert await turn(database, size=4) == "switched"


async def test_nothing_is_emptied_before_it_is_published(database: Database) -> None:
    await database.execute(WRITE)
    early = await database.value("SELECT floor::text FROM realtime.event_log_state")
    for _ in range(12):
        await pass_time(database, HOUR)
        await turn(database, published=early)
        await turn(database, published=None)
    assert len(await events(database)) == 1
    done = [await turn(database) for _ in range(3)]
    assert "emptied" in done
    assert await events(database) == []


async def test_a_slow_writer_s_rows_and_positions_survive_two_turns(database: Database) -> None:
    async with await database.connect() as slow:
        await rows_of(slow, "BEGIN; " + WRITE)
        await database.execute(WRITE)
        for _ in range(20):
            await pass_time(database, HOUR / 2)
            await turn(database)
        token = Snapshot.parse(await snapshot(database))
        await rows_of(slow, "COMMIT")
    assert len(await events(database)) == 2
    assert token.contains(await floor(database))
    for _ in range(20):
        await pass_time(database, HOUR / 2)
        await turn(database)
    assert await events(database) == []
    assert not token.contains(await floor(database))


async def test_the_size_limit_goes_before_age(database: Database) -> None:
    for _ in range(12):
        await database.execute(
            "INSERT INTO posts (author_id, body) SELECT 1, repeat('x', 500) FROM generate_series(1, 300)"
        )
        await pass_time(database, timedelta(seconds=20))
        for _ in range(3):
            await turn(database, size=1 << 20)
    size = await database.value(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'realtime.events'::regclass"
    )
    assert size < 2 << 20
    assert (await events(database))[-1].xid == await database.value(
        "SELECT max(xid)::text::bigint FROM realtime.events"
    )


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
async def test_a_clock_that_jumps_empties_nothing_early(database: Database, jump: timedelta) -> None:
    await database.execute(WRITE)
    await turn(database)
    await database.execute(
        "UPDATE realtime.partitions_clock SET seen = seen - %s", jump
    )  # as the wall clock having moved
    done = [await turn(database) for _ in range(5)]
    assert done == [None] * 5
    assert await database.value(
        "SELECT elapsed < '1 minute' AND seen > now() - interval '1 minute' FROM realtime.partitions_clock"
    )
    assert len(await events(database)) == 1


async def test_a_reader_s_lock_blocks_without_queueing_anybody(database: Database) -> None:
    await database.execute(WRITE)
    done: str | None = None
    async with await database.connect() as dump:
        await rows_of(dump, "BEGIN; LOCK TABLE realtime.events IN ACCESS SHARE MODE")
        for _ in range(8):
            await pass_time(database, HOUR)
            done = await turn(database)
        assert done != "emptied"
        assert len(await events(database)) == 1
        await rows_of(dump, "COMMIT")
    assert "emptied" in [await turn(database) for _ in range(3)]


async def test_rows_of_aborted_writers_are_emptied_too(database: Database) -> None:
    await database.execute(f"BEGIN; {WRITE}; ROLLBACK")
    before = await floor(database)
    for _ in range(8):
        await pass_time(database, HOUR)
        await turn(database)
    assert await database.value("SELECT pg_relation_size('realtime.events_0')") == 0
    assert (await floor(database)).contains(before)


@pytest.mark.parametrize("call", [("0 s", 1), ("1 h", 0)])
async def test_senseless_limits_are_refused(database: Database, call: tuple[str, int]) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="positive"):
        await database.execute("SELECT realtime.turn(%s::interval, %s, NULL)", *call)


async def test_the_floor_never_passes_where_the_servers_are(database: Database) -> None:
    """A transaction that was open when they last read, and has written elsewhere since, would be behind the floor: all
    of them, and their clients, would have to begin anew although nothing was lost."""
    pressed = 4
    async with await database.connect() as long, await database.connect() as late:
        await rows_of(long, "BEGIN; SELECT pg_current_xact_id()")
        await rows_of(late, "BEGIN; " + WRITE)
        assert await turn(database, size=pressed) == "switched"  # the snapshot recorded here sees neither
        await rows_of(late, "COMMIT")
        published = await snapshot(database)
        await rows_of(long, WRITE + "; COMMIT")
    for _ in range(3):
        await turn(database, size=pressed, published=published)
        assert Snapshot.parse(published).contains(await floor(database))
    assert len(await events(database)) == 2
    assert [await turn(database, size=pressed) for _ in range(2)][-1] == "emptied"
    assert len(await events(database)) < 2
