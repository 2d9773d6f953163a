"""What refuses a start, each with what mends it: a standby, a wrong schema, missing rights, no LISTEN.

Invariants
- The check writes nothing, and leaves nothing behind on a session that a pooler gives to the application next: it
  takes one transaction for each question, and no setting outlives that.
- It assumes nothing that it has not tried. LISTEN is proved by a notification that arrives.
"""

import secrets
from contextlib import aclosing
from typing import Final

import psycopg

from app.model.errors import DatabaseAway, StartError
from app.postgres.connect import Connection, away, connect, deadline, settled
from app.postgres.queries import SQL

OLDEST_SERVER: Final = 150000
SCHEMA_VERSION: Final = 3  # what this product needs and was made for; 1 and 2 were before the first release
REMEDY: Final = "run `sobranie migrate` (in a checkout, `alembic upgrade head` does the same)"
LISTEN_SECONDS: Final = 2.0
UNLISTEN_TRIES: Final = 5
CHECK_SECONDS: Final = 15.0


async def check(url: str) -> None:
    """Raises StartError unless the database at `url` can be served."""
    try:
        connection = await connect(url, name="check", proven=False)
        connection.prepare_threshold = None  # a pooler may not know prepared statements
        await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
        try:
            with away():
                async with deadline(connection, CHECK_SECONDS):
                    async with settled(connection):
                        await _check_primary(connection)
                    await _check_schema(connection)
                    async with settled(connection):
                        missing = [row[0] for row in await (await connection.execute(SQL["privileges"])).fetchall()]
                    if missing:
                        raise await _missing(connection, ", ".join(missing))
                    await _check_listen(connection, url)
        finally:
            await connection.close()
    except DatabaseAway as error:
        raise StartError(f"the database can't be reached: {error}") from error


async def _check_primary(connection: Connection) -> None:
    row = await (await connection.execute(SQL["recovering"])).fetchone()
    assert row is not None
    if row[0]:
        raise StartError(
            "this database is a standby, where changes can't be read without loss: point DATABASE_URL at the primary"
            " (several hosts: add target_session_attrs=read-write)"
        )
    if connection.info.server_version < OLDEST_SERVER:
        raise StartError(f"PostgreSQL {row[1]} is too old: 15 or newer is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":  # one character that UTF-8 lacks would stop the stream of all tables
        raise StartError(f"this database has the encoding {encoding}, and UTF8 is needed")


async def _check_schema(connection: Connection) -> None:
    try:
        async with settled(connection):
            there, whole = await (await connection.execute(SQL["schema"])).fetchone() or (False, False)
            if not there:
                raise StartError(f"this database has no schema `realtime` of ours: {REMEDY}")
            row = await (await connection.execute(SQL["version"])).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise await _missing(connection, "USAGE and SELECT in schema realtime") from error
    version, compatible_from = row if row is not None else (0, 0)
    if version < SCHEMA_VERSION:
        raise StartError(f"the schema `realtime` is of version {version} and {SCHEMA_VERSION} is needed: {REMEDY}")
    if compatible_from > SCHEMA_VERSION:
        raise StartError(
            f"the schema `realtime` (version {version}) is made for servers of version {compatible_from} or newer, and"
            f" this one is of version {SCHEMA_VERSION}: upgrade this server"
        )
    if not whole:
        raise StartError(
            "the schema `realtime` has no keys, because a restore is under way or was not finished: see it to its end"
            " (pg_restore --section=post-data), and start again"
        )


async def _missing(connection: Connection, what: str) -> StartError:
    """A member of the readers lacks nothing, but where the schema was restored without its owners or its rights."""
    async with settled(connection):
        row = await (await connection.execute(SQL["is_reader"])).fetchone()
    if row is not None and row[0] is False:
        return StartError(f"this role lacks {what}: run `GRANT realtime_reader TO <role>` as a superuser or its admin")
    return StartError(f"this role lacks {what}, as after a restore without owners, rights or roles: {REMEDY}")


async def _check_listen(connection: Connection, url: str) -> None:
    """LISTEN on one connection and NOTIFY on another. A pooler between loses the notification, in silence."""
    payload = secrets.token_hex(8)
    async with settled(connection):
        await connection.execute(SQL["listen_check"], prepare=False)
        listening = await _backend(connection)
    other = await connect(url, name="check", proven=False)
    try:
        with away():
            await other.execute(SQL["notify_check"], {"payload": payload}, prepare=False)
            heard = await _hears(connection, payload)
            await _unlisten(connection, listening)
            if heard:
                return
    finally:
        await other.close()
    raise StartError(
        "LISTEN does not work on this connection, which seems to pass through a pooler (pgbouncer in transaction mode):"
        " give DATABASE_URL a direct connection to PostgreSQL"
    )


async def _unlisten(connection: Connection, listening: int) -> None:
    """Ends the LISTEN. A pooler that gives another session each time mostly gives the one that was used last."""
    for _ in range(UNLISTEN_TRIES):
        async with settled(connection):
            await connection.execute(SQL["unlisten_check"], prepare=False)
            if await _backend(connection) == listening:
                return


async def _backend(connection: Connection) -> int:
    row = await (await connection.execute(SQL["backend"])).fetchone()
    assert row is not None
    return int(row[0])


async def _hears(connection: Connection, payload: str) -> bool:
    # The generator is closed at once, because an open one keeps the connection's lock and the next statement would wait
    # for ever.
    async with aclosing(connection.notifies(timeout=LISTEN_SECONDS)) as notifies:
        async for notify in notifies:
            if notify.payload == payload:
                return True
    return False
