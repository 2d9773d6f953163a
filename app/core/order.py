"""The order of changes inside one transaction: what happened first comes first, for every row.

Statement triggers log a nested statement before the outer one. Two things mend it: a mark drawn before the statement,
where the table has one; and a chain check, per row each `old` must be the `new` before it. Where a statement hands one
row's key to another, its changes are split, DELETEs first. Pure functions.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby, pairwise

from app.core.control import Control
from app.model.change import ACTIONS, Change, Table, Transaction, Values

Node = bytes | None


def transaction(events: list[Change]) -> Transaction:
    """Put one transaction's events (any order) in order. `events` is not empty, and given away."""
    if len(events) == 1:  # most transactions, on the hottest path there is
        (event,) = events
        if event.op in ACTIONS:
            return Transaction(event.xid, event.number, events)
    changes, schema = ordered(events)
    return Transaction(events[0].xid, max(e.number for e in events), changes, schema)


def ordered(events: Iterable[Change]) -> tuple[list[Change], list[Table]]:
    """The row changes and TRUNCATEs in order, and the tables that need a `reset: schema`."""
    events = sorted(events, key=lambda e: (e.number, e.n))
    if any(e.mark is not None for e in events):
        events = _by_mark(events)
    if any(e.depth > 1 for e in events):
        events = _chained(events)
    events, schema = Control().take_out(events)
    return _untangled(events), schema


def _rearranged(events: list[Change], chosen: list[Change], order: list[Change]) -> list[Change]:
    """Put `order`, a permutation of the `chosen` among the events, in the places that those have; the others stay."""
    members = {id(e) for e in chosen}
    following = iter(order)
    return [next(following) if id(e) in members else e for e in events]


def _by_mark(events: list[Change]) -> list[Change]:
    marked = [e for e in events if e.mark is not None]
    return _rearranged(events, marked, sorted(marked, key=lambda e: (e.mark, e.depth, e.number, e.n)))


def _chained(events: list[Change]) -> list[Change]:
    for group in _rows(events):
        if not _fits(group):
            events = _rearranged(events, group, _trail(group))
    return events


def _rows(events: list[Change]) -> list[list[Change]]:
    """Events grouped by row: those that share a key, before or after, are about one row."""
    parent: dict[Hashable, Hashable] = {}

    def find(node: Hashable) -> Hashable:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    keyed = [e for e in events if e.op in "IUD" and e.table.key]
    for e in keyed:
        keys = [(e.table.relid, k) for k in (old_key(e), new_key(e)) if k is not None]
        for key in keys[1:]:
            parent[find(key)] = find(keys[0])
    groups: defaultdict[Hashable, list[Change]] = defaultdict(list)
    for e in keyed:
        groups[find((e.table.relid, new_key(e) or old_key(e)))].append(e)
    return [group for group in groups.values() if len(group) > 1]


def _fits(group: Iterable[Change]) -> bool:
    """Whether each statement finds its rows' `old` where the ones before have put them, and its new keys free."""
    there: dict[Values | None, Node] = {}
    for _, statement in groupby(group, key=lambda e: e.number):
        rows = list(statement)
        for e in rows:
            key = old_key(e)
            if key is not None and there.get(key, e.old) != e.old:
                return False
            there[key] = None
        for e in rows:
            key = new_key(e)
            if key is not None:
                if there.get(key) is not None:
                    return False
                there[key] = e.new
    return True


def _trail(group: list[Change]) -> list[Change]:
    """Follow old → new through every event once (an Eulerian trail); unchanged where no such trail can be true."""
    balance: defaultdict[Node, int] = defaultdict(int)
    for e in group:
        balance[e.old] += 1
        balance[e.new] -= 1
    starts = [node for node, surplus in balance.items() if surplus > 0]
    if len(starts) > 1 or any(surplus > 1 for surplus in balance.values()):
        return group
    for first in starts or _first(group):
        trail = _walk(group, first)
        if len(trail) == len(group) and _is_chain(trail) and _fits(trail) and (starts or _nests(group, trail)):
            return trail
    return group


def _first(group: list[Change]) -> Iterator[Node]:
    """Where a circle may begin: with what was logged first, or with a statement around that."""
    depth = group[0].depth + 1
    for e in group:
        if e.depth < depth:
            depth = e.depth
            yield e.old


def _walk(group: list[Change], first: Node) -> list[Change]:
    leaving: defaultdict[Node, list[Change]] = defaultdict(list)
    for e in reversed(group):
        leaving[e.old].append(e)
    stack: list[tuple[Node, Change | None]] = [(first, None)]
    trail: list[Change] = []
    while stack:
        node, edge = stack[-1]
        if leaving[node]:
            following = leaving[node].pop()
            stack.append((following.new, following))
        else:
            stack.pop()
            if edge is not None:
                trail.append(edge)
    return trail[::-1]


def _is_chain(group: list[Change]) -> bool:
    return all(before.new == after.old for before, after in pairwise(group))


def _nests(group: list[Change], trail: list[Change]) -> bool:
    """Whether only nested statements come after what was logged after them: that a statement around them came first."""
    logged = {id(e): i for i, e in enumerate(group)}
    latest: dict[int, int] = {}
    for e in trail:
        if any(at > logged[id(e)] for depth, at in latest.items() if depth >= e.depth):
            return False
        latest[e.depth] = max(latest.get(e.depth, 0), logged[id(e)])
    return True


def _untangled(events: list[Change]) -> list[Change]:
    """Split the key changes of a statement in which one row takes a key that another gives up."""
    if len(events) < 2 or not any(e.op == "U" for e in events):
        return events
    result: list[Change] = []
    for _, statement in groupby(events, key=lambda e: (e.table.relid, e.number)):
        rows = list(statement)
        moved = [e for e in rows if e.op == "U" and e.table.key and old_key(e) != new_key(e)]
        if len(moved) > 1 and {old_key(e) for e in moved} & {new_key(e) for e in moved}:
            split = {id(e) for e in moved}
            kept = [e for e in rows if id(e) not in split]
            result += [_half(e, "D") for e in moved] + kept + [_half(e, "I") for e in moved]
        else:
            result += rows
    return result


def _half(event: Change, op: str) -> Change:
    half = replace(event, op=op, half=op.lower())
    if op == "D":
        half.new = half.new_values = None
    else:
        half.old = half.old_values = None
    return half


def old_key(event: Change) -> Values | None:
    return event.old_values[: len(event.table.key)] if event.old_values is not None else None


def new_key(event: Change) -> Values | None:
    return event.new_values[: len(event.table.key)] if event.new_values is not None else None
