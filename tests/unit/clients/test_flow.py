"""Nothing lost, nothing twice, nothing out of order: random schedules of writers, servers, buses and clients.

Every schedule comes from a seed, which a failure prints. Judged by the same judge as the tests on a real database, at
every position that any client was given; and in the end a fresh client resumes at each of those positions.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

import app.clients.catchup
import app.core.hub
import app.model.position
import app.stream.replays
import app.stream.turns
from app.model.errors import ResetReason
from app.model.position import Position
from harness.facts import turn
from tests.support import token
from tests.support.judge import judge, report
from tests.unit.client_model import CHANNELS, Client, Server
from tests.unit.log_model import World

SEEDS = int(os.environ.get("FLOW_SEEDS", "14"))
TURNS = 20_000  # of the loop, in which a fact must come true
RESUMES = 40


@dataclass(frozen=True)
class Weather:
    """What else may happen. `resets`: what makes positions invalid; without it no client may be told `reset`."""

    name: str
    away: bool = False
    resets: bool = False
    message_bytes: int = 1 << 20
    history_bytes: int = 12_000
    held: int = 10_000
    token_limit: int = 4096


WEATHERS = [
    Weather("calm"),
    Weather("away", away=True),
    Weather("bulk", held=6, history_bytes=100_000),
    Weather("large", message_bytes=500, history_bytes=30_000),
    Weather("withheld", token_limit=42),
    Weather("resets", resets=True, away=True, history_bytes=30_000),
    Weather("storm", resets=True, away=True, message_bytes=700, held=9, history_bytes=8_000),
]


class Play:
    """One schedule."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.random = Random(seed)
        self.weather = weather
        self.world = self.make_world()
        self.servers = [self.server() for _ in range(2)]
        self.clients = [Client(f"client {n}") for n in range(3)]
        self.tasks: list[asyncio.Task[None]] = []
        for here, there in [self.servers, self.servers[::-1]]:
            here.peers.append(there)

    def make_world(self) -> World:
        return World(self.random, held=self.weather.held)

    def server(self) -> Server:
        return Server(self.world, self.weather.history_bytes)

    async def run(self, steps: int) -> None:
        for client in self.clients:
            client.connect(self.random.choice(self.servers))
            client.subscribe(self.random.sample(CHANNELS, 2), self.first_position())
        for _ in range(steps):
            self.step()
            for _ in range(self.random.choice([0, 0, 1, 2, 8])):
                await turn()
        await self.settle()

    def first_position(self) -> str | None:
        return self.servers[0].broadcaster.point.token if self.weather.token_limit < 4096 else None

    def step(self) -> None:
        acts: list[tuple[Callable[[], object], float]] = [
            (self.begin, 4),
            (self.write, 8),
            (self.end, 5),
            (self.pull, 4),
            (self.hear, 3),
            (self.subscribe, 2),
            (self.unsubscribe, 0.6),
            (self.stall, 2),
            (self.cut, 1.2),
            (self.connect, 3),
            (self.beat, 1),
            (self.incarnate, 0.1),
            (self.toggle_away, 0.7 if self.weather.away else 0),
            (self.turn, 0.4 if self.weather.resets else 0),
            (self.alter, 0.4 if self.weather.resets else 0),
            (self.rebase, 0.15 if self.weather.resets else 0),
            (self.garbage, 0.3 if self.weather.resets else 0),
        ]
        acts += self.more_acts()
        act = self.random.choices([a for a, _ in acts], [w for _, w in acts])[0]
        act()

    def more_acts(self) -> list[tuple[Callable[[], object], float]]:
        return []

    # What writers and servers do.

    def begin(self) -> None:
        if len(self.world.open) < 4:
            self.world.begin()

    def write(self) -> None:
        if self.world.open:
            self.world.write(self.random.choice(self.world.open))

    def end(self) -> None:
        if self.world.open:
            writer = self.random.choice(self.world.open)
            (self.world.rollback if self.random.random() < 0.2 else self.world.commit)(writer)

    def pull(self) -> None:
        self.tasks.append(asyncio.create_task(self.random.choice(self.servers).pull()))

    def hear(self) -> None:
        self.random.choice(self.servers).hear()

    def beat(self) -> None:
        self.tasks.append(asyncio.create_task(self.random.choice(self.servers).registry._round()))

    def incarnate(self) -> None:
        """A crash that lost nothing: every server finds out, positions hold."""
        self.world.incarnation += 1
        for server in self.servers:
            server.broadcaster.rebase(self.world.start(), None)

    def toggle_away(self) -> None:
        self.world.away = not self.world.away

    def turn(self) -> None:
        late = self.random.random() < 0.2
        self.world.turn([] if late else [s.broadcaster.point.snapshot for s in self.servers])

    def alter(self) -> None:
        name, route = self.random.choice([("posts", "author_id"), ("posts", None), ("notes", "user_id")])
        self.world.alter(name, route)

    def rebase(self) -> None:
        self.random.choice(self.servers).broadcaster.rebase(self.world.start(), ResetReason.LOST)

    # What clients do.

    def _client(self) -> Client | None:
        return self.random.choice([c for c in self.clients if c.connected] or [None])

    def subscribe(self) -> None:
        if (client := self._client()) is not None:
            stream = client.stream
            free = [c for c in CHANNELS if c not in stream.open and c not in stream.pending]
            tokens: list[str | None] = [t for c in self.clients for t in c.tokens] or [self.first_position()]
            withheld = self.weather.token_limit < 4096
            position = self.random.choice(tokens if withheld else [None, None, *self.random.choices(tokens, k=4)])
            if free:
                client.subscribe(self.random.sample(free, min(len(free), self.random.choice([1, 1, 2]))), position)

    def garbage(self) -> None:
        if (client := self._client()) is not None:
            free = [c for c in CHANNELS if c not in client.stream.open and c not in client.stream.pending]
            bad = self.random.choice(["", "nonsense", token.mint(10**15), token.mint(200, head="p77")])
            if free:
                client.stream.asking(free[:1], None)
                client.ask(free[:1], bad)

    def unsubscribe(self) -> None:
        if (client := self._client()) is not None and client.stream.joined:
            client.unsubscribe(self.random.choice(client.stream.joined))

    def stall(self) -> None:
        if (client := self._client()) is not None and client.link is not None:
            if client.link.stalled and self.random.random() < 0.5:
                client.link.take(self.random.randint(1, 4))
            else:
                client.link.stall(not client.link.stalled)

    def cut(self) -> None:
        if (client := self._client()) is not None:
            client.cut(cancel=self.random.random() < 0.5)

    def connect(self) -> None:
        for client in self.clients:
            if not client.connected:
                client.cut()
                client.connect(self.random.choice(self.servers))

    # The end.

    async def settle(self) -> None:
        self.world.away = False
        for writer in list(self.world.open):
            self.world.commit(writer)
        self.hearts = [asyncio.create_task(server.registry.beat()) for server in self.servers]
        await asyncio.gather(*self.tasks)
        for server in self.servers:  # a rollback alone is nothing that a pull finds
            await server.pull()
            await server.broadcaster.refresh()
        final = self.servers[0].broadcaster.point.token
        assert final is not None
        await self.until(lambda: self._arrived(self.clients, final), "all clients arrive")
        self.check(self.clients, final)
        await self.resume(final)
        for client in self.clients:
            client.cut()
        for heart in self.hearts:
            heart.cancel()
        await asyncio.gather(*self.hearts, *(k.task for c in self.clients for k in c.links), return_exceptions=True)
        assert all(server.spotless() for server in self.servers), [vars(s) for s in self.servers]

    async def until(self, fact: Callable[[], bool], what: str) -> None:
        for _ in range(TURNS):
            if fact():
                return
            await turn()
        raise AssertionError(f"in vain: {what}: {[(c.stream.pending, c.stream.position) for c in self.clients]}")

    def _arrived(self, clients: list[Client], final: str) -> bool:
        self.connect()
        for client in clients:
            assert client.link is not None
            client.link.stall(False)
        return all(
            not c.stream.pending
            and (not c.stream.open or token.read(c.stream.position or final).contains(token.read(final)))
            and (not c.stream.open or c.stream.position is not None)
            for c in clients
        )

    def check(self, clients: list[Client], final: str) -> None:
        truth = self.world.truth()
        for client in clients:
            findings = judge(client.stream, truth, final=final)
            assert not findings, "\n".join([*client.diary, client.stream.name, report(findings)])
            if not self.weather.resets:
                assert not client.stream.resets
                assert not client.refused

    async def resume(self, final: str) -> None:
        """At every position that was handed out (a sample, where there are many), a fresh client goes on exactly."""
        tokens = sorted({t for client in self.clients for t in client.tokens})
        channels = ["posts", "notes", *(["posts:author_id=1"] if self.world.tables["posts"].routes else [])]
        before, self.clients = self.clients, []
        for position in self.random.sample(tokens, min(len(tokens), RESUMES)):
            client = Client(f"resumed at {position}")
            self.clients.append(client)
            client.connect(self.random.choice(self.servers))
            client.subscribe(channels, position)
        await self.until(lambda: self._arrived(self.clients, final), "all resumed clients arrive")
        self.check(self.clients, final)
        for client in self.clients:
            self._honoured(client)
        self.clients += before

    def _honoured(self, client: Client) -> None:
        """`reset` exactly where the event log does not reach back, or a definition began since."""
        position = Position.decode(client.stream.name.split()[-1]).snapshot
        expired = not position.contains(self.world.horizon)
        older = [made for made in self.world.tables.values() if not position.sees(made.xid)]
        reasons = {reset["reason"] for reset in client.stream.resets}
        assert reasons == ({"expired"} if expired else {"schema"} if older else set()), (client.stream.name, reasons)


def narrow(monkeypatch: pytest.MonkeyPatch, weather: Weather) -> None:
    """Limits that a schedule reaches."""
    monkeypatch.setattr(app.clients.catchup, "AWAY_SECONDS", 0)
    monkeypatch.setattr(app.clients.connection, "BACKLOG_BYTES", 900)
    monkeypatch.setattr(app.core.hub, "MESSAGE_BYTES", weather.message_bytes)
    for module in ("app.stream.history", "app.stream.stretch", "app.clients.feed"):
        monkeypatch.setattr(f"{module}.UNIT_BYTES", 3_000)
    monkeypatch.setattr("app.clients.feed.PORTION_BYTES", 3_000)
    monkeypatch.setattr(app.stream.replays, "KEPT_BYTES", 9_000)
    monkeypatch.setattr(app.stream.replays, "NEAR", 8)
    monkeypatch.setattr(app.stream.turns, "MANY", 1)
    monkeypatch.setattr(app.model.position, "TOKEN_LIMIT", weather.token_limit)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("weather", WEATHERS, ids=lambda w: w.name)
async def test_each_client_gets_exactly_the_committed_changes_of_its_channels(
    weather: Weather, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, weather)
    unforeseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
    await Play(seed, weather).run(220)
    assert not unforeseen
