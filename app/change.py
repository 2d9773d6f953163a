"""What moves through the house: tables on the air, their changes, transactions and batches.

Rows are JSON bytes made once by PostgreSQL and never parsed on the way. A `Change` can be seen in three forms: whole,
as the DELETE of a row that left a routed channel, or as the INSERT of a row that entered it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cached_property
from json.encoder import encode_basestring
from typing import Final

from app.channel import Address, encode, route_columns
from app.position import Snapshot

_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_BEFORE_NAME: Final = re.compile(r"\s*[{,]\s*(?=\")")
_COLON: Final = re.compile(r"\s*:\s*")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
UTF8: Final = ("utf-8", "backslashreplace")  # half a surrogate pair, raw in JSON text, becomes its JSON escape
ACTIONS: Final = {"I": b"INSERT", "U": b"UPDATE", "D": b"DELETE", "T": b"TRUNCATE"}

Values = tuple[str | None, ...]


class Form(IntEnum):
    """How a channel sees a change."""

    WHOLE = 0
    LEAVE = 1
    ENTER = 2


@dataclass(frozen=True)
class Table:
    """One generation of a table on the air: its names, key, routes, and the columns whose values events carry.

    `columns` are the key's, then the other route columns; `kinds` has a letter for each: how its value looks in JSON
    (n number, b boolean, s string, t timestamp, o other). `xid` is the transaction that began the generation: a
    position that does not see it belongs to an earlier definition.
    """

    gen: int
    relid: int
    schema: str
    name: str
    key: tuple[str, ...]
    routes: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    types: tuple[str, ...]
    kinds: str
    xid: int
    ended: bool = False

    @classmethod
    def declared(cls, *, routes: Iterable[str], **rest: object) -> "Table":
        """From the stored spelling of routes (`tenant_id,status`)."""
        return cls(routes=tuple(route_columns(r) for r in routes), **rest)  # type: ignore[arg-type]

    @cached_property
    def channel(self) -> str:
        return str(Address(self.schema, self.name))

    @cached_property
    def picks(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """For every route, the key's included: where its values stand among `columns`."""
        routes = (self.key, *self.routes) if self.key else self.routes
        return {route: tuple(self.columns.index(c) for c in route) for route in routes}

    @cached_property
    def key_heads(self) -> tuple[bytes, ...]:
        return tuple(text_json(column) + b":" for column in self.key)

    @cached_property
    def head(self) -> bytes:
        return b'"schema":%s,"table":%s' % (text_json(self.schema), text_json(self.name))


@dataclass(slots=True, eq=False)
class Change:
    """One event of the log. `number` and `n` are the statement's and the row's within it; `op` is a letter of the log:
    I, U, D, T as in ACTIONS, R partitions changed behind the parent's back, G a generation begins or ends."""

    number: int
    n: int
    xid: int
    table: Table
    op: str
    depth: int
    mark: int | None
    at: datetime
    new_values: Values | None
    old_values: Values | None
    new: bytes | None
    old: bytes | None
    half: str = ""
    _bodies: dict[Form, bytes] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Never used twice, not even when a crash took the log's tail: the log number, and the microseconds of `at`."""
        return f"{self.number}.{self.n}-{(self.at - _EPOCH) // _MICROSECOND}{self.half}"

    @property
    def size(self) -> int:
        """Bytes that this change takes in memory, about."""
        return len(self.new or b"") + len(self.old or b"") + 700

    def body(self, form: Form = Form.WHOLE) -> bytes:
        """The change as JSON without its braces and channel: `"action":…,"old":…`."""
        body = self._bodies.get(form)
        if body is None:
            body = self._bodies[form] = self._body(form)
        return body

    def _body(self, form: Form) -> bytes:
        action = (ACTIONS[self.op], b"DELETE", b"INSERT")[form]
        new = None if form is Form.LEAVE else self.new
        old = None if form is Form.ENTER else self.old
        return b'"action":"%s",%s,"id":"%s","tx":"%d","at":"%s",%s,"data":%s,"old":%s' % (
            action,
            self.table.head,
            self.id.encode(),
            self.xid,
            self.at.isoformat(timespec="microseconds").encode(),
            self._identity(form),
            new or b"null",
            old or b"null",
        )

    def _identity(self, form: Form) -> bytes:
        """`"row":…,"key":…`: the primary key as text (of several columns, their values encoded and joined by commas),
        and as JSON; null where there is none."""
        table = self.table
        leaving = form is Form.LEAVE or self.new_values is None
        values = (self.old_values if leaving else self.new_values) or ()
        if not table.key or not values:
            return b'"row":null,"key":null'
        first = values[0]
        if len(table.key) == 1 and first is not None and table.kinds[0] == "n" and first.isdecimal():
            return b'"row":"%s","key":{%s%s}' % (first.encode(), table.key_heads[0], first.encode())  # nearly always
        values = values[: len(table.key)]
        row = (first or "") if len(values) == 1 else ",".join(encode(v or "") for v in values)
        source = self.old if leaving or self.new is None else self.new
        pairs = zip(table.key_heads, table.kinds, values, table.key, strict=False)
        key = b",".join([head + value_json(k, v, c, source) for head, k, v, c in pairs])
        return b'"row":%s,"key":{%s}' % (text_json(row), key)


@dataclass(slots=True)
class Transaction:
    """The changes of one transaction in order, and the tables whose definition it changed (`reset: schema`)."""

    xid: int
    last: int
    changes: list[Change]
    schema: list[Table] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Batch:
    """Everything that became visible between two snapshots (normalised), durable, in order.

    `transactions` is None where that is too much to hold: it is read from the log by whoever needs it; `schema` names
    the tables of its G and R events all the same. `highest` is the highest transaction with an event in `upto`.
    `seen_at` is the monotonic clock (seconds) when the fleet saw it first.
    """

    since: Snapshot
    upto: Snapshot
    highest: int
    lsn: int
    transactions: list[Transaction] | None
    schema: list[Table]
    size: int
    seen_at: float


@dataclass(slots=True)
class Portion:
    """A piece of a replay, in order. `upto` is the position after it; None in the midst of a transaction."""

    transactions: list[Transaction]
    upto: Snapshot | None


def text_json(text: str) -> bytes:
    return encode_basestring(text).encode(*UTF8)


def value_json(kind: str, text: str | None, column: str, row: bytes | None) -> bytes:
    """A key column's value as it stands in the row's JSON, from its text form."""
    if text is None:
        return b"null"
    if kind == "b" or (kind == "n" and _NUMBER.fullmatch(text)):
        return text.encode()
    if kind == "t":
        return text_json(text.replace(" ", "T", 1).replace("+00", "+00:00", 1))
    if kind == "o" and row is not None:
        try:
            return _member(row.decode(), column).encode()
        except (ValueError, RecursionError):
            return text_json(text)
    return text_json(text)


def _member(row: str, column: str) -> str:
    """One member of a JSON object as it stands there, to the last digit. Raises ValueError where it has none, and
    RecursionError beyond what Python can parse."""
    scan, at = json.JSONDecoder().raw_decode, 0
    while found := _BEFORE_NAME.match(row, at):
        name, at = scan(row, found.end())
        start = _COLON.match(row, at)
        if start is None:
            break
        _, at = scan(row, start.end())
        if name == column:
            return row[start.end() : at]
    raise ValueError(f"no member {column!r}")
