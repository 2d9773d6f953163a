"""Rights that are taken in the midst of random schedules: nothing of the transaction that takes one, or of a later one,
reaches whom it was taken from; the others miss nothing, and he missed nothing before.

Writers, servers, buses, clients and the judge are those of test_flow. Each client is a user with a right to both
tables. A transaction takes one of them, or revokes the user, and writes to the tables all the while.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import app.clients.judging
import app.stream.rights
from app.core.rights import Policy
from app.model.claims import Identity
from app.model.rights import Revocation
from tests.unit.client_model import Client, Server
from tests.unit.clients.test_flow import WEATHERS, Play, Weather, narrow
from tests.unit.guarded_model import Guarded
from tests.unit.log_model import World

SEEDS = int(os.environ.get("FLOW_SEEDS", "14"))


class RightsPlay(Play):
    world: Guarded

    def __init__(self, seed: int, weather: Weather) -> None:
        super().__init__(seed, weather)
        for n, client in enumerate(self.clients):
            client.identity = Identity(f"u{n}", {"sub": f"u{n}"})
            for table in ("posts", "notes"):
                name = f"u{n} {table}"
                self.world.policies_now[f"u{n}", table] = Policy(name, table, claims={"sub": f"u{n}"})

    def make_world(self) -> World:
        return Guarded(self.random, held=self.weather.held)

    def server(self) -> Server:
        return Server(self.world, self.weather.history_bytes, self.world)

    def more_acts(self) -> list[tuple[Callable[[], object], float]]:
        return [(self.take, 0.5), (self.revoke, 0.15)]

    def take(self) -> None:
        """In a transaction that writes before and after, and is still open."""
        user, table = self.random.choice(["u0", "u1"]), self.random.choice(["posts", "notes"])
        writer = self.world.begin()
        for _ in range(self.random.choice([0, 1, 4])):
            self.world.write(writer)

        def now() -> None:
            if self.world.policies_now.pop((user, table), None) is not None:
                self.world.lost.setdefault((user, table), len(self.world.order))

        self.world.take(writer, None, now)
        for _ in range(self.random.choice([1, 4])):
            self.world.write(writer)

    def revoke(self) -> None:
        writer = self.world.begin()

        def now() -> None:
            self.world.revocations.append(Revocation("u0"))
            for table in ("posts", "notes"):
                self.world.lost.setdefault(("u0", table), len(self.world.order))

        self.world.take(writer, ("u0", None, None), now)
        for _ in range(4):
            self.world.write(writer)

    def alter(self) -> None:
        """The same routes as before, in a new generation."""
        name = self.random.choice(["posts", "notes"])
        self.world.alter(name, {"posts": "author_id", "notes": "user_id"}[name])

    def check(self, clients: list[Client], final: str) -> None:
        for client in clients:
            client.refused = [message for message in client.refused if not message.startswith("no right")]
        super().check(clients, final)
        for client in clients:
            user = client.identity.user
            assert user is not None
            for segment in client.stream.segments:
                for change in segment.changes():
                    before = self.world.lost.get((user, change["table"]))
                    told = self.world.order.index(int(change["tx"]))
                    assert before is None or told < before, "\n".join([*client.diary, f"{user} got {change}"])
            for channel in client.stream.open:
                assert (user, channel.partition(":")[0]) not in self.world.lost, "\n".join([*client.diary, channel])

    async def resume(self, final: str) -> None:
        """Nobody new comes."""


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("weather", WEATHERS, ids=lambda w: w.name)
async def test_nothing_from_where_a_right_was_taken_reaches_whom_it_was_taken_from(
    weather: Weather, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, weather)
    monkeypatch.setattr(app.clients.judging, "AWAY_SECONDS", 0)
    monkeypatch.setattr(app.stream.rights, "LOAD_SECONDS", 0)
    unforeseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
    play = RightsPlay(seed, weather)
    await play.run(220)
    assert not unforeseen
    assert play.world.order
