"""What each channel sees of some transactions, found without going through them again for everyone who asks.

Invariant: for each set of channels the same changes, forms and order as `Hub.seen` has for the whole hub.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from app.change import Change, Form, Transaction, Values
from app.hub import Channel, chosen, ordered

Seen = tuple[Change, Channel, Form]
_Key = tuple[int, tuple[str, ...], Values]


class Index:
    def __init__(self, transactions: Iterable[Transaction]) -> None:
        self._entries: defaultdict[_Key, list[tuple[int, Change, Form]]] = defaultdict(list)
        self._emptied: defaultdict[int, list[tuple[int, Change, Form]]] = defaultdict(list)
        for number, (change, key, form) in enumerate(ordered(transactions, _keys)):
            if change.op == "T":
                self._emptied[change.table.relid].append((number, change, form))
            else:
                self._entries[key].append((number, change, form))

    def seen(self, channels: Iterable[Channel]) -> list[Seen]:
        """In order."""
        found = []
        for channel in channels:
            entries = self._entries.get((channel.relid, channel.route, channel.values))
            if entries is not None:
                found += [(number, change, channel, form) for number, change, form in entries]
            if channel.relid in self._emptied:
                found += [(number, change, channel, form) for number, change, form in self._emptied[channel.relid]]
        found.sort(key=_number)
        return [(change, channel, form) for _, change, channel, form in found]


def _keys(change: Change) -> Sequence[tuple[_Key, Form]]:
    """Every channel that may see this change, whether or not there is one: as `Hub.matches`."""
    relid = change.table.relid
    found: list[tuple[_Key, Form]] = [((relid, (), ()), Form.WHOLE)]
    entered: list[tuple[_Key, Form]] = []
    for route, picks in change.table.picks.items() if change.op != "T" else ():
        old, new = chosen(change.old_values, picks), chosen(change.new_values, picks)
        moved = old is not None and new is not None and old != new
        if old is not None and (moved or new is None):
            found.append(((relid, route, old), Form.LEAVE if moved else Form.WHOLE))
        if new is not None:
            entered.append(((relid, route, new), Form.ENTER if moved else Form.WHOLE))
    return found + entered


def _number(found: tuple[int, Change, Channel, Form]) -> int:
    return found[0]
