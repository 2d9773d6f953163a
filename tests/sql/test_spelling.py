"""No channel is silently empty: of some 70 types, what SQL takes to be equal is spelled alike, by capture and for channels.

Each type with values in groups; the values of one group are equal in SQL. Types without groups are refused as routes, and
a key of them is no channel.
"""

import psycopg
import pytest

from harness.database import Database, rows_of
from tests.sql.log import events, top

SETTINGS = [
    "", "SET TimeZone = 'Asia/Kathmandu'", "SET DateStyle = 'German, DMY'", "SET DateStyle = 'SQL, MDY'",
    "SET IntervalStyle = 'sql_standard'", "SET IntervalStyle = 'postgres_verbose'", "SET bytea_output = 'escape'",
    "SET extra_float_digits = -10", "SET lc_monetary = 'C.UTF-8'", "SET quote_all_identifiers = on",
]  # fmt: skip
ROUTES = {
    "bool": ["t|true|yes|1", "f"], "smallint": ["1|01| 1", "-1"], "int": ["0|-0", "7"], "bigint": ["9223372036854775807"],
    "oid": ["5", "4294967295"], "real": ["0|-0", "0.1|1e-1", "NaN"], "float8": ["0|-0", "1.5|1.50", "Infinity"],
    "numeric": ["1.5|1.50|1.500", "100|1e2|100.0", "0|-0|0.00", "NaN", "-12.3|-12.30"], "numeric(8,2)": ["1.5|1.50", "7|7.00"],
    "numeric(3,0)": ["7|7.0"], "money": ["12.5|$12.50", "-1"], "text": ["a", "A", "", " a"], "varchar": ["é"],
    "varchar(3)": ["abc"], "char(4)": ["ab|ab  |ab ", ""], '"char"': ["x"], "name": ["n"], "bytea": [r"\xABCD|\xabcd", ""],
    "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11|a0eebc999c0b4ef8bb6d6bb9bd380a11"],
    "date": ["2026-01-02|20260102|January 2, 2026", "infinity", "0044-03-15 BC"], "time": ["04:05:06|040506"],
    "timetz": ["04:05:06+07"], "timestamp": ["2026-01-02 03:04:05|2026-01-02T03:04:05"],
    "timestamptz": ["2026-01-02 03:04+00|2026-01-02 05:04+02", "-infinity"],
    "interval": ["1 day|24 hours|PT24H", "1 month|30 days|720 hours", "-1 day|-24 hours", "1 year 2 days 03:04:05.6"],
    "inet": ["10.0.0.1|10.0.0.1/32", "10.0.0.1/8", "::1|::1/128"], "cidr": ["10.0.0.0/8|10/8"],
    "macaddr": ["08:00:2b:01:02:03|08-00-2b-01-02-03"], "macaddr8": ["08:00:2b:01:02:03:04:05"], "bit(3)": ["101"],
    "varbit": ["1010", "1"], "pg_lsn": ["0/1A|0/01A"], "xid8": ["12"], "tid": ["(1,2)"], "tsvector": ["a b|b a"],
    "int4range": ["[1,3)|[1,2]|(0,3)", "empty|[1,1)"], "int8range": ["[1,)"], "daterange": ["[2026-01-01,2026-01-02]|[2026-01-01,2026-01-03)"],
    "tsrange": ["[2026-01-01,)"], "tstzrange": ["[2026-01-01 00:00+00,)|[2026-01-01 02:00+02,)"], "int4multirange": ["{[1,3),[5,6)}|{[1,2],[5,5]}"],
    "mood": ["ok", "it's"], "posint": ["5|05"], "amount": ["2.5|2.50"], "padded": ["a|a "],
}  # fmt: skip
REFUSED = [
    "json", "jsonb", "xml", "int[]", "text[]", "point", "line", "lseg", "box", "path", "polygon", "circle", "numrange",
    "nummultirange", "regclass", "regtype", "regproc", "regrole", "regnamespace", "jsonpath", "tsquery", "pg_snapshot",
    "refcursor", "int2vector", "oidvector", "aclitem", "pair", "citext", "hstore", "folded", "text COLLATE nocase",
]  # fmt: skip
TYPES = """
CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('ok', 'it''s'); CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN amount AS numeric; CREATE DOMAIN padded AS char(3); CREATE TYPE pair AS (a int); CREATE DOMAIN folded AS citext;
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"""
SHAPES = {
    "plain": "CREATE TABLE t (id int PRIMARY KEY, c {})",
    "partitioned": "CREATE TABLE t (id int PRIMARY KEY, c {}) PARTITION BY RANGE (id); CREATE TABLE t_0 PARTITION OF t DEFAULT",
    "virtual": "CREATE TABLE t (id int PRIMARY KEY, c {}, v int GENERATED ALWAYS AS (id * 2) VIRTUAL)",
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_equal_values_are_spelled_alike_whatever_the_session(database: Database, shape: str) -> None:
    if shape == "virtual" and (await database.value("SHOW server_version_num")) < "180000":
        pytest.skip("PostgreSQL 18 has them")
    await database.execute(TYPES.partition("CREATE COLLATION")[0])
    wrong: list[tuple[object, ...]] = []
    async with await database.connect() as connection:
        for type_, groups in ROUTES.items():
            await rows_of(connection, SHAPES[shape].format(type_) + "; SELECT realtime.watch('t', '{c}')")
            gen = (await rows_of(connection, "SELECT gen FROM realtime.generations WHERE name = 't' AND NOT ended"))[0][
                0
            ]
            since = await top(database)
            wanted = [(group, value) for group in groups for value in group.split("|")]
            number = 0
            for setting in SETTINGS:
                for _, value in wanted:
                    number += 1
                    cast = "'" + value.replace("'", "''") + "'::" + type_
                    await rows_of(connection, f"BEGIN; INSERT INTO t SELECT {number}, {cast}; COMMIT" if not setting else
                        f"CREATE TEMP TABLE v AS SELECT {cast} AS c; BEGIN; {setting.replace('SET', 'SET LOCAL')};"
                        f" INSERT INTO t SELECT {number}, c FROM v; COMMIT; DROP TABLE v")  # fmt: skip
            spelled = [(e.new_vals or [None, None])[1] for e in await events(database, since)]
            canonical = {}
            for group, value in wanted:
                row = await rows_of(connection, "SELECT realtime.canonical(%s, 'c', %s)", gen, value)
                canonical[group, value] = row[0][0]
            told = {group: {canonical[g, v] for g, v in wanted if g == group} for group in groups}
            wrong += (
                [(type_, told)]
                if any(len(s) != 1 for s in told.values()) or len(set(canonical.values())) != len(groups)
                else []
            )
            expected = [canonical[w] for _ in SETTINGS for w in wanted]
            wrong += [(type_, s, e) for s, e in zip(spelled, expected, strict=True) if s != e][:3]
            await rows_of(connection, "DROP TABLE t; SELECT * FROM realtime.check()")
    assert wrong == []


@pytest.mark.parametrize("type_", REFUSED)
async def test_types_that_are_not_told_apart_by_their_text_are_no_route(database: Database, type_: str) -> None:
    try:
        await database.execute(TYPES if "nocase" in type_ else TYPES.partition("CREATE COLLATION")[0])
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without ICU")
    await database.execute(f"CREATE TABLE t (id int PRIMARY KEY, c {type_})")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not told apart by their text"):
        await database.execute("SELECT realtime.watch('t', '{c}')")


@pytest.mark.parametrize("type_", ["citext", "jsonb", "int[]", "numrange"])
async def test_a_key_of_such_a_type_is_watched_and_is_no_channel(database: Database, type_: str) -> None:
    await database.execute(TYPES.partition("CREATE COLLATION")[0])
    await database.execute(f"CREATE TABLE t (c {type_} PRIMARY KEY); SELECT realtime.watch('t')")
    assert await database.value("SELECT spellings FROM realtime.generations WHERE name = 't'") == [None]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not told apart"):
        await database.execute("SELECT realtime.canonical(gen, 'c', '1') FROM realtime.generations WHERE name = 't'")
