"""The budget of rows: bounded whoever asks, in turn, and given back when nobody holds the rows any more."""

import asyncio
import weakref

import pytest

from app.model.errors import Unavailable
from app.model.position import Snapshot
from app.postgres import row_budget
from app.postgres.row_budget import ROW_BYTES, RowBudget
from app.stream import trimming
from app.stream.ports import Rows


def rows(size: int) -> Rows:
    return Rows(Snapshot(1), 1, {"posts": [b"x" * (size - ROW_BYTES)]})


async def test_who_finds_little_room_gets_half_of_it_until_rows_are_held_by_nobody() -> None:
    budget = RowBudget(6400)
    assert await budget.reserve(3000) == 3000
    held = [rows(2400)]
    budget.hold(held[0], 3000)
    assert budget.held == 2400
    assert await budget.reserve(3000) == 2000, "half of what there is"
    held.clear()
    assert budget.held == 2000


async def test_who_finds_no_room_waits_in_turn_and_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = RowBudget(6400)
    budget.held = 6400
    waiting = [asyncio.create_task(budget.reserve(600)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    budget.give_back(1200)
    assert await waiting[0] == 600
    assert await waiting[1] == 300
    budget.held = 6400
    monkeypatch.setattr(row_budget, "WAIT_SECONDS", 0.01)
    with pytest.raises(Unavailable, match="other clients"):
        await budget.reserve(600)
    assert budget.held == 6400


class Channels(dict[str, list[bytes]]):
    """Their end can be seen."""


async def test_the_allocator_is_asked_when_the_rows_are_freed_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = Channels(posts=[b"x" * 1000])
    there, asked = weakref.ref(channels), asyncio.Queue[bool]()
    monkeypatch.setattr(trimming, "TRIM_BYTES", 100)
    monkeypatch.setattr(trimming, "TRIM_SECONDS", 0)
    monkeypatch.setattr(trimming, "_trim", lambda: asked.put_nowait(there() is not None))
    budget = RowBudget(6400)
    size = await budget.reserve(2000)
    held = [Rows(Snapshot(1), 1, channels)]
    budget.hold(held[0], size)
    del channels
    held.clear()
    assert await asyncio.wait_for(asked.get(), 10) is False
    assert asked.empty(), "once for all"
