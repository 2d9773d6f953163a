"""Publications FOR ALL TABLES, and a logical subscription from a database that has the product too."""

from collections.abc import Iterator

import psycopg
import pytest

from harness.cluster import Cluster, migrate
from harness.database import Database
from harness.facts import eventually
from tests.migrations.later import Later
from tests.sql.log import events

WATCHED = "CREATE TABLE orders (id int PRIMARY KEY, v text); SELECT realtime.watch('orders', '{v}', always => true)"
EVERYTHING = """
INSERT INTO orders VALUES (1, 'x'); UPDATE orders SET v = 'y'; DELETE FROM orders;
SELECT realtime.incarnate(); SELECT realtime.reload('orders'); SELECT realtime.purge();
SELECT realtime.turn('1 h', 1, pg_current_snapshot()) FROM generate_series(1, 6);
ALTER TABLE orders ADD note text; SELECT realtime.check(); SELECT realtime.recapture();
SELECT realtime.watch('orders', '{note}'); SELECT realtime.unwatch('orders')"""


@pytest.mark.parametrize("first", [True, False])
async def test_a_publication_of_all_tables_stops_nothing(fresh: Database, later: Later, first: bool) -> None:
    publication = "CREATE PUBLICATION p FOR ALL TABLES"
    if first:
        await fresh.execute(publication)
    migrate(fresh.url)
    if not first:
        await fresh.execute(publication)
    await fresh.execute(WATCHED)
    for statement in EVERYTHING.split(";"):
        await fresh.execute(statement)
    later.migrate(fresh.url)
    later.migrate(fresh.url, "downgrade", "-1")
    migrate(fresh.url, "downgrade", "base")
    assert await fresh.value("SELECT to_regnamespace('realtime')") is None


async def test_no_table_of_ours_is_changed_without_an_identity(fresh: Database) -> None:
    migrate(fresh.url)
    bare = await fresh.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'realtime'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND c.relpersistence <> 'u'"  # an UNLOGGED table is never published
        " AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary) ORDER BY 1"
    )
    assert [name for (name,) in bare] == [
        *(f"events{part}" for part in ("", "_0", "_1", "_2", "_3", "_left_out"))
    ]  # never updated


@pytest.fixture
def logical() -> Iterator[Cluster]:
    made = Cluster(wal_level="logical", max_replication_slots="8", max_wal_senders="8")
    yield made
    made.close()


async def test_a_subscription_that_takes_our_schema_too_is_named_and_one_of_the_applications_is_streamed(
    logical: Cluster,
) -> None:
    publisher, subscriber = (Database(logical, logical.create_database(migrated=True)) for _ in range(2))
    for database in (publisher, subscriber):
        await database.execute(WATCHED)
    await publisher.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    await publisher.execute("CREATE PUBLICATION application FOR TABLE orders")
    await subscribe(publisher, subscriber, "everything", "enabled = false")
    told = "SELECT name, problem, remedy FROM realtime.check() WHERE schema = 'realtime'"
    ((name, problem, remedy),) = await subscriber.execute(told)
    assert name == "events"
    assert "subscription everything writes into the schema realtime" in problem
    assert "ALTER SUBSCRIPTION everything SET PUBLICATION" in remedy
    await subscriber.execute("ALTER SUBSCRIPTION everything SET (slot_name = NONE)")
    await subscriber.execute("DROP SUBSCRIPTION everything")
    assert await subscriber.execute("SELECT * FROM realtime.check()") == []

    await subscribe(publisher, subscriber, "application", "enabled = true")
    await publisher.execute("INSERT INTO orders VALUES (1, 'x'); UPDATE orders SET v = 'y'")

    async def arrived() -> bool:
        return await subscriber.execute("SELECT id, v FROM orders") == [(1, "y")]

    await eventually(arrived, 20, "the subscriber has the row")
    assert [e.new for e in await events(subscriber)][-1] == {"id": 1, "v": "y"}
    assert await subscriber.execute("SELECT * FROM realtime.check()") == []
    await subscriber.execute("DROP SUBSCRIPTION application")


async def subscribe(publisher: Database, subscriber: Database, publication: str, how: str) -> None:
    """In one cluster the slot is made first: CREATE SUBSCRIPTION would wait for its own transaction."""
    async with await psycopg.AsyncConnection.connect(publisher.url, autocommit=True) as connection:
        await connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (publication,))
    await subscriber.execute(
        f"CREATE SUBSCRIPTION {publication} CONNECTION '{publisher.url}' PUBLICATION {publication}"
        f" WITH (create_slot = false, {how})"
    )
