"""A table and its columns may be called anything (adversarial 30), routes have one spelling."""

import psycopg
import pytest
from psycopg import sql

from harness.database import Database
from tests.sql.log import after, contents, events, ops, replayed

# Every alias, variable and function that the capture function uses, and what else might be misread.
HOSTILE = [
    "x",
    "y",
    "v",
    "k",
    "o",
    "w",
    "n",
    "r",
    "s",
    "e",
    "t",
    "c",
    "id",
    "slot",
    "gen",
    "op",
    "depth",
    "ord",
    "at",
    "xid",
    "new_vals",
    "old_vals",
    "new",
    "old",
    "missing",
    "vals",
    "here",
    "mark",
    "name",
    "found",
    "key",
    "value",
    "new_rows",
    "old_rows",
    "new_json",
    "old_json",
    "tg_op",
    "tg_argv",
    "tg_relid",
    "saved_timezone",
    "row_to_json",
    "nextval",
    "coalesce",
    "realtime",
    "events",
    "event_log_state",
    "pg_catalog",
    "user",
    "select",
    "from",
    "order",
    "null",
    "true",
    "ctid_",
    "capture_1",
    "announce",
]
ODD = [
    'we"ird',
    "per%cent",
    "com,ma",
    "eq=al",
    "co:lon",
    "do.t",
    "sla/sh",
    "spa ce",
    "new\nline",
    "ünï",
    "'quote'",
    "$x$",
    "%s",
    "a\\b",
    "Éé",
    "$capture$",
]


def identifiers(names: list[str], pattern: str) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(pattern).format(sql.Identifier(n)) for n in names)


async def ddl(database: Database, statement: sql.Composed) -> None:
    async with await database.connect() as connection:
        await connection.execute(statement)


@pytest.mark.parametrize("partitioned", [False, True])
async def test_columns_named_like_our_own_words(database: Database, partitioned: bool) -> None:
    names = HOSTILE + ODD
    tail = "PARTITION BY RANGE (id)" if partitioned else ""
    columns = identifiers([n for n in names if n != "id"], "{} int DEFAULT 1")
    await ddl(database, sql.SQL("CREATE TABLE h (id int PRIMARY KEY, {}) " + tail).format(columns))
    if partitioned:
        await database.execute("CREATE TABLE h_0 PARTITION OF h DEFAULT")
    spelled = [await database.value("SELECT realtime.encode_name(%s)", n) for n in names]
    await database.execute("SELECT realtime.watch('h', %s::text[])", spelled)
    found = await after(
        database,
        "INSERT INTO h (id) VALUES (1), (2); UPDATE h SET x = 5, slot = 6 WHERE id = 1; DELETE FROM h WHERE id = 2",
    )
    assert ops(found) == "IIUD"
    assert replayed(found) == await contents(database, "h")
    order = (await database.execute("SELECT vals FROM realtime.generations WHERE name = 'h' AND NOT ended"))[0][0]
    assert sorted(order) == sorted(names)
    assert found[2].new is not None
    assert found[2].new_vals == [str(found[2].new[n]) for n in order]


async def test_columns_that_go_away_leave_nulls_and_no_error(database: Database) -> None:
    """Dropped columns resolve to our nulls, whatever their name; the writes go on before anybody looks."""
    names = [n for n in HOSTILE if n != "id"]
    await ddl(
        database, sql.SQL("CREATE TABLE h (id int PRIMARY KEY, {})").format(identifiers(names, "{} int DEFAULT 1"))
    )
    await database.execute("SELECT realtime.watch('h', %s::text[])", names)
    await ddl(database, sql.SQL("ALTER TABLE h {}").format(identifiers(names, "DROP {}")))
    found = await after(database, "INSERT INTO h VALUES (1); UPDATE h SET id = 2; DELETE FROM h")
    assert [(e.op, e.new_vals, e.old_vals) for e in found] == [
        ("I", ["1", *[None] * len(names)], None),
        ("U", ["2", *[None] * len(names)], ["1", *[None] * len(names)]),
        ("D", None, ["2", *[None] * len(names)]),
    ]


async def test_types_whose_names_have_percent_signs(database: Database) -> None:
    await database.execute(
        """CREATE TYPE "10%s" AS ENUM ('50%', '%I'); CREATE DOMAIN "d%L" AS text; CREATE TYPE "c%%" AS (a "d%L");
           CREATE TABLE "t%s" (id int PRIMARY KEY, e "10%s", d "d%L", c "c%%");
           SELECT realtime.watch('"t%s"', '{e,d}')"""
    )
    write = """INSERT INTO "t%s" VALUES (1, '50%', '%L', ROW('%%')); UPDATE "t%s" SET e = '%I'"""
    found = await after(database, write)
    row = {"id": 1, "e": "50%", "d": "%L", "c": {"a": "%%"}}
    assert [(e.op, e.new) for e in found] == [("I", row), ("U", row | {"e": "%I"})]
    assert await database.execute("SELECT * FROM realtime.check()") == []
    gen = await database.value("SELECT gen FROM realtime.generations WHERE name = 't%s'")
    assert await database.value("SELECT realtime.canonical(%s, 'e', '50%%')", gen) == "50%"
    await database.execute("SELECT realtime.purge()")
    await database.execute("CALL realtime.finish_purges()")
    assert await database.value("SELECT done IS NOT NULL FROM realtime.purges")


async def test_tables_and_schemas_with_odd_names(database: Database) -> None:
    for name in [*ODD, "select", "pg_temp", "Capital"]:
        schema, table = sql.Identifier("s" + name), sql.Identifier("s" + name, name)
        await ddl(database, sql.SQL("CREATE SCHEMA {}").format(schema))
        await ddl(database, sql.SQL("CREATE TABLE {} (id int PRIMARY KEY)").format(table))
        async with await database.connect() as connection:
            await connection.execute("SELECT realtime.watch(%s::regclass)", (table.as_string(connection),))
            await connection.execute(sql.SQL("INSERT INTO {} VALUES (1)").format(table))
        last = (await events(database))[-1]
        assert (last.table, last.new_vals) == (f"s{name}.{name}", ["1"])
    assert await database.execute("SELECT * FROM realtime.check()") == []


@pytest.mark.parametrize("name", [*ODD, "\x01\x1f\x7f", "%2C", "plain", "a b"])
async def test_the_spelling_of_a_name_is_one_and_reversible(database: Database, name: str) -> None:
    encoded, decoded = (
        await database.execute(
            "SELECT realtime.encode_name(%s), realtime.decode_name(realtime.encode_name(%s))", name, name
        )
    )[0]
    assert decoded == name
    assert encoded == "".join(f"%{ord(c):02X}" if c in '%,=:./"' or ord(c) < 32 or ord(c) == 127 else c for c in name)


@pytest.mark.parametrize("bad", ["", ",", "a,", "%", "%2", "%zz", "%00", "%C3%BC"])
async def test_what_is_no_name_is_refused(database: Database, bad: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not a column name in channel grammar"):
        await database.execute("SELECT realtime.watch('posts', ARRAY[%s])", bad)
