"""The roof: the one place that knows concrete edges, and the life of a server from start to stop.

Start: refuse what can't work, take the log's position, serve. Stop: take leave of clients, end the tasks, close the
connections. A background task that fails by a bug is reported and begun again; it never ends in silence.
"""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from psycopg import AsyncConnection

from app import __version__
from app.clients.connection import Connection
from app.clients.registry import Registry
from app.core.audience import Burst, one_by_one
from app.core.hub import Hub
from app.demo.pages import Demo
from app.model.change import Batch
from app.model.errors import DatabaseAway, StartError
from app.model.observations import Failed, FanOut, Noted, Observer, Served, Stopped, fan
from app.model.position import Snapshot
from app.model.settings import Settings
from app.postgres.bus import PostgresBus
from app.postgres.checks import check
from app.postgres.connect import connect
from app.postgres.event_log import PostgresEventLog
from app.postgres.leader import Leader
from app.postgres.partitions import Retention
from app.process import workers
from app.process.resources import collect_rarely, give_back, raise_file_limit
from app.process.signals import ends
from app.stream.broadcaster import Broadcaster
from app.stream.follower import SILENT_SECONDS, Follower
from app.telemetry.logs import Logs
from app.telemetry.metrics import Metrics
from app.telemetry.worker_metrics import Siblings, lives
from app.web.health import flows
from app.web.listen import hold_port
from app.web.origins import same_origin
from app.web.ports import Facts
from app.web.server import Server as WebServer
from app.web.uring import UringSender

RESTART_SECONDS = 1.0
READY_SECONDS, READY_STEP = 5.0, 0.02
T = TypeVar("T")


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. Raises StartError."""
    return asyncio.run(_serve(settings))


def keep(settings: Settings) -> int:
    """Serve with several processes (app.process.workers); the exit code. Raises StartError."""
    logs = Logs(settings.log_format, settings.log_level, server_id=settings.server_id)
    logs.install()
    return workers.keep(settings, logs, hold_port, lives)


async def _serve(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in ends():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if settings.worker is not None:  # its standard input ends with its keeper, who never writes to it
        asyncio.get_running_loop().add_reader(sys.stdin, lambda: _let_go(stop))
    logs, metrics = (
        Logs(settings.log_format, settings.log_level, server_id=settings.server_id),
        Metrics(settings.server_id),
    )
    logs.install()
    observe = fan(logs, metrics)
    for note in settings.notes:
        observe(Noted(note))
    async with AsyncExitStack() as stack:
        server = await _unless(stop, _start(settings, observe, stack))
        if server is None:
            return 0
        siblings = Siblings(Path(settings.worker), metrics.render) if settings.worker else None
        web = WebServer(
            settings,
            connect=lambda sink, identity: Connection(sink, server.registry, identity),
            health=server.health,
            metrics=siblings.render if siblings is not None else _awaited(metrics.render),
            observe=observe,
            pages=Demo(server.connect, shlex.join(["psql", settings.redacted]), same_origin) if settings.demo else None,
        )
        if settings.worker is not None:  # clients have its siblings meanwhile
            await _ready(server.health, stop)
        await web.start()
        if siblings is not None:
            await siblings.start()
            stack.push_async_callback(siblings.stop)
        collect_rarely()
        give_back()
        raise_file_limit()
        observe(Served(web.url, __version__))
        await stop.wait()
        asked = time.monotonic()
        await web.stop()
    observe(Stopped(time.monotonic() - asked))
    return 0


async def _ready(health: Callable[[], Facts], stop: asyncio.Event) -> None:
    """Wait until changes can flow, for a few seconds at most."""
    for _ in range(round(READY_SECONDS / READY_STEP)):
        if flows(health()) or stop.is_set():
            return
        await asyncio.sleep(READY_STEP)


def _let_go(stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(sys.stdin)
    stop.set()


def _awaited(render: Callable[[], bytes]) -> Callable[[], Coroutine[Any, Any, bytes]]:
    async def answer() -> bytes:
        return render()

    return answer


async def _unless(stop: asyncio.Event, start: Coroutine[Any, Any, T]) -> T | None:
    """The result of `start`, which is cancelled where `stop` comes first (a start may wait for the network)."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set() and not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return None
    return starting.result()


async def _start(settings: Settings, observe: Observer, stack: AsyncExitStack) -> "Server":
    url = settings.database_url
    assert url is not None
    await check(url)
    log = PostgresEventLog(url, observe, rows_max=settings.rows_max, rows_bytes=settings.rows_bytes)
    stack.push_async_callback(log.close)
    try:
        server = await Server.assemble(settings, url, log, observe)
    except DatabaseAway as error:
        raise StartError(f"the database can't be reached: {error}") from error
    stack.push_async_callback(server.stop)
    server.start()
    return server


def _burst(settings: Settings, observe: Observer) -> Burst:
    """The cheapest way to give the same bytes to many clients."""
    if settings.io_uring:
        try:
            ring = UringSender()
        except OSError as error:
            observe(FanOut("send", str(error)))
        else:
            observe(FanOut("io_uring"))
            return ring.burst
    return one_by_one


class Server:
    """The rooms of one server, connected."""

    def __init__(
        self, settings: Settings, url: str, log: PostgresEventLog, broadcaster: Broadcaster, observe: Observer
    ) -> None:
        self.url = url
        self.log = log
        self.broadcaster = broadcaster
        self.observe = observe
        self.server_id = settings.server_id
        self.bus = PostgresBus(lambda purpose: connect(url, name=purpose), settings.server_id)
        retention = Retention(timedelta(seconds=settings.retention), settings.event_log_bytes)
        self.leader = Leader(
            url, retention, pull=self._pull, beat=self._beat, published=self._published, observe=observe
        )
        self.follower = Follower(broadcaster, self.leader.terminate_stale, observe)
        self.registry = Registry(
            broadcaster, observe, server_id=settings.server_id, version=__version__, heartbeat=settings.heartbeat
        )
        broadcaster.on_read = self._publish
        broadcaster.row_reader = log
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def assemble(cls, settings: Settings, url: str, log: PostgresEventLog, observe: Observer) -> "Server":
        """Raises DatabaseAway."""
        head = await log.head()
        hub = Hub(settings.outbound_bytes, _burst(settings, observe))
        broadcaster = Broadcaster(log, log.catalog, hub, head, settings.history_bytes, observe)
        return cls(settings, url, log, broadcaster, observe)

    def start(self) -> None:
        """Begin to follow, to stand for leader, to hear the bus, and to keep clients' hearts beating."""
        for name, run in {
            "follower": self.follower.run,
            "leader": self.leader.run,
            "floor": self.log.watch_floor,
            "bus": lambda: self.bus.run(self.follower),
            "heartbeat": self.registry.beat,
        }.items():
            self._tasks.append(asyncio.create_task(self._forever(name, run), name=name))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forever(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 - a bug must not end a server that others can still use
                self.observe(Failed(name, error))
            await asyncio.sleep(RESTART_SECONDS)

    async def _pull(self) -> int:
        """The leader's read: how many commits it brought."""
        batch = await self.broadcaster.pull()
        if batch is None:
            return 0
        return 1 if batch.transactions is None else len(batch.transactions)

    async def _publish(self, batch: Batch) -> None:
        if self.leader.leading:
            await self.bus.publish(batch)

    async def _beat(self) -> None:
        token = self.broadcaster.point.token
        self.follower.beat(self.server_id, token or "")
        await self.bus.beat(token or "")

    def _published(self) -> Snapshot:
        return self.broadcaster.point.snapshot

    async def connect(self) -> AsyncConnection[Any]:
        """A connection of its own, for the demo page. Raises DatabaseAway."""
        return await connect(self.url, name="demo")

    def health(self) -> Facts:
        silent = self.follower.silence > SILENT_SECONDS
        blocked = self.leader.blocked
        leader = self.server_id if self.leader.leading else (None if silent else self.follower.leader)
        return {
            "database": self.log.connected,
            "listen": self.bus.ready,
            "bus": self.bus.ready,
            "leader": leader,
            "watches": [
                {"schema": p.schema, "table": p.table, "problem": p.problem, "remedy": p.remedy}
                for p in self.leader.problems
            ],
            "log": None
            if blocked is None
            else {
                "blocked_seconds": round(blocked.seconds, 1),
                "excess_bytes": blocked.excess_bytes,
                "reason": blocked.reason,
                "remedy": blocked.remedy,
            },
        }
