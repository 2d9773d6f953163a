"""`alembic upgrade head --sql`: what a DBA reads, and what psql makes of it, is what the migrations do."""

import pytest

from harness.cluster import migrate
from harness.database import Database
from tests.migrations.catalog import CATALOG
from tests.migrations.dump import dump

NOBODY = "postgresql://nobody@127.0.0.1:1/none"  # no database is asked


def psql(database: Database, script: str, user: str = "postgres") -> str:
    """Runs the script as an administrator does. Raises RuntimeError with what psql said."""
    file = database.cluster.dir / "script.sql"
    file.write_text(script)
    url = database.cluster.url(database.name, user=user)
    return database.cluster.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file), "-d", url)


async def test_the_script_makes_what_the_migrations_make(fresh: Database) -> None:
    empty = await fresh.execute(CATALOG)
    migrate(fresh.url)
    made, rights = dump(fresh.cluster, fresh.url), await fresh.execute(CATALOG)
    migrate(fresh.url, "downgrade", "base")
    psql(fresh, migrate(NOBODY, "upgrade", "head", "--sql"))
    assert dump(fresh.cluster, fresh.url) == made
    assert await fresh.execute(CATALOG) == rights
    assert "002_tables (head)" in migrate(fresh.url, "current")
    await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
    psql(fresh, migrate(NOBODY, "downgrade", "head:base", "--sql"))
    assert await fresh.execute(CATALOG) == empty


async def test_without_the_tables_and_in_steps(fresh: Database) -> None:
    psql(fresh, migrate(NOBODY, "-x", "tables=no", "upgrade", "head", "--sql"))
    assert await fresh.value("SELECT to_regclass('posts')") is None
    migrate(fresh.url, "downgrade", "base")
    psql(fresh, migrate(NOBODY, "upgrade", "001_initial", "--sql"))
    psql(fresh, migrate(NOBODY, "upgrade", "001_initial:head", "--sql"))
    made = dump(fresh.cluster, fresh.url)
    psql(fresh, migrate(NOBODY, "downgrade", "head:001_initial", "--sql"))
    assert await fresh.value("SELECT to_regclass('posts')") is None
    migrate(fresh.url, "downgrade", "base")
    migrate(fresh.url)
    assert dump(fresh.cluster, fresh.url) == made


async def test_a_role_with_createrole_may_run_it(fresh: Database, user: str) -> None:
    before = await fresh.execute(CATALOG)
    await fresh.execute(f"ALTER ROLE {user} CREATEROLE; ALTER DATABASE {fresh.name} OWNER TO {user}")
    psql(fresh, migrate(NOBODY, "upgrade", "head", "--sql"), user)
    await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
    psql(fresh, migrate(NOBODY, "downgrade", "head:base", "--sql"), user)
    assert await fresh.execute(CATALOG) == before


OLD = """
CREATE SCHEMA realtime; COMMENT ON SCHEMA realtime IS 'Sobranie Realtime';
CREATE TABLE realtime.migrations (version_num text); INSERT INTO realtime.migrations VALUES ('003')"""


@pytest.mark.parametrize(("there", "said"), [("CREATE SCHEMA realtime", "not ours"), (OLD, "before the first release")])
async def test_the_script_looks_before_it_changes_anything(fresh: Database, there: str, said: str) -> None:
    await fresh.execute(there)
    before = await fresh.execute(CATALOG)
    with pytest.raises(RuntimeError, match=said):
        psql(fresh, migrate(NOBODY, "upgrade", "head", "--sql"))
    assert await fresh.execute(CATALOG) == before
