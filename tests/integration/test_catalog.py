"""The tables on the air, and the one spelling of a value."""

import pytest

from app.model.errors import BadChannel
from app.postgres.event_log import PostgresEventLog
from harness.database import Database
from tests.integration import story


async def test_a_table_is_found_by_its_name_as_soon_as_it_is_watched(database: Database, log: PostgresEventLog) -> None:
    await log.head()
    assert await log.catalog.current("public", "later") is None
    await database.execute(
        'CREATE TABLE later (a int, "b,c" text, PRIMARY KEY (a, "b,c")); SELECT realtime.watch(\'later\')'
    )
    table = await log.catalog.current("public", "later")
    assert table is not None
    assert table.key == ("a", "b,c")
    assert (table.columns, table.types, table.kinds) == (("a", "b,c"), ("integer", "text"), "ns")


async def test_a_change_brings_the_generation_that_it_was_written_under(
    database: Database, log: PostgresEventLog
) -> None:
    start = (await log.head()).position
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    await database.execute("SELECT realtime.watch('posts', routes => '{author_id,title}')")
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'x')")
    batch = await log.difference(start)
    assert batch is not None
    assert batch.transactions is not None
    tables = [c.table for t in batch.transactions for c in t.changes]
    assert [t.routes for t in tables] == [(("author_id",),), (("author_id",), ("title",))]
    assert [s.name for t in batch.transactions for s in t.schema] == ["posts"]
    assert await log.catalog.current("public", "posts") == tables[1]


async def test_a_table_that_is_watched_no_more_is_gone_once_the_log_says_so(
    database: Database, log: PostgresEventLog
) -> None:
    start = (await log.head()).position
    assert await log.catalog.current("public", "posts") is not None
    await database.execute("SELECT realtime.unwatch('posts')")
    batch = await log.difference(start)
    assert batch is not None
    assert [t.name for t in batch.schema] == ["posts"]
    assert await log.catalog.current("public", "posts") is None


async def test_a_renamed_table_is_found_by_its_new_name_alone(database: Database, log: PostgresEventLog) -> None:
    start = (await log.head()).position
    await database.execute("ALTER TABLE posts RENAME TO essays")
    await database.execute("SELECT * FROM realtime.check()")
    assert await log.difference(start) is not None
    assert await log.catalog.current("public", "posts") is None
    assert (await log.catalog.current("public", "essays")) is not None


TYPES = """
CREATE TYPE mood AS ENUM ('glad', 'it''s');
CREATE DOMAIN small AS int CHECK (VALUE < 10);
CREATE TABLE kinds (id int PRIMARY KEY, i2 int2, i8 int8, t text, c char(4), v varchar(3), n numeric(5,2), u uuid,
  b bool, d date, ts timestamptz, m mood, s small, f float8, by bytea, iv interval);
SELECT realtime.watch('kinds', routes => '{i2,i8,t,c,v,n,u,b,d,ts,m,s,f,by,iv}');
"""


@pytest.mark.parametrize(
    ("column", "value", "canonical"),
    [
        ("id", "42", "42"), ("id", "042", "42"), ("id", " 42", "42"), ("id", "-0", "0"),
        ("i8", "9007199254740993", "9007199254740993"), ("t", "", ""), ("t", " a", " a"), ("c", "ab  ", "ab"),
        ("v", "abc", "abc"), ("n", "7", "7.00"), ("n", "NaN", "NaN"),
        ("u", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("b", "yes", "true"), ("d", "20260102", "2026-01-02"), ("ts", "2026-01-02 03:04+02", "2026-01-02 01:04:00+00"),
        ("m", "it's", "it's"), ("s", "9", "9"), ("f", "1e2", "100"), ("by", "\\xAB", "\\xab"), ("iv", "1 hour", "PT1H"),
    ],
)  # fmt: skip
async def test_a_value_is_spelled_as_its_type_prints_it(
    database: Database, log: PostgresEventLog, column: str, value: str, canonical: str
) -> None:
    await database.execute(TYPES)
    await log.head()
    table = await log.catalog.current("public", "kinds")
    assert table is not None
    assert await log.catalog.canonical(table, column, value) == canonical
    assert await log.catalog.canonical(table, column, canonical) == canonical


@pytest.mark.parametrize(
    ("column", "value"),
    [("id", "x"), ("id", ""), ("id", "2147483648"), ("i2", "32768"), ("i8", "9223372036854775808"), ("u", "a0eebc99"),
     ("m", "sad"), ("s", "10"), ("d", "2026-02-30"), ("t", "nul\x00"), ("n", "1000.5"), ("b", "'; DROP TABLE posts")],
)  # fmt: skip
async def test_what_is_no_value_of_the_type_is_a_bad_channel(
    database: Database, log: PostgresEventLog, column: str, value: str
) -> None:
    await database.execute(TYPES)
    await log.head()
    table = await log.catalog.current("public", "kinds")
    assert table is not None
    with pytest.raises(BadChannel, match="is no value of"):
        await log.catalog.canonical(table, column, value)


@pytest.mark.parametrize("value", ["1e131071", "1e-16000", "-1.5e100000", "1" * 1500 + "e1000"])
async def test_a_short_value_whose_canonical_form_is_huge_is_refused_and_not_kept(
    database: Database, log: PostgresEventLog, value: str
) -> None:
    await database.execute("CREATE TABLE big (n numeric PRIMARY KEY); SELECT realtime.watch('big')")
    await log.head()
    table = await log.catalog.current("public", "big")
    assert table is not None
    with pytest.raises(BadChannel, match="over 2048 characters in its canonical form"):
        await log.catalog.canonical(table, "n", value)
    assert await log.catalog.canonical(table, "n", "1e2000") == "1" + "0" * 2000
    assert await log.catalog.canonical(table, "n", "1e2") == "100"
    assert log.catalog._canonical == {("numeric", "1e2"): "100"}


async def test_the_spelling_is_the_one_that_events_carry(database: Database, log: PostgresEventLog) -> None:
    """Else a channel would be silently empty."""
    await database.execute(TYPES)
    start = (await log.head()).position
    await database.execute(
        "INSERT INTO kinds VALUES (1, 2, 3, ' t ', 'ab', 'abc', 7, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 't',"
        " '2026-01-02', '2026-01-02 03:04:05.678+02', 'it''s', 9, 0.1, '\\xAB', '90 minutes')"
    )
    batch = await log.difference(start)
    assert batch is not None
    assert batch.transactions is not None
    (transaction,) = batch.transactions
    (change,) = transaction.changes
    assert change.new_values is not None
    for column, value in zip(change.table.columns, change.new_values, strict=True):
        assert value is not None
        assert await log.catalog.canonical(change.table, column, value) == value
    assert len(story.ids([transaction])) == 1
