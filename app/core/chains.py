"""The rows' own word about the order of their changes: what a change has as `old` is what the change before left.

Where the order told by the log contradicts that it is wrong. Then the changes of each key are put in a row of their
own, by following old → new, and all keys' rows are merged; a change that takes a row from one key to another is split
where no order of whole changes would do. A TRUNCATE is never moved, and nothing is moved over it. What no chain can
explain (rows changed behind the triggers) stays where it was. Pure functions, linear but for the sorting.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Final, NamedTuple

from app.model.change import Change, Values

Node = bytes | None  # a row, or none
Place = tuple[int, int, Values | None]  # table, TRUNCATEs of it before, key
_UNKNOWN: Final = b"?"  # no row is that


class Step(NamedTuple):
    """What a change does at one key."""

    place: int
    change: Change
    old: Node
    new: Node


def chained(events: list[Change]) -> list[Change]:
    """The events, moved where they contradict each other."""
    broken, places = _broken(events)
    if not broken:
        return events
    moved: dict[int, list[Change]] = {}
    for group in _rows(events, places, broken):
        order = _solved(group, places)
        for place, change in zip(group, order, strict=False):
            moved[id(place)] = [change]
        moved[id(group[-1])] += order[len(group) :]
    return [change for e in events for change in moved.get(id(e), (e,))]


def _broken(events: list[Change]) -> tuple[set[Place], dict[int, list[Place]]]:
    """The keys at which an `old` is not what was there, or a new row meets another; and each event's keys."""
    truncates: defaultdict[int, int] = defaultdict(int)
    there: dict[Place, Node] = {}
    broken: set[Place] = set()
    places: dict[int, list[Place]] = {}
    for e in events:
        relid = e.table.relid
        if e.op == "T":
            truncates[relid] += 1
        if e.op not in "IUD" or not e.table.key:
            continue
        count = truncates[relid]
        unknown = None if count else _UNKNOWN
        source = (relid, count, old_key(e)) if e.old is not None else None
        target = (relid, count, new_key(e)) if e.new is not None else None
        places[id(e)] = [p for p in (source, target if target != source else None) if p is not None]
        if source is not None:
            found = there.get(source, unknown)
            if found != e.old and found != _UNKNOWN:
                broken.add(source)
            there[source] = None
        if target is not None:
            if there.get(target) is not None:
                broken.add(target)
            there[target] = e.new
    return broken, places


def _rows(events: list[Change], places: dict[int, list[Place]], broken: set[Place]) -> list[list[Change]]:
    """The events grouped by row, those that share a key being about one row; only groups with a broken key."""
    parent: dict[Hashable, Hashable] = {}

    def find(node: Hashable) -> Hashable:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = node = parent[above]
        return node

    for found in places.values():
        for place in found[1:]:
            parent[find(place)] = find(found[0])
    wanted = {find(place) for place in broken}
    groups: defaultdict[Hashable, list[Change]] = defaultdict(list)
    for e in events:
        if id(e) in places and (root := find(places[id(e)][0])) in wanted:
            groups[root].append(e)
    return list(groups.values())


def _solved(group: list[Change], places: dict[int, list[Place]]) -> list[Change]:
    """The group in an order in which each key's changes are a chain; as it was where there is none."""
    emptied = places[id(group[0])][0][1] > 0
    for changes in (group, _split(group)):
        order = _merged(changes, _sequences(changes, emptied=emptied))
        if order is not None:
            return order
    return group


def _split(group: list[Change]) -> list[Change]:
    return [part for e in group for part in ((half(e, "D"), half(e, "I")) if moves(e) else (e,))]


def _sequences(changes: list[Change], *, emptied: bool) -> Iterator[list[int]]:
    """For each key the order of its changes, and that of the two halves of one."""
    steps: defaultdict[Values | None, list[Step]] = defaultdict(list)
    halves: dict[str, int] = {}
    for index, e in enumerate(changes):
        if moves(e):
            steps[old_key(e)].append(Step(index, e, e.old, None))
            steps[new_key(e)].append(Step(index, e, None, e.new))
        else:
            steps[new_key(e) if e.old is None else old_key(e)].append(Step(index, e, e.old, e.new))
        if e.half:
            identity = e.id[:-1]
            if identity in halves:
                yield sorted((halves[identity], index), key=lambda i: changes[i].half)
            halves[identity] = index
    for found in steps.values():
        yield [step.place for step in _trail(found, emptied=emptied)]


def _merged(changes: list[Change], sequences: Iterator[list[int]]) -> list[Change] | None:
    """One order that keeps all of these, as near to the one there is as can be; None where they contradict."""
    after: defaultdict[int, list[int]] = defaultdict(list)
    waits = [0] * len(changes)
    for sequence in sequences:
        for first, second in pairwise(sequence):
            after[first].append(second)
            waits[second] += 1
    ready = [i for i, n in enumerate(waits) if n == 0]
    heapify(ready)
    order: list[Change] = []
    while ready:
        index = heappop(ready)
        order.append(changes[index])
        for following in after[index]:
            waits[following] -= 1
            if waits[following] == 0:
                heappush(ready, following)
    return order if len(order) == len(changes) else None


def _trail(steps: list[Step], *, emptied: bool) -> Sequence[Step]:
    """Follow old → new through every step once (an Eulerian trail); unchanged where no such trail can be true."""
    if _is_chain(steps):
        return steps
    balance: defaultdict[Node, int] = defaultdict(int)
    for step in steps:
        balance[step.old] += 1
        balance[step.new] -= 1
    starts = [node for node, surplus in balance.items() if surplus > 0]
    if len(starts) > 1 or any(surplus > 1 for surplus in balance.values()):
        return steps
    for first in starts or ([None] if emptied else _first(steps)):
        trail = _walk(steps, first)
        if len(trail) == len(steps) and _is_chain(trail) and (starts or _nests(steps, trail)):
            return trail
    return steps


def _is_chain(steps: Sequence[Step]) -> bool:
    return all(before.new == after.old for before, after in pairwise(steps))


def _first(steps: list[Step]) -> Iterator[Node]:
    """Where a circle may begin: with what was logged first, or with a statement around that."""
    depth = steps[0].change.depth + 1
    for step in steps:
        if step.change.depth < depth:
            depth = step.change.depth
            yield step.old


def _walk(steps: list[Step], first: Node) -> list[Step]:
    leaving: defaultdict[Node, list[Step]] = defaultdict(list)
    for step in reversed(steps):
        leaving[step.old].append(step)
    stack: list[tuple[Node, Step | None]] = [(first, None)]
    trail: list[Step] = []
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


def _nests(steps: list[Step], trail: list[Step]) -> bool:
    """Whether only nested statements come after what was logged after them: that a statement around them came first."""
    logged = {step.place: i for i, step in enumerate(steps)}
    latest: dict[int, int] = {}
    for step in trail:
        depth, at = step.change.depth, logged[step.place]
        if any(other > at for deeper, other in latest.items() if deeper >= depth):
            return False
        latest[depth] = max(latest.get(depth, 0), at)
    return True


def moves(event: Change) -> bool:
    """Whether it takes its row to another key."""
    return event.op == "U" and old_key(event) != new_key(event)


def half(event: Change, op: str) -> Change:
    """One half of an UPDATE: that its row left (D), or that it came (I)."""
    made = replace(event, op=op, half=op.lower())
    if op == "D":
        made.new = made.new_values = None
    else:
        made.old = made.old_values = None
    return made


def old_key(event: Change) -> Values | None:
    return event.old_values[: len(event.table.key)] if event.old_values is not None else None


def new_key(event: Change) -> Values | None:
    return event.new_values[: len(event.table.key)] if event.new_values is not None else None
