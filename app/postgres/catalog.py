"""The watched tables: every generation by its number, the newest by its name, and the spelling of their values.

Invariants
- A generation is loaded before a change that names it is handed on.
- A G event loads its generation anew, because a generation begins and ends with one.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import psycopg

from app.model.change import Table
from app.model.channel import NAME_LIMIT
from app.model.errors import BadChannel
from app.postgres.connect import Connection
from app.postgres.queries import SQL

CANONICAL_CHARACTERS: Final = 256  # of a value and its canonical form, above which it is asked for again each time
CANONICAL_LIMIT: Final = 10_000
_TEXTS: Final = frozenset({"text", "character varying"})
_INTEGERS: Final = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Lend = Callable[[], AbstractAsyncContextManager[Connection]]


class Catalog:
    def __init__(self, lend: Lend) -> None:
        """`lend` gives a connection for the length of a block, with its guards (app.postgres.sessions)."""
        self._lend = lend
        self.generations: dict[int, Table] = {}
        self._current: dict[tuple[str, str], Table] = {}
        self._canonical: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def load(self, connection: Connection, gens: Iterable[int] = ()) -> None:
        """Load these generations, again where they are known, and all that are newer than the newest known."""
        above = max(self.generations, default=-1)
        cursor = await connection.cursor(binary=True).execute(
            SQL["generations"], {"gens": [str(g) for g in gens], "above": above}
        )
        for row in sorted(await cursor.fetchall()):
            self._add(_table(row))

    def forget(self) -> None:
        """Forget all tables: in another incarnation the number of a generation may stand for another one."""
        self.generations.clear()
        self._current.clear()

    def lacks(self, events: Iterable[tuple[int, str]]) -> set[int]:
        """Of the generations that events name, as (generation, op), those to load: unknown, or begun or ended there."""
        return {gen for gen, op in events if op == "G" or gen not in self.generations}

    async def ensure(self, connection: Connection, events: Iterable[tuple[int, str]]) -> None:
        """Load what `lacks`."""
        if needed := self.lacks(events):
            await self.load(connection, needed)

    def _add(self, table: Table) -> None:
        newest = all(t.gen <= table.gen for t in self._current.values() if t.relid == table.relid)
        self.generations[table.gen] = table
        if not newest:
            return
        for name in [n for n, t in self._current.items() if t.relid == table.relid]:
            del self._current[name]  # renamed, or a newer generation
        known = self._current.get((table.schema, table.name))
        if known is None or known.gen <= table.gen:
            self._current[table.schema, table.name] = table

    async def current(self, schema: str, name: str) -> Table | None:
        """The newest generation of the table of that name; None where it is not watched.

        Asks the database about a name that is not known. Raises DatabaseAway.
        """
        known = self._current.get((schema, name))
        if known is None or known.ended:
            async with self._lend() as connection:
                cursor = await connection.cursor(binary=True).execute(SQL["current"], {"schema": schema, "name": name})
                for row in await cursor.fetchall():
                    self._add(_table(row))
        found = self._current.get((schema, name))
        return found if found is None or not found.ended else None

    async def canonical(self, table: Table, column: str, value: str) -> str:
        """The value as its type prints it. Raises BadChannel where it is none of the type, DatabaseAway."""
        kind = table.types[table.columns.index(column)]
        if _is_canonical(kind, value):
            return value
        known = self._canonical.get((kind, value))
        if known is None:
            known = await self._asked(table, kind, column, value)
            if len(value) + len(known) > CANONICAL_CHARACTERS:
                return known
            self._canonical[kind, value] = known
            if len(self._canonical) > CANONICAL_LIMIT:
                self._canonical.popitem(last=False)
        self._canonical.move_to_end((kind, value))
        return known

    async def _asked(self, table: Table, kind: str, column: str, value: str) -> str:
        # 1e131071 is a numeric of 131 kB: the text is cut where no channel could be named by it.
        parameters = {"gen": table.gen, "column": column, "value": value, "most": NAME_LIMIT + 1}
        try:
            async with self._lend() as connection:
                row = await (await connection.execute(SQL["canonical"], parameters, prepare=False)).fetchone()
        except psycopg.DatabaseError as error:
            reason = error.diag.message_primary or str(error)
            raise BadChannel(f"{value!r} is no value of {table_type(kind)} for {column!r}: {reason}") from error
        if row is None or row[0] is None:
            raise BadChannel(f"{value!r} is no value of {table_type(kind)} for {column!r}")
        if len(row[0]) > NAME_LIMIT:
            raise BadChannel(
                f"{value!r} for {column!r} is over {NAME_LIMIT} characters in its canonical form, which is more than a "
                "channel's name may have"
            )
        return str(row[0])


def table_type(kind: str) -> str:
    return f"type {kind!r}"


def _is_canonical(kind: str, value: str) -> bool:
    """Whether the type prints this value so, as far as that is known without asking the database."""
    if kind in _TEXTS:
        return "\x00" not in value
    if (limit := _INTEGERS.get(kind)) is not None:
        return bool(_INTEGER.fullmatch(value)) and -limit <= int(value) < limit
    return kind == "uuid" and bool(_UUID.fullmatch(value))


def _table(row: tuple[Any, ...]) -> Table:
    gen, relid, schema, name, key, routes, columns, types, kinds, key_spelled, xid, ended = row
    return Table.declared(
        gen=gen, relid=relid, schema=schema, name=name, key=tuple(key or ()), routes=routes, columns=tuple(columns),
        types=tuple(types), kinds=kinds, xid=xid, ended=ended, key_spelled=key_spelled,
    )  # fmt: skip
