"""From rows of the event log to changes.

Invariant: the JSON of a row stays the bytes that PostgreSQL sent, and nothing parses it. Only raw newlines of `json`
columns are blanked, because one would cut an event of an event stream in two. Between the tokens of JSON they are white
space, and inside a string they are always escaped.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from psycopg.types.numeric import Int8BinaryLoader, OidBinaryLoader
from psycopg.types.string import ByteaBinaryLoader, TextBinaryLoader

from app.core.order import transaction
from app.model.change import Change, Table, Transaction
from app.postgres.connect import Connection

_BLANKED: Final = bytes.maketrans(b"\r\n", b"  ")
_XID8: Final = 5069
_CHAR: Final = 18
_CID: Final = 29
_Y2000: Final = 946_684_800_000_000  # where PostgreSQL counts its microseconds from, in those of Unix


def register(connection: Connection) -> None:
    """Teach a connection the types of the event log's columns (binary results only)."""
    # These are psycopg's own loaders, because they are in C. They give JSON as its bytes, ids and times as integers,
    # and letters as text.
    connection.adapters.register_loader("json", ByteaBinaryLoader)
    connection.adapters.register_loader(_XID8, Int8BinaryLoader)
    connection.adapters.register_loader(_CHAR, TextBinaryLoader)
    connection.adapters.register_loader(_CID, OidBinaryLoader)  # four bytes without a sign, both
    connection.adapters.register_loader("timestamptz", Int8BinaryLoader)


# The columns of an event. Every statement that reads events returns them, as its last ones.
ID, N, XID, GEN, OP, _, _, _, _, NEW_VALUES, OLD_VALUES, NEW, OLD = range(13)
WIDTH: Final = 13
_ORDER: Final = attrgetter("last", "xid")


def change(row: Sequence[Any], tables: Mapping[int, Table], half: str = "") -> Change:
    """The change of one event. `tables` are the generations by number; `half` is that of Change."""
    number, n, xid, gen, op, depth, mark, command, at, new_values, old_values, new, old = row
    table = tables[gen]
    if new is None and op in "IU":
        new = table.oversize(new_values)
    if old is None and op in "UD":
        old = table.oversize(old_values)
    return Change(
        number, n, xid, table, op, depth, mark, at + _Y2000,
        None if new_values is None else tuple(new_values), None if old_values is None else tuple(old_values),
        None if new is None else blanked(new), None if old is None else blanked(old), half,
        command or None,  # a row that recovery made has command 0, and capture none: see Change
    )  # fmt: skip


def blanked(row: bytes) -> bytes:
    """A row's JSON without line breaks."""
    return row.translate(_BLANKED) if b"\n" in row or b"\r" in row else row


def transactions(rows: Iterable[Sequence[Any]], tables: Mapping[int, Table]) -> list[Transaction]:
    """Whole transactions, ordered by their last event.

    That is the only order of transactions that is right for every row (docs/capture.md, section 1).
    """
    events: defaultdict[int, list[Change]] = defaultdict(list)
    for row in rows:
        events[row[XID]].append(change(row, tables))
    found = [transaction(group) for group in events.values()]
    found.sort(key=_ORDER)
    return found


def size(found: Iterable[Transaction]) -> int:
    """How many bytes the changes take in memory, about."""
    return sum(c.size for t in found for c in t.changes)
