"""What a run plays on: one PostgreSQL, three servers that each reach it through a proxy of their own, and a proxy in
front of each for its clients.

Invariants: the judge's own copy of the event log (schema chaos) is written in the writers' own transactions, so that it
stands or falls with them, and the partitions may turn at will. Every server and PostgreSQL itself is brought back
by `heal`, whatever was done to them.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import psutil

from harness.cluster import Cluster, alive
from harness.database import Database
from harness.facts import eventually, pause
from harness.server import Server
from tests.e2e import writers
from tests.support.proxy import Proxy

SERVERS = ("one", "two", "three")
RETENTION = 25.0  # seconds: the partitions turn all the time, and who is away for longer may be reset
EVENT_LOG_BYTES = "1GB"  # beyond a few bulk writes: partitions turn by age alone, which explains every reset
LEDGER = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.ledger (LIKE realtime.events);
CREATE FUNCTION chaos.copy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
  'BEGIN INSERT INTO chaos.ledger VALUES (NEW.*); RETURN NULL; END';
CREATE TRIGGER chaos_ledger AFTER INSERT ON realtime.events FOR EACH ROW EXECUTE FUNCTION chaos.copy()"""


VISITS = """
CREATE SEQUENCE shop.visit_id;
CREATE TABLE shop.visits (id bigint, room int, note text, PRIMARY KEY (id, room)) PARTITION BY LIST (room);
CREATE TABLE shop.visits_1 PARTITION OF shop.visits FOR VALUES IN (1);
CREATE TABLE shop.visits_2 PARTITION OF shop.visits FOR VALUES IN (2);
SELECT realtime.watch('shop.visits', routes => '{room}')"""
BULKS = """
CREATE TABLE shop.bulk (id bigint PRIMARY KEY, tenant_id int, note text);
SELECT realtime.watch('shop.bulk', routes => '{tenant_id}')"""
WHOLE = (*writers.TABLES, "shop.visits")
TABLES = (*WHOLE, "shop.bulk")
CHANNELS = (*writers.CHANNELS, "shop.visits", "shop.visits:room=1")
BULK = ("shop.bulk", *(f"shop.bulk:tenant_id={tenant}" for tenant in range(1, 5)))
AUDIT_SETUP = """
CREATE TABLE chaos.audit (at timestamptz DEFAULT now(), tag text);
CREATE FUNCTION chaos.audit() RETURNS event_trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO chaos.audit (tag) VALUES (tg_tag); END'"""
UNAUDITED = "DROP EVENT TRIGGER IF EXISTS chaos_audit"
AUDIT = f"{UNAUDITED}; CREATE EVENT TRIGGER chaos_audit ON ddl_command_end EXECUTE FUNCTION chaos.audit()"


class Station:
    """One server with its two lines."""

    def __init__(self, name: str, database: Database) -> None:
        self.name = name
        self.line = Proxy("127.0.0.1", database.cluster.port)  # to PostgreSQL
        self._database = database
        self.lock = asyncio.Lock()  # one fault at a time
        self.stopped = False

    async def start(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self.line)
        self.server = Server(
            self.line.url(self._database.name), self.name,
            SOBRANIE_RETENTION=f"{RETENTION:.0f}s", SOBRANIE_EVENT_LOG_BYTES=EVENT_LOG_BYTES,
            SOBRANIE_HISTORY_BYTES="256kB", SOBRANIE_OUTBOUND_BYTES="16kB",
        )  # fmt: skip
        stack.push_async_exit(self.server)
        await self.server.start()
        self.door = await stack.enter_async_context(Proxy("127.0.0.1", self.server.port))  # for clients

    @property
    def url(self) -> str:
        """Where its clients connect."""
        return f"http://127.0.0.1:{self.door.port}"

    @property
    def running(self) -> bool:
        return self.server.process.returncode is None and not self.stopped

    async def revive(self) -> None:
        """Start it until it stands: while PostgreSQL is away a start is refused."""
        while self.server.process.returncode is not None:
            with suppress(AssertionError):
                await self.server.start()

    def sigstop(self) -> None:
        self.stopped = True
        self.server.sigstop()

    def sigcont(self) -> None:
        self.stopped = False
        if self.server.process.returncode is None:
            self.server.sigcont()


class World:
    def __init__(self) -> None:
        self.cluster = Cluster(max_connections="200", restart_after_crash="on", autovacuum_naptime="5s")
        self.database = Database(self.cluster, self.cluster.create_database(migrated=True))
        self.stations = [Station(name, self.database) for name in SERVERS]
        self.cluster_lock = asyncio.Lock()
        self.definitions = asyncio.Lock()  # of tables and functions: who changes them, and who dumps them
        self.dump = self.cluster.dir / "dump"
        self._stack = AsyncExitStack()
        self.started = time.monotonic()

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.started

    async def __aenter__(self) -> Self:
        for sql in (LEDGER, AUDIT_SETUP, writers.SETUP, VISITS, BULKS):
            await self.database.execute(sql)
        for station in self.stations:
            await station.start(self._stack)
        self.started = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for station in self.stations:
            station.sigcont()
            station.line.resume()
        try:
            await self._stack.__aexit__(None, None, None)
        finally:
            self.cluster.close()

    async def start_postgres(self) -> None:
        """After a crash the dying children may keep the shared memory for a moment."""
        for attempt in range(20):
            try:
                await asyncio.to_thread(self.cluster.start)
                return
            except RuntimeError:
                if attempt == 19:
                    raise
                await pause(0.5)

    async def postgres_up(self) -> None:
        """Waits until PostgreSQL takes connections (it restarts itself when a backend was killed)."""

        async def answers() -> bool:
            with suppress(Exception):
                return bool(await self.database.value("SELECT 1") == 1)
            return False

        await eventually(answers, 60, "PostgreSQL answers", every=0.1)

    def memory(self) -> dict[str, int]:
        """Of the judge and of the largest server, in bytes."""
        held = {"judge": int(psutil.Process().memory_info().rss)}
        with suppress(psutil.Error):
            held["a server"] = max(s.server.rss() for s in self.stations if s.server.process.returncode is None)
        return held

    async def unaudited(self) -> None:
        await self.database.execute(UNAUDITED)

    async def leader(self) -> Station | None:
        for station in self.stations:
            if station.running:
                with suppress(AssertionError):
                    if await station.server.metric("sobranie_leader") == 1:
                        return station
        return None

    async def heal(self) -> None:
        """Everything stands again."""
        if not (self.cluster.data / "postmaster.pid").exists() or not alive(self.cluster.pid):
            await self.start_postgres()
        await self.postgres_up()
        await self.unaudited()
        for station in self.stations:
            station.line.resume()
            station.door.resume()
            station.sigcont()
            await station.revive()
