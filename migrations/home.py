"""The house of the product in a database: roles, schema realtime, and whether they are ours.

Invariants: what is ours says so in a comment; roles and the schema are made only where missing and dropped only where
we made them and nobody uses them (roles belong to the whole cluster: other databases may).
"""

from pathlib import Path
from typing import LiteralString

import psycopg
from alembic.util import CommandError
from psycopg import sql
from sqlalchemy import Connection

SCHEMA = "realtime"
MARK = "Sobranie Realtime"
OWNER, READER = "realtime_owner", "realtime_reader"
SQL = Path(__file__).parent.parent / "sql" / "triggers"
LOCK = (1919247220, 4)

Driver = psycopg.Connection[tuple[object, ...]]


def driver(connection: Connection) -> Driver:
    """The psycopg connection beneath, in the same transaction: SQL files hold many statements, and % signs."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


def run_file(connection: Driver, name: str, *, replace: bool = False) -> None:
    """With `replace` its functions may be there already, in another version."""
    text = (SQL / name).read_bytes()
    connection.execute(text.replace(b"CREATE FUNCTION", b"CREATE OR REPLACE FUNCTION") if replace else text)


def one_line(error: psycopg.Error) -> str:
    diag = error.diag
    parts = [diag.message_primary or str(error).strip(), diag.message_detail, diag.message_hint]
    return "; ".join(" ".join(p.split()) for p in parts if p)


def _value(connection: Driver, query: LiteralString, *arguments: object) -> object:
    row = connection.execute(query, arguments).fetchone()
    return row[0] if row else None


def check_encoding(connection: Driver) -> None:
    """Before anything else: SQLAlchemy can't read what a database without an encoding says."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise CommandError(f"this database has the encoding {encoding}, and UTF8 is needed: rows go out as JSON")


def check(connection: Driver) -> None:
    """Take turns with other migrators; refuse what we can't work with, before anything changes."""
    if connection.info.server_version < 150000:
        raise CommandError("PostgreSQL 15 or newer is needed")
    if _value(connection, "SELECT pg_is_in_recovery()"):
        raise CommandError("this server is a standby: migrations run on the primary")
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK)
    found = connection.execute(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (SCHEMA,)
    ).fetchone()
    if found and found[0] != MARK:
        raise CommandError(
            f'this database has a schema "{SCHEMA}" that is not ours (Supabase makes one, say): nothing was changed'
        )


def prepare(connection: Driver) -> None:
    """Roles and schema, where missing."""
    for role in (OWNER, READER):
        _ensure_role(connection, role)
    if not _value(connection, "SELECT pg_has_role(%s, 'USAGE')", OWNER):
        _join_owner(connection)
    if _value(connection, "SELECT to_regnamespace(%s) IS NULL", SCHEMA):
        if not _value(connection, "SELECT has_database_privilege(current_database(), 'CREATE')"):
            raise CommandError("this role may not create a schema here: GRANT CREATE ON DATABASE … TO it")
        connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(_name(SCHEMA), _name(OWNER)))
        connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(_name(SCHEMA), sql.Literal(MARK)))


def leave(connection: Driver) -> None:
    """The other way: at `base` only the version table, the schema and the roles are left."""
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}.migrations").format(_name(SCHEMA)))
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(_name(SCHEMA)))
    for role in (READER, OWNER):
        ours = _value(
            connection,
            "SELECT shobj_description(oid, 'pg_authid') = %s AND NOT EXISTS (SELECT FROM pg_shdepend"
            " WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid) FROM pg_roles r WHERE rolname = %s",
            MARK,
            role,
        )
        if ours:
            _try_drop(connection, role)


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def _ensure_role(connection: Driver, role: str) -> None:
    if _value(connection, "SELECT to_regrole(%s) IS NOT NULL", role):
        return
    try:
        with connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(_name(role)))
            connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(_name(role), sql.Literal(MARK)))
    except psycopg.errors.InsufficientPrivilege:
        raise CommandError(_advice(connection)) from None


def _join_owner(connection: Driver) -> None:
    try:
        with connection.transaction():
            connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(_name(OWNER)))
    except psycopg.errors.InsufficientPrivilege:
        raise CommandError(_advice(connection)) from None


def _advice(connection: Driver) -> str:
    me = sql.Identifier(connection.info.user).as_string(connection)
    return (
        f"role {me} can't make the roles that are needed; give it CREATEROLE, or have an administrator run: "
        f"CREATE ROLE {OWNER} NOLOGIN; CREATE ROLE {READER} NOLOGIN; GRANT {OWNER} TO {me};"
    )


def _try_drop(connection: Driver, role: str) -> None:
    try:
        with connection.transaction():
            connection.execute(sql.SQL("DROP ROLE {}").format(_name(role)))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.DependentObjectsStillExist):
        pass  # somebody else's now: another migrator made it, or another database has begun to use it
