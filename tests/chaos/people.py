"""Writers and clients that live with faults as real ones do: they try again, elsewhere, and never give up.

Invariant: whoever holds channels of the bulk writes hops less often than they come, or would begin anew for ever.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress

import aiohttp
import psycopg

from harness.facts import pause
from tests.chaos.books import Held, Kept
from tests.chaos.world import BULK, CHANNELS, WHOLE, Station, World
from tests.e2e.writers import Tally, Writer
from tests.support import token
from tests.support.clients import EventStreamClient, WebSocketClient
from tests.support.eventstream import Event
from tests.support.stream import Message

PACE = 0.5  # a writer's longest pause between transactions, in seconds
RESTLESS, CALM = (0.1, 1.5), (4.0, 20.0)  # seconds between two steps of a client
SILENT_SECONDS = 4.0  # eight heartbeats: the line is dead
CONNECT_SECONDS = 10.0
GONE = (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError, AssertionError)


class Persistent(Writer):
    """A writer that comes back when the database went, whatever became of its transaction."""

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                async with await self.database.connect(autocommit=False) as self.connection:
                    mode = self.dice.choice(("on", "off"))
                    await self.connection.execute(f"SET synchronous_commit = {mode}".encode())
                    await self.connection.commit()
                    await self._write(ended)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
                await pause(0.2 + self.dice.random() * 0.3)

    async def _write(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                await self._transaction()
            except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                await self.connection.rollback()
                self.tally.conflicts += 1
            await pause(self.dice.random() * self.pace)


class Socket(WebSocketClient):
    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self.stream: Kept = Kept(name, self.messages, self.raw, self.arrivals)


class Events(EventStreamClient):
    def __init__(self, url: str, *channels: str, name: str) -> None:
        super().__init__(url, *channels, name=name)
        self.stream: Kept = Kept(name, self.messages, self.raw, self.arrivals)

    def _check_id(self, event: Event, message: Message) -> None:
        """Only in `subscribed`: after a crash the same point in history is minted anew, under the new incarnation."""
        had = self.stream.position
        if message["type"] != "subscribed" or event.id is None or had is None or not same_point(event.id, had):
            super()._check_id(event, message)


def same_point(one: str, other: str) -> bool:
    return (token.read(one).xmax, token.read(one).xip) == (token.read(other).xmax, token.read(other).xip)


class Restless:
    """One client that hops, loses its line, is away for a while, and joins and leaves channels."""

    def __init__(
        self, client: Socket | Events, stations: Sequence[Station], seed: str, heard: list[Held], *, bulk: bool = False
    ) -> None:
        self.client, self.stations, self.heard = client, stations, heard
        self.channels, self.pace = (BULK, CALM) if bulk else (CHANNELS, RESTLESS)
        self.dice = random.Random(seed)
        self.connected = False
        self.hops = self.holidays = self.failures = 0
        self.away_until = 0.0

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await pause(self.dice.uniform(*self.pace))
            await self.step()

    async def step(self, still: bool = False) -> None:
        """Come back where the line is dead; else, unless `still`, do something unforeseen."""
        if not still and time.monotonic() < self.away_until:
            return
        if not self.connected or self._dead():
            await self._come_back()
        elif not still:
            await self._something()

    def _dead(self) -> bool:
        client = self.client
        refused = bool(client.stream.errors)
        client.stream.errors.clear()
        return refused or client.ended.is_set() or time.monotonic() - client.stream.books.heard_at > SILENT_SECONDS

    async def _come_back(self) -> None:
        self.connected = False
        station = self.dice.choice(self.stations)
        if self.away_until:  # a holiday is no pause of the stream, which goes on while `connect` waits
            self.client.stream.books.pause_from, self.away_until = time.monotonic(), 0.0
        with suppress(*GONE):
            await self.client.abort()
        try:
            await asyncio.wait_for(self.client.connect(station.url), CONNECT_SECONDS)
            self.client.stream.books.heard_at = time.monotonic()
            self.connected = True
            self.hops += 1
        except GONE:
            self.failures += 1

    async def _something(self) -> None:
        client, dice = self.client, self.dice.random()
        if client.stream.position is not None:
            self.heard.append(Held(client.stream.position, client.stream.books.position_at))
            del self.heard[:-200]
        if dice < 0.004:
            await self._holiday()
        elif isinstance(client, Socket) and dice < 0.4:
            with suppress(*GONE):
                await asyncio.wait_for(self._more_or_fewer(client), SILENT_SECONDS)
        elif dice < 0.6:
            await self._come_back()

    async def _holiday(self) -> None:
        """Longer than the event log reaches back, or not quite."""
        self.holidays += 1
        self.connected = False
        await self.client.abort()
        self.away_until = time.monotonic() + self.dice.uniform(5.0, 60.0)

    async def _more_or_fewer(self, client: Socket) -> None:
        stream = client.stream
        joined = stream.joined
        # One that was asked for and not answered yet is not asked for again, from elsewhere: whose answer would it be?
        absent = [c for c in self.channels if c not in stream.open and c not in stream.pending]
        if absent and (len(joined) < 4 or self.dice.random() < 0.6):
            held = self.dice.choice([None, *self.heard[-40:]])
            if held is not None:
                client.stream.books.ages[held.position] = held.at
            channel = self.dice.choice(absent)
            await client.subscribe(channel, position=held.position if held is not None else None)
        elif len(joined) > 2:
            await client.unsubscribe(self.dice.choice(joined))


def crowd(world: World, seed: str, heard: list[Held]) -> list[Restless]:
    """Six of each kind, and three for the bulk writes. They begin to connect when they are run."""
    people = []
    for i in range(6):
        url = world.stations[i % 3].url
        socket = Socket(url, f"socket {i}")
        socket.stream.asking(WHOLE if i == 0 else CHANNELS[i : i + 2], None)
        channels = WHOLE if i == 0 else CHANNELS[2 * i : 2 * i + 3]
        events = Events(url, *channels, name=f"events {i}")
        people += [Restless(c, world.stations, f"{seed} {c.stream.name}", heard) for c in (socket, events)]
    url = world.stations[0].url
    bulk: list[Socket | Events] = [Socket(url, f"bulk socket {i}") for i in range(2)]
    bulk[0].stream.asking(BULK[:1], None)
    bulk[1].stream.asking(("posts", *BULK[1:3]), None)
    bulk.append(Events(url, *BULK[2:], name="bulk events"))
    return people + [Restless(c, world.stations, f"{seed} {c.stream.name}", heard, bulk=True) for c in bulk]


def writers(world: World, seed: str, tally: Tally, count: int = 16) -> list[Persistent]:
    made = [Persistent(world.database, i, tally, PACE) for i in range(count)]
    for i, writer in enumerate(made):
        writer.dice = random.Random(f"{seed} writer {i}")
    return made
