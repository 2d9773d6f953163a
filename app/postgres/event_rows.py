"""From rows of the event log to changes.

Invariants
- The JSON of a row stays the bytes that PostgreSQL sent, and nothing parses it. Only raw newlines of `json` columns are
  blanked, because one would cut an event of an event stream in two. Between the tokens of JSON they are white space,
  and inside a string they are always escaped.
- A transaction with an event that can't be understood stops nobody. It is `unreadable`: a reset of its tables.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from psycopg.types.numeric import Int8BinaryLoader, OidBinaryLoader
from psycopg.types.string import ByteaBinaryLoader, TextBinaryLoader

from app.core.order import transaction
from app.model.change import Change, Table, Transaction, Values
from app.model.rights import RightsChange
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
_OPS: Final = frozenset("IUDTRGP")
_EPOCH: Final = -_Y2000  # 1970, and the end of the year 9999, as PostgreSQL counts
_LAST: Final = 252_455_616_000_000_000
_ORDER: Final = attrgetter("last", "xid")


def change(row: Sequence[Any], tables: Mapping[int, Table], half: str = "") -> Change:
    """The change of one event. `tables` are the generations by number; `half` is that of Change."""
    number, n, xid, gen, op, depth, mark, command, at, new_values, old_values, new, old = row
    table = tables[gen]
    if (
        op not in _OPS
        or (op in "IU" and _short(new_values, table))
        or (op in "UD" and _short(old_values, table))
        or not _EPOCH <= at < _LAST
    ):
        raise ValueError(f"event {number} of {table.channel} is none that capture writes")
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


def _short(values: Values | None, table: Table) -> bool:
    """Whether these can't be the values of the table's columns."""
    return bool(table.columns) and (not values or len(values) < len(table.columns) or isinstance(values[0], list))


def blanked(row: bytes) -> bytes:
    """A row's JSON without line breaks."""
    return row.translate(_BLANKED) if b"\n" in row or b"\r" in row else row


def transactions(rows: Sequence[Sequence[Any]], tables: Mapping[int, Table]) -> list[Transaction]:
    """Whole transactions, ordered by their last event.

    That is the only order of transactions that is right for every row (docs/capture.md, section 1).
    """
    events: defaultdict[int, list[Change]] = defaultdict(list)
    try:
        for row in rows:
            events[row[XID]].append(change(row, tables))
        found = [transaction(group) for group in events.values()]
    except Exception:  # noqa: BLE001 - whatever it is, what else there is has to be read
        found = _one_by_one(rows, tables)
    found.sort(key=_ORDER)
    return found


def _one_by_one(rows: Sequence[Sequence[Any]], tables: Mapping[int, Table]) -> list[Transaction]:
    """The same in no order, where one of them can't be understood."""
    groups: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
    for row in rows:
        groups[row[XID]].append(row)
    found = []
    for group in groups.values():
        try:
            found.append(transaction([change(row, tables) for row in group]))
        except Exception as error:  # noqa: BLE001 - as above
            found.append(unreadable(group, tables, error))
    return found


def unreadable(group: Sequence[Sequence[Any]], tables: Mapping[int, Table], error: Exception) -> Transaction:
    """What stands for a transaction, or for a part of one, that can't be understood. An event of a generation that is
    not known may be any table's; where rights change in it, they may be anybody's."""
    known = {gen: tables[gen] for gen in {row[-WIDTH + GEN] for row in group} if gen in tables}
    strange = any(row[-WIDTH + GEN] not in tables for row in group)
    concerned = {table.relid: table for table in (tables if strange else known).values()}
    reason = f"{type(error).__name__}: {error}"
    last = max(row[-WIDTH + ID] for row in group)
    rights = RightsChange() if any(row[-WIDTH + OP] == "P" for row in group) else None
    return Transaction(group[0][-WIDTH + XID], last, [], list(concerned.values()), reason, rights)


def size(found: Iterable[Transaction]) -> int:
    """How many bytes the changes take in memory, about."""
    return sum(c.size for t in found for c in t.changes)
