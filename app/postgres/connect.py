"""Connections to the primary, and how they fail.

Invariants
- Every session sets what it relies on, so that no default of the database or the role matters.
- Before a pooler in transaction mode is excluded (checks.py), nothing is set beyond a transaction on a session that may
  be such a pooler's.
- Every failure of the network or the server becomes DatabaseAway, whose text never holds a password.
- A statement that gets no answer is ended by `deadline`, which shuts the socket. A peer that is silent (a stalled
  proxy, a stopped process) then looks like one that is gone.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import conninfo, pq

from app.model.errors import DatabaseAway, SettingsError
from app.postgres.queries import SQL

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 70.0  # a little more than the statement_timeout of connect.sql
# What a statement raises where the schema `realtime` is not there, or not whole: it is being restored, or taken down.
OURS: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidColumnReference,  # ON CONFLICT, where there is no key yet
)
# What DatabaseAway says where a restore shows in what a statement found.
REPLACED: Final = "the event log is being replaced by another, from a dump"
PARAMETERS: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_SECONDS,
    "client_encoding": "utf8",
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


async def connect(url: str, *, name: str, autocommit: bool = True, proven: bool = True) -> Connection:
    """A session of the primary, `sobranie <name>` in pg_stat_activity. Raises DatabaseAway, SettingsError.

    One that is not `proven` may be a pooler's: what it runs, it runs `settled`.
    """
    with away():
        made = await psycopg.AsyncConnection.connect(
            _conninfo(url, name), autocommit=True, prepare_threshold=0, **PARAMETERS
        )
        try:
            async with deadline(made, CONNECT_SECONDS):
                await _settle(made, proven=proven)
                with suppress(psycopg.errors.InvalidParameterValue):  # the server's platform can't notice dead peers
                    await made.execute(SQL["notice_dead_peer"], _whose(made, proven=proven), prepare=False)
            await made.set_autocommit(autocommit)
        except BaseException:
            await made.close()
            raise
    return made


@asynccontextmanager
async def settled(connection: Connection) -> AsyncIterator[None]:
    """One transaction in which all settings hold, on a connection that is not proven."""
    async with connection.transaction():
        await _settle(connection, proven=False)
        yield


async def _settle(connection: Connection, *, proven: bool) -> None:
    await connection.execute(SQL["session"], _whose(connection, proven=proven), prepare=False)


def _whose(connection: Connection, *, proven: bool) -> dict[str, Any]:
    return {"proven": proven, "pid": connection.info.backend_pid}


def _conninfo(url: str, name: str) -> str:
    try:
        return conninfo.make_conninfo(url, application_name=f"sobranie {name}")
    except psycopg.ProgrammingError:
        # libpq's own message may quote the whole text, password and all.
        raise SettingsError(f"DATABASE_URL is no connection string of PostgreSQL{_wrong_parameter(url)}") from None


def _wrong_parameter(url: str) -> str:
    """Which parameter of the URL libpq does not know: `schema` is Prisma's, `pool_timeout` a pool's."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"ssl"}
    # Behind a password a name may be the rest of one that has an & in it.
    shown = re.split(r"[?&](?:password|sslpassword|oauth_client_secret)=", url)[0]
    names = [pair.partition("=")[0] for pair in shown.partition("?")[2].split("&") if "=" in pair]
    wrong = next((name for name in names if re.fullmatch(r"[A-Za-z]\w{0,39}", name) and name not in known), None)
    if wrong is None:
        return ": is all that is special in it percent-encoded?"
    return f": it has the parameter {wrong!r}, which is not one of libpq's; leave it out"


@contextmanager
def away(*more: type[psycopg.Error]) -> Iterator[None]:
    """Turns every failure of the network or the server into DatabaseAway, and the errors `more` too.

    Other errors of a statement pass.
    """
    failures: tuple[type[Exception], ...] = (psycopg.OperationalError, psycopg.InterfaceError, OSError, *more)
    try:
        yield
    except failures as error:
        said = error.diag.message_primary if isinstance(error, psycopg.Error) else None  # without its context, of ours
        text = " ".join((said or str(error)).split()) or type(error).__name__
        raise DatabaseAway(text) from error


def refusal(error: psycopg.Error) -> str:
    """What a statement was refused for, with what ran into it: a function of the application, where a trigger of
    its own is what failed."""
    text = error.diag.message_primary or " ".join(str(error).split())
    return f"{text} ({error.diag.context.splitlines()[0]})" if error.diag.context else text


@asynccontextmanager
async def deadline(connection: Connection, seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Shuts the connection's socket if the block has not ended after `seconds`. What waits on the socket then fails."""
    timer = asyncio.get_running_loop().call_later(seconds, _shut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _shut(connection: Connection) -> None:
    with suppress(psycopg.OperationalError, OSError), socket.socket(fileno=os.dup(connection.fileno())) as peer:
        peer.shutdown(socket.SHUT_RDWR)
