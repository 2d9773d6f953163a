"""The grammar of the channels in a policy: a channel's name in which claims of the token stand for values.

`posts`, `notifications:user_id={sub}`, `orders:tenant_id={tenants},status=*`, `room/team-{team}-*`, and
`{realtime.subscribe}`, which alone takes channels from the token itself.

A claim stands in braces: `{org.id}` is the member `id` of the claim `org`. `*` stands for one value, or for what one
segment of a room's name has there. Inside a name, a value or a claim's name `{ } *` are percent-encoded, beside what a
channel's name encodes. sql/triggers/policies.sql refuses what can't be meant when it is written, in the same grammar.

Invariant: where a claim and a `*` stand in one segment of a room's name, a name can be read in one way only. The `*`
does not match the character by which it is parted from the claim, so that team `a` never has a room of team `a-b`.
"""

import re
from dataclasses import dataclass
from typing import Final

from app.model.channel import TableAddress, decode, encode
from app.model.channel import parse as parse_channel
from app.model.errors import BadChannel

_GRANTS: Final = re.compile(r"\{realtime\.(subscribe|snapshot|publish|presence)\}")
_ROOM: Final = "room/"
_PIECES: Final = re.compile(r"\*|\{[^{}*]*\}|[^{}*]+")


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim of the token at this path of names."""

    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Anything:
    """One value, or what one segment of a room's name has there, but without the character `but`."""

    but: str = ""


Value = str | Claim | Anything


@dataclass(frozen=True, slots=True)
class TablePattern:
    schema: str
    table: str
    route: tuple[str, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class RoomPattern:
    """`segments` are the parts between `/`; what stands in them is spelled as in a channel's name."""

    segments: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Grants:
    """The channels that the token's own claim names."""

    claim: Claim


Pattern = TablePattern | RoomPattern | Grants


def parse(text: str) -> Pattern:
    """Raises ValueError, which says what is wrong."""
    if found := _GRANTS.fullmatch(text):
        return Grants(Claim(("realtime", found[1])))
    if text.startswith(_ROOM):
        return RoomPattern(tuple(_segment(part) for part in text.removeprefix(_ROOM).split("/")))
    table, colon, pairs = text.partition(":")
    try:
        address = parse_channel(table)
    except BadChannel as problem:
        raise ValueError(problem.message) from None
    if not isinstance(address, TableAddress):
        raise ValueError(f"{table!r} is no table")
    route, values = zip(*(_pair(pair) for pair in pairs.split(",")), strict=True) if colon else ((), ())
    return TablePattern(address.schema, address.table, route, values)


def _pair(pair: str) -> tuple[str, Value]:
    column, equals, value = pair.partition("=")
    if not equals or not column:
        raise ValueError("after ':' comes column=value, or several with ',' between")
    if value == "*":
        return decode(column), Anything()
    if value.startswith("{"):
        return decode(column), _claim(value)
    if re.search(r"[*{}=:./\"]", value):
        raise ValueError(f"{value!r} is no value: a claim in braces stands alone, a * alone")
    return decode(column), decode(value)


def _claim(text: str) -> Claim:
    names = text[1:-1].split(".")
    if not text.endswith("}") or not all(names) or re.search(r"[{}*]", text[1:-1]):
        raise ValueError(f"{text!r} is no claim: write {{name}}, or {{name.member}}")
    return Claim(tuple(decode(name) for name in names))


def _segment(text: str) -> tuple[Value, ...]:
    pieces = _PIECES.findall(text)
    claims, stars = sum(piece[0] == "{" for piece in pieces), pieces.count("*")
    if not pieces or "".join(pieces) != text or claims > 1 or stars > 1:
        raise ValueError(f"{text!r} is no segment of a room's name: it has one claim and one * at most")
    made: list[Value] = []
    for n, piece in enumerate(pieces):
        if piece == "*":
            made.append(Anything(_parting(pieces, n) if claims else ""))
        elif piece[0] == "{":
            made.append(_claim(piece))
        else:
            if encode(decode(piece)) != piece:
                raise ValueError(f"{text!r} is no segment of a room's name: write {encode(decode(piece))!r}")
            made.append(piece)
    return tuple(made)


def _parting(pieces: list[str], star: int) -> str:
    """The character between the `*` and the claim of a segment, on the side of the `*`."""
    claim = next(n for n, piece in enumerate(pieces) if piece[0] == "{")
    if abs(claim - star) < 2:
        raise ValueError("a claim and a * that touch can't be told apart: put a character between them")
    return pieces[star - 1][-1] if claim < star else pieces[star + 1][0]
