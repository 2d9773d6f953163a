"""What can't be read, or not be given to clients, is told, and passed over with a `reset`; it is no loop of resets."""

from random import Random

import pytest

from app.core.hub import Delivery, Hub
from app.model.change import Batch
from app.model.errors import ResetReason
from app.model.observations import Failed, Observation
from app.model.position import Snapshot
from app.stream.broadcaster import TRIES, Broadcaster
from tests.unit.log_model import World


class Stage:
    """A server, and an event log that commits."""

    def __init__(self) -> None:
        self.world = World(Random(1))
        self.seen: list[Observation] = []
        self.resets: list[ResetReason | None] = []
        self.hub = Hub()
        self.broadcaster = Broadcaster(self.world, self.hub, self.world.start(), 1 << 20, self.seen.append)
        self.broadcaster.listen(self)

    def rebased(self, reason: ResetReason | None) -> None:
        self.resets.append(reason)

    def commit(self) -> None:
        writer = self.world.begin()
        while not writer.events:
            self.world.write(writer)
        self.world.commit(writer)

    @property
    def told(self) -> list[str]:
        return [fact.what for fact in self.seen if isinstance(fact, Failed)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_batch_that_can_not_be_given_to_clients_resets_them_and_the_next_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> list[Delivery]:
        raise TypeError("no such values")

    stage.commit()
    with monkeypatch.context() as patch:
        patch.setattr(stage.hub, "fan_out", wrong)
        batch = await stage.broadcaster.pull()
    assert batch is not None
    assert stage.broadcaster.point.snapshot.contains(batch.upto)
    assert (stage.resets, stage.told) == ([ResetReason.LOST], ["fan-out"])
    assert not stage.broadcaster.history.stretches
    stage.commit()
    assert await stage.broadcaster.pull()
    assert stage.resets == [ResetReason.LOST]


async def test_what_fails_at_each_read_is_passed_over_and_not_again_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong(since: Snapshot) -> Batch | None:
        raise ValueError("no such event")

    stage.commit()
    monkeypatch.setattr(stage.world, "difference", wrong)
    for _ in range(TRIES - 1):
        with pytest.raises(ValueError, match="no such event"):
            await stage.broadcaster.pull()
    assert not stage.resets
    assert await stage.broadcaster.pull() is None
    assert (stage.resets, stage.told) == ([ResetReason.LOST], ["reading"])
    assert stage.broadcaster.point.snapshot == (await stage.world.head()).position
    for _ in range(2 * TRIES):
        with pytest.raises(ValueError, match="no such event"):
            await stage.broadcaster.pull()
    assert stage.resets == [ResetReason.LOST]


async def test_what_fails_once_is_read_again_and_resets_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    right = stage.world.difference

    async def wrong(since: Snapshot) -> Batch | None:
        monkeypatch.setattr(stage.world, "difference", right)
        raise ValueError("a bug")

    for _ in range(TRIES + 1):
        stage.commit()
        monkeypatch.setattr(stage.world, "difference", wrong)
        with pytest.raises(ValueError, match="a bug"):
            await stage.broadcaster.pull()
        assert await stage.broadcaster.pull()
    assert not stage.resets
