"""What each channel sees of some transactions, found without going through them again for each client that asks.

Invariants
- For each set of channels an index gives the same changes, forms and order as `Hub.seen` gives for the whole hub.
- The changes are sorted by a route's values when the first channel of that route asks, and not before.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from operator import itemgetter

from app.core.audience import Channel
from app.core.routing import empties, statement, views
from app.model.change import Change, Form, Table, Transaction, Values
from app.model.channel import Topic

Seen = tuple[Change, Channel, Form]
# By which what a channel sees is sorted: the number of the statement, whether the row stays in the channel (those that
# leave it come first), the place of the change, the rank of the channel's route.
_Order = tuple[int, bool, int, int]
_Entry = tuple[_Order, Change, Form]
_Placed = tuple[int, int, Change]  # statement, place
_ORDER = itemgetter(0)


class Index:
    def __init__(self, transactions: Iterable[Transaction]) -> None:
        self._changes: defaultdict[Topic, list[_Placed]] = defaultdict(list)  # by topic
        self._emptied: defaultdict[Topic, list[_Entry]] = defaultdict(list)
        self._routes: dict[tuple[Topic, tuple[str, ...]], dict[Values, list[_Entry]]] = {}
        number = place = 0
        for transaction in transactions:
            last = None
            for change in transaction.changes:
                if (this := statement(change)) != last:
                    last, number = this, number + 1
                place += 1
                if empties(change):
                    self._emptied[change.table.relid].append(((number, True, place, 0), change, Form.WHOLE))
                else:
                    self._changes[change.table.relid].append((number, place, change))

    def seen(self, channels: Collection[Channel]) -> list[Seen]:
        """What these channels see, in order."""
        found: list[tuple[_Order, Change, Channel, Form]] = []
        for channel in channels:
            if channel.topic in self._changes:
                entries = self._route(channel.topic, channel.route).get(channel.values, ())
                found += [(order, change, channel, form) for order, change, form in entries]
            if channel.topic in self._emptied:
                found += [(order, change, channel, form) for order, change, form in self._emptied[channel.topic]]
        found.sort(key=_ORDER)
        return [(change, channel, form) for _, change, channel, form in found]

    def _route(self, topic: Topic, route: tuple[str, ...]) -> dict[Values, list[_Entry]]:
        """What each channel of the route sees, by its values."""
        found = self._routes.get((topic, route))
        if found is None:
            changes = self._changes[topic]
            whole: list[_Entry] = [] if route else [((s, True, p, 0), change, Form.WHOLE) for s, p, change in changes]
            found = self._routes[topic, route] = _routed(changes, route) if route else {(): whole}
        return found


def _routed(changes: Iterable[_Placed], route: tuple[str, ...]) -> dict[Values, list[_Entry]]:
    """What every channel of the route sees, whether or not there is one."""
    found: defaultdict[Values, list[_Entry]] = defaultdict(list)
    table: Table | None = None
    picks: tuple[int, ...] | None = None
    rank = 0
    for number, place, change in changes:
        if change.table is not table:
            table = change.table
            picks = table.picks.get(route)
            rank = 1 + list(table.picks).index(route) if picks is not None else 0
        if picks is not None:
            for values, form in views(change, picks):
                found[values].append(((number, form is not Form.LEAVE, place, rank), change, form))
    return found
