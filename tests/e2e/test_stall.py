"""A client that stops reading under load (adversarial 23): the server's memory stays, the others' delay stays, and the
client gets everything when it reads again.

STALL_SECONDS is for how long it reads nothing; `make test-long` has five minutes, which is longer than a peer that
takes nothing is kept: then it is cut, and comes back with its position.
"""

import asyncio
import os
import re
import socket
import statistics
import time
from collections.abc import Callable

from harness.database import Database
from harness.facts import eventually, pause
from harness.server import Server, Servers
from tests.e2e.watch import Watch, percentile

SECONDS = float(os.environ.get("STALL_SECONDS", "5"))
PER_SECOND, ROWS = 2000, 20
GROWTH = 50 << 20
STALLED = 20  # clients that never read again
BODY = 400  # bytes of a row: what stalled clients miss is soon more than the kernel's buffers take
WINDOW = 32 << 10  # bytes that a reader's kernel takes for it


class Reader:
    """An event stream that keeps keys only. It comes back, by itself, with the last `id:` that it saw."""

    def __init__(self, server: Server, position: str = "") -> None:
        self.server, self.position = server, position
        self.keys: list[int] = []
        self.connects = self.repeated = 0
        self._since: set[int] = set()
        self._reading = asyncio.Event()
        self._reading.set()

    async def run(self) -> None:
        while True:
            try:
                await self._connection()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass

    async def _connection(self) -> None:
        self.connects += 1
        end = socket.socket()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", self.server.port))
        reader, self.writer = await asyncio.open_connection(sock=end, limit=256 << 10)
        query = f"&position={self.position}" if self.position else ""
        self.writer.write(f"GET /realtime/events?channel=posts{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        id = ""
        try:
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    id = line[4:].decode().strip()
                elif line.startswith(b"data: "):
                    self._take(line, id)
                    id = ""
                await self._reading.wait()
        finally:
            self.writer.transport.abort()

    def _take(self, line: bytes, id: str) -> None:
        assert b'"type":"reset"' not in line, line
        for found in re.findall(rb'"row":"(\d+)"', line):
            key = int(found)
            if key in self._since:
                self.repeated += 1
            else:
                self.keys.append(key)
                self._since.add(key)
        if id:
            self.position, self._since = id, set()

    def stall(self) -> None:
        self._reading.clear()
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on(self) -> None:
        self._reading.set()
        if not self.writer.transport.is_closing():
            self.writer.transport.resume_reading()  # type: ignore[attr-defined]


async def load(database: Database, ended: asyncio.Event) -> int:
    """Rows at a steady rate; how many."""
    written, began = 0, time.monotonic()
    async with await database.connect() as connection:
        while not ended.is_set():
            await connection.execute(
                "INSERT INTO posts (author_id, body) SELECT 1, repeat('x', %s) FROM generate_series(1, %s)",
                (BODY, ROWS),
            )
            written += ROWS
            await pause(began + written / PER_SECOND - time.monotonic())
    return written


async def lagging(server: Server, count: int) -> bool:
    return await server.metric("sobranie_clients_lagging") >= count


async def test_a_client_that_reads_nothing_for_long_costs_nothing_and_then_gets_everything(
    database: Database, servers: Servers, figures: Callable[[str], None]
) -> None:
    server = await servers.start(SOBRANIE_HISTORY_BYTES="4MB", SOBRANIE_EVENT_LOG_BYTES="8GB")
    ended = asyncio.Event()
    readers = [Reader(server) for _ in range(1 + STALLED)]
    async with Watch(database, server) as live, asyncio.TaskGroup() as everybody:
        reading = [everybody.create_task(reader.run()) for reader in readers]
        await live.client.changes(5)
        writing = everybody.create_task(load(database, ended))
        await eventually(lambda: all(len(r.keys) > 2 * PER_SECOND for r in readers), 30, "all read, History is full")
        since = len(live.written)
        await pause(max(3.0, SECONDS / 10))
        quiet, since, before = await live.delays(since), len(live.written), server.rss()
        live.memory = before
        for reader in readers:
            reader.stall()
        began = time.monotonic()
        await eventually(
            lambda: lagging(server, len(readers)), 60, "the server notices that all have stalled", every=0.2
        )
        noticed = time.monotonic() - began
        await pause(SECONDS)
        stalled, grown = await live.delays(since), live.memory - before
        kept = await server.metric("sobranie_clients_lagging")
        for task in reading[1:]:
            task.cancel()
        one, resumed = readers[0], time.monotonic()
        missed = one.keys[-1]
        one.go_on()
        ended.set()
        written = await writing
        await eventually(lambda: len(one.keys) >= written, 60 + SECONDS, "the stalled client has caught up", every=0.1)
        took = time.monotonic() - resumed
        reading[0].cancel()
    figures(
        f"stall: {SECONDS:.0f} s under {PER_SECOND} changes/s with {len(readers)} stalled clients (all of them lag "
        f"after {noticed:.1f} s, {kept:.0f} at the end), memory +{grown >> 20} MB; delay of a live client p50 "
        f"{statistics.median(quiet):.1f} to {statistics.median(stalled):.1f} ms, p99 {percentile(quiet):.1f} to "
        f"{percentile(stalled):.1f} ms; one then caught up on {written - missed} changes in {took:.1f} s, with "
        f"{one.connects - 1} reconnects"
    )
    assert one.keys == list(range(1, written + 1))
    assert grown < GROWTH
    assert percentile(stalled) < 3 * percentile(quiet) + 50
    assert not await server.metric("sobranie_resets_total")
