"""The rooms of one server, connected to a backend, and the tasks that keep it going.

Invariant: a background task that fails by a bug is reported and begun again; it never ends in silence.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from app import __version__
from app.clients.door import Door
from app.clients.limits import Limits, LocalLimits
from app.clients.registry import Registry
from app.core.audience import Burst, one_by_one
from app.core.hub import Hub
from app.model.change import Batch
from app.model.observations import Failed, FanOut, Observer
from app.model.position import Snapshot
from app.model.settings import Settings
from app.stream.broadcaster import Broadcaster
from app.stream.follower import Follower
from app.stream.lookup import Lookup
from app.stream.ports import Backend, LogHead
from app.stream.rights import Judged, Rights, Unjudged
from app.web.health import tell_flow
from app.web.ports import Facts
from app.web.uring import UringSender

RESTART_SECONDS: Final = 1.0


class Server:
    """`head` is where the event log stands when the server begins."""

    def __init__(self, settings: Settings, backend: Backend, head: LogHead, observe: Observer) -> None:
        self.backend = backend
        self.observe = observe
        self.server_id = settings.server_id
        hub = Hub(settings.outbound_bytes, _burst(settings, observe))
        self.broadcaster = Broadcaster(
            backend.event_log, hub, head, settings.history_bytes, observe, publish=self._publish
        )
        self.leadership = backend.lead(pull=self._pull, beat=self._beat, published=self._published)
        self.follower = Follower(self.broadcaster, self.leadership.terminate_stale, observe)
        self.door = open_door(settings, observe)
        self.registry = Registry(
            Lookup(self.broadcaster, backend.tables, backend.rows),
            observe,
            server_id=settings.public_id,
            version=__version__,
            heartbeat=settings.heartbeat,
            rights=self._rights(settings),
            door=self.door,
            limits=open_limits(settings, observe),
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _rights(self, settings: Settings) -> Rights:
        """What judges who may have what."""
        if not settings.rights:
            return Unjudged()
        return Judged(self.broadcaster, self.backend.tables, self.backend.policies, self.observe)

    def start(self) -> None:
        """Begin to follow, to stand for leader, to hear the bus, and to send clients their heartbeats."""
        verifier = self.door.verifier
        keys = {"keys": verifier.run} if verifier is not None else {}
        for name, run in {
            "follower": self.follower.run,
            "leader": self.leadership.run,
            "floor": self.backend.event_log.watch_floor,
            "bus": lambda: self.backend.bus.run(self.follower),
            "heartbeat": self.registry.beat,
            "flow": lambda: tell_flow(self.health, self.observe),
            "door": self.door.run,
            **keys,
        }.items():
            self._tasks.append(asyncio.create_task(self._forever(name, run), name=name))

    async def stop(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backend.policies.close()

    async def _forever(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 - a bug must not end a server that others can still use
                self.observe(Failed(name, error))
            await asyncio.sleep(RESTART_SECONDS)

    # What the leader does.

    async def _pull(self) -> int:
        """Read what is new and publish it. Returns how many commits that were."""
        batch = await self.broadcaster.pull()
        if batch is None:
            return 0
        return 1 if batch.transactions is None else len(batch.transactions)

    async def _publish(self, batch: Batch) -> None:
        """Tell the fleet of a batch that was read here, if this server leads."""
        if self.leadership.leading:
            await self.backend.bus.publish(batch)

    async def _beat(self) -> None:
        """Tell the fleet, and this server, who leads and where it stands."""
        token = self.broadcaster.point.token or ""
        self.follower.beat(self.server_id, token)
        await self.backend.bus.beat(token)

    def _published(self) -> Snapshot:
        return self.broadcaster.point.snapshot

    # Health.

    def health(self) -> Facts:
        """What /readyz shows (app.web.ports.Facts)."""
        leadership, backend = self.leadership, self.backend
        blocked, fuse = leadership.blocked, backend.event_log.fuse
        leader = self.server_id if leadership.leading else self.follower.heard_leader
        return {
            "database": backend.event_log.connected,
            "listen": backend.listening(),
            "bus": backend.bus.ready and leader is not None,
            "leader": leader,
            "flow": self.follower.flows,
            "watches": [
                {"schema": p.schema, "table": p.table, "problem": p.problem, "remedy": p.remedy}
                for p in leadership.problems
            ],
            "strangers": [
                {"pid": s.pid, "role": s.role, "lock": s.lock, "remedy": s.remedy} for s in leadership.strangers
            ],
            "fuse": None if fuse is None else {"reason": fuse.reason, "holder": fuse.holder, "remedy": fuse.remedy},
            "log": None
            if blocked is None
            else {
                "blocked_seconds": round(blocked.seconds, 1),
                "excess_bytes": blocked.excess_bytes,
                "reason": blocked.reason,
                "remedy": blocked.remedy,
            },
        }


def open_door(settings: Settings, observe: Observer) -> Door:
    """Who may come in, as the settings have it. Raises StartError where a key can't be used."""
    door = Door(observe, anonymous=settings.lets_strangers_in, seconds=settings.auth_seconds)
    if settings.keyed:
        from app.access.verifier import Verifier  # nine megabytes that a server without a key does not need

        door.verifier = Verifier(settings, observe, door.keys_gone)
    return door


def open_limits(settings: Settings, observe: Observer) -> Limits:
    """What one user may have, as the settings have it."""
    return LocalLimits(observe, connections=settings.connections_per_user, auth=settings.auth_per_minute)


def _burst(settings: Settings, observe: Observer) -> Burst:
    """The cheapest way to give the same bytes to many clients."""
    if settings.io_uring:
        try:
            sender = UringSender()
        except OSError as error:
            observe(FanOut("send", str(error)))
        else:
            observe(FanOut("io_uring"))
            return sender.burst
    return one_by_one
