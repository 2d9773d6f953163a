"""An UPDATE of one row goes another way than one of many: what it leaves in the event log is the same."""

import pytest

from harness.database import Database, rows_of
from tests.sql.log import contents, events, replayed
from tests.sql.test_types import STRANGE, insert, made, settings

LOGGED = """SELECT e.gen, e.op, e.depth, e.ord IS NULL, e.new_vals, e.old_vals, e.new::text, e.old::text
FROM realtime.events e WHERE e.xid = pg_current_xact_id() ORDER BY coalesce(e.old ->> 'id', e.old::text)"""
NAMES = (
    "x",
    "y",
    "r",
    "n",
    "k",
    "vals",
    "w",
    "o",
    "op",
    "OFFSET",
    "here",
    "ord",
    "slot",
    "new_rows",
    "old_rows",
    "found",
)
HOSTILE = "CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t SELECT g, {} FROM generate_series(1, 3) g;".format(
    ", ".join(f'"{name}" int' for name in NAMES), ", ".join("g" for _ in NAMES)
)
TABLES = {
    "plain": ("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)", "a", "a = -a"),
    "hostile": (HOSTILE, "r,OFFSET", '"OFFSET" = 7, new_rows = old_rows + 1'),
    "key": ("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 2)", "a", "id = id + 10"),
    "no change of some": (
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 2)", "a", "a = 2",
    ),
    "virtual": (
        """CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2), j json);
           INSERT INTO t VALUES (1, 1, DEFAULT, '[1, 2]'), (2, 2, DEFAULT, null)""", "a", "a = a + 1",
    ),
    "marked": (
        """CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 2);
           CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
           CREATE TRIGGER same BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION same()""", "a", "a = a + 1",
    ),
}  # fmt: skip


async def both(database: Database, table: str, change: str, before: str = "") -> tuple[list[object], list[object]]:
    """What updating all rows at once leaves in the event log, and what updating them one by one does; both are undone."""
    update = f"UPDATE {table} SET {change}"
    forms = (
        update,
        f"DO $$ DECLARE i int; BEGIN FOR i IN SELECT id FROM {table} LOOP {update} WHERE id = i; END LOOP; END $$",
    )
    found: list[list[object]] = []
    async with await database.connect(autocommit=False) as connection:
        for form in forms:
            await rows_of(connection, before + form)
            found.append(list(await rows_of(connection, LOGGED)))
            await connection.rollback()
    return found[0], found[1]


@pytest.mark.parametrize("case", TABLES)
async def test_one_by_one_is_as_all_at_once(database: Database, case: str) -> None:
    ddl, route, change = TABLES[case]
    if case == "virtual" and (await database.value("SHOW server_version_num")) < "180000":
        pytest.skip("PostgreSQL 18 has them")
    await database.execute(ddl)
    await database.execute("SELECT realtime.watch('t', %s::text[])", [route])
    at_once, singly = await both(database, "t", change)
    assert at_once == singly
    assert len(singly) == (await database.value("SELECT count(*) FROM t")) - (case == "no change of some")


async def test_whatever_the_types_and_settings(database: Database) -> None:
    await made(database)
    await database.execute(insert(1) + insert(2))
    at_once, singly = await both(database, "z", "bo = NOT bo", settings(STRANGE, "SET LOCAL"))
    assert at_once == singly
    assert len(singly) == 2


async def test_while_columns_come_and_go(database: Database) -> None:
    """Before realtime.check() has seen it, and in sessions that know the table as it was."""
    await database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int); SELECT realtime.watch('t', '{a,b}');
           INSERT INTO t VALUES (1, 1, 1, 1), (2, 2, 2, 2)"""
    )
    async with await database.connect() as connection:
        for ddl in ("DROP COLUMN a", "RENAME b TO d", "ADD COLUMN e text DEFAULT 'e'", "ALTER c TYPE text"):
            await rows_of(connection, "UPDATE t SET c = c; UPDATE t SET c = '3' WHERE id = 1; UPDATE t SET c = '4'")
            await database.execute(f"ALTER TABLE t {ddl}")
            at_once, singly = await both(database, "t", "c = '5'")
            assert at_once == singly
            assert len(singly) == 2
            await rows_of(connection, "UPDATE t SET c = '6' WHERE id = 2; UPDATE t SET c = '7'")
    assert [e.op for e in await events(database)][:2] == ["I", "I"]
    assert replayed(await events(database)).keys() == (await contents(database, "t")).keys()
