"""Poolers: one in transaction mode is refused and finds its sessions as they were; the application may use any."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from app.postgres.checks import check
from app.postgres.connect import connect
from harness.cluster import Cluster, clean_environment, free_port, migrate
from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.e2e.test_start import refused
from tests.migrations.catalog import refusal
from tests.support.transport import Transport, verdict

# What a session of the pool has that is no default.
SET: Final = """
SELECT name, setting FROM pg_settings
WHERE source = 'session' AND setting IS DISTINCT FROM reset_val AND name <> 'application_name'
UNION ALL SELECT 'listen', c FROM pg_listening_channels() c"""


@pytest.fixture
async def bouncer(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """pgbouncer in front of the cluster, in transaction mode unless told otherwise; its port."""
    mode = getattr(request, "param", "transaction")
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
    port = free_port()
    (tmp_path / "users").write_text('"postgres" ""\n')
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={cluster.port} user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
        f"listen_port={port}\nunix_socket_dir=\nauth_type=any\nauth_file={tmp_path}/users\npool_mode={mode}\n"
        f"ignore_startup_parameters=extra_float_digits,options\ndefault_pool_size=5\nlogfile={tmp_path}/log\n"
    )
    as_whom = {}
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o007 if path == tmp_path else path.stat().st_mode | 0o005)
        as_whom = {"user": "nobody", "group": "nogroup"}
    process = subprocess.Popen(
        [program, str(settings)],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **as_whom,
    )  # type: ignore[call-overload]
    try:
        await eventually(lambda: listens(port), 10, "pgbouncer listens")
        yield port
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_behind_a_transaction_pooler_the_server_refuses_and_says_what_to_do(
    database: Database, cluster: Cluster, bouncer: int
) -> None:
    url = cluster.url(database.name, port=bouncer)
    before = await sessions(url)
    line = await refused(Server(url), 1)
    assert "pool" in line.lower()
    assert "DATABASE_URL" in line
    assert await sessions(url) == before, "what the application's pool has is as it was"


@pytest.mark.parametrize("command", [("upgrade", "head"), ("current",), ("downgrade", "base")])
async def test_behind_a_transaction_pooler_migrations_refuse_in_a_line(
    database: Database, cluster: Cluster, bouncer: int, command: tuple[str, ...]
) -> None:
    url = cluster.url(database.name, port=bouncer)
    before = await sessions(url)
    line = refusal(url, *command)
    assert "pooler" in line
    assert "direct connection" in line
    assert await sessions(url) == before
    assert await database.value("SELECT count(*) FROM realtime.meta") == 1


async def sessions(url: str) -> set[tuple[Any, ...]]:
    """The settings of the pool's sessions that are no defaults, and the channels that they LISTEN on."""
    async with AsyncExitStack() as stack:
        asked = [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(url, prepare_threshold=None, application_name="application")
            )
            for _ in range(3)
        ]
        found: set[tuple[Any, ...]] = set()
        for connection in asked:  # each in an open transaction: so each has a session of its own
            found.update(await (await connection.execute(SET)).fetchall())
        return found


@pytest.mark.parametrize("bouncer", ["session"], indirect=True)
async def test_a_pooler_in_session_mode_is_let_pass(database: Database, cluster: Cluster, bouncer: int) -> None:
    url = cluster.url(database.name, port=bouncer)
    assert "002_tables (head)" in migrate(url, "current")
    await check(url)
    made = await connect(url, name="test")
    row = await (await made.execute("SELECT current_setting('TimeZone'), current_setting('lock_timeout')")).fetchone()
    assert row == ("UTC", "10s")
    await made.close()


async def test_an_application_behind_a_transaction_pooler_is_streamed(
    database: Database, cluster: Cluster, server: Server, bouncer: int
) -> None:
    url = cluster.url(database.name, port=bouncer)

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as pooled:
            await pooled.execute("INSERT INTO posts (author_id) VALUES (1)")

    async with await Transport("websocket").open(server, "posts") as client:
        await asyncio.gather(*(write() for _ in range(30)))
        await client.changes(30)
        await verdict(database, client)
