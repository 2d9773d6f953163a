"""What a client should have received: the committed event log, read by a superuser when all is over.

Routing and visibility are computed here a second time, from the rows' JSON and the tokens alone, and not with the
product's code. `state_at` is the sum of the changes, so it needs no order; a TRUNCATE empties what was logged before
it.
"""

import json
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any
from urllib.parse import unquote

import psycopg

from tests.support.stream import Change, loads
from tests.support.token import Token

Row = dict[str, Any]
READ_LOG = """
SELECT e.xid::text::bigint, e.id, e.n, e.op::text, e.depth, e.ord, g.schema, g.name, e.new::text,
       e.old::text, coalesce(g.key, '{}')
  FROM realtime.events e JOIN realtime.generations g USING (gen)
 WHERE e.op IN ('I', 'U', 'D', 'T') ORDER BY e.id, e.n"""


# How values look in JSON depends on these; the product pins them, so the tables are read in the same way.
SETTINGS = """
SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex';
SET extra_float_digits = 1; SET lc_monetary = 'C'"""


def canonical(row: Row | None) -> str:
    """Shared by all who have the same row."""
    return sys.intern(json.dumps(row, sort_keys=True))


@dataclass(frozen=True)
class Event:
    """One change in the event log."""

    xid: int
    id: int
    n: int
    op: str
    nested: bool
    table: str
    new: Row | None
    old: Row | None
    key: tuple[str, ...] = ()
    half: bool = False

    @cached_property
    def new_text(self) -> str:
        return canonical(self.new)

    @cached_property
    def old_text(self) -> str:
        return canonical(self.old)

    @property
    def moved(self) -> bool:
        return self.op == "U" and bool(self.key) and self.key_of(self.old) != self.key_of(self.new)

    def key_of(self, row: Row | None) -> tuple[str, ...]:
        return tuple(canonical(row[name]) for name in self.key) if row is not None else ()


def told(statement: list[Event]) -> list[Event]:
    """As clients are told of one statement: where it hands the key of one row to another, DELETEs come first."""
    moved = [event for event in statement if event.moved]
    if len(moved) < 2 or {e.key_of(e.old) for e in moved}.isdisjoint(e.key_of(e.new) for e in moved):
        return statement
    gone = [replace(event, op="D", new=None, half=True) for event in moved]
    come = [replace(event, op="I", old=None, half=True) for event in moved]
    return gone + [event for event in statement if not event.moved] + come


@dataclass(frozen=True)
class Delivery:
    """What one channel is to see of an event; `half` where an UPDATE crosses the channel's border."""

    action: str
    new: str
    old: str
    statement: int = 0
    half: bool = False
    nested: bool = False

    @property
    def content(self) -> tuple[str, str, str]:
        return self.action, self.new, self.old


NOTHING = canonical(None)
ACTIONS = {"I": "INSERT", "U": "UPDATE", "D": "DELETE", "T": "TRUNCATE"}


@lru_cache(maxsize=4096)
def parse_channel(channel: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    table, _, route = channel.partition(":")
    pairs = (part.partition("=") for part in route.split(",")) if route else ()
    return unquote(table), tuple((unquote(name), unquote(value)) for name, _, value in pairs)


def as_text(value: Any) -> str | None:
    """A JSON value in the text form of its column's type (of the types that these tests route by)."""
    if value is None or isinstance(value, str):
        return value
    return "t" if value is True else "f" if value is False else str(value)


def routed(row: Row | None, route: tuple[tuple[str, str], ...]) -> bool:
    return row is not None and all(as_text(row.get(name)) == value for name, value in route)


def delivery(event: Event, route: tuple[tuple[str, str], ...]) -> Delivery | None:
    """The form in which a channel with `route` sees an event, if at all."""
    if event.op == "T":
        return Delivery("TRUNCATE", NOTHING, NOTHING, event.id)
    enters, leaves = routed(event.new, route), routed(event.old, route)
    if event.op == "U" and enters != leaves:
        if enters:
            return Delivery("INSERT", event.new_text, NOTHING, event.id, True, event.nested)
        return Delivery("DELETE", NOTHING, event.old_text, event.id, True, event.nested)
    if not (enters or leaves):
        return None
    return Delivery(ACTIONS[event.op], event.new_text, event.old_text, event.id, event.half, event.nested)


class Truth:
    def __init__(
        self,
        events: list[Event],
        tables: dict[str, Counter[str]] | None = None,
        base: dict[str, list[Row]] | None = None,
    ) -> None:
        """`tables`: the rows of each table as SELECT gives them now. `base`: those that were there before the first of
        the events, and which every position sees."""
        ordered = sorted(events, key=lambda e: (e.id, e.n))
        statements = groupby(ordered, key=lambda e: (e.xid, e.id, e.table))
        self.events = [event for _, statement in statements for event in told(list(statement))]
        self.tables, self.base = tables or {}, base or {}
        self._by_table: dict[str, dict[int, list[Event]]] = defaultdict(lambda: defaultdict(list))
        for event in self.events:
            self._by_table[event.table][event.xid].append(event)
        self._xids = {table: sorted(found) for table, found in self._by_table.items()}

    @classmethod
    async def read(
        cls, connection: psycopg.AsyncConnection[Any], *tables: str, base: dict[str, list[Row]] | None = None
    ) -> "Truth":
        cursor = await connection.execute(READ_LOG)
        events = [
            Event(
                xid,
                number,
                n,
                op,
                bool(depth > 1 or order is not None),
                name if schema == "public" else f"{schema}.{name}",
                _row(new),
                _row(old),
                tuple(key),
            )
            for xid, number, n, op, depth, order, schema, name, new, old, key in await cursor.fetchall()
        ]
        return cls(events, counted(await read_rows(connection, tables)), base)

    def expected(self, channel: str, after: Token, upto: Token) -> dict[int, list[Delivery]]:
        """By transaction: what `channel` is to see that is visible in `upto` and not in `after`, in log order."""
        table, route = parse_channel(channel)
        xids = self._xids.get(table, [])
        fresh = xids[bisect_left(xids, after.xmax) : bisect_left(xids, upto.xmax)]
        late = [xid for xid in sorted(after.xip) if xid in self._by_table[table]]
        found: dict[int, list[Delivery]] = {}
        for xid in [*late, *fresh]:
            if upto.sees(xid):
                seen = [d for e in self._by_table[table][xid] if (d := delivery(e, route)) is not None]
                if seen:
                    found[xid] = seen
        return found

    def state_at(self, channel: str, position: Token) -> Counter[str]:
        """The rows of a channel as of a position."""
        table, route = parse_channel(channel)
        visible = [e for xid in self._by_table[table] if position.sees(xid) for e in self._by_table[table][xid]]
        emptied = max((e.id for e in visible if e.op == "T"), default=-1)
        state: Counter[str] = Counter()
        if emptied < 0:
            state.update(canonical(row) for row in self.base.get(table, ()) if routed(row, route))
        for event in visible:
            if event.id > emptied:
                state[event.new_text] += routed(event.new, route)
                state[event.old_text] -= routed(event.old, route)
        return +state


async def read_rows(connection: psycopg.AsyncConnection[Any], tables: Iterable[str]) -> dict[str, list[Row]]:
    """The rows of each table now, as the event log would have them."""
    await connection.execute(SETTINGS.encode())
    found: dict[str, list[Row]] = {}
    for table in tables:
        cursor = await connection.execute(f"SELECT row_to_json(t)::text FROM {table} t".encode())
        found[table] = [loads(text) for (text,) in await cursor.fetchall()]
    return found


def counted(rows: dict[str, list[Row]]) -> dict[str, Counter[str]]:
    return {table: Counter(canonical(row) for row in found) for table, found in rows.items()}


def _row(text: str | None) -> Row | None:
    row: Row | None = None if text is None else loads(text)
    return row


def received(change: Change) -> Delivery:
    """A change whose rows may be text already, as `canonical` has it."""
    data, old = change["data"], change["old"]
    return Delivery(
        change["action"],
        data if isinstance(data, str) else canonical(data),
        old if isinstance(old, str) else canonical(old),
    )
