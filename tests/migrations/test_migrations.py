"""Migrations on an empty database: up, down to nothing, up again; with which rights, and what is refused."""

import subprocess
import sys

import pytest

from app.model.errors import StartError
from app.postgres.checks import check
from harness.cluster import ROOT, clean_environment, migrate
from harness.database import Database
from tests.migrations.catalog import CATALOG, VERSIONS, refusal

NEWEST = VERSIONS[-1]


async def test_up_to_base_leaves_nothing_and_up_again_works(fresh: Database) -> None:
    before = await fresh.execute(CATALOG)
    for _ in range(2):
        migrate(fresh.url)
        await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
        await fresh.execute("INSERT INTO notifications (user_id) VALUES (1)")
        assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 2
        migrate(fresh.url, "downgrade", "base")
        assert await fresh.execute(CATALOG) == before
        migrate(fresh.url, "downgrade", "base")
        assert await fresh.execute(CATALOG) == before


async def test_upgrading_twice_and_looking_change_nothing(fresh: Database) -> None:
    empty = await fresh.execute(CATALOG)
    assert "00" not in migrate(fresh.url, "current")
    assert await fresh.execute(CATALOG) == empty
    migrate(fresh.url)
    made = await fresh.execute(CATALOG)
    migrate(fresh.url)
    assert await fresh.execute(CATALOG) == made
    assert f"{NEWEST} (head)" in migrate(fresh.url, "current")


@pytest.mark.parametrize("command", [("upgrade", "head"), ("downgrade", "base"), ("current",)])
async def test_a_schema_that_is_not_ours_is_refused_and_untouched(fresh: Database, command: tuple[str, ...]) -> None:
    await fresh.execute("CREATE SCHEMA realtime; CREATE TABLE realtime.messages (id int)")
    before = await fresh.execute(CATALOG)
    assert "not ours" in refusal(fresh.url, *command)
    assert await fresh.execute(CATALOG) == before


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/d", "Connection refused"),
        ("postgresql://u:hunter2@127.0.0.1:1/d?schema=public", "the parameter 'schema'"),
        ("host=127.0.0.1 password=hunter2 schema=public", "no connection string"),
        ("host=127.0.0.1 port=1 password=hunter2", "Connection refused"),
        ("postgresql://h/d?password=a&hunter2=b", "no connection string"),
        ("postgresql://u:hun@hunter2@127.0.0.1:1/d", "@ is written %40"),
        ("postgresql://u:hunter2/x@127.0.0.1:1/d", "/ %2F"),
        ("hunter2", "no connection string"),
    ],
)
def test_a_url_that_does_not_work_is_one_line_without_a_part_of_its_password(url: str, named: str) -> None:
    said = refusal(url)
    assert named in said
    assert "hunter2" not in said
    assert "Traceback" not in said


async def test_what_others_built_on_ours_stops_a_downgrade(fresh: Database) -> None:
    migrate(fresh.url)
    await fresh.execute("CREATE VIEW report AS SELECT count(*) FROM realtime.events")
    before = await fresh.execute(CATALOG)
    assert "report" in refusal(fresh.url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before


async def test_a_role_without_rights_is_told_what_it_needs(fresh: Database, user: str) -> None:
    url = fresh.cluster.url(fresh.name, user=user)
    before = await fresh.execute(CATALOG)
    said = refusal(url)
    assert "CREATEROLE" in said
    assert await fresh.execute(CATALOG) == before
    advice = said.partition("run: ")[2].strip()
    await fresh.execute(advice)
    assert "CREATE ON DATABASE" in refusal(url)
    await fresh.execute(f"GRANT CREATE ON DATABASE {fresh.name} TO {user}; GRANT CREATE ON SCHEMA public TO {user}")
    migrate(url)
    await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
    migrate(url, "downgrade", "base")
    assert await fresh.execute("SELECT rolname FROM pg_roles WHERE rolname ~ 'realtime' ORDER BY 1") == [
        ("realtime_nobody",), ("realtime_owner",), ("realtime_reader",),
    ]  # fmt: skip


async def test_a_role_with_createrole_needs_no_superuser(fresh: Database, user: str) -> None:
    before = await fresh.execute(CATALOG)
    await fresh.execute(f"ALTER ROLE {user} CREATEROLE; ALTER DATABASE {fresh.name} OWNER TO {user}")
    url = fresh.cluster.url(fresh.name, user=user)
    migrate(url)
    await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
    migrate(url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before


async def test_a_schema_that_another_role_made_in_advance_is_not_looked_into(fresh: Database, user: str) -> None:
    await fresh.execute(
        f"""GRANT CREATE ON DATABASE {fresh.name} TO {user}; SET ROLE {user}; CREATE SCHEMA realtime;
        COMMENT ON SCHEMA realtime IS 'Sobranie Realtime';
        CREATE FUNCTION realtime.risen() RETURNS text LANGUAGE plpgsql
          AS $$ BEGIN RAISE 'ran as %', current_user; END $$;
        CREATE VIEW realtime.migrations AS SELECT realtime.risen() AS version_num"""
    )
    for command in (("upgrade", "head"), ("downgrade", "base")):
        said = refusal(fresh.url, *command)
        assert f"schema realtime belongs to {user}" in said
        assert "ran as" not in said


HOSTILE = """
CREATE FUNCTION public.risen() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN ALTER ROLE someone SUPERUSER; END IF;
  RETURN true; END $$;
CREATE FUNCTION public.eq(oid, regtype) RETURNS bool LANGUAGE sql AS 'SELECT public.risen() AND $1 = $2::oid';
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regtype, FUNCTION = public.eq);
CREATE FUNCTION public.times(int, numeric) RETURNS numeric LANGUAGE sql
  AS 'SELECT $1::numeric * $2 WHERE public.risen()';
CREATE OPERATOR public.* (LEFTARG = int, RIGHTARG = numeric, FUNCTION = public.times);
CREATE FUNCTION public.ge(int, numeric) RETURNS bool LANGUAGE sql AS 'SELECT public.risen() AND $1::numeric >= $2';
CREATE OPERATOR public.>= (LEFTARG = int, RIGHTARG = numeric, FUNCTION = public.ge);
CREATE FUNCTION public.format(text, regprocedure) RETURNS text LANGUAGE sql
  AS 'SELECT pg_catalog.format($1, $2) WHERE public.risen()'"""


async def test_names_of_others_are_not_taken_for_postgresqls(fresh: Database, user: str) -> None:
    """Whoever may make things in `public` would run them with the rights of who migrates."""
    await fresh.execute(f"GRANT CREATE ON SCHEMA public TO {user}")
    migrate(fresh.url)
    async with await fresh.connect() as theirs:
        await theirs.execute(f"SET ROLE {user}")
        await theirs.execute(HOSTILE)
    await fresh.execute("SELECT realtime.purge()")
    await fresh.execute("CALL realtime.finish_purges('0.3 s')")
    migrate(fresh.url, "downgrade", "base")
    migrate(fresh.url)
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", user) == [(False,)]
    await fresh.execute("DROP OWNED BY someone")


async def test_a_database_of_another_encoding_is_refused(fresh: Database) -> None:
    for encoding in ("WIN1252", "SQL_ASCII"):
        await fresh.execute(f"CREATE DATABASE other ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            assert encoding in refusal(fresh.cluster.url("other"))
        finally:
            await fresh.execute("DROP DATABASE other")


async def test_roles_stay_while_another_database_uses_them(fresh: Database) -> None:
    other = Database(fresh.cluster, fresh.cluster.create_database(migrated=False))
    migrate(fresh.url)
    migrate(other.url)
    migrate(fresh.url, "downgrade", "base")
    await other.execute("INSERT INTO posts (author_id) VALUES (1)")
    assert await other.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
    migrate(other.url, "downgrade", "base")
    assert await fresh.execute("SELECT rolname FROM pg_roles WHERE rolname ~ 'realtime'") == []


async def test_two_migrators_at_once_take_turns(fresh: Database) -> None:
    commands = [sys.executable, "-m", "alembic", "upgrade", "head"]
    both = [subprocess.Popen(commands, cwd=ROOT, env=clean_environment(DATABASE_URL=fresh.url)) for _ in range(3)]
    assert [p.wait(60) for p in both] == [0, 0, 0]
    assert await fresh.execute("SELECT version_num FROM realtime.migrations") == [(NEWEST,)]


async def test_the_floor_and_the_first_incarnation_are_the_migration_s(fresh: Database) -> None:
    migrate(fresh.url)
    floor, xid = (
        await fresh.execute(
            "SELECT pg_snapshot_xmax(floor), (SELECT min(xid) FROM realtime.events) FROM realtime.event_log_state"
        )
    )[0]
    assert floor == xid
    assert await fresh.execute("SELECT fresh FROM realtime.incarnate()") == [(False,)]
    assert await fresh.execute("SELECT version, compatible_from FROM realtime.meta") == [(3, 3)]


async def test_a_transaction_open_during_the_installation_is_outside_the_floor(fresh: Database) -> None:
    async with await fresh.connect(autocommit=False) as early:
        own = (await (await early.execute("SELECT pg_current_xact_id()::text")).fetchone() or ("",))[0]
        migrate(fresh.url)
        assert not await fresh.value(
            "SELECT pg_visible_in_snapshot(%s::xid8, floor) FROM realtime.event_log_state", own
        )
        await early.execute("INSERT INTO posts (author_id) VALUES (1)")
        await early.commit()
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE xid = %s::xid8", own) == 1


async def test_a_schema_of_before_the_first_release_is_met_with_what_to_do(fresh: Database) -> None:
    """As versions before the first release left it; what the line says to run is all that is needed."""
    await fresh.execute(
        "CREATE SCHEMA realtime; COMMENT ON SCHEMA realtime IS 'Sobranie Realtime';"
        "CREATE TABLE realtime.migrations (version_num varchar(32) PRIMARY KEY);"
        "INSERT INTO realtime.migrations VALUES ('005');"
        "CREATE TABLE realtime.meta (version int, compatible_from int); INSERT INTO realtime.meta VALUES (2, 1);"
        "CREATE TABLE kept (id int PRIMARY KEY); CREATE FUNCTION realtime.capture_1() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER realtime_insert AFTER INSERT ON kept FOR EACH STATEMENT EXECUTE"
        " FUNCTION realtime.capture_1(); INSERT INTO kept VALUES (1)"
    )
    before = await fresh.execute(CATALOG)
    for command in (("upgrade", "head"), ("downgrade", "base"), ("current",)):
        said = refusal(fresh.url, *command)
        assert "before the first release (revision 005)" in said
        assert ".data" in said
    assert await fresh.execute(CATALOG) == before
    with pytest.raises(StartError, match="alembic upgrade head"):
        await check(fresh.url)
    await fresh.execute(refusal(fresh.url).split("`")[1])
    migrate(fresh.url)
    await fresh.execute("INSERT INTO kept VALUES (2); SELECT realtime.watch('kept'); INSERT INTO kept VALUES (3)")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
