"""Restores of every kind: `upgrade head` mends what they leave, or a line says what to do."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import pytest

from app.model.errors import DatabaseAway, StartError
from app.postgres.checks import check
from app.postgres.event_log import PostgresEventLog
from harness.cluster import Cluster, migrate
from harness.database import Database
from tests.sql.log import events

# Who owns what in the schema, and who may do what with it.
RIGHTS: Final = """
SELECT 'schema', 'realtime', pg_get_userbyid(n.nspowner), a.grantee::regrole::text, a.privilege_type
FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a WHERE n.nspname = 'realtime'
UNION ALL SELECT 'relation', c.relname, pg_get_userbyid(c.relowner), a.grantee::regrole::text, a.privilege_type
FROM pg_class c LEFT JOIN LATERAL aclexplode(c.relacl) a ON true
WHERE c.relnamespace = 'realtime'::regnamespace AND c.relkind <> 'i'
UNION ALL SELECT 'function', p.oid::regprocedure::text, pg_get_userbyid(p.proowner), a.grantee::regrole::text,
  a.privilege_type
FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'realtime'::regnamespace AND p.proname <> 'timelines'
ORDER BY 1, 2, 4, 5"""
WATCHED: Final = """
CREATE TABLE orders (gone int, id int PRIMARY KEY, v text); ALTER TABLE orders DROP gone;
SELECT realtime.watch('orders', '{v}')"""
FUTURE: Final = """
INSERT INTO realtime.events SELECT (jsonb_populate_record(e, '{"xid": "900000000000"}')).* FROM realtime.events e"""
LIVE: Final = "SELECT count(*) FROM realtime.generations WHERE NOT ended AND name = 'orders'"


@pytest.fixture
async def source(fresh: Database) -> Database:
    """A database with a watched table and a change in the event log."""
    migrate(fresh.url)
    await fresh.execute(f"{WATCHED}; INSERT INTO orders VALUES (1, 'x')")
    return fresh


@pytest.fixture
def copy(source: Database) -> Iterator[Database]:
    """Where it is restored: an empty database of the same cluster."""
    made = Database(source.cluster, source.cluster.create_database(migrated=False))
    yield made
    made.cluster.drop_database(made.name)


def restore(source: Database, target: Database, *how: str, dumped: tuple[str, ...] = ()) -> None:
    """pg_dump and pg_restore. Like people, it goes on whatever errors pg_restore tells."""
    file = str(source.cluster.dir / "dump")
    source.cluster.run("pg_dump", "-Fc", "-f", file, *dumped, "-d", source.url)
    with suppress(RuntimeError):
        target.cluster.run("pg_restore", *how, "-d", target.url, file)


async def assert_streams(database: Database) -> None:
    """A new incarnation begins, and the next write of the watched table is in the event log, once. Nobody who
    subscribes from then on is reset again."""
    await database.execute("SELECT realtime.incarnate()")
    generations = await events(database, ops="G")
    assert await database.execute("SELECT * FROM realtime.check()") == []
    assert await events(database, ops="G") == generations
    await database.execute("INSERT INTO orders VALUES (2, 'y')")
    assert [e.new for e in await events(database)] == [{"id": 2, "v": "y"}]


@pytest.mark.parametrize("by", ["postgres", "someone"])
async def test_without_owners_and_rights_both_come_back(source: Database, copy: Database, user: str, by: str) -> None:
    await copy.execute(f"GRANT realtime_reader TO {user}; GRANT realtime_owner TO {user}")
    await copy.execute(f"ALTER DATABASE {copy.name} OWNER TO {user}; GRANT ALL ON SCHEMA public TO {user}")
    restorer = Database(copy.cluster, copy.name, by)
    restore(source, restorer, "--no-owner", "--no-acl")
    with pytest.raises(StartError, match="sobranie migrate") as refused:
        await check(copy.cluster.url(copy.name, user=user))
    assert "\n" not in str(refused.value)
    assert migrate(restorer.url).strip() == ""
    assert await copy.execute(RIGHTS) == await source.execute(RIGHTS)
    await check(copy.cluster.url(copy.name, user=user))
    await assert_streams(copy)
    migrate(restorer.url, "downgrade", "base")
    assert await copy.value("SELECT to_regnamespace('realtime')") is None
    assert await copy.value("SELECT count(*) FROM orders") == 2


async def test_where_the_roles_were_missing_they_are_made_and_own_what_is_theirs(
    source: Database,
) -> None:
    other = Cluster()
    try:
        copy = Database(other, other.create_database(migrated=False))
        await copy.execute("CREATE ROLE server LOGIN")
        restore(source, copy)
        with pytest.raises(StartError, match="sobranie migrate"):
            await check(other.url(copy.name, user="server"))
        assert migrate(copy.url).strip() == ""
        assert await copy.execute(RIGHTS) == await source.execute(RIGHTS)
        with pytest.raises(StartError, match="GRANT realtime_reader TO"):
            await check(other.url(copy.name, user="server"))
        await copy.execute("GRANT realtime_reader TO server")
        await check(other.url(copy.name, user="server"))
        await assert_streams(copy)
    finally:
        other.close()


@pytest.mark.parametrize("how", [(), ("--no-owner", "--no-acl")])
async def test_a_copy_of_the_schema_alone_is_made_anew_and_says_what_was_watched(
    source: Database, copy: Database, how: tuple[str, ...]
) -> None:
    restore(source, copy, *how, dumped=("--schema-only",))
    await copy.execute("INSERT INTO orders VALUES (1, 'x')")
    with pytest.raises(StartError, match="sobranie migrate"):
        await check(copy.url)
    said = migrate(copy.url)
    assert "orders was watched where this copy comes from" in said
    assert "SELECT realtime.watch('public.orders')" in said
    await check(copy.url)
    assert await copy.value(LIVE) == 0
    await copy.execute("SELECT realtime.watch('orders', '{v}')")
    assert await copy.execute(RIGHTS.replace("p.proname <>", "p.proname !~ 'capture_' AND p.proname <>")) == (
        await source.execute(RIGHTS.replace("p.proname <>", "p.proname !~ 'capture_' AND p.proname <>"))
    )
    await assert_streams(copy)


async def test_a_copy_of_the_schema_alone_can_be_taken_down(source: Database, copy: Database) -> None:
    restore(source, copy, dumped=("--schema-only",))
    migrate(copy.url, "downgrade", "base")
    assert await copy.value("SELECT to_regnamespace('realtime')") is None
    await copy.execute("INSERT INTO orders VALUES (1, 'x')")


@pytest.mark.parametrize("dumped", [("-n", "public"), ("-N", "realtime")])
async def test_without_our_schema_the_tables_come_and_are_watched_anew(
    source: Database, copy: Database, dumped: tuple[str, ...]
) -> None:
    restore(source, copy, "--clean", "--if-exists", dumped=dumped)
    migrate(copy.url)
    assert await copy.execute("SELECT * FROM orders") == [(1, "x")]
    await copy.execute("SELECT realtime.watch('orders')")
    await assert_streams(copy)


async def test_one_table_restored_beside_others_is_on_no_channel_of_theirs(source: Database, copy: Database) -> None:
    migrate(copy.url)
    await copy.execute("CREATE TABLE news (id int PRIMARY KEY, v text); SELECT realtime.watch('news', '{v}')")
    restore(source, copy, dumped=("-t", "orders"))
    assert await copy.execute("SELECT * FROM orders") == [(1, "x")]
    captures = "SELECT capture FROM realtime.generations WHERE gen > 0"
    assert not set(await source.execute(captures)) & set(await copy.execute(captures))
    await copy.execute("INSERT INTO orders VALUES (3, 'secret')")
    assert [e.new for e in await events(copy)] == []
    await copy.execute("DELETE FROM orders WHERE id = 3; SELECT realtime.watch('orders')")
    await assert_streams(copy)


async def test_a_dump_without_the_rows_of_the_event_log_is_enough(source: Database, copy: Database) -> None:
    restore(source, copy, dumped=("--exclude-table-data=realtime.events*",))
    await check(copy.url)
    await assert_streams(copy)


async def test_the_owner_of_the_database_may_dump_it_as_a_reader(source: Database, copy: Database, user: str) -> None:
    await source.execute(
        f"ALTER DATABASE {source.name} OWNER TO {user};"
        f"ALTER TABLE orders OWNER TO {user}; ALTER TABLE posts OWNER TO {user};"
        f"ALTER TABLE notifications OWNER TO {user}"
    )
    owner = Database(source.cluster, source.name, user)
    restore(owner, copy, dumped=("-N", "realtime"))
    with pytest.raises(RuntimeError, match="permission denied"):
        restore(owner, copy)
    await source.execute(f"GRANT realtime_reader TO {user}")
    await copy.execute("DROP TABLE orders, posts, notifications")
    restore(owner, copy)
    migrate(copy.url)
    await assert_streams(copy)


async def test_a_restore_of_another_role_says_who_can_mend_it(source: Database, copy: Database, user: str) -> None:
    restore(source, copy, "--no-owner", "--no-acl")
    await copy.execute(f"GRANT realtime_owner TO {user}; ALTER DATABASE {copy.name} OWNER TO {user}")
    with pytest.raises(RuntimeError, match="migrate as a superuser, or as the role that restored it"):
        migrate(copy.cluster.url(copy.name, user=user))


async def test_in_the_midst_of_a_restore_no_watch_ends_and_no_server_starts(source: Database, copy: Database) -> None:
    """Its last part makes keys and triggers, and may take hours."""
    await source.execute("SELECT realtime.incarnate()")
    restore(source, copy, "--section=pre-data", "--section=data")
    with pytest.raises(StartError, match="was not finished"):
        await check(copy.url)
    log = PostgresEventLog(copy.url, lambda _: None)
    with pytest.raises(DatabaseAway):
        await log.head()
    await log.close()
    assert await copy.execute("SELECT * FROM realtime.check()") == []
    assert await copy.value(LIVE) == 1
    restore(source, copy, "--section=post-data")
    await check(copy.url)
    await assert_streams(copy)


async def test_data_restored_into_a_copy_of_the_schema_come_whole(source: Database, copy: Database) -> None:
    """A table whose rows come after those of our schema is captured by then, where no sequence has a value yet."""
    late = "CREATE SCHEMA shop; CREATE TABLE shop.late (id int PRIMARY KEY); SELECT realtime.watch('shop.late')"
    await source.execute(f"{late}; INSERT INTO shop.late VALUES (1)")
    restore(source, copy, dumped=("--schema-only",))
    restore(source, copy, dumped=("--data-only",))
    assert await copy.execute("SELECT * FROM shop.late") == [(1,)]
    await check(copy.url)
    await assert_streams(copy)


async def test_events_of_another_database_are_named_by_the_check_with_what_takes_them_out(source: Database) -> None:
    """`pg_restore --data-only` of another database's dump, where that has used up more transaction ids."""
    await source.execute("ALTER TABLE orders ADD w int")  # what the check itself writes is nobody else's
    assert await source.execute("SELECT * FROM realtime.check()") == []
    await source.execute(f"ALTER TABLE orders DROP w; {FUTURE}")
    ((_, schema, name, problem, remedy),) = await source.execute("SELECT * FROM realtime.check()")
    assert (schema, name) == ("realtime", "events")
    assert "yet to come" in problem
    await source.execute(remedy)
    assert await source.execute("SELECT * FROM realtime.check()") == []
    await assert_streams(source)
