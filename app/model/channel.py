"""The grammar of channel names: `posts`, `sales.orders`, `orders:tenant_id=7,status=open`, `room/lobby`.

One spelling: inside a name or a value `% , = : . / "` and control characters are percent-encoded (upper-case hex of
the UTF-8 bytes), nothing else is, and schema `public` is left out. Parsing refuses every other spelling and names the
canonical one, so that two clients can't subscribe to one thing under two names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from app.model.errors import BadChannel, BadRequest

NAME_LIMIT: Final = 2048  # characters of a whole channel name
_ROOM: Final = "room/"
_SPECIAL = re.compile(r"[%,=:./\"\x00-\x1f\x7f]")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class TableAddress:
    """A channel of a table, and the route columns with their values where it is a routed channel."""

    schema: str
    table: str
    route: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        table = encode(self.table) if self.schema == "public" else f"{encode(self.schema)}.{encode(self.table)}"
        pairs = ",".join(f"{encode(c)}={encode(v)}" for c, v in zip(self.route, self.values, strict=True))
        return f"{table}:{pairs}" if pairs else table


@dataclass(frozen=True, slots=True)
class RoomAddress:
    """A channel with no table behind it. The spelling of `name` is not looked at while no server has rooms."""

    name: str

    def __str__(self) -> str:
        return f"{_ROOM}{self.name}"


Address = TableAddress | RoomAddress
Topic = int | str  # what channels are about: a table, by its relid, or a room, by its name


def encode(text: str) -> str:
    """Percent-encode what has a meaning in the grammar."""
    return _SPECIAL.sub(lambda m: f"%{ord(m[0]):02X}", text)


def decode(text: str) -> str:
    """Undo `encode`. Raises ValueError for a lone or wrong percent sign, for bytes that are no UTF-8, and for NUL."""
    if text.count("%") != len(_ENCODED.findall(text)):
        raise ValueError("a '%' that is not followed by two hexadecimal digits (write '%' itself as %25)")
    decoded = unquote_to_bytes(text).decode("utf-8")
    if "\0" in decoded:
        raise ValueError("no text in PostgreSQL contains the character %00")
    return decoded


def parse(name: str) -> Address:
    """Take a channel's name apart. Raises BadChannel, with the canonical spelling where there is one."""
    if not name or len(name) > NAME_LIMIT:
        raise BadChannel(f"a channel name has 1 to {NAME_LIMIT} characters", channel=name[:80])
    if name.startswith(_ROOM):
        return RoomAddress(name.removeprefix(_ROOM))
    try:
        address = _parse(name)
    except ValueError as error:
        raise BadChannel(f"{name!r} is no channel name: {error}", channel=name) from error
    if str(address) != name:
        raise BadChannel(f"write this channel as {str(address)!r}", channel=str(address))
    return address


def _parse(name: str) -> TableAddress:
    table, colon, pairs = name.partition(":")
    schema, dot, bare = table.rpartition(".")
    if dot and not schema:
        raise ValueError("the schema's name is empty")
    if not bare:
        raise ValueError("the table's name is empty")
    if "." in schema or "/" in table or "=" in table:
        raise ValueError("a table is written as 'table' or 'schema.table'")
    if not colon:
        return TableAddress(decode(schema) or "public", decode(bare))
    route, values = zip(*(_pair(pair) for pair in pairs.split(",")), strict=True)
    return TableAddress(decode(schema) or "public", decode(bare), route, values)


def _pair(pair: str) -> tuple[str, str]:
    column, equals, value = pair.partition("=")
    if not equals or not column:
        raise ValueError("after ':' comes column=value, or several with ',' between")
    return decode(column), decode(value)


def route_columns(route: str) -> tuple[str, ...]:
    """The columns of a declared route, as `realtime.watch` takes and stores it: `tenant_id,status`."""
    return tuple(decode(column) for column in route.split(","))


def check_distinct(names: Sequence[str], field: str) -> None:
    """Raises BadRequest where `field` of a request names a channel twice."""
    if len(set(names)) < len(names):
        raise BadRequest(f"{field!r} names a channel twice", field=field)
