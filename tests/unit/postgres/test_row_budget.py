"""The budget of rows: bounded whoever asks, in turn, and given back when nobody holds the rows any more."""

import asyncio

import pytest

from app.model.errors import Unavailable
from app.model.position import Snapshot
from app.postgres import row_budget
from app.postgres.row_budget import ROW_BYTES, RowBudget
from app.stream.ports import Rows


def rows(size: int) -> Rows:
    return Rows(Snapshot(1), 1, {"posts": [b"x" * (size - ROW_BYTES)]})


async def test_who_finds_no_room_waits_until_rows_are_held_by_nobody() -> None:
    budget = RowBudget(1000)
    assert await budget.reserve(800) == 800
    held = [rows(700)]
    budget.hold(held[0], 800)
    assert budget.held == 700
    assert await budget.reserve(600) == 300, "what there is"
    waiting = [asyncio.create_task(budget.reserve(700)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    held.clear()
    assert await waiting[0] == 700
    assert not waiting[1].done()
    budget.give_back(300)
    assert await waiting[1] == 300
    assert budget.held == 1000


async def test_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_budget, "WAIT_SECONDS", 0.01)
    budget = RowBudget(100)
    await budget.reserve(100)
    with pytest.raises(Unavailable, match="other clients"):
        await budget.reserve(1)
    assert budget.held == 100
