"""A right that is taken at the moment at which a connection waits for something else."""

import asyncio
from random import Random

import pytest

import app.clients.judging
import app.stream.rights
from app.clients.connection import Connection
from app.core.rights import Policy
from app.model.claims import Identity
from app.model.errors import DatabaseAway, Forbidden
from harness.facts import turn
from tests.unit.client_model import Server
from tests.unit.guarded_model import Guarded
from tests.unit.memory_sink import MemorySink

ALL = Policy("all", "posts", claims={"all": True})
OWN = Policy("own", "posts:author_id={sub}")


class Gated(MemorySink):
    """`drained` takes a permit, and waits for one. There are plenty, unless a test says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.permits: asyncio.Semaphore | None = None
        self.waiting = 0

    async def drained(self) -> None:
        if self.permits is not None:
            self.waiting += 1
            await self.permits.acquire()
            self.waiting -= 1
        await super().drained()

    def hold(self, permits: int = 0) -> None:
        self.permits = asyncio.Semaphore(permits)

    def let_go(self) -> None:
        if self.permits is not None:
            for _ in range(1000):
                self.permits.release()
        self.permits = None


class Scene:
    """One server and one connection, of the user 1 who may have all."""

    def __init__(self) -> None:
        self.world = Guarded(Random(1), held=10_000)
        self.world.policies_now = {("1", "all"): ALL, ("1", "own"): OWN}
        self.server = Server(self.world, 1 << 20, self.world)
        self.sink = Gated()
        self.connection = Connection(self.sink, self.server.registry, Identity("1", {"sub": "1", "all": True}))

    async def commit(self, author: int = 1, *, take: str | None = None) -> int:
        """A post, in a transaction that may take a right. Its key."""
        writer = self.world.begin()
        if take is not None:
            self.world.take(writer, None, lambda: self.world.policies_now.pop(("1", take)))
        row = {"id": writer.xid, "author_id": author, "v": 0}
        self.world._log(writer, "posts", next(self.world._number), [(None, row)])
        self.world.commit(writer)
        await self.server.broadcaster.pull()
        return writer.xid

    async def until_gated(self) -> None:
        for _ in range(1000):
            if self.sink.waiting:
                return
            await turn()
        raise AssertionError("nobody waits")

    async def settle(self) -> None:
        for _ in range(300):
            await turn()

    def told(self, channel: str) -> list[str]:
        return [m["type"] for m in self.sink.messages if channel in (m.get("channel"), *m.get("channels", ()))]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(app.clients.judging, "AWAY_SECONDS", 0)
    monkeypatch.setattr(app.stream.rights, "LOAD_SECONDS", 0)
    return Scene()


@pytest.mark.parametrize("waits", range(6))
@pytest.mark.parametrize("known", [0, 1])
async def test_at_each_wait_of_a_connection_that_is_behind(scene: Scene, waits: int, known: int) -> None:
    start = scene.server.broadcaster.point.token
    for _ in range(known):
        await scene.commit()
    scene.sink.hold(waits)
    await scene.connection.subscribe(["posts"], start)
    await scene.settle()
    secret = await scene.commit(take="all")
    await scene.settle()
    scene.sink.let_go()
    await scene.settle()
    assert secret not in scene.sink.keys
    assert scene.told("posts")[-2:] == ["error", "unsubscribed"]
    assert (await refused(scene, "posts"))["code"] == "forbidden"


@pytest.mark.parametrize("waits", range(4))
async def test_while_a_connection_catches_up_for_a_channel_that_is_to_join(scene: Scene, waits: int) -> None:
    """The client comes from a faster server: what it has seen is ahead of the connection."""
    start = scene.server.broadcaster.point.token
    await scene.commit()
    ahead = scene.server.broadcaster.point.token
    scene.sink.hold(waits)

    async def join() -> None:
        await scene.connection.subscribe(["posts:author_id=1"], start)
        await scene.connection.subscribe(["posts"], ahead)  # before the feeder has its turn

    joining = asyncio.create_task(join())
    await scene.settle()
    secret = await scene.commit(author=2, take="all")
    scene.sink.let_go()
    await scene.settle()
    assert secret not in scene.sink.keys
    if joining.exception() is None:  # the channel had joined before
        assert scene.told("posts") == ["subscribed", "error", "unsubscribed"]
    else:
        assert isinstance(joining.exception(), Forbidden)
        assert scene.told("posts") == []
    assert scene.connection.session.channels.keys() == {"posts:author_id=1"}
    later = await scene.commit()
    assert later in scene.sink.keys


async def test_while_nothing_can_be_known_nothing_is_sent(scene: Scene) -> None:
    await scene.connection.subscribe(["posts"], None)
    reads = scene.world.policies

    async def away() -> None:
        raise DatabaseAway("away")

    scene.world.policies = away  # type: ignore[method-assign,assignment]
    withheld = await scene.commit(take="own")  # another's right, and yet nobody can know
    await scene.settle()
    assert withheld not in scene.sink.keys
    assert scene.told("posts") == ["subscribed"]
    scene.world.policies = reads  # type: ignore[method-assign]
    await scene.settle()
    assert scene.sink.keys == [withheld]


async def test_who_goes_while_he_is_judged_leaves_nothing(scene: Scene) -> None:
    await scene.connection.subscribe(["posts"], None)
    scene.world.away = True
    scene.server.broadcaster.epoch += 1
    scene.connection.fall_behind(scene.server.broadcaster.point)
    await turn()
    scene.connection.close()
    await scene.settle()
    assert scene.server.spotless()


async def refused(scene: Scene, channel: str) -> dict[str, object]:
    await scene.connection.receive(f'{{"type":"subscribe","id":9,"channels":["{channel}"]}}')
    return next(m for m in scene.sink.messages if m.get("id") == 9)


async def test_after_another_incarnation_all_are_judged_anew_where_they_are(scene: Scene) -> None:
    """A crash may have taken the transaction that granted a right, which no event P tells."""
    scene.connection.open()
    await scene.connection.subscribe(["posts"], None)
    known = await scene.commit()
    del scene.world.policies_now["1", "all"]
    scene.world.incarnation += 1
    scene.server.broadcaster.rebase(scene.world.start(), None)
    secret = await scene.commit()
    await scene.settle()
    assert scene.sink.keys == [known]
    assert secret not in scene.sink.keys
    assert scene.told("posts")[-2:] == ["error", "unsubscribed"]
