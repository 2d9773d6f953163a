"""What somebody notices who is live while others are in trouble: the delay of changes, and the server's memory."""

import asyncio
import statistics
import time
from typing import Self

from harness.database import Database
from harness.facts import pause
from harness.server import Server
from tests.support.clients import WebSocketClient

BEAT = 0.05  # seconds between the changes that the live client watches for


class Watch:
    """A live client, changes for it all the time, and how long each takes; and the server's memory meanwhile."""

    def __init__(self, database: Database, server: Server) -> None:
        self.database, self.server = database, server
        self.written: list[float] = []
        self.ended = asyncio.Event()
        self.memory = self.first = server.rss()

    async def __aenter__(self) -> Self:
        self.client = await WebSocketClient(self.server.url, "live").connect()
        assert (await self.client.subscribe("notifications"))["type"] == "subscribed"
        self._task = asyncio.create_task(self._write())
        return self

    async def _write(self) -> None:
        async with await self.database.connect() as connection:
            while not self.ended.is_set():
                await connection.execute("INSERT INTO notifications (user_id, kind) VALUES (1, 'x')")
                self.written.append(time.perf_counter())
                self.memory = max(self.memory, self.server.rss())
                await pause(BEAT)

    async def __aexit__(self, *_: object) -> None:
        self.ended.set()
        await self._task
        await self.client.abort()

    async def delays(self, begin: int = 0) -> list[float]:
        """Of the changes since the `begin`-th, in milliseconds."""
        count = len(self.written)
        await self.client.changes(count, timeout=30)
        came = [
            at
            for at, message in zip(self.client.arrivals, self.client.messages, strict=True)
            for _ in message.get("changes", ())
        ]
        return [1000 * (at - sent) for sent, at in zip(self.written[begin:count], came[begin:count], strict=True)]


def percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
