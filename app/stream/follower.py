"""What a server does with the bus: it reads the log when woken, and watches over the leader's beat.

Invariants: a lost wake-up costs at most a second; without a beat for SILENT_SECONDS the log is read each second
all the same; after DEAD_SECONDS the leader's backend is ended, because a stopped process keeps its lock for ever.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.model.change import Batch
from app.model.errors import DatabaseAway, PositionRefused
from app.model.observations import Failed, Observer
from app.model.position import Position
from app.stream.broadcaster import Broadcaster

SILENT_SECONDS = 2.0
DEAD_SECONDS = 5.0
RETRY_SECONDS = 0.5


class Follower:
    """A `Receiver`. `depose` ends the backend of a leader that was silent for so many seconds."""

    def __init__(self, broadcaster: Broadcaster, depose: Callable[[float], Awaitable[None]], observe: Observer) -> None:
        self.broadcaster = broadcaster
        self.depose = depose
        self.observe = observe
        self.leader: str | None = None
        self._heard = time.monotonic()
        self._woken = asyncio.Event()

    def batch(self, batch: Batch) -> None:
        if self.broadcaster.point.snapshot.contains(batch.since):
            self.broadcaster.apply(batch)
        else:
            self.wake()

    def wake(self) -> None:
        self._woken.set()

    def beat(self, leader: str, position: str) -> None:
        self.leader = leader
        self._heard = time.monotonic()
        try:
            behind = not self.broadcaster.point.snapshot.contains(Position.decode(position).snapshot)
        except PositionRefused:
            behind = True
        if behind:
            self.wake()

    @property
    def silence(self) -> float:
        """Seconds since the leader was last heard."""
        return time.monotonic() - self._heard

    async def run(self) -> None:
        """Follow, for ever."""
        while True:
            try:
                await asyncio.wait_for(self._woken.wait(), 1.0)
            except TimeoutError:
                if self.silence < SILENT_SECONDS:
                    continue
            self._woken.clear()
            await self._read()

    async def _read(self) -> None:
        try:
            await self.broadcaster.pull()
            if self.silence > DEAD_SECONDS:
                await self.depose(self.silence)
                self._heard = time.monotonic()
        except DatabaseAway:
            self.wake()
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - a bug here must not end the stream of every client
            self.observe(Failed("follower", error))
            await asyncio.sleep(RETRY_SECONDS)
