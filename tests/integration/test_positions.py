"""Which positions hold: through crashes where they were durable, never across another history of the database."""

from dataclasses import replace

import psycopg
import pytest

from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.observations import DatabaseBack, DatabaseLost, IncarnationChanged, Observation
from app.model.position import Position, Snapshot
from app.postgres.event_log import PostgresEventLog
from app.stream.ports import LogHead
from harness.cluster import Cluster, migrate
from harness.database import Database
from tests.integration import story
from tests.support.standby import caught_up, fall_behind


class Listener:
    """Keeps the incarnations that it is told of."""

    def __init__(self) -> None:
        self.renewed: list[LogHead] = []

    def forget(self, floor: Snapshot) -> None:
        pass

    def rebase(self, head: LogHead, reason: ResetReason | None) -> None:
        assert reason is None
        self.renewed.append(head)


def position_of(head: LogHead, snapshot: Snapshot | None = None) -> Position:
    return Position(head.incarnation, head.tag, snapshot or head.position, head.lsn)


async def verdict(log: PostgresEventLog, position: Position) -> ResetReason | None:
    try:
        await log.accept(position)
    except PositionRefused as refused:
        return refused.reason
    return None


@pytest.fixture
def own_database(own_cluster: Cluster) -> Database:
    """A migrated database in a cluster that may be killed."""
    own_cluster._ddl("CREATE DATABASE served")
    made = Database(own_cluster, "served")
    migrate(made.url)
    return made


async def test_a_fresh_position_is_accepted_and_foreign_ones_are_not(log: PostgresEventLog) -> None:
    head = await log.head()
    good = position_of(head)
    assert await verdict(log, good) is None
    assert await verdict(log, replace(good, tag="00000000")) is ResetReason.FOREIGN
    assert await verdict(log, replace(good, incarnation=head.incarnation + 1)) is ResetReason.FOREIGN
    assert await verdict(log, replace(good, incarnation=0)) is ResetReason.FOREIGN
    assert await verdict(log, replace(good, snapshot=Snapshot(3))) is ResetReason.EXPIRED


async def test_a_position_of_another_database_is_foreign(
    database: Database, log: PostgresEventLog, cluster: Cluster
) -> None:
    name = cluster.create_database(migrated=True)
    other = PostgresEventLog(cluster.url(name), lambda observation: None)
    try:
        assert await verdict(log, position_of(await other.head())) is ResetReason.FOREIGN
    finally:
        await other.close()
        cluster.drop_database(name)


async def test_an_applications_own_position_starts_where_its_transaction_stood(
    database: Database, log: PostgresEventLog
) -> None:
    await log.head()
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'seen')")
    async with await database.connect(autocommit=False) as page:
        await page.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await page.execute("SELECT 1")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'missed')")
        row = await (await page.execute("SELECT realtime.position(), count(*) FROM posts")).fetchone()
        await page.rollback()
    assert row is not None
    position = Position.decode(row[0])
    assert row[1] == 1
    assert not position.strict
    await log.accept(position)
    batch = await log.difference(position.snapshot)
    assert batch is not None
    assert [b"missed" in (c.new or b"") for t in batch.transactions or () for c in t.changes] == [True]


async def test_durable_positions_hold_through_crashes_and_others_do_not(
    own_database: Database, observed: list[Observation]
) -> None:
    """Aborted transactions before the crash make it re-use ids: a raw snapshot would lose what comes after."""
    cluster = own_database.cluster
    log = PostgresEventLog(own_database.url, observed.append)
    listener = Listener()
    log.listen(listener)
    renewed = listener.renewed
    held = [position_of(await log.head())]
    for round_ in range(3):
        await own_database.execute("INSERT INTO posts (author_id, title) VALUES (%s, 'kept')", round_)
        batch = await log.difference(held[-1].snapshot)
        assert batch is not None
        held.append(replace(held[-1], snapshot=batch.upto, lsn=batch.lsn))
        for _ in range(20):  # ids that the crash takes back
            async with await own_database.connect(autocommit=False) as gone:
                await gone.execute("INSERT INTO posts (author_id, title) VALUES (0, 'gone')")
                await gone.rollback()
        last = await log.difference(batch.upto)
        assert last is None or last.transactions == []  # the raw snapshot has moved beyond them
        cluster.kill9()
        cluster.start()
        with pytest.raises(DatabaseAway):
            await log.difference(batch.upto)
        await own_database.execute("INSERT INTO posts (author_id, title) VALUES (%s, 'after')", round_)
        after = await log.difference(batch.upto)
        assert after is not None
        assert [b"after" in (c.new or b"") for t in after.transactions or () for c in t.changes] == [True]
        held.append(replace(position_of(renewed[-1]), snapshot=after.upto, lsn=after.lsn))
    upto = held[-1].snapshot
    for i, position in enumerate(held):
        assert await verdict(log, position) is None
        assert len(story.ids(await story.replayed(log, position.snapshot, upto))) == len(held) - 1 - i
        before = position.incarnation != renewed[-1].incarnation
        assert await verdict(log, replace(position, strict=False)) is (ResetReason.LOST if before else None)
    assert [o.incarnation for o in renewed] == sorted({o.incarnation for o in renewed})
    assert len(renewed) == len([o for o in observed if isinstance(o, IncarnationChanged)]) == 3
    assert await verdict(log, replace(position_of(renewed[-1]), strict=False)) is None
    await log.close()


async def test_the_order_of_a_transaction_is_told_where_recovery_has_made_its_events(own_database: Database) -> None:
    """Recovery writes rows with command 0: commands that are equal for that say nothing of queries."""
    cluster = own_database.cluster
    log = PostgresEventLog(own_database.url, lambda observation: None)
    start = (await log.head()).position
    await log.close()
    for _ in range(3):
        async with await own_database.connect(autocommit=False) as writer:
            made = await (
                await writer.execute("INSERT INTO notifications (user_id) VALUES (4) RETURNING id")
            ).fetchone()
            await writer.execute("INSERT INTO posts (author_id) VALUES (1), (2)")
            await writer.execute("DELETE FROM notifications WHERE id = %s", made)
            await writer.execute("INSERT INTO notifications (user_id) VALUES (5)")
            await writer.commit()
    cluster.kill9()
    cluster.start()
    assert await own_database.value("SELECT count(*) FROM realtime.events WHERE cmin = '0'::cid AND op <> 'G'") > 5
    log = PostgresEventLog(own_database.url, lambda observation: None)
    try:
        batch = await log.difference(start)
        assert batch is not None
        told = [[(c.op, c.table.name) for c in t.changes] for t in batch.transactions or ()]
    finally:
        await log.close()
    posts = [("I", "posts"), ("I", "posts")]
    assert told == [[("I", "notifications"), *posts, ("D", "notifications"), ("I", "notifications")]] * 3


async def test_a_clean_restart_keeps_the_incarnation(own_database: Database) -> None:
    log = PostgresEventLog(own_database.url, lambda observation: None)
    before = await log.head()
    await log.close()
    own_database.cluster.restart()
    after = await log.head()
    assert (after.incarnation, after.tag) == (before.incarnation, before.tag)
    assert await verdict(log, replace(position_of(before), strict=False)) is None
    await log.close()


AGAIN = """
DELETE FROM realtime.incarnation; SELECT setval(pg_get_serial_sequence('realtime.incarnation', 'n'), %s, false);
DELETE FROM realtime.alive"""


async def test_the_same_dump_restored_twice_is_another_incarnation_though_its_number_is_the_same(
    database: Database, log: PostgresEventLog
) -> None:
    head = await log.head()
    await database.execute(AGAIN.replace("%s", str(head.incarnation)))
    await log.close()
    again = await log.head()
    assert again.incarnation == head.incarnation
    assert await verdict(log, position_of(again)) is None
    assert await verdict(log, position_of(head)) is ResetReason.FOREIGN


@pytest.mark.parametrize("old_primary", ["is gone", "still answers"])
async def test_a_promotion_ends_the_positions_that_saw_a_tail_that_it_lacks(
    own_database: Database, observed: list[Observation], old_primary: str
) -> None:
    log = PostgresEventLog(own_database.url, observed.append)
    kept = await log.head()
    standby = Cluster(base=own_database.cluster)
    try:
        await caught_up(own_database.cluster, standby)
        await fall_behind(own_database.cluster, standby)
        await own_database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'tail')")
        assert await log.difference(kept.position) is not None
        before = await log.head()
        if old_primary == "is gone":
            own_database.cluster.stop("immediate")
        standby.run("pg_ctl", "-D", str(standby.data), "-w", "promote")
        log.sessions.url = standby.url("served")  # as when a name moves to the new primary
        with pytest.raises(DatabaseAway):
            await (
                log.difference(before.position)
                if old_primary == "is gone"
                else log.catalog.current("public", "unknown")
            )
        with pytest.raises(PositionRefused) as caught:
            await log.difference(before.position)
        assert caught.value.reason is ResetReason.LOST
        after = await log.head()
        assert after.incarnation > before.incarnation
        assert await verdict(log, position_of(before)) is ResetReason.LOST
        assert await verdict(log, position_of(kept)) is None
        assert await verdict(log, position_of(after)) is None
        assert [type(o) for o in observed] == [DatabaseLost, DatabaseBack, IncarnationChanged]
    finally:
        await log.close()
        standby.close()
