"""Worlds that hypothesis makes: tables that refer to each other, with triggers and rules of an application, and
transactions of statements of every form that SQL has, on few keys, so that all of it meets.

A world is text: what it was made from is what a failure prints, and what can be run by hand.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

TABLES = ("a", "b", "c")
KEYS = 5
PARTS = """ PARTITION BY RANGE (id);
CREATE TABLE {0}_1 PARTITION OF {0} FOR VALUES FROM (MINVALUE) TO (3); CREATE TABLE {0}_2 PARTITION OF {0} DEFAULT;"""
GUARD = "IF pg_trigger_depth() > 2 THEN RETURN coalesce(NEW, OLD); END IF;"

keys = st.integers(1, KEYS)
tables = st.sampled_from(TABLES)


@dataclass(frozen=True)
class World:
    """Its tables and their triggers, the transactions of one writer, and those of others beside."""

    schema: str
    transactions: list[list[str]]
    beside: list[list[str]]

    def __repr__(self) -> str:
        parts = [";\n".join(["BEGIN", *t, "COMMIT;"]) for t in self.transactions]
        others = [f"-- beside: {'; '.join(t)}" for t in self.beside]
        return "\n" + "\n".join([self.schema, *others, *parts])


def function(name: str, body: str) -> str:
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {GUARD} {body}"
        " RETURN coalesce(NEW, OLD); END $$;"
    )


@st.composite
def bodies(draw: st.DrawFn, table: str, marked: set[str], *, row: bool, before: bool) -> str:
    """What a trigger does: nothing, an audit, or something to a row of one of the tables. A BEFORE trigger writes to its
    own table alone, removes no row of it and gives none another key, for the row may be one that the same query has
    just written: order can't tell that. Nor can it tell one that puts back unchanged a row which another part of the
    query has deleted, and of an AFTER trigger not where that is a row of a table without marks: what these make is new
    each time."""
    other = table if before else draw(tables)
    made, remade = ("nextval('made')", "nextval('made')") if before or other not in marked else ("50", "60")
    key = draw(st.sampled_from(("coalesce(NEW.id, OLD.id)", str(draw(keys))))) if row else str(draw(keys))
    choices = [
        "INSERT INTO audit VALUES (TG_OP);",
        "PERFORM 1;",
        f"INSERT INTO {other} (id, v) VALUES ({key}, {made}) ON CONFLICT DO NOTHING;",
        f"UPDATE {other} SET v = v + 10 WHERE id = {key};",
        f"UPDATE {table} SET v = v + 20 WHERE id = {key};",
        f"INSERT INTO {other} (id, v) VALUES ({key}, {remade}) ON CONFLICT (id) DO UPDATE SET v = {other}.v + 5;",
    ]
    if not before:
        choices += [
            f"DELETE FROM {other} WHERE id = {key};",
            f"INSERT INTO audit VALUES (TG_OP); UPDATE {other} SET id = {key} + 5 WHERE id = {key};",
        ]
    return draw(st.sampled_from(choices))


@st.composite
def triggers(draw: st.DrawFn, table: str, number: int, marked: set[str]) -> str:
    row = draw(st.booleans())
    when = draw(st.sampled_from(("BEFORE", "AFTER", "AFTER")))
    op = draw(
        st.sampled_from(("INSERT", "UPDATE", "DELETE", "INSERT OR UPDATE", "INSERT OR UPDATE OR DELETE", "UPDATE OF v"))
    )
    if not row and draw(st.integers(0, 5)) == 0:
        op = "TRUNCATE"
    body = draw(bodies(table, marked, row=row, before=when == "BEFORE"))
    if row and when == "BEFORE" and op in ("INSERT", "UPDATE", "INSERT OR UPDATE") and draw(st.booleans()):
        body = "NEW.v := NEW.v + 1;" + draw(st.sampled_from(("", body)))
    name = draw(st.sampled_from(("aa", "zz"))) + f"_{table}_{number}"
    deferred = "CONSTRAINT " if row and when == "AFTER" and "OF" not in op and draw(st.integers(0, 6)) == 0 else ""
    late = "DEFERRABLE INITIALLY DEFERRED " if deferred else ""
    if deferred:  # what it does never calls it again for ever
        body = f"INSERT INTO {draw(tables)} (id, v) VALUES ({draw(keys)}, 70) ON CONFLICT DO NOTHING;"
    return function(name, body) + (
        f"CREATE {deferred}TRIGGER {name} {when} {op} ON {table} {late}FOR EACH {'ROW' if row else 'STATEMENT'} "
        f"EXECUTE FUNCTION {name}();"
    )


@st.composite
def schemas(draw: st.DrawFn) -> str:
    parts = ["CREATE TABLE audit (op text); CREATE SEQUENCE made START 1000 INCREMENT 100;"]
    deferrable = draw(st.sampled_from(("", "", " DEFERRABLE")))
    for i, table in enumerate(TABLES):
        refers = draw(st.sampled_from(TABLES[: i + 1])) if not deferrable and draw(st.booleans()) else None
        actions = ("CASCADE", "SET NULL", "NO ACTION", "SET DEFAULT")
        foreign = (
            f" REFERENCES {refers} ON DELETE {draw(st.sampled_from(actions))} ON UPDATE {draw(st.sampled_from(actions))}"
            if refers
            else ""
        )
        parted = draw(st.integers(0, 3)) == 0
        parts.append(
            f"CREATE TABLE {table} (id int PRIMARY KEY{deferrable}, v int DEFAULT 0, r int{foreign})"
            + (PARTS.format(table) if parted else ";")
        )
    parts.append(
        "CREATE FUNCTION touch(k int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
        f" UPDATE {draw(tables)} SET v = v + 7 WHERE id = k; RETURN k; END $$;"
    )
    counts = {table: draw(st.sampled_from((0, 0, 1, 1, 2))) for table in TABLES}
    marked = {table for table, count in counts.items() if count}
    parts += [draw(triggers(table, n, marked)) for table, count in counts.items() for n in range(count)]
    if draw(st.integers(0, 9)) == 0:
        table = draw(tables)
        parts.append(f"CREATE RULE also AS ON UPDATE TO {table} DO ALSO INSERT INTO audit VALUES ('rule');")
    if draw(st.integers(0, 9)) == 0:
        one, other = draw(tables), draw(tables)
        parts.append(
            f"CREATE RULE others AS ON DELETE TO {one} WHERE old.id > 3 DO ALSO UPDATE {other} SET v = v + 3 WHERE id = 1;"
        )
    return "\n".join(parts)


def chosen(draw: st.DrawFn) -> str:
    return draw(
        st.sampled_from((f"id = {draw(keys)}", f"id IN ({draw(keys)}, {draw(keys)})", f"id > {draw(keys)}", "true"))
    )


def refers(draw: st.DrawFn) -> str:
    return str(draw(keys)) if draw(st.integers(0, 2)) == 0 else "NULL"


@st.composite
def actions(draw: st.DrawFn, source: str = "", *, alone: bool = True) -> str:
    """INSERT, UPDATE or DELETE; of what another part of the query returned, where there is a source. What is inserted
    beside other parts refers to nothing: a part that deletes what it refers to would be what order can't tell."""
    table, kind = draw(tables), draw(st.sampled_from("IIUUDK"))
    limit = draw(st.sampled_from(("", "", " LIMIT 1"))) if source else ""
    if kind == "I":
        step, value = draw(st.sampled_from((0, 0, 0, 1, 5))), draw(st.sampled_from(("v", "v + 1")))
        rows = (
            f"SELECT id + {step}, {value}, NULL FROM {source}{limit}"
            if source
            else f"VALUES ({draw(keys)}, {draw(st.integers(0, 3))}, {refers(draw) if alone else 'NULL'})"
            + draw(st.sampled_from(("", f", ({draw(keys)}, 9, NULL)")))
        )
        conflict = draw(
            st.sampled_from(("", " ON CONFLICT DO NOTHING", f" ON CONFLICT (id) DO UPDATE SET v = {table}.v + 1"))
        )
        return f"INSERT INTO {table} {rows}{conflict}"
    where = f"id IN (SELECT id FROM {source}{limit})" if source and draw(st.booleans()) else chosen(draw)
    if kind == "D":
        return f"DELETE FROM {table} WHERE {where}"
    if kind == "U":
        what = draw(st.sampled_from(("v = v + 1", "v = v + 1", "v = v", "r = NULL", f"r = {draw(keys)}")))
        return f"UPDATE {table} SET {what} WHERE {where}"
    what = draw(st.sampled_from((f"id = {KEYS + 1} - id", "id = id + 1", f"id = {draw(keys)}", "id = id - 1")))
    return f"UPDATE {table} SET {what} WHERE {where}"


@st.composite
def merges(draw: st.DrawFn) -> str:
    table = draw(tables)
    when = draw(
        st.permutations(
            [
                f"WHEN MATCHED AND t.id < {draw(keys)} THEN DELETE",
                f"WHEN MATCHED AND t.id > {draw(keys)} THEN UPDATE SET v = t.v + 1",
                f"WHEN MATCHED THEN UPDATE SET {draw(st.sampled_from(('v = t.v + 2', 'id = t.id + 1')))}",
                "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 7)",
            ]
        )
    )
    parts = sorted(when[: draw(st.integers(1, 4))], key=lambda w: " AND " not in w)
    return f"MERGE INTO {table} t USING generate_series({draw(keys)}, {draw(keys)}) s (id) ON t.id = s.id {' '.join(parts)}"


@st.composite
def queries(draw: st.DrawFn) -> str:
    """A query of several parts, each read whole, in part, or not at all."""
    parts: list[str] = []
    for n in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from(("", *(f"w{i}" for i in range(n)))))
        parts.append(f"w{n} AS ({draw(actions(source, alone=False))} RETURNING *)")
    last = draw(st.sampled_from(("", *(f"w{i}" for i in range(len(parts))))))
    main = (
        draw(actions(last, alone=False))
        if draw(st.integers(0, 3))
        else f"SELECT * FROM w0 LIMIT {draw(st.integers(0, 1))}"
    )
    return f"WITH {', '.join(parts)} {main}"


again = st.builds(
    lambda table, key, value, limit, conflict: (
        f"WITH d AS (DELETE FROM {table} WHERE {key} RETURNING *) INSERT INTO {table} SELECT id, {value}, r FROM d{limit}{conflict}"
    ),
    tables, st.sampled_from(("true", "id = 1", "id > 2")), st.sampled_from(("v", "v + 1")),
    st.sampled_from(("", " LIMIT 1", " LIMIT 2")), st.sampled_from(("", "", " ON CONFLICT DO NOTHING")),
)  # fmt: skip
blocks = st.builds(
    lambda first, second: f"DO $$ BEGIN {first}; {second}; EXCEPTION WHEN unique_violation THEN NULL; END $$",
    actions(), actions(),
)  # fmt: skip
# The function is called before the statement has written a row: what it does to such a row order can't tell.
calls = st.builds(
    "INSERT INTO {} VALUES ({}, touch({}), NULL), ({}, 9, NULL) ON CONFLICT DO NOTHING".format, tables, keys, keys, keys
)
statements = st.one_of(
    calls,
    actions(),
    actions(),
    queries(),
    queries(),
    again,
    merges(),
    blocks,
    st.builds("TRUNCATE {} CASCADE".format, tables),
)
transactions = st.lists(statements, min_size=1, max_size=4)
worlds = st.builds(
    World, schemas(), st.lists(transactions, min_size=4, max_size=12), st.lists(transactions, min_size=0, max_size=4)
)
