"""How Alembic reaches the database: one transaction for everything, and a version table of its own in realtime.

Invariants: an application's own Alembic is never touched (the version table is realtime.migrations); a schema realtime
that is not ours stops the run before anything changes; two migrators take turns; at `base` nothing of ours is left;
names are PostgreSQL's own, whatever others have in their schemas: who migrates may have every right there is.
"""

import os

import psycopg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from migrations import home


def url() -> str:
    """DATABASE_URL as libpq reads it, else the embedded database's."""
    if given := os.environ.get("DATABASE_URL"):
        return given
    from app.postgres.embedded import embedded_url

    return embedded_url()


def connect() -> psycopg.Connection:
    try:
        made = psycopg.connect(url(), application_name="sobranie-migrations")
    except psycopg.OperationalError as error:
        raise CommandError(f"DATABASE_URL: {error}".strip()) from error
    home.check_encoding(made)
    made.execute("SET search_path TO pg_catalog, pg_temp")
    made.commit()
    return made


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        version_table="migrations",
        version_table_schema=home.SCHEMA,
        transaction_per_migration=False,
    )
    only_looks = bool(context.get_context().opts.get("dont_mutate"))
    with connection.begin():
        raw = home.driver(connection)
        home.check(raw)
        if not only_looks:
            home.prepare(raw)
        context.run_migrations()
        if not only_looks and not context.get_context().get_current_heads():
            home.leave(raw)


if context.is_offline_mode():
    raise CommandError("--sql is not supported: the migrations look at the database that they run on")

try:
    # No SQLAlchemy URL is made of DATABASE_URL: libpq has forms (several hosts, services, key=value) that it lacks.
    engine = create_engine(
        "postgresql+psycopg://", creator=connect, poolclass=NullPool, isolation_level="READ COMMITTED"
    )
    with engine.connect() as connection:
        migrate(connection)
except psycopg.Error as error:
    raise CommandError(home.one_line(error)) from error
