"""What the stream carries: watched tables, their changes, and these as transactions and batches.

Rows are JSON bytes made once by PostgreSQL and never parsed on the way. A `Change` can be seen in three forms: whole,
as the DELETE of a row that left a routed channel, or as the INSERT of a row that entered it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import cached_property, lru_cache
from json.encoder import encode_basestring
from typing import Final

from app.model.channel import TableAddress, encode, route_columns
from app.model.position import Snapshot
from app.model.rights import RightsChange

_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
# Types whose text is what their JSON string holds, to the letter.
_SAME: Final = re.compile(r"text|character varying(\(\d+\))?|uuid|date|name|bytea")
_BEFORE_NAME: Final = re.compile(r"\s*[{,]\s*(?=\")")
_COLON: Final = re.compile(r"\s*:\s*")
_SECOND: Final = 1_000_000  # in microseconds
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
    """One generation of a watched table: its names, key, routes, and the columns whose values events carry.

    `columns` are the key's, then the other route columns; `kinds` has a letter for each: how its value looks in JSON
    (n number, b boolean, s string, t timestamp, o other). `xid` is the transaction that began the generation: a
    position that does not see it belongs to an earlier definition. The key is a route if its values have one spelling
    each (`key_spelled`).
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
    key_spelled: bool = True

    @classmethod
    def declared(cls, *, routes: Iterable[str], **rest: object) -> "Table":
        """From the stored spelling of routes (`tenant_id,status`)."""
        return cls(routes=tuple(route_columns(r) for r in routes), **rest)  # type: ignore[arg-type]

    @cached_property
    def channel(self) -> str:
        return str(TableAddress(self.schema, self.name))

    @cached_property
    def picks(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """For every route, the key's included where it can be one: where its values stand among `columns`."""
        routes = (self.key, *self.routes) if self.key and self.key_spelled else self.routes
        return {route: tuple(self.columns.index(c) for c in route) for route in routes}

    @cached_property
    def readings(self) -> str:
        """`kinds`, but "o" for strings whose JSON may differ from their text (inet, char(n), domains)."""
        return "".join(
            "o" if kind == "s" and not _SAME.fullmatch(name) else kind
            for kind, name in zip(self.kinds, self.types, strict=True)
        )

    @cached_property
    def key_heads(self) -> tuple[bytes, ...]:
        return tuple(text_json(column) + b":" for column in self.key)

    @cached_property
    def heads(self) -> dict[str, bytes]:
        """How the body of a change begins, by the letter of its action."""
        names = b'"schema":%s,"table":%s' % (text_json(self.schema), text_json(self.name))
        return {op: b'"action":"%s",%s,"id":' % (action, names) for op, action in ACTIONS.items()}

    def oversize(self, values: Iterable[str | None] | None) -> bytes:
        """What stands for a row that was too large for the event log: its key's columns. It begins with a blank, as no
        row of PostgreSQL's does."""
        pairs = zip(self.key_heads, self.readings, values or (), self.key, strict=False)
        return b" {%s}" % b",".join([head + value_json(kind, text, name, None) for head, kind, text, name in pairs])

    def identity(self, values: Values | None, row: bytes | None) -> bytes:
        """`"row":…,"key":…` of a row with these values: the primary key as text (of several columns, their values
        encoded and joined by commas), and as JSON; null where there is none."""
        if not self.key or not values:
            return b'"row":null,"key":null'
        first = values[0]
        if len(self.key) == 1 and first is not None and self.kinds[0] == "n" and first.isdecimal():  # nearly always
            number = first.encode()
            return b'"row":"%s","key":{%s%s}' % (number, self.key_heads[0], number)
        values = values[: len(self.key)]
        text = (first or "") if len(values) == 1 else ",".join(encode(v or "") for v in values)
        pairs = zip(self.key_heads, self.readings, values, self.key, strict=False)
        key = b",".join([head + value_json(k, v, c, row) for head, k, v, c in pairs])
        return b'"row":%s,"key":{%s}' % (text_json(text), key)


@dataclass(slots=True, eq=False)
class Change:
    """One event of the event log. `number` is its statement's, `n` the row's within the statement. `op` is a letter:
    I, U, D and T as in ACTIONS; G, P, R as in app.core.control. `depth` counts the triggers that the statement ran in,
    `mark` is its WAL position (docs/capture.md, section 1). `at` is in microseconds since 1970 (UTC). `half` is "d" or
    "i" where an UPDATE that changes the key was split into a DELETE and an INSERT, and this is one of the two.

    It has many attributes: they are the columns of the event log, which all are needed to make its JSON."""

    number: int
    n: int
    xid: int
    table: Table
    op: str
    depth: int
    mark: int | None
    at: int
    new_values: Values | None
    old_values: Values | None
    new: bytes | None
    old: bytes | None
    half: str = ""
    # Which command of the transaction logged it (cmin); None where a crash took that: the WAL has it not.
    command: int | None = None
    _whole: bytes | None = field(default=None, init=False)  # the body in the form that nearly all want

    @property
    def id(self) -> str:
        """The number in the event log, and the microseconds of `at`: no id is used twice, even where a crash took the
        end of the event log and numbers come again."""
        return f"{self.number}.{self.n}-{self.at}{self.half}"

    @property
    def size(self) -> int:
        """Bytes that this change takes in memory, about."""
        return len(self.new or b"") + len(self.old or b"") + 700

    def body(self, form: Form = Form.WHOLE) -> bytes:
        """The change as JSON without its braces and channel: `"action":…,"old":…`."""
        if form:
            return self._body("D", None, self.old) if form is Form.LEAVE else self._body("I", self.new, None)
        whole = self._whole
        if whole is None:
            whole = self._whole = self._body(self.op, self.new, self.old)
        return whole

    def _body(self, op: str, new: bytes | None, old: bytes | None) -> bytes:
        table, at = self.table, self.at
        second, microsecond = divmod(at, _SECOND)
        oversize = (new is not None and new[:1] == b" ") or (old is not None and old[:1] == b" ")
        return b'%s"%d.%d-%d%s","tx":"%d","at":"%s.%06d+00:00",%s,"data":%s,"old":%s%s' % (
            table.heads[op], self.number, self.n, at, self.half.encode(), self.xid, _to_the_second(second),
            microsecond, table.identity(self.old_values, old) if new is None else table.identity(self.new_values, new),
            b"null" if new is None else new, b"null" if old is None else old, b',"oversize":true' if oversize else b"",
        )  # fmt: skip


@dataclass(slots=True)
class Transaction:
    """The changes of one transaction in order, the tables whose definition it changed (`reset: schema`), and whose
    rights. `last` is the number of its last event, by which transactions are ordered. One that is `unreadable`, and
    why, has no changes, and all its tables in `schema`."""

    xid: int
    last: int
    changes: list[Change]
    schema: list[Table] = field(default_factory=list)
    unreadable: str = ""
    rights: RightsChange | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """Everything that became visible between two snapshots (normalised), durable, in order.

    `transactions` is None where that is too much to hold: whoever needs it reads the event log. `schema` names the
    tables of its G and R events in either case, and `touched` the tables (relids) of what is too much to hold; None
    says that any may be among them. `rights` joins what its P events say. `highest` is the highest transaction with an
    event in `upto`. `lsn` is the WAL position that was durable then, 0 where there was no event. `size` is in bytes of
    memory, about. `seen_at` is the monotonic clock (seconds) when the fleet saw it first.
    """

    since: Snapshot
    upto: Snapshot
    highest: int
    lsn: int
    transactions: list[Transaction] | None
    schema: list[Table]
    size: int
    seen_at: float
    touched: frozenset[int] | None = None
    rights: RightsChange | None = None


@lru_cache(maxsize=8)
def _to_the_second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


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
