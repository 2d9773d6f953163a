"""What the order of nested statements is told by: the mark, the depth, the id (adversarial 2, 3, 12)."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from app.postgres.event_log import PostgresEventLog
from harness.database import Database, rows_of
from tests.sql.log import Event, after, contents, events, ops, replayed


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    made = PostgresEventLog(database.url, lambda seen: None)
    yield made
    await made.close()


TOUCH = """
CREATE TABLE t (id int PRIMARY KEY, v int, seen int DEFAULT 0);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE t SET seen = seen + 1 WHERE id = NEW.id AND seen < 2; RETURN NULL; END $$;
CREATE TRIGGER touch AFTER INSERT OR UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION touch();
SELECT realtime.watch('t')"""


def by_mark(found: list[Event]) -> list[Event]:
    return sorted(found, key=lambda e: (e.ord or 0, e.depth, e.id, e.n))


async def test_a_trigger_that_updates_the_same_row_is_ordered_by_its_mark(database: Database) -> None:
    await database.execute(TOUCH)
    found = await after(
        database, "BEGIN; INSERT INTO t VALUES (1, 10); UPDATE t SET v = 11; UPDATE t SET v = 12; COMMIT"
    )
    assert ops(found) == "UIUUU"  # as logged: the nested one first, twice
    assert ops(by_mark(found)) == "IUUUU"
    assert replayed(by_mark(found)) == await contents(database, "t") == {1: {"id": 1, "v": 12, "seen": 2}}
    chain = by_mark(found)
    assert all(later.old == earlier.new for earlier, later in pairwise(chain))


async def test_marks_never_outlive_their_statement(database: Database) -> None:
    """Statements of no rows, errors in subtransactions and nested ones leave the next statement its own mark."""
    await database.execute(TOUCH)
    found = await after(
        database,
        """BEGIN; INSERT INTO t VALUES (1, 1); UPDATE t SET v = 5 WHERE false;
           DO $$ BEGIN UPDATE t SET v = v / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
           UPDATE t SET v = 2; DELETE FROM t WHERE false; DELETE FROM t; INSERT INTO t VALUES (1, 3); COMMIT""",
    )
    assert replayed(by_mark(found)) == await contents(database, "t")
    assert all(e.ord is not None for e in found)


async def test_only_tables_with_triggers_or_cascades_bear_a_mark(database: Database) -> None:
    await database.execute(
        """CREATE TABLE a (id int PRIMARY KEY);
           CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);
           CREATE TABLE c (id int PRIMARY KEY, a int REFERENCES a); CREATE TABLE d (id int PRIMARY KEY REFERENCES c);
           SELECT realtime.watch(t) FROM unnest('{a,b,c,d}'::regclass[]) t"""
    )
    marks = await database.execute("SELECT name, mark FROM realtime.generations WHERE name < 'e' ORDER BY name")
    assert marks == [("a", True), ("b", False), ("c", False), ("d", False)]


async def test_the_order_of_ids_follows_the_row_lock_not_the_xid(database: Database) -> None:
    await database.execute("INSERT INTO posts (id, author_id) VALUES (1, 0)")
    async with await database.connect(autocommit=False) as low, await database.connect(autocommit=False) as high:
        await rows_of(low, "SELECT pg_current_xact_id()")
        await rows_of(high, "SELECT pg_current_xact_id()")
        await rows_of(high, "UPDATE posts SET author_id = 1")
        waiting = asyncio.create_task(rows_of(low, "UPDATE posts SET author_id = 2"))
        await high.commit()
        await waiting
        await low.commit()
    first, second = (await events(database))[-2:]
    assert (first.new or {})["author_id"] == 1
    assert first.xid > second.xid
    assert second.old == first.new


async def test_many_writers_on_few_rows_leave_one_chain_per_row(database: Database) -> None:
    await database.execute("INSERT INTO posts (id, author_id) SELECT g, 0 FROM generate_series(1, 10) g")

    async def write(seed: int) -> None:
        chance = random.Random(seed)
        async with await database.connect(autocommit=False) as connection:
            for i in range(60):
                rows = sorted(chance.sample(range(1, 11), chance.randint(1, 3)))
                for row in rows:
                    await rows_of(connection, f"UPDATE posts SET author_id = {seed * 1000 + i} WHERE id = {row}")
                await (connection.rollback() if chance.random() < 0.1 else connection.commit())

    await asyncio.gather(*(write(seed) for seed in range(8)))
    found = await events(database)
    last = {xid: max(e.id for e in found if e.xid == xid) for xid in {e.xid for e in found}}
    found.sort(key=lambda e: (last[e.xid], e.id, e.n))
    for row in range(1, 11):
        chain = [e for e in found if e.new and e.new["id"] == row]
        assert all(b.old == a.new for a, b in pairwise(chain))
    assert replayed(found) == await contents(database, "posts")


PARENTS = """
CREATE TABLE par (id int PRIMARY KEY);
CREATE TABLE chi (id int PRIMARY KEY, p int NOT NULL REFERENCES par {cascade});
CREATE FUNCTION make() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;
CREATE TRIGGER make {when} ON {table} FOR EACH ROW EXECUTE FUNCTION make();
SELECT realtime.watch(t) FROM unnest('{{par,chi}}'::regclass[]) t"""
CHILD = "INSERT INTO chi VALUES (NEW.id * 10, NEW.id)"
PARENT = "INSERT INTO par VALUES (NEW.p) ON CONFLICT DO NOTHING"


@pytest.mark.parametrize(
    ("body", "when", "table", "statement"),
    [
        (CHILD, "AFTER INSERT", "par", "INSERT INTO par VALUES (1), (2)"),
        (f"INSERT INTO audit VALUES (1); {CHILD}; INSERT INTO audit VALUES (2)", "AFTER INSERT", "par", "INSERT INTO par VALUES (1), (2)"),
        (PARENT, "BEFORE INSERT", "chi", "INSERT INTO chi VALUES (10, 1), (20, 2), (30, 1)"),
        (f"INSERT INTO audit VALUES (1); {PARENT}", "BEFORE INSERT", "chi", "INSERT INTO chi VALUES (10, 1), (20, 2)"),
    ],
    ids=["after", "after, with an audit", "before", "before, with an audit"],
)  # fmt: skip
@pytest.mark.parametrize("cascade", ["", "ON DELETE CASCADE"])
async def test_a_child_comes_after_its_parent_whichever_triggers_make_them(
    database: Database, log: PostgresEventLog, body: str, when: str, table: str, statement: str, cascade: str
) -> None:
    """The rows of several tables come in the order in which they were written."""
    await database.execute("CREATE TABLE audit (v int)")
    await database.execute(PARENTS.format(cascade=cascade, body=body, when=when, table=table))
    start = (await log.head()).position
    await database.execute(statement)
    batch = await log.difference(start)
    assert batch is not None
    assert batch.transactions is not None
    there: set[str] = set()
    for change in batch.transactions[0].changes:
        new = json.loads(change.new or b"{}")
        if change.table.name == "par":
            there.add(new["id"])
        else:
            assert new["p"] in there
    assert len(batch.transactions[0].changes) == len(there) + len(await contents(database, "chi"))


AGAIN = "WITH d AS (DELETE FROM t RETURNING *) INSERT INTO t SELECT * FROM d"


@pytest.mark.parametrize(
    "part", ["", " LIMIT 1", " ON CONFLICT DO NOTHING", " LIMIT 1 ON CONFLICT (id) DO UPDATE SET v = 9"]
)
@pytest.mark.parametrize(
    "trigger",
    [
        "",
        "BEFORE UPDATE ON t FOR EACH ROW",
        "BEFORE INSERT OR DELETE ON t",
        "AFTER INSERT OR DELETE ON t",
        "AFTER INSERT OR DELETE ON t FOR EACH ROW",
    ],
)
async def test_what_a_query_removes_precedes_what_it_adds(
    database: Database, log: PostgresEventLog, part: str, trigger: str
) -> None:
    """Even where the row comes back as it was, so that no chain tells."""
    await database.execute(
        """CREATE TABLE audit (v text); CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2);
           CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO audit VALUES (TG_OP); RETURN coalesce(NEW, OLD); END $$;"""
        + (f"CREATE TRIGGER audit {trigger} EXECUTE FUNCTION audit();" if trigger else "")
        + "SELECT realtime.watch('t')"
    )
    before = await contents(database, "t")
    start = (await log.head()).position
    await database.execute(AGAIN + part)
    batch = await log.difference(start)
    assert batch is not None
    assert batch.transactions is not None
    state = dict(before)
    for change in batch.transactions[0].changes:
        if change.old is not None:
            old = json.loads(change.old)
            assert state.pop(old["id"], None) == old
        if change.new is not None:
            new = json.loads(change.new)
            assert new["id"] not in state
            state[new["id"]] = new
    assert state == await contents(database, "t")


async def test_rows_that_a_trigger_of_truncate_makes_outlive_it(database: Database, log: PostgresEventLog) -> None:
    await database.execute(
        """CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
           CREATE FUNCTION seed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (7); RETURN NULL; END $$;
           CREATE TRIGGER aa AFTER TRUNCATE ON t EXECUTE FUNCTION seed(); SELECT realtime.watch('t')"""
    )
    start = (await log.head()).position
    await database.execute("TRUNCATE t")
    batch = await log.difference(start)
    assert batch is not None
    assert batch.transactions is not None
    assert [c.op for c in batch.transactions[0].changes] == ["T", "I"]


async def test_rows_that_the_trigger_of_another_table_makes_outlive_a_truncate_of_both(
    database: Database, log: PostgresEventLog
) -> None:
    await database.execute(
        """CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE chi (id int PRIMARY KEY, p int REFERENCES par);
           INSERT INTO par VALUES (1); INSERT INTO chi VALUES (1, 1);
           CREATE FUNCTION seed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO chi VALUES (1, NULL); RETURN NULL; END $$;
           CREATE TRIGGER aa AFTER TRUNCATE ON par EXECUTE FUNCTION seed();
           SELECT realtime.watch('par'), realtime.watch('chi')"""
    )
    start = (await log.head()).position
    await database.execute("TRUNCATE par CASCADE")
    batch = await log.difference(start)
    assert batch is not None
    assert batch.transactions is not None
    assert [(c.op, c.table.name) for c in batch.transactions[0].changes] == [("T", "par"), ("T", "chi"), ("I", "chi")]
