"""The notification queue (adversarial 22): what a foreign session can do to it is seen before it fills."""

from collections.abc import Iterator

import pytest

from harness.cluster import Cluster
from harness.database import Database, rows_of
from harness.facts import eventually
from harness.server import Server

PAGES = 64  # of 8 kB; the least that PostgreSQL takes, and its default is a million


@pytest.fixture
def small_queue() -> Iterator[Cluster]:
    made = Cluster(max_notify_queue_pages=str(PAGES))
    yield made
    made.close()


async def test_a_foreign_session_that_listens_and_sits_in_a_transaction_is_alarmed_early(small_queue: Cluster) -> None:
    database = Database(small_queue, small_queue.create_database(migrated=True))
    async with Server(database.url, SOBRANIE_RETENTION="8s") as server, await database.connect() as foreign:
        await rows_of(foreign, "LISTEN something")
        await rows_of(foreign, "BEGIN; SELECT 1")
        for _ in range(PAGES // 4):  # a quarter of the queue
            await database.execute("SELECT pg_notify('something', repeat('x', 7900))")

        async def alarmed() -> bool:
            return await server.metric("sobranie_notification_queue_usage_ratio") > 0.1

        await eventually(alarmed, 20, "the queue's use is seen")
        assert '"event": "queue_usage", "level": "warning"' in server.output()
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await rows_of(foreign, "COMMIT")

        async def calm() -> bool:
            return await server.metric("sobranie_notification_queue_usage_ratio") < 0.1

        await eventually(calm, 20, "and that it is free again")
