"""`python -m app`: what it prints, its exit codes, and a stop that takes the embedded database along."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from app import __version__
from app.embedded.server import running
from harness.cluster import ROOT, clean_environment, free_port
from harness.database import Database
from harness.facts import eventually


def app(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(**env), capture_output=True, text=True, timeout=60)


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sobranie-serve-"))
    made.chmod(0o711)
    yield made
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        psutil.Process(int((made / "postgres" / "postmaster.pid").read_text().split()[0])).kill()
    shutil.rmtree(made, ignore_errors=True)


def test_alone_it_prints_how_it_is_used() -> None:
    done = app()
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout
    assert "DATABASE_URL" in done.stdout
    assert app("--version").stdout.strip() == __version__


@pytest.mark.parametrize("arguments", [(), ("--version",), ("serve", "--help"), ("migrate", "--sql")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_where_nobody_reads_what_it_prints_it_ends_without_a_word(arguments: tuple[str, ...], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "app", *arguments]
    env = clean_environment(PYTHONUNBUFFERED=unbuffered)
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.stderr == ""
    if not unbuffered or "--sql" in arguments:  # argparse itself lets such an error pass
        assert done.returncode == 128 + signal.SIGPIPE


def test_an_unknown_command_is_exit_2_with_the_known_ones() -> None:
    done = app("sevre")
    assert done.returncode == 2
    assert "serve" in done.stderr


def test_a_bad_setting_is_one_line_and_exit_2() -> None:
    done = app("serve", SOBRANIE_PROT="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sobranie: SOBRANIE_PROT is not a setting; the nearest is SOBRANIE_PORT\n"


UNREACHABLE = "postgresql://me:hush@127.0.0.1:1/none"


@pytest.mark.parametrize(
    ("arguments", "url", "code", "said"),
    [
        ([], UNREACHABLE, 1, "127.0.0.1"),
        (["--sql", "9999"], UNREACHABLE, 1, "9999"),
        ([], "", 2, "DATABASE_URL is set and empty"),
        (["--down"], UNREACHABLE, 2, "--down needs the revision"),
    ],
)
def test_what_stands_in_the_way_of_a_migration_is_one_line(
    arguments: list[str], url: str, code: int, said: str
) -> None:
    done = app("migrate", *arguments, DATABASE_URL=url)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done
    assert done.stderr.startswith("sobranie: ")
    assert said in done.stderr
    assert "hush" not in done.stdout + done.stderr


def test_the_sql_of_a_migration_is_printed_with_no_database_at_all() -> None:
    done = app("migrate", "--sql")
    assert (done.returncode, done.stderr) == (0, "")
    assert "CREATE TABLE realtime.events (" in done.stdout
    assert "CREATE TABLE public.posts" in done.stdout
    assert "CREATE TABLE public.posts" not in app("migrate", "--sql", "--no-tables").stdout


async def test_migrate_leaves_tables_out_and_goes_down_again(empty_database: Database) -> None:
    posts = "SELECT to_regclass('public.posts') IS NOT NULL"
    assert app("migrate", "--no-tables", DATABASE_URL=empty_database.url).returncode == 0
    assert not await empty_database.value(posts)
    assert await empty_database.value("SELECT to_regclass('realtime.events') IS NOT NULL")
    assert app("migrate", "--down", "base", DATABASE_URL=empty_database.url).returncode == 0
    assert await empty_database.value("SELECT to_regnamespace('realtime') IS NULL")
    assert app("migrate", "001", DATABASE_URL=empty_database.url).returncode == 0
    assert not await empty_database.value(posts)
    assert app("migrate", DATABASE_URL=empty_database.url).returncode == 0
    assert await empty_database.value(posts)


def test_alembic_alone_finds_the_embedded_database_too(directory: Path) -> None:
    env = clean_environment(SOBRANIE_DATA=str(directory))

    def alembic(*arguments: str) -> str:
        command = [sys.executable, "-m", "alembic", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    alembic("upgrade", "head")
    assert "(head)" in alembic("current")
    assert not (directory / "postgres" / "postmaster.pid").exists()


async def started(directory: Path, port: int) -> tuple[asyncio.subprocess.Process, str]:
    """A server with an embedded database that accepts connections, and the URL in the line for psql."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "serve", cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True,
        env=clean_environment(SOBRANIE_DATA=str(directory), SOBRANIE_PORT=str(port)),
    )  # fmt: skip
    assert process.stdout is not None
    line = ""
    while "postgresql://" not in line:
        read = await asyncio.wait_for(process.stdout.readline(), 60)
        assert read, f"ended with {await process.wait()}"
        line = read.decode()
    await eventually(lambda: accepts(port), 30, "the server accepts connections")
    return process, next(word.strip("'\"") for word in line.split() if "postgresql://" in word)


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_everything_and_the_data_is_there_again(directory: Path, stop: signal.Signals) -> None:
    port = free_port()
    # The port of its database, which other tests' databases, from 54320 on, do not take while it is down.
    (directory / "port").write_text(f"{free_port()}\n")
    process, url = await started(directory, port)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO posts (author_id, title) VALUES (7, 'kept')")
    # As a terminal does it: to the whole group, of which the database must not be a member.
    os.killpg(process.pid, stop)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=5)
    process, again = await started(directory, port)
    assert urlsplit(again).port == urlsplit(url).port
    with psycopg.connect(again) as connection:
        assert connection.execute("SELECT title FROM posts").fetchall() == [("kept",)]
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_signal_in_the_midst_of_the_start_leaves_no_database_behind(directory: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "serve", cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=clean_environment(SOBRANIE_DATA=str(directory), SOBRANIE_PORT=str(free_port())),
    )  # fmt: skip
    await eventually((directory / "postgres" / "postmaster.pid").exists, 30, "the database is started")
    process.send_signal(signal.SIGTERM)
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert b"Traceback" not in said, said.decode()
    assert not (directory / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("revision", "said"), [("005", ["before the first release (revision 005)", ".data"]), ("009_later", ["newer"])]
)
def test_data_of_another_version_is_met_with_a_line_that_says_what_to_do(
    directory: Path, revision: str, said: list[str]
) -> None:
    with running(directory) as (_, url), psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA realtime")
        connection.execute("COMMENT ON SCHEMA realtime IS 'Sobranie Realtime'")
        connection.execute("CREATE TABLE realtime.migrations (version_num text PRIMARY KEY)")
        connection.execute("INSERT INTO realtime.migrations VALUES (%s)", (revision,))
    done = app("serve", SOBRANIE_DATA=str(directory), SOBRANIE_PORT=str(free_port()))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert all(part in done.stderr for part in ["the embedded database could not be migrated", *said])
