"""Partitioned and inheriting tables (adversarial 15, 16): every change of a row, and a sign where none can be told."""

import pytest

from harness.database import Database
from tests.sql.log import after, contents, events, ops, replayed, top

TREE = """
CREATE TABLE p (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p_2 (v text, gone int, at int NOT NULL, id int NOT NULL);
ALTER TABLE p_2 DROP gone; ALTER TABLE p ATTACH PARTITION p_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE p_3 PARTITION OF p FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (at);
CREATE TABLE p_3_1 PARTITION OF p_3 FOR VALUES FROM (20) TO (30);
SELECT realtime.watch('p', '{v}')"""
CHECK = "SELECT gen, problem, remedy FROM realtime.check()"


async def test_rows_of_every_partition_by_whatever_name(database: Database) -> None:
    await database.execute(TREE)
    found = await after(
        database,
        """INSERT INTO p VALUES (1, 5, 'a'), (2, 15, 'b'), (3, 25, 'c');
           INSERT INTO p_2 (id, at, v) VALUES (4, 16, 'd');
           UPDATE p_2 SET v = 'e' WHERE id = 4; UPDATE p SET v = v WHERE id = 1; DELETE FROM p_3_1;
           UPDATE p SET at = 25 WHERE id = 1;
           INSERT INTO p VALUES (2, 15, 'x') ON CONFLICT (id, at) DO UPDATE SET v = 'y'""",
    )
    assert ops(found) == "IIIIUDDIU"
    assert [e.new_vals or e.old_vals for e in found if e.op in "DI"][-3:] == [
        ["3", "25", "c"],
        ["1", "5", "a"],
        ["1", "25", "a"],
    ]
    assert replayed(found) == await contents(database, "p")
    assert {e.table for e in found} == {"public.p"}


async def test_merge_that_moves_a_row_between_partitions_is_captured(database: Database) -> None:
    await database.execute(TREE)
    found = await after(
        database,
        """INSERT INTO p VALUES (1, 5, 'a');
           MERGE INTO p USING (VALUES (1)) x(id) ON p.id = x.id WHEN MATCHED THEN UPDATE SET at = 15""",
    )
    assert replayed(found) == await contents(database, "p")


async def test_a_truncate_of_the_parent_is_t_and_of_a_partition_is_r(database: Database) -> None:
    await database.execute(TREE)
    parent = await after(database, "TRUNCATE p")
    assert ops(parent) == "TRRRR"
    assert [e.id for e in parent] == list(range(parent[0].id, parent[0].id + 5))
    assert ops(await after(database, "TRUNCATE p_1")) == "R"
    assert ops(await after(database, "TRUNCATE p_3")) == "RR"
    assert ops(await after(database, "BEGIN; TRUNCATE p; ROLLBACK")) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (40) TO (50)", False),
        ("CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (40) TO (50); INSERT INTO p VALUES (1, 45, 'a')", False),
        ("CREATE TABLE p_4 (LIKE p); ALTER TABLE p ATTACH PARTITION p_4 DEFAULT", False),
        (("CREATE TABLE p_4 AS SELECT 9 id, 99 AS at, '' v; ALTER TABLE p_4 ALTER id SET NOT NULL, ALTER at SET NOT NULL;"
         "ALTER TABLE p ATTACH PARTITION p_4 DEFAULT"), True),
        ("ALTER TABLE p DETACH PARTITION p_1", False),
        ("DROP TABLE p_1", False),
        ("INSERT INTO p VALUES (1, 5, 'a'); ALTER TABLE p DETACH PARTITION p_1", True),
        ("INSERT INTO p VALUES (1, 5, 'a'); DROP TABLE p_1", True),
        (("CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (40) TO (50) PARTITION BY RANGE (at);"
         "CREATE TABLE p_4_1 PARTITION OF p_4 DEFAULT"), False),
    ],
)  # fmt: skip
async def test_partitions_that_come_and_go_are_ordinary_unless_rows_went_with_them(
    database: Database, change: str, told: bool
) -> None:
    await database.execute(TREE)
    since = await top(database)
    await database.execute(change)
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="G")) == "G" * told
    since = await top(database)
    assert await database.execute(CHECK) == []
    await database.execute("SELECT realtime.watch('p', '{v}')")  # mends what needs no word, and is no news
    assert await events(database, since, ops="G") == []


async def test_a_partition_that_came_later_is_captured_and_its_own_truncate_is_told(database: Database) -> None:
    await database.execute(TREE)
    await database.execute("CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (40) TO (50)")
    assert await database.execute(CHECK) == []
    assert ops(await after(database, "INSERT INTO p VALUES (1, 45, 'a')")) == "I"
    assert await database.execute(CHECK) == []
    since = await top(database)
    await database.execute("TRUNCATE p_4")
    assert await database.execute(CHECK) == []
    assert ops(await events(database, since, ops="GR")) == "G"  # no trigger could say so: the check did
    await database.execute("SELECT realtime.watch('p', '{v}')")
    assert ops(await after(database, "TRUNCATE p_4")) == "R"
    await database.execute("ALTER TABLE p DETACH PARTITION p_4")
    assert ops(await after(database, "INSERT INTO p_4 VALUES (1, 45, 'a')")) == ""


async def test_a_partition_watched_beside_its_parent_has_both_streams(database: Database) -> None:
    await database.execute(TREE + "; SELECT realtime.watch('p_3'); SELECT realtime.watch('p_3_1')")
    found = await after(database, "INSERT INTO p VALUES (1, 25, 'a'); UPDATE p SET at = 5; TRUNCATE p_3")
    streams = {table: ops([e for e in found if e.table == f"public.{table}"]) for table in ("p", "p_3", "p_3_1")}
    assert streams == {"p": "IDIRR", "p_3": "IDTR", "p_3_1": "IDT"}
    assert await database.execute(CHECK) == []
    await database.execute("SELECT realtime.unwatch('p')")
    found = await after(database, "INSERT INTO p VALUES (2, 25, 'a'), (3, 5, 'a')")
    assert sorted((e.table, e.new_vals) for e in found) == [("public.p_3", ["2", "25"]), ("public.p_3_1", ["2", "25"])]


async def test_an_heir_is_captured_when_written_through_its_elder(database: Database) -> None:
    await database.execute(
        """CREATE TABLE elder (id int, v text); CREATE TABLE heir (w int, PRIMARY KEY (id)) INHERITS (elder);
           SELECT realtime.watch('heir')"""
    )
    found = await after(database, "INSERT INTO heir VALUES (1, 'a', 2); UPDATE elder SET v = 'b'; DELETE FROM elder")
    assert [(e.op, e.new) for e in found] == [
        ("I", {"id": 1, "v": "a", "w": 2}), ("U", {"id": 1, "v": "b", "w": 2}), ("D", None),
    ]  # fmt: skip
    assert ops(await after(database, "TRUNCATE elder")) == "T"


async def test_a_watched_table_that_becomes_a_partition_is_told(database: Database) -> None:
    await database.execute(TREE.replace("SELECT realtime.watch('p', '{v}')", ""))
    await database.execute(
        """CREATE TABLE own (id int NOT NULL, at int NOT NULL, v text, PRIMARY KEY (id, at));
           SELECT realtime.watch('own');
           ALTER TABLE p ATTACH PARTITION own DEFAULT"""
    )
    (problem,) = await database.execute(CHECK)
    assert "by row" in problem[1]
    await database.execute(problem[2])
    assert ops(await after(database, "INSERT INTO p VALUES (1, 99, 'a')")) == "I"
