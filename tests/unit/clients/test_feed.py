"""What a feed sends: exactly what follows a position, in messages that the client has room for."""

import asyncio
from collections.abc import Iterator

import pytest

from app.clients.feed import EVENT_LOG, HISTORY, Feed
from app.core.audience import Point
from app.model.errors import CloseCode, PositionRefused, ResetReason
from app.model.observations import Observation, Replayed
from tests.unit.memory_sink import MemorySink
from tests.unit.stage import Stage


class Fed:
    """A feed of whole tables into memory."""

    def __init__(self, stage: Stage, *names: str) -> None:
        self.stage = stage
        self.broadcaster = stage.server.broadcaster
        self.sink = MemorySink()
        self.seen: list[Observation] = []
        self.broadcaster.observe = self.seen.append
        self.channels = {n: self.broadcaster.hub.acquire(stage.world.tables[n].relid, n) for n in names}
        self.feed = Feed(self.broadcaster, self.sink, self.channels, self.sink.write)

    async def run(self, start: Point) -> list[Point]:
        return [point async for point in self.feed.send_units(start)]

    @property
    def replayed(self) -> list[tuple[str, int]]:
        return [(fact.source, fact.changes) for fact in self.seen if isinstance(fact, Replayed)]

    def release(self) -> None:
        for channel in self.channels.values():
            self.broadcaster.hub.release(channel)


@pytest.fixture
def fed(stage: Stage) -> Iterator[Fed]:
    made = Fed(stage, "posts")
    yield made
    made.release()


def forget_history(stage: Stage) -> None:
    """What was read is in the event log alone."""
    stage.server.broadcaster.history.restart(stage.server.broadcaster.point.snapshot)


async def test_what_follows_a_position_is_one_unit_that_ends_at_the_server(stage: Stage, fed: Fed) -> None:
    start = fed.broadcaster.point
    missed = [await stage.commit() for _ in range(3)]
    assert await fed.run(start) == [fed.broadcaster.point]
    assert fed.sink.keys == missed
    assert [m.get("position") for m in fed.sink.messages] == [stage.token]
    assert fed.replayed == [(HISTORY, 3)]
    assert not fed.feed.open


async def test_what_is_in_memory_no_more_is_read_from_the_event_log(stage: Stage, fed: Fed) -> None:
    start = fed.broadcaster.point
    missed = [await stage.commit() for _ in range(3)]
    forget_history(stage)
    point, units = start, 0
    while not point.snapshot.contains(fed.broadcaster.point.snapshot):
        (point,) = await fed.run(point)
        units += 1
    assert fed.sink.keys == missed
    assert {source for source, _ in fed.replayed} == {EVENT_LOG}
    assert [m.get("position") is not None for m in fed.sink.messages].count(True) == units


async def test_what_has_nothing_for_these_channels_is_passed_over_with_a_position(stage: Stage) -> None:
    fed = Fed(stage, "notes")
    start = fed.broadcaster.point
    for _ in range(5):
        await stage.commit()
    assert await fed.run(start) == [fed.broadcaster.point]
    assert fed.sink.messages == [{"type": "position", "position": stage.token}]
    fed.release()


async def test_nothing_more_is_written_to_a_client_that_has_not_taken_what_it_was_sent(stage: Stage, fed: Fed) -> None:
    start = fed.broadcaster.point
    missed = [await stage.commit() for _ in range(4)]
    fed.broadcaster.hub.fed_limit = 1  # a message for each change
    fed.sink.slow = True
    feeding = asyncio.create_task(fed.run(start))
    for taken in range(1, 5):
        await stage.until(lambda: len(fed.sink.written) == taken)  # noqa: B023
        await stage.turns()
        assert fed.sink.keys == missed[:taken]
        assert fed.feed.open == (taken < 4)
        fed.sink.take()
    await feeding
    assert [m.get("more", False) for m in fed.sink.messages] == [True, True, True, False]


async def test_a_client_that_goes_in_the_midst_of_a_unit_ends_the_feed(stage: Stage, fed: Fed) -> None:
    start = fed.broadcaster.point
    for _ in range(4):
        await stage.commit()
    fed.broadcaster.hub.fed_limit, fed.sink.slow = 1, True
    feeding = asyncio.create_task(fed.run(start))
    await stage.until(lambda: fed.sink.written)
    await stage.turns()
    fed.sink.close(CloseCode.RESTART, "gone")
    with pytest.raises(ConnectionResetError):
        await feeding
    assert fed.feed.open


async def test_a_position_before_the_floor_is_refused_and_nothing_was_sent(stage: Stage, fed: Fed) -> None:
    start = fed.broadcaster.point
    for _ in range(3):
        await stage.commit()
    stage.world.horizon = fed.broadcaster.point.snapshot
    fed.broadcaster.forget(stage.world.horizon)
    with pytest.raises(PositionRefused) as refused:
        await fed.run(start)
    assert refused.value.reason is ResetReason.EXPIRED
    assert fed.sink.written == []
    assert not fed.feed.open


async def test_a_changed_definition_is_a_unit_of_its_own_that_resets_the_channels_of_its_table(
    stage: Stage, fed: Fed
) -> None:
    start = fed.broadcaster.point
    first = await stage.commit()
    stage.world.alter("posts", None)
    await fed.broadcaster.pull()
    (before,) = await fed.run(start)
    assert fed.sink.keys == [first]
    assert fed.feed.schema == set()
    assert await fed.run(before) == [fed.broadcaster.point]
    assert fed.sink.messages[-1] == {
        "type": "reset", "channels": ["posts"], "reason": "schema", "position": stage.token,
    }  # fmt: skip
    assert fed.feed.schema == {stage.world.tables["posts"].relid}


async def test_a_span_is_what_lies_between_and_its_unit_stays_open_for_the_caller(stage: Stage, fed: Fed) -> None:
    since = fed.broadcaster.point.snapshot
    between = [await stage.commit() for _ in range(2)]
    upto = fed.broadcaster.point.snapshot
    await stage.commit()
    await fed.feed.send_span(since, upto)
    assert fed.sink.keys == between
    assert all(m["more"] and "position" not in m for m in fed.sink.messages)
    assert fed.feed.open


async def test_a_span_in_which_a_definition_changed_is_refused_for_that(stage: Stage, fed: Fed) -> None:
    since = fed.broadcaster.point.snapshot
    stage.world.alter("posts", None)
    await fed.broadcaster.pull()
    with pytest.raises(PositionRefused) as refused:
        await fed.feed.send_span(since, fed.broadcaster.point.snapshot)
    assert refused.value.reason is ResetReason.SCHEMA
