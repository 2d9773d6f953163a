"""Replay: from any position to any later one, whatever the cuts, it is what the live reading was."""

import asyncio
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.errors import PositionRefused, ResetReason
from app.model.position import Path, Position, Snapshot
from app.postgres import large, pages
from app.postgres.event_log import PostgresEventLog
from app.postgres.pages import Listed
from app.postgres.replay import grouped
from app.stream.ports import PORTION_BYTES
from harness.database import Database
from tests.integration import story


async def portions(log: PostgresEventLog, since: Snapshot, upto: Snapshot) -> list[story.Portion]:
    return [portion async for portion in story.replay(log, since, upto)]


async def told(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[story.Reading], list[story.Connection]]:
    """A story with transactions that are open at its end, and its readings."""
    position = (await log.head()).position
    await story.begin(database)
    open_ = [await database.connect(autocommit=False) for _ in range(2)]
    await open_[0].execute("INSERT INTO other (note) VALUES ('open from the start')")
    tasks = [asyncio.create_task(story.writer(database, seed, 12)) for seed in range(100, 108)]
    readings = await story.follow(log, position, tasks)
    await asyncio.gather(*tasks)
    await open_[1].execute("INSERT INTO other (note) VALUES ('open at the end')")
    return readings, open_


@pytest.mark.parametrize("listed", [3, 50_000])
async def test_a_replay_from_every_position_gives_what_was_missed_and_every_cut_is_a_position(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    monkeypatch.setattr(pages, "LISTED", listed)
    monkeypatch.setattr("app.postgres.replay.PORTION_BYTES", 2000)
    readings, open_ = await told(database, log, monkeypatch)
    everything = [story.ids(r.transactions) for r in readings]
    upto = readings[-1].upto
    for i in range(0, len(readings), max(1, len(readings) // 12)):
        since = readings[i].since
        found = await portions(log, since, upto)
        assert found[-1].upto == upto
        missed = [x for part in everything[i:] for x in part]
        got = [x for p in found for x in story.ids(p.transactions)]
        assert sorted(got) == sorted(missed)
        assert len(got) == len(set(got))
        cuts = [
            (n, p.upto) for n, p in zip(accumulate(len(story.ids(p.transactions)) for p in found), found, strict=True)
        ]
        cuts = [(n, cut) for n, cut in cuts if cut is not None]
        for n, cut in cuts[:: max(1, len(cuts) // 5)]:
            assert cut is not None
            assert cut.contains(since)
            assert upto.contains(cut)
            rest = await story.replayed(log, cut, upto)
            assert story.ids(rest) == got[n:]
    for connection in open_:
        await connection.close()


async def test_rows_end_right_in_every_replay_of_a_story(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, open_ = await told(database, log, monkeypatch)
    found = await story.replayed(log, readings[0].since, readings[-1].upto)
    before = {("story", str(i)): {"id": i, "owner": 0, "value": 0} for i in range(1, 11)}
    changes = [c for t in found for c in t.changes]
    assert story.apply(changes, before) == await story.truth(database, "story", "other")
    for connection in open_:
        await connection.close()


async def test_the_end_is_as_if_the_batches_after_it_were_not_there(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, open_ = await told(database, log, monkeypatch)
    middle = len(readings) // 2
    found = await story.replayed(log, readings[0].since, readings[middle].upto)
    assert sorted(story.ids(found)) == sorted(x for r in readings[: middle + 1] for x in story.ids(r.transactions))
    for connection in open_:
        await connection.close()


async def test_a_transaction_open_for_long_is_replayed_once_after_its_commit(
    database: Database, log: PostgresEventLog
) -> None:
    start = (await log.head()).position
    async with await database.connect(autocommit=False) as slow:
        await slow.execute("INSERT INTO posts (author_id, title) VALUES (1, 'slow')")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'fast')")
        before = await log.difference(start)
        assert before is not None
        assert [p.upto for p in await portions(log, start, before.upto)] == [before.upto]
        await slow.commit()
    after = await log.difference(before.upto)
    assert after is not None
    assert len(story.ids(await story.replayed(log, before.upto, after.upto))) == 1
    assert len(story.ids(await story.replayed(log, start, after.upto))) == 2


async def test_nothing_between_two_positions_is_one_portion_that_ends_there(log: PostgresEventLog) -> None:
    position = (await log.head()).position
    (portion,) = await portions(log, position, position)
    assert (portion.transactions, portion.upto) == ([], position)


async def test_a_huge_transaction_comes_in_pieces_without_a_position_within(
    database: Database, log: PostgresEventLog
) -> None:
    start = (await log.head()).position
    await database.execute("INSERT INTO posts (author_id, title) VALUES (0, 'before')")
    await database.execute("INSERT INTO posts (author_id) SELECT g FROM generate_series(1, 25000) g;")
    await database.execute("INSERT INTO posts (author_id, title) VALUES (0, 'after')")
    batch = await log.difference(start)
    assert batch is not None
    found = await portions(log, start, batch.upto)
    assert all(sum(c.size for t in p.transactions for c in t.changes) <= PORTION_BYTES for p in found)
    changes = [c for p in found for t in p.transactions for c in t.changes]
    assert [c.new_values and c.new_values[1] for c in changes] == ["0", *(str(i) for i in range(1, 25001)), "0"]
    positions = [p.upto for p in found if p.upto is not None]
    assert len(positions) <= 4
    assert positions[-1] == batch.upto


@pytest.mark.parametrize("marked", [False, True])
async def test_a_huge_transaction_is_in_order_however_it_is_cut(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """Keys that rows hand on, several statements, a TRUNCATE between, and nested statements where there are marks."""
    await story.begin(database)
    await database.execute("ALTER TABLE story DROP CONSTRAINT story_pkey, ADD PRIMARY KEY (id) DEFERRABLE")
    await database.execute("SELECT realtime.watch('story', routes => '{owner}')")
    if marked:
        await database.execute(
            """CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE story SET value = value + 1000 WHERE owner = 7 AND value < 1000; RETURN NULL; END $$;
               CREATE TRIGGER touch AFTER INSERT ON story EXECUTE FUNCTION touch();
               SELECT realtime.watch('story', routes => '{owner}')"""
        )
    start = (await log.head()).position
    await database.execute(
        """UPDATE story SET id = id + 1;
           INSERT INTO other (note) SELECT g::text FROM generate_series(1, 7) g;
           INSERT INTO story SELECT g, 7, 0 FROM generate_series(20, 30) g;
           UPDATE story SET id = id - 1, value = value + 1;
           TRUNCATE other;
           INSERT INTO other (note) VALUES ('last');
           DELETE FROM story WHERE id % 2 = 0"""
    )
    batch = await log.difference(start)
    assert batch is not None
    whole = await story.replayed(log, start, batch.upto)
    before = {("story", str(i)): {"id": i, "owner": 0, "value": 0} for i in range(1, 11)}
    expected = await story.truth(database, "story", "other")
    assert story.apply([c for t in whole for c in t.changes], before) == expected
    monkeypatch.setattr(pages, "LARGE_CHANGES", 5)
    monkeypatch.setattr(large, "PAGE_CHANGES", 4)
    cut = await story.replayed(log, start, batch.upto)
    assert story.apply([c for t in cut for c in t.changes], before) == expected
    if not marked:
        # Only where a statement's keys meet are they split; in pages always, so compare what is not split.
        assert [c.id for t in cut for c in t.changes if not c.half] == [
            c.id for t in whole for c in t.changes if not c.half
        ]


async def test_rows_that_vanish_in_the_midst_are_an_overrun(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.postgres.replay.PORTION_BYTES", 300)
    start = (await log.head()).position
    for i in range(5):
        await database.execute("INSERT INTO posts (author_id) VALUES (%s)", i)
    batch = await log.difference(start)
    assert batch is not None
    replay = story.replay(log, start, batch.upto)
    first = await anext(aiter(replay))
    assert len(first.transactions) == 1
    await database.execute("UPDATE realtime.event_log_state SET floor = %s::pg_snapshot", str(batch.upto))
    await database.execute("TRUNCATE realtime.events")
    with pytest.raises(PositionRefused) as caught:
        async for _ in replay:
            pass
    assert caught.value.reason is ResetReason.OVERRUN
    with pytest.raises(PositionRefused) as caught:
        await anext(aiter(story.replay(log, start, batch.upto)))
    assert caught.value.reason is ResetReason.EXPIRED


async def test_the_ring_turns_between_the_check_of_a_position_and_its_read(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real partitions (adversarial 28): refused whole or cut off between portions, exact from the floor on."""
    monkeypatch.setattr("app.postgres.replay.PORTION_BYTES", 300)
    head = await log.head()
    early = Position(head.incarnation, head.tag, head.position, head.lsn)
    await log.accept(early)
    for i in range(3):
        await database.execute("INSERT INTO posts (author_id) VALUES (%s)", i)
    middle = await log.difference(early.snapshot)
    assert middle is not None
    under_way = story.replay(log, early.snapshot, middle.upto)
    assert len((await anext(aiter(under_way))).transactions) == 1

    turn = "SELECT realtime.turn('1 h', 1::bigint << 40, %s::pg_snapshot)"
    await database.execute("SELECT realtime.purge()")
    assert await database.value(turn, str(middle.upto)) == "switched"
    await database.execute("INSERT INTO posts (author_id) VALUES (3)")
    last = await log.difference(middle.upto)
    assert last is not None
    assert await database.value(turn, str(middle.upto)) == "emptied"

    for replay, reason in ((under_way, "overrun"), (story.replay(log, early.snapshot, last.upto), "expired")):
        with pytest.raises(PositionRefused) as caught:
            async for _ in replay:
                pass
        assert caught.value.reason == ResetReason(reason)
    floor = Snapshot.parse(await database.value("SELECT floor::text FROM realtime.event_log_state"))
    assert floor == middle.upto
    await log.difference(last.upto)  # a read tells of the floor, which otherwise may be known a second late
    await log.accept(Position(head.incarnation, head.tag, floor, middle.lsn))
    changes = [c for t in await story.replayed(log, floor, last.upto) for c in t.changes]
    assert [c.new_values and c.new_values[1] for c in changes] == ["3"]
    with pytest.raises(PositionRefused) as caught:  # one transaction short of the floor
        await log.accept(Position(head.incarnation, head.tag, floor.without([floor.xmax - 1]), middle.lsn))
    assert caught.value.reason is ResetReason.EXPIRED


async def test_no_transaction_is_open_between_two_portions(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.postgres.replay.PORTION_BYTES", 300)
    start = (await log.head()).position
    for i in range(5):
        await database.execute("INSERT INTO posts (author_id) VALUES (%s)", i)
    batch = await log.difference(start)
    assert batch is not None
    async for _ in story.replay(log, start, batch.upto):
        assert not await database.execute(
            "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'sobranie%' AND state <> 'idle'"
            " AND datname = current_database()"
        )


xids = st.integers(min_value=1, max_value=30)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Snapshot, Snapshot, list[int]]:
    """A start, an end that contains it, and transactions in the order of their last events."""
    ended = draw(st.sets(xids))  # visible in the end
    begun = draw(st.sets(st.sampled_from(sorted(ended)))) if ended else set()
    first = max(begun, default=0) + 1
    last = max(ended | {first - 1}) + 1
    since = Snapshot(first, frozenset(x for x in range(1, first) if x not in begun))
    upto = Snapshot(last, frozenset(x for x in range(1, last) if x not in ended))
    missed = draw(st.permutations(sorted(ended - begun)))
    return since, upto, list(missed[: draw(st.integers(0, len(missed)))])


@given(worlds(), st.integers(1, 30))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_every_position_on_a_path_sees_exactly_what_was_delivered(
    world: tuple[Snapshot, Snapshot, list[int]], page: int
) -> None:
    since, upto, order = world
    position, delivered = since, set[int]()
    for i in range(0, len(order), page):
        chunk, later = order[i : i + page], order[i + page :]
        highest = max(*chunk, position.xmax)
        path = Path(position, upto, [*chunk, *(x for x in later if x < highest)])
        for xid in chunk:
            path.deliver(xid)
            delivered.add(xid)
            position = path.position
            assert position.contains(since)
            assert upto.contains(position)
            assert all(position.sees(x) == (x in delivered) for x in order if not since.sees(x))


@given(st.lists(st.tuples(st.integers(1, 30_000), st.integers(0, 20 << 20))))
def test_groups_keep_the_order_and_leave_large_transactions_alone(sizes: list[tuple[int, int]]) -> None:
    page = [Listed(i, i, changes, size) for i, (changes, size) in enumerate(sizes)]
    groups = list(grouped(page))
    assert [t for group in groups for t in group] == page
    assert all(len(group) == 1 or not any(t.large for t in group) for group in groups)
