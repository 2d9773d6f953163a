"""Which fault comes when: at random from a seed, one after another and sometimes two at once.

Invariants
- What is in the deck comes once before the deck is dealt again, so that a few minutes see nearly all of it.
- A bulk write comes from the deck alone, at most once a round.
- A fault that could not happen, because the database was away, is counted and harms nothing.
- What a fault finds to be wrong by itself ends the run, as a finding of the judge does.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from harness.facts import pause
from tests.chaos.rows import Asked
from tests.chaos.world import Station, World

LONG = (1.0, 9.0)  # seconds that a fault may last
DEALT = 0.6  # of all faults come from the deck


class Broken(Exception):
    """Something did not work though nothing was in its way."""


@dataclass
class Noted:
    kind: str
    where: str
    began: float  # seconds since the start of the run
    ended: float


Act = Callable[["Schedule"], Awaitable[str]]


class Acts(dict[str, tuple[int, Act]]):
    """By name: the weight, and what is done. It returns where. What has no weight comes from the deck alone."""

    def named(self, kind: str, weight: int) -> Callable[[Act], Act]:
        def register(act: Act) -> Act:
            self[kind] = (weight, act)
            return act

        return register


class Schedule:
    def __init__(
        self, world: World, seed: str, every: float, acts: Mapping[str, tuple[int, Act]], deck: Iterable[str]
    ) -> None:
        """`deck`: the names of those that have to come again and again."""
        self.world, self.every, self.acts, self.deck = world, every, acts, tuple(deck)
        self.dice = random.Random(f"{seed} faults")
        self.noted: list[Noted] = []
        self._due: list[str] = []  # what is left of the deck
        self.failed: list[str] = []
        self.broken: list[str] = []
        self.asked: list[Asked] = []
        self.turns = 0  # of the routes
        self.rooms = itertools.count(3)  # partitions that come and go

    async def run(self, ended: asyncio.Event) -> None:
        """One round."""
        running, seen = set[asyncio.Task[None]](), set[str]()
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), self.dice.uniform(0.3, 1.7) * self.every)
                break
            running = {task for task in running if not task.done()}
            if len(running) < 2:
                kind = self._next(seen)
                seen.add(kind)
                running.add(asyncio.create_task(self._one(kind)))
        await asyncio.gather(*running)

    def _next(self, seen: set[str]) -> str:
        """From the deck, unless all that is left of it has been `seen` in this round, or by weight."""
        if not self._due:
            self._due = self.dice.sample(self.deck, len(self.deck))
        fresh = [kind for kind in self._due if kind not in seen]
        if fresh and self.dice.random() < DEALT:
            self._due.remove(fresh[0])
            return fresh[0]
        return self.dice.choices(list(self.acts), [weight for weight, _ in self.acts.values()])[0]

    async def _one(self, kind: str) -> None:
        noted = Noted(kind, "", self.world.now, self.world.now)
        try:
            noted.where = await self.acts[kind][1](self)
            self.noted.append(noted)
        except (psycopg.Error, OSError) as error:  # the database was away: this fault did not happen
            self.failed.append(f"{kind}: {type(error).__name__}")
        except Broken as error:
            self.broken.append(f"{kind}: {error}")
        noted.ended = self.world.now

    async def last(self) -> None:
        await pause(self.dice.uniform(*LONG))

    def any(self) -> Station:
        return self.dice.choice(self.world.stations)

    async def leader(self) -> Station:
        return await self.world.leader() or self.any()
