"""What is told when changes stop to flow, and when they flow again."""

import asyncio

import pytest

from app.model.observations import Flowing, NotFlowing, Observation
from app.web import health
from app.web.health import flows, plain, tell_flow
from app.web.ports import Facts
from harness.facts import eventually, holds
from tests.unit.house import HEALTHY


@pytest.mark.parametrize(
    "lacking", [{"database": False}, {"listen": False}, {"bus": False}, {"leader": None}, {"flow": False}]
)
def test_whatever_is_missing_nothing_flows_and_a_stranger_may_know(lacking: dict[str, object]) -> None:
    facts: Facts = {**HEALTHY, **lacking}  # type: ignore[typeddict-item]
    assert flows(HEALTHY)
    assert not flows(facts)
    assert [name for name, whole in plain(facts).items() if not whole] == list(lacking)


async def test_each_end_and_each_beginning_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(health, "TELL_SECONDS", 0.05)
    facts: Facts = {**HEALTHY, "leader": None}
    told: list[Observation] = []
    task = asyncio.create_task(tell_flow(lambda: facts, told.append))
    try:
        await eventually(lambda: len(told) == 1)
        facts["leader"] = "here"
        await eventually(lambda: len(told) == 2)
        facts["flow"] = facts["database"] = False
        await eventually(lambda: len(told) == 3)
        facts["flow"] = facts["database"] = True
        await eventually(lambda: len(told) == 4)
        await holds(lambda: len(told) == 4, 0.1)
    finally:
        task.cancel()
    assert [type(fact) for fact in told] == [NotFlowing, Flowing] * 2
    assert [fact.missing for fact in told if isinstance(fact, NotFlowing)] == ["leader", "database, flow"]


async def test_the_first_flow_is_told_and_what_is_over_at_once_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.001)
    facts: Facts = {**HEALTHY}
    told: list[Observation] = []
    task = asyncio.create_task(tell_flow(lambda: facts, told.append))
    try:
        await eventually(lambda: len(told) == 1)
        facts["bus"] = False
        await holds(lambda: len(told) == 1, 0.1)
        facts["bus"] = True
        await holds(lambda: len(told) == 1, 0.1)
    finally:
        task.cancel()
    assert isinstance(told[0], Flowing)
