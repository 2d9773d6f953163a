"""The demo page and the small JSON interface behind its forms.

It is there only where it is asked for, because it lets everybody write.

Invariants
- Only pages of this server may write, and have tokens.
- What is wrong with a request is said with the field's name.
- The page takes at most CONNECTIONS of the connections that PostgreSQL has, so that its visitors leave the rest to the
  application. A request that finds no place is told so.
- The page's first rows and the position that it subscribes from are of one snapshot, so nothing is missed between.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from psycopg import AsyncConnection, Error, OperationalError
from psycopg.sql import SQL, Composed, Identifier, Placeholder

from app.demo import fields
from app.demo.fields import BIGINT, TABLES, Table
from app.model.errors import BadRequest, DatabaseAway

STATIC: Final = Path(__file__).parent / "static"
CONNECTIONS: Final = 4  # to the database, at once
QUEUE: Final = 64  # requests that wait for one of them
ANSWER_SECONDS: Final = 15.0  # for one request, with the time for which it waits
CLOCK_SECONDS: Final = 60.0  # after which the database's clock is measured again
USERS: Final = ("42", "7")  # whom the page signs in
PAGE: Final = "demo"  # the page itself, its role, and the policy that lets it see all notifications
ROWS: Final = 20  # newest rows that the page begins with
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/demo/style.css": ("style.css", "text/css"),
} | {f"/demo/{path.name}": (path.name, "text/javascript") for path in sorted(STATIC.glob("*.js"))}


_IS_ALLOWED: Final = SQL("SELECT true FROM realtime.policies WHERE name = %s").format()
_ALLOW_PAGE: Final = SQL(
    "INSERT INTO realtime.policies (name, channel, roles) VALUES (%s, 'notifications', ARRAY[%s]) "
    "ON CONFLICT DO NOTHING"
)
_REVOKE: Final = SQL(
    "INSERT INTO realtime.revocations (sub, issued_before, until) VALUES (%s, now(), now() + interval '1 hour')"
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Sign = Callable[[str, Mapping[str, object]], str]  # a token for this user with these claims
Database = Callable[[], Awaitable[AsyncConnection[Any]]]  # a fresh autocommit connection; raises DatabaseAway


class Demo:
    """`database` opens an autocommit connection. `psql` is the command line that reaches the database. `is_ours` tells
    whether a request comes from a page of this server. `sign` is given where the page signs its users in: whoever
    reaches the page gets their tokens."""

    def __init__(
        self, database: Database, psql: str, is_ours: Callable[[web.Request], bool], sign: Sign | None = None
    ) -> None:
        self._open = database
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._asked = 0  # requests that are being answered or wait for a connection
        self._is_ours = is_ours
        self._sign = sign
        self._psql = f"{psql} \\\n  -c \"INSERT INTO posts (author_id, title) VALUES (1, 'Hello from psql')\""
        self._ahead = 0.0  # seconds that the database's clock is ahead of this process's
        self._clock_until = -1.0

    def add_to(self, app: web.Application) -> None:
        for route, (name, kind) in _FILES.items():
            app.router.add_get(route, _file(STATIC / name, kind))
        table = "/demo/{table:posts|notifications}"
        row = table + "/{id:-?[0-9]{1,19}}"
        app.router.add_get("/demo/state", self._guarded(self._state))
        app.router.add_get("/demo/clock", self._guarded(self._clock))
        app.router.add_get("/demo/token/{user:[0-9a-z]{1,9}}", self._guarded(self._token))
        app.router.add_post("/demo/revoke/{user:[0-9]{1,9}}", self._guarded(self._revoke))
        app.router.add_post(table, self._guarded(self._insert))
        app.router.add_patch(row, self._guarded(self._update))
        app.router.add_delete(row, self._guarded(self._delete))

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._free, await self._open() as connection:
            yield connection

    async def _state(self, _: web.Request) -> web.Response:
        """The newest rows, and the position of the very snapshot that they were read in."""
        async with self._database() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows = {name: await _newest(connection, name) for name in TABLES}
            position = await _value(connection, SQL("SELECT realtime.position()").format())
        users = USERS if self._sign is not None else ()
        state = {"rows": rows, "position": position, "psql": self._psql, "users": users}
        return web.json_response(state, headers=_NO_STORE)

    async def _token(self, request: web.Request) -> web.Response:
        user = request.match_info["user"]
        if self._sign is None or user not in (PAGE, *USERS):
            return _problem(404, "the demo signs nobody of this name in")
        if user == PAGE:
            async with self._database() as connection:
                if not await _value(connection, _IS_ALLOWED, PAGE):
                    await connection.execute(_ALLOW_PAGE, (PAGE, PAGE))
        return web.json_response({"token": self._sign(user, {"role": user})}, headers=_NO_STORE)

    async def _revoke(self, request: web.Request) -> web.Response:
        """Revoke what a user of the demo was signed in with until now."""
        user = request.match_info["user"]
        if self._sign is None or user not in USERS:
            return _problem(404, "the demo signs nobody of this name in")
        async with self._database() as connection:
            await connection.execute(_REVOKE, (user,))
        return web.json_response({"revoked": user})

    async def _clock(self, _: web.Request) -> web.Response:
        """The database's clock now, in ms. The page takes it as of the middle of the round trip, so the answer must
        come at once: how far the clock is ahead is measured rarely, and remembered."""
        if time.monotonic() > self._clock_until:
            async with self._database() as connection:
                self._ahead = min([await _ahead(connection) for _ in range(5)])[1]
                self._clock_until = time.monotonic() + CLOCK_SECONDS
        return web.json_response({"now": (time.time() + self._ahead) * 1000}, headers=_NO_STORE)

    async def _insert(self, request: web.Request) -> web.Response:
        table = TABLES[request.match_info["table"]]
        values = await fields.read(request, table)
        _require(table, values, *table.needed)
        query = SQL("INSERT INTO public.{} ({}) VALUES ({}) RETURNING id").format(
            Identifier(table.name),
            SQL(", ").join(map(Identifier, values)),
            SQL(", ").join([Placeholder()] * len(values)),
        )
        async with self._database() as connection:
            row = await _value(connection, query, *values.values())
        return web.json_response({"row": str(row)}, status=201)

    async def _update(self, request: web.Request) -> web.Response:
        table = TABLES[request.match_info["table"]]
        values = await fields.read(request, table)
        if not values:
            raise BadRequest(f"nothing to change: give one of {', '.join(table.fields)}")
        _require(table, values, *(name for name in table.needed if name in values))
        query = SQL("UPDATE public.{} SET {} WHERE id = %s RETURNING id").format(
            Identifier(table.name),
            SQL(", ").join(SQL("{} = {}").format(Identifier(name), Placeholder()) for name in values),
        )
        return await self._change(request, query, *values.values())

    async def _delete(self, request: web.Request) -> web.Response:
        table = request.match_info["table"]
        query = SQL("DELETE FROM public.{} WHERE id = %s RETURNING id").format(Identifier(table))
        return await self._change(request, query)

    async def _change(self, request: web.Request, query: Composed, *values: object) -> web.Response:
        key = int(request.match_info["id"])
        row = None
        if key in BIGINT:
            async with self._database() as connection:
                row = await _value(connection, query, *values, key)
        if row is None:
            return _problem(404, f"there is no row {key} in {request.match_info['table']}; it may have been deleted")
        return web.json_response({"row": str(row)})

    def _guarded(self, handler: Handler) -> Handler:
        """Refuse other sites' pages, and turn what goes wrong into a JSON answer that says it."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._is_ours(request):
                return _problem(403, "only the demo page itself may do this")
            if self._asked >= CONNECTIONS + QUEUE:
                return _problem(503, "too many requests wait for the database; try again")
            self._asked += 1
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await handler(request)
            except TimeoutError:
                return _problem(503, f"not done within {ANSWER_SECONDS:g} seconds; try again")
            except BadRequest as problem:
                return _problem(400, problem.message, problem.field)
            except DatabaseAway as problem:
                return _problem(503, f"the database is away: {problem}")
            except OperationalError as problem:
                return _problem(503, f"the database could not do it now: {problem.diag.message_primary or problem}")
            except Error as problem:
                return _problem(409, problem.diag.message_primary or "the database refused this")
            finally:
                self._asked -= 1

        return guarded


def _require(table: Table, values: Mapping[str, object], *names: str) -> None:
    for name in names:
        if not str(values.get(name, "")).strip():
            raise BadRequest(f"{table.fields[name].label} is needed", field=name)


_NO_STORE: Final = {"Cache-Control": "no-store"}


async def _ahead(connection: AsyncConnection[Any]) -> tuple[float, float]:
    """How long the database took to tell the time, and how far its clock is ahead of this process's, in seconds."""
    before = time.time()
    now = await _value(connection, SQL("SELECT extract(epoch FROM clock_timestamp())::float8").format())
    after = time.time()
    return after - before, now - (before + after) / 2


async def _newest(connection: AsyncConnection[Any], table: str) -> list[object]:
    query = SQL(
        "SELECT coalesce(json_agg(r), '[]') "
        'FROM (SELECT *, id::text AS "row" FROM public.{} ORDER BY id DESC LIMIT {}) r'
    )
    rows: list[object] = await _value(connection, query.format(Identifier(table), ROWS))
    return rows


async def _value(connection: AsyncConnection[Any], query: Composed, *values: object) -> Any:
    """The first column of the first row; None where there is no row."""
    row = await (await connection.execute(query, values)).fetchone()
    return row[0] if row else None


def _problem(status: int, message: str, field: str | None = None) -> web.Response:
    body = {"error": message} | ({"field": field} if field else {})
    return web.json_response(body, status=status, headers=_NO_STORE)


def _file(path: Path, kind: str) -> Handler:
    async def send(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers={"Content-Type": f"{kind}; charset=utf-8"} | _HEADERS)

    return send
