"""New texts of capture on a database with watched tables: every table gets its own, nothing is lost, and back again."""

from collections import Counter

from harness.cluster import migrate
from harness.database import Database
from tests.migrations.dump import dump
from tests.migrations.later import NEW, Later
from tests.sql.log import after

TABLES = """
CREATE TABLE "or'ders" (id int PRIMARY KEY, "%s" text, "OFFSET" timestamptz);
CREATE TABLE parts (id int, tenant int, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON UPDATE CASCADE);
CREATE TABLE changed (id int PRIMARY KEY, gone int, kept int); CREATE TABLE dropped (id int PRIMARY KEY);
SELECT realtime.watch(t, r) FROM (VALUES ('"or''ders"'::regclass, '{"%25s"}'::text[]), ('parts', '{}'), ('a', '{}'),
  ('b', '{a}'), ('changed', '{gone,kept}'), ('dropped', '{}')) t(t, r);
INSERT INTO "or'ders" VALUES (1, 'x', now()), (2, 'x', now()); INSERT INTO parts VALUES (1, 1);
INSERT INTO a VALUES (1, 1), (2, 2); INSERT INTO b VALUES (1, 1); INSERT INTO changed VALUES (1, 2, 3);
ALTER TABLE changed DROP COLUMN gone; DROP TABLE dropped"""
LIVE = "SELECT name, gen, capture FROM realtime.generations WHERE NOT ended ORDER BY gen"
SHORT = f"SELECT count(*) FROM pg_proc WHERE prorettype = 'trigger'::regtype AND strpos(prosrc, '{NEW}') > 0"
WRITES = """
UPDATE "or'ders" SET "%s" = 'y' WHERE id = 1; UPDATE "or'ders" SET "OFFSET" = now() + id * interval '1 s';
UPDATE parts SET id = 2; UPDATE a SET id = 10 WHERE id = 1; UPDATE changed SET kept = 4;
UPDATE a SET n = n WHERE id = 2; UPDATE a SET n = n + 1 WHERE id < 0"""


async def test_watched_tables_get_the_new_text_and_back_the_old_one(empty_database: Database, later: Later) -> None:
    database, url = empty_database, empty_database.url
    migrate(url)
    await database.execute(TABLES)
    live, first = await database.execute(LIVE), dump(database.cluster, url)
    later.migrate(url)
    assert await database.execute(LIVE) == live, "what is in the event log, and every position, stays good"
    # posts, notifications, or'ders, a and b; not parts (row triggers), nor what was altered and not yet looked at
    assert await database.value(SHORT) == 5
    found = await after(database, WRITES)
    assert {e.op for e in found} == {"U"}
    assert Counter(e.table for e in found) == {
        "public.or'ders": 3, "public.parts": 1, "public.a": 1, "public.b": 1, "public.changed": 1,
    }  # fmt: skip
    assert [(e.old, e.new) for e in found if e.table == "public.a"] == [({"id": 1, "n": 1}, {"id": 10, "n": 1})]
    assert all(e.new != e.old for e in found)
    later.migrate(url, "downgrade", "-1")
    assert dump(database.cluster, url) == first
    later.migrate(url)
    await database.execute("SELECT * FROM realtime.check()")
    assert await database.value(SHORT) == 6, "the altered table has a new generation, of the new text"


async def test_a_writer_that_is_under_way_keeps_what_it_wrote(empty_database: Database, later: Later) -> None:
    database = empty_database
    migrate(database.url)
    async with await database.connect(autocommit=False) as writer:
        await writer.execute("INSERT INTO posts (author_id) VALUES (1)")
        await writer.execute("UPDATE posts SET title = 'one'")
        later.migrate(database.url)
        await writer.execute("UPDATE posts SET title = 'two'")
        await writer.execute("UPDATE posts SET title = 'two'")
        await writer.commit()
    titles = "SELECT new->>'title' FROM realtime.events WHERE new IS NOT NULL ORDER BY id"
    assert await database.execute(titles) == [("",), ("one",), ("two",)]
