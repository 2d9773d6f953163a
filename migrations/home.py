"""What migrations are made of: files of SQL, run on the database, or printed for a DBA to review (`--sql`).

Invariants: a file runs as it stands, and what is printed is what would run; nothing is decided in Python by what the
database holds, but whether its revision is one of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

SCHEMA: Final = "realtime"
SQL: Final = Path(__file__).parent.parent / "sql" / "triggers"
# What `alembic -x name=yes|no` may ask for, and what holds where it is not said.
CHOICES: Final = {"tables": True}

Driver = psycopg.Connection[tuple[object, ...]]


def run(text: str) -> None:
    """One or more statements, in the migration's transaction."""
    if context.is_offline_mode():
        context.static_output(text.rstrip().removesuffix(";") + ";")
    else:
        _driver().execute(text.encode())


def _driver() -> Driver:
    """The psycopg connection beneath, in the same transaction: SQL files hold many statements, and % signs."""
    connection = context.get_bind()
    assert isinstance(connection, Connection)
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


def run_file(name: str | Path) -> None:
    """A file of sql/triggers, or of another place by its whole path."""
    run((SQL / name).read_text())


@contextmanager
def as_owner(unless: str = "false") -> Iterator[None]:
    """What runs inside is realtime_owner's, unless the condition (SQL) is true."""
    role = f"CASE WHEN {unless} THEN 'none' ELSE 'realtime_owner' END"
    run(f"SELECT pg_catalog.set_config('role', {role}, true)")
    yield
    run("RESET ROLE")


def asked(name: str) -> bool:
    """What `-x name=…` says."""
    return choices()[name]


def choices() -> dict[str, bool]:
    """All that -x may say. Raises CommandError for what it may not."""
    known = ", ".join(f"-x {name}=yes|no" for name in CHOICES)
    made = dict(CHOICES)
    for name, value in context.get_x_argument(as_dictionary=True).items():
        if name not in CHOICES or value not in ("yes", "no"):
            said = f"{name}={value}" if value else name
            raise CommandError(f"-x {said} is not known: there is {known}")
        made[name] = value == "yes"
    return made


def check_encoding(connection: Driver) -> None:
    """Before anything else: SQLAlchemy can't read what a database without an encoding says."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise CommandError(f"this database has the encoding {encoding}, and UTF8 is needed: rows go out as JSON")


def check_revisions(found: tuple[str, ...]) -> None:
    """Raises CommandError where the database was migrated by another version of this product, which has more."""
    known = {script.revision for script in context.script.walk_revisions()}
    if unknown := [revision for revision in found if revision not in known]:
        raise CommandError(
            f"this database has revision {unknown[0]}, which this version does not know: it was migrated by a newer"
            " one; run that version's `alembic`, to downgrade too"
        )


def one_line(error: psycopg.Error) -> str:
    diag = error.diag
    parts = [diag.message_primary or str(error).strip(), diag.message_detail, diag.message_hint]
    return "; ".join(" ".join(p.split()) for p in parts if p)
