"""Sobranie's own tables: made where nothing bears their names, left out where asked, dropped only where made here."""

import pytest

from harness.cluster import ROOT, migrate
from harness.database import Database
from tests.migrations.catalog import CATALOG, VERSIONS, refusal

FILE = ROOT / "sql" / "triggers" / "tables.sql"
APPLICATION = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); INSERT INTO alembic_version VALUES ('theirs');
CREATE TABLE posts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text);
INSERT INTO posts (title) VALUES ('kept');
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int)"""


async def test_an_application_and_its_alembic_stay_as_they_were(fresh: Database) -> None:
    await fresh.execute(APPLICATION)
    before = await fresh.execute(CATALOG)
    said = migrate(fresh.url)
    assert "public.posts is here already and is not ours" in said
    assert "SELECT realtime.watch('public.posts')" in said
    assert await fresh.execute("SELECT * FROM alembic_version") == [("theirs",)]
    assert await fresh.execute("SELECT title FROM posts") == [("kept",)]
    routes = "SELECT name, key, routes FROM realtime.generations WHERE NOT ended ORDER BY name"
    assert await fresh.execute(routes) == [("notifications", ["id"], ["user_id"])]
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
    assert "public.posts is here already and is not ours" in migrate(fresh.url)
    assert await fresh.value("SELECT count(*) FROM realtime.generations WHERE name = 'notifications'") == 1
    assert await fresh.value("SELECT count(*) FROM realtime.generations WHERE name = 'posts'") == 0
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before


async def test_tables_made_anew_by_the_application_are_not_dropped(fresh: Database) -> None:
    migrate(fresh.url)
    await fresh.execute("DROP TABLE posts; CREATE TABLE posts (id int); INSERT INTO posts VALUES (1)")
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute("SELECT * FROM posts") == [(1,)]
    assert await fresh.value("SELECT to_regclass('notifications')") is None


LIVE = "SELECT schema || '.' || name FROM realtime.generations WHERE NOT ended ORDER BY 1"
OURS = [("public.notifications",), ("public.posts",)]


async def test_what_is_there_already_is_never_put_on_the_air_unasked(fresh: Database) -> None:
    await fresh.execute("CREATE TABLE notifications (id int PRIMARY KEY, user_id bigint, reset_token text)")
    said = migrate(fresh.url)
    assert said.strip() == (
        "public.notifications is here already and is not ours: it stays as it is, and is not watched; to put it on the"
        " air: SELECT realtime.watch('public.notifications')"
    )
    await fresh.execute("INSERT INTO notifications VALUES (1, 1, 'secret')")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 0
    assert await fresh.execute(LIVE) == [("public.posts",)]
    await fresh.execute(said.partition("on the air: ")[2])
    assert await fresh.execute(LIVE) == OURS
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute("SELECT reset_token FROM notifications") == [("secret",)]


async def test_a_type_of_that_name_is_no_table_of_ours_either(fresh: Database) -> None:
    await fresh.execute("CREATE DOMAIN posts AS int")
    assert "public.posts is here already" in migrate(fresh.url)
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.value("SELECT to_regtype('posts')::text") == "posts"


async def test_left_out_no_table_is_made_and_the_way_back_works(fresh: Database) -> None:
    before = await fresh.execute(CATALOG)
    for command in (("downgrade", "base"), ("downgrade", "001_initial")):
        assert migrate(fresh.url, "-x", "tables=no", "upgrade", "head") == ""
        public = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert await fresh.execute(public) == []
        assert await fresh.execute(LIVE) == []
        assert f"{VERSIONS[-1]} (head)" in migrate(fresh.url, "current")
        migrate(fresh.url)  # the revision counts as done
        assert await fresh.execute(public) == []
        migrate(fresh.url, *command)
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before


async def test_left_out_at_first_they_are_made_later_by_their_file_and_go_as_if_never_left_out(fresh: Database) -> None:
    before = await fresh.execute(CATALOG)
    migrate(fresh.url, "-x", "tables=no", "upgrade", "head")
    await fresh.execute("CREATE SCHEMA theirs; CREATE FUNCTION theirs.to_regclass(text) RETURNS regclass RETURN NULL")
    for _ in range(2):
        said = fresh.cluster.run(
            "psql", "-v", "ON_ERROR_STOP=1", "-c", "SET search_path TO theirs, pg_catalog", "-f", str(FILE), fresh.url
        )
        assert "WARNING" not in said
        assert await fresh.execute(LIVE) == OURS
    await fresh.execute("DROP SCHEMA theirs CASCADE; INSERT INTO posts (author_id) VALUES (1)")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.execute(CATALOG) == before


@pytest.mark.parametrize("wrong", ["tables=maybe", "tables", "table=no"])
async def test_a_mistake_in_x_is_told_before_anything_is_done(fresh: Database, wrong: str) -> None:
    before = await fresh.execute(CATALOG)
    said = refusal(fresh.url, "-x", wrong, "upgrade", "head")
    assert f"-x {wrong} is not known" in said
    assert "-x tables=yes|no" in said
    assert await fresh.execute(CATALOG) == before


@pytest.mark.parametrize("way", ["base", "001_initial"])
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE posts ADD slug text",
        "ALTER TABLE posts ALTER title TYPE varchar(80)",
        "CREATE TABLE p AS SELECT * FROM posts; DROP TABLE posts; ALTER TABLE p RENAME TO posts",
    ],
)
async def test_what_others_made_of_a_table_of_ours_is_not_dropped(fresh: Database, change: str, way: str) -> None:
    migrate(fresh.url)
    await fresh.execute("INSERT INTO posts (author_id, title) SELECT i, 'theirs' FROM generate_series(1, 1000) i")
    await fresh.execute(change)
    said = migrate(fresh.url, "downgrade", way)
    assert "public.posts is no more what was made here: it stays as it is" in said
    assert await fresh.value("SELECT count(*) FROM posts") == 1000
    assert await fresh.value("SELECT to_regclass('notifications')") is None
    if way == "001_initial":
        assert "public.posts is here already and is not ours" in migrate(fresh.url)
        await fresh.execute("SELECT realtime.unwatch('posts'); SELECT * FROM realtime.check()")
        assert await fresh.execute(LIVE) == [("public.notifications",)]


async def test_a_table_that_was_renamed_is_not_dropped(fresh: Database) -> None:
    migrate(fresh.url)
    await fresh.execute("ALTER TABLE posts RENAME TO articles; INSERT INTO articles (author_id) VALUES (1)")
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.value("SELECT count(*) FROM articles") == 1


async def test_tables_that_came_from_a_dump_are_not_dropped(fresh: Database) -> None:
    migrate(fresh.url)
    await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
    copy = Database(fresh.cluster, fresh.cluster.create_database(migrated=False))
    dumped = fresh.cluster.dir / "dumped"
    fresh.cluster.run("pg_dump", "-f", str(dumped), "-d", fresh.url)
    copy.cluster.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(dumped), copy.url)
    said = migrate(copy.url, "downgrade", "base")
    assert "public.posts is no more what was made here" in said
    assert await copy.value("SELECT count(*) FROM posts") == 1
    assert await copy.value("SELECT to_regnamespace('realtime')") is None
    copy.cluster.drop_database(copy.name)


async def test_one_step_back_takes_the_tables_off_the_air_and_again_puts_them_on(fresh: Database) -> None:
    migrate(fresh.url)
    migrate(fresh.url, "downgrade", "001_initial")
    assert await fresh.execute(LIVE) == []
    assert await fresh.execute("SELECT * FROM realtime.created") == []
    assert await fresh.execute("SELECT * FROM realtime.check()") == []
    migrate(fresh.url)
    assert await fresh.execute(LIVE) == OURS
    await fresh.execute("INSERT INTO posts (author_id) VALUES (1)")
    assert await fresh.value("SELECT count(*) FROM realtime.events WHERE op = 'I'") == 1
