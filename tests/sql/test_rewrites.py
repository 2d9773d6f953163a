"""What changes rows behind the triggers, or only seems to: the check tells the one, and keeps silent about the other."""

import psycopg
import pytest

from harness.database import Database
from tests.sql.log import events, ops, top

MADE = """
CREATE TYPE en AS ENUM ('a', 'b'); CREATE TYPE addr AS (street text); CREATE DOMAIN nice AS text;
CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 5, b int DEFAULT 5, v text, e en[], ad addr, d nice, g int GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO t (id, v, e) VALUES (1, 'A', '{a}');
SELECT realtime.watch('t'); INSERT INTO t (id, v, e) VALUES (2, 'B', '{b}')"""
CHECK = "SELECT problem FROM realtime.check()"


@pytest.mark.parametrize(
    "rewrite",
    [
        "ALTER TABLE t ALTER v TYPE text USING lower(v)",
        "ALTER TABLE t ALTER b TYPE int USING b * 100",
        "ALTER TABLE t ALTER d TYPE nice USING upper(v)",
        "ALTER TYPE en RENAME VALUE 'a' TO 'c'",
        "ALTER TYPE addr RENAME ATTRIBUTE street TO line1",
        "ALTER TYPE addr ADD ATTRIBUTE town text",
        "ALTER TABLE t DISABLE TRIGGER ALL; UPDATE t SET v = 'x'; ALTER TABLE t ENABLE TRIGGER ALL",
        """BEGIN; ALTER TYPE en RENAME TO en_old; CREATE TYPE en AS ENUM ('a');
           ALTER TABLE t ALTER e TYPE en[] USING ARRAY['a']::en[]; DROP TYPE en_old; COMMIT""",
    ],
)
async def test_what_rewrites_rows_is_told_once(database: Database, rewrite: str) -> None:
    await database.execute(MADE)
    assert await database.execute(CHECK) == []
    since = await top(database)
    await database.execute(rewrite)
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G"
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G"


async def test_a_new_expression_of_a_generated_column_is_told(database: Database) -> None:
    if database.cluster.execute("SHOW server_version_num")[0][0] < "170000":
        pytest.skip("SET EXPRESSION came with PostgreSQL 17")
    await test_what_rewrites_rows_is_told_once(database, "ALTER TABLE t ALTER g SET EXPRESSION AS (a * 3)")


@pytest.mark.parametrize(
    "harmless",
    [
        ["VACUUM FULL t"],
        ["CLUSTER t USING t_pkey"],
        ["ALTER TABLE t ALTER v SET STATISTICS 10", CHECK, "VACUUM FULL t"],
        ["VACUUM FULL t", CHECK, "GRANT SELECT (v) ON t TO PUBLIC"],
        ["ANALYZE t"],
        ["ALTER TYPE en ADD VALUE 'z'"],
        ["ALTER DOMAIN nice ADD CHECK (VALUE <> '')"],
        ["ALTER TABLE t SET (fillfactor = 50)"],
        ["ALTER TABLE t ALTER a SET DEFAULT 7"],
        ["CREATE INDEX ON t (v)"],
        ["TRUNCATE t"],
    ],
)
async def test_what_leaves_the_rows_alone_begins_no_generation(database: Database, harmless: list[str]) -> None:
    await database.execute(MADE)
    since = await top(database)
    for statement in [*harmless, CHECK]:
        await database.execute(statement)
    assert await database.execute(CHECK) == []
    assert await events(database, since, ops="G") == []


async def test_a_label_added_later_and_renamed_then_is_told(database: Database) -> None:
    await database.execute(MADE)
    await database.execute("ALTER TYPE en ADD VALUE 'z'")
    assert await database.execute(CHECK) == []
    since = await top(database)
    await database.execute("ALTER TYPE en RENAME VALUE 'z' TO 'y'")
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G"


async def test_a_rewrite_of_a_partition_is_told(database: Database) -> None:
    await database.execute("""CREATE TABLE p (id int, v text) PARTITION BY RANGE (id);
        CREATE TABLE p_1 PARTITION OF p DEFAULT; SELECT realtime.watch('p'); INSERT INTO p VALUES (1, 'A')""")
    assert await database.execute(CHECK) == []
    since = await top(database)
    await database.execute("VACUUM FULL p_1")
    await database.execute(CHECK)
    assert await events(database, since, ops="G") == []
    await database.execute("ALTER TABLE p ALTER v TYPE text USING lower(v)")
    await database.execute(CHECK)
    assert ops(await events(database, since, ops="G")) == "G"


async def test_a_reload_is_an_event_of_the_table_and_of_no_other(database: Database) -> None:
    await database.execute(MADE)
    since = await top(database)
    gen = await database.value("SELECT realtime.reload('t')")
    assert [(e.op, e.gen) for e in await events(database, since, ops="GRT")] == [("G", gen)]
    await database.execute("CREATE TABLE u (id int)")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="u is not watched"):
        await database.execute("SELECT realtime.reload('u')")


async def test_always_captures_what_a_replicating_session_writes(database: Database) -> None:
    await database.execute(MADE)
    gen = await database.value("SELECT realtime.watch('t', always => true)")
    assert await database.value("SELECT realtime.watch('t')") == gen  # kept where nothing is said of it
    since = await top(database)
    await database.execute("SET session_replication_role = replica; INSERT INTO t (id) VALUES (3); UPDATE t SET v = 'y'"
                           " WHERE id = 3; DELETE FROM t WHERE id = 3; TRUNCATE t")  # fmt: skip
    assert ops(await events(database, since)) == "IUDT"
    assert await database.execute(CHECK) == []
    await database.execute("SELECT realtime.watch('t', always => false)")
    since = await top(database)
    await database.execute("SET session_replication_role = replica; INSERT INTO t (id) VALUES (4)")
    assert await events(database, since) == []
