"""Tables that change beneath the triggers (adversarial 19): no write fails, check() sees it and mends or says how."""

import pytest

from harness.database import Database, rows_of
from tests.sql.log import events, ops, top

CHECK = "SELECT gen, schema, name, problem, remedy FROM realtime.check()"
CURRENT = "SELECT gen, name, key, routes, vals FROM realtime.generations WHERE NOT ended AND relid = %s::regclass"


async def made(database: Database, tail: str = "") -> None:
    await database.execute(
        f"""CREATE TABLE t (id int, a int, b text, PRIMARY KEY (id)) {tail};
            {"CREATE TABLE t_0 PARTITION OF t DEFAULT;" * bool(tail)}
            SELECT realtime.watch('t', '{{a,"a,b"}}')"""
    )


@pytest.mark.parametrize("tail", ["", "PARTITION BY RANGE (id)"])
@pytest.mark.parametrize(
    ("change", "row", "vals"),
    [
        ("ADD c int DEFAULT 3", "2, 1, 'x'", ["2", "1", "x"]),
        ("DROP a", "2, 'x'", ["2", None, "x"]),
        ("DROP a, ADD a int", "2, 'x', 1", ["2", "1", "x"]),
        ("RENAME a TO z", "2, 1, 'x'", ["2", None, "x"]),
        ("ALTER a TYPE bigint", "2, 1, 'x'", ["2", "1", "x"]),
        ("ALTER a TYPE jsonb USING to_jsonb(a)", "2, '[1]', 'x'", ["2", "[1]", "x"]),
        ("ALTER a TYPE int[] USING ARRAY[a]", "2, '{1}', 'x'", None),
        ("ALTER a TYPE timestamptz USING now()", "2, now(), 'x'", None),
    ],
)
async def test_a_session_that_has_cached_everything_goes_on_writing(
    database: Database, tail: str, change: str, row: str, vals: list[str | None] | None
) -> None:
    await made(database, tail)
    writes = "UPDATE t SET b = 'y'; DELETE FROM t"
    async with await database.connect() as connection:
        for i in range(10):  # past the point where plans become generic
            await rows_of(connection, f"INSERT INTO t VALUES ({i}, 1, 'x'); {writes}")
        await database.execute(f"ALTER TABLE t {change}")
        since = await top(database)
        await rows_of(connection, f"INSERT INTO t VALUES ({row}); {writes}")
        found = await events(database, since)
    assert ops(found) == "IUD"
    assert found[0].new is not None
    assert set(found[0].new) == set(await columns(database))
    assert found[1].old == found[0].new
    # How a value of a new type is spelled is settled once check() has seen it: no route is promised before.
    assert vals is None or found[0].new_vals == vals


async def columns(database: Database) -> list[str]:
    query = "SELECT attname::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"
    return [name for (name,) in await database.execute(query)]


@pytest.mark.parametrize(
    ("change", "key", "routes", "vals"),
    [
        ("ALTER TABLE t ADD c int", ["id"], ["a", "a,b"], ["id", "a", "b"]),
        ("ALTER TABLE t DROP b", ["id"], ["a"], ["id", "a"]),
        ("ALTER TABLE t RENAME a TO z", ["id"], [], ["id"]),
        ("ALTER TABLE t ALTER a TYPE jsonb USING to_jsonb(a)", ["id"], [], ["id"]),
        ("ALTER TABLE t ALTER a TYPE bigint", ["id"], ["a", "a,b"], ["id", "a", "b"]),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", None, ["a", "a,b"], ["a", "b"]),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a)", ["a"], ["a,b"], ["a", "b"]),
        ("ALTER TABLE t RENAME id TO no", ["no"], ["a", "a,b"], ["no", "a", "b"]),
    ],
)
async def test_check_begins_a_generation_for_a_changed_definition(
    database: Database, change: str, key: list[str] | None, routes: list[str], vals: list[str]
) -> None:
    await made(database)
    before = (await database.execute(CURRENT, "t"))[0][0]
    await database.execute(change)
    since = await top(database)
    assert await database.execute(CHECK) == []
    ((gen, *found),) = await database.execute(CURRENT, "t")
    assert found == ["t", key, routes, vals]
    assert gen > before
    assert [(e.op, e.gen) for e in await events(database, since, ops="G")] == [("G", gen)]
    await database.execute("INSERT INTO t VALUES (5, 6)" if "jsonb" not in change else "INSERT INTO t VALUES (5, '6')")
    last = (await events(database))[-1]
    assert last.gen == gen
    assert len(last.new_vals or []) == len(vals)


async def test_check_writes_nothing_when_nothing_changed(database: Database) -> None:
    await made(database, "PARTITION BY RANGE (id)")
    async with await database.connect(autocommit=False) as connection:
        assert await rows_of(connection, CHECK) == []
        assert await rows_of(connection, "SELECT pg_current_xact_id_if_assigned()") == [(None,)]


async def test_a_renamed_or_moved_table_keeps_its_watch(database: Database) -> None:
    await made(database)
    await database.execute("CREATE SCHEMA other; ALTER TABLE t SET SCHEMA other; ALTER TABLE other.t RENAME TO u")
    assert await database.execute(CHECK) == []
    await database.execute("INSERT INTO other.u VALUES (1)")
    assert (await events(database))[-1].table == "other.u"


async def test_a_dropped_table_goes_off_the_air(database: Database) -> None:
    await made(database)
    gen = (await database.execute(CURRENT, "t"))[0][0]
    await database.execute("DROP TABLE t")
    since = await top(database)
    assert await database.execute(CHECK) == []
    assert [(e.op, e.gen) for e in await events(database, since, ops="G")] == [("G", gen)]
    assert await database.value("SELECT ended FROM realtime.generations WHERE gen = %s", gen)
    assert (
        await database.value(
            "SELECT count(*) FROM pg_proc p JOIN realtime.generations ON starts_with(proname, capture) WHERE gen = %s",
            gen,
        )
        == 0
    )
    assert await database.execute(CHECK) == []
    assert await events(database, since + 1, ops="G") == []


@pytest.mark.parametrize("tail", ["", "PARTITION BY RANGE (id)"])
@pytest.mark.parametrize("what", ["DROP TRIGGER {} ON t", "ALTER TABLE t DISABLE TRIGGER {}"])
@pytest.mark.parametrize("op", ["insert", "update", "delete", "truncate"])
async def test_a_trigger_that_is_gone_or_off_is_told_and_its_remedy_mends_it(
    database: Database, tail: str, what: str, op: str
) -> None:
    await made(database, tail)
    query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgname ~ %s"
    name = await database.value(query, f"realtime_{op}")
    await database.execute(what.format(f'"{name}"'))
    problems = await database.execute(CHECK)
    assert problems
    assert all(op in p[3] and ("missing" in p[3]) == what.startswith("DROP") for p in problems)
    gen = await database.value(problems[0][4])
    assert gen > problems[0][0]
    assert await database.execute(CHECK) == []
    await database.execute("INSERT INTO t VALUES (1, 1); UPDATE t SET a = 2; DELETE FROM t; TRUNCATE t")
    assert ops([e for e in await events(database) if e.gen == gen])[:4] == "IUDT"


async def test_a_disabled_clone_on_a_partition_is_told(database: Database) -> None:
    await made(database, "PARTITION BY RANGE (id)")
    name = await database.value("SELECT tgname FROM pg_trigger WHERE tgrelid = 't_0'::regclass AND tgname ~ 'insert'")
    await database.execute(f'ALTER TABLE t_0 DISABLE TRIGGER "{name}"')
    (problem,) = await database.execute(CHECK)
    assert "t_0 is disabled" in problem[3]
    await database.execute(problem[4])
    await database.execute("INSERT INTO t VALUES (1, 1)")
    assert ops(await events(database)) == "I"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("CREATE TRIGGER mine AFTER INSERT ON t EXECUTE FUNCTION suppress_redundant_updates_trigger()", "mark"),
        ("CREATE TABLE child (t int REFERENCES t ON DELETE CASCADE)", "mark"),
        ("CREATE TABLE heir () INHERITS (t)", "inherit"),
        ("CREATE TABLE elder (id int NOT NULL, a int, b text); ALTER TABLE t INHERIT elder", "by row"),
        ("ALTER TABLE t SET UNLOGGED", "unlogged"),
    ],
)
async def test_what_only_the_owner_can_mend_is_told(database: Database, change: str, word: str) -> None:
    await made(database)
    await database.execute(change)
    (problem,) = await database.execute(CHECK)
    assert word in problem[3]
    if word in {"mark", "by row"}:
        await database.execute(problem[4])
        assert await database.execute(CHECK) == []


async def test_check_does_not_wait_for_a_watch_under_way(database: Database) -> None:
    await made(database)
    await database.execute("CREATE TABLE u (id int)")
    async with await database.connect(autocommit=False) as busy:
        await rows_of(busy, "SELECT realtime.watch('u')")
        assert await database.execute("SET lock_timeout = '1ms'; " + CHECK) == []


async def test_a_table_made_anew_under_its_name_ends_the_old_one_at_once(database: Database) -> None:
    await made(database)
    old = (await database.execute(CURRENT, "t"))[0][0]
    await database.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY)")
    since = await top(database)
    new = await database.value("SELECT realtime.watch('t')")
    assert [(e.op, e.gen) for e in await events(database, since, ops="G")] == [("G", old), ("G", new)]
    assert await database.execute("SELECT gen FROM realtime.generations WHERE name = 't' AND NOT ended") == [(new,)]
    assert await database.execute(CHECK) == []
    assert [e.gen for e in await events(database, since, ops="G")] == [old, new]


async def test_a_table_swapped_for_another_goes_on_under_its_new_name_at_once(database: Database) -> None:
    await made(database)
    old = (await database.execute(CURRENT, "t"))[0][0]
    await database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    await database.execute("BEGIN; ALTER TABLE t RENAME TO t_old; ALTER TABLE other RENAME TO t; COMMIT")
    since = await top(database)
    new = await database.value("SELECT realtime.watch('t')")
    renamed = (await database.execute(CURRENT, "t_old"))[0]
    assert renamed[1] == "t_old"
    assert old < renamed[0] < new
    assert [e.gen for e in await events(database, since, ops="G")] == [renamed[0], new]
    await database.execute("INSERT INTO t VALUES (1); INSERT INTO t_old VALUES (1, 1, 'x')")
    assert [e.gen for e in await events(database, since)] == [new, renamed[0]]
    assert await database.execute(CHECK) == []
