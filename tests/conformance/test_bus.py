"""What every bus does for the fleet, whatever carries it. A bus may lose, repeat and reorder; it must not fall silent.

One suite for all buses: a further bus adds its name to `BUSES` and a way to make one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from app.model.change import Batch
from app.model.observations import Noted, Observation
from app.model.position import Snapshot
from app.postgres.bus import PostgresBus
from app.postgres.connect import connect
from app.stream.ports import Bus
from harness.database import Database
from harness.facts import eventually, holds, turn

BUSES = ["postgres"]
FLOOD_SECONDS = 0.5
WAKES_PER_SECOND = 200  # each of them is a read of the event log
Join = Callable[[str], Awaitable["Member"]]


class Member:
    """A server of the fleet, as its bus sees it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.wakes = 0
        self.batches: list[Batch] = []
        self.beats: list[tuple[str, str]] = []

    def batch(self, batch: Batch) -> None:
        self.batches.append(batch)

    def wake(self) -> None:
        self.wakes += 1

    def beat(self, leader: str, position: str) -> None:
        self.beats.append((leader, position))

    @property
    def news(self) -> int:
        return self.wakes + len(self.batches)


def make(kind: str, database: Database, server_id: str) -> Bus:
    assert kind == "postgres"
    return PostgresBus(lambda purpose: connect(database.url, name=purpose), server_id, lambda _: None)


@asynccontextmanager
async def joined(bus: Bus) -> AsyncIterator[Member]:
    member = Member(bus)
    task = asyncio.create_task(bus.run(member))
    try:
        await eventually(lambda: bus.ready and member.news)
        yield member
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert not bus.ready


@pytest.fixture(params=BUSES)
async def join(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Join]:
    async with AsyncExitStack() as stack:
        yield lambda server_id: stack.enter_async_context(joined(make(request.param, database, server_id)))


def batch(number: int) -> Batch:
    return Batch(Snapshot(number), Snapshot(number + 1), number, 0, [], [], 0, 0.0)


async def test_every_other_server_hears_of_a_batch(join: Join) -> None:
    leader, *others = [await join(name) for name in ("a", "b", "c")]
    before = [m.news for m in others]
    await leader.bus.publish(batch(1))
    await eventually(lambda: all(m.news > n for m, n in zip(others, before, strict=True)))


async def test_a_server_does_not_hear_itself(join: Join) -> None:
    leader, other = await join("a"), await join("b")
    before, heard = leader.news, other.news
    await leader.bus.publish(batch(1))
    await leader.bus.beat("position")
    await eventually(lambda: other.news > heard and other.beats)
    assert leader.news == before
    assert leader.beats == []


async def test_a_beat_brings_the_leaders_name_and_position(join: Join) -> None:
    leader, other = await join("leader '\"\\ ж"), await join("b")
    token = "p1-" + "x" * 4090
    await leader.bus.beat(token)
    await eventually(lambda: other.beats == [("leader '\"\\ ж", token)])


async def test_a_flood_of_batches_is_thinned_and_its_end_is_told(join: Join) -> None:
    leader, other = await join("a"), await join("b")
    before = other.news
    await leader.bus.publish(batch(0))
    await eventually(lambda: other.news > before)
    woken, published, began = other.wakes, 0, time.monotonic()
    while published < 2000 or time.monotonic() - began < FLOOD_SECONDS:
        published += 1
        await leader.bus.publish(batch(published))
        await turn()
    seconds = time.monotonic() - began
    await leader.bus.beat("settled")
    await eventually(lambda: other.beats)
    settled = other.news
    assert other.wakes - woken <= WAKES_PER_SECOND * seconds
    await leader.bus.publish(batch(3000))
    await eventually(lambda: other.news > settled)


async def test_whoever_joins_is_woken_because_it_may_have_missed_something(join: Join) -> None:
    assert (await join("a")).news >= 1


async def test_after_a_broken_line_everybody_is_woken_and_nothing_stays_unsaid(join: Join, database: Database) -> None:
    leader, other = await join("a"), await join("b")
    await leader.bus.publish(batch(1))
    await eventually(lambda: other.news >= 2)
    before = [leader.news, other.news]
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'sobranie bus%'"
    )
    await leader.bus.publish(batch(2))  # on a line that is gone
    await eventually(lambda: leader.news > before[0] and other.news > before[1])
    await eventually(lambda: leader.bus.ready and other.bus.ready)
    settled = other.news
    await leader.bus.publish(batch(3))
    await eventually(lambda: other.news > settled)


async def test_a_strangers_words_are_ignored(join: Join, database: Database) -> None:
    if not isinstance((member := await join("a")).bus, PostgresBus):
        pytest.skip("only NOTIFY is open to everybody")
    before = member.news
    for payload in (
        "",
        "nonsense",
        "[]",
        "17",
        "null",
        '{"from": 1}',
        '{"from": ["a"], "position": 2}',
        '{"position": "x"}',
    ):
        await database.execute("SELECT pg_notify('realtime_bus', %s)", payload)
    await holds(lambda: member.news == before and not member.beats, 0.2)
    assert member.bus.ready


async def test_a_role_that_is_none_of_ours_can_neither_beat_nor_wake(join: Join, database: Database) -> None:
    if not isinstance((member := await join("a")).bus, PostgresBus):
        pytest.skip("only NOTIFY is open to everybody")
    leader = await join("leader")
    await database.execute("CREATE ROLE anybody LOGIN")
    try:
        async with await Database(database.cluster, database.name, "anybody").connect() as ghost:
            before = member.news
            for payload in (
                '{"from": "ghost", "position": "x"}',
                '{"from": "leader", "position": "x"}',
                '{"from": "x"}',
            ):
                await ghost.execute("SELECT pg_notify('realtime_bus', %s)", (payload,))
            await leader.bus.beat("real")
            await eventually(lambda: member.beats)
            assert (member.beats, member.news) == ([("leader", "real")], before)
    finally:
        await eventually(lambda: _is_gone(database, "anybody"))
        await database.execute("DROP ROLE anybody")


async def _is_gone(database: Database, role: str) -> bool:
    return bool(await database.value("SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = %s", role))


async def test_two_servers_of_one_name_are_told_and_hear_each_other(database: Database) -> None:
    told: list[Observation] = []
    listening = PostgresBus(lambda purpose: connect(database.url, name=purpose), "twin", told.append)
    async with joined(listening) as member, joined(make("postgres", database, "twin")) as leader:
        await leader.bus.beat("position")
        await eventually(lambda: member.beats == [("twin", "position")])
        (note,) = told
        assert isinstance(note, Noted)
        assert "another server is called 'twin' too" in note.note


async def test_two_servers_of_one_name_are_told_though_neither_leads(database: Database) -> None:
    told: tuple[list[Observation], list[Observation]] = ([], [])
    first, second = (PostgresBus(lambda p: connect(database.url, name=p), "twin", notes.append) for notes in told)
    async with joined(first), joined(second):
        await eventually(lambda: all(told))
    for (note,) in told:
        assert isinstance(note, Noted)
        assert "another server is called 'twin' too" in note.note


async def test_a_server_that_connects_again_is_not_taken_for_another_of_its_name(database: Database) -> None:
    told: list[Observation] = []
    bus = PostgresBus(lambda purpose: connect(database.url, name=purpose), "one", told.append)
    async with joined(bus) as member:
        await bus.beat("position")
        before = member.wakes
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'sobranie bus%'"
        )
        await eventually(lambda: member.wakes > before and bus.ready)
        await bus.beat("position")
        await holds(lambda: not any(isinstance(note, Noted) for note in told), 0.3)
        assert not member.beats
