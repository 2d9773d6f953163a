"""`migrate`: bring the schema `realtime` of a database to a revision, or print the SQL that would.

Invariants
- It works from every directory.
- The migrations are the ones that belong to this version of the program. They lie in app/schema/ in the wheel, and at
  the root of the repository in a checkout.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

from app.model.errors import SettingsError, StartError

APP: Final = Path(__file__).resolve().parents[1]
PLACES: Final = (APP / "schema", APP.parent)


def add(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "migrate", help="make or upgrade the schema `realtime` in the database"
    )
    parser.add_argument("revision", nargs="?", help="the revision to reach (the newest)")
    parser.add_argument("--down", action="store_true", help="downgrade to the revision; `base` takes everything away")
    parser.add_argument("--sql", action="store_true", help="print the SQL for review, and change nothing")
    parser.add_argument("--no-tables", action="store_true", help="do not make the tables posts and notifications")
    return parser


def run(asked: argparse.Namespace) -> int:
    """Raises SettingsError and StartError."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if not os.environ.get("DATABASE_URL", "unset").strip():
        raise SettingsError("DATABASE_URL is set and empty: give it a value, or unset it")
    if asked.down and asked.revision is None:
        raise SettingsError("--down needs the revision to go down to; `base` takes everything away")
    choices = argparse.Namespace(x=["tables=no"] if asked.no_tables else [])
    config = Config(home() / "alembic.ini", stdout=sys.stdout, cmd_opts=choices)
    try:
        if asked.down:
            command.downgrade(config, asked.revision, sql=asked.sql)
        else:
            command.upgrade(config, asked.revision or "head", sql=asked.sql)
    except CommandError as error:
        raise StartError(str(error)) from error
    return 0


def home() -> Path:
    """The directory with alembic.ini, migrations/ and sql/. Raises StartError."""
    for place in PLACES:
        if (place / "alembic.ini").is_file() and (place / "migrations").is_dir():
            return place
    raise StartError(f"this installation has no migrations in {PLACES[0]}: install the wheel or the repository anew")
