"""The rows of watched tables as of one moment, for clients that begin with them.

Invariants
- The tables are locked (ACCESS SHARE) before the snapshot is taken, because TRUNCATE and rewrites are not MVCC-safe.
- What is locked under a table's name is the table that is watched. Its oid is compared when nobody can rename it. Its
  schema can be renamed all the same, and then what is read in its place is no view (connect.sql).
- The event log is locked only until it is found where it stands, or its partitions could never be emptied.
- Rows are rendered as changes are.
- What an owner's cast does leaves nothing behind: the transaction writes nothing, and no statement has a name that
  could be given to another.
- No text of an error that an owner's code can raise goes to a client.
- The transaction ends when the rows are in memory, which is bounded. So no slow client holds it open.
- At most `AT_ONCE` reads are under way.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from app.model.change import Table
from app.model.channel import TableAddress
from app.model.errors import BadChannel, DatabaseAway, Forbidden, TooLarge, Unavailable
from app.model.position import Snapshot
from app.postgres import event_rows
from app.postgres.connect import Connection, away, connect, deadline
from app.postgres.head import read_head
from app.postgres.queries import SQL
from app.postgres.row_budget import RowBudget
from app.postgres.sessions import Sessions
from app.stream.ports import Rows

Wanted = Sequence[tuple[Table, TableAddress]]

AT_ONCE: Final = 2
SECONDS: Final = 120.0
FULL: Final = "these rows have no room beside those that other clients have not taken yet; try again"
CHUNK: Final = 1000  # rows that come in one message
LOCK: Final = sql.SQL("LOCK TABLE {tables} IN ACCESS SHARE MODE")
PLAIN: Final = sql.SQL("row_to_json({row})")
CAREFUL: Final = sql.SQL("realtime.careful_json({row})")  # casts that owners made run as nobody
WHOLE: Final = sql.SQL("x.*")
SHOWN: Final = sql.SQL("(SELECT coalesce(j.*) FROM (SELECT {columns}) j)")
SELECT: Final = sql.SQL("SELECT {row} FROM {table} x WHERE {condition}")


class TableReader:
    def __init__(self, sessions: Sessions, most_rows: int, most_bytes: int, budget: int) -> None:
        """`most_rows` and `most_bytes` bound one read, `budget` (bytes) all that is read and held at once."""
        self._sessions = sessions
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self.budget = RowBudget(max(budget, 2 * most_bytes))
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def rows(self, wanted: Wanted) -> Rows:
        """The rows of each channel, and the position that they are of.

        Raises Forbidden (no right to read, row security), BadChannel (no index for the route, no such table any more),
        TooLarge, Unavailable (others hold the budget), DatabaseAway.
        """
        most = await self.budget.reserve(self._most_bytes)
        try:
            async with self._turn:
                rows = await _read(self._sessions.url, wanted, self._most_rows, most)
        except BaseException as error:
            self.budget.give_back(most)
            if isinstance(error, TooLarge) and most < self._most_bytes:
                raise Unavailable(FULL) from error
            raise
        self.budget.hold(rows, most)
        return rows


async def _read(url: str, wanted: Wanted, most_rows: int, most_bytes: int) -> Rows:
    connection = await connect(url, name="rows")
    try:
        with away():
            async with deadline(connection, SECONDS):
                event_rows.register(connection)
                await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                await connection.set_read_only(True)
                connection.prepare_threshold = None
                async with connection.transaction():
                    return await _read_within(connection, wanted, most_rows, most_bytes)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise BadChannel("the table is not as it was") from error
    except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.InternalError_) as error:
        raise TooLarge("a row is too large") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Forbidden("the server may not read this table") from error
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        raise DatabaseAway(f"the rows can't be read at the moment: {error.diag.message_primary}") from error
    finally:
        await connection.close()


async def _read_within(connection: Connection, wanted: Wanted, most_rows: int, most_bytes: int) -> Rows:
    """The same in the transaction that is open on `connection`."""
    tables = {table.relid: _name(table) for table, _ in wanted}
    await connection.execute(LOCK.format(tables=sql.SQL(", ").join(tables.values())))
    names: dict[str, Any] = {"names": [name.as_string(connection) for name in tables.values()], "relids": list(tables)}
    position, lsn = await _origin(connection, names)
    found: dict[str, list[bytes]] = {}
    for table, address in wanted:
        row = await _check_permitted(connection, table, address)
        got = found[str(address)] = await _rows(connection, table, address, row, most_rows, most_bytes)
        most_rows, most_bytes = most_rows - len(got), most_bytes - sum(map(len, got))
    return Rows(position, lsn, found)


async def _origin(connection: Connection, tables: dict[str, Any]) -> tuple[Snapshot, int]:
    """The position of the transaction's snapshot, which this takes, and how far the WAL was written then.

    Raises BadChannel where one of `tables` (names, relids) is another relation now."""
    await connection.execute(SQL["savepoint_event_log"])
    await connection.execute(SQL["lock_event_log"])
    position, _, lsn, _ = await read_head(connection)
    await connection.execute(SQL["unlock_event_log"])
    swapped = [row[0] for row in await (await connection.execute(SQL["are_tables"], tables)).fetchall()]
    if swapped:
        raise BadChannel(f"the table is not as it was: another relation is called {swapped[0]} now")
    return position, lsn


async def _check_permitted(connection: Connection, table: Table, address: TableAddress) -> sql.Composed:
    """What renders a row. Raises Forbidden, BadChannel where the rows may not be read."""
    parameters = {"relid": table.relid, "route": list(address.route)}
    row = await (await connection.execute(SQL["may_read_rows"], parameters)).fetchone()
    if row is None:
        raise BadChannel(f"the table of {str(address)!r} is gone", channel=str(address))
    readable, secured, indexed, shown, plain = row
    if not readable:
        raise Forbidden(f"no snapshot of {table.channel!r}: the server's role needs SELECT on it", channel=str(address))
    if secured:
        raise Forbidden(
            f"no snapshot of {table.channel!r}: it has row security, and the server's role needs BYPASSRLS",
            channel=str(address),
        )
    if address.route and not indexed:
        columns = sql.SQL(", ").join(map(sql.Identifier, address.route)).as_string(connection)
        needed = f"CREATE INDEX ON {_name(table).as_string(connection)} ({columns})"
        raise BadChannel(f"no snapshot of {str(address)!r} without an index: {needed}", channel=str(address))
    whole = SHOWN.format(columns=sql.SQL(", ").join(sql.Identifier("x", c) for c in shown)) if shown else WHOLE
    return (PLAIN if plain else CAREFUL).format(row=whole)


async def _rows(
    connection: Connection, table: Table, address: TableAddress, row: sql.Composed, most_rows: int, most_bytes: int
) -> list[bytes]:
    # A bare literal takes the type of the column, of a domain its base type: nothing of an owner's runs.
    # Values that are equal in SQL are spelled alike in a route (realtime.spelling).
    conditions = [
        sql.SQL("x.{} OPERATOR(pg_catalog.=) {}").format(sql.Identifier(column), sql.Literal(value))
        for column, value in zip(address.route, address.values, strict=True)
    ]  # fmt: skip
    query = SELECT.format(
        row=row,
        table=_name(table),
        condition=sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
    )
    found: list[bytes] = []
    async for (json,) in connection.cursor(binary=True).stream(query, binary=True, size=CHUNK):
        if json is None:
            raise TooLarge(f"a row of {table.channel!r} is too large, or can't be written as JSON")
        found.append(event_rows.blanked(json))
        most_bytes -= len(json)
        if len(found) > most_rows or most_bytes < 0:
            raise TooLarge("there are more rows than a snapshot may have (SOBRANIE_ROWS_MAX, SOBRANIE_ROWS_BYTES)")
    return found


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)
