"""The order of changes inside one transaction: what happened first comes first, for every row.

Three things tell it. The log's own order, which has a nested statement before the one around it. Marks: how far the
WAL was when a statement had written its rows, on tables where statements nest, and for every nested statement. And the
commands that wrote the events: what one query did is consecutive in them, and comes as if it were one statement, what
it removes before what it adds. Where the rows themselves contradict all that, they are right (app.core.chains).
Pure functions.
"""

from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from app.core.chains import chained, half, new_key, old_key
from app.core.control import Control
from app.model.change import ACTIONS, Change, Table, Transaction

_LOGGED: Final = attrgetter("number", "n")
_ROWS: Final = frozenset("IUD")

Queries = dict[int, int]  # of an event (its identity): the number of the first event of its query


def transaction(events: list[Change]) -> Transaction:
    """Put one transaction's events (any order) in order. `events` is not empty, and given away."""
    if len(events) == 1:  # most transactions, on the hottest path there is
        (event,) = events
        if event.op in ACTIONS:
            return Transaction(event.xid, event.number, events)
    control = Control()
    changes, schema = ordered(events, control)
    return Transaction(events[0].xid, max(e.number for e in events), changes, schema, rights=control.rights)


def ordered(events: Iterable[Change], control: Control | None = None) -> tuple[list[Change], list[Table]]:
    """The row changes and TRUNCATEs in order, and the tables that need a `reset: schema`. `control` takes out what is
    no change."""
    events = sorted(events, key=_LOGGED)
    marked = any(e.mark is not None for e in events)
    mixed = len(events) > 1 and {e.op for e in events} not in ({"I"}, {"D"})  # else no two are of one row
    queries = _queries(events) if marked or mixed else {}
    events, schema = (control or Control()).take_out(_by_mark(events, queries) if marked else events)
    return chained(_untangled(events, queries)) if mixed else events, schema


def _queries(events: list[Change]) -> Queries:
    """What one query did was logged by consecutive commands, except where a trigger of the application wrote in
    between, and there equal marks tell."""
    queries: Queries = {}
    marks: dict[tuple[int, int, int], int] = {}
    before, query = events[0], events[0].number
    for e in events:
        if not _consecutive(before, e):
            query = e.number
        before = e
        queries[id(e)] = query if e.mark is None else marks.setdefault((e.table.relid, e.mark, e.depth), query)
    return queries


def _consecutive(before: Change, after: Change) -> bool:
    """Whether one query logged both: between two queries lies the command that is the second. Before an UPDATE of
    several rows (n from 1 on) lies one that wrote nothing."""
    if before.number == after.number:
        return True
    if before.command is None or after.command is None or before.depth != after.depth:
        return False
    return after.command - before.command - (after.n > 0) in (0, 1)


def _by_mark(events: list[Change], queries: Queries) -> list[Change]:
    """A query bears the lowest mark of its events. What has none stays in its place."""
    lowest: dict[int, int] = {}
    for e in events:
        if e.mark is not None:
            query = queries[id(e)]
            lowest[query] = min(e.mark, lowest.get(query, e.mark))
    marked = [e for e in events if queries[id(e)] in lowest]
    following = iter(sorted(marked, key=lambda e: (lowest[queries[id(e)]], e.depth, e.number, e.n)))
    return [next(following) if queries[id(e)] in lowest else e for e in events]


def _untangled(events: list[Change], queries: Queries) -> list[Change]:
    """Where a query gives a key to another row than before, what removes it comes first. Rows that change their key are
    split for that: in a circle of keys no order of whole changes would do."""
    groups: defaultdict[tuple[int, int], list[Change]] = defaultdict(list)
    for e in events:
        if e.op in _ROWS and e.table.key:
            groups[e.table.relid, queries[id(e)]].append(e)
    moved: dict[int, list[Change]] = {}
    for group in groups.values():
        order = _removals_first(group)
        if order:
            for place, change in zip(group, order, strict=False):
                moved[id(place)] = [change]
            moved[id(group[-1])] += order[len(group) :]
    return [change for e in events for change in moved.get(id(e), (e,))] if moved else events


def _removals_first(group: list[Change]) -> list[Change] | None:
    """DELETEs, UPDATEs, INSERTs, where one of these rows takes a key that another gives up. An UPDATE of a row that has
    come to its key is a cascade's, and so last."""
    if len(group) < 2:
        return None
    moved = [e for e in group if e.op == "U" and old_key(e) != new_key(e)]
    lost = {old_key(e) for e in group if e.op == "D"} | {old_key(e) for e in moved}
    if not lost or lost.isdisjoint([*(new_key(e) for e in group if e.op == "I"), *map(new_key, moved)]):
        return None
    split = {id(e) for e in moved}
    gone = [half(e, "D") if id(e) in split else e for e in group if e.op == "D" or id(e) in split]
    kept = [e for e in group if e.op == "U" and id(e) not in split]
    come = [half(e, "I") if id(e) in split else e for e in group if e.op == "I" or id(e) in split]
    keys = {new_key(e) for e in come}
    return gone + [e for e in kept if new_key(e) not in keys] + come + [e for e in kept if new_key(e) in keys]
