"""The ledger: everything that sixteen writers committed is in every client's books exactly once, in order, to the row.

Clients of both transports are cut at random, go on at the other server, and subscribe to further channels on live
connections: from now, from an older position, or from one that their server has not reached. LEDGER_SECONDS is its
length.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence

from harness.database import Database
from harness.facts import pause
from harness.server import Server, Servers
from tests.e2e.writers import CHANNELS, SETUP, TABLES, Tally, Writer
from tests.support.clients import Client, EventStreamClient, WebSocketClient
from tests.support.judge import judge, report
from tests.support.transport import now
from tests.support.truth import Truth

Task = Coroutine[None, None, None]
SECONDS = float(os.environ.get("LEDGER_SECONDS", "12"))
WRITERS = 16
PACE = 0.08  # a writer's longest pause between transactions, in seconds: leaves the clients some of two cores


class Hopper:
    """One client that will not sit still, until it is told to."""

    def __init__(self, client: Client, servers: Sequence[Server], seed: int, heard: list[str]) -> None:
        self.client, self.servers, self.heard = client, servers, heard
        self.dice = random.Random(seed)
        self.reconnects = self.subscribes = 0

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await pause(self.dice.uniform(0.1, 0.9))
            if self.client.stream.position is not None:
                self.heard.append(self.client.stream.position)
            choice = self.dice.random()
            if isinstance(self.client, WebSocketClient) and choice < 0.6:
                await self._more_or_fewer(self.client)
            else:
                self.reconnects += 1
                await self.client.reconnect(self.dice.choice(self.servers).url)

    async def _more_or_fewer(self, client: WebSocketClient) -> None:
        joined, absent = client.stream.joined, [c for c in CHANNELS if c not in client.stream.open]
        if absent and (len(joined) < 4 or self.dice.random() < 0.6):
            # From now, from the past, or from what some other client has seen: perhaps ahead of this server.
            position = self.dice.choice([None, *self.heard[:1], *self.heard[-3:]])
            await client.subscribe(self.dice.choice(absent), position=position)
            self.subscribes += 1
        elif len(joined) > 2:
            await client.unsubscribe(self.dice.choice(joined))


async def open_clients(servers: Sequence[Server]) -> list[Client]:
    clients: list[Client] = []
    for i in range(4):
        socket = await WebSocketClient(servers[i % 2].url, f"socket {i}").connect()
        await socket.subscribe(*(TABLES if i == 0 else CHANNELS[i : i + 2]))
        events = await EventStreamClient(
            servers[i % 2].url, *(TABLES if i == 0 else CHANNELS[3 * i : 3 * i + 4]), name=f"events {i}"
        ).connect()
        await events.message("subscribed")
        clients += [socket, events]
    return clients


async def test_every_committed_change_is_in_every_ledger_exactly_once(
    database: Database, servers: Servers, figures: Callable[[str], None]
) -> None:
    both = [await servers.start("one", SOBRANIE_OUTBOUND_BYTES="4kB"), await servers.start("two")]
    await database.execute(SETUP)
    clients, tally, heard = await open_clients(both), Tally(), list[str]()
    hoppers = [Hopper(client, both, i, heard) for i, client in enumerate(clients)]
    started = time.monotonic()
    await let_loose([Writer(database, i, tally, PACE).run for i in range(WRITERS)], [h.run for h in hoppers])
    final = await now(database)
    for client in clients:
        await client.reach(final, timeout=60)
    elapsed = time.monotonic() - started
    async with await database.connect() as connection:
        truth = await Truth.read(connection, *TABLES)
    found = {client.stream.name: judge(client.stream, truth, final=final) for client in clients}
    tell(figures, tally, hoppers, truth, elapsed)
    for client in clients:
        assert not found[client.stream.name], f"{client.stream.name}: {report(found[client.stream.name])}"
        assert not client.stream.errors
        assert not client.stream.resets
        await client.abort()
    assert tally.committed > 100 * SECONDS / 15
    for server in both:
        assert await server.metric("sobranie_safety_poll_finds_total") == 0


async def let_loose(
    writers: list[Callable[[asyncio.Event], Task]], hoppers: list[Callable[[asyncio.Event], Task]]
) -> None:
    """Both for SECONDS; the writers end first, so that the clients also hop over a quiet stream."""
    written, hopped = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as everybody:
        writing = [everybody.create_task(run(written)) for run in writers]
        for run in hoppers:
            everybody.create_task(run(hopped))
        await pause(SECONDS)
        written.set()
        await asyncio.gather(*writing)
        hopped.set()


def tell(figures: Callable[[str], None], tally: Tally, hoppers: list[Hopper], truth: Truth, elapsed: float) -> None:
    figures(
        f"ledger: {elapsed:.0f} s, {tally.committed} transactions committed ({tally.committed / elapsed:.0f}/s), "
        f"{tally.rolled_back} rolled back, {tally.savepoints} savepoints, {tally.slow} slow, "
        f"{tally.conflicts} conflicts, {len(truth.events)} changes in the event log"
    )
    figures(
        f"  {'client':<10}{'changes':>9}{'units':>8}{'channels':>9}{'reconnects':>11}{'subscribes':>11}"
        f"{'repeated in an open unit':>26}{'late':>6}{'faults':>8}"
    )
    for hopper in hoppers:
        stream = hopper.client.stream
        units = sum(1 for m in hopper.client.messages if "position" in m)
        figures(
            f"  {stream.name:<10}{len(stream.changes()):>9}{units:>8}{len(stream.segments):>9}"
            f"{hopper.reconnects:>11}{hopper.subscribes:>11}{len(stream.duplicates):>26}"
            f"{sum(d.late for d in stream.duplicates):>6}{len(stream.faults):>8}"
        )
        for unit, count in sorted(repeated_units(hopper).items()):
            figures(f"    {count} repeated: sent on connection {unit[0]}, cut before its position, again on {unit[1]}")


def repeated_units(hopper: Hopper) -> dict[tuple[int, int], int]:
    """Each repetition is explained by the connection that was cut and the one that sent it again."""
    found: dict[tuple[int, int], int] = {}
    for duplicate in hopper.client.stream.duplicates:
        key = (duplicate.first_connection, duplicate.again_connection)
        found[key] = found.get(key, 0) + 1
    return found
