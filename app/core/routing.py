"""Which channels see a change, in which form, and in which order: the one rule, for the hub and for the index.

A channel of a route sees the rows that have its values. A row that moves from one channel of a route to another leaves
the one (as a DELETE) and enters the other (as an INSERT). Of one statement all that leaves comes before the rest.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

from app.model.change import Change, Form, Transaction, Values

T = TypeVar("T")
Views = tuple[tuple[Values, Form], ...]


def empties(change: Change) -> bool:
    """Whether every channel of the change's table sees it whole: a TRUNCATE has no row, and so no values."""
    return change.op == "T"


def views(change: Change, picks: tuple[int, ...]) -> Views:
    """The values of the route's channels that see this change of a row, and how. `picks` is the route (Table.picks)."""
    old, new = change.old_values, change.new_values
    if old is None:
        return ((_chosen(new, picks), Form.WHOLE),) if new is not None else ()
    was = _chosen(old, picks)
    if new is None:
        return ((was, Form.WHOLE),)
    now = _chosen(new, picks)
    return ((now, Form.WHOLE),) if was == now else ((was, Form.LEAVE), (now, Form.ENTER))


def touched(changes: Iterable[Change], picks: tuple[int, ...]) -> set[Values]:
    """The values of all channels of a route that see some of these changes of rows: those that `views` gives."""
    rows = [values for change in changes for values in (change.old_values, change.new_values) if values is not None]
    if len(picks) > 1:
        return set(map(itemgetter(*picks), rows))
    return {(value,) for value in set(map(itemgetter(*picks), rows))}


def ordered(
    transactions: Iterable[Transaction], matches: Callable[[Change], Iterable[tuple[T, Form]]]
) -> Iterator[tuple[Change, T, Form]]:
    """Who sees what, in order."""
    for transaction in transactions:
        if len(transaction.changes) == 1:
            change = transaction.changes[0]
            for who, form in matches(change):
                yield change, who, form
            continue
        for _, rows in groupby(transaction.changes, key=statement):
            found = [(change, who, form) for change in rows for who, form in matches(change)]
            if len(found) > 1:
                found.sort(key=_stays)
            yield from found


def statement(change: Change) -> tuple[int, int]:
    """What tells the statements of one transaction apart; what an outer and a nested one do is never one."""
    return change.number, change.table.relid


def _chosen(values: Values, picks: tuple[int, ...]) -> Values:
    return tuple([values[i] for i in picks])


def _stays(found: tuple[Change, object, Form]) -> bool:
    return found[2] is not Form.LEAVE
