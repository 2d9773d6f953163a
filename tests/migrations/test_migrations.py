"""Migrations on an empty database and on one that has an application in it: up, down to nothing, up again."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, Cluster, clean_environment, migrate
from tests.support.database import Database

HERE = Path(__file__).parent
VERSIONS = sorted(file.name[:3] for file in (ROOT / "migrations" / "versions").glob("0*.py"))
NEWEST = VERSIONS[-1]
CATALOG = """
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relnamespace::regnamespace::text ~ '^(public|real)'
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger
UNION ALL SELECT 'type ' || typname FROM pg_type WHERE oid >= 16384
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ 'realtime'
UNION ALL SELECT 'right ' || coalesce(relacl::text, '') || oid::regclass FROM pg_class WHERE relacl::text ~ 'realtime'
ORDER BY 1"""


@pytest.fixture(scope="module")
def alone() -> Iterator[Cluster]:
    """A cluster whose roles no other test uses."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def fresh(alone: Cluster) -> Iterator[Database]:
    """An empty database, in a cluster that has never heard of us."""
    name = alone.create_database(migrated=False)
    yield Database(alone, name)
    alone.drop_database(name)
    for role in ("realtime_owner", "realtime_reader", "someone"):
        alone.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
async def user(fresh: Database) -> str:
    """A role that may do nothing in particular."""
    await fresh.execute("CREATE ROLE someone LOGIN")
    return "someone"


def refusal(url: str, *command: str) -> str:
    """What alembic says when it refuses: one line, with no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *(command or ("upgrade", "head"))],
        cwd=ROOT, capture_output=True, text=True, env=clean_environment(DATABASE_URL=url),
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1
    return done.stdout + done.stderr


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


async def test_one_step_back_is_what_the_last_version_made(fresh: Database) -> None:
    definitions = """SELECT 'function ' || pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc
      WHERE pronamespace = 'realtime'::regnamespace AND proname !~ '^capture_[0-9]'
      UNION ALL SELECT concat_ws(' ', 'column', attrelid::regclass, attname, attstattarget) FROM pg_attribute
      WHERE attrelid::regclass::text ~ '^realtime' AND attnum > 0 ORDER BY 1"""
    migrate(fresh.url, "upgrade", "001")
    first = await fresh.execute(definitions)
    migrate(fresh.url)
    await fresh.execute("SELECT realtime.purge()")
    migrate(fresh.url, "downgrade", "001")
    assert await fresh.execute(definitions) == first
    assert await fresh.execute("SELECT version, compatible_from FROM realtime.meta") == [(1, 1)]
    migrate(fresh.url)
    migrate(fresh.url, "downgrade", "base")


async def test_upgrading_twice_and_looking_change_nothing(fresh: Database) -> None:
    empty = await fresh.execute(CATALOG)
    assert "00" not in migrate(fresh.url, "current")
    assert await fresh.execute(CATALOG) == empty
    migrate(fresh.url)
    made = await fresh.execute(CATALOG)
    migrate(fresh.url)
    assert await fresh.execute(CATALOG) == made
    assert f"{NEWEST} (head)" in migrate(fresh.url, "current")


APPLICATION = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); INSERT INTO alembic_version VALUES ('theirs');
CREATE TABLE posts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text);
INSERT INTO posts (title) VALUES ('kept');
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int)"""


async def test_an_application_and_its_alembic_stay_as_they_were(fresh: Database) -> None:
    await fresh.execute(APPLICATION)
    before = await fresh.execute(CATALOG)
    migrate(fresh.url)
    assert await fresh.execute("SELECT * FROM alembic_version") == [("theirs",)]
    assert await fresh.execute("SELECT title FROM posts") == [("kept",)]
    routes = "SELECT name, key, routes FROM realtime.generations WHERE NOT ended ORDER BY name"
    assert await fresh.execute(routes) == [("notifications", ["id"], ["user_id"]), ("posts", ["id"], [])]
    await fresh.execute("SELECT realtime.watch('orders', '{tenant_id}'); INSERT INTO orders VALUES (1, 2)")
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before
    await fresh.execute("INSERT INTO orders VALUES (2, 2)")
    assert await fresh.execute("SELECT * FROM alembic_version") == [("theirs",)]


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE VIEW posts AS SELECT 1 AS id, 2 AS author_id",
        "CREATE TABLE posts (id int, author_id jsonb)",
        "CREATE TABLE posts (id int, author_id int) PARTITION BY RANGE (id)",
    ],
)
async def test_tables_of_those_names_may_be_anything(fresh: Database, theirs: str) -> None:
    await fresh.execute(theirs)
    before = await fresh.execute(CATALOG)
    migrate(fresh.url)
    assert await fresh.value("SELECT count(*) FROM realtime.generations WHERE name = 'notifications'") == 1
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before


async def test_tables_made_anew_by_the_application_are_not_dropped(fresh: Database) -> None:
    migrate(fresh.url)
    await fresh.execute("DROP TABLE posts; CREATE TABLE posts (id int); INSERT INTO posts VALUES (1)")
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute("SELECT * FROM posts") == [(1,)]
    assert await fresh.value("SELECT to_regclass('notifications')") is None


@pytest.mark.parametrize("command", [("upgrade", "head"), ("downgrade", "base"), ("current",)])
async def test_a_schema_that_is_not_ours_is_refused_and_untouched(fresh: Database, command: tuple[str, ...]) -> None:
    await fresh.execute("CREATE SCHEMA realtime; CREATE TABLE realtime.messages (id int)")
    before = await fresh.execute(CATALOG)
    assert "not ours" in refusal(fresh.url, *command)
    assert await fresh.execute(CATALOG) == before


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
        ("realtime_owner",), ("realtime_reader",),
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
            "SELECT pg_snapshot_xmax(floor), (SELECT min(xid) FROM realtime.events) FROM realtime.log_state"
        )
    )[0]
    assert floor == xid
    assert await fresh.execute("SELECT fresh FROM realtime.incarnate()") == [(False,)]
    assert await fresh.execute("SELECT version, compatible_from FROM realtime.meta") == [(2, 1)]


async def test_a_transaction_open_during_the_installation_is_outside_the_floor(fresh: Database) -> None:
    async with await fresh.connect(autocommit=False) as early:
        own = (await (await early.execute("SELECT pg_current_xact_id()::text")).fetchone() or ("",))[0]
        migrate(fresh.url)
        assert not await fresh.value("SELECT pg_visible_in_snapshot(%s::xid8, floor) FROM realtime.log_state", own)
        await early.execute("INSERT INTO posts (author_id) VALUES (1)")
        await early.commit()
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE xid = %s::xid8", own) == 1


def test_released_sql_is_never_edited() -> None:
    """A new version is a new file: whoever has installed this one would otherwise have another."""
    found = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((ROOT / "sql" / "triggers").glob("*.sql"))
    }
    lines = (HERE / "released.txt").read_text().split("\n")
    assert found == dict(reversed(line.split("  ")) for line in lines if line)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_the_way_back_leads_to_the_same_schema(fresh: Database, version: str) -> None:
    from tests.migrations.dump import dump

    migrate(fresh.url, "upgrade", version)
    there = dump(fresh.cluster, fresh.url)
    migrate(fresh.url)
    migrate(fresh.url, "downgrade", version)
    assert dump(fresh.cluster, fresh.url) == there


def test_the_committed_schema_is_what_the_migrations_make(fresh: Database) -> None:
    """`python -m tests.migrations.dump` writes it, and the hashes of the SQL files, anew."""
    from tests.migrations.dump import dump

    if fresh.cluster.execute("SHOW server_version_num")[0][0] < "180000":
        pytest.skip("the committed text is PostgreSQL 18's")
    migrate(fresh.url)
    assert dump(fresh.cluster, fresh.url) == (HERE / "schema.sql").read_text()
