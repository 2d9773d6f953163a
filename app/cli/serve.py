"""`serve`: WebSocket and Server-Sent Events until a signal.

Invariant: without a DATABASE_URL the embedded database is started, migrated, and stopped again after everything else.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from app.model.errors import StartError
from app.model.settings import Settings
from app.process.signals import ending_signals

PACKAGES: Final = Path(__file__).resolve().parents[2]  # where Python finds this `app`, and no other


def add(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve", help="serve WebSocket and Server-Sent Events until SIGINT or SIGTERM"
    )
    parser.add_argument("--workers", metavar="N", help="so many processes on one port (SOBRANIE_WORKERS, 1)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # the socket of one of them
    return parser


def run(asked: argparse.Namespace) -> int:
    """Raises SettingsError and StartError."""
    settings = Settings.from_env(os.environ, tty=sys.stderr.isatty()).in_workers(asked.workers, asked.worker)
    if settings.database_url is not None:
        return _serve(settings)
    from app.embedded import server

    with server.running(Path(settings.data)) as (embedded, url):
        try:
            _migrate(url)
            print(f"psql line:  {embedded.psql(url)}", flush=True)
            return _serve(with_own_key(settings.with_database(url)))
        finally:
            # Stopping the database takes milliseconds, and a second Ctrl-C must not leave it running.
            for number in ending_signals():
                signal.signal(number, signal.SIG_IGN)


def with_own_key(settings: Settings) -> Settings:
    """Whoever tries the product out has tokens too, for which he need not do anything. Raises StartError."""
    if settings.keyed:
        return settings
    from app.access.sign import own_key

    return settings.with_key(own_key(Path(settings.data)))


def _serve(settings: Settings) -> int:
    from app import main

    return main.keep(settings) if settings.workers > 1 and settings.worker is None else main.serve(settings)


def _migrate(url: str) -> None:
    """In a process of its own: what only migrations need takes no memory of the server."""
    command = [sys.executable, "-m", "app", "migrate"]
    env = {**os.environ, "DATABASE_URL": url}
    done = subprocess.run(
        command, check=False, cwd=PACKAGES, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise StartError(f"the embedded database could not be migrated: {said.removeprefix('sobranie: ')}")
