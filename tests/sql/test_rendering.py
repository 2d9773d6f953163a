"""What a row holds never makes a write fail: no row is parsed, a huge one goes as its key, owners' casts have no rights."""

import json
from typing import Any

import psycopg
import pytest

from harness.database import Database, rows_of
from tests.sql.log import after, events, ops, top

TABLES = {
    "plain": "CREATE TABLE t (id int PRIMARY KEY, doc json, n text, big text)",
    "partitioned": """CREATE TABLE t (id int PRIMARY KEY, doc json, n text, big text) PARTITION BY RANGE (id);
        CREATE TABLE t_0 PARTITION OF t DEFAULT""",
    "virtual": "CREATE TABLE t (id int PRIMARY KEY, doc json, n text, low text GENERATED ALWAYS AS (lower(n)) VIRTUAL, big text)",
}
RAW = "SELECT op, new::text, old::text FROM realtime.events WHERE id > %s AND op <> 'G' ORDER BY id, n"


async def made(database: Database, kind: str) -> None:
    if kind == "virtual" and (await database.value("SHOW server_version_num")) < "180000":
        pytest.skip("PostgreSQL 18 has them")
    await database.execute(TABLES[kind] + "; SELECT realtime.watch('t', '{n}')")


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("doc", [r'{"a":"x\u0000"}', r'{"a":"\ud83d"}', r'{"low":1, "low":null, "a":{"low":null}}'])
async def test_what_a_json_column_holds_is_left_as_it_is(database: Database, kind: str, doc: str) -> None:
    await made(database, kind)
    since = await top(database)
    await database.execute("INSERT INTO t (id, doc, n) VALUES (1, %s, 'A')", doc)
    await database.execute("UPDATE t SET n = 'B'")
    await database.execute("DELETE FROM t")
    first, second = (f'{{"id":1,"doc":{doc},"n":"{n}","big":null}}' for n in "AB")
    assert await database.execute(RAW, since) == [("I", first, None), ("U", second, first), ("D", None, second)]


@pytest.mark.parametrize("kind", ["plain", "partitioned"])
async def test_a_virtual_column_that_comes_later_breaks_nothing(database: Database, kind: str) -> None:
    if (await database.value("SHOW server_version_num")) < "180000":
        pytest.skip("PostgreSQL 18 has them")
    await made(database, kind)
    async with await database.connect() as writer:
        await rows_of(writer, "INSERT INTO t (id, n) VALUES (1, 'A'); UPDATE t SET n = 'B'")
        await database.execute("ALTER TABLE t ADD low text GENERATED ALWAYS AS (lower(n)) VIRTUAL")
        await rows_of(writer, r"""INSERT INTO t (id, doc) VALUES (2, '{"a":"\u0000"}'); UPDATE t SET n = 'C'""")
        assert await database.execute("SELECT * FROM realtime.check()") == []
        since = await top(database)
        await rows_of(writer, r"UPDATE t SET n = 'D'; DELETE FROM t")
    shown = {
        key
        for _, new, old in await database.execute(RAW, since)
        for row in (new, old)
        if row
        for key in json.loads(row)
    }
    assert shown == {"id", "doc", "n", "big"}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("big", ["repeat('x', 70000000)", r"repeat(E'\x01', 12000000)"])
async def test_a_row_too_large_for_the_event_log_goes_as_its_key(database: Database, kind: str, big: str) -> None:
    await made(database, kind)
    since = await top(database)
    await database.execute(
        f"""INSERT INTO t (id, n, big) VALUES (1, 'A', {big}); UPDATE t SET n = 'B' WHERE id = 1;
            INSERT INTO t (id, n) VALUES (2, 'C'); UPDATE t SET n = n || '!'; UPDATE t SET big = 'small' WHERE id = 1;
            DELETE FROM t WHERE id = 1""",
    )
    key, small = None, '{"id":1,"doc":null,"n":"B!","big":"small"}'
    other, changed = (f'{{"id":2,"doc":null,"n":"{n}","big":null}}' for n in ("C", "C!"))
    found = await database.execute(RAW, since)
    assert set(found[3:5]) == {("U", key, key), ("U", changed, other)}
    assert found[:3] + found[5:] == [
        ("I", key, None), ("U", key, key), ("I", other, None), ("U", small, key), ("D", None, small)
    ]  # fmt: skip
    assert [(e.new_vals, e.old_vals) for e in (await events(database, since))[:2]] == [
        (["1", "A"], None),
        (["1", "B"], ["1", "A"]),
    ]


async def test_numerics_that_are_larger_in_json_than_stored(database: Database) -> None:
    found = await after(
        database,
        """CREATE TABLE t (id int PRIMARY KEY, n numeric[]); SELECT realtime.watch('t');
           INSERT INTO t SELECT 1, array_agg(1e131071) FROM generate_series(1, 1000); DELETE FROM t""",
    )
    assert [(e.op, e.new, e.old) for e in found] == [("I", None, None), ("D", None, None)]


MINE = """
CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}; SET SESSION AUTHORIZATION {role};
CREATE SCHEMA mine; CREATE TABLE mine.loot (who text, what text); GRANT ALL ON mine.loot TO PUBLIC; GRANT USAGE ON SCHEMA mine TO PUBLIC;
CREATE TYPE mine.mood AS ENUM ('ok', 'go');
CREATE FUNCTION mine.loot(m mine.mood) RETURNS text LANGUAGE plpgsql AS $f$ DECLARE got text; BEGIN
  BEGIN SELECT string_agg(new::text, '') INTO got FROM realtime.events; EXCEPTION WHEN OTHERS THEN got := SQLERRM; END;
  INSERT INTO mine.loot VALUES (current_user, 'read: ' || got);
  BEGIN EXECUTE 'CREATE OR REPLACE FUNCTION realtime.refuse(rel regclass) RETURNS void LANGUAGE sql AS ''SELECT'''; got := 'did'; EXCEPTION WHEN OTHERS THEN got := SQLERRM; END;
  INSERT INTO mine.loot VALUES (current_user, 'replace: ' || got);
  RETURN '"x"'; END $f$;
CREATE FUNCTION mine.loot_json(m mine.mood) RETURNS json LANGUAGE sql AS 'SELECT mine.loot(m)::json';
CREATE FUNCTION mine.told(v text) RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN
  INSERT INTO mine.loot VALUES (current_user, 'checked'); RETURN true; END $f$;
CREATE DOMAIN mine.checked AS text CHECK (mine.told(VALUE));
CREATE TABLE mine.t (id int PRIMARY KEY, m mine.mood, d mine.checked) {tail};
{partition}
CREATE TABLE mine.later (id int PRIMARY KEY, a int);
RESET SESSION AUTHORIZATION;
INSERT INTO posts (author_id, title) VALUES (1, 'secret');
SELECT realtime.watch('mine.t', '{{m,d}}'), realtime.watch('mine.later', '{{a}}');
"""
CASTS = """
SET SESSION AUTHORIZATION {role};
CREATE CAST (mine.mood AS json) WITH FUNCTION mine.loot_json(mine.mood); CREATE CAST (mine.mood AS text) WITH FUNCTION mine.loot(mine.mood);
CREATE CAST (text AS mine.mood) WITH INOUT"""
LOOT = "SELECT DISTINCT who, what FROM mine.loot"


@pytest.mark.parametrize("tail", ["", "PARTITION BY RANGE (id)"])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_what_owners_of_types_make_runs_with_no_right(database: Database, tail: str, isolation: str) -> None:
    role = f"owner_of_{database.name}"
    partition = "CREATE TABLE mine.t_0 PARTITION OF mine.t DEFAULT;" * bool(tail)
    await database.execute(MINE.format(role=role, database=database.name, tail=tail, partition=partition))
    try:
        async with await database.connect() as owner:
            await rows_of(owner, f"SET SESSION AUTHORIZATION {role}; INSERT INTO mine.later VALUES (1, 1)")  # planned
            await rows_of(owner, f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1")
            await database.execute(CASTS.format(role=role))
            await database.execute(f"SET ROLE {role}; ALTER TABLE mine.later ADD m mine.mood; TRUNCATE mine.loot")
            await rows_of(
                owner, "INSERT INTO mine.t VALUES (1, 'ok', 'a'); UPDATE mine.t SET m = 'go'; DELETE FROM mine.t"
            )
            await rows_of(owner, "INSERT INTO mine.later VALUES (2, 2, 'ok'); UPDATE mine.later SET m = 'go'; COMMIT")
        ran = [
            row for row in await database.execute(LOOT) if row[0] != role
        ]  # the owner's own INSERT checks the domain
        assert set(ran) <= {
            ("realtime_nobody", "read: permission denied for table events"),
            ("realtime_nobody", "replace: permission denied for schema realtime"),
        }
        values = [(e.new_vals, e.old_vals) for e in await events(database) if e.table == "mine.t"]
        assert values == [(["1", "ok", "a"], None), (["1", "go", "a"], ["1", "ok", "a"]), (None, ["1", "go", "a"])]
    finally:
        await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_a_channel_s_value_is_spelled_without_an_owner_s_check(database: Database) -> None:
    role = f"owner_of_{database.name}"
    await database.execute(
        MINE.format(role=role, database=database.name, tail="", partition="") + CASTS.format(role=role)
    )
    try:
        gen = await database.value("SELECT gen FROM realtime.generations WHERE name = 't'")
        for name, value in (("d", "anything"), ("m", "go")):
            assert await database.value("SELECT realtime.canonical(%s, %s, %s)", gen, name, value) == value
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="enum"):
            await database.execute("SELECT realtime.canonical(%s, 'm', 'sad')", gen)
        assert await database.execute(LOOT) == []
    finally:
        await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.mark.parametrize("kind", ["plain", "partitioned"])
async def test_capture_writes_only_for_its_own_table(database: Database, kind: str) -> None:
    """As where a table was restored by name: it bears the triggers of another."""
    await made(database, kind)
    await database.execute(TABLES[kind].replace("TABLE t", "TABLE u").replace("OF t ", "OF u "))
    for (ddl,) in await database.execute(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal"
    ):
        await database.execute(str(ddl).replace(" public.t ", " public.u "))
    writes = "INSERT INTO {0} VALUES (1, NULL, 'a'); UPDATE {0} SET n = 'b'; DELETE FROM {0}; TRUNCATE {0}"
    assert await after(database, writes.format("u")) == []
    problems: list[Any] = [
        p for p in await database.execute("SELECT problem, remedy FROM realtime.check()") if "u bears" in p[0]
    ]
    assert problems
    assert all("restored" in problem and remedy.startswith("DROP TRIGGER") for problem, remedy in problems)
    gen = await database.value("SELECT gen FROM realtime.generations WHERE name = 't' AND NOT ended")
    assert await database.value("SELECT realtime.watch('t', '{n}')") == gen
    for _, remedy in problems:
        await database.execute(remedy)
    assert await database.execute("SELECT * FROM realtime.check()") == []
    assert ops(await after(database, writes.format("t")))[:3] == "IUD"
