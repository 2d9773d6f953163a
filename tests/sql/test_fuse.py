"""The fuse: far over its limit the event log takes no more, writes go on, and nobody takes what is missing for nothing."""

from typing import Any

import pytest

from app.model.position import Snapshot
from harness.database import Database, rows_of
from tests.sql.log import events

WRITE = "INSERT INTO posts (author_id) VALUES (1)"
MB = 1 << 20
OPEN = "SELECT realtime.open_fuse(false)"
POSITION = "SELECT realtime.position()"


async def mind(database: Database, fuse: int = 1 << 40, ballast: int = 0) -> Any:
    return await database.value("SELECT realtime.mind_fuse(%s, %s, 256)", fuse, ballast)


async def healed(database: Database, steps: int = 12) -> list[Any]:
    """What each step said, up to the end or as many."""
    said: list[Any] = []
    while len(said) < steps and (not said or said[-1] not in ("healed", None)):
        said.append(await mind(database))
    return said


async def whole(database: Database) -> bool:
    return bool(
        await database.value("SELECT realtime.fuse() = healed AND realtime.slot() >= 0 FROM realtime.event_log_state")
    )


async def reaches(database: Database, snapshot: str) -> bool:
    floor = await database.value("SELECT floor::text FROM realtime.event_log_state")
    return Snapshot.parse(snapshot).contains(Snapshot.parse(floor))


async def now(database: Database) -> str:
    return str(await database.value("SELECT pg_current_snapshot()::text"))


async def test_while_it_is_open_writes_go_on_and_leave_nothing(database: Database) -> None:
    await database.execute(WRITE)
    before = len(await events(database))
    await database.execute(OPEN)
    await database.execute(
        f"{WRITE}; UPDATE posts SET author_id = 2; DELETE FROM posts WHERE id = 1; TRUNCATE notifications"
    )
    assert len(await events(database)) == before
    assert await healed(database) == ["cleared", "closed", "closed", "healed"]
    await database.execute(WRITE)
    assert len(await events(database)) == 1


@pytest.mark.parametrize("steps", range(4))
async def test_positions_from_before_and_from_within_are_expired_whoever_dies_when(
    database: Database, steps: int
) -> None:
    """A step is a transaction: whatever came of the first few of them, another server goes on from there."""
    await database.execute(WRITE)
    found = [await now(database)]
    await database.execute(OPEN)
    for _ in range(steps):
        await mind(database)
        await database.execute(WRITE)
        if await database.value("SELECT realtime.slot() < 0"):
            found.append(await now(database))
    assert not await whole(database)
    assert (await healed(database))[-1] == "healed"
    assert await whole(database)
    assert not any([await reaches(database, snapshot) for snapshot in found])
    assert await reaches(database, await now(database))


async def test_it_is_healed_when_all_have_ended_who_may_have_seen_it_open(database: Database) -> None:
    async with await database.connect() as slow:
        await database.execute(OPEN)
        await rows_of(slow, f"BEGIN; {WRITE}")
        assert (await healed(database, 6))[-2:] == ["waiting", "waiting"]
        await rows_of(slow, WRITE)  # captured, in a transaction that is not captured as a whole
        early = await now(database)
        await rows_of(slow, "COMMIT")
    assert not await whole(database)
    assert await healed(database) == ["healed"]
    assert not await reaches(database, early)


async def test_who_opens_it_while_it_is_being_closed_is_heard(database: Database) -> None:
    await database.execute(OPEN)
    while await database.value("SELECT healing IS NULL FROM realtime.event_log_state"):
        await mind(database)
    await database.execute(OPEN)
    await database.execute(WRITE)
    hole = await now(database)
    assert (await healed(database))[-1] == "healed"
    assert not await reaches(database, hole)


async def test_who_opens_it_and_is_slow_is_waited_for(database: Database) -> None:
    """He has said that it opens, and the slot comes later: in between it looks closed."""
    async with await database.connect() as slow:
        await rows_of(slow, "BEGIN; SELECT realtime.slot(), setval('realtime.fuse_opened', 7)")
        assert (await healed(database, 5))[-1] == "waiting"
        await rows_of(slow, "SELECT setval('realtime.current_slot', -4); COMMIT")
    await database.execute(WRITE)
    hole = await now(database)
    assert (await healed(database))[-1] == "healed"
    assert await events(database) == []
    assert not await reaches(database, hole)


async def test_a_writer_opens_it_where_no_server_runs(database: Database) -> None:
    await mind(database, fuse=MB)
    large = "INSERT INTO posts (author_id, body) SELECT 1, repeat('x', 500) FROM generate_series(1, 3000)"
    await database.execute(large)
    assert not await whole(database)
    size = await database.value("SELECT sum(b) FROM unnest(realtime.event_log_bytes()) b")
    await database.execute(large)
    assert await database.value("SELECT sum(b) FROM unnest(realtime.event_log_bytes()) b") == size
    assert await database.value("SELECT count(*) FROM posts") == 6000


async def test_small_writes_open_it_too(database: Database) -> None:
    await mind(database, fuse=MB)
    async with await database.connect() as writer:
        for n in range(16000):
            await rows_of(writer, "INSERT INTO posts (author_id, body) VALUES (1, repeat('x', 500))")
            if n % 100 == 0 and not await whole(database):
                return
    raise AssertionError("8,000 writes have not opened it")


async def test_no_turn_is_made_while_it_is_open(database: Database) -> None:
    await database.execute(OPEN)
    slot = await database.value("SELECT realtime.slot()")
    assert await database.value("SELECT realtime.turn('1 s', 1, pg_current_snapshot())") == "blocked"
    assert await database.value("SELECT realtime.slot()") == slot < 0


async def test_what_is_locked_is_not_emptied_and_the_rest_is(database: Database) -> None:
    async with await database.connect() as idle:
        await database.execute(WRITE)
        await rows_of(idle, "BEGIN; SELECT count(*) FROM realtime.events_0")
        await database.execute(OPEN)
        assert (await healed(database))[-1] == "healed"
        assert await database.value("SELECT realtime.slot()") == 1
        assert len(await events(database)) == 1
        await rows_of(idle, "ROLLBACK; BEGIN; LOCK TABLE realtime.events IN ACCESS SHARE MODE")
        await database.execute(WRITE)
        await database.execute(OPEN)
        assert await mind(database, fuse=65536) == "open"  # over half of the limit
        await rows_of(idle, "ROLLBACK")
    assert (await healed(database))[-1] == "healed"


async def test_a_watch_begins_while_it_is_open(database: Database) -> None:
    await database.execute(OPEN)
    await database.execute(
        "CREATE TABLE late (id int PRIMARY KEY); SELECT realtime.watch('late'); INSERT INTO late VALUES (1)"
    )
    assert (await healed(database))[-1] == "healed"
    await database.execute("INSERT INTO late VALUES (2)")
    assert [e.new for e in await events(database)] == [{"id": 2}]


async def test_a_purge_is_done_while_it_is_open(database: Database) -> None:
    await database.execute(WRITE)
    await database.execute(OPEN)
    await database.execute("SELECT realtime.purge()")
    await healed(database)
    assert await database.value("SELECT done IS NOT NULL FROM realtime.purges")


async def test_the_ballast_grows_and_is_given_back(database: Database) -> None:
    size = "SELECT pg_relation_size('realtime.ballast')"
    for _ in range(5):
        await mind(database, ballast=3 * MB)
    assert await database.value(size) == 3 * MB
    assert await database.value("SELECT count(*) FROM realtime.ballast") == 0
    await database.execute("SELECT realtime.open_fuse(true)")
    await mind(database)
    assert await database.value(size) == 0
    assert (await healed(database))[-1] == "healed"
    await mind(database, ballast=3 * MB)
    await mind(database, ballast=0)
    assert await database.value(size) == MB
    assert await database.value("SELECT reltoastrelid = 0 AND NOT relhasindex FROM pg_class WHERE relname = 'ballast'")
