"""What a connection does while it is not live: it catches up, is reset where it can't, and looks into its doubts."""

from collections.abc import Iterator

import pytest

from app.clients.catchup import CatchUp
from app.clients.connection import Connection
from app.core.session import Session
from app.model.channel import TableAddress, parse
from app.model.claims import ANONYMOUS
from app.model.errors import ResetReason
from app.model.observations import Observation, Reset
from tests.unit.memory_sink import MemorySink
from tests.unit.stage import Stage


class Catching:
    """The catch-up of a connection that is not live, and so does nothing by itself."""

    def __init__(self, stage: Stage) -> None:
        self.sink = MemorySink()
        self.seen: list[Observation] = []
        self.broadcaster = stage.server.broadcaster
        self.lookup = stage.server.lookup
        stage.server.registry.observe = self.seen.append
        connection = Connection(self.sink, stage.server.registry, ANONYMOUS)
        self.catchup: CatchUp = connection._catchup
        self.session: Session = connection.session
        self.drop = connection.drop

    def at_the_front(self) -> bool:
        return self.catchup.at_the_front

    async def join(self, *names: str) -> None:
        """Subscribe to these from where the server is."""
        addresses = [parse(name) for name in names]
        new = self.catchup.acquire([await self.lookup.locate(a) for a in addresses])
        self.session.channels.update(new)
        self.session.feed(self.broadcaster.point)


@pytest.fixture
def catching(stage: Stage) -> Iterator[Catching]:
    made = Catching(stage)
    yield made
    made.drop(list(made.session.channels))


async def test_what_is_acquired_and_let_go_leaves_the_hub_as_it_was(catching: Catching) -> None:
    hub = catching.broadcaster.hub
    new = catching.catchup.acquire([await catching.lookup.locate(TableAddress("public", "posts"))])
    assert list(new) == ["posts"]
    assert len(hub._channels) == 1
    catching.catchup.let_go(new)
    assert not hub._channels


async def test_who_is_behind_is_brought_to_the_front(stage: Stage, catching: Catching) -> None:
    await catching.join("posts")
    assert catching.at_the_front()
    missed = [await stage.commit() for _ in range(3)]
    assert not catching.at_the_front()
    await catching.catchup.send_units()
    assert catching.sink.keys == missed
    assert catching.session.point == catching.broadcaster.point
    assert catching.at_the_front()


async def test_who_was_passed_by_the_event_log_is_overrun_and_goes_on_at_the_front(
    stage: Stage, catching: Catching
) -> None:
    await catching.join("posts")
    for _ in range(3):
        await stage.commit()
    stage.world.horizon = catching.broadcaster.point.snapshot
    catching.broadcaster.forget(stage.world.horizon)
    await catching.catchup.send_units()
    assert catching.sink.messages == [
        {"type": "reset", "channels": ["posts"], "reason": "overrun", "position": stage.token}
    ]
    assert Reset("overrun", 1) in catching.seen
    assert catching.at_the_front()
    assert catching.catchup.doubted == {stage.world.tables["posts"].relid}


async def test_a_database_that_is_away_between_units_costs_nothing(stage: Stage, catching: Catching) -> None:
    await catching.join("posts")
    start = catching.session.point
    missed = [await stage.commit() for _ in range(3)]
    catching.broadcaster.history.restart(catching.broadcaster.point.snapshot)
    stage.world.away = True
    await catching.catchup.send_units()
    assert (catching.sink.written, catching.session.point) == ([], start)
    stage.world.away = False
    while not catching.at_the_front():
        await catching.catchup.send_units()
    assert catching.sink.keys == missed


async def test_a_reset_makes_the_tables_of_its_channels_doubtful_and_those_that_are_there_stay(
    stage: Stage, catching: Catching
) -> None:
    await catching.join("posts", "posts:author_id=1")
    catching.catchup.reset(catching.session.channels, ResetReason.LOST)
    assert catching.catchup.doubted == {stage.world.tables["posts"].relid}
    await catching.catchup.look_into_doubts()
    assert catching.catchup.doubted == set()
    assert list(catching.session.channels) == ["posts", "posts:author_id=1"]
    assert catching.sink.kinds == ["reset"]


async def test_channels_that_the_present_definition_no_longer_has_are_given_up_and_told(
    stage: Stage, catching: Catching
) -> None:
    await catching.join("posts", "posts:author_id=1")
    stage.world.alter("posts", None)
    await catching.broadcaster.pull()
    await catching.catchup.send_units()
    await catching.catchup.look_into_doubts()
    assert list(catching.session.channels) == ["posts"]
    reset, error, unsubscribed = catching.sink.messages
    assert (reset["type"], reset["reason"]) == ("reset", "schema")
    assert (error["code"], error["channel"]) == ("bad_channel", "posts:author_id=1")
    assert unsubscribed == {"type": "unsubscribed", "channels": ["posts:author_id=1"]}
    assert len(catching.broadcaster.hub._channels) == 1


async def test_doubts_stay_while_the_database_is_away(stage: Stage, catching: Catching) -> None:
    await catching.join("posts")
    catching.catchup.reset(catching.session.channels, ResetReason.LOST)
    doubted = set(catching.catchup.doubted)
    stage.world.away = True
    await catching.catchup.look_into_doubts()
    assert catching.catchup.doubted == doubted
    assert list(catching.session.channels) == ["posts"]
    stage.world.away = False
    await catching.catchup.look_into_doubts()
    assert not catching.catchup.doubted
