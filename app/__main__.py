"""The command line: `python -m app serve`. Exit codes: 0 stopped in order, 1 could not start, 2 a bad setting.

Invariant: whatever stands in the way of a start is one line on stderr, never a traceback. Without a DATABASE_URL the
embedded database is started, migrated, and stopped again after everything else.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from app import __version__
from app.model.errors import SettingsError, StartError
from app.model.settings import Settings
from app.process.signals import ends

ROOT: Final = Path(__file__).resolve().parents[1]
HELP: Final = """\
The settings come from the environment: DATABASE_URL (a libpq URI; unset means an embedded PostgreSQL under .data/),
SOBRANIE_HOST (127.0.0.1), SOBRANIE_PORT (3000), and more in docs/settings.md. An unknown SOBRANIE_* name or a bad
value stops the start."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Sobranie Realtime: every committed change of a PostgreSQL database, live.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", help="serve WebSocket and Server-Sent Events until SIGINT or SIGTERM")
    serve.add_argument("--workers", metavar="N", help="so many processes on one port (SOBRANIE_WORKERS, 1)")
    serve.add_argument("--worker", help=argparse.SUPPRESS)  # the socket of one of them
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help()
        return 0
    for number in ends():
        if number is not signal.SIGINT:
            signal.signal(number, _terminate)
    try:
        settings = Settings.from_env(os.environ, tty=sys.stderr.isatty())
        return _serve(settings.in_workers(asked.workers, asked.worker))
    except SettingsError as error:
        return _complain(error, 2)
    except StartError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _serve(settings: Settings) -> int:
    if settings.database_url is not None:
        return _run(settings)
    from app.postgres import embedded

    with embedded.running(ROOT / settings.data) as (server, url):
        try:
            _migrate(url)
            print(f"psql line:  {server.psql(url)}", flush=True)
            return _run(settings.with_database(url))
        finally:
            # From here on it is a matter of milliseconds; a second Ctrl-C must not leave the database running.
            for number in ends():
                signal.signal(number, signal.SIG_IGN)


def _run(settings: Settings) -> int:
    from app import main

    return main.keep(settings) if settings.workers > 1 and settings.worker is None else main.serve(settings)


def _migrate(url: str) -> None:
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    env = {**os.environ, "DATABASE_URL": url}
    # Alembic wraps its lines at the width of the terminal that it finds at stdin, and says on stdout why it refuses.
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise StartError(f"the embedded database could not be migrated: {said.removeprefix('FAILED: ')}")


def _terminate(number: int, _: FrameType | None) -> None:
    """Until the server has its own handler: unwind, so that what was started is stopped."""
    sys.exit(128 + number)


def _complain(error: Exception, code: int) -> int:
    print("sobranie:", " ".join(str(error).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
