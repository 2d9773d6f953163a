"""A bus is never trusted: a batch is applied only where the server has its start, else it reads the event log."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.stream.follower
from app.core.hub import Hub
from app.model.change import Batch
from app.model.observations import Failed, Observation
from app.model.position import Snapshot
from app.stream.broadcaster import Broadcaster
from app.stream.follower import Follower
from harness.facts import eventually
from tests.unit.log_model import World


class Fleet:
    """A leader, which has read everything, and a follower, which has read nothing since `start`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[Observation] = []
        self.deposed: list[float] = []
        self.leader = Broadcaster(world, Hub(), world.start(), 1 << 20, self.seen.append)
        self.broadcaster = Broadcaster(world, Hub(), world.start(), 1 << 20, self.seen.append)
        self.follower = Follower(self.broadcaster, self._depose, self.seen.append)

    async def _depose(self, silent_seconds: float) -> None:
        self.deposed.append(silent_seconds)

    async def commit(self) -> Batch:
        """A transaction, as the leader reads it."""
        writer = self.world.begin()
        while not writer.events:
            self.world.write(writer)
        self.world.commit(writer)
        batch = await self.leader.pull()
        assert batch is not None
        return batch

    def got(self) -> list[int]:
        """The transactions that the follower has applied, in order."""
        return [t.xid for stretch in self.broadcaster.history.stretches for t in stretch.transactions or ()]

    @property
    def woken(self) -> bool:
        return self.follower._woken.is_set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(World(Random(1)))


def xids(*batches: Batch) -> list[int]:
    return [t.xid for batch in batches for t in batch.transactions or ()]


async def test_a_batch_from_where_the_server_stands_is_applied_at_once_and_nothing_is_read(fleet: Fleet) -> None:
    first, second = await fleet.commit(), await fleet.commit()
    fleet.follower.batch(first)
    fleet.follower.batch(second)
    assert fleet.got() == xids(first, second)
    assert fleet.broadcaster.point == fleet.leader.point
    assert not fleet.woken


async def test_a_batch_that_comes_twice_or_late_changes_nothing(fleet: Fleet) -> None:
    first, second = await fleet.commit(), await fleet.commit()
    for batch in (first, first, second, first, second):
        fleet.follower.batch(batch)
    assert fleet.got() == xids(first, second)
    assert not fleet.woken


async def test_a_batch_after_a_hole_is_not_applied_and_the_event_log_is_read(fleet: Fleet) -> None:
    lost, heard = await fleet.commit(), await fleet.commit()
    before = fleet.broadcaster.point
    fleet.follower.batch(heard)
    assert fleet.broadcaster.point == before
    assert fleet.woken
    async with fleet.running():
        await eventually(lambda: fleet.broadcaster.point == fleet.leader.point)
    assert fleet.got() == xids(lost, heard)


async def test_of_a_batch_that_begins_before_the_server_only_what_is_new_is_applied(fleet: Fleet) -> None:
    first = await fleet.commit()
    start = first.since
    fleet.follower.batch(first)
    second = await fleet.commit()
    both = Batch(
        start, second.upto, second.highest, second.lsn, [*(first.transactions or ()), *(second.transactions or ())],
        [], first.size + second.size, 0.0,
    )  # fmt: skip
    fleet.follower.batch(both)
    assert fleet.got() == xids(first, second)


@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=60)
def test_whatever_a_bus_loses_repeats_and_reorders_each_transaction_is_applied_once(
    seed: int, data: st.DataObject
) -> None:
    async def play() -> None:
        fleet = Fleet(World(Random(seed)))
        batches = [await fleet.commit() for _ in range(5)]
        for batch in data.draw(st.lists(st.sampled_from(batches), max_size=12)):
            fleet.follower.batch(batch)
            if fleet.woken and data.draw(st.booleans()):
                fleet.follower._woken.clear()
                await fleet.broadcaster.pull()
            assert fleet.got() == xids(*batches)[: len(fleet.got())]
        await fleet.broadcaster.pull()
        assert fleet.got() == xids(*batches)
        assert fleet.broadcaster.point == fleet.leader.point

    asyncio.run(play())


async def test_a_beat_that_is_ahead_has_the_event_log_read_and_one_that_is_not_has_not(fleet: Fleet) -> None:
    follower, token = fleet.follower, fleet.leader.point.token
    follower.beat("leader", token or "")
    assert (follower.heard_leader, fleet.woken) == ("leader", False)
    await fleet.commit()
    follower.beat("leader", fleet.leader.point.token or "")
    assert fleet.woken


@pytest.mark.parametrize("position", ["", "nonsense"])
async def test_a_beat_whose_position_says_nothing_has_the_event_log_read(fleet: Fleet, position: str) -> None:
    fleet.follower.beat("leader", position)
    assert fleet.woken


async def test_a_leader_is_heard_of_until_it_is_silent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def heard() -> str | None:
        return fleet.follower.heard_leader

    assert heard() is None  # nobody has beaten yet
    fleet.follower.beat("leader", "")
    assert heard() == "leader"
    monkeypatch.setattr(app.stream.follower, "SILENT_SECONDS", 0.0)
    await eventually(lambda: heard() is None)


async def test_without_a_beat_the_event_log_is_read_and_the_leader_is_ended_in_time(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"WAKE_SECONDS": 0.01, "SILENT_SECONDS": 0.0, "DEAD_SECONDS": 0.05}.items():
        monkeypatch.setattr(app.stream.follower, name, seconds)
    await fleet.commit()
    async with fleet.running():
        await eventually(lambda: fleet.broadcaster.point == fleet.leader.point)
        await eventually(lambda: fleet.deposed)
    assert fleet.deposed[0] > 0.05


async def test_a_database_that_is_away_is_asked_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.stream.follower, "RETRY_SECONDS", 0.01)
    await fleet.commit()
    fleet.world.away = True
    asked, difference = list[Snapshot](), fleet.world.difference

    async def counted(since: Snapshot) -> Batch | None:
        asked.append(since)
        return await difference(since)

    monkeypatch.setattr(fleet.world, "difference", counted)
    async with fleet.running():
        fleet.follower.wake()
        await eventually(lambda: len(asked) >= 3)
        fleet.world.away = False
        await eventually(lambda: fleet.broadcaster.point == fleet.leader.point)
    assert not any(isinstance(o, Failed) for o in fleet.seen)


async def test_a_bug_is_reported_and_the_server_goes_on_following(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.stream.follower, "RETRY_SECONDS", 0.01)
    await fleet.commit()
    right: Callable[[Snapshot], Awaitable[Batch | None]] = fleet.world.difference

    async def wrong(since: Snapshot) -> Batch | None:
        monkeypatch.setattr(fleet.world, "difference", right)
        raise ValueError("a bug")

    monkeypatch.setattr(fleet.world, "difference", wrong)
    async with fleet.running():
        fleet.follower.wake()
        await eventually(lambda: any(isinstance(o, Failed) for o in fleet.seen))
        fleet.follower.wake()
        await eventually(lambda: fleet.broadcaster.point == fleet.leader.point)
