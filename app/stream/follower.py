"""What a server does with the bus: it applies batches, reads the event log when woken, and watches the leader's beat.

Invariants
- A batch is applied only where the server has its start; otherwise the event log is read.
- A lost wake-up costs at most a second.
- A server that nothing wakes reads every PROOF_SECONDS all the same, which proves that it could.
- Without a beat for SILENT_SECONDS the event log is read each second all the same, and so while the fuse is open.
- After DEAD_SECONDS the leader's database session is ended, because a stopped process keeps its lock for ever.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.model.change import Batch
from app.model.errors import DatabaseAway, PositionRefused
from app.model.observations import Failed, Observer
from app.model.position import Position
from app.stream.broadcaster import Broadcaster

WAKE_SECONDS = 1.0  # how long to wait for a wake-up before looking at the leader's silence
SILENT_SECONDS = 2.0
DEAD_SECONDS = 5.0
PROOF_SECONDS = 2.0
FLOW_SECONDS = 5.0  # without a read that succeeded for so long nothing flows
RETRY_SECONDS = 0.5


class Follower:
    """A `Receiver`. `depose` ends the database session of a leader that was silent for so many seconds."""

    def __init__(self, broadcaster: Broadcaster, depose: Callable[[float], Awaitable[None]], observe: Observer) -> None:
        self.broadcaster = broadcaster
        self.depose = depose
        self.observe = observe
        self.leader: str | None = None  # who beat last
        self._heard = time.monotonic()
        self._woken = asyncio.Event()

    def batch(self, batch: Batch) -> None:
        """Apply it, or read the event log where something is missing before it."""
        if self.broadcaster.point.snapshot.contains(batch.since):
            self.broadcaster.apply(batch)
        else:
            self.wake()

    def wake(self) -> None:
        """Have the event log read."""
        self._woken.set()

    def beat(self, leader: str, position: str) -> None:
        """Note who leads, and have the event log read where that server is ahead of this one."""
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

    @property
    def heard_leader(self) -> str | None:
        """The server that leads; None where none was heard of for SILENT_SECONDS."""
        return self.leader if self.silence <= SILENT_SECONDS else None

    @property
    def _idle(self) -> float:
        """Seconds since a read last succeeded."""
        return time.monotonic() - self.broadcaster.read_at

    @property
    def flows(self) -> bool:
        """Whether what is new was read lately, which every server does all the time, whether or not there is any."""
        return self._idle <= FLOW_SECONDS

    async def run(self) -> None:
        """Follow, for ever."""
        while True:
            try:
                await asyncio.wait_for(self._woken.wait(), WAKE_SECONDS)
            except TimeoutError:
                quiet = self.silence < SILENT_SECONDS and self._idle < PROOF_SECONDS
                if quiet and not self.broadcaster.event_log.skipping:
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
