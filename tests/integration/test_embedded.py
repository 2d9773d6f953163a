"""The embedded PostgreSQL: made once, kept for ever, shared, and stopped by whoever leaves last."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from app.embedded.host import run_as
from app.embedded.server import Embedded, running
from app.model.errors import StartError
from harness.cluster import ROOT

# A process that uses the server until its stdin ends; it says the URL once the database is there.
USER = """
import sys; from pathlib import Path; from app.embedded.server import running
with running(Path(sys.argv[1])) as (server, url):
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not below pytest's own directory, which is closed to the user that PostgreSQL runs as."""
    made = Path(tempfile.mkdtemp(prefix="sobranie embedded-"))
    made.chmod(0o711)
    yield made
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        psutil.Process(postmaster(made)).kill()
    shutil.rmtree(made, ignore_errors=True)


def user(directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def leave(process: "subprocess.Popen[str]") -> None:
    process.communicate()
    assert process.returncode == 0


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def postmaster(directory: Path) -> int:
    return int((directory / "postgres" / "postmaster.pid").read_text().split()[0])


def query(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]


def remember(url: str, text: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (t text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (text,))


def refuses(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return True
    return False


def test_the_first_start_makes_a_database_that_is_fit_for_use(directory: Path) -> None:
    with running(directory) as (_, url):
        assert urlsplit(url).path == "/sobranie"
        assert query(url, "SELECT current_database()") == "sobranie"
        assert query(url, "SHOW max_connections") == "200"
        assert query(url, "SHOW server_encoding") == "UTF8"
        assert query(url, "SHOW listen_addresses") == "127.0.0.1"
        assert query(url, "SELECT upper('вече')") == "ВЕЧЕ"
    assert refuses(url)


def test_the_data_and_the_port_are_kept(directory: Path) -> None:
    with running(directory) as (_, first):
        remember(first, "once")
    with running(directory) as (_, second):
        assert second == first
        assert query(second, "SELECT t FROM kept") == "once"


def test_only_who_may_read_the_password_gets_in(directory: Path) -> None:
    with running(directory) as (_, url):
        parts = urlsplit(url)
        assert parts.password is None
        assert refuses(url.partition("?")[0])
        assert (directory / "pgpass").stat().st_mode & 0o777 == 0o600
        assert (directory / "postgres").stat().st_mode & 0o777 == 0o700


def test_the_line_for_psql_opens_the_database(directory: Path) -> None:
    with running(directory) as (server, url):
        done = subprocess.run(
            [*["sh", "-c", server.psql(url) + ' -Atc "SELECT 40 + 2"']], capture_output=True, text=True
        )
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr


def test_the_last_to_leave_stops_the_server_whoever_started_it(directory: Path) -> None:
    first = Embedded(directory)
    url = first.start()
    second = Embedded(directory)
    assert second.start() == url
    assert (first.started, second.started) == (True, False)
    first.stop()
    assert not refuses(url)
    second.stop()
    assert refuses(url)
    second.stop()


def test_any_number_of_processes_may_start_it_at_once(directory: Path) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(user(directory)) for _ in range(4)]
        urls = {said(process) for process in users}
        assert len(urls) == 1
        for process in users:
            assert not refuses(*urls)
            leave(process)
    assert refuses(*urls)


def test_a_user_that_is_killed_leaves_a_server_that_the_next_one_takes_over(directory: Path) -> None:
    with user(directory) as process:
        url = said(process)
        process.kill()
    assert not refuses(url)
    with running(directory) as (server, again):
        assert again == url
        assert not server.started
    assert refuses(url)


def test_ctrl_c_at_the_terminal_does_not_reach_the_server(directory: Path) -> None:
    with running(directory):
        assert os.getsid(postmaster(directory)) != os.getsid(0)


def test_what_was_committed_survives_the_kill_of_the_server(directory: Path) -> None:
    with running(directory) as (_, url):
        remember(url, "before")
        process = psutil.Process(postmaster(directory))
        process.kill()
        process.wait(10)
        with running(directory) as (server, again):
            assert server.started
            assert query(again, "SELECT t FROM kept") == "before"


def test_a_process_that_got_the_number_of_a_killed_server_is_not_taken_for_it(directory: Path) -> None:
    data = directory / "postgres"
    with running(directory) as (_, url):
        remember(url, "before")
        lines = (data / "postmaster.pid").read_text().splitlines()
    # As PostgreSQL's own user: only then does PostgreSQL itself take it for a server and refuse to start.
    with subprocess.Popen(["sleep", "60"], **run_as(data)) as other:
        (data / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        with running(directory) as (server, again):
            assert server.started
            assert query(again, "SELECT t FROM kept") == "before"
        assert other.poll() is None
        other.kill()


def test_a_port_that_another_process_took_is_left_for_the_next_free_one(directory: Path) -> None:
    with running(directory) as (_, url):
        pass
    port = urlsplit(url).port
    with socket.create_server(("127.0.0.1", port)), running(directory) as (_, moved):
        assert urlsplit(moved).port != port
        assert query(moved, "SELECT 1") == 1
    with running(directory) as (_, kept):
        assert kept == moved


def test_a_directory_whose_making_was_cut_short_is_made_again(directory: Path) -> None:
    half = directory / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with running(directory) as (_, url):
        assert query(url, "SELECT 1") == 1
    assert not half.exists()


def test_data_of_another_version_is_refused_with_the_server_s_own_words(directory: Path) -> None:
    with running(directory):
        pass
    (directory / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(StartError, match="database files are incompatible with server") as caught:
        Embedded(directory).start()
    assert "\n" not in str(caught.value)


def test_a_lost_password_is_told_with_the_place_where_it_should_be(directory: Path) -> None:
    with running(directory) as (_, url):
        (directory / "pgpass").unlink()
        with pytest.raises(StartError, match=r"refuses us .*pgpass"):
            Embedded(directory).start()
        assert urlsplit(url).port
