"""The real web edge on the real flow, with an event log in memory in place of PostgreSQL, on a real port.

The event log keeps every transaction that a test commits and answers as the one in the database does: differences and
replays by snapshot. Nothing of the product is replaced above it.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.clients.connection import Connection
from app.clients.registry import Registry
from app.core.hub import Hub
from app.demo.pages import Demo
from app.model.change import Batch, Change, Table, Transaction
from app.model.errors import BadChannel, DatabaseAway, PositionRefused, ResetReason
from app.model.observations import Observation
from app.model.position import Position, Snapshot
from app.model.settings import Settings
from app.server import open_door, open_limits
from app.stream.broadcaster import Broadcaster
from app.stream.lookup import Lookup
from app.stream.ports import EventLogListener, LogHead
from app.stream.stretch import Stretch
from app.web.ports import Facts
from app.web.server import Server

FIRST = 100
TAG = "00000001"
POSTS = Table(
    1, 10, "public", "posts", ("id",), (("author_id",),), ("id", "author_id"), ("bigint",) * 2, "nn", FIRST - 1
)
HEALTHY: Facts = {
    "database": True,
    "listen": True,
    "bus": True,
    "leader": "here",
    "flow": True,
    "watches": [],
    "strangers": [],
    "log": None,
    "fuse": None,
}


class MemoryEventLog:
    """A log that is a list. `away` makes it unreachable."""

    def __init__(self) -> None:
        self.committed: list[Transaction] = []
        self.away = False

    def insert(self, author: int, body: str, rows: int = 1) -> list[str]:
        """Commit one transaction of so many rows; their keys."""
        xid = FIRST + len(self.committed)
        keys = [str(xid * 1_000_000 + n) for n in range(rows)]
        changes = [_inserted(xid, n, key, str(author), body) for n, key in enumerate(keys)]
        self.committed.append(Transaction(xid, xid, changes))
        return keys

    async def head(self) -> LogHead:
        return LogHead(await self.now(), FIRST + len(self.committed) - 1, 1, 1, TAG)

    skipping = False

    def listen(self, listener: EventLogListener) -> None:
        """It has always the same floor and the same incarnation: there is nothing to tell."""

    async def now(self) -> Snapshot:
        self._reach()
        return Snapshot(FIRST + len(self.committed))

    async def accept(self, position: Position) -> None:
        self._reach()
        if position.tag != TAG:
            raise PositionRefused(ResetReason.FOREIGN)

    async def difference(self, since: Snapshot) -> Batch | None:
        upto = await self.now()
        new = [t for t in self.committed if not since.sees(t.xid)]
        size = sum(c.size for t in new for c in t.changes)
        return Batch(since, upto, new[-1].xid, 1, new, [], size, time.monotonic()) if new else None

    async def stretches(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
        self._reach()
        for transaction in self.committed:
            if upto.sees(transaction.xid) and not since.sees(transaction.xid):
                reached = Snapshot(transaction.xid + 1)
                yield Stretch(since, reached, [transaction], 1000)
                since = reached

    async def floor(self) -> Snapshot:
        self._reach()
        return Snapshot(FIRST)

    async def current(self, schema: str, name: str) -> Table | None:
        self._reach()
        return POSTS if (schema, name) == ("public", "posts") else None

    async def canonical(self, table: Table, column: str, value: str) -> str:
        try:
            return str(int(value))
        except ValueError as problem:
            raise BadChannel(f"{value!r} is no bigint") from problem

    def _reach(self) -> None:
        if self.away:
            raise DatabaseAway("the database is away")


async def metrics() -> bytes:
    return b"sobranie_leader 1\n"


def _inserted(xid: int, n: int, key: str, author: str, body: str) -> Change:
    row = b'{"id":%s,"author_id":%s,"title":"","body":"%s"}' % (key.encode(), author.encode(), body.encode())
    at = time.time_ns() // 1000
    return Change(xid, n, xid, POSTS, "I", 1, None, at, (key, author), None, row, None)


class House:
    """A running server. `url` is where; `seen` is all that was observed; `facts` is what /readyz is computed from."""

    def __init__(self, server: Server, log: MemoryEventLog, broadcaster: Broadcaster, registry: Registry) -> None:
        self.door = registry.door
        self.server = server
        self.log = log
        self.broadcaster = broadcaster
        self.registry = registry
        self.seen: list[Observation] = []
        self.facts: Facts = {**HEALTHY}

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def everyone(self) -> list[Connection]:
        """The connections that are registered."""
        return [c for c in self.registry._all if isinstance(c, Connection)]

    async def insert(self, author: int = 1, body: str = "x", rows: int = 1) -> list[str]:
        """Commit rows, and have the server read them."""
        keys = self.log.insert(author, body, rows)
        await self.broadcaster.pull()
        return keys

    def observed(self, kind: type[Observation], test: Callable[[Observation], bool] = lambda _: True) -> bool:
        return any(isinstance(o, kind) and test(o) for o in self.seen)


@asynccontextmanager
async def running(demo: Demo | None = None, settings: Settings | None = None) -> AsyncIterator[House]:
    log = MemoryEventLog()
    settings = settings or Settings(port=0)
    seen: list[Observation] = []
    broadcaster = Broadcaster(log, Hub(), await log.head(), 32 << 20, seen.append)
    door = open_door(settings, seen.append)
    registry = Registry(
        Lookup(broadcaster, log, None),
        seen.append,
        server_id="here",
        version="test",
        heartbeat=25,
        door=door,
        limits=open_limits(settings, seen.append),
    )
    server = Server(
        settings,
        connect=lambda sink, identity: Connection(sink, registry, identity),
        health=lambda: house.facts,
        metrics=metrics,
        observe=seen.append,
        door=door,
        pages=demo,
    )
    house = House(server, log, broadcaster, registry)
    house.seen = seen
    await server.start()
    try:
        yield house
    finally:
        await server.stop()
