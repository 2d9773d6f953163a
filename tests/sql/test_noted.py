"""What happens between two looks of one check, and beside a transaction that is still open, is told by the next check.

A check compares the watched relations with what was noted of them, and then notes them anew. Each test has a change
commit in between, or another order that a note could take for one that it is not."""

import asyncio

import pytest

from harness.database import Database, rows_of
from harness.facts import eventually
from tests.sql.log import events, ops, top

CHECK = "SELECT problem FROM realtime.check()"
MADE = """
CREATE TYPE en AS ENUM ('a', 'b');
CREATE TABLE first (id int, v text); SELECT realtime.watch('first'); INSERT INTO first VALUES (1, 'A');
CREATE TABLE p (id int NOT NULL, v text, e en) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
SELECT realtime.watch('p');
CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);
INSERT INTO p VALUES (1, 'A', 'a'), (11, 'B', 'a')"""
# `first` begins a generation, and p has differences that are noted and not told.
PENDING = "ALTER TABLE first ALTER v TYPE text USING lower(v); ALTER TYPE en ADD VALUE 'c'"
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def mended_around(database: Database, change: str) -> None:
    """Mends what is pending, and has `change` commit after what is there was compared, before it is noted: a lock of the
    event log holds up the generation that begins first."""
    async with await database.connect(autocommit=False) as holder:
        await holder.execute("LOCK TABLE realtime.events IN SHARE MODE")
        mending = asyncio.create_task(database.execute("SELECT refusal FROM realtime.mend()"))
        await eventually(lambda: database.value(WAITS), what="the mend waits for the event log")
        await database.execute(change)
        assert not mending.done()
        await holder.commit()
        assert await mending == []


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE p_1",
        "ALTER TABLE p DETACH PARTITION p_1",
        (
            "CREATE TABLE p_3 AS SELECT 30 AS id, 'x' AS v, 'a'::en AS e; ALTER TABLE p_3 ALTER id SET NOT NULL;"
            "ALTER TABLE p ATTACH PARTITION p_3 DEFAULT"
        ),
        "TRUNCATE p_2",
        "ALTER TABLE p ALTER v TYPE text USING lower(v)",
        "ALTER TYPE en RENAME VALUE 'a' TO 'z'",
        "ALTER TABLE p_1 DISABLE TRIGGER ALL; UPDATE p_1 SET v = 'x'; ALTER TABLE p_1 ENABLE TRIGGER ALL",
        "ALTER TABLE p RENAME v TO w",
    ],
)
async def test_what_commits_between_comparing_and_noting_is_told(database: Database, change: str) -> None:
    await database.execute(MADE)
    await database.execute(PENDING)
    await mended_around(database, change)
    since = await top(database)
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G"
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G"


async def test_rows_of_a_transaction_older_than_the_note_are_no_quiet(database: Database) -> None:
    await database.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p DEFAULT")
    async with await database.connect(autocommit=False) as writer:
        await rows_of(writer, "SELECT pg_current_xact_id()")
        await database.execute("SELECT realtime.watch('p')")  # p_1 is noted as empty
        await writer.execute("INSERT INTO p VALUES (1)")
    await database.execute("DROP TABLE p_1")
    since = await top(database)
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G"
