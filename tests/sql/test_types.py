"""Values of every type, whatever the writer's settings (adversarial 18); its settings are as they were afterwards."""

import pytest

from harness.database import Database, rows_of
from tests.sql.log import events

COLUMNS = {
    "j": ("json", """'{"b": 1,\n "a": [1, 2]}'"""),
    "jb": ("jsonb", """'{"b": 1, "a": null}'"""),
    "by": ("bytea", r"'\x00ff'"),
    "nu": ("numeric", "'NaN'"),
    "nf": ("numeric(20,5)", "12.34"),
    "f8": ("float8", "0.1::float8 + 0.2"),
    "f4": ("real", "'Infinity'"),
    "da": ("date", "'infinity'"),
    "d2": ("date", "'0044-03-15 BC'"),
    "ts": ("timestamp", "'2026-01-02 03:04:05.678'"),
    "tz": ("timestamptz", "'2026-07-02 03:04:05.678+02'"),
    "ti": ("timestamptz", "'-infinity'"),
    "tt": ("timetz", "'04:05:06+07'"),
    "bi": ("bigint", "9223372036854775807"),
    "iv": ("interval", "'1 year 2 days 03:04:05.6'"),
    "ar": ("text[]", """ARRAY['a,b', NULL, '"q"']"""),
    "at": ("timestamptz[]", "ARRAY['2026-07-02 03:04:05+02'::timestamptz]"),
    "en": ("mood", "'ok'"),
    "dm": ("posint", "5"),
    "co": ("pair", "ROW(1, '2026-07-02 03:04:05+02')"),
    "ge": ("int", None),
    "mo": ("money", "12.5"),
    "ch": ("char(5)", "'ab'"),
    "uu": ("uuid", "'00000000-0000-0000-0000-000000000001'"),
    "ra": ("tstzrange", "'[2026-07-02 03:04+02,)'"),
    "ip": ("inet", "'10.0.0.1/8'"),
    "po": ("point", "'(0.1,0.2)'"),
    "bo": ("bool", "true"),
    "rc": ("regclass", "'posts'"),
    "bt": ("bit(3)", "'101'"),
    "na": ("name", "'n'"),
    "cq": ('"char"', "'c'"),
    "ts_": ("tsvector", "'a b'"),
    "dt": ("stamp", "'2026-07-02 03:04:05+02'"),
}
ROUTABLE = [
    n
    for n, (t, _) in COLUMNS.items()
    if t not in {"json", "jsonb", "text[]", "timestamptz[]", "pair", "point", "regclass"}
]
TYPES = """
CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN stamp AS timestamptz; CREATE TYPE pair AS (a int, at timestamptz);"""
PLAIN = {
    "TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "iso_8601", "bytea_output": "hex",
    "extra_float_digits": "1", "lc_monetary": "C",
}  # fmt: skip
STRANGE = {
    "TimeZone": "Asia/Kathmandu", "DateStyle": "German, DMY", "IntervalStyle": "sql_standard", "bytea_output": "escape",
    "extra_float_digits": "-10", "lc_monetary": "C.UTF-8",
}  # fmt: skip


def settings(values: dict[str, str], how: str = "SET") -> str:
    return "".join(f"{how} {name} = '{value}';" for name, value in values.items())


async def made(database: Database, tail: str = "") -> None:
    columns = ", ".join(
        f"{n} {t}" + (" GENERATED ALWAYS AS (bi % 7) STORED" if n == "ge" else "") for n, (t, _) in COLUMNS.items()
    )
    await database.execute(
        f"{TYPES} CREATE TABLE z (id int PRIMARY KEY, {columns}) {tail};"
        + "CREATE TABLE z_0 PARTITION OF z DEFAULT;" * bool(tail)
    )
    await database.execute("SELECT realtime.watch('z', %s::text[])", ROUTABLE)


def insert(key: int) -> str:
    given = {n: v for n, (_, v) in COLUMNS.items() if v}
    return f"INSERT INTO z (id, {', '.join(given)}) VALUES ({key}, {', '.join(given.values())});"


@pytest.mark.parametrize("tail", ["", "PARTITION BY RANGE (id)"])
async def test_rows_look_the_same_whatever_the_writer_s_settings(database: Database, tail: str) -> None:
    await made(database, tail)
    await database.execute(settings(PLAIN) + insert(1))
    await database.execute(settings(STRANGE) + insert(2) + "UPDATE z SET bo = false WHERE id = 2")
    plain, strange, changed = await events(database)
    assert plain.new is not None
    assert strange.new == plain.new | {"id": 2} == changed.old
    assert changed.new == strange.new | {"bo": False}
    async with await database.connect() as connection:
        await rows_of(connection, settings(PLAIN | {"search_path": "pg_catalog"}))
        row = await rows_of(connection, "SELECT row_to_json(z)::text FROM public.z WHERE id = 1")
        texts = await rows_of(
            connection, f"SELECT ARRAY[id::text, {', '.join(n + '::text' for n in ROUTABLE)}] FROM public.z ORDER BY id"
        )
    assert (await database.value("SELECT new::text FROM realtime.events WHERE id = %s", plain.id)) == row[0][0]
    assert plain.new_vals == texts[0][0]
    assert strange.new_vals == changed.old_vals == [*["2"], *(plain.new_vals or [])[1:]]
    assert changed.new_vals == texts[1][0]


@pytest.mark.parametrize("how", ["SET", "SET LOCAL"])
async def test_the_writer_s_settings_are_its_own_again(database: Database, how: str) -> None:
    await made(database)
    shown = "SELECT " + ", ".join(f"current_setting('{name}')" for name in STRANGE)
    async with await database.connect(autocommit=False) as connection:
        before = await rows_of(connection, shown)
        await connection.rollback()
        await rows_of(connection, settings(STRANGE, how))
        inside = await rows_of(connection, shown)
        assert inside != before
        await rows_of(connection, insert(1))
        assert await rows_of(connection, shown) == inside
        await rows_of(connection, "SAVEPOINT a; " + insert(2) + "ROLLBACK TO a")
        assert await rows_of(connection, shown) == inside
        await rows_of(connection, "SET TimeZone = 'America/Lima'")
        await rows_of(connection, insert(3))
        await connection.commit()
        after = await rows_of(connection, shown)
        assert after[0][0] == "America/Lima"
        assert after[0][1:] == (inside if how == "SET" else before)[0][1:]
        await rows_of(connection, "RESET TimeZone")
        assert (await rows_of(connection, shown))[0][0] == before[0][0]


async def test_a_session_default_that_was_never_set_stays_unset(database: Database) -> None:
    """The role's default is what the session comes back to, not a value that capture left."""
    await database.execute(f"ALTER DATABASE {database.name} SET TimeZone = 'Asia/Tokyo'")
    async with await database.connect() as connection:
        await rows_of(connection, "INSERT INTO posts (author_id) VALUES (1)")
        assert await rows_of(connection, "SELECT setting, source FROM pg_settings WHERE name = 'TimeZone'") == [
            ("Asia/Tokyo", "database")
        ]


async def test_virtual_generated_columns_are_left_out(database: Database) -> None:
    if (await database.value("SHOW server_version_num")) < "180000":
        pytest.skip("PostgreSQL 18 has them")
    for tail in ("", "PARTITION BY RANGE (id)"):
        name = "g" + str(len(tail))
        await database.execute(
            f"""CREATE TABLE {name} (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2), b json) {tail};
                {f"CREATE TABLE {name}_0 PARTITION OF {name} DEFAULT;" * bool(tail)}
                SELECT realtime.watch('{name}', '{{a}}');
                INSERT INTO {name} VALUES (1, 2, DEFAULT, '[1, 2]'); UPDATE {name} SET a = 3; DELETE FROM {name}"""
        )
        inserted, updated, deleted = (await events(database))[-3:]
        assert inserted.new == updated.old == {"id": 1, "a": 2, "b": [1, 2]}
        assert updated.new == deleted.old == {"id": 1, "a": 3, "b": [1, 2]}
