"""Units as they were sent, for others who need the same: thousands of clients with the same channels come back at once.

Invariant: at most `limit` bytes are kept, the least used go first.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from app.hub import Channel
from app.position import Snapshot
from app.wire import Message

ENCODED_BYTES: Final = 16 << 20
FRAMINGS: Final = 3  # of one message: JSON, WebSocket, event stream

# What a unit says depends on where it begins and ends, and on the channels that hear it.
Key = tuple[Snapshot, Snapshot, tuple[Channel, ...]]


class Encoded:
    def __init__(self, limit: int = ENCODED_BYTES) -> None:
        self._limit = limit
        self.restart()

    def restart(self) -> None:
        """Forget everything: the positions in it are minted otherwise now."""
        self._units: OrderedDict[Key, list[Message]] = OrderedDict()
        self.size = 0

    def unit(self, key: Key, made: Iterable[Message]) -> list[Message]:
        """The messages of a unit that are kept, else `made`, which is asked for them only then."""
        known = self._units.get(key)
        if known is None:
            known = self._units[key] = list(made)
            self.size += _size(known)
            while self.size > self._limit and len(self._units) > 1:
                self.size -= _size(self._units.popitem(last=False)[1])
        self._units.move_to_end(key)
        return known


def _size(messages: list[Message]) -> int:
    return sum(FRAMINGS * len(message.json) + 500 for message in messages)
