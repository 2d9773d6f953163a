"""Shared replays against the model of the event log: exact for every position, and few reads however many ask."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import app.stream.replays
from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.observations import Observation
from app.model.position import Snapshot
from app.stream.replays import Replays
from harness.facts import eventually, turn
from tests.unit.log_model import FIRST, World

PATIENCE = 5.0  # seconds


def ignore(_: Observation) -> None:
    pass


def told(seed: int, transactions: int, *, open_: int = 3) -> tuple[World, list[Snapshot]]:
    """A world with a past, and positions of all moments of it."""
    world = World(Random(seed))
    positions = [world.now()]
    while len(world.committed) < transactions:
        if len(world.open) < open_:
            world.begin()
        writer = world.random.choice(world.open)
        world.write(writer)
        if world.random.random() < 0.4:
            (world.rollback if world.random.random() < 0.2 else world.commit)(writer)
            positions.append(world.now())
    return world, positions


async def walked(replays: Replays, world: World, position: Snapshot, front: Snapshot) -> list[int]:
    """What a client at `position` gets on its way to `front`."""
    got: list[int] = []
    while not position.contains(front):
        stretch = await replays.after(position)
        assert stretch.serves(position)
        if stretch.transactions is None:
            got += [t.xid for t in world._between(position, stretch.upto)]
        else:
            got += [t.xid for t in stretch.transactions if not position.sees(t.xid)]
        position = position.union(stretch.upto)
        await world.pause(1)
    assert position == front
    return got


@given(st.integers(0, 10**6), st.sampled_from([0, 4, 10_000]), st.sampled_from([1, 4_000, 1 << 20]), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
def test_whoever_asks_together_gets_exactly_what_each_lacks_in_the_order_of_the_log(
    seed: int, held: int, kept: int, data: st.DataObject
) -> None:
    world, positions = told(seed, 30)
    world.held = held
    front = world.now()
    chosen = data.draw(st.lists(st.sampled_from(positions), min_size=1, max_size=12))
    replays = Replays(world, lambda: front, ignore, kept)

    async def all_walk() -> list[list[int]]:
        return await asyncio.gather(*(walked(replays, world, position, front) for position in chosen))

    for position, got in zip(chosen, asyncio.run(all_walk()), strict=True):
        assert got == [t.xid for t in world._between(position, front)]


async def test_hundreds_of_positions_cost_what_the_oldest_of_them_costs() -> None:
    world, positions = told(1, 120)
    front = world.now()
    alone = Replays(world, lambda: front, ignore)
    await walked(alone, world, positions[0], front)
    least, world.reads, world.replays = world.reads, 0, 0
    chosen = [positions[0], *world.random.choices(positions, k=300)]
    replays = Replays(world, lambda: front, ignore)
    await asyncio.gather(*(walked(replays, world, position, front) for position in chosen))
    assert world.replays <= 2
    assert world.reads < 2 * least


async def test_one_position_that_has_expired_takes_nobody_with_it() -> None:
    world, positions = told(2, 60)
    front = world.now()
    world.horizon = positions[len(positions) // 2]
    replays = Replays(world, lambda: front, ignore)
    ends: list[Any] = await asyncio.gather(
        *(walked(replays, world, position, front) for position in positions), return_exceptions=True
    )
    for position, end in zip(positions, ends, strict=True):
        if position.contains(world.horizon):
            assert end == [t.xid for t in world._between(position, front)]
        else:
            assert isinstance(end, PositionRefused)
            assert end.reason is ResetReason.EXPIRED


async def test_a_log_that_turns_during_a_read_refuses_those_it_passed_and_goes_on_for_the_others() -> None:
    world, positions = told(3, 80)
    front = world.now()
    replays = Replays(world, lambda: front, ignore, 1)
    early, late = positions[0], positions[-8]
    waiting = [asyncio.create_task(walked(replays, world, p, front)) for p in (early, late)]
    await eventually(lambda: world.reads >= 2, every=0)
    world.horizon = late
    ends: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(ends[0], PositionRefused)
    assert ends[1] == [t.xid for t in world._between(late, front)]


async def test_a_database_that_is_away_is_told_to_all_who_wait_and_asked_again_by_the_next() -> None:
    world, positions = told(4, 40)
    front = world.now()
    replays = Replays(world, lambda: front, ignore)
    world.away = True
    ends = await asyncio.gather(*(replays.after(p) for p in positions[:-1]), return_exceptions=True)
    assert all(isinstance(end, DatabaseAway) for end in ends)
    world.away = False
    assert await walked(replays, world, positions[0], front)


async def test_what_was_forgotten_during_a_read_is_not_served() -> None:
    world, positions = told(5, 40)
    front = world.now()
    replays = Replays(world, lambda: front, ignore)
    waiting = asyncio.create_task(walked(replays, world, positions[0], front))
    await eventually(lambda: world.reads, every=0)
    replays.restart()
    assert await waiting == [t.xid for t in world._between(positions[0], front)]
    assert world.replays == 2


async def test_a_position_that_the_server_itself_has_lost_is_sent_away() -> None:
    world, positions = told(8, 10)
    with pytest.raises(DatabaseAway):
        await Replays(world, lambda: positions[0], ignore).after(positions[-1])


async def test_who_is_far_ahead_does_not_wait_for_who_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.stream.replays, "NEAR", 10)
    world, positions = told(6, 300)
    front = world.now()
    replays = Replays(world, lambda: front, ignore, 1)
    behind = asyncio.create_task(walked(replays, world, positions[0], front))
    await eventually(lambda: world.reads >= 3, every=0)
    await walked(replays, world, positions[-6], front)
    assert not behind.done()
    assert await behind == [t.xid for t in world._between(positions[0], front)]


async def test_who_gives_up_leaves_nothing() -> None:
    world, positions = told(7, 40)
    front = world.now()
    replays = Replays(world, lambda: front, ignore)
    tasks = [asyncio.create_task(replays.after(p)) for p in positions[:5]]
    await turn()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: replays._reading is None, every=0)
    assert not replays._waiting


async def test_what_left_the_log_is_served_no_more_and_what_is_younger_still_is() -> None:
    world, positions = told(3, 12, open_=1)
    front = world.now()
    replays = Replays(world, lambda: front, ignore)
    kept = await replays.after(positions[0])
    assert kept.transactions
    gone = positions[-4]
    world.horizon = gone
    replays.forget(gone)
    assert not [s for s in replays._kept if s.holds(gone)]
    assert replays.size == sum(s.size for s in replays._kept)
    with pytest.raises(PositionRefused) as refused:
        await replays.after(positions[0])
    assert refused.value.reason is ResetReason.EXPIRED
    assert await walked(replays, world, gone, front) == [t.xid for t in world._between(gone, front)]


async def test_a_server_that_fell_back_to_where_a_client_waits_leaves_nobody_waiting() -> None:
    """A position that lacks nothing any more is served by no read, however often the event log is read."""
    world, positions = told(9, 10)
    front = positions[-1]
    with pytest.raises(DatabaseAway):
        await asyncio.wait_for(Replays(world, lambda: front, ignore).after(front), PATIENCE)


async def test_positions_whose_meet_is_before_the_floor_are_served_all_the_same() -> None:
    """A floor may end with a transaction that was open: of what is cut back to before it the event log has all, and not
    by its own count."""
    world, _ = told(10, 30)
    front = world.now()
    x = FIRST + 10
    world.horizon = Snapshot(x, frozenset({x - 1}))
    chosen = [Snapshot(x + 2, frozenset({x - 1, x})), Snapshot(x + 3, frozenset({x - 1, x, x + 1}))]
    assert all(position.contains(world.horizon) for position in chosen)
    assert not chosen[0].meet(Snapshot(x + 4, frozenset({x - 1, x, x + 1, x + 2}))).contains(world.horizon)
    chosen.append(Snapshot(x + 4, frozenset({x - 1, x, x + 1, x + 2})))
    replays = Replays(world, lambda: front, ignore)
    walks = [walked(replays, world, position, front) for position in chosen]
    for position, got in zip(chosen, await asyncio.wait_for(asyncio.gather(*walks), PATIENCE), strict=True):
        assert got == [t.xid for t in world._between(position, front)]


async def test_whatever_fails_while_a_refusal_is_judged_is_told_to_those_who_wait() -> None:
    class Revoked(World):
        looks = 0

        async def floor(self) -> Snapshot:
            self.looks += 1
            if self.looks > 1:
                raise LookupError("the right to read this was taken away")
            return await super().floor()

        def _reaches_back(self, since: Snapshot, reason: ResetReason) -> None:
            raise PositionRefused(reason)

    world = Revoked(Random(11))
    start = world.now()
    world.write(writer := world.begin())
    world.commit(writer)
    with pytest.raises(LookupError):
        await asyncio.wait_for(Replays(world, world.now, ignore).after(start), PATIENCE)


async def test_pieces_that_weigh_little_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is looked at by whoever is not in History."""
    monkeypatch.setattr(app.stream.replays, "KEPT_STRETCHES", 8)
    world, positions = told(12, 60)
    world.held = 0
    front = [positions[0]]
    replays = Replays(world, lambda: front[0], ignore)
    for before, after in pairwise(positions):
        front[0] = after
        if not before.contains(after):
            await walked(replays, world, before, after)
    assert len(replays._kept) <= 8
    assert len(replays._starts) <= 8
    assert replays.size == sum(s.size for s in replays._kept)
