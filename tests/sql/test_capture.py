"""Whatever way SQL has to change rows, the event log has exactly these changes (adversarial 5, 11, 13, 14, 17, 31)."""

import psycopg
import pytest

from harness.database import Database, rows_of
from tests.sql.log import after, contents, events, ops, replayed, top


async def test_each_operation_leaves_the_whole_rows_and_its_routes(database: Database) -> None:
    found = await after(
        database,
        """INSERT INTO posts (id, author_id, title) VALUES (1, 7, 'a'), (2, 8, 'b');
           UPDATE posts SET author_id = 9 WHERE id = 1;
           DELETE FROM posts WHERE id = 2;
           TRUNCATE posts""",
    )
    assert [(e.op, e.n, e.new_vals, e.old_vals) for e in found] == [
        ("I", 0, ["1", "7"], None),
        ("I", 0, ["2", "8"], None),
        ("U", 0, ["1", "9"], ["1", "7"]),
        ("D", 0, None, ["2", "8"]),
        ("T", 0, None, None),
    ]
    moved = found[2]
    assert moved.new is not None
    assert moved.old is not None
    assert moved.new == moved.old | {"author_id": 9}
    assert set(moved.new) == {"id", "author_id", "title", "body", "created_at"}
    assert len({e.id for e in found}) == 5
    # A TRUNCATE always bears a mark: what its triggers write is told from it by that.
    assert [e.ord is None for e in found] == [True, True, True, True, False]
    assert {e.depth for e in found} == {1}


async def test_what_changed_nothing_leaves_nothing(database: Database) -> None:
    await database.execute("INSERT INTO posts (id, author_id) VALUES (1, 7)")
    found = await after(
        database,
        """UPDATE posts SET title = title; UPDATE posts SET title = 'x' WHERE false; DELETE FROM posts WHERE false;
           INSERT INTO posts (author_id) SELECT 1 WHERE false;
           INSERT INTO posts (id, author_id) VALUES (1, 7) ON CONFLICT DO NOTHING""",
    )
    assert found == []
    found = await after(
        database, "INSERT INTO posts (id, author_id) VALUES (2, 7); UPDATE posts SET title = 'y' WHERE id = 2"
    )
    found += await after(database, "UPDATE posts SET title = 'y'")  # of two rows one changes
    assert [(e.op, e.new and e.new["id"]) for e in found] == [("I", 2), ("U", 2), ("U", 1)]


async def test_keys_that_change_swap_and_shift_are_paired_by_row(database: Database) -> None:
    found = await after(
        database,
        """CREATE TABLE k (id int PRIMARY KEY DEFERRABLE, v text); SELECT realtime.watch('k');
           INSERT INTO k SELECT g, 'v' || g FROM generate_series(1, 50) g;
           UPDATE k SET id = id + 1; UPDATE k SET id = CASE id WHEN 2 THEN 3 ELSE 2 END WHERE id IN (2, 3);
           UPDATE k SET id = 1000 WHERE id = 10""",
    )
    updates = [e for e in found if e.op == "U"]
    assert len(updates) == 50 + 2 + 1
    assert all(e.new and e.old and e.new["v"] == e.old["v"] and e.new["id"] != e.old["id"] for e in updates)
    assert all(
        e.new_vals == [str(e.new["id"])] and e.old_vals == [str(e.old["id"])] for e in updates if e.new and e.old
    )
    assert replayed(found) == await contents(database, "k")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO s VALUES (1, 'a'), (3, 'c') ON CONFLICT (id) DO UPDATE SET v = s.v || excluded.v",
        """MERGE INTO s USING (VALUES (1, 'm'), (2, NULL), (9, 'n')) x(id, v) ON s.id = x.id
           WHEN MATCHED AND x.v IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET v = x.v
           WHEN NOT MATCHED THEN INSERT VALUES (x.id, x.v)""",
        """WITH a AS (INSERT INTO s VALUES (5, 'e') RETURNING id),
             b AS (UPDATE s SET v = 'w' WHERE id = 1 RETURNING id),
             c AS (INSERT INTO s VALUES (6, 'f') RETURNING id),
             d AS (UPDATE s SET v = 'z' WHERE id = 2 RETURNING id)
           DELETE FROM s WHERE id = 4""",
        "CREATE TABLE moved AS WITH d AS (DELETE FROM s WHERE id < 3 RETURNING *) SELECT * FROM d",
        "BEGIN; SAVEPOINT a; INSERT INTO s VALUES (7, 'g'); ROLLBACK TO a; UPDATE s SET v = 'k' WHERE id = 1; COMMIT",
        "BEGIN; DELETE FROM s; INSERT INTO s VALUES (8, 'h'); TRUNCATE s; INSERT INTO s VALUES (8, 'i'); COMMIT",
        "BEGIN; TRUNCATE s; ROLLBACK; DELETE FROM s WHERE id = 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM s; FETCH c; UPDATE s SET v = 'held' WHERE id = 1",
        """BEGIN; DECLARE c CURSOR FOR SELECT * FROM s FOR UPDATE; MOVE c; FETCH c;
           DELETE FROM s WHERE CURRENT OF c; COMMIT""",
    ],
)
async def test_every_form_of_writing_is_captured(database: Database, sql: str) -> None:
    await database.execute("CREATE TABLE s (id int PRIMARY KEY, v text); SELECT realtime.watch('s')")
    await database.execute("INSERT INTO s VALUES (1, 'one'), (2, 'two'), (4, 'four')")
    before = await contents(database, "s")
    found = await after(database, sql)
    assert found
    assert replayed(await events(database)) == await contents(database, "s") != before


async def test_a_hundred_savepoints_and_exception_loops_leave_what_was_kept(database: Database) -> None:
    found = await after(
        database,
        """BEGIN;
           DO $$ BEGIN FOR i IN 1 .. 100 LOOP
             BEGIN INSERT INTO posts (id, author_id) VALUES (i, i); IF i % 3 = 0 THEN RAISE 'no'; END IF;
             EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;
           COMMIT""",
    )
    assert [e.new and e.new["id"] for e in found] == [i for i in range(1, 101) if i % 3]
    assert replayed(found) == await contents(database, "posts")


async def test_cascades_three_deep_and_set_null_are_captured(database: Database) -> None:
    await database.execute(
        """CREATE TABLE a (id int PRIMARY KEY);
           CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);
           CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b ON DELETE CASCADE ON UPDATE CASCADE);
           CREATE TABLE d (id int PRIMARY KEY, c int REFERENCES c ON DELETE SET NULL);
           SELECT realtime.watch(t) FROM unnest('{a,b,c,d}'::regclass[]) t;
           INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (10, 1), (11, 2);
           INSERT INTO c VALUES (20, 10), (21, 11);
           INSERT INTO d VALUES (30, 20), (31, 21)""",
    )
    found = await after(database, "DELETE FROM a WHERE id = 1; UPDATE b SET id = 12 WHERE id = 11")
    assert sorted(e.table[-1] + e.op for e in found) == ["aD", "bD", "bU", "cD", "cU", "dU"]
    every = await events(database)
    for table in "abcd":
        assert replayed([e for e in every if e.table == f"public.{table}"]) == await contents(database, table)


async def test_copy_of_100k_rows_is_whole_and_in_order(database: Database) -> None:
    since = await top(database)
    async with (
        await database.connect() as connection,
        connection.cursor() as cursor,
        cursor.copy("COPY posts (author_id, title) FROM STDIN") as copy,
    ):
        for i in range(100_000):
            await copy.write_row((i, f"t{i}"))
    wrote = await database.execute(
        """SELECT count(*), count(*) FILTER (WHERE (new ->> 'author_id')::int = place) FROM (
             SELECT new, row_number() OVER (ORDER BY id, n) - 1 AS place FROM realtime.events WHERE id > %s) e""",
        since,
    )
    assert wrote == [(100_000, 100_000)]


async def test_many_rows_after_one_in_the_same_session_take_linear_time(database: Database) -> None:
    """The planner's estimate is frozen at the session's first statement: what it chose then must do for many rows."""
    await database.execute("INSERT INTO posts (id, author_id) SELECT g, g FROM generate_series(1, 100000) g")
    since = await top(database)
    async with await database.connect() as connection:
        await rows_of(connection, "SET statement_timeout = '60s'")  # quadratic, it would be hours
        few = "UPDATE posts SET title = 'a' WHERE id = 1; UPDATE posts SET title = 'b' WHERE id IN (1, 2);"
        await rows_of(connection, few + "UPDATE posts SET id = id + 1000000")
    pairs = """SELECT count(*), count(DISTINCT id) FROM realtime.events
        WHERE id > %s AND (new ->> 'id')::int = (old ->> 'id')::int + 1000000 AND new ->> 'author_id' = old ->> 'author_id'"""
    assert await database.execute(pairs, since) == [(100_000, 1)]


@pytest.mark.parametrize("size", [20_000, 1_000_000, 30_000_000])
async def test_large_rows_and_unchanged_toast_are_whole(database: Database, size: int) -> None:
    await database.execute("INSERT INTO posts (id, author_id, body) SELECT 1, 1, repeat('0123456789', %s / 10)", size)
    found = await after(database, "UPDATE posts SET title = 't'")
    assert found[0].new is not None
    assert found[0].old is not None
    assert len(found[0].new["body"]) == len(found[0].old["body"]) == size


async def test_a_table_without_a_key_or_columns_is_captured(database: Database) -> None:
    found = await after(
        database,
        """CREATE TABLE bare (v int); CREATE TABLE none ();
           SELECT realtime.watch('bare', '{v}'), realtime.watch('none');
           INSERT INTO bare VALUES (1), (1); UPDATE bare SET v = 2; DELETE FROM bare;
           INSERT INTO none DEFAULT VALUES""",
    )
    assert ops(found) == "IIUUDDI"
    assert found[2].new_vals == ["2"]
    assert (found[-1].new, found[-1].new_vals) == ({}, None)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_every_isolation_level_can_write(database: Database, isolation: str) -> None:
    async with await database.connect() as connection:
        await rows_of(connection, f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM posts")
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await rows_of(connection, "INSERT INTO notifications (user_id) VALUES (2); COMMIT")
    assert [e.table for e in await events(database)] == ["public.posts", "public.notifications"]


async def test_a_serializable_writer_is_not_failed_by_the_turning_ring(database: Database) -> None:
    async with await database.connect() as writer:
        await rows_of(writer, "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO posts (author_id) VALUES (1)")
        turned = await database.value("SELECT realtime.turn('1 microsecond', 1, NULL)")
        await rows_of(writer, "INSERT INTO posts (author_id) VALUES (2); COMMIT")
    assert turned == "switched"
    assert ops(await events(database)) == "II"


async def test_a_failing_statement_is_the_application_s_own(database: Database) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        await database.execute("INSERT INTO posts (author_id) VALUES (NULL)")
    assert await events(database) == []
