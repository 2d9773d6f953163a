"""How a server starts, and refuses to: one clear line that says what mends it, and an exit code."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster import Cluster, free_port
from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.clients import WebSocketClient
from tests.support.forge import SECRET
from tests.support.transport import verdict


async def refused(server: Server, code: int) -> str:
    """The one line with which a start ended."""
    try:
        await server.spawn()
        assert await server.wait(30) == code
        lines = [line for line in server.output().splitlines() if line.strip()]
        assert "Traceback" not in server.output()
        return lines[-1]
    finally:
        await server.kill()
        server.log.unlink()


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("SOBRANIE_PROT", "3000", "SOBRANIE_PORT"),
        ("SOBRANIE_PORT", "many", "SOBRANIE_PORT"),
        ("SOBRANIE_HEARTBEAT", "25", "SOBRANIE_HEARTBEAT"),
        ("SOBRANIE_BUS", "redis://localhost", "SOBRANIE_BUS"),
        ("SOBRANIE_JWT_SECRET", "hush-hush", "SOBRANIE_JWT_SECRET"),
        ("SOBRANIE_SERVER_ID", "x" * 64, "SOBRANIE_SERVER_ID"),
    ],
)
async def test_an_unknown_setting_or_a_bad_value_is_one_line_and_exit_2(name: str, value: str, holds: str) -> None:
    server = Server("postgresql://nobody@127.0.0.1:1/none", "one", None, **{name: value})
    line = await refused(server, 2)
    assert holds in line
    assert "hush" not in line


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({"SOBRANIE_HOST": "0.0.0.0"}, "SOBRANIE_ANONYMOUS=allow"),
        ({"SOBRANIE_HOST": "::"}, "SOBRANIE_JWT_SECRET"),
        ({"SOBRANIE_HOST": "0.0.0.0", "SOBRANIE_WORKERS": "2"}, "SOBRANIE_ANONYMOUS=allow"),
        ({"SOBRANIE_ANONYMOUS": "refuse"}, "SOBRANIE_JWT_SECRET"),
        ({"SOBRANIE_JWKS_URL": "https://id.example/keys"}, "SOBRANIE_JWT_AUDIENCE"),
        ({"SOBRANIE_JWKS_URL": "http://id.example/hush", "SOBRANIE_JWT_AUDIENCE": "us"}, "not https"),
    ],
)
async def test_a_server_that_would_let_the_network_in_unasked_does_not_start(
    settings: dict[str, str], holds: str
) -> None:
    line = await refused(Server("postgresql://nobody@127.0.0.1:1/none", "one", None, **settings), 2)
    assert holds in line
    assert "hush" not in line


async def test_without_a_key_the_log_says_that_everybody_may_see_everything(servers: Servers) -> None:
    here = await servers.start("here")
    assert "everybody may see everything; 127.0.0.1 is reached from this machine alone" in here.output()
    everywhere = await servers.start("everywhere", SOBRANIE_HOST="0.0.0.0", SOBRANIE_ANONYMOUS="allow")
    assert "whoever reaches 0.0.0.0 gets in" in everywhere.output()
    keyed = await servers.start("keyed", SOBRANIE_HOST="0.0.0.0", SOBRANIE_JWT_SECRET=SECRET)
    assert "everybody" not in keyed.output()
    async with WebSocketClient(keyed.url) as client:
        assert (await client.subscribe("posts"))["code"] == "unauthorized"
        client.stream.errors.clear()


@pytest.mark.parametrize(
    "url",
    ["mysql://me:hush@localhost/db", "postgresql://me:hush@localhost/db?foo=x", "postgresql://me:hush%zz@localhost/db"],
)
async def test_a_bad_database_url_is_exit_2_and_its_password_is_not_said(url: str) -> None:
    line = await refused(Server(url), 2)
    assert "DATABASE_URL" in line
    assert "hush" not in line


async def test_what_workers_cannot_do_is_said_before_any_is_started(tmp_path: Path) -> None:
    """Their names and the paths of their sockets have a limit."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    line = await refused(Server(url, "one", None, SOBRANIE_WORKERS="2", SOBRANIE_SERVER_ID="x" * 62), 2)
    assert "SOBRANIE_SERVER_ID" in line
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    line = await refused(Server(url, "one", None, SOBRANIE_WORKERS="2", TMPDIR=str(deep)), 1)
    assert "TMPDIR" in line


async def test_an_unreachable_database_is_said_and_no_password_with_it() -> None:
    server = Server(f"postgresql://me:hush@127.0.0.1:{free_port()}/db")
    line = await refused(server, 1)
    assert "127.0.0.1" in line
    assert "hush" not in line


async def test_a_port_in_use_is_said(database: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = await refused(Server(database.url, port=port), 1)
    assert str(port) in line


async def test_a_database_without_the_schema_is_refused_with_the_command_that_mends_it(
    empty_database: Database,
) -> None:
    assert "alembic upgrade head" in await refused(Server(empty_database.url), 1)


async def test_an_outdated_schema_is_refused_with_the_command_and_a_newer_compatible_one_is_fine(
    database: Database, servers: Servers
) -> None:
    await database.execute("UPDATE realtime.meta SET version = version - 1, compatible_from = compatible_from - 1")
    assert "alembic upgrade head" in await refused(Server(database.url), 1)
    await database.execute("UPDATE realtime.meta SET version = version + 100, compatible_from = compatible_from + 100")
    assert "upgrade this server" in await refused(Server(database.url), 1)
    await database.execute("UPDATE realtime.meta SET compatible_from = 1")
    await servers.start()


@pytest.fixture
def standby(cluster: Cluster, database: Database) -> Iterator[Cluster]:
    made = Cluster(base=cluster)
    yield made
    made.close()


async def test_a_standby_is_refused(database: Database, standby: Cluster) -> None:
    line = await refused(Server(standby.url(database.name)), 1)
    assert "standby" in line


async def test_a_database_that_is_away_for_a_while_after_the_start_does_not_end_the_server(
    database: Database, servers: Servers
) -> None:
    """Told apart from an unreachable one at the start: it was there, so it is waited for."""
    server = await servers.start()
    for (pid,) in await database.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ):
        await database.execute("SELECT pg_terminate_backend(%s)", pid)
    async with WebSocketClient(server.url) as client:

        async def subscribed() -> bool:  # `unavailable` until the server has the database back
            answer = await client.subscribe("posts")
            return bool(answer["type"] == "subscribed")

        await eventually(subscribed, 20, "subscribed", every=0.1)
        client.stream.errors.clear()
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await client.changes(1, timeout=20)
        await verdict(database, client)
