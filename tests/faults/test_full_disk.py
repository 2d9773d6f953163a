"""A database whose disk is full. Its WAL is elsewhere, for a full disk of the WAL stops PostgreSQL itself."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database, rows_of
from harness.facts import eventually, soon
from harness.server import Servers
from tests.e2e.test_fuse import copy_equals, is_open, is_ready
from tests.support.transport import Transport

SIZE = 96  # megabytes
SETUP = """
CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 10);
INSERT INTO counters SELECT i, 0 FROM generate_series(1, 50) i;
SELECT realtime.watch('counters'); SELECT realtime.incarnate();
"""
UPDATE = "UPDATE counters SET n = n + 1 WHERE id = 7"  # in its own page, for which it needs no room
LOOKED = """SELECT true FROM pg_stat_activity WHERE datname = current_database()
  AND application_name = 'sobranie leader' AND state = 'idle' AND query_start > %s"""
STATEMENTS = 60  # of 50 rows each, between two looks: about 0.6 MB of events
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Disk:
    """A small file system with a tablespace on it."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        self.path, self.cluster = path, cluster
        self._filler = path / "filler"

    @property
    def room(self) -> int:
        free = os.statvfs(self.path)
        return free.f_bavail * free.f_frsize

    def leave(self, size: int) -> None:
        """About so much is free, whatever temporary files come and go meanwhile."""

        def left() -> bool:
            with self._filler.open("ab") as file, suppress(OSError):
                length = max(1, os.fstat(file.fileno()).st_size + self.room - size)
                os.ftruncate(file.fileno(), length)
                os.posix_fallocate(file.fileno(), 0, length)
            return abs(self.room - size) < 64 << 10

        soon(left, 30, "so much is free")

    def fill(self) -> None:
        """Nothing more goes on it."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 65536)
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 512)

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(own_cluster: Cluster) -> Iterator[Disk]:
    path = Path(tempfile.mkdtemp(prefix="sobranie-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m,mode=0755", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode != 0:
        path.rmdir()
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        data = path / "data"
        data.mkdir()
        shutil.chown(data, "nobody")
        with psycopg.connect(own_cluster.url(), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{data}'".encode())
            connection.execute("CREATE DATABASE full_one TEMPLATE migrated TABLESPACE small")
        yield Disk(own_cluster, path)
    finally:
        own_cluster.stop("immediate")
        subprocess.run(["umount", str(path)], check=True)
        os.rmdir(path)
        own_cluster.close()


@pytest.fixture
def full_database(disk: Disk) -> Database:
    return Database(disk.cluster, "full_one")


async def update_until_open(writer: Connection, most: int) -> None:
    """Update until the fuse is open; before that an update may fail."""
    for _ in range(most):
        with suppress(psycopg.errors.DiskFull):
            await rows_of(writer, UPDATE)
        if await opened(writer):
            return
    raise AssertionError("the fuse has not opened")


async def opened(writer: Connection) -> bool:
    return bool((await rows_of(writer, "SELECT realtime.slot() < 0"))[0][0])


async def looked(writer: Connection, since: object) -> bool:
    """The leader has looked since then, or opened the fuse."""
    return await opened(writer) or bool(await rows_of(writer, LOOKED, since))


async def write_until_open(writer: Connection, most: int) -> None:
    """Write as much as a leader who looks each second sees coming. No write may fail."""
    for _ in range(most):
        for _ in range(STATEMENTS):
            await rows_of(writer, "UPDATE counters SET n = n + 1")
            if await opened(writer):
                return
        ((since,),) = await rows_of(writer, "SELECT clock_timestamp()")
        await eventually(partial(looked, writer, since), 30, "the leader has looked")
    raise AssertionError("the fuse has not opened")


async def test_on_a_full_disk_writes_go_on_everybody_is_told_and_it_heals(
    disk: Disk, full_database: Database, transport: Transport
) -> None:
    database = full_database
    await database.execute(SETUP)
    async with Servers(database.url) as servers:
        server = await servers.start("one", SOBRANIE_BALLAST_BYTES="2MB")
        ballast = "SELECT pg_relation_size('realtime.ballast')"
        await eventually(lambda: database.value(f"{ballast[:6]} ({ballast}) >= 2 << 20"), 30, "the ballast is there")
        async with await transport.open(server, "counters") as client:
            await database.execute(UPDATE)
            await client.changes(1)
            disk.fill()
            await eventually(lambda: is_open(server), 15, "the fuse is open")
            assert "full" in (await is_open(server))["reason"]
            before = await database.value("SELECT sum(n) FROM counters")
            async with await database.connect() as writer:
                for _ in range(500):
                    await rows_of(writer, UPDATE)
            assert await database.value("SELECT sum(n) FROM counters") == before + 500
            await eventually(lambda: database.value(f"SELECT ({ballast}) = 0"), 10, "the ballast is given back")
            assert (await client.message("reset"))["reason"] == "expired"
            assert await is_open(server)
            disk.free()
            await eventually(lambda: is_ready(server), 15, "it is whole")
            await client.until(lambda: len(client.stream.resets) > 1)
            await database.execute(UPDATE)
            last = before + 501
            await client.until(lambda: [c for c in client.stream.changes() if c["data"]["n"] == last])
            assert not client.stream.faults
        await copy_equals(server, database)


async def test_with_no_server_a_writer_opens_it(disk: Disk, full_database: Database) -> None:
    database = full_database
    await database.execute(SETUP)
    async with await database.connect() as writer:  # PostgreSQL takes no new connection without some room
        disk.fill()
        await update_until_open(writer, 20_000)
        before = (await rows_of(writer, "SELECT sum(n) FROM counters"))[0][0]
        for _ in range(500):
            await rows_of(writer, UPDATE)
        assert (await rows_of(writer, "SELECT sum(n) FROM counters"))[0][0] == before + 500
    disk.leave(1 << 20)
    async with Servers(database.url) as servers:
        server = await servers.start("one", SOBRANIE_BALLAST_BYTES="2MB")
        await eventually(lambda: is_open(server), 15, "it is told")
        disk.free()
        await eventually(lambda: is_ready(server), 15, "it is whole")
        await copy_equals(server, database)


async def test_a_log_that_fills_its_disk_is_stopped_before(disk: Disk, full_database: Database) -> None:
    """The limit is larger than the disk, and somebody holds the event log: the disk is seen to fill."""
    database = full_database
    await database.execute(SETUP)
    async with Servers(database.url) as servers:
        server = await servers.start("one", SOBRANIE_BALLAST_BYTES="0B", SOBRANIE_EVENT_LOG_BYTES="1GB")
        async with await database.connect() as idle, await database.connect() as writer:
            await rows_of(idle, "BEGIN; LOCK TABLE realtime.events IN ACCESS SHARE MODE")
            disk.leave(6 << 20)
            await write_until_open(writer, 20)
            # not at once, for a look takes all the room for an instant
            await eventually(lambda: disk.room > 1 << 19, 10, "there was room when it opened")
            for _ in range(500):
                await rows_of(writer, UPDATE)
            told = await eventually(lambda: is_open(server), 15, "it is told")
            assert f"process {idle.info.backend_pid} " in told["holder"]
            await rows_of(idle, "ROLLBACK")
        await eventually(lambda: is_ready(server), 20, "it is whole")
        await copy_equals(server, database)
