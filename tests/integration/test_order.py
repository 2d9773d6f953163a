"""The order inside a transaction, whether it is held whole or read in pages: forms that told the wrong row once."""

import pytest

from app.postgres import large, pages
from app.postgres.event_log import PostgresEventLog
from harness.database import Database
from tests.integration import story

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL);"
PARTS = """CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL) PARTITION BY RANGE (id);
  CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (3); CREATE TABLE t_2 PARTITION OF t DEFAULT;"""
PARENTS = f"{PARTS} ALTER TABLE t ADD parent int REFERENCES t ON DELETE CASCADE;"
SELF = TABLE.replace(");", ", parent int REFERENCES t ON UPDATE CASCADE);")
AUDIT = "CREATE TABLE audit (v int);"


def trigger(name: str, when: str, body: str) -> str:
    return f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF pg_trigger_depth() < 2 THEN {body}; END IF; RETURN coalesce(NEW, OLD); END $$;
      CREATE TRIGGER {name} {when} EXECUTE FUNCTION {name}();"""


TOGGLE = trigger(
    "f", "AFTER UPDATE ON t FOR EACH ROW", "UPDATE t SET v = 1 - v WHERE id = NEW.id + 1; INSERT INTO audit VALUES (1)"
)
AGAIN = trigger("f", "AFTER DELETE ON t FOR EACH ROW", "INSERT INTO t VALUES (2, 0) ON CONFLICT DO NOTHING")
FIRST = trigger("f", "BEFORE UPDATE ON t FOR EACH ROW", "UPDATE t SET v = v + 9 WHERE id = NEW.id - 1")
MOVES = "WITH u AS (UPDATE t SET id = id + 100 WHERE id < 3 RETURNING *)"
FORMS = {
    "partitions, a trigger that takes back": (PARTS + AUDIT + TOGGLE, "UPDATE t SET v = 1 - v"),
    "on a partition alone": (PARTS + AUDIT + TOGGLE.replace("ON t ", "ON t_1 "), "UPDATE t SET v = 1 - v"),
    "partitions, a row that stays": (PARTS + AGAIN, "DELETE FROM t WHERE id < 4"),
    "two statements": (PARTS + AGAIN, "DELETE FROM t WHERE id = 2; DELETE FROM t WHERE id = 2"),
    "partitions, before": (PARTS + FIRST, "UPDATE t SET v = v + 1 WHERE id IN (2, 4)"),
    "partitions, rows that move": (
        PARTS + AUDIT + TOGGLE, "UPDATE t SET id = id + 9 WHERE id < 3; UPDATE t SET v = 1 - v"
    ),
    "partitions, a cascade": (PARENTS + AGAIN, "UPDATE t SET parent = 1 WHERE id = 2; DELETE FROM t WHERE id = 1"),
    "a key that is taken, and a cascade": (SELF, "UPDATE t SET parent = id; UPDATE t SET id = id - 1"),
    "partitions, keys that are handed on": (PARENTS.replace("DELETE", "UPDATE"), "UPDATE t SET id = id - 1"),
    "several rows that move": (TABLE, f"{MOVES} INSERT INTO t SELECT id - 100, v FROM u LIMIT 1"),
    "one of them": (TABLE, f"{MOVES.replace('100', '100 * (id % 2)')} INSERT INTO t SELECT 1, v FROM u LIMIT 1"),
    "moved in statements": (
        TABLE, "UPDATE t SET id = id + 5 WHERE id < 3; INSERT INTO t VALUES (1, 0); UPDATE t SET id = id + 10"
    ),
}  # fmt: skip
RESETS = {"a key that is taken, and a cascade"}  # in pages


def in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGE_CHANGES", 0)
    monkeypatch.setattr(large, "PAGE_CHANGES", 3)


@pytest.mark.parametrize("form", FORMS)
async def test_each_row_is_told_in_order_on_both_roads(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    schema, statements = FORMS[form]
    await database.execute(schema)
    await database.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 5) g; SELECT realtime.watch('t')")
    start = (await log.head()).position
    before = await story.truth(database, "t")
    await database.execute(f"BEGIN; {statements}; COMMIT")
    batch = await log.difference(start)
    assert batch is not None
    (whole,) = await story.replayed(log, start, batch.upto)
    assert not whole.schema
    assert story.apply(whole.changes, before) == await story.truth(database, "t")
    in_pages(monkeypatch)
    (cut,) = await story.replayed(log, start, batch.upto)
    assert bool(cut.schema) == (form in RESETS)
    if not cut.schema:
        assert story.apply(cut.changes, before) == await story.truth(database, "t")


async def test_a_large_transaction_whose_rows_contradict_its_order_is_a_reset(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table bears no marks yet. In pages only the chain could tell, and there it is not followed. The other table's
    changes are told."""
    await database.execute(TABLE + AUDIT + "SELECT realtime.watch('t'), realtime.watch('audit')")
    start = (await log.head()).position
    await database.execute(TOGGLE)
    await database.execute(
        "BEGIN; INSERT INTO t SELECT g, 0 FROM generate_series(1, 5) g; UPDATE t SET v = v + 1; COMMIT"
    )
    batch = await log.difference(start)
    assert batch is not None
    (whole,) = await story.replayed(log, start, batch.upto)
    assert story.apply([c for c in whole.changes if c.table.name == "t"]) == await story.truth(database, "t")
    in_pages(monkeypatch)
    (cut,) = await story.replayed(log, start, batch.upto)
    assert [table.name for table in cut.schema] == ["t"]
    assert [c.id for c in cut.changes] == [c.id for c in whole.changes if c.table.name == "audit"]
