"""Where it is measured: a PostgreSQL of its own with `fsync` on, servers of the product, and pgbench as the writer.

Only the public surface is used: `python -m app serve`, SQL, WebSocket and SSE.
"""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.system import family_cpu
from harness.cluster import Cluster
from harness.database import Database
from harness.facts import eventually
from harness.server import Server

# As in production, but for what it writes to the log.
SETTINGS = {"SOBRANIE_HEARTBEAT": "25s", "SOBRANIE_LOG_LEVEL": "warning"}
# The mark that the swarm looks for, with the time at which the row was written; see bench/load/swarm.c.
NOW = "'@t' || (extract(epoch FROM clock_timestamp()) * 1e6)::bigint"
MARK = "'@t0000000000000000'"
WRITER = "writer"  # the role of whoever writes, by which its backends are known
BARE_ROW = 125  # bytes of a row of posts as JSON, without its body


@dataclass(frozen=True)
class Written:
    commits: int
    per_second: float
    latency_ms: float  # of one commit as its writer sees it


@dataclass
class Stage:
    cluster: Cluster = field(default_factory=lambda: Cluster(fsync="on"))
    made: list[str] = field(default_factory=list)  # databases of the part that is being measured

    def __post_init__(self) -> None:
        self.cluster.execute("CREATE ROLE writer SUPERUSER LOGIN")

    def database(self) -> Database:
        self.made.append(self.cluster.create_database(migrated=True))
        return Database(self.cluster, self.made[-1], WRITER)

    def tidy(self) -> None:
        """Take away what one part has left, or autovacuum and the checkpointer work on it while another is measured."""
        while self.made:
            self.cluster.drop_database(self.made.pop())
        self.cluster.execute("CHECKPOINT")

    @asynccontextmanager
    async def server(self, database: Database, name: str = "one", **settings: str) -> AsyncIterator[Server]:
        server = Server(database.cluster.url(database.name), name, None, **(SETTINGS | settings))
        try:
            yield await server.start()
        finally:
            try:
                await server.stop()
            except TimeoutError:
                await server.kill()
            server.log.unlink(missing_ok=True)

    async def write(self, database: Database, script: str, *options: str, clients: int = 1) -> Written:
        """Runs pgbench with `script`; `options` say how long (-T seconds, -t times) and how fast (-R per second)."""
        file = self.cluster.dir / f"{secrets.token_hex(4)}.sql"
        file.write_text(script)
        file.chmod(0o644)
        fixed = ("-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-r", "-f", str(file), "-d", database.url)
        output = await asyncio.to_thread(self.cluster.run, "pgbench", *fixed, *options)
        file.unlink()
        return Written(
            int(_found(r"actually processed: (\d+)", output)),
            float(_found(r"tps = ([0-9.]+)", output)),
            float(_found(r"([0-9.]+) +\d+ +(?:INSERT|UPDATE|WITH)", output)),
        )

    async def database_cpu(self) -> float:
        """Seconds of CPU of all of PostgreSQL's processes, once those of the writers have ended."""
        postmaster = int((self.cluster.data / "postmaster.pid").read_text().split("\n")[0])
        await eventually(lambda: not writing(postmaster), 30, "the writers' backends have ended")
        return family_cpu(postmaster)

    async def wal(self, database: Database) -> int:
        return int(await database.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def folder(self, name: str) -> Path:
        """A folder that goes with the stage."""
        made = self.cluster.dir / name
        made.mkdir(exist_ok=True)
        return made

    def close(self) -> None:
        self.cluster.close()


def writing(postmaster: int) -> bool:
    """Whether a backend of a writer is there, be it only to be buried: its CPU is then in nobody's account."""
    for child in psutil.Process(postmaster).children():
        with suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())  # empty once a process is about to end
            if not command or child.status() == psutil.STATUS_ZOMBIE or command.startswith(f"postgres: {WRITER} "):
                return True
    return False


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def insert(rows: int = 1, size: int = 300, authors: int = 1000, table: str = "posts") -> str:
    """A pgbench script that commits so many rows of about `size` bytes as JSON, by one of `authors`."""
    body = secrets.token_hex(size)[: max(0, size - BARE_ROW)]  # it doesn't compress
    return (
        f"\\set a random(1, {authors})\n"
        f"INSERT INTO {table} (author_id, title, body) SELECT :a, {NOW}, '{body}' FROM generate_series(1, {rows});\n"
    )


def paced(script: str, per_second: float) -> str:
    """The same at an even pace. (pgbench's own -R draws the gaps at random.)"""
    return f"{script}\\sleep {round(1e6 / per_second)} us\n"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
