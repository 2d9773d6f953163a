"""The command line: `sobranie`, or `python -m app`. It only picks a command; each has its file in app/cli/.

Invariants
- The exit code is 0 where all was done or stopped in order, 1 where the start failed, 2 for a bad setting, and 128 plus
  its number for a signal that came before the server served.
- Whatever stands in the way of a start is one line on stderr, never a traceback.
- Where nobody reads what is printed any more (`sobranie migrate --sql | head`), it ends as by SIGPIPE, with no word.
"""

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from app import __version__
from app.cli import migrate, serve, token, why
from app.model.errors import SettingsError, StartError
from app.process.signals import ending_signals

COMMANDS: Final = (serve, migrate, token, why)
HELP: Final = """\
The settings come from the environment: DATABASE_URL (a libpq URI; unset means an embedded PostgreSQL under .data/),
SOBRANIE_HOST (127.0.0.1), SOBRANIE_PORT (3000), and more in docs/settings.md. An unknown SOBRANIE_* name or a bad
value stops the start."""


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 128 + signal.SIGPIPE


def _nobody_reads() -> bool:
    """Whether who read what is printed has gone, as `head` does. Then nothing more is printed, at exit neither."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _run(arguments: Sequence[str] | None) -> int:
    asked = _parser().parse_args(arguments)
    if asked.run is None:
        _parser().print_help()
        return 0
    for number in ending_signals():
        if number is not signal.SIGINT:
            signal.signal(number, _terminate)
    try:
        code: int = asked.run(asked)
    except SettingsError as error:
        return _complain(error, 2)
    except StartError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app" if Path(sys.argv[0]).name == "__main__.py" else "sobranie",
        description="Sobranie Realtime: every committed change of a PostgreSQL database, live.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="command")
    for command in COMMANDS:
        command.add(commands).set_defaults(run=command.run)
    return parser


def _terminate(number: int, _: FrameType | None) -> None:
    """Handle a signal until the server has its own handler: unwind the stack, so that what was started is stopped."""
    sys.exit(128 + number)


def _complain(error: Exception, code: int) -> int:
    print("sobranie:", " ".join(str(error).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
