"""How Alembic reaches the database: one transaction for everything, and a version table of its own in realtime.

Invariants: an application's own Alembic is never touched (the version table is realtime.migrations); a schema realtime
that is not ours, or of before the first release, stops the run before anything changes; two migrators take turns; at
`base` nothing of ours is left; names are PostgreSQL's own, whatever others have in their schemas: who migrates may have
every right there is. With `--sql` no database is asked, and the whole run is printed: it looks at the database itself.
"""

import logging
import os
import pkgutil
import re
from typing import Any

import psycopg
from alembic import context
from alembic.util import CommandError
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import Diagnostic
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from migrations import home

OURS: dict[str, Any] = {
    "version_table": "migrations",
    "version_table_schema": home.SCHEMA,
    "transaction_per_migration": False,
}

POOLER_LOOKS = 5

log = logging.getLogger(__name__)


def url() -> str:
    """DATABASE_URL as libpq reads it, else the embedded database's, which what alembic.ini names starts."""
    if given := os.environ.get("DATABASE_URL"):
        return given
    return str(pkgutil.resolve_name(context.config.get_main_option("embedded_url") or "")())


def parameters() -> dict[str, Any]:
    """What DATABASE_URL says. An error names what is wrong and holds nothing of a password: libpq ends one at the first
    `@`, `/` or `?`, takes what follows for a host or a port, and prints that."""
    given = url()
    try:
        found = conninfo_to_dict(given)
    except psycopg.ProgrammingError as error:
        unknown = re.search(r'invalid (?:URI query parameter|connection option)[: ]+"([A-Za-z]\w{0,39})"', str(error))
        if unknown is None or "password=" in given.partition(unknown[1])[0]:
            raise CommandError("DATABASE_URL is no connection string of PostgreSQL") from None
        raise CommandError(
            f"DATABASE_URL has the parameter {unknown[1]!r}, which is not one of libpq's; leave it out"
        ) from None
    if "@" in str(found.get("host", "")) or re.search("[^0-9,]", str(found.get("port", ""))):
        raise CommandError("DATABASE_URL: in a user or a password @ is written %40, / %2F, ? %3F and : %3A")
    return found


def connect() -> psycopg.Connection:
    try:
        made = psycopg.connect(**(parameters() | {"application_name": "sobranie-migrations"}))
        pooled = is_pooled(made)
    except psycopg.OperationalError as error:
        raise CommandError(f"DATABASE_URL: {' '.join(str(error).split())}") from error
    made.add_notice_handler(tell)
    home.check_encoding(made)
    if pooled:
        made.close()
        raise CommandError(
            "DATABASE_URL passes through a pooler that gives each transaction another session (pgbouncer in transaction"
            " mode): migrate over a direct connection to PostgreSQL"
        )
    return made


def is_pooled(made: psycopg.Connection) -> bool:
    """Whether this connection shares its sessions with others, as behind a pooler in transaction mode.

    Any pooler tells a process id of its own. One in session mode keeps the session for this connection, and is let
    pass. Nothing is set or written, because what is found would be the application's next.
    """
    backends = {backend(made)}
    if made.info.backend_pid in backends:
        return False
    with psycopg.connect(**parameters()) as other:
        for _ in range(POOLER_LOOKS):
            if backend(other) in backends:
                return True
            backends.add(backend(made))
    return len(backends) > 1


def backend(connection: psycopg.Connection) -> int:
    """The process that runs one transaction of this connection."""
    with connection.transaction():
        row = connection.execute("SELECT pg_catalog.pg_backend_pid()", prepare=False).fetchone()
    assert row is not None
    return int(row[0])


def tell(said: Diagnostic) -> None:
    if said.severity_nonlocalized == "WARNING":
        log.warning("%s", said.message_primary)


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, **OURS)
    only_looks = bool(context.get_context().opts.get("dont_mutate"))
    with connection.begin():
        home.run("SET LOCAL search_path TO pg_catalog, pg_temp")  # a session may be a pooler's, and outlive this one
        home.run_file("database.sql")
        if not only_looks:
            home.run_file("roles.sql")
            home.run_file("restored.sql")
        home.check_revisions(context.get_context().get_current_heads())
        context.run_migrations()
        if not only_looks:
            finish(to_base=not context.get_context().get_current_heads())


def finish(*, to_base: bool) -> None:
    if to_base:
        home.run_file("leave.sql")
    else:
        with home.as_owner():
            home.run_file("rights.sql")  # what a restore has lost of them too


def print_sql() -> None:
    """The same, for who reads it first."""
    context.configure(dialect_name="postgresql", **OURS)
    with context.begin_transaction():
        home.run("SET LOCAL search_path TO pg_catalog, pg_temp")
        home.run_file("database.sql")
        home.run_file("roles.sql")
        home.run_file("restored.sql")
        context.run_migrations()
        finish(to_base=context.get_revision_argument() is None)


home.choices()  # a mistake in -x is told before anything is done
if context.is_offline_mode():
    print_sql()
else:
    try:
        # No SQLAlchemy URL is made of DATABASE_URL: libpq has forms (several hosts, services, key=value) that it lacks.
        engine = create_engine(
            "postgresql+psycopg://", creator=connect, poolclass=NullPool, isolation_level="READ COMMITTED"
        )
        with engine.connect() as connection:
            migrate(connection)
    except psycopg.Error as error:
        raise CommandError(home.one_line(error)) from error
